"""Weights of another tower for a new run to start from."""

import re
import sys
from pathlib import Path

import jax
import numpy as np

from lit_tune import tower
from lit_tune.convert import timm
from lit_tune.errors import ConfigError, explain
from lit_tune.models.eva02 import Eva02Spec
from lit_tune.models.functional import Tower
from lit_tune.tree import Tree, flatten, unflatten

# Fields of a spec that decide what trunk weights mean although shapes may agree without them.
TRUNK = ("patch_size", "width", "depth", "num_heads", "mlp_dim", "qkv_bias", "sub_ln", "attn_inner_norm",
         "class_token", "pos_embed", "rope", "rope_theta", "norm_eps")  # fmt: skip
TOP = ("attn_pool", "head", "norm", "fc_norm")  # what may be absent from weights to start from: it starts at random


def load_vision_params(init_from: str, target: Tower) -> Tree:
    """Parameters for `target` to start from, taken from another run, an export or a timm folder.

    What stands above the trunk there and not here is left out; what is only here starts at random, and a line says so.

    Args:
        init_from: a run directory, an export, a folder with timm's config.json and model.safetensors, or that file.
        target: the vision tower of the new run.

    Raises:
        ConfigError: nothing of the kind, or another trunk.
    """
    params, spec = _other_tower(Path(init_from).expanduser())
    differ = [name for name in TRUNK if getattr(spec, name) != getattr(target.spec, name)]
    if differ:
        found, expected = (f"{differ[0]} {getattr(one, differ[0])}" for one in (spec, target.spec))
        raise ConfigError(explain(f"vision.init_from {init_from}", expected=expected, found=found,
                                  do="start from the same trunk, or change config.vision"))
    named, wanted = flatten(params), flatten(target.abstract())
    other = sorted(name for name, leaf in wanted.items() if name in named and named[name].shape != leaf.shape)
    # A key bias that only this run trains starts at zero, as contrastors converts timm's weights.
    named |= {name: np.zeros(leaf.shape, np.float32) for name, leaf in wanted.items()
              if name not in named and re.fullmatch(r"blocks/\d+/attn/k/bias", name)}
    missing = sorted(name for name in wanted if name not in named)
    fatal = other + [name for name in missing if name.split("/")[0] not in TOP]
    if fatal:
        found = f"{fatal[0]} {named[fatal[0]].shape if fatal[0] in named else 'missing'}"
        raise ConfigError(explain(f"vision.init_from {init_from}", expected=f"{wanted[fatal[0]].shape}", found=found,
                                  do="start from weights of the same image size, pooling and width"))
    if missing:
        fresh = flatten(target.init(jax.random.key(0)))
        named |= {name: fresh[name] for name in missing}
        parts = ", ".join(sorted({name.split("/")[0] for name in missing}))
        print(f"lit_tune: {init_from} has no {parts}: random numbers there", file=sys.stderr, flush=True)
    return unflatten({name: named[name] for name in wanted})


def _other_tower(path: Path) -> tuple[Tree, Eva02Spec]:
    """(parameters, spec) of a vision tower that lies in a run, an export or a timm folder."""
    if tower.is_model(path):
        vision = tower.load(path).vision
        return vision.params, vision.tower.spec
    folder = path.parent if path.is_file() else path
    if not (folder / timm.CONFIG).is_file():
        raise ConfigError(explain("vision.init_from", expected="a run, an export, or timm's config.json beside weights",
                                  found=f"none at {path}", do="check the path"))
    params, spec, _ = timm.load(folder)
    return params, spec
