"""Crops of any size to the tower's size inside the step: antialiased bicubic as two small products a picture.

The host sends each crop somewhere in a square of one size, with the place of its corner, its height, its width and
whether it is flipped (`data.transforms.train_crop`). The weights are worked out from those numbers, so the program has
one shape.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

A = -0.5  # of the cubic: Catmull-Rom, Pillow's BICUBIC


def resize(
    image: UInt8[Array, "b H W 3"], crop: Int[Array, "b 5"], size: tuple[int, int]
) -> UInt8[Array, "b h w 3"]:
    """The crops at `size`: first down the columns, then across the rows, each pass rounded to whole levels.

    The same numbers as `data.resizing.bicubic` on the host and as Pillow's two passes in this order, to one level.

    Args:
        image: canvases; what lies outside a crop is not looked at.
        crop: top, left, height and width of each crop, which lies inside its canvas and has a pixel at least; 1 where
            it is to be flipped, else 0.
        size: (height, width) of the result.
    """
    tall = _weights(crop[:, 0], crop[:, 2], image.shape[1], size[0])
    wide = _weights(crop[:, 1], crop[:, 3], image.shape[2], size[1])
    wide = jnp.where(crop[:, 4, None, None] == 1, wide[:, ::-1], wide)
    rows = _levels(tall, image, "bhH,bHWc->bhWc")
    return _levels(wide, rows, "bwW,bhWc->bhwc")


def _weights(starts: Int[Array, " b"], lengths: Int[Array, " b"], inputs: int, outputs: int) -> Float[Array, "b o i"]:
    """How much each of `inputs` pixels counts in each of `outputs`: 0 outside the `lengths` from `starts` on, sums 1.

    Source: Pillow's precompute_coeffs (src/libImaging/Resample.c): the filter widens with the reduction.
    """
    n = lengths[:, None, None]
    i = jnp.arange(inputs)[None, None, :] - starts[:, None, None]
    o = jnp.arange(outputs)[None, :, None]
    # From the centre of an input to that of an output, in units of the wider of both pixels; whole numbers until here.
    x = jnp.abs(((2 * i + 1) * outputs - (2 * o + 1) * n) / (2 * jnp.maximum(n, outputs)))  # (b, o, i)
    near = ((A + 2) * x - (A + 3)) * x * x + 1
    far = A * (((x - 5) * x + 8) * x - 4)
    weights = jnp.where((i >= 0) & (i < n), jnp.where(x < 1, near, jnp.where(x < 2, far, 0.0)), 0.0)
    return weights / jnp.sum(weights, axis=-1, keepdims=True)


def _levels(weights: Float[Array, "b o i"], levels: UInt8[Array, "..."], product: str) -> UInt8[Array, "..."]:
    """The product as whole levels, 0 to 255.

    Levels are exact in bfloat16, weights in two parts of it nearly (2**-17): two fast passes instead of six of float32.
    """
    # reduce_precision, not a cast: a compiler may take a cast there and back for none
    high = jax.lax.reduce_precision(weights, exponent_bits=8, mantissa_bits=7)
    exact = levels.astype(jnp.bfloat16)
    total = sum(jnp.einsum(product, part.astype(jnp.bfloat16), exact, preferred_element_type=jnp.float32)
                for part in (high, weights - high))
    return jnp.clip(jnp.floor(total + 0.5), 0.0, 255.0).astype(jnp.uint8)
