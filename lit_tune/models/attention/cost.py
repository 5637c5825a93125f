"""What the attention kernel costs, from its shapes: for the compiler's schedule, for its memory and for a plan."""

import math

import jax
from jax.experimental import pallas as pl

from lit_tune.models.attention.bodies import LANES

SUBLANES = 8  # rows of a TPU's vector register of float32
# Mosaic's default share of VMEM is 16 MiB on every generation; a kernel within it needs no flag of the user's.
VMEM = 16 * 2**20
BLOCKS = 6 * 2**20  # bytes of it for the blocks, which are held twice: one set is computed on while the next comes in
LIVE = {"forward": 3, "backward": 5}  # float32 matrices n x n that are alive at once


def padded(size: int, to: int) -> int:
    """The next multiple of `to`."""
    return -(-size // to) * to


def groups_a_step(n: int, width: int, itemsize: int, blocks: int) -> int:
    """How many groups of 128 lanes one grid step takes: all of them where their blocks fit into VMEM.

    Fewer, larger steps: each costs about a third of a microsecond that computes nothing.

    Args:
        blocks: arrays of (n, width) that a step reads and writes.
    """
    one = 2 * blocks * padded(n, 32 // itemsize) * LANES * itemsize
    groups = width // LANES
    fitting = [g for g in range(1, groups + 1) if groups % g == 0 and g * one <= BLOCKS]
    return max(fitting, default=1)


def vmem(n: int, itemsize: int) -> int:
    """Bytes of VMEM that the backward pass, the larger of the two, needs with one group a step."""
    blocks = 2 * 7 * padded(n, 32 // itemsize) * LANES * itemsize
    return blocks + LIVE["backward"] * padded(n, SUBLANES) * padded(n, LANES) * 4


def estimate(arrays: list[jax.Array], tables: list[jax.Array], outputs: int, head_dim: int) -> pl.CostEstimate:
    """The plain count of a pass, unpadded: products, exponentials and bytes in and out of HBM."""
    b, n, d = arrays[0].shape
    products = 2 if outputs == 1 else 5
    moved = sum(math.prod(a.shape) * a.dtype.itemsize for a in [*arrays, *tables, *[arrays[0]] * outputs])
    heads = d // head_dim
    return pl.CostEstimate(
        flops=2 * products * b * n * n * d, transcendentals=b * heads * n * n, bytes_accessed=moved
    )
