"""The JinaBERT text tower (jina-embeddings-v2, Jina CLIP v1): BERT with ALiBi both ways instead of positions, GeGLU.

Source: arXiv 2310.19923 (symmetric ALiBi), 2108.12409 (slopes); structure, slopes and the halves of the joined layer
(the first is the gate): huggingface.co/jinaai/jina-bert-implementation modeling_bert.py as restated in
huggingface/transformers models/jina_bert (draft) and huggingface/candle jina_bert.rs (whose slopes for 12 heads differ
from the peer's and are not used), jinaai/jina-bert-flash-implementation mlp.py and convert_v2_weights.py at b78d159.
"""

import math
from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from lit_tune.models.bert import Embeddings
from lit_tune.models.layers import Attention, GeGLU, PostNormBlock, Size
from lit_tune.models.text_pool import check_pool
from lit_tune.models.text_tower import TextSpec, TextTower


@dataclass(frozen=True)
class JinaBertSpec(TextSpec):
    """The architecture and how its tokens become one vector.

    Attributes:
        vocab_size, type_vocab: rows of the embedding tables.
        width, depth, num_heads, mlp_dim: as everywhere; mlp_dim is the hidden width of the GeGLU.
        norm_eps: of every LayerNorm, 1e-12.
        pool: mean | cls | last.
        layer_norm: LayerNorm without affine on the pooled vector.
        dim: numbers kept of the vector, 0 for all.
    """

    vocab_size: int
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


def alibi_slopes(num_heads: int) -> list[float]:
    """How fast each head's attention falls with distance: 2^(-8 i / n) for n heads, i = 1 .. n, n a power of two.

    Other numbers of heads take the slopes of the power of two below, then every other one of the power above.
    """
    below = 2 ** math.floor(math.log2(num_heads))
    slopes = [2.0 ** (-8 * (i + 1) / below) for i in range(below)]
    return slopes if below == num_heads else slopes + alibi_slopes(2 * below)[::2][: num_heads - below]


def alibi_bias(num_heads: int, length: Size) -> Float[Array, "h s s"]:
    """-slope * |i - j|, float32, added to the logits of query i and key j."""
    columns = jnp.arange(length)
    distance = jnp.abs(columns[:, None] - columns).astype(jnp.float32)
    return -jnp.asarray(alibi_slopes(num_heads), jnp.float32)[:, None, None] * distance


def block(spec: JinaBertSpec, rngs: nnx.Rngs) -> PostNormBlock:
    """One block of the tower."""
    attn = Attention(spec.width, spec.num_heads, biases=(True, True, True, True), rngs=rngs)
    return PostNormBlock(attn, GeGLU(spec.width, spec.mlp_dim, out_bias=True, rngs=rngs), spec.width, spec.norm_eps)


class JinaBert(TextTower):
    """The tower."""

    def __init__(self, spec: JinaBertSpec, *, rngs: nnx.Rngs) -> None:
        self.spec = spec
        self.embeddings = Embeddings(spec.vocab_size, 0, spec.type_vocab, spec.width, spec.norm_eps, rngs=rngs)
        self.blocks = nnx.List([block(spec, rngs) for _ in range(spec.depth)])
        self.proj = None

    def stages(
        self, input_ids: Int[Array, "b s"], attention_mask: Int[Array, "b s"], *, dtype: DTypeLike = jnp.float32
    ) -> dict[str, Array]:
        """hidden_00 (after the embeddings), hidden_NN (after block NN), last_hidden_state: each (b, s, d)."""
        mask = attention_mask != 0
        bias = alibi_bias(self.spec.num_heads, input_ids.shape[1])
        x = self.embeddings(input_ids, mask, dtype)
        found = {"hidden_00": x}
        for i, one in enumerate(self.blocks):
            x = one(x, mask=mask[:, None], bias=bias, dtype=dtype)
            found[f"hidden_{i + 1:02}"] = x
        return found | {"last_hidden_state": x.astype(jnp.float32)}
