"""The NomicBert text tower (nomic-embed-text): rotary positions, SwiGLU, no biases, post-norm.

Source: contrastors models/huggingface/modeling_hf_nomic_bert.py at 613ddfd; transformers models/nomic_bert.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from lit_tune.models.bert import Embeddings
from lit_tune.models.layers import Attention, PostNormBlock, Size, SwiGLU, position_table
from lit_tune.models.text_pool import check_pool
from lit_tune.models.text_tower import TextSpec, TextTower


@dataclass(frozen=True)
class NomicBertSpec(TextSpec):
    """The architecture and how its tokens become one vector.

    Attributes:
        vocab_size, type_vocab: rows of the embedding tables.
        width, depth, num_heads, mlp_dim: as everywhere; mlp_dim is the hidden width of the SwiGLU.
        norm_eps: of every LayerNorm, 1e-12.
        rope_theta: base of the rotary frequencies, 1000.
        ntk_factor: dynamic-NTK scaling of texts longer than `ntk_length` tokens; 0: none (as trained, v1.5).
        ntk_length: tokens up to which frequencies stay as they are.
        pool: mean | cls | last.
        layer_norm: LayerNorm without affine on the pooled vector (v1.5).
        dim: numbers kept of the vector, 0 for all.
    """

    vocab_size: int
    type_vocab: int
    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    norm_eps: float
    rope_theta: float
    ntk_factor: float
    ntk_length: int
    pool: str
    layer_norm: bool
    dim: int

    def __post_init__(self) -> None:
        check_pool(self.pool)


def rope_tables(length: Size, head_dim: int, theta: float) -> tuple[Float[Array, "1 s half"], Float[Array, "1 s half"]]:
    """cos and sin of the rotary angles of `length` positions, made in float64 at trace time."""
    frequencies = theta ** (-np.arange(0, head_dim, 2) / head_dim)  # (half,)
    cos, sin = (
        position_table(lambda steps, turn=turn: turn(steps[:, None] * frequencies), length) for turn in (np.cos, np.sin)
    )
    return cos[None], sin[None]


def block(spec: NomicBertSpec, rngs: nnx.Rngs) -> PostNormBlock:
    """One block of the tower."""
    attn = Attention(spec.width, spec.num_heads, biases=(False, False, False, False), rngs=rngs)
    return PostNormBlock(attn, SwiGLU(spec.width, spec.mlp_dim, bias=False, rngs=rngs), spec.width, spec.norm_eps)


class NomicBert(TextTower):
    """The tower."""

    def __init__(self, spec: NomicBertSpec, *, rngs: nnx.Rngs) -> None:
        self.spec = spec
        self.embeddings = Embeddings(spec.vocab_size, 0, spec.type_vocab, spec.width, spec.norm_eps, rngs=rngs)
        self.blocks = nnx.List([block(spec, rngs) for _ in range(spec.depth)])
        self.proj = None

    def _rope(self, mask: Bool[Array, "b s"]) -> tuple[Float[Array, "r s half"], Float[Array, "r s half"]]:
        """cos and sin, one row for all texts, or one a text where the NTK rule looks at its length."""
        spec = self.spec
        head_dim = spec.width // spec.num_heads
        if not spec.ntk_factor:
            return rope_tables(mask.shape[1], head_dim, spec.rope_theta)
        steps = position_table(lambda steps: steps[:, None], mask.shape[1])  # (s, 1)
        exponents = -np.arange(0, head_dim, 2) / head_dim  # (half,)
        # The peer takes the length of the padded batch and keeps the change for all later batches; a text's own length
        # gives what the peer gives for that text alone in a fresh model, whatever it is batched with.
        length = jnp.sum(mask, axis=1, keepdims=True).astype(jnp.float32)  # (b, 1)
        stretch = jnp.maximum(spec.ntk_factor * length / spec.ntk_length - (spec.ntk_factor - 1), 1.0)
        theta = spec.rope_theta * stretch ** (head_dim / (head_dim - 2))
        angles = steps * (theta ** jnp.asarray(exponents, jnp.float32))[:, None, :]
        return jnp.cos(angles), jnp.sin(angles)  # (b, s, half)

    def stages(
        self, input_ids: Int[Array, "b s"], attention_mask: Int[Array, "b s"], *, dtype: DTypeLike = jnp.float32
    ) -> dict[str, Array]:
        """embeddings, block_NN, last_hidden_state: each (b, s, d)."""
        mask = attention_mask != 0
        rope = self._rope(mask)
        x = self.embeddings(input_ids, mask, dtype)
        found = {"embeddings": x}
        for i, one in enumerate(self.blocks):
            x = one(x, rope=rope, mask=mask[:, None], dtype=dtype)
            found[f"block_{i:02}"] = x
        return found | {"last_hidden_state": x.astype(jnp.float32)}
