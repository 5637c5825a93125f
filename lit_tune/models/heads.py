"""Pooling heads: tokens (b, n, d) -> one vector a picture (b, d).

`map` is big_vision's, SigLIP's and timm's attention pooling and the one that exports everywhere. `nomic` is the head of
nomic-embed-vision: it adds its MLP to the class token instead of to the attention output, so no timm model can hold it.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lit_tune.models.layers import Mlp, SwiGLU
from lit_tune.models.linear import LayerNorm, Linear, matmul_precision

POOLS = ("map", "nomic", "cls", "mean", "none")  # "none": a bare trunk, its tokens are the output


class LatentAttention(nnx.Module):
    """One learned query attending to all tokens: the shared part of both attention heads."""

    def __init__(self, width: int, num_heads: int, latent: Float[Array, "1 1 d"], *, rngs: nnx.Rngs) -> None:
        self.num_heads = num_heads
        self.latent = nnx.Param(latent)
        self.q = Linear(width, width, rngs=rngs)
        self.k = Linear(width, width, rngs=rngs)
        self.v = Linear(width, width, rngs=rngs)
        self.proj = Linear(width, width, rngs=rngs)

    def weights(self, tokens: Float[Array, "b n d"], dtype: DTypeLike) -> Float[Array, "b h n"]:
        """How each head's attention is spread over the tokens: float32, the weights of a head add up to 1."""
        d, heads = tokens.shape[2], self.num_heads
        precision = matmul_precision(dtype)
        q = self.q(self.latent[...], dtype).reshape(heads, -1) * (d // heads) ** -0.5  # (h, k)
        # All pictures have the same query, so it goes through the keys' weights instead of all tokens through them, and
        # (in `attend`) the values' weights act on each head's mean of the tokens: 2 n d^2 products a picture less.
        keys = self.k.kernel[...].reshape(d, heads, -1).astype(dtype)  # (d, h, k)
        kernel = jnp.einsum("dhk,hk->dh", keys, q, precision=precision)
        shift = jnp.einsum("hk,hk->h", self.k.bias[...].reshape(heads, -1).astype(dtype), q, precision=precision)
        logits = jnp.einsum("bnd,dh->bhn", tokens.astype(dtype), kernel, precision=precision,
                            preferred_element_type=jnp.float32)
        return jax.nn.softmax(logits + shift[:, None].astype(jnp.float32), axis=-1)

    def attend(self, tokens: Float[Array, "b n d"], dtype: DTypeLike) -> Float[Array, "b 1 d"]:
        """The projected attention output of the latent query."""
        d, heads = tokens.shape[2], self.num_heads
        precision = matmul_precision(dtype)
        weights = self.weights(tokens, dtype).astype(dtype)  # (b, h, n)
        means = jnp.einsum("bhn,bnd->bhd", weights, tokens.astype(dtype), precision=precision)
        values = self.v.kernel[...].reshape(d, heads, -1).astype(dtype)  # (d, h, k)
        joined = jnp.einsum("bhd,dhk->bhk", means, values, precision=precision).reshape(-1, 1, d)
        return self.proj(joined + self.v.bias[...].astype(dtype), dtype)


class MapHead(LatentAttention):
    """`x + mlp(norm(x))` with x the attention output of one latent query.

    Source: timm layers/attention_pool.py `AttentionPoolLatent` (names, and the truncated-normal latent of standard
    deviation d^-0.5); big_vision models/vit.py `MAPHead`.
    """

    def __init__(
        self, width: int, num_heads: int, mlp_dim: int, eps: float, *, act: str = "gelu", rngs: nnx.Rngs
    ) -> None:
        latent = width**-0.5 * jax.random.truncated_normal(rngs.params(), -2, 2, (1, 1, width), jnp.float32)
        super().__init__(width, num_heads, latent, rngs=rngs)
        self.norm = LayerNorm(width, eps)
        self.mlp = Mlp(width, mlp_dim, act=act, rngs=rngs)

    def __call__(self, tokens: Float[Array, "b n d"], dtype: DTypeLike) -> Float[Array, "b d"]:
        x = self.attend(tokens, dtype)
        return (x + self.mlp(x, dtype, self.norm))[:, 0]


class NomicHead(LatentAttention):
    """`class token + mlp(norm(attention output))`: the attention output itself is not added.

    Source: contrastors models/huggingface/modeling_hf_nomic_bert.py `NomicMultiHeadAttentionPooling` at 613ddfd. The
    latent starts at zero there (its own init is never called), so attention starts uniform.
    """

    def __init__(self, width: int, num_heads: int, mlp_dim: int, eps: float, *, rngs: nnx.Rngs) -> None:
        super().__init__(width, num_heads, jnp.zeros((1, 1, width), jnp.float32), rngs=rngs)
        self.norm = LayerNorm(width, eps)
        self.mlp = SwiGLU(width, mlp_dim, rngs=rngs)

    def stages(self, tokens: Float[Array, "b n d"], dtype: DTypeLike) -> dict[str, Array]:
        """The head's inner values under the names of the peer's modules."""
        attended = self.attend(tokens, dtype)
        normed = self.norm(attended)
        return {
            "selector_attn_out": attended,
            "selector_norm1_out": normed,
            "selector_mlp_out": self.mlp(normed, dtype),
        }

    def __call__(self, tokens: Float[Array, "b n d"], dtype: DTypeLike) -> Float[Array, "b n d"]:
        """Every token plus the same vector: what the peer calls last_hidden_state; its row 0 is the embedding."""
        return tokens + self.mlp(self.attend(tokens, dtype), dtype, self.norm)

    def pooled(self, tokens: Float[Array, "b n d"], dtype: DTypeLike) -> Float[Array, "b d"]:
        """Row 0 of `__call__`, without the other rows."""
        return tokens[:, 0] + self.mlp(self.attend(tokens, dtype), dtype, self.norm)[:, 0]
