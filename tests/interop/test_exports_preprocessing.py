"""Each tool's own preparation of pictures against ours: equal to the last bit but where the table says."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import reference
import small_exports as small
import timm
import transformers
from PIL import Image
from sentence_transformers import SentenceTransformer
from timm.data import create_transform, resolve_data_config

from lit_tune.exports import hf, preprocessing
from lit_tune.integrations import open_clip as lit_open_clip
from lit_tune.model import VisionEncoder

pytestmark = pytest.mark.interop
Prepare = Callable[[Image.Image], np.ndarray]
SIZES = {"square": (32, 32), "not square": (32, 48)}


def tools(vision: VisionEncoder, folder: Path) -> dict[str, Prepare]:
    """What each tool makes of a picture, as grey levels (3, h, w); the tools that want RGB are given RGB."""
    hf.write(small.source(vision, small.bert(folder / "text")), folder / "out")
    out, image_folder = folder / "out", folder / "out" / "image_0_Transformer"
    timms = create_transform(**resolve_data_config({}, model=timm.create_model(f"local-dir:{out}")))
    processor = transformers.AutoImageProcessor.from_pretrained(image_folder)
    sentences = SentenceTransformer(str(out))
    _, transform, _ = lit_open_clip.load(out)
    mean, std = (np.array(vision.preprocess[name])[:, None, None] for name in ("mean", "std"))
    found = {
        "timm": lambda image: timms(image.convert("RGB")),
        "transformers": lambda image: processor(image.convert("RGB"))["pixel_values"][0],
        "sentence-transformers": lambda image: sentences.preprocess([image.convert("RGB")])["pixel_values"][0],
        "open_clip": transform,
    }
    return {name: lambda image, run=run: np.round((run(image).numpy() * std + mean) * 255)
            for name, run in found.items()}  # fmt: skip


def levels(vision: VisionEncoder, prepare: Prepare, data: bytes) -> float:
    """Mean difference of a tool's pixels from ours."""
    ours = vision.pixels(data).transpose(2, 0, 1).astype(float)
    return float(np.abs(prepare(Image.open(BytesIO(data))) - ours).mean())


@pytest.mark.parametrize("policy", ["reference", "clean"])
@pytest.mark.parametrize("resize", ["shortest", "squash"])
def test_pictures_differ_exactly_where_the_table_says(policy: str, resize: str, tmp_path: Path) -> None:
    vision = small.vision(policy, resize)
    stated = {(row.kind, tool): row.levels for row in preprocessing.DIFFERENCES if row.policy == policy
              for tool in row.tools}  # fmt: skip
    assert {kind for kind, _ in stated} <= set(small.PICTURES)
    for tool, prepare in tools(vision, tmp_path).items():
        for kind, data in small.PICTURES.items():
            found = levels(vision, prepare, data)
            if (kind, tool) not in stated:
                assert found == 0, (kind, tool, found)
            elif resize == "shortest":
                assert found == pytest.approx(stated[kind, tool], rel=0.03), (kind, tool)
            else:
                assert found > 0, (kind, tool)


def test_plain_pictures_agree_in_a_tower_that_is_not_square_or_are_a_pixel_off(tmp_path: Path) -> None:
    vision = small.vision(image_size=(32, 48))
    off = small.saved(small.photo(60, 83), "PNG")  # 60 * 48 / 83 = 34.7 rows
    for tool, prepare in tools(vision, tmp_path).items():
        for kind in ("non-square", "tiny", "wide 12:1", "tall 1:12"):
            assert levels(vision, prepare, small.PICTURES[kind]) == 0, (kind, tool)
        assert levels(vision, prepare, off) > 0
    assert any("a pixel off" in line for line in preprocessing.differences(vision.preprocess))
    squashed = preprocessing.differences(vision.preprocess | {"resize": "squash"})
    assert not any("a pixel off" in line for line in squashed)


def test_pictures_that_are_not_rgb_are_refused_not_misread(tmp_path: Path) -> None:
    vision = small.vision()
    hf.write(small.source(vision, small.bert(tmp_path / "text")), tmp_path / "out")
    model = SentenceTransformer(str(tmp_path / "out"))
    for kind in ("grey", "alpha", "palette", "CMYK"):
        with pytest.raises((RuntimeError, TypeError)):
            model.encode([Image.open(BytesIO(small.PICTURES[kind]))])


def test_open_clip_prepares_the_reference_pictures_as_we_do(tmp_path: Path) -> None:
    vision = small.vision(image_size=(64, 64))
    prepare = tools(vision, tmp_path)
    files = sorted((reference.ROOT / "e_images" / "files").iterdir())
    assert len(files) >= 7
    for file in files:
        data = file.read_bytes()
        assert levels(vision, prepare["open_clip"], data) == 0, file.name
        if Image.open(BytesIO(data)).mode in ("RGB", "L"):
            assert all(levels(vision, prepare[tool], data) == 0 for tool in preprocessing.RGB_FIRST), file.name
