"""Weights of one tower as the start of another of the same trunk: other patch size, picture size, pooling, biases."""

import dataclasses
import re
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from lit_tune.convert import resample
from lit_tune.errors import ConfigError, explain
from lit_tune.models.two_towers import family_of, tower_of
from lit_tune.tree import Tree, flatten, unflatten

# Fields of a spec in which the two may differ. All others decide what the trunk's weights mean, although shapes may
# agree without them.
FREE = ("image_size", "patch_size", "pos_embed_grid", "rope_reference_grid", "qkv_fused", "key_bias", "sub_ln_eps",
        "pool", "pool_mlp_dim", "pool_norm_eps", "final_norm", "norm_after_pool", "embed_dim", "embed_bias",
        "embed_square")  # fmt: skip
TOP = ("attn_pool", "head", "norm", "fc_norm")  # parts that may be absent: they start at random
KEY_BIAS = r"blocks/\d+/attn/k/bias"


def adapt(params: Tree, spec: Any, target_spec: Any, how: str = "bicubic") -> Tree:
    """Parameters for `target_spec`, float32, from those of another tower of the same trunk; stderr says what changed.

    The patch kernel is resampled to another patch size and the position table to another grid. Rotary positions are the
    target's: they have no weights. The final norm goes where the target has it, on the tokens or on the pooled vector
    (timm moves it between the two in the same way), and is dropped where there is none. A key bias that only the target
    has starts at 0, as contrastors converts timm's weights. Pooling and projection of another kind, and what only the
    target has, start at random.

    Args:
        params: of the tower to start from.
        spec: its architecture.
        target_spec: the architecture of the result.
        how: bicubic (BAAI's script, the paper's start) | pinv (timm's way); see `resample`.

    Raises:
        ConfigError: another trunk, or a part whose shape cannot be made to fit.
    """
    _check_trunk(spec, target_spec)
    named = {name: np.asarray(leaf) for name, leaf in flatten(params).items()}
    wanted = flatten(tower_of(target_spec).abstract())
    _resample(named, spec, target_spec, how)
    _move_norm(named, wanted)
    _leave_out(named, wanted, same_pool=spec.pool == target_spec.pool)
    _add(named, wanted, target_spec)
    return unflatten({name: named[name] for name in wanted})


def at_image_size(spec: Any, image_size: Sequence[int]) -> Any:
    """The spec of the same tower that is shown pictures of another size: its stored position table stays as it is."""
    if spec.image_size == tuple(image_size):
        return spec
    return dataclasses.replace(spec, image_size=tuple(image_size), pos_embed_grid=spec.table_grid)


def _check_trunk(spec: Any, target: Any) -> None:
    """Refuse another family, or another value of a field that is not free."""
    facts = [("family", family_of(spec), family_of(target))]
    facts += [(field.name, getattr(spec, field.name), getattr(target, field.name))
              for field in dataclasses.fields(target) if type(spec) is type(target) and field.name not in FREE]
    for name, found, expected in facts:
        if found != expected:
            raise ConfigError(explain("weights to start from", expected=f"{name} {expected}", found=f"{name} {found}",
                                      do="start from the same trunk, or change config.vision"))


def _resample(named: dict[str, np.ndarray], spec: Any, target: Any, how: str) -> None:
    """Patch kernel, position table; and a word about rotary positions."""
    if spec.patch_size != target.patch_size:
        named["patch_embed/kernel"] = resample.patch_kernel(named["patch_embed/kernel"], target.patch_size, how)
        _say(f"patch kernel resampled from {spec.patch_size}x{spec.patch_size} to "
             f"{target.patch_size}x{target.patch_size} pixels ({how})")
    if spec.pos_embed and spec.table_grid != target.table_grid:
        named["pos_embed"] = resample.position_table(named["pos_embed"], spec.table_grid, target.table_grid, how)
        _say(f"position table resampled from {_by(spec.table_grid)} to {_by(target.table_grid)} patches ({how})")
    if hasattr(spec, "rope") and spec.rope:
        old, new = (s.grid if s.rope_reference_grid == (0, 0) else s.rope_reference_grid for s in (spec, target))
        if old != new:
            _say(f"rotary positions count on a grid of {_by(new)}, there on {_by(old)}")


def _move_norm(named: dict[str, np.ndarray], wanted: dict[str, Any]) -> None:
    """Rename the final norm where it acts on tokens here and on the pooled vector there, or the other way round."""
    for old, new in (("fc_norm", "norm"), ("norm", "fc_norm")):
        if f"{old}/scale" in named and f"{new}/scale" in wanted and f"{new}/scale" not in named:
            named |= {f"{new}/{part}": named.pop(f"{old}/{part}") for part in ("scale", "bias")}
            _say(f"final norm: {old} became {new}")
            return


def _leave_out(named: dict[str, np.ndarray], wanted: dict[str, Any], same_pool: bool) -> None:
    """Remove what the target does not have or has of another kind."""
    for name in [name for name in named if re.fullmatch(KEY_BIAS, name) and name not in wanted]:
        if np.any(named.pop(name)):  # turned by rotary positions, it does not cancel in the softmax
            raise ConfigError(explain("weights to start from", expected="no bias on the keys", found="a trained one",
                                      do="set config.vision.key_bias=true"))
    head = "head/kernel"
    other_head = head in named and (head not in wanted or named[head].shape != wanted[head].shape)
    removed = {"head"} if other_head else set()
    removed |= {"attn_pool"} if not same_pool else set()
    gone = {name for name in named if name.split("/")[0] in removed or name not in wanted}
    for name in gone:
        del named[name]
    kept = {name.split("/")[0] for name in named}
    parts = {name if name.split("/")[0] in kept else name.split("/")[0] for name in gone}
    if parts:
        _say(f"left out: {', '.join(sorted(parts))}")


def _add(named: dict[str, np.ndarray], wanted: dict[str, Any], target: Any) -> None:
    """Zeros for key biases, random numbers for parts above the trunk; every shape is then the target's."""
    named |= {name: np.zeros(leaf.shape, np.float32) for name, leaf in wanted.items()
              if name not in named and re.fullmatch(KEY_BIAS, name)}
    missing = [name for name in wanted if name not in named]
    for name, leaf in wanted.items():
        if name in missing and name.split("/")[0] in TOP:
            continue
        if name in missing or named[name].shape != leaf.shape:
            found = "nothing of that name" if name in missing else named[name].shape
            raise ConfigError(explain(f"weights to start from: {name}", expected=leaf.shape, found=found,
                                      do="start from weights of the same widths, or change config.vision"))
    if missing:
        fresh = flatten(tower_of(target).init(jax.random.key(0)))
        named |= {name: np.asarray(fresh[name]) for name in missing}
        _say(f"no {', '.join(sorted({name.split('/')[0] for name in missing}))} to start from: random numbers there")


def _by(grid: tuple[int, int]) -> str:
    """14x14."""
    return f"{grid[0]}x{grid[1]}"


def _say(line: str) -> None:
    """One line on stderr, on process 0."""
    if jax.process_index() == 0:
        print(f"lit_tune: start: {line}", file=sys.stderr, flush=True)
