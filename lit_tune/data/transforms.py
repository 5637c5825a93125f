"""Pictures on the host: limits, decoding, the evaluation transform and the training transform. Pillow and numpy only.

Two policies for pictures that are not plain 8-bit RGB. `reference` does what open_clip and contrastors do, bit for bit:
resize in the picture's own mode, then `convert("RGB")`; alpha is dropped, 16-bit grey saturates, EXIF is ignored.
`clean` is ours: EXIF orientation is applied, 16-bit grey is scaled to 8 bits, alpha is laid on white, and all that
before any resizing. Colour profiles are ignored by both; a GIF gives its first frame.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import BmpImagePlugin, GifImagePlugin, Image, ImageOps, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from lit_tune.data.sample import BadSample
from lit_tune.data.tar_index import image_format

BICUBIC = Image.Resampling.BICUBIC  # antialiased in Pillow's resize
FILTERS = {"bicubic": BICUBIC, "bilinear": Image.Resampling.BILINEAR}  # likewise
WHITE = (255, 255, 255)
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601-2, as Pillow's convert("L")
CROP_TRIES = 10  # torchvision.transforms.RandomResizedCrop
SHARP_AFFINE = 1.5  # source pixels a target pixel above which an affine sample alone would alias visibly
EXIF_ORIENTATION = 0x0112

# The readers are called directly: Image.open would try formats we refuse and warn, not stop, at half of its own limit.
READERS: dict[str, Callable[[io.BytesIO], Image.Image]] = {
    "JPEG": JpegImagePlugin.jpeg_factory,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
}


@dataclass(frozen=True)
class Limits:
    """What is refused before decoding: more encoded bytes or more pixels (width x height) than this."""

    max_bytes: int = 32 << 20
    max_pixels: int = 1 << 26


@dataclass(frozen=True)
class Augment:
    """Strengths of the training transform, named and meant as in config.data."""

    crop_scale: tuple[float, float] = (0.9, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.0
    color_jitter: float = 0.0
    grayscale: float = 0.0
    rotate: float = 0.0


def load_image(data: bytes, policy: str, limits: Limits = Limits()) -> Image.Image:
    """The decoded picture: RGB under `clean`, in its own mode under `reference`.

    Args:
        data: an encoded picture; the format is told by content, never by name.
        policy: "clean" or "reference", see the head of this module.
        limits: bytes and pixels above which it is refused unread.

    Raises:
        BadSample: empty_image, too_many_bytes, too_many_pixels, unknown_format or undecodable.
    """
    if not data:
        raise BadSample("empty_image")
    if len(data) > limits.max_bytes:
        raise BadSample("too_many_bytes")
    kind = image_format(data[:12])
    if kind not in READERS:
        raise BadSample("unknown_format")
    try:
        # A PNG of 10 kB can hold 400 megapixels: the header is all that is looked at before the limits are.
        image = READERS[kind](io.BytesIO(data))
        if image.width * image.height > limits.max_pixels:
            raise BadSample("too_many_pixels")
        _check_png(image, data)
        image.load()
        return image if policy == "reference" else _clean(image)
    except BadSample:
        raise
    except Exception as error:  # Pillow's readers raise a dozen types on hostile bytes, struct.error and KeyError too
        raise BadSample("undecodable") from error


def decode(data: bytes, policy: str, limits: Limits = Limits()) -> np.ndarray:
    """The picture as uint8 (h, w, 3). Arguments and errors as `load_image`."""
    return np.asarray(_rgb(load_image(data, policy, limits)))


def _check_png(image: Image.Image, data: bytes) -> None:
    """Check the checksums of a PNG's chunks: decoding alone skips those of the pixel data."""
    if isinstance(image, PngImagePlugin.PngImageFile):
        PngImagePlugin.PngImageFile(io.BytesIO(data)).verify()


def _rgb(image: Image.Image) -> Image.Image:
    """`image` in mode RGB, by Pillow's own rule: alpha is dropped."""
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours, without the warning of the direct way
    return image if image.mode == "RGB" else image.convert("RGB")


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
    return _rgb(image)


