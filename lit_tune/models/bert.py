"""The BERT text tower (all-MiniLM, BGE, E5 and their kind): absolute positions, post-norm, exact GELU.

Source: arXiv 1810.04805; transformers models/bert/modeling_bert.py (structure and eps). BERT's `pooler` is not part of
it: no embedding model uses it.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from lit_tune.errors import ConfigError, explain
from lit_tune.models.layers import Attention, LayerNorm, Mlp
from lit_tune.models.text_pool import check_pool, pool_tokens


@dataclass(frozen=True)
class BertSpec:
    """The architecture and how its tokens become one vector.

    Attributes:
        vocab_size, max_positions, type_vocab: rows of the three embedding tables.
        width, depth, num_heads, mlp_dim: as everywhere.
        norm_eps: of every LayerNorm, 1e-12 in BERT.
        pool: mean | cls.
        layer_norm: LayerNorm without affine on the pooled vector.
        dim: numbers kept of the vector, 0 for all.
    """

    vocab_size: int
    max_positions: int
    type_vocab: int
    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    norm_eps: float
    pool: str
    layer_norm: bool
    dim: int

    def __post_init__(self) -> None:
        check_pool(self.pool)


class Embeddings(nnx.Module):
    """Sum of word, position (if any) and token-type-0 embeddings, then a norm."""

    def __init__(
        self, vocab_size: int, max_positions: int, type_vocab: int, width: int, eps: float, *, rngs: nnx.Rngs
    ) -> None:
        def table(rows: int) -> nnx.Param:
            return nnx.Param(0.02 * jax.random.normal(rngs.params(), (rows, width), jnp.float32))

        self.word_embeddings = table(vocab_size)
        self.position_embeddings = table(max_positions) if max_positions else None
        self.token_type_embeddings = table(type_vocab) if type_vocab else None
        self.norm = LayerNorm(width, eps)

    def __call__(self, input_ids: Int[Array, "b s"], dtype: DTypeLike) -> Float[Array, "b s d"]:
        """(b, s, d) in `dtype`.

        Raises:
            ConfigError: more tokens than there are positions.
        """
        x = self.word_embeddings[...][input_ids]  # (b, s, d)
        if self.position_embeddings is not None:
            rows = self.position_embeddings.shape[0]
            if x.shape[1] > rows:
                raise ConfigError(
                    explain("text", expected=f"at most {rows} tokens", found=x.shape[1], do="truncate it")
                )
            x = x + self.position_embeddings[...][: input_ids.shape[1]]
        if self.token_type_embeddings is not None:
            x = x + self.token_type_embeddings[...][0]
        return self.norm(x).astype(dtype)


class Block(nnx.Module):
    """norm1(x + attn(x)), then norm2(x + mlp(x))."""

    def __init__(self, spec: BertSpec, *, rngs: nnx.Rngs) -> None:
        self.attn = Attention(spec.width, spec.num_heads, biases=(True, True, True, True), rngs=rngs)
        self.norm1 = LayerNorm(spec.width, spec.norm_eps)
        self.mlp = Mlp(spec.width, spec.mlp_dim, rngs=rngs)
        self.norm2 = LayerNorm(spec.width, spec.norm_eps)

    def __call__(self, x: Float[Array, "b s d"], mask: Bool[Array, "b s"], dtype: DTypeLike) -> Float[Array, "b s d"]:
        x = self.norm1(x + self.attn(x, mask=mask[:, None], dtype=dtype))
        return self.norm2(x + self.mlp(x, dtype))


class Bert(nnx.Module):
    """The tower. Values at padded positions mean nothing, and no real token sees them."""

    def __init__(self, spec: BertSpec, *, rngs: nnx.Rngs) -> None:
        self.spec = spec
        self.embeddings = Embeddings(
            spec.vocab_size, spec.max_positions, spec.type_vocab, spec.width, spec.norm_eps, rngs=rngs
        )
        self.blocks = nnx.List([Block(spec, rngs=rngs) for _ in range(spec.depth)])

    def stages(
        self, input_ids: Int[Array, "b s"], attention_mask: Int[Array, "b s"], *, dtype: DTypeLike = jnp.float32
    ) -> dict[str, Array]:
        """hidden_00 (after the embeddings), hidden_NN (after block NN), last_hidden_state: each (b, s, d)."""
        mask = attention_mask != 0
        x = self.embeddings(input_ids, dtype)
        found = {"hidden_00": x}
        for i, block in enumerate(self.blocks):
            x = block(x, mask, dtype)
            found[f"hidden_{i + 1:02}"] = x
        return found | {"last_hidden_state": x.astype(jnp.float32)}

    def tokens(
        self, input_ids: Int[Array, "b s"], attention_mask: Int[Array, "b s"], *, dtype: DTypeLike = jnp.float32
    ) -> Float[Array, "b s d"]:
        """The last hidden states, float32."""
        return self.stages(input_ids, attention_mask, dtype=dtype)["last_hidden_state"]

    def __call__(
        self, input_ids: Int[Array, "b s"], attention_mask: Int[Array, "b s"], *, dtype: DTypeLike = jnp.float32
    ) -> Float[Array, "b d"]:
        """The pooled vector, float32, not L2-normalised.

        Args:
            input_ids: int, special tokens included, padded with anything.
            attention_mask: 1 at real tokens, 0 at padding.
        """
        spec = self.spec
        x = self.tokens(input_ids, attention_mask, dtype=dtype)
        return pool_tokens(x, attention_mask != 0, spec.pool, spec.layer_norm, spec.dim)
