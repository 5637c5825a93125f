"""What all text towers share: ids and mask in, tokens or one vector out. Each family adds its `stages`."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from lit_tune.models.text_pool import normalized_and_cut, pool_tokens


class TextSpec:
    """What every spec of a text tower answers; the fields are those of the family's frozen dataclass.

    Attributes:
        width: of the tokens.
        pool: one of `text_pool.POOLS`.
        layer_norm: LayerNorm without affine on the vector.
        dim: numbers kept of the vector, 0 for all.
        eos_id: of the token that pool `eos` looks for; only where that is the pool.
    """

    width: int
    pool: str
    layer_norm: bool
    dim: int

    @property
    def out_dim(self) -> int:
        """Width of the vector that the tower gives."""
        return self.dim or self.width

    @property
    def max_tokens(self) -> int:
        """Most tokens of a text, special ones included; 0 where positions set no limit."""
        return 0


class TextTower(nnx.Module):
    """A text tower. Values at padded positions mean nothing, and no real token sees them.

    Attributes:
        spec: a TextSpec.
        proj: the projection of the pooled vector, or None.
    """

    spec: Any
    proj: Any

    def prepare(
        self, input_ids: Int[Array, "b s"], attention_mask: Int[Array, "b s"]
    ) -> tuple[Int[Array, "b t"], Int[Array, "b t"]]:
        """Ids and mask as the tower runs them; most run them as they come."""
        return input_ids, attention_mask

    def tokens(
        self, input_ids: Int[Array, "b s"], attention_mask: Int[Array, "b s"], *, dtype: DTypeLike = jnp.float32
    ) -> Float[Array, "b t d"]:
        """The last hidden states, float32."""
        return self.stages(input_ids, attention_mask, dtype=dtype)["last_hidden_state"]

    def __call__(
        self, input_ids: Int[Array, "b s"], attention_mask: Int[Array, "b s"], *, dtype: DTypeLike = jnp.float32
    ) -> Float[Array, "b out"]:
        """One vector a text, float32, not L2-normalised.

        Args:
            input_ids: int, special tokens included, padded with anything.
            attention_mask: 1 at real tokens, 0 at padding.
        """
        spec = self.spec
        ids, mask = self.prepare(input_ids, attention_mask)
        eos_id = spec.eos_id if spec.pool == "eos" else -1
        pooled = pool_tokens(self.tokens(ids, mask, dtype=dtype), ids, mask != 0, spec.pool, eos_id)
        if self.proj is not None:
            pooled = self.proj(pooled, dtype).astype(jnp.float32)
        return normalized_and_cut(pooled, spec.layer_norm, spec.dim)
