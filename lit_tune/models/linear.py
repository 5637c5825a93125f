"""Linear layers and LayerNorm, and how a norm in front of a product acts on its weights. Parameters are float32.

`dtype` arguments are the compute dtype of products; statistics of norms are float32 whatever it is.
Letters in shapes: b batch, r rows, d width.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float


def matmul_precision(dtype: DTypeLike) -> jax.lax.Precision:
    """The precision that `dtype` asks for: float32 means float32, also on a TPU whose default is bfloat16 passes."""
    return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else jax.lax.Precision.DEFAULT


class Linear(nnx.Module):
    """x @ kernel + bias, kernel (d_in, d_out); normal init of standard deviation `std`, bias 0."""

    def __init__(self, d_in: int, d_out: int, *, bias: bool = True, std: float = 0.02, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(std * jax.random.normal(rngs.params(), (d_in, d_out), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((d_out,), jnp.float32)) if bias else None

    def __call__(
        self, x: Float[Array, "*b d_in"], dtype: DTypeLike, norm: "LayerNorm | None" = None
    ) -> Float[Array, "*b d_out"]:
        return project(x, [self], dtype, norm)


def project(
    x: Float[Array, "*b d_in"], linears: list[Linear], dtype: DTypeLike, norm: "LayerNorm | None" = None
) -> Float[Array, "*b d_out"]:
    """All `linears` applied to `x`, or to `norm` of it, side by side on the last axis, as one matmul.

    Parameters stay apart (q, k, v and gate, value have separate names in peers and optimizers); joining their kernels
    at trace time costs a copy of the weights and saves two passes over the activations.
    """
    kernel = jnp.concatenate([linear.kernel[...] for linear in linears], axis=1)
    return normed_affine(x, kernel, joined_bias(linears), dtype, norm)


def joined_bias(linears: list[Linear]) -> Float[Array, " d_out"] | None:
    """The biases side by side, zeros where one is absent (EVA02's keys); None if all are."""
    if all(linear.bias is None for linear in linears):
        return None
    widths = [linear.kernel.shape[1] for linear in linears]
    parts = [jnp.zeros(w) if li.bias is None else li.bias[...] for li, w in zip(linears, widths, strict=True)]
    return jnp.concatenate(parts)


def normed_affine(
    x: Float[Array, "*b d_in"], kernel: Float[Array, "d_in d_out"], bias: Float[Array, " d_out"] | None,
    dtype: DTypeLike, norm: "LayerNorm | None",
) -> Float[Array, "*b d_out"]:
    """norm(x) @ kernel + bias; the norm's scale and bias act on the weights.

    (s y + t) @ W + b = y @ (s W) + (t @ W + b): so the gradients of s and t come from the small gradient of the
    weights, where they would cost two passes over all tokens.
    """
    if norm is None:
        return affine(x, kernel, bias, dtype)
    if norm.bias is not None:
        shift = jnp.matmul(norm.bias[...], kernel, precision=jax.lax.Precision.HIGHEST)
        bias = shift if bias is None else bias + shift
    return affine(standardize(x, norm.eps), norm.scale[...][:, None] * kernel, bias, dtype)


def affine(
    x: Float[Array, "*b d_in"],
    kernel: Float[Array, "d_in d_out"],
    bias: Float[Array, " d_out"] | None,
    dtype: DTypeLike,
) -> Float[Array, "*b d_out"]:
    """x @ kernel + bias with all three cast to `dtype`."""
    # Rows in one axis: XLA's CPU backend copies the transpose of a (b, n, d) cotangent for the weights' gradient, which
    # makes that product twice as slow.
    rows = x.astype(dtype).reshape(-1, x.shape[-1])  # (b * n, d_in)
    y = jnp.matmul(rows, kernel.astype(dtype), precision=matmul_precision(dtype)).reshape(*x.shape[:-1], -1)
    return y if bias is None else add_bias(y, bias)


@jax.custom_vjp
def add_bias(y: Float[Array, "*b d"], bias: Float[Array, " d"]) -> Float[Array, "*b d"]:
    """y + bias in the dtype of `y`; the bias's gradient is summed in float32.

    In bfloat16 the sum over the rows is a product with ones: a TPU's vector units take as long for it as its matrix
    units for the gradient of the weights, and the sum would be rounded to bfloat16.
    """
    return y + bias.astype(y.dtype)


def _add_bias(y: Array, bias: Array) -> tuple[Array, None]:
    return add_bias(y, bias), None


def _add_bias_gradients(_: None, g: Float[Array, "*b d"]) -> tuple[Array, Array]:
    rows = tuple(range(g.ndim - 1))
    if g.dtype == jnp.float32:
        return g, jnp.sum(g, axis=rows)
    # Eight equal rows: one would be turned back into the slow sum.
    ones = jnp.ones((8, *g.shape[:-1]), g.dtype)
    contract = (tuple(axis + 1 for axis in rows), rows)
    return g, jax.lax.dot_general(ones, g, (contract, ((), ())), preferred_element_type=jnp.float32)[0]


add_bias.defvjp(_add_bias, _add_bias_gradients)


class LayerNorm(nnx.Module):
    """LayerNorm over the last axis, computed in float32, returned in the dtype of the input."""

    def __init__(self, width: int, eps: float, *, bias: bool = True) -> None:
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((width,), jnp.float32)) if bias else None
        self.eps = eps

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        return layer_norm(x, self.scale[...], None if self.bias is None else self.bias[...], self.eps)