def _upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF orientation says; unreadable EXIF says nothing."""
    if "exif" not in image.info:
        return image
    try:
        turned = image.getexif().get(EXIF_ORIENTATION, 1) in range(2, 9)
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:  # EXIF is a TIFF file of its own, broken in many ways; the pixels are fine
        return image


def eval_transform(
    data: bytes,
    image_size: tuple[int, int],
    policy: str,
    resize: str,
    limits: Limits = Limits(),
    *,
    interpolation: str = "bicubic",
    crop_pct: float = 1.0,
) -> np.ndarray:
    """The picture as the towers see it in evaluation, uint8 (h, w, 3) before mean and std.

    Args:
        data: an encoded picture.
        image_size: (height, width) of the result.
        policy: "clean" or "reference".
        resize: "shortest": the shorter side to size, then the centre; "squash": both sides at once.
        limits: see `load_image`.
        interpolation: one of FILTERS.
        crop_pct: share of the resized picture's side that the centre crop keeps (timm's word and rule).

    Raises:
        BadSample: as `load_image`.

    Source: torchvision.transforms Resize and CenterCrop, as open_clip, timm and contrastors use them.
    """
    image = load_image(data, policy, limits)
    return np.asarray(_rgb(_fit(image, image_size, resize, FILTERS[interpolation], crop_pct)))


def _fit(
    image: Image.Image, image_size: tuple[int, int], resize: str, resample: Image.Resampling, crop_pct: float
) -> Image.Image:
    """`image`, still in its own mode, brought to (height, width)."""
    height, width = image_size
    tall, wide = (math.floor(side / crop_pct + 1e-9) for side in image_size)  # 32 / (32 / 36) must be 36
    size = (wide, tall) if resize == "squash" else _covering_size(image.size, wide, tall)
    image = image.resize(size, resample)
    left = round((image.width - width) / 2)  # Python's round: .5 goes to even, as torchvision does
    top = round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def _covering_size(size: tuple[int, int], width: int, height: int) -> tuple[int, int]:
    """(width, height) of the smallest picture of `size`'s shape that covers the target; the long side rounds down."""
    if size[0] * height <= size[1] * width:  # relatively narrower than the target: its width decides
        return width, max(height, int(width * size[1] / size[0]))
    return max(width, int(height * size[0] / size[1])), height


def train_transform(
    image: np.ndarray | Image.Image, rng: np.random.Generator, image_size: tuple[int, int], augment: Augment
) -> np.ndarray:
    """A random view of a picture, uint8 (h, w, 3).

    Crop and resize (one affine sample together with the rotation, where there is one), flip, colours. All random
    numbers are drawn from `rng` in a fixed order, whatever is switched on, so a view depends on (picture, rng) only.

    Args:
        image: uint8 (h, w, 3), or a picture of `load_image`.
        rng: the generator of this position of the run.
        image_size: (height, width) of the result.
        augment: strengths.
    """
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    box = crop_box(image.width, image.height, rng, augment.crop_scale, augment.crop_ratio)
    flip, gray, angle, *strengths = rng.random(6).tolist()
    if augment.rotate:
        view = _rotated_crop(_rgb(image), box, image_size, math.radians(augment.rotate) * (2 * angle - 1))
    else:
        left, top, width, height = box
        cut = image.crop((left, top, left + width, top + height))  # first: a resize with a box would see beyond it
        view = _rgb(cut.resize(image_size[::-1], BICUBIC))
    if flip < augment.flip:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(_recolour(view, augment.color_jitter, strengths, gray < augment.grayscale))


