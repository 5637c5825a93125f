"""The ModernBERT text tower: pre-norm, GeGLU, no biases, rotary positions, most layers seeing a window only.

Source: arXiv 2412.13663; transformers models/modernbert/modeling_modernbert.py. The first layer has no norm before its
attention; every third layer (0, 3, 6, ...) sees the whole text and turns with another base than the others.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from lit_tune.models.layers import Attention, GeGLU
from lit_tune.models.linear import LayerNorm
from lit_tune.models.nomic_bert import rope_tables
from lit_tune.models.text_pool import check_pool
from lit_tune.models.text_tower import TextSpec, TextTower


@dataclass(frozen=True)
class ModernBertSpec(TextSpec):
    """The architecture and how its tokens become one vector.

    Attributes:
        vocab_size: rows of the embedding table.
        width, depth, num_heads, mlp_dim: as everywhere; mlp_dim is the hidden width of the GeGLU.
        norm_eps: of every LayerNorm (none has a bias), 1e-5.
        global_every: layers 0, global_every, 2 * global_every, ... see the whole text.
        window: tokens to each side that the other layers see.
        global_theta, local_theta: bases of the rotary frequencies of the two kinds of layers.
        pool: mean | cls | last.
        layer_norm: LayerNorm without affine on the pooled vector.
        dim: numbers kept of the vector, 0 for all.
    """

    vocab_size: int
    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    norm_eps: float
    global_every: int
    window: int
    global_theta: float
    local_theta: float
    pool: str
    layer_norm: bool
    dim: int

    def __post_init__(self) -> None:
        check_pool(self.pool)


class Block(nnx.Module):
    """x + attn(norm1(x)), then x + mlp(norm2(x)); norm1 is absent in the first block."""

    def __init__(self, spec: ModernBertSpec, first: bool, *, rngs: nnx.Rngs) -> None:
        self.norm1 = None if first else LayerNorm(spec.width, spec.norm_eps, bias=False)
        self.attn = Attention(spec.width, spec.num_heads, biases=(False, False, False, False), rngs=rngs)
        self.norm2 = LayerNorm(spec.width, spec.norm_eps, bias=False)
        self.mlp = GeGLU(spec.width, spec.mlp_dim, out_bias=False, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b s d"], rope: tuple[Array, Array], mask: Bool[Array, "b #s s"], dtype: DTypeLike
    ) -> Float[Array, "b s d"]:
        normed = x if self.norm1 is None else self.norm1(x)
        x = x + self.attn(normed, rope=rope, mask=mask, dtype=dtype)
        return x + self.mlp(self.norm2(x), dtype)


class ModernBert(TextTower):
    """The tower."""

    def __init__(self, spec: ModernBertSpec, *, rngs: nnx.Rngs) -> None:
        self.spec = spec
        table = 0.02 * jax.random.normal(rngs.params(), (spec.vocab_size, spec.width), jnp.float32)
        self.token_embedding = nnx.Param(table)
        self.embed_norm = LayerNorm(spec.width, spec.norm_eps, bias=False)
        self.blocks = nnx.List([Block(spec, i == 0, rngs=rngs) for i in range(spec.depth)])
        self.norm = LayerNorm(spec.width, spec.norm_eps, bias=False)
        self.proj = None

    def stages(
        self, input_ids: Int[Array, "b s"], attention_mask: Int[Array, "b s"], *, dtype: DTypeLike = jnp.float32
    ) -> dict[str, Array]:
        """hidden_00 (after the embeddings), hidden_NN (after block NN), last_hidden_state (after the final norm).

        The last hidden_NN is after the final norm too: that is what transformers calls it.
        """
        spec, length = self.spec, input_ids.shape[1]
        head_dim = spec.width // spec.num_heads
        real = (attention_mask != 0)[:, None]  # (b, 1, s)
        columns = jnp.arange(length)
        near = jnp.abs(columns[:, None] - columns) <= spec.window  # (s, s)
        whole = rope_tables(length, head_dim, spec.global_theta), real
        window = rope_tables(length, head_dim, spec.local_theta), real & near[None]
        x = self.embed_norm(self.token_embedding[...][input_ids]).astype(dtype)
        found = {"hidden_00": x}
        for i, block in enumerate(self.blocks):
            x = block(x, *(window if i % spec.global_every else whole), dtype)
            found[f"hidden_{i + 1:02}"] = x
        last = self.norm(x).astype(jnp.float32)
        return found | {f"hidden_{spec.depth:02}": last, "last_hidden_state": last}
