"""The parts that towers are made of: attention, rotary positions, MLPs, blocks; linear.py has the products and norms.

`dtype` arguments are the compute dtype of products; norms, softmax and logits are float32 whatever it is.
Letters in shapes: b batch, n tokens, d width, h heads, k head dim, m hidden width of an MLP.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from lit_tune.models.attention.choice import EINSUM, Kernel
from lit_tune.models.attention.fused import cudnn_attention, pallas_attention
from lit_tune.models.linear import LayerNorm, Linear, joined_bias, matmul_precision, normed_affine, project


def attention_logits(q: Float[Array, "b nq h k"], k: Float[Array, "b nk h k"]) -> Float[Array, "b h nq nk"]:
    """q . k / sqrt(head dim) in float32."""
    # Heads are brought forward by hand: XLA's CPU backend runs the einsum over (b, n, h, k) 1.6 times slower.
    q, k = jnp.swapaxes(q * q.shape[-1] ** -0.5, 1, 2), jnp.moveaxis(k, 1, 3)  # (b, h, nq, k), (b, h, k, nk)
    return jnp.matmul(q, k, precision=matmul_precision(q.dtype), preferred_element_type=jnp.float32)


def attention(
    q: Float[Array, "b nq h k"],
    k: Float[Array, "b nk h k"],
    v: Float[Array, "b nk h k"],
    mask: Bool[Array, "#b #nq nk"] | None = None,
    bias: Float[Array, "h nq nk"] | None = None,
) -> Float[Array, "b nq h k"]:
    """softmax(q k / sqrt(head dim) + bias) v: the one place where another kernel would go.

    Args:
        mask: False where a query must not see a key; axes of 1 stand for all pictures or texts and for all queries. A
            row of False only gives the plain mean of v, not nan.
        bias: float32, added to the logits of every picture or text (ALiBi).
    """
    logits = attention_logits(q, k)
    if bias is not None:
        logits = logits + bias
    if mask is not None:
        logits = jnp.where(mask[:, None], logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    out = jnp.matmul(weights, jnp.swapaxes(v, 1, 2), precision=matmul_precision(v.dtype))  # (b, h, nq, k)
    return jnp.swapaxes(out, 1, 2)


Size = Any  # of an axis: an int, or one of jax's symbols while an export of any length is traced
MAX_TOKENS = 8192  # rows of a position table whose length is not known when it is traced (an export of any length)


def position_table(rows: Callable[[np.ndarray], np.ndarray], count: Size) -> Float[Array, "n ..."]:
    """`rows(0, 1, ..., count - 1)`, computed in numpy's float64 at trace time and stored as float32.

    Args:
        rows: positions (n,) -> (n, ...), one row a position.
        count: of positions; where it is a symbol, the first `count` rows of a table of MAX_TOKENS are taken.
    """
    known = count if isinstance(count, int) else MAX_TOKENS
    return jnp.asarray(rows(np.arange(known)), jnp.float32)[:count]


def rotate(
    x: Float[Array, "b n h k"], cos: Float[Array, "#b n half"], sin: Float[Array, "#b n half"]
) -> Float[Array, "b n h k"]:
    """Pairs (x[i], x[i + k/2]) of every head turned by the angle of their token.

    Args:
        cos, sin: of the angles, one per token and pair; a leading axis of 1 serves all pictures of the batch.
    """
    cos, sin = cos[:, :, None, :].astype(x.dtype), sin[:, :, None, :].astype(x.dtype)  # (b, n, 1, k/2)
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def deinterleave(kernel: Float[Array, "... d"], num_heads: int) -> Float[Array, "... d"]:
    """Columns of each head reordered from (0, 1, 2, 3, ...) to (0, 2, ..., 1, 3, ...).

    EVA02 rotates neighbouring channels. With the columns of both q and k in this order the same rotation is `rotate`'s,
    and q . k does not depend on the order; so the strided shuffle falls on the weights instead of on activations.
    """
    *lead, d = kernel.shape
    pairs = kernel.reshape(*lead, num_heads, d // num_heads // 2, 2)
    return jnp.swapaxes(pairs, -1, -2).reshape(*lead, d)


class Attention(nnx.Module):
    """Multi-head self-attention with optional rotary positions and an optional LayerNorm before the last projection.

    Attributes:
        q, k, v, proj: the four projections, each (d, d).
        norm: LayerNorm on the joined heads (EVA02's CLIP variants), or None.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        biases: tuple[bool, bool, bool, bool],
        norm_eps: float | None = None,
        interleaved: bool = False,
        proj_std: float = 0.02,
        rngs: nnx.Rngs,
    ) -> None:
        q, k, v, proj = biases
        self.num_heads = num_heads
        self.interleaved = interleaved  # rotary pairs are neighbours (EVA02), not half a head apart (NomicBert)
        self.q = Linear(width, width, bias=q, rngs=rngs)
        self.k = Linear(width, width, bias=k, rngs=rngs)
        self.v = Linear(width, width, bias=v, rngs=rngs)
        self.norm = None if norm_eps is None else LayerNorm(width, norm_eps)
        self.proj = Linear(width, width, bias=proj, std=proj_std, rngs=rngs)

    def qkv(
        self, x: Float[Array, "b n d"], rope: tuple[Array, Array] | None, dtype: DTypeLike,
        norm: LayerNorm | None = None,
    ) -> tuple[Float[Array, "b n h k"], Float[Array, "b n h k"], Float[Array, "b n h k"]]:
        """Queries, keys (both rotated) and values of `x`, or of `norm` of it."""
        kernel, bias = jnp.concatenate(self._kernels(), axis=1), self._joined_bias()
        joined = normed_affine(x, kernel, bias, dtype, norm)  # (b, n, 3 d)
        joined = joined.reshape(*x.shape[:2], 3, self.num_heads, -1)  # (b, n, 3, h, k)
        q, k, v = (checkpoint_name(joined[:, :, i], name) for i, name in enumerate("qkv"))
        return (q, k, v) if rope is None else (rotate(q, *rope), rotate(k, *rope), v)

    def _kernels(self) -> list[Float[Array, "d d"]]:
        """Of q, k and v, with the rotary pairs half a head apart."""
        kernels = [linear.kernel[...] for linear in (self.q, self.k, self.v)]
        return [deinterleave(w, self.num_heads) for w in kernels[:2]] + kernels[2:] if self.interleaved else kernels

    def _joined_bias(self) -> Float[Array, " d3"] | None:
        bias = joined_bias([self.q, self.k, self.v])
        if bias is None or not self.interleaved:
            return bias
        q, k, v = jnp.split(bias, 3)
        return jnp.concatenate([deinterleave(q, self.num_heads), deinterleave(k, self.num_heads), v])

    def _fused(
        self, x: Float[Array, "b n d"], rope: tuple[Array, Array] | None, kernel: Kernel, dtype: DTypeLike,
        norm: LayerNorm | None,
    ) -> Float[Array, "b n d"]:
        """The joined heads, by the kernel of an accelerator."""
        if kernel.name == "cudnn":
            return cudnn_attention(*self.qkv(x, rope, dtype, norm), kernel).reshape(x.shape)
        bias = self._joined_bias()
        biases = [None] * 3 if bias is None else jnp.split(bias, 3)
        # Three products: the parts of one joined product would be copied before the kernel can read them.
        q, k, v = (
            checkpoint_name(normed_affine(x, w, b, dtype, norm), name)
            for w, b, name in zip(self._kernels(), biases, "qkv", strict=True)
        )
        return pallas_attention(q, k, v, rope, x.shape[-1] // self.num_heads, kernel)

    def __call__(
        self,
        x: Float[Array, "b n d"],
        *,
        rope: tuple[Array, Array] | None = None,
        mask: Bool[Array, "#b #n n"] | None = None,
        bias: Float[Array, "h n n"] | None = None,
        kernel: Kernel = EINSUM,
        norm: LayerNorm | None = None,
        dtype: DTypeLike,
    ) -> Float[Array, "b n d"]:
        """(b, n, d) of `x`, or of `norm` of it.

        A remat policy may keep "q", "k", "v" (before the rotation) and "attention" (the joined heads).

        Raises:
            ValueError: a mask or a bias for a kernel that takes none.
        """
        if kernel.name == "einsum":
            joined = attention(*self.qkv(x, rope, dtype, norm), mask, bias).reshape(x.shape)  # (b, n, d)
        elif mask is not None or bias is not None:
            raise ValueError(f"attention kernel {kernel.name} takes no mask and no bias: use einsum")
        else:
            joined = self._fused(x, rope, kernel, dtype, norm)
        return self.proj(checkpoint_name(joined, "attention"), dtype, self.norm)


class SwiGLU(nnx.Module):
    """fc2(norm(silu(fc1_g(x)) * fc1_x(x))), names as in timm; `norm` is EVA02's sub-LN, or None."""

    def __init__(
        self,
        width: int,
        mlp_dim: int,
        *,
        bias: bool = True,
        norm_eps: float | None = None,
        fc2_std: float = 0.02,
        rngs: nnx.Rngs,
    ) -> None:
        self.fc1_g = Linear(width, mlp_dim, bias=bias, rngs=rngs)
        self.fc1_x = Linear(width, mlp_dim, bias=bias, rngs=rngs)
        self.norm = None if norm_eps is None else LayerNorm(mlp_dim, norm_eps)
        self.fc2 = Linear(mlp_dim, width, bias=bias, std=fc2_std, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b n d"], dtype: DTypeLike, norm: LayerNorm | None = None
    ) -> Float[Array, "b n d"]:
        if dtype == jnp.float32:  # a CPU: one product is faster
            gate, value = jnp.split(project(x, [self.fc1_g, self.fc1_x], dtype, norm), 2, axis=-1)  # (b, n, m) each
        else:  # an accelerator: the activation joins the second product, and nothing is split or put together again
            gate, value = self.fc1_g(x, dtype, norm), self.fc1_x(x, dtype, norm)
        gate, value = checkpoint_name(gate, "gate"), checkpoint_name(value, "value")
        return self.fc2(jax.nn.silu(gate) * value, dtype, self.norm)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=False),  # the exact one, with erf
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),  # SigLIP
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),  # OpenAI CLIP
}


