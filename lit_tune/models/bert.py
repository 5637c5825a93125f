"""The BERT text tower (all-MiniLM, BGE, E5 and their kind): absolute positions, post-norm, exact GELU.

RoBERTa and XLM-R (multilingual E5, BGE-M3) are the same tower, their positions counted from another row.
Source: arXiv 1810.04805, 1907.11692, 1911.02116; transformers models/bert/modeling_bert.py and
models/xlm_roberta/modeling_xlm_roberta.py (structure and eps). BERT's `pooler` is not part of it: no embedding model
uses it.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from lit_tune.errors import ConfigError, explain
from lit_tune.models.layers import Attention, Mlp, PostNormBlock, Size
from lit_tune.models.linear import LayerNorm
from lit_tune.models.text_pool import check_pool
from lit_tune.models.text_tower import TextSpec, TextTower


@dataclass(frozen=True)
class BertSpec(TextSpec):
    """The architecture and how its tokens become one vector.

    Attributes:
        vocab_size, max_positions, type_vocab: rows of the three embedding tables.
        width, depth, num_heads, mlp_dim: as everywhere.
        norm_eps: of every LayerNorm, 1e-12 in BERT.
        pool: mean | cls | last.
        layer_norm: LayerNorm without affine on the pooled vector.
        dim: numbers kept of the vector, 0 for all.
        first_position: row of the position table at which a text starts: 0 in BERT, pad id + 1 in RoBERTa and XLM-R.
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
    first_position: int = 0

    def __post_init__(self) -> None:
        check_pool(self.pool)

    @property
    def max_tokens(self) -> int:
        """Most tokens of a text: rows of the position table from `first_position` on."""
        return self.max_positions - self.first_position


def check_length(tokens: Size, limit: int) -> None:
    """Nothing.

    Raises:
        ConfigError: more tokens than there are positions.
    """
    if tokens > limit:
        raise ConfigError(explain("text", expected=f"at most {limit} tokens", found=tokens, do="truncate it"))


class Embeddings(nnx.Module):
    """Sum of word, position (if any) and token-type-0 embeddings, then a norm."""

    def __init__(
        self,
        vocab_size: int,
        max_positions: int,
        type_vocab: int,
        width: int,
        eps: float,
        *,
        first_position: int = 0,
        rngs: nnx.Rngs,
    ) -> None:
        def table(rows: int) -> nnx.Param:
            return nnx.Param(0.02 * jax.random.normal(rngs.params(), (rows, width), jnp.float32))

        self.word_embeddings = table(vocab_size)
        self.position_embeddings = table(max_positions) if max_positions else None
        self.token_type_embeddings = table(type_vocab) if type_vocab else None
        self.norm = LayerNorm(width, eps)
        self.first_position = first_position

    def _positions(self, mask: Bool[Array, "b s"]) -> Int[Array, "#b s"]:
        """The row of the position table for each token.

        BERT counts columns. XLM-R counts the real tokens before one, and all padding gets the row before the first.
        """
        if not self.first_position:
            return jnp.arange(mask.shape[1])[None]
        return jnp.cumsum(mask, axis=1) * mask + (self.first_position - 1)

    def __call__(
        self, input_ids: Int[Array, "b s"], mask: Bool[Array, "b s"], dtype: DTypeLike
    ) -> Float[Array, "b s d"]:
        """(b, s, d) in `dtype`.

        Raises:
            ConfigError: more tokens than there are positions.
        """
        x = self.word_embeddings[...][input_ids]  # (b, s, d)
        if self.position_embeddings is not None:
            check_length(x.shape[1], self.position_embeddings.shape[0] - self.first_position)
            x = x + self.position_embeddings[...][self._positions(mask)]
        if self.token_type_embeddings is not None:
            x = x + self.token_type_embeddings[...][0]
        return self.norm(x).astype(dtype)


def block(spec: BertSpec, rngs: nnx.Rngs) -> PostNormBlock:
    """One block of the tower."""
    attn = Attention(spec.width, spec.num_heads, biases=(True, True, True, True), rngs=rngs)
    return PostNormBlock(attn, Mlp(spec.width, spec.mlp_dim, rngs=rngs), spec.width, spec.norm_eps)


class Bert(TextTower):
    """The tower."""

    def __init__(self, spec: BertSpec, *, rngs: nnx.Rngs) -> None:
        self.spec = spec
        self.embeddings = Embeddings(
            spec.vocab_size, spec.max_positions, spec.type_vocab, spec.width, spec.norm_eps,
            first_position=spec.first_position, rngs=rngs,
        )  # fmt: skip
        self.blocks = nnx.List([block(spec, rngs) for _ in range(spec.depth)])
        self.proj = None

    def stages(
        self, input_ids: Int[Array, "b s"], attention_mask: Int[Array, "b s"], *, dtype: DTypeLike = jnp.float32
    ) -> dict[str, Array]:
        """hidden_00 (after the embeddings), hidden_NN (after block NN), last_hidden_state: each (b, s, d)."""
        mask = attention_mask != 0
        x = self.embeddings(input_ids, mask, dtype)
        found = {"hidden_00": x}
        for i, one in enumerate(self.blocks):
            x = one(x, mask=mask[:, None], dtype=dtype)
            found[f"hidden_{i + 1:02}"] = x
        return found | {"last_hidden_state": x.astype(jnp.float32)}
