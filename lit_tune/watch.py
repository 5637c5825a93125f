"""A closer look at a run on the steps that are logged: block statistics, and what grows."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from lit_tune import device_resize, errors, sharding, tree
from lit_tune.forward import Batch
from lit_tune.models import two_towers
from lit_tune.models.functional import Tower
from lit_tune.step import Built

PICTURES = 8  # of the batch that block statistics are taken on: a look, not a measurement
GROWTH = 4.0  # a block's rms or largest logit this many times its first value is worth a warning
SMALL_LOGIT = 1.0  # growth of logits counts from here: attention is near uniform below
RUNAWAY = 100.0  # exp(logit_scale) above this is unusual: CLIP's clamp
SITS = 10  # steps at the clamp that are worth a warning
LOSS_RISE = 1.0  # so much above its first value, in nats, is a spike and not the noise of a batch


def block_stats(built: Built, params: tree.Tree, batch: Batch, config: ConfigDict) -> dict[str, jax.Array]:
    """{"block_NN_rms", "block_NN_max_logit"}: size of the residual stream, largest attention logit; on the devices.

    Args:
        built: of the run.
        params: of the image tower.
        batch: the global batch; its first few pictures are looked at.
        config: of the run.
    """
    mesh = built.shardings[0]["step"].mesh
    crop = batch["crop"] if "crop" in batch else None
    return _block_stats(built.image_tower, params, batch["image"], crop, tuple(config.vision.image_size),
                        tuple(config.data.mean), tuple(config.data.std), config.dtype, mesh)


@functools.partial(jax.jit, static_argnums=(0, 4, 5, 6, 7, 8))
def _block_stats(tower: Tower, params: tree.Tree, image: jax.Array, crop: jax.Array | None, size: tuple[int, int],
                 mean: tuple, std: tuple, dtype: str, mesh: jax.sharding.Mesh) -> dict:
    few = image[:PICTURES]
    few = few if crop is None else device_resize.resize(few, crop[:PICTURES], size)
    pixels = two_towers.normalize_pixels(few, mean, std)
    stats = tower.apply(params, pixels, dtype=jnp.dtype(dtype), method="block_stats")
    named = {f"block_{i:02}_{name}": value for name, row in stats.items() for i, value in enumerate(row)}
    # with several processes each can read only what it has whole
    return jax.lax.with_sharding_constraint(named, sharding.replicated(mesh))


class Temperature:
    """Tells once of a temperature exp(logit_scale) that stays at its clamp, or that grows without one."""

    def __init__(self, scale_max: float, saved: Mapping[str, Any] | None) -> None:
        """Takes up where a run stopped.

        Args:
            scale_max: `config.loss.logit_scale_max`; 0: no clamp.
            saved: what `record` gave for the checkpoint that the run resumes from; None: its start.
        """
        self._max = scale_max
        self._told: bool = saved["told"] if saved else False
        self._steps: int = saved["steps"] if saved else 0  # above the limit, one after the other

    def look(self, scale: float) -> str:
        """The warning that is due after a step with this exp(logit_scale); else ""."""
        limit = self._max * (1 - 1e-5) if self._max else RUNAWAY  # exp and log round
        self._steps = self._steps + 1 if scale >= limit else 0
        if self._told or self._steps < (SITS if self._max else 1):
            return ""
        self._told = True
        if self._max:
            return errors.explain("logit_scale", expected=f"exp of it below the clamp of {self._max:g}",
                                  found=f"at the clamp for {SITS} steps",
                                  do="usual late in a long run; early, lower config.optim.lr, or look for copies among "
                                     "the pairs")
        return errors.explain("logit_scale", expected=f"exp of it at most {RUNAWAY:g}", found=f"{scale:.4g}, no clamp",
                              do="set config.loss.logit_scale_max=100 in a new --workdir if the loss gets unsteady")

    def record(self) -> dict[str, Any]:
        """What a checkpoint has to carry."""
        return {"told": self._told, "steps": self._steps}


class Growth:
    """Lines about a run from trained weights that leaves them: statistics of blocks or a loss far above the first.

    What grows within the first few hundred steps mostly ends in a spike; every block and kind is named once.
    """

    def __init__(self, past: Iterable[Mapping[str, Any]]) -> None:
        """Takes up where a run stopped.

        Args:
            past: the lines of its metrics.jsonl so far, none at its start.
        """
        self._first: dict[str, float] = {}
        self._warned: set[str] = set()
        for line in past:
            if line["kind"] == "train":
                self.look(line)

    def look(self, values: Mapping[str, Any]) -> list[str]:
        """The new warnings about the values of a log line, by their names in metrics.jsonl."""
        warnings = []
        for name, value in values.items():
            kind = name.rpartition("_")[2] if name.startswith("train/block_") else name
            if kind not in ("rms", "logit", "train/loss") or isinstance(value, str):  # nan is stored as a string
                continue
            first = self._first.setdefault(name, value)
            floor = SMALL_LOGIT if kind == "logit" else 0.0
            limit = first + LOSS_RISE if kind == "train/loss" else GROWTH * max(first, floor)
            if value > limit and name not in self._warned:
                self._warned.add(name)
                warnings.append(errors.explain(
                    name.removeprefix("train/"), expected=f"at most {limit:.4g} (it began at {first:.4g})",
                    found=f"{value:.4g}", do="if the run gets worse, lower config.optim.lr or lengthen warmup_steps"))
        return warnings
