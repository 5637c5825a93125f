"""Encoded pictures to pixels: what is refused unread, plain JPEG by libjpeg-turbo, everything else by Pillow.

Two policies for pictures that are not plain 8-bit RGB. `reference` does what open_clip and contrastors do, bit for bit:
the picture stays in its own mode until it is resized, then `convert("RGB")`; alpha is dropped, 16-bit grey saturates,
EXIF is ignored. `clean` is ours: EXIF orientation is applied, 16-bit grey is scaled to 8 bits, alpha is laid on white,
and all that before any resizing. Colour profiles are ignored by both; a GIF gives its first frame.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
from PIL import BmpImagePlugin, GifImagePlugin, Image, ImageOps, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from lit_tune.data.sample import BadSample
from lit_tune.data.tar_index import image_format

Picture = np.ndarray | Image.Image  # uint8 (h, w, 3), or a picture in its own mode under `reference`

WHITE = (255, 255, 255)
EXIF_ORIENTATION = 0x0112
EXIF_NAME = b"Exif\0\0"
APP1, START_OF_SCAN = 0xE1, 0xDA  # markers of a JPEG's segments, ITU-T T.81 table B.1
# Colour spaces of a JPEG that both decoders turn into the same bytes; CMYK they do not.
SAME_PIXELS = ("YCbCr", "Gray")


class _FirstFrame(GifImagePlugin.GifImageFile):
    """A GIF of which one frame is wanted.

    While it reads the header Pillow fills what the next frame would start from: 43 bytes of GIF take 160 MB before
    anyone can look at the size. Here no frame asks for that.
    """

    def data(self) -> bytes | None:
        """The next part of an extension, the bits cleared that say how a frame is disposed of (GIF89a, 23)."""
        part = super().data()
        return bytes([part[0] & ~0b11100]) + part[1:] if part else part


# The readers are called directly: Image.open would try formats we refuse and warn, not stop, at half of its own limit.
READERS: dict[str, Callable[[io.BytesIO], Image.Image]] = {
    "JPEG": JpegImagePlugin.jpeg_factory,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": _FirstFrame,
}


@dataclass(frozen=True)
class Limits:
    """What is refused before decoding: more encoded bytes, more pixels, a more extreme shape.

    `max_pixels` is of width x height, `max_aspect` of the longer side to the shorter one (0 for none), `min_side` the
    least that the shorter side may have.
    """

    max_bytes: int = 32 << 20
    max_pixels: int = 1 << 26
    max_aspect: float = 0.0
    min_side: int = 0

    @classmethod
    def of(cls, data: Any) -> "Limits":
        """Those of a run: `config.data`."""
        return cls(data.max_image_mib << 20, data.max_pixels, data.max_aspect, data.min_side)


LIMITS = Limits()


def load_pixels(data: bytes, policy: str, limits: Limits = LIMITS, canvas: np.ndarray | None = None) -> Picture:
    """The decoded picture: uint8 (h, w, 3), or a picture in another mode of its own under `reference`.

    A plain JPEG is decoded by libjpeg-turbo without Pillow around it, to the same bytes.

    Args:
        data, policy, limits: as `load_image`.
        canvas: uint8 (H, W, 3) in C order: a plain JPEG of its width is decoded into its first rows where it is high
            enough, and what is returned is a view of them. It may be written to also where something else is returned.

    Raises:
        BadSample: as `load_image`.
    """
    pixels = _plain_jpeg(data, policy, limits, canvas)
    if pixels is not None:
        return pixels
    image = load_image(data, policy, limits)
    return np.asarray(image) if image.mode == "RGB" else image


def load_image(data: bytes, policy: str, limits: Limits = LIMITS) -> Image.Image:
    """The picture decoded by Pillow: RGB under `clean`, in its own mode under `reference`.

    Args:
        data: an encoded picture; the format is told by content, never by name.
        policy: "clean" or "reference", see the head of this module.
        limits: what is refused unread.

    Raises:
        BadSample: empty_image, too_many_bytes, too_many_pixels, extreme_aspect, too_small, unknown_format or
            undecodable.
    """
    kind = _format(data, limits)
    try:
        # A PNG of 10 kB can hold 400 megapixels: the header is all that is looked at before the limits are.
        image = READERS[kind](io.BytesIO(data))
        check_size(image.width, image.height, limits)
        _check_png(image, data)
        image.load()
        return image if policy == "reference" else _clean(image)
    except BadSample:
        raise
    except Exception as error:  # Pillow's readers raise a dozen types on hostile bytes, struct.error and KeyError too
        raise BadSample("undecodable") from error


def decode(data: bytes, policy: str, limits: Limits = LIMITS) -> np.ndarray:
    """The picture as uint8 (h, w, 3). Arguments and errors as `load_image`."""
    return pixels_of(load_pixels(data, policy, limits))


def pixels_of(picture: Picture) -> np.ndarray:
    """A picture as uint8 (h, w, 3)."""
    return picture if isinstance(picture, np.ndarray) else np.asarray(rgb(picture))


def rgb(image: Image.Image) -> Image.Image:
    """`image` in mode RGB, by Pillow's own rule: alpha is dropped."""
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours, without the warning of the direct way
    return image if image.mode == "RGB" else image.convert("RGB")


