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
        head_dim: channels of a head, 16, 32, 64 or 128; d is a multiple of 128.
        interpret: run on the CPU by Pallas's interpreter.
    """
    return _forward(q, k, v, rope, head_dim, interpret)[0]


def _forward(
    q: Array, k: Array, v: Array, rope: Rope, head_dim: int, interpret: bool
) -> tuple[Array, tuple[Array, Array, Array, Rope]]:
    tables = [] if rope is None else lane_tables(*rope, LANES // head_dim)
    (out,) = _call(bodies.forward, [q, k, v], tables, 1, head_dim, interpret)
    return out, (q, k, v, rope)


def _backward(
    head_dim: int, interpret: bool, kept: tuple[Array, Array, Array, Rope], g: Array
) -> tuple[Array, Array, Array, None]:
    q, k, v, rope = kept
    tables = [] if rope is None else [jnp.swapaxes(table, 1, 2) for table in rope]  # (1 | b, half, n)
    dq, dk, dv = _call(bodies.backward, [q, k, v, g], tables, 3, head_dim, interpret)
    return dq, dk, dv, None  # the angles are constants


short_attention.defvjp(_forward, _backward)


def lane_tables(cos: Float[Array, "#b n half"], sin: Float[Array, "#b n half"], heads: int) -> list[Array]:
    """cos and signed sin for all 128 lanes of a group, (1 | b, n, 128), as `bodies.turned_lanes` takes them."""
    return [jnp.concatenate([cos, cos] * heads, axis=-1), jnp.concatenate([-sin, sin] * heads, axis=-1)]


def _call(
    body: Callable[..., Any],
    arrays: Sequence[Array],
    tables: Sequence[Array],
    outputs: int,
    head_dim: int,
    interpret: bool,
) -> Sequence[Array]:
    """`body` over every picture and every group of lanes: `outputs` arrays like arrays[0]."""
    b, n, d = arrays[0].shape
    lanes = LANES * cost.groups_a_step(n, d, arrays[0].dtype.itemsize, len(arrays) + outputs)
    block = pl.BlockSpec((1, n, lanes), lambda picture, groups: (picture, 0, groups))
    call = pl.pallas_call(
        functools.partial(_step, body, head_dim, len(arrays), len(tables)),
        grid=(b, d // lanes),
        in_specs=[block] * len(arrays) + [_table_block(table) for table in tables],
        out_specs=[block] * outputs,
        out_shape=[jax.ShapeDtypeStruct((b, n, d), arrays[0].dtype)] * outputs,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        cost_estimate=pl.CostEstimate(**cost.plain(
            arrays[0].shape, head_dim, outputs > 1, [*arrays, *tables, *[arrays[0]] * outputs])._asdict()),
        interpret=interpret,
    )
    return call(*arrays, *tables)


def _table_block(table: Array) -> pl.BlockSpec:
    """The whole table of a picture, or the one table of all pictures."""
    shared = table.shape[0] == 1
    return pl.BlockSpec((1, *table.shape[1:]), lambda picture, groups: (0 if shared else picture, 0, 0))


def _step(body: Callable[..., Any], head_dim: int, inputs: int, tables: int, *refs: Any) -> None:
    """One grid step: `body` on every group of the blocks; references to inputs come first, outputs last."""
    arrays, rest, outputs = refs[:inputs], refs[inputs : inputs + tables], refs[inputs + tables :]
    rope = tuple(ref[0] for ref in rest) or None

    def one_group(group: Array, carry: None) -> None:
        own = pl.ds(pl.multiple_of(group * LANES, LANES), LANES)
        results = body(*(ref[0, :, own] for ref in arrays), rope, head_dim)
        for ref, result in zip(outputs, results, strict=True):
            ref[0, :, own] = result.astype(ref.dtype)

    # A loop, two groups at a time so that one's products run beside the other's exponentials: the program written out
    # in full is 3 times as long, takes as much longer to compile, and is a twentieth quicker.
    groups = arrays[0].shape[2] // LANES
    jax.lax.fori_loop(0, groups, one_group, None, unroll=2 if groups % 2 == 0 else 1)
