"""What one grid step of the attention kernel computes: one picture, heads in groups of 128 lanes.

A group is 128 neighbouring channels, so 128 / head_dim heads. No head is cut out of its group along the lanes: the
other heads' channels of one operand are set to 0, and the product over all 128 channels is the head's. That costs the
matrix unit nothing (it pads 64 channels to 128) and saves the shifts. The two passes differ in what stands on what:
counted in the instruction bundles that the TPU compiler schedules, each is the quicker of the two ways for its pass.

Letters: n tokens, l lanes of a group (128), nq and nk the tokens as queries and as keys.
"""

import math

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float

from lit_tune.models.attention.cost import LANES

LOG2E = math.log2(math.e)

LaneTables = tuple[Float[Array, "n l"], Float[Array, "n l"]] | None
Tables = tuple[Float[Array, "half n"], Float[Array, "half n"]] | None


def product(a: Array, b: Array, axes: tuple[int, int]) -> Float[Array, "rows columns"]:
    """Sum over axis axes[0] of `a` and axes[1] of `b`, float32; float32 operands are not rounded to bfloat16."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    dims = (((axes[0],), (axes[1],)), ((), ()))
    return jax.lax.dot_general(a, b, dims, precision=precision, preferred_element_type=jnp.float32)


def exponent_scale(head_dim: int) -> float:
    """log2(e) / sqrt(head dim): with queries times this, the powers of 2 of the products are the softmax's."""
    return LOG2E * head_dim**-0.5


# Forward: tokens by channels, as the arrays come; logits stand queries by keys.


def own_lanes(shape: tuple[int, int], head: int, head_dim: int) -> Bool[Array, "n l"]:
    """True on the channels of head `head` of the group."""
    lane = jax.lax.broadcasted_iota(jnp.int32, shape, 1)
    return (lane >= head * head_dim) & (lane < (head + 1) * head_dim)


def turned_lanes(x: Float[Array, "n l"], tables: LaneTables, head_dim: int) -> Float[Array, "n l"]:
    """Every head turned by the angles of its tokens.

    Args:
        tables: cos for every channel, and sin with its sign changed on the first halves of the heads.
    """
    if tables is None:
        return x
    half = head_dim // 2
    partner = pltpu.roll(x, LANES - half, 1)  # channel i holds what was in i + half
    if head_dim < LANES:
        lane = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
        partner = jnp.where(lane % head_dim < half, partner, pltpu.roll(x, half, 1))
    return x * tables[0] + partner * tables[1]


def forward(
    q: Float[Array, "n l"], k: Float[Array, "n l"], v: Float[Array, "n l"], tables: LaneTables, head_dim: int
) -> tuple[Float[Array, "n l"]]:
    """softmax(q k / sqrt(head dim)) v of the heads of one group, float32."""
    dtype, heads = q.dtype, LANES // head_dim
    q = turned_lanes(q.astype(jnp.float32), tables, head_dim) * exponent_scale(head_dim)
    k = turned_lanes(k.astype(jnp.float32), tables, head_dim).astype(dtype)
    v = v.astype(jnp.float32)
    mixed = sums = jnp.zeros(q.shape, jnp.float32)
    for head in range(heads):
        own = own_lanes(q.shape, head, head_dim)
        logits = product(jnp.where(own, q, 0.0).astype(dtype), k, (1, 1))  # (nq, nk)
        powers = jnp.exp2(logits - jnp.max(logits, axis=1, keepdims=True))
        # Ones on the other heads' channels: the product gives the sums of the powers there, at no cost.
        both = product(powers.astype(dtype), jnp.where(own, v, 1.0).astype(dtype), (1, 0))  # (nq, l)
        mixed = jnp.where(own, both, mixed)
        if heads == 1:
            sums = jnp.sum(powers, axis=1, keepdims=True)
        else:
            sums = jnp.where(own_lanes(q.shape, (head + 1) % heads, head_dim), both, sums)
    if heads > 1:
        sums = pltpu.roll(sums, LANES - head_dim, 1)  # to the channels of their own heads
    # normalising n x head_dim outputs instead of n x n probabilities
    return (mixed / sums,)


# Backward: the group is turned on its side once, channels by tokens. Heads and their halves are then whole registers,
# taken apart and joined for nothing. Logits stand keys by queries: maxima and sums over keys run down the registers,
# and in each product into a gradient the n x n matrix is what stays in the matrix unit; head_dim rows stream past it.


def turned(x: Float[Array, "l n"], tables: Tables, head_dim: int, sign: int = 1) -> Float[Array, "l n"]:
    """Every head turned by the angles of its tokens; with sign -1 turned back, which is the transpose."""
    if tables is None:
        return x
    cos, sin = tables[0], sign * tables[1]
    rows = []
    for start in range(0, LANES, head_dim):
        first, second = jnp.split(x[start : start + head_dim], 2)  # (half, n)
        rows += [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(rows)


def alone(x: Float[Array, "l n"], head: int, head_dim: int) -> Float[Array, "l n"]:
    """`x` with the channels of all heads but one set to 0."""
    start, stop = head * head_dim, (head + 1) * head_dim
    parts = [jnp.zeros_like(x[:start]), x[start:stop], jnp.zeros_like(x[stop:])]
    return jnp.concatenate([part for part in parts if part.shape[0]])


def backward(
    q: Float[Array, "n l"],
    k: Float[Array, "n l"],
    v: Float[Array, "n l"],
    g: Float[Array, "n l"],
    tables: Tables,
    head_dim: int,
) -> tuple[Float[Array, "n l"], Float[Array, "n l"], Float[Array, "n l"]]:
    """Gradients of q, k and v for the gradient `g` of `forward`, float32; the probabilities are computed again."""
    dtype = q.dtype
    q = (turned(q.astype(jnp.float32).T, tables, head_dim) * exponent_scale(head_dim)).astype(dtype)  # (l, n)
    keys = turned(k.astype(jnp.float32).T, tables, head_dim)  # (l, n)
    k = k if tables is None else keys.T.astype(dtype)
    keys = keys.astype(dtype)
    g = g.astype(jnp.float32).T.astype(dtype)  # (l, n)
    dq, dk, dv = [], [], []
    for head in range(LANES // head_dim):
        own = slice(head * head_dim, (head + 1) * head_dim)
        logits = product(k, alone(q, head, head_dim), (1, 0))  # (nk, nq)
        powers = jnp.exp2(logits - jnp.max(logits, axis=0, keepdims=True))
        p = powers * (1.0 / jnp.sum(powers, axis=0, keepdims=True))
        weighted = p * product(v, alone(g, head, head_dim), (1, 0))  # (nk, nq)
        ds = (weighted - p * jnp.sum(weighted, axis=0, keepdims=True)).astype(dtype)
        dv.append(product(g[own], p.astype(dtype), (1, 1)))  # (k, nk)
        dk.append(product(q[own], ds, (1, 1)))  # (k, nk)
        dq.append(product(keys[own], ds, (1, 0)))  # (k, nq)
    dq, dk, dv = (jnp.concatenate(x) for x in (dq, dk, dv))  # (l, n)
    dq = turned(dq, tables, head_dim, -1) * head_dim**-0.5
    # the queries carry log2(e), which the natural exponential of the softmax does not
    dk = turned(dk, tables, head_dim, -1) * (1.0 / LOG2E)
    return dq.T, dk.T, dv.T