class GeGLU(nnx.Module):
    """fc2(gelu(fc1_g(x)) * fc1_x(x)) with the exact GELU; only fc2 may have a bias."""

    def __init__(self, width: int, mlp_dim: int, *, out_bias: bool, rngs: nnx.Rngs) -> None:
        self.fc1_g = Linear(width, mlp_dim, bias=False, rngs=rngs)
        self.fc1_x = Linear(width, mlp_dim, bias=False, rngs=rngs)
        self.fc2 = Linear(mlp_dim, width, bias=out_bias, rngs=rngs)

    def __call__(self, x: Float[Array, "b n d"], dtype: DTypeLike) -> Float[Array, "b n d"]:
        gate, value = jnp.split(project(x, [self.fc1_g, self.fc1_x], dtype), 2, axis=-1)  # (b, n, m) each
        return self.fc2(ACTIVATIONS["gelu"](gate) * value, dtype)


class Mlp(nnx.Module):
    """fc2(act(fc1(x))), `act` one of ACTIVATIONS."""

    def __init__(self, width: int, mlp_dim: int, *, act: str = "gelu", rngs: nnx.Rngs) -> None:
        self.act = act
        self.fc1 = Linear(width, mlp_dim, rngs=rngs)
        self.fc2 = Linear(mlp_dim, width, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b n d"], dtype: DTypeLike, norm: LayerNorm | None = None
    ) -> Float[Array, "b n d"]:
        return self.fc2(ACTIVATIONS[self.act](checkpoint_name(self.fc1(x, dtype, norm), "hidden")), dtype)


