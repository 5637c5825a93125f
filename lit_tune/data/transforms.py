"""Transforms of decoded pictures on the host: the evaluation transform, and the random view of training.

The view is crop, resize, flip, colours. Under the policy `clean` the crop is resized by `resizing`, under `reference`
by Pillow, bit for bit as the peers do; or it is sent whole and the device resizes it (lit_tune/device_resize.py).
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from lit_tune.data import resizing
from lit_tune.data.decoding import LIMITS, WHITE, Limits, Picture, load_image, pixels_of, rgb

BICUBIC = Image.Resampling.BICUBIC  # antialiased in Pillow's resize
FILTERS = {"bicubic": BICUBIC, "bilinear": Image.Resampling.BILINEAR}  # likewise
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601-2, as Pillow's convert("L")
CROP_TRIES = 10  # torchvision.transforms.RandomResizedCrop
SHARP_AFFINE = 1.5  # source pixels a target pixel above which an affine sample alone would alias visibly
Box = tuple[int, int, int, int]  # left, top, width, height


@dataclass(frozen=True)
class Augment:
    """Strengths of the training transform, named and meant as in config.data."""

    crop_scale: tuple[float, float] = (0.9, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.0
    color_jitter: float = 0.0
    grayscale: float = 0.0
    rotate: float = 0.0


def eval_transform(
    data: bytes,
    image_size: tuple[int, int],
    policy: str,
    resize: str,
    limits: Limits = LIMITS,
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
    return np.asarray(rgb(_fit(image, image_size, resize, FILTERS[interpolation], crop_pct)))


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
    picture: Picture, rng: np.random.Generator, image_size: tuple[int, int], augment: Augment, policy: str = "clean"
) -> np.ndarray:
    """A random view of a picture, uint8 (h, w, 3).

    Crop and resize (one affine sample together with the rotation, where there is one), flip, colours. All random
    numbers are drawn from `rng` in a fixed order, whatever is switched on, so a view depends on (picture, rng) only.

    Args:
        picture: of `decoding.load_pixels` or `load_image`.
        rng: the generator of this position of the run.
        image_size: (height, width) of the result.
        augment: strengths.
        policy: "reference": resized by Pillow, in the picture's own mode; "clean": by `resizing`.
    """
    drawn = _draw(picture, rng, augment)
    if augment.rotate:
        angle = math.radians(augment.rotate) * (2 * drawn.angle - 1)
        view = np.asarray(_rotated_crop(rgb(_image(picture)), drawn.box, image_size, angle))
    elif policy == "reference":
        left, top, width, height = drawn.box
        cut = _image(picture).crop((left, top, left + width, top + height))  # a resize with a box sees beyond it
        view = np.asarray(rgb(cut.resize(image_size[::-1], BICUBIC)))
    else:
        view = resizing.bicubic(_cut(pixels_of(picture), drawn.box), image_size)
    view = view[:, ::-1] if drawn.flip else view
    return _recolour(view, augment.color_jitter, drawn.strengths, drawn.gray)


def train_crop(
    picture: Picture, rng: np.random.Generator, augment: Augment, canvas: np.ndarray
) -> tuple[int, int, int, int, bool]:
    """Put what `train_transform` would resize into a canvas, for a device that resizes it.

    A picture that lies in the canvas already (`decoding.load_pixels`) stays where it is, unless its colours change;
    everything else is copied to the upper left corner.

    Args:
        picture, rng, augment: as there; no rotation.
        canvas: uint8 (s, s, 3); a crop with longer sides is reduced to it. What it holds beside the crop is left.

    Returns:
        (top, left, height, width) of the crop in the canvas, and whether to flip it.
    """
    drawn = _draw(picture, rng, augment)
    left, top, width, height = drawn.box
    there = isinstance(picture, np.ndarray) and np.may_share_memory(picture, canvas)
    if there and not augment.color_jitter and not drawn.gray:
        return top, left, height, width, drawn.flip
    crop = resizing.at_most(_cut(pixels_of(picture), drawn.box), len(canvas))
    crop = _recolour(crop, augment.color_jitter, drawn.strengths, drawn.gray)
    height, width, _ = crop.shape
    canvas[:height, :width] = crop
    return 0, 0, height, width, drawn.flip


@dataclass(frozen=True)
class _Drawn:
    """The random choices of a view; `angle` and `strengths` in [0, 1)."""

    box: Box
    flip: bool
    gray: bool
    angle: float
    strengths: list[float]


def _draw(picture: Picture, rng: np.random.Generator, augment: Augment) -> _Drawn:
    """The choices for a picture; always as many numbers of `rng`."""
    height, width = picture.shape[:2] if isinstance(picture, np.ndarray) else picture.size[::-1]
    box = crop_box(width, height, rng, augment.crop_scale, augment.crop_ratio)
    flip, gray, angle, *strengths = rng.random(6).tolist()
    return _Drawn(box, flip < augment.flip, gray < augment.grayscale, angle, strengths)


def _cut(pixels: np.ndarray, box: Box) -> np.ndarray:
    """The pixels of a box, not copied."""
    left, top, width, height = box
    return pixels[top : top + height, left : left + width]


def _image(picture: Picture) -> Image.Image:
    """A picture as Pillow's."""
    return Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture


def crop_box(
    width: int, height: int, rng: np.random.Generator, scale: tuple[float, float], ratio: tuple[float, float]
) -> Box:
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
    low, spread = math.log(ratio[0]), math.log(ratio[1] / ratio[0])
    # The generator moves on by the same count for every picture; the first try nearly always fits.
    for area, shape, left, top in rng.random((4, CROP_TRIES)).T.tolist():
        area = width * height * (scale[0] + (scale[1] - scale[0]) * area)
        shape = math.exp(low + spread * shape)
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            return int(left * (width - w + 1)), int(top * (height - h + 1)), w, h
    return _fallback_box(width, height, ratio)


def _fallback_box(width: int, height: int, ratio: tuple[float, float]) -> Box:
    """The largest centred box of an allowed shape."""
    w, h = width, height
    if width / height < ratio[0]:
        h = min(height, max(1, round(width / ratio[0])))
    elif width / height > ratio[1]:
        w = min(width, max(1, round(height * ratio[1])))
    return (width - w) // 2, (height - h) // 2, w, h


def _rotated_crop(
    image: Image.Image, box: Box, image_size: tuple[int, int], angle: float
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


def _recolour(pixels: np.ndarray, jitter: float, draws: list[float], gray: bool) -> np.ndarray:
    """Brightness, contrast and saturation each scaled by a factor in [1 - jitter, 1 + jitter]; grey where asked.

    All three are linear in the pixel, so they are one colour matrix with one clip at the end (torchvision clips after
    each).

    Args:
        pixels: uint8 (h, w, 3), RGB.
        jitter: 0 for none.
        draws: three numbers in [0, 1).
        gray: drop all colour.
    """
    if not jitter and not gray:
        return pixels
    image = Image.fromarray(pixels)
    brightness, contrast, saturation = (1 + jitter * (2 * draw - 1) for draw in draws)
    saturation = 0.0 if gray else saturation
    # out = b * (c * (s * rgb + (1 - s) * luma) + (1 - c) * mean luma), as rows of a 3 x 4 matrix.
    matrix = np.zeros((3, 4))
    matrix[:, :3] = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * np.array(LUMA))
    if jitter:
        mean = image.convert("L").resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
        matrix[:, 3] = brightness * (1 - contrast) * mean
    return np.asarray(image.convert("RGB", tuple(matrix.ravel().tolist())))