def crop_box(
    width: int, height: int, rng: np.random.Generator, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """A random box (left, top, width, height): area uniform in `scale`, shape log-uniform in `ratio` (width / height).

    Ten tries; then the largest centred box whose shape is allowed.

    Args:
        width: of the picture, pixels.
        height: of the picture, pixels.
        rng: source of the numbers; always draws the same count.
        scale: (low, high) share of the picture's area.
        ratio: (low, high) of width / height.

    Source: torchvision.transforms.RandomResizedCrop.get_params.
    """
    # All tries at once: numpy's price is per call, and the generator moves on by the same count for every picture.
    draws = rng.random((4, CROP_TRIES))
    area = width * height * (scale[0] + (scale[1] - scale[0]) * draws[0])
    shape = np.exp(math.log(ratio[0]) + math.log(ratio[1] / ratio[0]) * draws[1])
    widths = np.rint(np.sqrt(area * shape)).astype(int)
    heights = np.rint(np.sqrt(area / shape)).astype(int)
    fits = (0 < widths) & (widths <= width) & (0 < heights) & (heights <= height)
    if not fits.any():
        return _fallback_box(width, height, ratio)
    first = int(fits.argmax())
    w, h = int(widths[first]), int(heights[first])
    left, top = int(draws[2, first] * (width - w + 1)), int(draws[3, first] * (height - h + 1))
    return left, top, w, h


def _fallback_box(width: int, height: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    """The largest centred box of an allowed shape."""
    w, h = width, height
    if width / height < ratio[0]:
        h = min(height, max(1, round(width / ratio[0])))
    elif width / height > ratio[1]:
        w = min(width, max(1, round(height * ratio[1])))
    return (width - w) // 2, (height - h) // 2, w, h


def _rotated_crop(
    image: Image.Image, box: tuple[int, int, int, int], image_size: tuple[int, int], angle: float
) -> Image.Image:
    """`box` of the picture rotated by `angle` (radians, about its centre), at `image_size`; white where nothing is.

    One bicubic affine sample of the original, which does not antialias: a picture with more than SHARP_AFFINE source
    pixels a target pixel is reduced by an antialiased resize first.
    """
    left, top, width, height = box
    rows, columns = image_size
    across, down = width / columns, height / rows  # source pixels a target pixel
    if max(across, down) > SHARP_AFFINE:
        reduced = (max(1, round(image.width / across)), max(1, round(image.height / down)))
        shrink_x, shrink_y = reduced[0] / image.width, reduced[1] / image.height
        image = image.resize(reduced, BICUBIC)
    else:
        shrink_x = shrink_y = 1.0
    # Target pixel -> unrotated source -> rotated about the centre, in the original's units, then in the reduced ones.
    middle_x, middle_y = image.width / shrink_x / 2, image.height / shrink_y / 2
    cos, sin = math.cos(angle), math.sin(angle)
    x0, y0 = left - middle_x, top - middle_y
    matrix = (
        shrink_x * cos * across, -shrink_x * sin * down, shrink_x * (cos * x0 - sin * y0 + middle_x),
        shrink_y * sin * across, shrink_y * cos * down, shrink_y * (sin * x0 + cos * y0 + middle_y),
    )  # fmt: skip
    return image.transform(
        (columns, rows), Image.Transform.AFFINE, matrix, resample=BICUBIC, fill=1, fillcolor=WHITE
    )


def _recolour(image: Image.Image, jitter: float, draws: list[float], gray: bool) -> Image.Image:
    """Brightness, contrast and saturation each scaled by a factor in [1 - jitter, 1 + jitter]; grey where asked.

    All three are linear in the pixel, so they are one colour matrix with one clip at the end (torchvision clips after
    each).

    Args:
        image: RGB.
        jitter: 0 for none.
        draws: three numbers in [0, 1).
        gray: drop all colour.
    """
    if not jitter and not gray:
        return image
    brightness, contrast, saturation = (1 + jitter * (2 * draw - 1) for draw in draws)
    saturation = 0.0 if gray else saturation
    # out = b * (c * (s * rgb + (1 - s) * luma) + (1 - c) * mean luma), as rows of a 3 x 4 matrix.
    matrix = np.zeros((3, 4))
    matrix[:, :3] = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * np.array(LUMA))
    if jitter:
        mean = image.convert("L").resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
        matrix[:, 3] = brightness * (1 - contrast) * mean
    return image.convert("RGB", tuple(matrix.ravel().tolist()))
