"""Antialiased bicubic resizing of pictures on the host, several times as fast as Pillow's."""

import numpy as np
from cykooz_resizer import FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer
from jaxtyping import UInt8

# Catmull-Rom is the bicubic with a = -0.5, Pillow's. The convolution widens with the reduction: it antialiases.
ANTIALIASED_BICUBIC = ResizeOptions(ResizeAlg.convolution(FilterType.catmull_rom), use_alpha=False)


def bicubic(pixels: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """`pixels` at another size: first down the columns, then across the rows, each rounded to whole levels.

    Within one level of Pillow's two passes in this order; Pillow 12.3 itself goes across first, 13.0 chooses by the
    sizes. Which comes first shows on hard edges only, where the first pass clips.

    Args:
        pixels: RGB.
        size: (height, width) of the result.

    Source: fast_image_resize, the Rust crate behind cykooz_resizer; it lets other threads run.
    """
    height, width, _ = pixels.shape
    source = ImageData(width, height, PixelType.U8x3, pixels.tobytes())
    result = ImageData(size[1], size[0], PixelType.U8x3)
    Resizer().resize(source, result, ANTIALIASED_BICUBIC)  # its own for each call: one cannot serve two threads
    return np.frombuffer(result.get_buffer(), np.uint8).reshape(*size, 3)


def at_most(pixels: UInt8[np.ndarray, "h w 3"], side: int) -> UInt8[np.ndarray, "H W 3"]:
    """`pixels`, reduced where a side is longer than `side` pixels until none is, in its own shape."""
    longest = max(pixels.shape[:2])
    if longest <= side:
        return pixels
    height, width = (max(1, round(length * side / longest)) for length in pixels.shape[:2])
    return bicubic(pixels, (height, width))
