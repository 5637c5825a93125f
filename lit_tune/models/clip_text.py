"""The text towers of CLIP and SigLIP: learned positions, pre-norm blocks, a final LayerNorm, their own pooling.

CLIP is causal and reads the end-of-text token; SigLIP sees both ways, without a mask, and reads the last position of a
text padded to its full length. Source: arXiv 2103.00020, 2303.15343; transformers models/clip/modeling_clip.py,
models/siglip/modeling_siglip.py; open_clip transformer.py (TextTransformer, text_global_pool).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from lit_tune.errors import ConfigError, explain
from lit_tune.models.bert import check_length
from lit_tune.models.layers import ACTIVATIONS, PreNormBlock
from lit_tune.models.linear import LayerNorm, Linear
from lit_tune.models.text_pool import POOLS, check_pool
from lit_tune.models.text_tower import TextSpec, TextTower


@dataclass(frozen=True)
class ClipTextSpec(TextSpec):
    """The architecture and how its tokens become one vector.

    Attributes:
        vocab_size, max_positions: rows of the two embedding tables.
        width, depth, num_heads, mlp_dim: as everywhere.
        norm_eps: of every LayerNorm, 1e-5 in CLIP, 1e-6 in SigLIP.
        act: one of layers.ACTIVATIONS.
        causal: a token sees itself and those before it (CLIP); False: every position sees every other, padding
            included (SigLIP).
        pool: argmax (the largest id, OpenAI's rule) | eos (the first `eos_id`) | last | cls.
        eos_id: of the token that pool `eos` looks for.
        pad_id: what a text is filled up with where `full_length`.
        embed_dim: width of the projection of the pooled vector, 0 without one.
        proj_bias: whether that projection has a bias (SigLIP).
        layer_norm: LayerNorm without affine on the vector.
        dim: numbers kept of the vector, 0 for all.
    """

    vocab_size: int
    max_positions: int
    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    norm_eps: float
    act: str
    causal: bool
    pool: str
    eos_id: int
    pad_id: int
    embed_dim: int
    proj_bias: bool
    layer_norm: bool
    dim: int

    def __post_init__(self) -> None:
        check_pool(self.pool, POOLS)
        if self.act not in ACTIVATIONS:
            expected = " | ".join(ACTIVATIONS)
            raise ConfigError(explain("text activation", expected=expected, found=self.act, do="use another tower"))

    @property
    def out_dim(self) -> int:
        """Width of the vector that the tower gives, after the projection and the cut."""
        return self.dim or self.embed_dim or self.width

    @property
    def max_tokens(self) -> int:
        """Most tokens of a text: rows of the position table."""
        return self.max_positions

    @property
    def full_length(self) -> bool:
        """Whether padding is part of the text, so that every text runs with all positions."""
        return not self.causal or self.pool == "last"


class ClipText(TextTower):
    """The tower; where `spec.full_length`, tokens come out at all positions, however few columns went in."""

    def __init__(self, spec: ClipTextSpec, *, rngs: nnx.Rngs) -> None:
        def table(rows: int, std: float) -> nnx.Param:
            return nnx.Param(std * jax.random.normal(rngs.params(), (rows, spec.width), jnp.float32))

        self.spec = spec
        self.token_embedding = table(spec.vocab_size, 0.02)
        self.pos_embed = table(spec.max_positions, 0.01)
        self.blocks = nnx.List([
            PreNormBlock(spec.width, spec.num_heads, spec.mlp_dim, act=spec.act, eps=spec.norm_eps, rngs=rngs)
            for _ in range(spec.depth)
        ])  # fmt: skip
        self.norm = LayerNorm(spec.width, spec.norm_eps)
        std = spec.width**-0.5
        dims = spec.width, spec.embed_dim
        self.proj = Linear(*dims, bias=spec.proj_bias, std=std, rngs=rngs) if spec.embed_dim else None

    def prepare(
        self, input_ids: Int[Array, "b s"], attention_mask: Int[Array, "b s"]
    ) -> tuple[Int[Array, "b t"], Int[Array, "b t"]]:
        """Ids and mask as they come, or with all positions, `pad_id` at padding and a mask of ones.

        A caller that sorts texts by length and pads short thus gets the vector of the fully padded text.

        Raises:
            ConfigError: more tokens than there are positions.
        """
        spec = self.spec
        check_length(input_ids.shape[1], spec.max_positions)
        if not spec.full_length:
            return input_ids, attention_mask
        ids = jnp.where(attention_mask != 0, input_ids, spec.pad_id)
        missing = ((0, 0), (0, spec.max_positions - ids.shape[1]))
        ids = jnp.pad(ids, missing, constant_values=spec.pad_id)
        return ids, jnp.ones_like(ids)

    def _visible(self, attention_mask: Int[Array, "b s"]) -> Bool[Array, "b #s s"]:
        """Which keys each query sees."""
        mask = (attention_mask != 0)[:, None]
        columns = jnp.arange(attention_mask.shape[1])
        return mask & (columns[:, None] >= columns)[None] if self.spec.causal else mask

    def stages(
        self, input_ids: Int[Array, "b s"], attention_mask: Int[Array, "b s"], *, dtype: DTypeLike = jnp.float32
    ) -> dict[str, Array]:
        """hidden_00 (the embeddings), hidden_NN (after block NN), last_hidden_state (after the final norm)."""
        ids, attention_mask = self.prepare(input_ids, attention_mask)
        mask = self._visible(attention_mask)
        x: Float[Array, "b t d"] = self.token_embedding[...][ids] + self.pos_embed[...][: ids.shape[1]]
        x = x.astype(dtype)
        found = {"hidden_00": x}
        for i, block in enumerate(self.blocks):
            x = block(x, mask=mask, dtype=dtype)
            found[f"hidden_{i + 1:02}"] = x
        return found | {"last_hidden_state": self.norm(x).astype(jnp.float32)}
