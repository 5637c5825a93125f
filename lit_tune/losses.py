"""Contrastive losses over the global batch: softmax (CLIP) and sigmoid (SigLIP), values, metrics and gradients.

Every array is global: under a sharded jit `zimg` lies in rows over the devices and the text rows are gathered, once
and in the one line that says so (`_gather_text`). The rest is ordinary array code, so the same function is the formula
on one device and the distributed loss on a thousand.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int, UInt32

from lit_tune import errors

Metrics = dict[str, jax.Array]  # float32 scalars

# A masked logit: finite, so that a column with every row masked has a finite log-sum-exp and no NaN in its gradient.
_MASKED = float(jnp.finfo(jnp.float32).min)
_ERANK_ROWS = 1_024  # rows whose spectrum is taken: enough for a width of 768, and a bounded eigenvalue problem


class Pairs(NamedTuple):
    """The n x m table of a batch: cosines, and which entries are the right ones or count for nothing."""

    cosines: Float[jax.Array, "n m"]
    own: Bool[jax.Array, "n m"]  # one True a row: the image's own text
    masked: Bool[jax.Array, "n m"] | None  # other texts with an equal caption; None where nothing is masked
    positives: Int[jax.Array, " n"]  # column of the True


def softmax_loss(
    zimg: Float[ArrayLike, "n d"],
    ztxt: Float[ArrayLike, "m d"],
    log_scale: ArrayLike,
    *,
    mesh: Mesh | None = None,
    positives: Int[ArrayLike, " n"] | None = None,
    caption_ids: UInt32[ArrayLike, "m 2"] | None = None,
    frozen_text: bool = True,
) -> Float[jax.Array, ""]:
    """The CLIP loss: cross-entropy of each image among all texts and of each text among all images, halved.

        logits[i, j] = exp(log_scale) * zimg[i] . ztxt[j]
        loss = mean_i( lse_j logits[i, j] + lse_k logits[k, p_i] - 2 logits[i, p_i] ) / 2      p_i = positives[i]

    Args:
        zimg: (n, d) unit rows; under a sharded jit, rows over the devices.
        ztxt: (m, d) unit rows, m >= n; float32 or bfloat16 (gathered as it arrives). Rows that are nobody's positive
            are negatives for the images and have no text-to-image term of their own.
        log_scale: log of the factor on the cosines.
        mesh: the mesh to gather the text over; None leaves the placement to the caller.
        positives: (n,) row of `ztxt` that belongs to each image; None: row i belongs to image i.
        caption_ids: (m, 2) words that are equal where captions are; such pairs leave both sums, but for the image's
            own text. None masks nothing.
        frozen_text: no gradient to `ztxt`.

    Returns:
        float32 scalar, the mean over the global batch.

    Raises:
        ValueError: shapes that do not fit together.

    Example:
        >>> rows = jnp.eye(2)
        >>> round(float(softmax_loss(rows, rows, 0.0)), 4)  # log(1 + exp(-1))
        0.3133

    Source: Radford et al. 2021 (arXiv 2103.00020), figure 3.
    """
    return softmax_loss_and_metrics(zimg, ztxt, log_scale, mesh=mesh, positives=positives, caption_ids=caption_ids,
                                    frozen_text=frozen_text)[0]


def sigmoid_loss(
    zimg: Float[ArrayLike, "n d"],
    ztxt: Float[ArrayLike, "m d"],
    log_scale: ArrayLike,
    logit_bias: ArrayLike,
    *,
    mesh: Mesh | None = None,
    positives: Int[ArrayLike, " n"] | None = None,
    caption_ids: UInt32[ArrayLike, "m 2"] | None = None,
    frozen_text: bool = True,
) -> Float[jax.Array, ""]:
    """The SigLIP loss: every pair is its own yes-or-no question; the sum over all pairs, per image.

        loss = -1/n sum_ij log sigmoid( y_ij (exp(log_scale) * zimg[i] . ztxt[j] + logit_bias) )     y = +1 own, -1 else

    Args:
        zimg: (n, d) unit rows; under a sharded jit, rows over the devices.
        ztxt: (m, d) unit rows, m >= n; further rows are negatives.
        log_scale: log of the factor on the cosines (SigLIP starts at ln 10).
        logit_bias: added to every logit (SigLIP starts at -10: nearly all pairs are negative).
        mesh, positives, caption_ids, frozen_text: as in `softmax_loss`; a masked pair has weight 0.

    Returns:
        float32 scalar.

    Raises:
        ValueError: shapes that do not fit together.

    Source: Zhai et al. 2023 (arXiv 2303.15343), algorithm 1.
    """
    return sigmoid_loss_and_metrics(zimg, ztxt, log_scale, logit_bias, mesh=mesh, positives=positives,
                                    caption_ids=caption_ids, frozen_text=frozen_text)[0]


def softmax_loss_and_metrics(
    zimg: Float[ArrayLike, "n d"],
    ztxt: Float[ArrayLike, "m d"],
    log_scale: ArrayLike,
    *,
    mesh: Mesh | None = None,
    positives: Int[ArrayLike, " n"] | None = None,
    caption_ids: UInt32[ArrayLike, "m 2"] | None = None,
    frozen_text: bool = True,
) -> tuple[Float[jax.Array, ""], Metrics]:
    """`softmax_loss` and, from the same table, {loss_i2t, loss_t2i, cos_pos, cos_neg, masked_frac}; same arguments."""
    pairs = _compare(zimg, ztxt, mesh, positives, caption_ids, frozen_text)
    logits = jnp.exp(log_scale) * pairs.cosines  # (n, m)
    own = jnp.sum(jnp.where(pairs.own, logits, 0.0), axis=1)  # (n,) each image with its own text
    if pairs.masked is not None:
        logits = jnp.where(pairs.masked, _MASKED, logits)
    # Down a column the rows live on different devices: what crosses between them are m maxima and m sums, no image.
    loss_i2t = jnp.mean(jax.nn.logsumexp(logits, axis=1) - own)
    loss_t2i = jnp.mean(jax.nn.logsumexp(logits, axis=0)[pairs.positives] - own)
    loss = (loss_i2t + loss_t2i) / 2
    return loss, {"loss_i2t": loss_i2t, "loss_t2i": loss_t2i} | _pair_metrics(pairs)


def sigmoid_loss_and_metrics(
    zimg: Float[ArrayLike, "n d"],
    ztxt: Float[ArrayLike, "m d"],
    log_scale: ArrayLike,
    logit_bias: ArrayLike,
    *,
    mesh: Mesh | None = None,
    positives: Int[ArrayLike, " n"] | None = None,
    caption_ids: UInt32[ArrayLike, "m 2"] | None = None,
    frozen_text: bool = True,
) -> tuple[Float[jax.Array, ""], Metrics]:
    """`sigmoid_loss` and, from the same table, {cos_pos, cos_neg, masked_frac}; same arguments."""
    pairs = _compare(zimg, ztxt, mesh, positives, caption_ids, frozen_text)
    logits = jnp.exp(log_scale) * pairs.cosines + logit_bias  # (n, m)
    loglik = jax.nn.log_sigmoid(jnp.where(pairs.own, logits, -logits))
    if pairs.masked is not None:
        loglik = jnp.where(pairs.masked, 0.0, loglik)
    return -jnp.mean(jnp.sum(loglik, axis=1)), _pair_metrics(pairs)


# The losses a config can name. Each takes (zimg, ztxt, log_scale, [logit_bias,] *, mesh, positives, caption_ids,
# frozen_text) and returns (loss, metrics).
LOSSES: dict[str, Callable[..., tuple[jax.Array, Metrics]]] = {
    "softmax": softmax_loss_and_metrics,
    "sigmoid": sigmoid_loss_and_metrics,
}


def named(name: str) -> Callable[..., tuple[jax.Array, Metrics]]:
    """The entry of `LOSSES` that a config names.

    Raises:
        ConfigError: there is none.
    """
    if name not in LOSSES:
        raise errors.ConfigError(errors.explain(
            "config.loss.name", expected=" or ".join(LOSSES), found=repr(name), do="choose one of them"))
    return LOSSES[name]


def embedding_metrics(zimg: Float[ArrayLike, "n d"], ztxt: Float[ArrayLike, "m d"]) -> Metrics:
    """How the two clouds lie: {centroid_gap, erank_image, erank_text}, for the steps that are logged.

    centroid_gap is the distance between the two means, in [0, 2]. erank is the effective rank, the exponential of the
    entropy of the covariance's normalised eigenvalues: 1 if all rows lie on a line, d if they fill the space evenly.
    It is taken from the first 1,024 rows; the order of a batch is random.

    Source: effective rank: Roy and Vetterli 2007, EUSIPCO.
    """
    zimg, ztxt = jnp.float32(zimg), jnp.float32(ztxt)
    gap = jnp.linalg.norm(jnp.mean(zimg, axis=0) - jnp.mean(ztxt, axis=0))
    return {"centroid_gap": gap, "erank_image": _effective_rank(zimg), "erank_text": _effective_rank(ztxt)}


def _compare(zimg: ArrayLike, ztxt: ArrayLike, mesh: Mesh | None, positives: ArrayLike | None,
             caption_ids: ArrayLike | None, frozen_text: bool) -> Pairs:
    """The table of one batch, text gathered."""
    zimg, ztxt = jnp.asarray(zimg), jnp.asarray(ztxt)
    _check_shapes(zimg, ztxt, positives, caption_ids)
    n, m = zimg.shape[0], ztxt.shape[0]
    positives = jnp.arange(n) if positives is None else jnp.asarray(positives)
    ztxt = _gather_text(jax.lax.stop_gradient(ztxt) if frozen_text else ztxt, mesh)  # (m, d) on every device
    # By default a TPU multiplies float32 in bfloat16 passes: errors up to 0.2 % a factor, 0.4 in a logit at scale 100.
    cosines = jnp.dot(jnp.float32(zimg), jnp.float32(ztxt).T, precision=jax.lax.Precision.HIGHEST,
                      preferred_element_type=jnp.float32)  # (n, m)
    own = positives[:, None] == jnp.arange(m)  # (n, m)
    masked = None
    if caption_ids is not None:
        ids = _gather_text(jnp.asarray(caption_ids), mesh)  # (m, 2), eight bytes a caption
        mine = ids[positives]  # (n, 2)
        # Word by word: (n, m, 2) never exists.
        masked = (mine[:, None, 0] == ids[:, 0]) & (mine[:, None, 1] == ids[:, 1]) & ~own
    return Pairs(cosines, own, masked, positives)


def _gather_text(rows: jax.Array, mesh: Mesh | None) -> jax.Array:
    """The text rows on every device: THE all-gather of the loss, in the dtype the rows arrive in.

    The text and not the images: it is frozen, so nothing flows back through the gather.
    """
    if mesh is None:
        return rows
    return jax.lax.with_sharding_constraint(rows, NamedSharding(mesh, PartitionSpec()))


def _pair_metrics(pairs: Pairs) -> Metrics:
    """{cos_pos, cos_neg, masked_frac}: mean cosine of own and of other texts, and the share of the others masked."""
    n, m = pairs.own.shape
    others = ~pairs.own if pairs.masked is None else ~(pairs.own | pairs.masked)
    # Sums along rows first: a count near n * m (4.3e9 at the paper's batch) is beyond int32, and ones are lost in one
    # float32 sum of that length. Nothing is counted that is known: a count of `own` alone has no sharded operand, and
    # the compiler would make the whole table on every device.
    masked = jnp.float32(0) if pairs.masked is None else jnp.sum(jnp.sum(pairs.masked, axis=1, dtype=jnp.float32))
    negatives = jnp.sum(jnp.sum(jnp.where(others, pairs.cosines, 0.0), axis=1))
    positive = jnp.mean(jnp.sum(jnp.where(pairs.own, pairs.cosines, 0.0), axis=1))
    return {"cos_pos": positive, "cos_neg": negatives / jnp.maximum(n * (m - 1) - masked, 1.0),
            "masked_frac": masked / max(n * (m - 1), 1)}


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


def _check_shapes(zimg: jax.Array, ztxt: jax.Array, positives: ArrayLike | None, caption_ids: ArrayLike | None) -> None:
    """Nothing, if the shapes fit together; else a ValueError that names both sizes."""
    if zimg.ndim != 2 or ztxt.ndim != 2 or zimg.shape[1] != ztxt.shape[1]:
        raise ValueError(errors.explain(
            "zimg and ztxt", expected="(n, d) and (m, d) with one d", found=f"{zimg.shape} and {ztxt.shape}",
            do="give both towers the same width (config.vision.embed_dim)"))
    n, m = zimg.shape[0], ztxt.shape[0]
    if m < n:
        raise ValueError(errors.explain(
            "ztxt", expected=f"at least one text row for each of the {n} images", found=f"{m} rows",
            do="give one row a pair; further rows are negatives"))
    if positives is not None and jnp.shape(positives) != (n,):
        raise ValueError(errors.explain(
            "positives", expected=f"shape ({n},), one a row of zimg", found=jnp.shape(positives),
            do="give the row of ztxt that belongs to each image"))
    if caption_ids is not None and jnp.shape(caption_ids) != (m, 2):
        raise ValueError(errors.explain(
            "caption_ids", expected=f"shape ({m}, 2), one a row of ztxt", found=jnp.shape(caption_ids),
            do="give two uint32 words for each text row, extra rows included"))