def _format(data: bytes, limits: Limits) -> str:
    """The picture's format, one of READERS; refused where nothing, too much or something else is there."""
    if not data:
        raise BadSample("empty_image")
    if len(data) > limits.max_bytes:
        raise BadSample("too_many_bytes")
    kind = image_format(data[:12])
    if kind not in READERS:
        raise BadSample("unknown_format")
    return kind


def check_size(width: int, height: int, limits: Limits) -> None:
    """Refuse a picture by what its header says."""
    if width * height > limits.max_pixels:
        raise BadSample("too_many_pixels")
    if limits.max_aspect and max(width, height) > limits.max_aspect * min(width, height):
        raise BadSample("extreme_aspect")
    if min(width, height) < limits.min_side:
        raise BadSample("too_small")


def _plain_jpeg(data: bytes, policy: str, limits: Limits, canvas: np.ndarray | None = None) -> np.ndarray | None:
    """The pixels of a JPEG that both decoders agree on; None for Pillow to decide on everything else.

    The decoder is strict: bytes missing or damaged in any way make it give up, and Pillow says whether the picture is
    refused (cut) or read all the same (a recoverable fault), as it always did.
    """
    if _format(data, limits) != "JPEG":
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        if space not in SAME_PIXELS:
            return None
        check_size(width, height, limits)
        if policy == "clean" and _may_be_turned(data):
            return None
        fits = canvas is not None and width == canvas.shape[1] and height <= canvas.shape[0]
        # The slow settings are Pillow's: an accurate DCT and smooth upsampling of the colours.
        return simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False, buffer=canvas if fits else None)
    except ValueError:
        return None


def _may_be_turned(data: bytes) -> bool:
    """Whether a JPEG's EXIF asks for another orientation; True also where its segments cannot be walked."""
    at = 2
    while True:
        marker = data[at : at + 4]
        if len(marker) < 4 or marker[0] != 0xFF or marker[1] == 0xFF:
            return True
        if marker[1] == START_OF_SCAN:
            return False
        if marker[1] == APP1 and data[at + 4 : at + 10] == EXIF_NAME:
            return _turned(data)
        at += 2 + int.from_bytes(marker[2:], "big")


def _turned(data: bytes) -> bool:
    """Whether the orientation that Pillow finds in a JPEG's EXIF is another than upright."""
    try:
        return _orientation(JpegImagePlugin.jpeg_factory(io.BytesIO(data))) != 1
    except Exception:  # a header that Pillow cannot read: it will say so itself
        return True


def _check_png(image: Image.Image, data: bytes) -> None:
    """Check the checksums of a PNG's chunks: decoding alone skips those of the pixel data."""
    if isinstance(image, PngImagePlugin.PngImageFile):
        PngImagePlugin.PngImageFile(io.BytesIO(data)).verify()


def _clean(image: Image.Image) -> Image.Image:
    """RGB, upright, 16-bit grey scaled, transparency laid on white."""
    image = _upright(image)
    if image.mode.startswith("I"):  # 16-bit grey: I;16 or I, by the reader's choice
        grey = np.asarray(image).astype(np.float32) * (255 / 65535)
        image = Image.fromarray(np.clip(grey + 0.5, 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")  # palettes and grey with a transparent value too
        page = Image.new("RGBA", image.size, (*WHITE, 255))
        return Image.alpha_composite(page, image).convert("RGB")
    return rgb(image)


def _upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF orientation says; unreadable EXIF says nothing."""
    if "exif" not in image.info:
        return image
    try:
        return ImageOps.exif_transpose(image) if _orientation(image) != 1 else image
    except Exception:  # EXIF is a TIFF file of its own, broken in many ways; the pixels are fine
        return image


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8; 1 for what is none."""
    found = image.getexif().get(EXIF_ORIENTATION, 1)
    return found if found in range(2, 9) else 1
