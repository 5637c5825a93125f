"""Pictures to measure decoding on: named photographs, ones made here, or the first ones of someone's own shards."""

import hashlib
import importlib.util
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, ImageFilter

from lit_tune.data.decoding import LIMITS
from lit_tune.data.sample import BadSample, Source
from lit_tune.data.tar_index import image_format
from lit_tune.errors import ConfigError, DataError, explain

# A photograph's spectrum falls with the frequency (D. J. Field 1987, amplitude ~ 1/f); most of it is grey.
COLOURS = np.array([[1.0, 0.9, 0.8], [0.12, -0.05, -0.12], [-0.05, 0.08, -0.05]])
TEXTURE, OBJECTS, BLUR = 30.0, 14, 1.0  # levels, shapes with edges, pixels: such files have the sizes of photographs'


class Kind(NamedTuple):
    """Pictures as shards hold them: pixels and JPEG quality."""

    name: str
    width: int
    height: int
    quality: int


KIND = Kind("512x384 q95", 512, 384, 95)  # what img2dataset writes for DataComp
# Two photographs of 640x427 pixels by danielbuechele and vultilion on Flickr (CC BY 2.0), which scikit-learn ships.
PHOTOGRAPHS = {"china.jpg": "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
               "flower.jpg": "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638"}  # name: sha256
MADE = "made here, no photographs"
LARGEST, SMALLEST = 569, 512  # pixels: widths of the windows of 4:3 that are cut from them; never enlarged


def pictures(which: str, count: int) -> tuple[str, list[bytes]]:
    """(one line on what they are, `count` JPEGs of KIND).

    Args:
        which: "photographs", "made", or "" for photographs where they are installed.
        count: how many.

    Raises:
        ConfigError: another word, or photographs are asked for and not installed.
    """
    if which not in ("", "made", "photographs"):
        raise ConfigError(explain("--pictures", expected="photographs or made", found=repr(which), do="name one"))
    if which == "made":
        return MADE, made(KIND, count)
    files, why = _installed()
    if why and which:
        raise ConfigError(explain("--pictures=photographs", expected=f"{' and '.join(PHOTOGRAPHS)} of scikit-learn",
                                  found=why, do="pip install scikit-learn, or --pictures=made"))  # fmt: skip
    if why:
        return f"{MADE} ({why}; pip install scikit-learn brings two)", made(KIND, count)
    images = [Image.open(file).convert("RGB") for file in files]
    source = (f"{' and '.join(PHOTOGRAPHS)} of scikit-learn {metadata.version('scikit-learn')} (640x427), windows of "
              f"4:3 from {SMALLEST} to {LARGEST} wide brought to {KIND.name}, 4:2:0")  # fmt: skip
    return source, windows(images, KIND, count)


def _installed() -> tuple[list[Path], str]:
    """The files of PHOTOGRAPHS, and why there are none ("" where they are)."""
    package = importlib.util.find_spec("sklearn")  # imports nothing
    if package is None or not package.submodule_search_locations:
        return [], "scikit-learn is not installed"
    folder = Path(package.submodule_search_locations[0]) / "datasets" / "images"
    files = [folder / name for name in PHOTOGRAPHS]
    for file in files:
        if not file.is_file():
            return [], f"no {file.name} in {folder}"
        if hashlib.sha256(file.read_bytes()).hexdigest() != PHOTOGRAPHS[file.name]:
            return [], f"{file} is another picture"
    return files, ""


def windows(images: Sequence[Image.Image], kind: Kind, count: int) -> list[bytes]:
    """`count` JPEGs of a kind (4:2:0): windows of the pictures in turn, every other one mirrored; the same everywhere.

    Args:
        images: of at least LARGEST x LARGEST * 3 / 4 pixels.
        kind: size and quality.
        count: how many.
    """
    rng, found = np.random.default_rng(0), []
    for number in range(count):
        image = images[number % len(images)]
        width = int(rng.integers(SMALLEST, LARGEST + 1))
        height = round(width * 3 / 4)
        left, top = (int(rng.integers(0, room + 1)) for room in (image.width - width, image.height - height))
        cut = image.crop((left, top, left + width, top + height))
        cut = cut.resize((kind.width, kind.height), Image.Resampling.LANCZOS)
        if number % 4 > 1:  # of both photographs
            cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        found.append(_jpeg(cut, kind))
    return found


def _jpeg(image: Image.Image, kind: Kind) -> bytes:
    """A picture as a JPEG of a kind's quality, 4:2:0."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=kind.quality, subsampling=2)
    return out.getvalue()


def made(kind: Kind, count: int) -> list[bytes]:
    """`count` JPEGs of a kind (4:2:0), the same numbers on every machine."""
    return [_jpeg(picture(kind.width, kind.height, seed), kind) for seed in range(count)]


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
    """The first `count` plain JPEGs of a source, and how many others were passed over for them, by what they are.

    Raises:
        DataError: there is no JPEG among its first ones.
    """
    others: Counter[str] = Counter()
    found: list[bytes] = []
    for data in _pictures(source, 20 * count):
        kind = image_format(data[:12])
        if kind == "JPEG" and not _whole(data):
            kind = "damaged JPEG"
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


def _whole(data: bytes) -> bool:
    """Whether the bare decoder, which everything is compared with, finds no fault in a JPEG."""
    try:
        return simplejpeg.decode_jpeg(data, "RGB").size > 0
    except ValueError:
        return False


def _pictures(source: Source, most: int) -> Iterator[bytes]:
    """Encoded pictures in order, bad samples left out."""
    for i in range(min(len(source), most)):
        try:
            yield source.pair(i, LIMITS.max_bytes)[0]
        except BadSample:
            continue
