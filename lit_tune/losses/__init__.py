"""Contrastive losses over the global batch: softmax (CLIP) and sigmoid (SigLIP), values, metrics and gradients.

Every array is global, its rows cut over the data axes of the mesh. The formula itself is `plain`; what is called here
never stores its n x m table (`blocks`), on one device or on a thousand (`sharded`).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Float, Int, UInt32

from lit_tune import errors
from lit_tune.losses import shapes, sharded, sigmoid, softmax
from lit_tune.losses.blocks import Form
from lit_tune.losses.clouds import embedding_metrics

__all__ = ["LOSSES", "Metrics", "embedding_metrics", "named", "sigmoid_loss", "sigmoid_loss_and_metrics",
           "softmax_loss", "softmax_loss_and_metrics"]

Metrics = dict[str, jax.Array]  # float32 scalars


def softmax_loss(
    zimg: Float[ArrayLike, "n d"],
    ztxt: Float[ArrayLike, "m d"],
    log_scale: ArrayLike,
    *,
    mesh: Mesh | None = None,
    positives: Int[ArrayLike, " n"] | None = None,
    caption_ids: UInt32[ArrayLike, "m 2"] | None = None,
    frozen_text: bool = True,
    dims: tuple[int, ...] = (),
    block: int | None = None,
) -> Float[jax.Array, ""]:
    """The CLIP loss: cross-entropy of each image among all texts and of each text among all images, halved.

        logits[i, j] = exp(log_scale) * zimg[i] . ztxt[j]
        loss = mean_i( lse_j logits[i, j] + lse_k logits[k, p_i] - 2 logits[i, p_i] ) / 2      p_i = positives[i]

    Args:
        zimg: (n, d) unit rows, cut over the mesh.
        ztxt: (m, d) unit rows, m >= n, cut over the mesh; gathered as they arrive. float32: products in float32.
            bfloat16: the images are rounded too, products have float32 sums. Rows that are nobody's positive are
            negatives for the images and have no text-to-image term of their own.
        log_scale: log of the factor on the cosines.
        mesh: the mesh with axes data and fsdp that the rows are cut over; None leaves the placement to the caller.
        positives: (n,) row of `ztxt` that belongs to each image, in any order and more than once; None: row i
            belongs to image i.
        caption_ids: (m, 2) words that are equal where captions are; such pairs leave both sums, but for the image's
            own text. None masks nothing.
        frozen_text: no gradient to `ztxt`.
        dims: nested widths, first d, then smaller ones: the loss is the mean over the vectors cut to each of them and
            brought to length 1 again. log_scale then has one value a width.
        block: columns of the table at a time; None chooses them.

    Returns:
        float32 scalar, the mean over the global batch.

    Raises:
        ValueError: shapes that do not fit together, or do not divide over the mesh.

    Example:
        >>> rows = jnp.eye(2)
        >>> round(float(softmax_loss(rows, rows, 0.0)), 4)  # log(1 + exp(-1))
        0.3133

    Source: Radford et al. 2021 (arXiv 2103.00020), figure 3; dims: Kusupati et al. 2022 (arXiv 2205.13147).
    """
    return softmax_loss_and_metrics(zimg, ztxt, log_scale, mesh=mesh, positives=positives, caption_ids=caption_ids,
                                    frozen_text=frozen_text, dims=dims, block=block)[0]


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
    dims: tuple[int, ...] = (),
    block: int | None = None,
) -> Float[jax.Array, ""]:
    """The SigLIP loss: every pair is its own yes-or-no question; the sum over all pairs, per image.

        loss = -1/n sum_ij log sigmoid( y_ij (exp(log_scale) * zimg[i] . ztxt[j] + logit_bias) )     y = +1 own, -1 else

    Args:
        zimg: (n, d) unit rows, cut over the mesh.
        ztxt: (m, d) unit rows, m >= n, cut over the mesh; further rows are negatives.
        log_scale: log of the factor on the cosines (SigLIP starts at ln 10).
        logit_bias: added to every logit (SigLIP starts at -10: nearly all pairs are negative); one value a width, too.
        mesh, positives, caption_ids, frozen_text, dims, block: as in `softmax_loss`; a masked pair has weight 0.

    Returns:
        float32 scalar.

    Raises:
        ValueError: shapes that do not fit together, or do not divide over the mesh.

    Source: Zhai et al. 2023 (arXiv 2303.15343), algorithm 1.
    """
    return sigmoid_loss_and_metrics(zimg, ztxt, log_scale, logit_bias, mesh=mesh, positives=positives,
                                    caption_ids=caption_ids, frozen_text=frozen_text, dims=dims, block=block)[0]


def softmax_loss_and_metrics(
    zimg: Float[ArrayLike, "n d"],
    ztxt: Float[ArrayLike, "m d"],
    log_scale: ArrayLike,
    *,
    mesh: Mesh | None = None,
    positives: Int[ArrayLike, " n"] | None = None,
    caption_ids: UInt32[ArrayLike, "m 2"] | None = None,
    frozen_text: bool = True,
    dims: tuple[int, ...] = (),
    block: int | None = None,
) -> tuple[Float[jax.Array, ""], Metrics]:
    """`softmax_loss` and {loss_i2t, loss_t2i, cos_pos, cos_neg, masked_frac} of the full width; same arguments.

    The metrics carry no gradient.
    """
    return _evaluate(softmax.on_device, zimg, ztxt, (log_scale,), positives, caption_ids,
                     Form(mesh, frozen_text, tuple(dims), block))


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
    dims: tuple[int, ...] = (),
    block: int | None = None,
) -> tuple[Float[jax.Array, ""], Metrics]:
    """`sigmoid_loss` and {cos_pos, cos_neg, masked_frac} of the full width; same arguments.

    The metrics carry no gradient.
    """
    return _evaluate(sigmoid.on_device, zimg, ztxt, (log_scale, logit_bias), positives, caption_ids,
                     Form(mesh, frozen_text, tuple(dims), block))


# The losses a config can name. Each takes (zimg, ztxt, log_scale, [logit_bias,] *, mesh, positives, caption_ids,
# frozen_text, dims) and returns (loss, metrics).
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


def _evaluate(on_device: Callable[..., tuple], zimg: ArrayLike, ztxt: ArrayLike, scalars: tuple[ArrayLike, ...],
              positives: ArrayLike | None, caption_ids: ArrayLike | None, form: Form) -> tuple[jax.Array, Metrics]:
    """(loss, metrics), once the arguments are known to fit together."""
    zimg, ztxt, scalars = jnp.asarray(zimg), jnp.asarray(ztxt), tuple(jnp.float32(scalar) for scalar in scalars)
    shapes.check(zimg, ztxt, positives, caption_ids)
    shapes.check_even(zimg.shape[0], ztxt.shape[0], form.mesh)
    shapes.check_widths(zimg.shape[1], form.dims, scalars)
    positives, ids = (None if rows is None else jnp.asarray(rows) for rows in (positives, caption_ids))
    ztxt = jax.lax.stop_gradient(ztxt) if form.frozen_text else ztxt
    return sharded.evaluate(on_device, form, jnp.float32(zimg), ztxt, positives, ids,
                            tuple(scalar.reshape(-1) for scalar in scalars))