class PreNormBlock(nnx.Module):
    """x + attn(norm1(x)), then x + mlp(norm2(x)): the block of ViT, CLIP and SigLIP, all biases present."""

    def __init__(
        self, width: int, num_heads: int, mlp_dim: int, *, act: str, eps: float, qkv_bias: bool = True, rngs: nnx.Rngs
    ) -> None:
        self.norm1 = LayerNorm(width, eps)
        self.attn = Attention(width, num_heads, biases=(qkv_bias, qkv_bias, qkv_bias, True), rngs=rngs)
        self.norm2 = LayerNorm(width, eps)
        self.mlp = Mlp(width, mlp_dim, act=act, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b n d"],
        *,
        rope: tuple[Array, Array] | None = None,
        mask: Bool[Array, "#b #n n"] | None = None,
        kernel: Kernel = EINSUM,
        dtype: DTypeLike,
    ) -> Float[Array, "b n d"]:
        x = x + self.attn(x, norm=self.norm1, rope=rope, mask=mask, kernel=kernel, dtype=dtype)
        return x + self.mlp(x, dtype, self.norm2)


class PostNormBlock(nnx.Module):
    """norm1(x + attn(x)), then norm2(x + mlp(x)): the block of BERT and its kind.

    Attributes:
        attn, mlp: the family's own.
    """

    def __init__(self, attn: Attention, mlp: nnx.Module, width: int, eps: float) -> None:
        self.attn = attn
        self.norm1 = LayerNorm(width, eps)
        self.mlp = mlp
        self.norm2 = LayerNorm(width, eps)

    def __call__(self, x: Float[Array, "b s d"], *, dtype: DTypeLike, **seen: Any) -> Float[Array, "b s d"]:
        """(b, s, d); `seen` are rope, mask and bias of `Attention`."""
        x = self.norm1(x + self.attn(x, dtype=dtype, **seen))
        return self.norm2(x + self.mlp(x, dtype))
