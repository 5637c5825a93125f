"""How the image and text vectors of a batch lie: figures for the steps that are looked at closely."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float

_ERANK_ROWS = 1_024  # rows whose spectrum is taken: enough for a width of 768, and a bounded eigenvalue problem


def embedding_metrics(zimg: Float[ArrayLike, "n d"], ztxt: Float[ArrayLike, "m d"]) -> dict[str, jax.Array]:
    """How the two clouds lie: {centroid_gap, erank_image, erank_text}, for the steps that are logged.

    centroid_gap is the distance between the two means, in [0, 2]. erank is the effective rank, the exponential of the
    entropy of the covariance's normalised eigenvalues: 1 if all rows lie on a line, d if they fill the space evenly.
    It is taken from the first 1,024 rows; the order of a batch is random.

    Source: effective rank: Roy and Vetterli 2007, EUSIPCO.
    """
    zimg, ztxt = jnp.float32(zimg), jnp.float32(ztxt)
    gap = jnp.linalg.norm(jnp.mean(zimg, axis=0) - jnp.mean(ztxt, axis=0))
    return {"centroid_gap": gap, "erank_image": _effective_rank(zimg), "erank_text": _effective_rank(ztxt)}


def _effective_rank(rows: Float[jax.Array, "n d"]) -> Float[jax.Array, ""]:
    """exp(entropy) of the covariance spectrum of the first rows; 1 for a single point."""
    rows = rows[:_ERANK_ROWS]
    rows = rows - jnp.mean(rows, axis=0)
    n, d = rows.shape
    small = rows.T if d <= n else rows  # the smaller of the two Gram matrices: their eigenvalues agree but for zeros
    gram = jnp.dot(small, small.T, precision=jax.lax.Precision.HIGHEST)  # (min(n, d), min(n, d))
    weights = jnp.maximum(jnp.linalg.eigvalsh(gram), 0.0)  # rounding leaves tiny negative ones
    p = weights / jnp.maximum(jnp.sum(weights), jnp.finfo(jnp.float32).tiny)
    return jnp.exp(jnp.sum(jax.scipy.special.entr(p)))
