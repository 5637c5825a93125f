"""From the tokens of a text tower to one vector, the same for every family."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lit_tune.errors import ConfigError, explain
from lit_tune.models.linear import standardize

# Where the vector is taken: over or at the real tokens of a text. `eos` and `argmax` are CLIP's own rules.
POOLS = ("mean", "cls", "last", "eos", "argmax")
CHOSEN = POOLS[:3]  # for towers whose own config does not say how they pool


def check_pool(pool: str, allowed: tuple[str, ...] = CHOSEN) -> None:
    """Nothing.

    Raises:
        ConfigError: no such pooling.
    """
    if pool not in allowed:
        raise ConfigError(explain("text.pool", expected=" | ".join(allowed), found=pool, do="change text.pool"))


def pool_tokens(
    tokens: Float[Array, "b s d"], input_ids: Int[Array, "b s"], mask: Bool[Array, "b s"], pool: str, eos_id: int
) -> Float[Array, "b d"]:
    """One vector a text, float32. A text without any token gets a finite one that means nothing.

    Args:
        mask: True at real tokens.
        pool: mean (over real tokens) | cls (the first token) | last (the last real token) | eos (the first real token
            of id `eos_id`) | argmax (the first real token of the largest id).
        eos_id: only read by `eos`.
    """
    tokens = tokens.astype(jnp.float32)
    if pool == "mean":
        weights = mask.astype(jnp.float32)[:, :, None]
        # a row without any token gives zeros, not nan
        return jnp.sum(tokens * weights, axis=1) / jnp.maximum(jnp.sum(weights, axis=1), 1.0)
    if pool == "cls":
        return tokens[:, 0]
    # every rule as scores, of which the first largest is taken
    scores = {"last": jnp.arange(mask.shape[1]), "eos": input_ids == eos_id, "argmax": input_ids}[pool]
    at = jnp.argmax(jnp.where(mask, scores, -1), axis=1)  # (b,)
    return jnp.take_along_axis(tokens, at[:, None, None], axis=1)[:, 0]


def normalized_and_cut(pooled: Float[Array, "b d"], layer_norm: bool, dim: int) -> Float[Array, "b out"]:
    """What a text tower gives for its pooled (and projected) vectors, not L2-normalised.

    Args:
        layer_norm: standardise the full width without affine (nomic-embed-text-v1.5, eps 1e-5 as torch's default).
        dim: keep the first `dim` numbers, after the norm; 0 keeps all.
    """
    if layer_norm:
        pooled = standardize(pooled, 1e-5)
    return pooled[:, :dim] if dim else pooled
