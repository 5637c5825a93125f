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
