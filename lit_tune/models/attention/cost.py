"""What the attention kernel costs, from its shapes: for the compiler's schedule, for its memory and for a plan. No jax.

The only place that knows: `short` gives `plain` to the compiler, `choice` asks `vmem`, `lit-tune plan` reads `passes`.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

LANES = 128  # of a TPU's vector register, and the side of the matrix unit of most
SUBLANES = 8  # rows of a TPU's vector register of float32
# Mosaic's default share of VMEM is 16 MiB on every generation; a kernel within it needs no flag of the user's.
VMEM = 16 * 2**20
BLOCKS = 6 * 2**20  # bytes of it for the blocks, which are held twice: one set is computed on while the next comes in
# Matrices n x n of float32 that are alive at once in the backward pass, by bytes of an input element: float32 products
# are six bfloat16 ones of split operands. With them v5e compiles every length that `vmem` lets through.
LIVE = {2: 4, 4: 6}


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
    return blocks + LIVE[itemsize] * padded(n, SUBLANES) * padded(n, LANES) * 4


FORWARD, BACKWARD = 2, 5  # products of a pass, one picture and head: logits and mix; both again and three gradients
# Arithmetic instructions on vector registers for each register of logits, everything of a pass on (n, d) arrays spread
# over them; counted in what the compiler schedules for v5e at 197 tokens and heads of 64, bfloat16.
VECTOR_OPS = {"forward": 15, "backward": 26}


def passes(tokens: int, heads: int, head_dim: int, backward: bool, side: int = LANES) -> tuple[int, int]:
    """What one picture's attention asks of the matrix unit and of the vector unit, padded as the hardware pads.

    Args:
        tokens: rows of a picture.
        heads, head_dim: of one device.
        backward: the backward pass instead of the forward one.
        side: of the matrix unit.

    Returns:
        flops on the matrix unit, bfloat16 (float32 inputs take six times as many), and elements of vector registers
        that an arithmetic instruction acts on; exponentials are not in it.
    """
    rows, wide = padded(tokens, 16), padded(tokens, side)
    logits = 2 * rows * padded(head_dim, side) * wide  # a head of 64 channels fills half the depth at most
    if backward:
        flops = 2 * logits + (BACKWARD - 2) * 2 * padded(head_dim, 16) * wide * wide
    else:
        flops = FORWARD * logits
    ops = VECTOR_OPS["backward" if backward else "forward"]
    return heads * flops, heads * ops * padded(tokens, SUBLANES) * padded(tokens, LANES)


class Count(NamedTuple):
    """The unpadded count of a pass over a batch, by the names that Pallas has for them."""

    flops: int
    transcendentals: int
    bytes_accessed: int


def plain(shape: tuple[int, int, int], head_dim: int, backward: bool, moved: Iterable[Any]) -> Count:
    """Products, exponentials, and bytes in and out of HBM.

    Args:
        shape: (b, n, d) of the queries.
        head_dim: channels of a head.
        backward: the backward pass instead of the forward one.
        moved: every array that goes in or out, with its shape and dtype.
    """
    b, n, d = shape
    return Count(
        flops=2 * (BACKWARD if backward else FORWARD) * b * n * n * d, transcendentals=b * (d // head_dim) * n * n,
        bytes_accessed=sum(math.prod(a.shape) * a.dtype.itemsize for a in moved))
