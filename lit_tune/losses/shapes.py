"""Which arguments of a loss fit together; what does not is refused with both sizes."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import ArrayLike

from lit_tune import errors

AXES = ("data", "fsdp")  # mesh axes that the rows are cut over; a tensor axis repeats the work


def devices(mesh: Mesh | None) -> int:
    """Parts that the rows are cut into."""
    return 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]


def check(zimg: jax.Array, ztxt: jax.Array, positives: ArrayLike | None, caption_ids: ArrayLike | None) -> None:
    """Nothing, if the shapes fit together.

    Raises:
        ValueError: they do not.
    """
    if zimg.ndim != 2 or ztxt.ndim != 2 or zimg.shape[1] != ztxt.shape[1]:
        raise ValueError(errors.explain(
            "zimg and ztxt", expected="(n, d) and (m, d) with one d", found=f"{zimg.shape} and {ztxt.shape}",
            do="give both towers the same width (config.vision.embed_dim)"))
    n, m = zimg.shape[0], ztxt.shape[0]
    if m < n and positives is None:
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


def check_even(n: int, m: int, mesh: Mesh | None) -> None:
    """Nothing, if images and texts can be cut evenly over the mesh.

    Raises:
        ValueError: they cannot.
    """
    parts = devices(mesh)
    if n % parts or m % parts:
        raise ValueError(errors.explain(
            "rows of zimg and ztxt", expected=f"multiples of the {parts} devices along {' x '.join(AXES)}",
            found=f"{n} and {m}", do="choose batch and extra texts that divide"))


def check_widths(width: int, dims: tuple[int, ...], scalars: tuple[jax.Array, ...]) -> None:
    """Nothing, if the nested widths start with the full one and every scalar has one value a width.

    Raises:
        ValueError: they do not.
    """
    if dims and (dims[0] != width or min(dims) < 1 or max(dims) > width):
        raise ValueError(errors.explain(
            "dims", expected=f"widths within 1 to {width}, the full one first", found=dims,
            do="put the full width before the nested ones"))
    wanted = (len(dims),) if dims else ()
    wrong = [scalar.shape for scalar in scalars if scalar.shape != wanted]
    if wrong:
        raise ValueError(errors.explain(
            "log_scale and logit_bias", expected=f"shape {wanted}", found=wrong[0], do="give one value a width"))
