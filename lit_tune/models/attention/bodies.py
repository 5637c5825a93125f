"""What one grid step of the attention kernel computes: one picture, heads in groups of 128 lanes.

A group is 128 neighbouring channels, so 128 / head_dim heads. No head is cut out of its group: the queries' other
channels are set to 0, and the product over all 128 channels is the head's. That costs the matrix unit nothing (it pads
64 to 128) and saves every shift of lanes.

Letters: n tokens, l lanes (128), nq and nk the tokens as queries and as keys.
"""

import math

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float

LANES = 128  # of a TPU's vector register, and the side of its matrix unit
LOG2E = math.log2(math.e)

Tables = tuple[Float[Array, "n l"], Float[Array, "n l"]] | None


def product(a: Array, b: Array, axes: tuple[int, int]) -> Float[Array, "rows columns"]:
    """Sum over axis axes[0] of `a` and axes[1] of `b`, float32; float32 operands are not rounded to bfloat16."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    dims = (((axes[0],), (axes[1],)), ((), ()))
    return jax.lax.dot_general(a, b, dims, precision=precision, preferred_element_type=jnp.float32)


def other_half(x: Float[Array, "n l"], head_dim: int) -> Float[Array, "n l"]:
    """Every channel's rotary partner: the halves of each head changed round."""
    half = head_dim // 2
    ahead = pltpu.roll(x, LANES - half, 1)  # channel i holds what was in i + half
    if head_dim == LANES:
        return ahead
    lane = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
    return jnp.where(lane % head_dim < half, ahead, pltpu.roll(x, half, 1))


def turned(x: Float[Array, "n l"], tables: Tables, head_dim: int) -> Float[Array, "n l"]:
    """Every head turned by the angles of its tokens.

    Args:
        tables: cos, and sin with the sign of the first halves changed.
    """
    if tables is None:
        return x
    return x * tables[0] + other_half(x, head_dim) * tables[1]


def turned_back(x: Float[Array, "n l"], tables: Tables, head_dim: int) -> Float[Array, "n l"]:
    """The transpose of `turned`: the same angles with their signs changed."""
    if tables is None:
        return x
    return x * tables[0] - other_half(x, head_dim) * tables[1]


def own_lanes(shape: tuple[int, int], head: int, head_dim: int) -> Bool[Array, "n l"]:
    """True on the channels of head `head` of the group."""
    lane = jax.lax.broadcasted_iota(jnp.int32, shape, 1)
    return (lane >= head * head_dim) & (lane < (head + 1) * head_dim)


def exponents_of(q: Float[Array, "n l"], tables: Tables, head_dim: int) -> Float[Array, "n l"]:
    """The rotated queries, float32, times log2(e) / sqrt(head dim): their product with keys is a power of 2."""
    return turned(q.astype(jnp.float32), tables, head_dim) * (LOG2E * head_dim**-0.5)


def forward(
    q: Float[Array, "n l"], k: Float[Array, "n l"], v: Float[Array, "n l"], tables: Tables, head_dim: int
) -> tuple[Float[Array, "n l"]]:
    """softmax(q k / sqrt(head dim)) v of the heads of one group, float32."""
    dtype = q.dtype
    q = exponents_of(q, tables, head_dim)
    k = turned(k.astype(jnp.float32), tables, head_dim).astype(dtype)
    v = v.astype(jnp.float32)
    mixed = weight = jnp.zeros(q.shape, jnp.float32)
    heads = LANES // head_dim
    for head in range(heads):
        own = own_lanes(q.shape, head, head_dim)
        logits = product(jnp.where(own, q, 0.0).astype(dtype), k, (1, 1))  # (nq, nk)
        powers = jnp.exp2(logits - jnp.max(logits, axis=1, keepdims=True))
        # Ones on the other heads' channels: the product gives the sum of the powers there, at no cost.
        both = product(powers.astype(dtype), jnp.where(own, v, 1.0).astype(dtype), (1, 0))  # (nq, l)
        mixed = jnp.where(own, both, mixed)
        if heads == 1:
            weight = jnp.sum(powers, axis=1, keepdims=True)
        else:
            weight = jnp.where(own_lanes(q.shape, (head + 1) % heads, head_dim), both, weight)
    if heads > 1:
        weight = pltpu.roll(weight, LANES - head_dim, 1)
    # normalising n x head_dim outputs instead of n x n probabilities
    return (mixed / weight,)


def backward(
    q: Float[Array, "n l"],
    k: Float[Array, "n l"],
    v: Float[Array, "n l"],
    g: Float[Array, "n l"],
    tables: Tables,
    head_dim: int,
) -> tuple[Float[Array, "n l"], Float[Array, "n l"], Float[Array, "n l"]]:
    """Gradients of q, k and v for the gradient `g` of `forward`, float32; the probabilities are computed again.

    Everything n x n stands keys by queries: two of the three products into the gradients then need no transpose, and
    the sums over keys run down the registers instead of across their lanes.
    """
    dtype = q.dtype
    q = exponents_of(q, tables, head_dim)
    k = turned(k.astype(jnp.float32), tables, head_dim).astype(dtype)
    g = g.astype(jnp.float32)
    dq = dk = dv = jnp.zeros(q.shape, jnp.float32)
    for head in range(LANES // head_dim):
        own = own_lanes(q.shape, head, head_dim)
        own_q, own_g = (jnp.where(own, x, 0.0).astype(dtype) for x in (q, g))
        logits = product(k, own_q, (1, 1))  # (nk, nq)
        powers = jnp.exp2(logits - jnp.max(logits, axis=0, keepdims=True))
        p = powers * (1.0 / jnp.sum(powers, axis=0, keepdims=True))
        weighted = p * product(v, own_g, (1, 1))  # (nk, nq)
        ds = (weighted - p * jnp.sum(weighted, axis=0, keepdims=True)).astype(dtype)
        dv = dv + product(p.astype(dtype), own_g, (1, 0))
        dk = dk + product(ds, own_q, (1, 0))
        dq = jnp.where(own, product(ds, k, (0, 0)), dq)
    dq = turned_back(dq, tables, head_dim) * head_dim**-0.5
    # own_q carries log2(e), which the natural exponential of the softmax does not
    dk = turned_back(dk, tables, head_dim) * (1.0 / LOG2E)
    return dq, dk, dv