def standardize(x: Float[Array, "*b d"], eps: float) -> Float[Array, "*b d"]:
    """(x - mean) / sqrt(var + eps) over the last axis: a LayerNorm without parameters."""
    return layer_norm(x, None, None, eps)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(
    x: Float[Array, "*b d"], scale: Float[Array, " d"] | None, bias: Float[Array, " d"] | None, eps: float
) -> Float[Array, "*b d"]:
    """(x - mean) / sqrt(var + eps) * scale + bias over the last axis, computed in float32, in the dtype of `x`.

    The gradient is written by hand: it needs the input and two numbers a row, where automatic differentiation keeps
    three float32 arrays and passes over them six times (a whole training step of the quick start's tower is 1.3 times
    faster; at bfloat16 the kept bytes are a sixth). Where a Linear follows, `normed_affine` is cheaper still.
    """
    return _layer_norm(x, scale, bias, eps)[0]


def _layer_norm(x: Array, scale: Array | None, bias: Array | None, eps: float) -> tuple[Array, tuple]:
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide, axis=-1, keepdims=True)  # (*b, 1)
    if x.dtype == jnp.float32:
        # The two-pass variance: E[x^2] - E[x]^2 cancels where the mean is large against the spread.
        variance = jnp.mean(jnp.square(wide - mean), axis=-1, keepdims=True)
    else:
        # One pass: what cancels in float32 is less than what bfloat16 has rounded away before.
        variance = jnp.maximum(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) - jnp.square(mean), 0.0)
    rstd = jax.lax.rsqrt(variance + eps)
    y = (wide - mean) * rstd
    y = y if scale is None else y * scale
    return (y if bias is None else y + bias).astype(x.dtype), (x, mean, rstd, scale, bias)


def _layer_norm_gradients(eps: float, kept: tuple, g: Float[Array, "*b d"]) -> tuple[Array, Array | None, Array | None]:
    """rstd * (h - mean(h) - y * mean(h * y)) with h = g * scale, and the sums over rows of g * y and of g."""
    del eps
    x, mean, rstd, scale, bias = kept
    y, g = (x.astype(jnp.float32) - mean) * rstd, g.astype(jnp.float32)
    h = g if scale is None else g * scale
    along = jnp.mean(h * y, axis=-1, keepdims=True)
    dx = rstd * (h - jnp.mean(h, axis=-1, keepdims=True) - y * along)
    rows = tuple(range(x.ndim - 1))
    dscale = None if scale is None else jnp.sum(g * y, axis=rows)
    return dx.astype(x.dtype), dscale, None if bias is None else jnp.sum(g, axis=rows)


layer_norm.defvjp(_layer_norm, _layer_norm_gradients)
