"""Crops resized on the device: equal to Pillow's antialiased bicubic and to the host's, in any part of a canvas."""

import jax
import numpy as np
import pytest
from PIL import Image

from lit_tune import device_resize
from lit_tune.data import resizing

BICUBIC = Image.Resampling.BICUBIC
SIZES = ((37, 61), (96, 96), (90, 33), (3, 5), (1, 1), (64, 2), (17, 96), (24, 40))  # (height, width)


def pictures(kind: str) -> list[np.ndarray]:
    """A picture of each size: smooth colours, or noise, where the clip of the first pass shows."""
    rng = np.random.default_rng(0)
    found = []
    for height, width in SIZES:
        if kind == "noise":
            found.append(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
            continue
        y, x = np.mgrid[0:height, 0:width]
        rgb = np.stack([x * 255 / width, y * 255 / height, 127 + 127 * np.sin(x / 5) * np.cos(y / 7)], -1)
        found.append(rgb.astype(np.uint8))
    return found


def on_device(crops: list[np.ndarray], canvas: int, size: tuple[int, int], flips: list[int],
              seed: int | None = None) -> np.ndarray:
    """The crops in canvases full of something else, resized; with a seed anywhere in them, else in the corner."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (len(crops), canvas, canvas, 3), np.uint8)
    numbers = np.zeros((len(crops), 5), np.int32)
    for place, crop, flip, row in zip(image, crops, flips, numbers, strict=True):
        height, width, _ = crop.shape
        top, left = (0, 0) if seed is None else rng.integers(0, (canvas - height + 1, canvas - width + 1))
        place[top : top + height, left : left + width] = crop
        row[:] = top, left, height, width, flip
    return np.asarray(jax.jit(device_resize.resize, static_argnums=2)(image, numbers, size))


def by_pillow(crop: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Down the columns, then across the rows."""
    down = Image.fromarray(crop).resize((crop.shape[1], size[0]), BICUBIC)
    return np.asarray(down.resize(size[::-1], BICUBIC)).astype(int)


@pytest.mark.parametrize("kind", ["smooth", "noise"])
@pytest.mark.parametrize("size", [(32, 32), (48, 20)])
def test_a_crop_is_pillows_antialiased_bicubic_to_one_level_flipped_or_not(kind: str, size: tuple[int, int]) -> None:
    crops = pictures(kind)
    flips = [i % 2 for i in range(len(crops))]
    found = on_device(crops, 96, size, flips).astype(int)
    for crop, flip, ours in zip(crops, flips, found, strict=True):
        gap = np.abs((ours[:, ::-1] if flip else ours) - by_pillow(crop, size))
        assert gap.max() <= 1 and (gap > 0).mean() < 0.03, crop.shape  # exact halves may round either way


@pytest.mark.parametrize("size", [(32, 32), (48, 20)])
def test_the_result_depends_neither_on_the_place_of_a_crop_nor_on_what_lies_around_it(size: tuple[int, int]) -> None:
    crops = pictures("noise")
    flips = [i % 2 for i in range(len(crops))]
    corner = on_device(crops, 96, size, flips)
    for seed in range(4):
        assert np.array_equal(on_device(crops, 96, size, flips, seed), corner)


@pytest.mark.parametrize("kind", ["smooth", "noise"])
def test_the_host_makes_the_same_to_one_level(kind: str) -> None:
    crops = pictures(kind)
    found = on_device(crops, 96, (32, 32), [0] * len(crops)).astype(int)
    for crop, ours in zip(crops, found, strict=True):
        host = resizing.bicubic(crop, (32, 32)).astype(int)
        assert np.abs(host - ours).max() <= 1, crop.shape
        assert np.abs(host - by_pillow(crop, (32, 32))).max() <= 1, crop.shape
