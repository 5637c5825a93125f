"""Attention for short sequences on TPU as one Pallas call a pass, on (b, n, width) as the projections leave it.

The n x n matrices live in VMEM only, rotation happens inside, rows are not padded: nothing is copied around the calls.
XLA's own program of the same attention spends most of its time on copies and on float32 logits in HBM.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from lit_tune.models.attention import bodies, cost
from lit_tune.models.attention.bodies import LANES

Rope = tuple[Float[Array, "#b n half"], Float[Array, "#b n half"]] | None


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def short_attention(
    q: Float[Array, "b n d"],
    k: Float[Array, "b n d"],
    v: Float[Array, "b n d"],
    rope: Rope,
    head_dim: int,
    interpret: bool,
) -> Float[Array, "b n d"]:
    """softmax(rotated q . rotated k / sqrt(head dim)) v of every head, in the dtype of `q`.

    The backward pass keeps q, k and v and computes the probabilities again. The angles get no gradient.

    Args:
        q, k, v: before rotation, bfloat16 or float32, the heads side by side; a head's rotary pairs are (i, i + k/2).
        rope: cos and sin, float32; a leading axis of 1 serves all pictures. None: no rotation.
        head_dim: channels of a head, a divisor of 128; d is a multiple of 128.
        interpret: run on the CPU by Pallas's interpreter.
    """
    return _forward(q, k, v, rope, head_dim, interpret)[0]


def _forward(
    q: Array, k: Array, v: Array, rope: Rope, head_dim: int, interpret: bool
) -> tuple[Array, tuple[Array, Array, Array, Rope]]:
    (out,) = _call(bodies.forward, [q, k, v], rope, 1, head_dim, interpret)
    return out, (q, k, v, rope)


def _backward(
    head_dim: int, interpret: bool, kept: tuple[Array, Array, Array, Rope], g: Array
) -> tuple[Array, Array, Array, None]:
    q, k, v, rope = kept
    dq, dk, dv = _call(bodies.backward, [q, k, v, g], rope, 3, head_dim, interpret)
    return dq, dk, dv, None  # the angles are constants


short_attention.defvjp(_forward, _backward)


def lane_tables(rope: Rope, head_dim: int) -> list[Float[Array, "#b n l"]]:
    """cos and signed sin for all 128 lanes of a group, as `bodies.turned` takes them; empty without `rope`."""
    if rope is None:
        return []
    cos, sin = rope
    heads = LANES // head_dim
    return [jnp.concatenate([cos, cos] * heads, axis=-1), jnp.concatenate([-sin, sin] * heads, axis=-1)]


def _all_pictures(i: Array, j: Array) -> tuple[int, int, int]:
    return 0, 0, 0


def _its_picture(i: Array, j: Array) -> tuple[Array, int, int]:
    return i, 0, 0


def _group(refs: Sequence[Any], group: int) -> list[Float[Array, "n l"]]:
    """The 128 lanes of one group, of every block."""
    return [ref[0, :, group * LANES : (group + 1) * LANES] for ref in refs]


def _step(body: Callable[..., Any], head_dim: int, inputs: int, rotates: bool, *refs: Any) -> None:
    """One grid step: `body` on every group of the blocks, inputs first, then tables, then outputs."""
    arrays, rest = refs[:inputs], refs[inputs:]
    tables = tuple(ref[0] for ref in rest[:2]) if rotates else None
    outputs = rest[2:] if rotates else rest
    for group in range(arrays[0].shape[2] // LANES):
        results = body(*_group(arrays, group), tables, head_dim)
        for ref, result in zip(outputs, results, strict=True):
            ref[0, :, group * LANES : (group + 1) * LANES] = result.astype(ref.dtype)


def _call(
    body: Callable[..., Any], arrays: list[Array], rope: Rope, outputs: int, head_dim: int, interpret: bool
) -> Sequence[Array]:
    """`body` over every picture and every block of head groups; `outputs` arrays like arrays[0]."""
    b, n, d = arrays[0].shape
    tables = lane_tables(rope, head_dim)
    lanes = LANES * cost.groups_a_step(n, d, arrays[0].dtype.itemsize, len(arrays) + outputs)
    block = pl.BlockSpec((1, n, lanes), lambda i, j: (i, 0, j))
    table = [pl.BlockSpec((1, n, LANES), _all_pictures if t.shape[0] == 1 else _its_picture) for t in tables]
    like = jax.ShapeDtypeStruct((b, n, d), arrays[0].dtype)
    call = pl.pallas_call(
        functools.partial(_step, body, head_dim, len(arrays), bool(tables)),
        grid=(b, d // lanes),
        in_specs=[block] * len(arrays) + table,
        out_specs=[block] * outputs,
        out_shape=[like] * outputs,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        cost_estimate=cost.estimate(arrays, tables, outputs, head_dim),
        interpret=interpret,
    )
    return call(*arrays, *tables)
