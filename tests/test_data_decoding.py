"""Plain JPEG without Pillow around the decoder: the same bytes and refusals, and Pillow where they would differ."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_tune.data import decoding
from lit_tune.data.decoding import Limits, load_image, load_pixels
from lit_tune.data.sample import BadSample

GOLDEN = Path(__file__).parent / "golden"
FOLDERS = [Path(os.environ.get("LIT_TUNE_REFERENCE", GOLDEN / "reference")) / "e_images" / "files",
           GOLDEN / "broken" / "images"]
if "LIT_TUNE_DATA" in os.environ:
    FOLDERS.append(Path(os.environ["LIT_TUNE_DATA"]) / "broken" / "images")


def photo(width: int, height: int) -> Image.Image:
    """Colours that change fast in places: what upsampling and the DCT's rounding show on."""
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([127 + 127 * np.sin(x / 3), 127 + 127 * np.cos(y * x / 400), (x // 9 + y // 7) % 2 * 200], -1)
    return Image.fromarray(rgb.astype(np.uint8))


def jpeg(image: Image.Image, **options: object) -> bytes:
    """A picture as JPEG."""
    out = io.BytesIO()
    image.save(out, "JPEG", **({"quality": 90} | options))
    return out.getvalue()


def outcome(load: object, data: bytes, policy: str = "clean") -> object:
    """The pixels as bytes and their shape, or the kind of refusal."""
    try:
        pixels = decoding.pixels_of(load(data, policy))
        return pixels.shape, pixels.tobytes()
    except BadSample as bad:
        return bad.kind


KINDS = {"4:2:0": {"subsampling": 2}, "4:2:2": {"subsampling": 1}, "4:4:4": {"subsampling": 0},
         "4:1:1": {"subsampling": "4:1:1"}, "poor": {"quality": 5},
         "best": {"quality": 100, "subsampling": 2},
         "progressive": {"progressive": True}, "restarts": {"restart_marker_blocks": 3}}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(96, 64), (83, 61), (1, 1), (3, 70)])
def test_plain_jpeg_has_the_bytes_of_pillows_decoder_without_it(kind: str, size: tuple[int, int]) -> None:
    image = photo(*size)
    for data in (jpeg(image, **KINDS[kind]), jpeg(image.convert("L"), quality=80)):
        ours = decoding._plain_jpeg(data, "clean", Limits())
        assert ours is not None and np.array_equal(ours, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_every_stored_picture_comes_out_as_by_pillow_alone() -> None:
    files = [path for folder in FOLDERS for path in sorted(folder.iterdir()) if path.suffix != ".json"]
    for path in files:
        for policy in ("clean", "reference"):
            data = path.read_bytes()
            assert outcome(load_pixels, data, policy) == outcome(load_image, data, policy), (path.name, policy)
    assert files


def test_damaged_and_cut_jpegs_are_refused_exactly_where_pillow_refuses_them() -> None:
    whole = jpeg(photo(96, 64))
    rng = np.random.default_rng(0)
    kept = refused = 0
    for number in range(80):
        data = bytearray(whole)
        for place in rng.integers(2, len(whole), 1 + number % 3):
            data[place] = rng.integers(256)
        ours = outcome(load_pixels, bytes(data))
        assert ours == outcome(load_image, bytes(data)), number
        kept, refused = kept + isinstance(ours, tuple), refused + isinstance(ours, str)
    assert kept > 10 and refused > 3  # both were tried
    for cut in (3, 20, 200, len(whole) // 2, len(whole) - 10, len(whole) - 2, len(whole) - 1):
        assert outcome(load_pixels, whole[:cut]) == "undecodable", cut


def test_cmyk_is_left_to_pillow() -> None:
    data = jpeg(photo(40, 30).convert("CMYK"))
    assert decoding._plain_jpeg(data, "clean", Limits()) is None
    assert np.array_equal(load_pixels(data, "clean"), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    assert load_pixels(data, "reference").mode == "CMYK"  # resized in its own mode, as the peers do


@pytest.mark.parametrize("orientation", [1, 2, 6, 8, 99])
def test_exif_sends_turned_pictures_only_to_pillow(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(photo(40, 24), exif=exif)
    plain = decoding._plain_jpeg(data, "clean", Limits())
    assert (plain is None) == (orientation in (2, 6, 8))
    shape = (40, 24, 3) if orientation in (6, 8) else (24, 40, 3)
    assert load_pixels(data, "clean").shape == shape and load_pixels(data, "reference").shape == (24, 40, 3)


def test_limits_hold_for_plain_jpeg_and_for_the_rest() -> None:
    wide = photo(90, 30)
    png = io.BytesIO()
    wide.save(png, "PNG")
    for data in (jpeg(wide), png.getvalue()):
        assert load_pixels(data, "clean", Limits(max_aspect=3.0)).shape == (30, 90, 3)
        assert load_pixels(data, "clean", Limits(min_side=30)).shape == (30, 90, 3)
        for limits, kind in ((Limits(max_aspect=2.9), "extreme_aspect"), (Limits(min_side=31), "too_small"),
                             (Limits(max_pixels=2699), "too_many_pixels"),
                             (Limits(max_bytes=len(data) - 1), "too_many_bytes")):
            with pytest.raises(BadSample, match=kind):
                load_pixels(data, "clean", limits)
