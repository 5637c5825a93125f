"""From the tokens of a text tower to one vector, the same for every family."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lit_tune.errors import ConfigError, explain
from lit_tune.models.layers import standardize

POOLS = ("mean", "cls")


def check_pool(pool: str) -> None:
    """Nothing.

    Raises:
        ConfigError: no such pooling.
    """
    if pool not in POOLS:
        raise ConfigError(explain("text.pool", expected=" | ".join(POOLS), found=pool, do="change text.pool"))


def pool_tokens(
    tokens: Float[Array, "b s d"], mask: Bool[Array, "b s"], pool: str, layer_norm: bool, dim: int
) -> Float[Array, "b out"]:
    """The pooled vector, float32, not L2-normalised.

    Args:
        mask: True at real tokens.
        pool: mean (over real tokens) | cls (the first token).
        layer_norm: standardise the full width without affine (nomic-embed-text-v1.5, eps 1e-5 as torch's default).
        dim: keep the first `dim` numbers, after the norm; 0 keeps all.
    """
    tokens = tokens.astype(jnp.float32)
    if pool == "cls":
        pooled = tokens[:, 0]
    else:
        weights = mask.astype(jnp.float32)[:, :, None]
        # a row without any token gives zeros, not nan
        pooled = jnp.sum(tokens * weights, axis=1) / jnp.maximum(jnp.sum(weights, axis=1), 1.0)
    if layer_norm:
        pooled = standardize(pooled, 1e-5)
    return pooled[:, :dim] if dim else pooled
