"""A loss of global arrays from what each device computes of it: the gather, the nested widths, the gradient rule.

The gradient is worked out together with the value. What is kept for the backward pass is the gradient itself, n_local
x d floats, and the backward pass is a product with the cotangent. Without differentiation only the value is computed.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Float, Int, UInt32

from lit_tune.losses import blocks, shapes
from lit_tune.losses.blocks import Form

OnDevice = Callable[..., tuple]  # (side, scale[, bias], form, gradient) -> (loss, metrics, gradients or None)
Scalars = tuple[jax.Array, ...]  # log_scale and perhaps the bias, each (k,) for k widths

_SHORTEST = 1e-24  # square of the length of a cut row: its power -3/2, in the gradient, is still finite


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def evaluate(
    on_device: OnDevice,
    form: Form,
    zimg: Float[jax.Array, "n d"],
    ztxt: Float[jax.Array, "m d"],
    positives: Int[jax.Array, " n"] | None,
    ids: UInt32[jax.Array, "m 2"] | None,
    scalars: Scalars,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(loss, metrics) of global arrays; the metrics carry no gradient.

    Args:
        on_device: `softmax.on_device` or `sigmoid.on_device`.
        form: mesh, frozen text, widths, block.
        zimg: (n, d) float32, cut over the mesh.
        ztxt: (m, d), cut over the mesh; gathered in its dtype, which is that of the products.
        positives: (n,) or None, cut over the mesh.
        ids: (m, 2) or None, cut over the mesh.
        scalars: one value a width, on every device.
    """
    return _run(on_device, form, False, zimg, ztxt, positives, ids, scalars)[0]


def _forward(on_device: OnDevice, form: Form, *arrays: Any) -> tuple:
    """The value, and for `_backward` the gradients."""
    return _run(on_device, form, True, *arrays)


def _backward(_: OnDevice, __: Form, kept: tuple, cotangents: tuple) -> tuple:
    """Cotangents of the arrays of `evaluate`."""
    loss = cotangents[0]
    image, text, scalars = kept
    return loss * image, None if text is None else (loss * text).astype(text.dtype), None, None, tuple(
        loss * slope for slope in scalars)


evaluate.defvjp(_forward, _backward)


def _run(on_device: OnDevice, form: Form, gradient: bool, *arrays: Any) -> tuple:
    """((loss, metrics), gradients or None), computed on the devices of the mesh."""
    local = partial(_on_device, on_device, form, gradient)
    if form.mesh is None:
        return local(*arrays)
    rows, whole = PartitionSpec(shapes.AXES), PartitionSpec()
    gradients = (rows, None if form.frozen_text else rows, whole) if gradient else None
    return jax.shard_map(local, mesh=form.mesh, in_specs=(rows, rows, rows, rows, whole),
                         out_specs=(whole, gradients), check_vma=False)(*arrays)


def _on_device(on_device: OnDevice, form: Form, gradient: bool, zimg: jax.Array, ztxt: jax.Array,
               positives: jax.Array | None, ids: jax.Array | None, scalars: Scalars) -> tuple:
    """`_run` on one device's rows: the mean over the widths."""
    text = blocks.gather(ztxt, form.mesh)  # THE gather of the loss: the text, once; the pictures stay where they are
    ids = None if ids is None else blocks.gather(ids, form.mesh)
    dims, found = form.dims or (zimg.shape[1],), []
    for k, dim in enumerate(dims):
        image_cut, image_back = jax.vjp(partial(cut, dim=dim), zimg)
        text_cut, text_back = _cut_text(text, dim, gradient and not form.frozen_text)
        scale = jnp.exp(scalars[0][k])
        side = blocks.make_side(image_cut, text_cut, scale, positives, ids, form.mesh)
        loss, metrics, slopes = on_device(side, scale, *(bias[k] for bias in scalars[1:]), form, gradient)
        if gradient:
            slopes = image_back(slopes[0])[0], None if form.frozen_text else text_back(slopes[1]), slopes[2]
        found.append((loss, metrics, slopes))
    loss = sum(loss for loss, _, _ in found) / len(dims)
    if not gradient:
        return (loss, found[0][1]), None
    image = sum(slopes[0] for _, _, slopes in found) / len(dims)
    text = None
    if not form.frozen_text:
        text = blocks.scatter(sum(slopes[1] for _, _, slopes in found) / len(dims), form.mesh).astype(ztxt.dtype)
    slopes = tuple(jnp.stack(each) / len(dims) for each in zip(*(slopes[2] for _, _, slopes in found), strict=True))
    return (loss, found[0][1]), (image, text, slopes)


def cut(rows: Float[jax.Array, "n d"], dim: int) -> Float[jax.Array, "n k"]:
    """The first `dim` columns, each row of length 1 again; the full width is left as it is."""
    if dim == rows.shape[1]:
        return rows
    rows = rows[:, :dim]
    squares = jnp.sum(jnp.square(rows), axis=1, keepdims=True)
    return rows * lax.rsqrt(jnp.maximum(squares, _SHORTEST))


def _cut_text(text: jax.Array, dim: int, free: bool) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """(the cut of the text in its own dtype, the way back of a float32 gradient)."""
    if dim == text.shape[1]:
        return text, lambda slopes: slopes
    if not free:
        return cut(jnp.float32(text), dim).astype(text.dtype), lambda slopes: slopes
    rows, back = jax.vjp(partial(cut, dim=dim), jnp.float32(text))
    return rows.astype(text.dtype), lambda slopes: back(slopes)[0]
