"""The losses as their formulas stand, the whole n x m table stored and gradients by autodiff: the reference.

Tests, `plan` and `bench` compare the memory-bounded forms with these.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int, UInt32

from lit_tune.losses import shapes

# A masked logit: finite, so that a column with every row masked has a finite log-sum-exp and no NaN in its gradient.
_MASKED = float(jnp.finfo(jnp.float32).min)


class Pairs(NamedTuple):
    """The n x m table of a batch: cosines, and which entries are the right ones or count for nothing."""

    cosines: Float[jax.Array, "n m"]
    own: Bool[jax.Array, "n m"]  # one True a row: the image's own text
    masked: Bool[jax.Array, "n m"] | None  # other texts with an equal caption; None where nothing is masked
    positives: Int[jax.Array, " n"]  # column of the True


def softmax(
    zimg: Float[ArrayLike, "n d"],
    ztxt: Float[ArrayLike, "m d"],
    log_scale: ArrayLike,
    *,
    mesh: Mesh | None = None,
    positives: Int[ArrayLike, " n"] | None = None,
    caption_ids: UInt32[ArrayLike, "m 2"] | None = None,
    frozen_text: bool = True,
) -> tuple[Float[jax.Array, ""], dict[str, jax.Array]]:
    """`lit_tune.losses.softmax_loss_and_metrics` in float32, for one width; the metrics carry gradients."""
    pairs = _compare(zimg, ztxt, mesh, positives, caption_ids, frozen_text)
    logits = jnp.exp(log_scale) * pairs.cosines  # (n, m)
    own = jnp.sum(jnp.where(pairs.own, logits, 0.0), axis=1)  # (n,) each image with its own text
    if pairs.masked is not None:
        logits = jnp.where(pairs.masked, _MASKED, logits)
    loss_i2t = jnp.mean(jax.nn.logsumexp(logits, axis=1) - own)
    loss_t2i = jnp.mean(jax.nn.logsumexp(logits, axis=0)[pairs.positives] - own)
    loss = (loss_i2t + loss_t2i) / 2
    return loss, {"loss_i2t": loss_i2t, "loss_t2i": loss_t2i} | _pair_metrics(pairs)


def sigmoid(
    zimg: Float[ArrayLike, "n d"],
    ztxt: Float[ArrayLike, "m d"],
    log_scale: ArrayLike,
    logit_bias: ArrayLike,
    *,
    mesh: Mesh | None = None,
    positives: Int[ArrayLike, " n"] | None = None,
    caption_ids: UInt32[ArrayLike, "m 2"] | None = None,
    frozen_text: bool = True,
) -> tuple[Float[jax.Array, ""], dict[str, jax.Array]]:
    """`lit_tune.losses.sigmoid_loss_and_metrics` in float32, for one width; the metrics carry gradients."""
    pairs = _compare(zimg, ztxt, mesh, positives, caption_ids, frozen_text)
    logits = jnp.exp(log_scale) * pairs.cosines + logit_bias  # (n, m)
    loglik = jax.nn.log_sigmoid(jnp.where(pairs.own, logits, -logits))
    if pairs.masked is not None:
        loglik = jnp.where(pairs.masked, 0.0, loglik)
    return -jnp.mean(jnp.sum(loglik, axis=1)), _pair_metrics(pairs)


def open_clip_softmax(
    zimg: Float[ArrayLike, "n d"],
    ztxt: Float[ArrayLike, "n d"],
    log_scale: ArrayLike,
    *,
    mesh: Mesh,
) -> Float[jax.Array, ""]:
    """The softmax loss as open_clip computes it with local_loss and gather_with_grad: what ours is measured against.

    Each device gathers images and texts and makes two n_local x n tables of logits, its images against all texts and
    its texts against all images; autodiff keeps both. Products are in the dtype of `ztxt`.

    Source: open_clip, src/open_clip/loss.py, ClipLoss.
    """

    def local(image: jax.Array, text: jax.Array, log_scale: jax.Array) -> jax.Array:
        image = image.astype(text.dtype)
        images, texts = (lax.all_gather(rows, shapes.AXES, tiled=True) for rows in (image, text))
        precision = lax.Precision.HIGHEST if text.dtype == jnp.float32 else None
        cost = 0.0
        for ours, all_theirs, own in ((image, texts, text), (text, images, image)):
            logits = jnp.exp(log_scale) * jnp.einsum("nd,md->nm", ours, all_theirs, precision=precision,
                                                     preferred_element_type=jnp.float32)
            own = jnp.exp(log_scale) * jnp.sum(jnp.float32(ours) * jnp.float32(own), axis=1)
            cost += jnp.sum(jax.nn.logsumexp(logits, axis=1) - own)
        return lax.psum(cost, shapes.AXES) / (2 * images.shape[0])

    rows, whole = PartitionSpec(shapes.AXES), PartitionSpec()
    return jax.shard_map(local, mesh=mesh, in_specs=(rows, rows, whole), out_specs=whole, check_vma=False)(
        jnp.asarray(zimg), jnp.asarray(ztxt), jnp.asarray(log_scale))


def _compare(zimg: ArrayLike, ztxt: ArrayLike, mesh: Mesh | None, positives: ArrayLike | None,
             caption_ids: ArrayLike | None, frozen_text: bool) -> Pairs:
    """The table of one batch, text gathered."""
    zimg, ztxt = jnp.asarray(zimg), jnp.asarray(ztxt)
    shapes.check(zimg, ztxt, positives, caption_ids)
    n, m = zimg.shape[0], ztxt.shape[0]
    positives = jnp.arange(n) if positives is None else jnp.asarray(positives)
    ztxt = _gather(jax.lax.stop_gradient(ztxt) if frozen_text else ztxt, mesh)  # (m, d) on every device
    # By default a TPU multiplies float32 in bfloat16 passes: errors up to 0.2 % a factor, 0.4 in a logit at scale 100.
    cosines = jnp.dot(jnp.float32(zimg), jnp.float32(ztxt).T, precision=jax.lax.Precision.HIGHEST,
                      preferred_element_type=jnp.float32)  # (n, m)
    own = positives[:, None] == jnp.arange(m)  # (n, m)
    masked = None
    if caption_ids is not None:
        ids = _gather(jnp.asarray(caption_ids), mesh)  # (m, 2), eight bytes a caption
        mine = ids[positives]  # (n, 2)
        masked = (mine[:, None, 0] == ids[:, 0]) & (mine[:, None, 1] == ids[:, 1]) & ~own
    return Pairs(cosines, own, masked, positives)


def _gather(rows: jax.Array, mesh: Mesh | None) -> jax.Array:
    """The rows on every device, in the dtype they arrive in."""
    if mesh is None:
        return rows
    return jax.lax.with_sharding_constraint(rows, NamedSharding(mesh, PartitionSpec()))


def _pair_metrics(pairs: Pairs) -> dict[str, jax.Array]:
    """{cos_pos, cos_neg, masked_frac}: mean cosine of own and of other texts, and the share of the others masked."""
    n, m = pairs.own.shape
    pair_count = float(n * (m - 1))  # beyond int32 at the paper's batch
    others = ~pairs.own if pairs.masked is None else ~(pairs.own | pairs.masked)
    # Sums along rows first: a count near n * m (4.3e9 at the paper's batch) is beyond int32, and ones are lost in one
    # float32 sum of that length. Nothing is counted that is known: a count of `own` alone has no sharded operand, and
    # the compiler would make the whole table on every device.
    masked = jnp.float32(0) if pairs.masked is None else jnp.sum(jnp.sum(pairs.masked, axis=1, dtype=jnp.float32))
    negatives = jnp.sum(jnp.sum(jnp.where(others, pairs.cosines, 0.0), axis=1))
    positive = jnp.mean(jnp.sum(jnp.where(pairs.own, pairs.cosines, 0.0), axis=1))
    return {"cos_pos": positive, "cos_neg": negatives / jnp.maximum(pair_count - masked, 1.0),
            "masked_frac": masked / max(pair_count, 1.0)}
