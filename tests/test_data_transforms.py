"""Pictures: bit-equal to the peers under `reference`, refused or decoded as the broken pictures' manifest says."""

import io
import json
import os
import re
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_tune.configs import common
from lit_tune.data import decoding, transforms
from lit_tune.data.sample import BadSample

GOLDEN = Path(__file__).parent / "golden"
PEERS = Path(os.environ.get("LIT_TUNE_REFERENCE", GOLDEN / "reference")) / "e_images"
BROKEN = [GOLDEN / "broken" / "images"]
if "LIT_TUNE_DATA" in os.environ:
    BROKEN.append(Path(os.environ["LIT_TUNE_DATA"]) / "broken" / "images")
CASES = [(folder, name) for folder in BROKEN for name in json.loads((folder / "manifest.json").read_text())]


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    """A picture as bytes."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def photo(width: int = 80, height: int = 60) -> Image.Image:
    """Smooth colours with a few edges."""
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([x * 255 / width, y * 255 / height, 127 + 127 * np.sin(x / 5) * np.cos(y / 7)], -1)
    return Image.fromarray(rgb.astype(np.uint8))


def test_reference_policy_is_bit_equal_to_the_peers():
    stored = np.load(PEERS / "eval224_uint8.npz")
    names = [name for name in stored.files if "/" not in name]
    for name in names:
        data = (PEERS / "files" / name).read_bytes()
        ours = transforms.eval_transform(data, (224, 224), "reference", "shortest")
        assert np.array_equal(ours, stored[name]), name
    assert names, f"nothing stored in {PEERS}"
    print(f"e_images: {len(names)} arrays compared")


@pytest.mark.parametrize("case", sorted(json.loads((PEERS / "random_resized_crop_stats.json").read_text())))
def test_crop_boxes_have_torchvisions_statistics(case):
    peer = json.loads((PEERS / "random_resized_crop_stats.json").read_text())[case]
    low, high, width, height = re.fullmatch(r"scale([\d.]+)-([\d.]+)_w(\d+)_h(\d+)", case).groups()
    width, height, draws = int(width), int(height), 20_000
    rng = np.random.default_rng(0)
    scale = (float(low), float(high))
    left, top, w, h = np.array(
        [transforms.crop_box(width, height, rng, scale, (3 / 4, 4 / 3)) for _ in range(draws)]
    ).T
    assert left.min() >= 0 and top.min() >= 0 and (left + w).max() <= width and (top + h).max() <= height

    def near(ours, theirs, variance):
        error = np.sqrt(variance * (1 / draws + 1 / peer["draws"]))
        assert abs(ours - theirs) <= 5 * error + 1e-12, (case, ours, theirs)

    area, shape = w * h / (width * height), np.log(w / h)
    near(area.mean(), peer["mean_area"], peer["var_area"])
    near(shape.mean(), peer["mean_log_aspect"], peer["var_log_aspect"])
    fallback = tuple(peer["fallback_box_w_h"])
    same = ((w == fallback[0]) & (h == fallback[1])).mean()
    share = peer["share_equal_to_fallback_box"]
    near(same, share, max(share * (1 - share), 1 / peer["draws"]))
    free = (width > w) & (height > h)
    if free.sum() > 1000:  # a uniform number has variance 1 / 12
        near((left[free] / (width - w[free])).mean(), 0.5, draws / free.sum() / 12)
        near((top[free] / (height - h[free])).mean(), 0.5, draws / free.sum() / 12)
    print(f"{case}: 1 arrays compared")


@pytest.mark.parametrize("folder, name", CASES, ids=lambda value: value.parts[-3] if isinstance(value, Path) else value)
@pytest.mark.parametrize("policy", ["clean", "reference"])
def test_broken_pictures_are_refused_or_decoded_as_their_manifest_says(folder, name, policy):
    expect = json.loads((folder / "manifest.json").read_text())[name]["expect"]
    data = (folder / name).read_bytes()
    if expect == "skip":
        with pytest.raises(BadSample) as caught:
            decoding.decode(data, policy)
        wanted = {"zero_byte.jpg": "empty_image", "bomb_20000x20000.png": "too_many_pixels"}
        assert caught.value.kind in (wanted.get(name, "undecodable"), "unknown_format")
    elif expect == "policy":  # its note says which filter should catch it
        wanted = {"one_pixel.png": "too_small", "wide_2000x4.jpg": "extreme_aspect"}[name]
        with pytest.raises(BadSample, match=wanted):
            decoding.decode(data, policy, decoding.Limits.of(common.get_config().data))
        assert decoding.decode(data, policy).ndim == 3
    else:
        rgb = decoding.decode(data, policy)
        assert rgb.dtype == np.uint8 and rgb.ndim == 3 and rgb.shape[2] == 3
        assert transforms.eval_transform(data, (32, 24), policy, "shortest").shape == (32, 24, 3)


def test_clean_lays_alpha_on_white_and_reference_drops_it():
    rgba = np.zeros((4, 6, 4), np.uint8)
    rgba[:, :3] = (200, 10, 20, 255)
    rgba[:, 3:] = (9, 9, 9, 0)
    rgba[0, 0] = (0, 100, 255, 51)  # alpha 0.2
    data = encoded(Image.fromarray(rgba))
    clean, reference = decoding.decode(data, "clean"), decoding.decode(data, "reference")
    assert (clean[:, 3:] == 255).all() and (clean[1, 1] == (200, 10, 20)).all()
    assert np.abs(clean[0, 0].astype(int) - (204, 224, 255)).max() <= 1
    assert (reference == rgba[..., :3]).all()
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([1, 2, 3, 40, 50, 60])
    data = encoded(palette, transparency=b"\xff\x00")
    assert (decoding.decode(data, "clean") == 255).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (decoding.decode(data, "reference") == (40, 50, 60)).all()


def test_clean_scales_16_bit_grey_and_reference_saturates():
    values = np.array([[0, 128, 257 * 7, 257 * 128, 65535]], np.uint16)
    data = encoded(Image.fromarray(values))
    assert decoding.decode(data, "clean")[0, :, 0].tolist() == [0, 0, 7, 128, 255]
    assert decoding.decode(data, "reference")[0, :, 0].tolist() == [0, 128, 255, 255, 255]


def test_clean_turns_pictures_upright_and_reference_does_not():
    image = photo(40, 20)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(image, "JPEG", exif=exif, quality=95)
    assert decoding.decode(data, "clean").shape == (40, 20, 3)
    assert decoding.decode(data, "reference").shape == (20, 40, 3)
    upright = decoding.decode(data, "clean").astype(int)
    assert np.abs(upright - np.rot90(np.asarray(image), -1)).mean() < 5
    broken = encoded(image, "JPEG", exif=b"Exif\0\0garbage")
    assert decoding.decode(broken, "clean").shape == (20, 40, 3)


def test_limits_hold_before_anything_is_decoded():
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0))
    bomb = header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BadSample, match="too_many_pixels"):
            decoding.decode(bomb, "clean")
    data = encoded(photo())
    with pytest.raises(BadSample, match="too_many_bytes"):
        decoding.decode(data, "clean", decoding.Limits(max_bytes=len(data) - 1))
    with pytest.raises(BadSample, match="too_many_pixels"):
        decoding.decode(data, "clean", decoding.Limits(max_pixels=80 * 60 - 1))
    assert decoding.decode(data, "clean", decoding.Limits(len(data), 80 * 60)).shape == (60, 80, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_formats_are_told_by_content_and_cut_files_are_refused(kind):
    data = encoded(photo(), kind)
    assert decoding.decode(data, "clean").shape == (60, 80, 3)
    for share in (0.3, 0.8):
        with pytest.raises(BadSample):
            decoding.decode(data[: int(len(data) * share)], "clean")
    with pytest.raises(BadSample, match="unknown_format"):
        decoding.decode(encoded(photo(), "TIFF"), "clean")


def test_squash_and_shortest_agree_with_plain_pillow():
    image = photo(90, 60)
    data = encoded(image)
    squashed = transforms.eval_transform(data, (32, 48), "clean", "squash")
    assert np.array_equal(squashed, np.asarray(image.resize((48, 32), Image.Resampling.BICUBIC)))
    fitted = transforms.eval_transform(data, (30, 30), "clean", "shortest")
    whole = image.resize((45, 30), Image.Resampling.BICUBIC)
    assert np.array_equal(fitted, np.asarray(whole)[:, 8:38])  # (45 - 30) / 2 = 7.5 rounds to even
    assert transforms.eval_transform(data, (20, 40), "clean", "shortest").shape == (20, 40, 3)


def test_train_view_depends_on_picture_and_generator_only():
    augment = transforms.Augment((0.3, 1.0), (3 / 4, 4 / 3), 0.5, 0.4, 0.2, 10.0)
    rgb = np.asarray(photo())

    def view(p):
        return transforms.train_transform(rgb, np.random.default_rng((0, p)), (48, 32), augment)

    assert view(1).shape == (48, 32, 3) and view(1).dtype == np.uint8
    assert np.array_equal(view(1), view(1)) and not np.array_equal(view(1), view(2))
    same = transforms.train_transform(Image.fromarray(rgb), np.random.default_rng((0, 1)), (48, 32), augment)
    assert np.array_equal(same, view(1))


def test_plain_train_view_is_crop_then_antialiased_bicubic():
    image = photo(200, 150)
    augment = transforms.Augment((0.5, 1.0))
    left, top, w, h = transforms.crop_box(200, 150, np.random.default_rng(3), (0.5, 1.0), (3 / 4, 4 / 3))
    cut = image.crop((left, top, left + w, top + h))
    for picture in (image, np.asarray(image)):  # bit for bit under `reference`
        peers = transforms.train_transform(picture, np.random.default_rng(3), (32, 48), augment, "reference")
        assert np.array_equal(peers, np.asarray(cut.resize((48, 32), Image.Resampling.BICUBIC)))
        ours = transforms.train_transform(picture, np.random.default_rng(3), (32, 48), augment, "clean").astype(int)
        down = cut.resize((w, 32), Image.Resampling.BICUBIC).resize((48, 32), Image.Resampling.BICUBIC)
        assert np.abs(ours - np.asarray(down)).max() <= 1 and np.abs(ours - peers).max() <= 2


def test_a_palette_is_resized_as_the_peers_do_under_reference_only():
    palette = photo(60, 40).quantize(8)
    augment = transforms.Augment((1.0, 1.0), (1.5, 1.5))
    view = transforms.train_transform(palette, np.random.default_rng(0), (20, 30), augment, "reference")
    assert np.array_equal(view, np.asarray(palette.resize((30, 20), Image.Resampling.BICUBIC).convert("RGB")))


def test_the_crop_for_a_device_is_what_the_host_resizes():
    rgb, augment = np.asarray(photo(200, 150)), transforms.Augment((0.5, 1.0), flip=0.5, grayscale=0.3)
    for p in range(6):
        canvas = np.full((256, 256, 3), 77, np.uint8)
        top, left, height, width, flip = transforms.train_crop(rgb, np.random.default_rng(p), augment, canvas)
        assert (top, left) == (0, 0) and (canvas[height:] == 77).all() and (canvas[:, width:] == 77).all()
        crop = canvas[:height, :width]
        view = transforms.train_transform(rgb, np.random.default_rng(p), (32, 32), augment)
        again = transforms.resizing.bicubic(crop, (32, 32))
        assert np.abs(view.astype(int) - (again[:, ::-1] if flip else again)).max() <= 1
    small = np.zeros((50, 50, 3), np.uint8)
    _, _, height, width, _ = transforms.train_crop(rgb, np.random.default_rng(0), transforms.Augment((1.0, 1.0)), small)
    assert max(height, width) == 50 and abs(height / width - 0.75) < 0.02


def test_a_picture_of_the_canvas_width_is_decoded_into_it_and_its_crop_stays_there():
    out = io.BytesIO()
    photo(200, 150).save(out, "JPEG", quality=95)
    plain = decoding.load_pixels(out.getvalue(), "clean")
    for augment in (transforms.Augment((0.5, 1.0), flip=0.5), transforms.Augment((0.5, 1.0), color_jitter=0.4)):
        places, crops = [], []
        for side in (200, 210):  # of the picture's width, and wider: copied
            canvas = np.full((side, side, 3), 77, np.uint8)
            picture = decoding.load_pixels(out.getvalue(), "clean", canvas=canvas)
            assert np.array_equal(picture, plain) and np.shares_memory(picture, canvas) == (side == 200)
            places.append(transforms.train_crop(picture, np.random.default_rng(5), augment, canvas))
            top, left, height, width, _ = places[-1]
            crops.append(canvas[top : top + height, left : left + width].copy())
        assert np.array_equal(*crops)
        assert places[0][2:] == places[1][2:] and places[1][:2] == (0, 0)
        assert (places[0][:2] == (0, 0)) == bool(augment.color_jitter)


@pytest.mark.parametrize("form, size, cut", [("JPEG", (200, 210), 0), ("PNG", (200, 150), 0), ("JPEG", (120, 90), 0),
                                             ("JPEG", (200, 150), 300)])
def test_what_does_not_fit_a_canvas_is_decoded_beside_it_and_a_cut_picture_is_refused(form, size, cut):
    out = io.BytesIO()
    photo(*size).save(out, form)
    data, canvas = out.getvalue()[: -cut or None], np.zeros((200, 200, 3), np.uint8)
    if cut:
        with pytest.raises(BadSample, match="undecodable"):
            decoding.load_pixels(data, "clean", canvas=canvas)
        assert canvas.any()  # the decoder had begun: nothing of it may count
    else:
        picture = decoding.load_pixels(data, "clean", canvas=canvas)
        assert np.array_equal(picture, decoding.load_pixels(data, "clean")) and not np.shares_memory(picture, canvas)


def test_rotation_agrees_with_rotate_then_crop_and_fills_corners_white():
    image = photo(64, 64)
    angle = 9.0
    # Pillow turns counter-clockwise for positive degrees; our matrix maps target to source by +angle, the same turn.
    whole = transforms._rotated_crop(image, (0, 0, 64, 64), (64, 64), np.radians(angle))
    pillow = [image.rotate(a, Image.Resampling.BICUBIC, fillcolor=(255, 255, 255)) for a in (angle, -angle)]
    far = [np.abs(np.asarray(p).astype(int) - np.asarray(whole)).mean() for p in pillow]
    assert min(far) < 0.5
    assert (np.asarray(whole)[0, 0] == 255).all() and (np.asarray(whole)[-1, -1] == 255).all()
    sign = 1 if far[0] < far[1] else -1
    part = transforms._rotated_crop(image, (10, 20, 30, 30), (30, 30), np.radians(angle))
    cut = np.asarray(pillow[0 if sign == 1 else 1])[20:50, 10:40]
    assert np.abs(np.asarray(part).astype(int) - cut).mean() < 0.5
    # Reduced by 4 first: close to turning it whole and reducing it after.
    large = image.resize((256, 256), Image.Resampling.BICUBIC)
    ours = transforms._rotated_crop(large, (0, 0, 256, 256), (64, 64), np.radians(angle))
    turned = large.rotate(sign * angle, Image.Resampling.BICUBIC, fillcolor=(255, 255, 255))
    inner = np.s_[12:52, 12:52]
    gap = np.asarray(ours).astype(int) - np.asarray(turned.resize((64, 64), Image.Resampling.BICUBIC))
    assert np.abs(gap[inner]).mean() < 1.5


def test_colours_follow_the_formula_and_grey_is_grey():
    rgb = np.asarray(photo()).astype(np.float64)
    draws = [0.8, 0.3, 0.6]
    brightness, contrast, saturation = 1 + 0.4 * (2 * np.array(draws) - 1)
    luma = rgb @ transforms.LUMA
    wanted = saturation * rgb + (1 - saturation) * luma[..., None]
    wanted = brightness * (contrast * wanted + (1 - contrast) * luma.mean())
    ours = (transforms._recolour(np.asarray(photo()), 0.4, draws, False)).astype(np.float64)
    assert np.abs(ours - np.clip(wanted, 0, 255)).max() <= 2
    grey = np.asarray(transforms._recolour(np.asarray(photo()), 0.0, draws, True)).astype(int)
    assert np.ptp(grey, axis=2).max() == 0 and np.abs(grey[..., 0] - luma).max() <= 1
    assert transforms._recolour(np.asarray(photo()), 0.0, draws, False).tobytes() == photo().tobytes()


def test_colours_have_torchvisions_statistics():
    # ColorJitter draws each factor uniformly in [1 - s, 1 + s]; contrast and saturation leave an even grey as it is,
    # so its level is 100 x brightness. RandomGrayscale drops colour with its probability.
    grey, red = np.full((8, 8, 3), 100, np.uint8), np.full((8, 8, 3), (200, 40, 40), np.uint8)
    augment = transforms.Augment((1.0, 1.0), (1.0, 1.0), color_jitter=0.4, grayscale=0.2)
    count, levels, dropped = 1500, [], 0
    for p in range(count):
        levels.append(transforms.train_transform(grey, np.random.default_rng((2, p)), (4, 4), augment)[0, 0, 0] / 100)
        dropped += int(np.ptp(transforms.train_transform(red, np.random.default_rng((3, p)), (4, 4), augment)) == 0)
    variance = 0.8**2 / 12
    assert abs(np.mean(levels) - 1) < 5 * np.sqrt(variance / count)
    assert abs(np.var(levels) - variance) < 5 * variance * np.sqrt(0.8 / count)  # of a uniform: kurtosis 1.8
    assert min(levels) >= 0.59 and max(levels) <= 1.41
    assert abs(dropped / count - 0.2) < 5 * np.sqrt(0.16 / count)


def test_flip_happens_as_often_as_asked():
    left_to_right = Image.fromarray(np.tile(np.linspace(0, 255, 32).astype(np.uint8)[None, :, None], (32, 1, 3)))
    augment = transforms.Augment((1.0, 1.0), (1.0, 1.0), flip=0.3)
    flipped = 0
    for p in range(600):
        view = transforms.train_transform(left_to_right, np.random.default_rng((1, p)), (8, 8), augment)
        flipped += int(view[0, 0, 0] > view[0, -1, 0])
    assert abs(flipped / 600 - 0.3) < 5 * np.sqrt(0.21 / 600)
