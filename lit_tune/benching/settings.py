"""Which step or embedding is measured: a config of the caller's, or a size for this machine."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from lit_tune import config as config_lib
from lit_tune.planning.compiling import changed

BASE = "nomic_embed_vision_v1_5:best"  # EVA02-B/16 at 224 px; its MAP pooling is timm's too
SMALL = {"vision.width": 192, "vision.num_heads": 3, "vision.mlp_dim": 512, "vision.pool_mlp_dim": 512,
         "vision.image_size": (112, 112), "vision.rope_reference_grid": (0, 0), "global_batch": 16,
         "dtype": "float32"}  # fmt: skip
LARGE = {"global_batch": 256}


def default(platform: str, changes: Sequence[tuple[str, str]]) -> ConfigDict:
    """The config that is measured where none is named: small in float32 on a CPU, EVA02-B/16 in bfloat16 elsewhere.

    Args:
        platform: of the devices.
        changes: (dotted key, text) pairs of the command line.

    Raises:
        ConfigError: a change that does not fit.
    """
    size = SMALL if platform == "cpu" else LARGE
    return config_lib.load(BASE, [*((key, str(value)) for key, value in size.items()), *changes])


def measured(config: ConfigDict, batch: int | None, micro_batches: int | None, devices: int) -> ConfigDict:
    """A config as it is measured: text as vectors that are given, the batch and its parts where the flags say so.

    Raises:
        ConfigError: it cannot run, or not on so many devices.
    """
    flags = {"global_batch": batch, "micro_batches": micro_batches}
    config = changed(config, {"text.source": "cached"} | {key: value for key, value in flags.items() if value})
    config_lib.check_devices(config, devices)
    return config


def numbers(abstract: dict[str, jax.ShapeDtypeStruct], seed: int = 0) -> dict[str, np.ndarray]:
    """A batch of random numbers: pixels, unit text rows, captions that all differ.

    Args:
        abstract: shapes and dtypes, of `step.abstract_batch`.
        seed: of the numbers.
    """
    rng = np.random.default_rng(seed)
    batch = {name: _random(rng, leaf) for name, leaf in abstract.items() if name != "crop"}
    if "crop" in abstract:  # any that the canvases hold, some of them flipped
        canvas, count = abstract["image"].shape[1], abstract["crop"].shape[0]
        sizes, flips = rng.integers(1, canvas + 1, (count, 2)), rng.integers(0, 2, (count, 1))
        corners = rng.integers(0, canvas - sizes + 1)
        batch["crop"] = np.concatenate([corners, sizes, flips], axis=1).astype(np.int32)
    return batch


def _random(rng: np.random.Generator, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
    """An array of a batch."""
    if leaf.dtype == np.uint8:
        return rng.integers(0, 256, leaf.shape, np.uint8)
    if leaf.dtype == np.uint32:
        return rng.integers(0, 2**32, leaf.shape, np.uint32)
    rows = rng.standard_normal(leaf.shape, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def about(config: ConfigDict) -> dict[str, Any]:
    """What is measured, for the figures."""
    v = config.vision
    return {"family": v.family, "width": v.width, "depth": v.depth, "image_size": list(v.image_size),
            "patch_size": v.patch_size, "global_batch": config.global_batch, "micro_batches": config.micro_batches,
            "dtype": config.dtype, "remat": v.remat, "loss": config.loss.name}  # fmt: skip


def in_words(found: dict[str, Any]) -> str:
    """`about`, in one line."""
    height, width = found["image_size"]
    parts = f" in {found['micro_batches']:,} parts" if found["micro_batches"] > 1 else ""
    return (f"{found['family']} of width {found['width']}, depth {found['depth']}, {height}x{width} px, patches of "
            f"{found['patch_size']}, {found['global_batch']:,} pairs{parts}, {found['dtype']}")  # fmt: skip
