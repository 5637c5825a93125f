"""A closer look at a run on the steps that are logged: block statistics, arithmetic, numbers that went wrong."""

import functools

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from lit_tune import errors, tree
from lit_tune.models import two_towers
from lit_tune.models.functional import Tower
from lit_tune.step import Built

PICTURES = 8  # of the batch that block statistics are taken on: a look, not a measurement


def block_stats(built: Built, params: tree.Tree, image: jax.Array, config: ConfigDict) -> dict[str, float]:
    """{"train/block_NN_rms", "train/block_NN_max_logit"}: the residual stream's size and the largest attention logit.

    Args:
        built: of the run.
        params: of the image tower.
        image: the global batch's pictures, uint8 (b, h, w, 3); the first few are looked at.
        config: of the run.
    """
    stats = jax.device_get(_block_stats(built.image_tower, params, image, tuple(config.data.mean),
                                        tuple(config.data.std), config.dtype))
    return {f"train/block_{i:02}_{name}": float(value) for name, row in stats.items() for i, value in enumerate(row)}


@functools.partial(jax.jit, static_argnums=(0, 3, 4, 5))
def _block_stats(tower: Tower, params: tree.Tree, image: jax.Array, mean: tuple, std: tuple, dtype: str) -> dict:
    pixels = two_towers.normalize_pixels(image[:PICTURES], mean, std)
    return tower.apply(params, pixels, dtype=jnp.dtype(dtype), method="block_stats")


def flops_per_pair(config: ConfigDict) -> float:
    """Multiply-adds x 2 of one training pair: forward and backward of the image tower, text vectors ready.

    Three times the forward pass: the backward pass computes a product for the input and one for the weight of each
    forward product. Norms, softmax and the loss (under 1 %) are left out, and the backward pass of frozen blocks.
    """
    v = config.vision
    patches = (v.image_size[0] // v.patch_size) * (v.image_size[1] // v.patch_size)
    n = patches * (1 - v.patch_dropout) + v.class_token
    block = 2 * n * (4 * v.width**2 + 3 * v.width * v.mlp_dim) + 4 * n**2 * v.width
    patch = 2 * patches * v.patch_size**2 * 3 * v.width
    head = 2 * n * 2 * v.width**2 if v.pool in ("map", "nomic") else 0
    frozen = optim.frozen_blocks(config)
    forward, still = v.depth * block + patch + head, frozen * block + (patch if frozen else 0)
    return 3 * forward - 2 * still


def check_numbers(step: int, skipped: float, steps: int) -> None:
    """Nothing, unless every one of the last steps was skipped.

    Args:
        step: steps trained so far.
        skipped: how many of the last `steps` were skipped.
        steps: how many steps to look back.

    Raises:
        NumbersError: all of at least three steps were skipped.
    """
    if steps >= 3 and skipped >= steps:
        raise errors.NumbersError(errors.explain(
            f"steps {step - steps} to {step - 1}", expected="finite loss and gradients", found="none of them finite",
            do=f"lower config.optim.lr, or leave the batches out with --skip_batches={step - steps}:{step}"))
