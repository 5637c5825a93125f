"""Pictures to measure decoding on: made here the same everywhere, or the first ones of someone's own shards."""

import io
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from lit_tune.data.decoding import LIMITS
from lit_tune.data.sample import BadSample, Source
from lit_tune.data.tar_index import image_format
from lit_tune.errors import DataError, explain

# A photograph's spectrum falls with the frequency (D. J. Field 1987, amplitude ~ 1/f); most of it is grey.
COLOURS = np.array([[1.0, 0.9, 0.8], [0.12, -0.05, -0.12], [-0.05, 0.08, -0.05]])
TEXTURE, OBJECTS, BLUR = 30.0, 14, 1.0  # levels, shapes with edges, pixels: such files have the sizes of photographs'


class Kind(NamedTuple):
    """Pictures as shards hold them: pixels and JPEG quality."""

    name: str
    width: int
    height: int
    quality: int


# What img2dataset writes for DataComp, and the same re-encoded small.
KINDS = (Kind("512x384 q95", 512, 384, 95), Kind("341x256 q90", 341, 256, 90))


def made(kind: Kind, count: int) -> list[bytes]:
    """`count` JPEGs of a kind (4:2:0), the same numbers on every machine."""
    found = []
    for seed in range(count):
        out = io.BytesIO()
        picture(kind.width, kind.height, seed).save(out, "JPEG", quality=kind.quality, subsampling=2)
        found.append(out.getvalue())
    return found


def picture(width: int, height: int, seed: int) -> Image.Image:
    """Something with the statistics of a photograph: a gradient, shapes with edges, texture whose amplitude is 1/f."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    rgb = 70 + 110 * (y if seed % 2 else x)[..., None] * rng.uniform(0.5, 1.0, 3)
    for _ in range(OBJECTS):
        (cx, cy), radius, colour = rng.random(2), rng.uniform(0.03, 0.25), rng.uniform(20, 235, 3)
        inside = (np.abs(x - cx) < radius) & (np.abs(y - cy) < radius / 2) if rng.random() < 0.5 else (
            (x - cx) ** 2 + (y - cy) ** 2 < radius**2)
        rgb = np.where(inside[..., None], colour * (0.7 + 0.3 * x[..., None]), rgb)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1.0
    noise = rng.standard_normal((3, 2, *frequency.shape))
    texture = np.fft.irfft2((noise[:, 0] + 1j * noise[:, 1]) / frequency, s=(height, width))
    texture /= texture.std((1, 2), keepdims=True)
    rgb = rgb + TEXTURE * np.einsum("chw,cd->hwd", texture, COLOURS)
    return Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(BLUR))


def own(source: Source, count: int) -> tuple[list[bytes], dict[str, int]]:
    """The first `count` JPEGs of a source, and how many pictures of each other format were passed over for them.

    Raises:
        DataError: there is no JPEG among its first ones.
    """
    others: Counter[str] = Counter()
    found: list[bytes] = []
    for data in _pictures(source, 20 * count):
        kind = image_format(data[:12])
        if kind == "JPEG":
            found.append(data)
            if len(found) == count:
                break
        else:
            others[kind] += 1
    if not found:
        raise DataError(explain(source.spec, expected="JPEG pictures, that is what is measured", found=dict(others),
                                do="name other shards, or none for pictures that are made here"))  # fmt: skip
    return found, dict(others)


def _pictures(source: Source, most: int) -> Iterator[bytes]:
    """Encoded pictures in order, bad samples left out."""
    for i in range(min(len(source), most)):
        try:
            yield source.pair(i, LIMITS.max_bytes)[0]
        except BadSample:
            continue
