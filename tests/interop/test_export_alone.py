"""A tower trained on text vectors from outside, exported alone: timm, transformers, onnxruntime, fastembed give it."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fastembed
import jax
import numpy as np
import onnxruntime
import pytest
import small_exports as small
import timm
import torch
import transformers
from fastembed.common.model_description import DenseModelDescription, ModelSource
from fastembed.image.onnx_embedding import supported_onnx_models
from outside_vectors import DIM, make_cache, picture_folder, stored_run, train
from timm.data import create_transform, resolve_data_config

import lit_tune
from lit_tune import cli

pytestmark = pytest.mark.interop
PICTURES = [small.saved(small.photo(40, 50), "PNG"), small.saved(small.photo(64, 32, seed=1), "PNG")]
READERS = {  # format -> {what was written: who has to have read it}
    "timm": {"timm image tower": {"own_reader", "timm"}},
    "hf": {"timm image tower": {"own_reader", "timm"}, "ONNX image tower": {"onnxruntime"}},
    "onnx": {"ONNX image tower": {"onnxruntime"}},
    "lit_tune": {"image tower": {"own_reader"}},
}
NOMIC = {f"vision__{key}": value for key, value in small.NOMIC_HEAD.items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A real run of a few steps, and its own vectors of PICTURES."""
    root = tmp_path_factory.mktemp("outside")
    pictures = picture_folder(root / "pictures")
    cache = make_cache(pictures, root / "cache")
    code, output = train(pictures, cache, root / "run")
    assert code == 0, output
    return SimpleNamespace(root=root, cache=cache, run=root / "run", wanted=lit_tune.load(root / "run").embed_images(
        PICTURES))  # fmt: skip


def export(run: Path, format: str, out: Path) -> dict[str, Any]:
    """The proof of an export."""
    assert cli.main(["export", f"--workdir={run}", f"--format={format}", f"--out={out}"]) == 0
    return json.loads((out / "proof.json").read_text())


def far(theirs: Any, ours: np.ndarray) -> float:
    """Largest difference of a number, theirs brought to length 1."""
    theirs = np.asarray(theirs, np.float64)
    assert theirs.shape == ours.shape
    return float(np.abs(theirs / np.linalg.norm(theirs, axis=1, keepdims=True) - ours).max())


@pytest.mark.parametrize("format", READERS)
def test_every_reader_of_a_format_is_asked_and_agrees(format: str, made: SimpleNamespace, tmp_path: Path) -> None:
    proof = export(made.run, format, tmp_path / "out")
    found = {one["what"]: {check["who"].split()[0] for check in one["checked_by"]} for one in proof["checks"]}
    assert found == READERS[format] and not any(one["not_asked"] for one in proof["checks"])
    assert max(check["max_difference"] for one in proof["checks"] for check in one["checked_by"]) <= 1e-5
    assert not [name for name in proof["files"] if "text" in name or "token" in name]
    assert far(lit_tune.load(tmp_path / "out").embed_images(PICTURES), made.wanted) <= 1e-5


@pytest.mark.parametrize("format, below", [("timm", "."), ("hf", "image_0_Transformer")])
def test_timm_and_transformers_give_the_run_s_vectors(
    format: str, below: str, made: SimpleNamespace, tmp_path: Path
) -> None:
    export(made.run, format, tmp_path / "out")
    folder, images = tmp_path / "out" / below, [small.opened(one) for one in PICTURES]
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = create_transform(**resolve_data_config({}, model=model))
    with torch.no_grad():
        assert far(model(torch.stack([transform(one) for one in images])), made.wanted) <= 1e-5
        bare, processor = (kind.from_pretrained(folder) for kind in
                           (transformers.AutoModel, transformers.AutoImageProcessor))  # fmt: skip
        pooled = bare.eval()(**processor(images)).pooler_output  # before the projection
    head = jax.device_get(lit_tune.load(made.run).vision.params["head"])
    assert far(pooled.numpy() @ head["kernel"] + (head["bias"] if "bias" in head else 0), made.wanted) <= 1e-5


@pytest.mark.parametrize("format", ["onnx", "hf"])
def test_onnxruntime_and_fastembed_give_the_run_s_vectors(format: str, made: SimpleNamespace, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    export(made.run, format, folder)
    page = json.loads((folder / "preprocessor_config.json").read_text())
    pixels = np.stack([lit_tune.load(made.run).vision.pixels(one) for one in PICTURES]).astype(np.float32) / 255
    pixels = (pixels - np.float32(page["image_mean"])) / np.float32(page["image_std"])
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx")
    (found,) = session.run(["image_embeds"], {"pixel_values": pixels.transpose(0, 3, 1, 2)})
    assert far(found, made.wanted) <= 1e-4
    name = f"own/alone-{format}"
    supported_onnx_models.append(DenseModelDescription(
        model=name, dim=DIM, description="", license="", size_in_GB=0.1, sources=ModelSource(hf=name),
        model_file="onnx/model.onnx"))  # fmt: skip
    images = [small.opened(one) for one in PICTURES]
    theirs = np.stack(list(fastembed.ImageEmbedding(name, specific_model_path=str(folder)).embed(images)))
    assert far(theirs, made.wanted) <= 1e-4


@pytest.mark.parametrize("format, reader", [("nomic", "own_reader"), ("onnx", "onnxruntime")])
def test_nomic_s_head_goes_out_alone(format: str, reader: str, made: SimpleNamespace, tmp_path: Path) -> None:
    run = stored_run(tmp_path / "run", made.cache, **NOMIC, vision__width=DIM, vision__embed_dim=0)
    (check,) = export(run, format, tmp_path / "out")["checks"]
    assert [one["who"].split()[0] for one in check["checked_by"]] == [reader]
    ours = lit_tune.load(run).embed_images(PICTURES)
    assert far(lit_tune.load(tmp_path / "out").embed_images(PICTURES), ours) <= check["tolerance"]


def test_the_average_of_two_steps_is_read_by_timm(made: SimpleNamespace, tmp_path: Path) -> None:
    one, two, mean, out = (tmp_path / name for name in ("one", "two", "mean", "out"))
    stored_run(one, made.cache)
    stored_run(two, made.cache)
    assert cli.main(["average", f"{one}@2", f"{two}@3", f"--out={mean}"]) == 0
    assert cli.main(["export", f"--model={mean}", "--format=timm", f"--out={out}"]) == 0
    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    transform = create_transform(**resolve_data_config({}, model=model))
    with torch.no_grad():
        found = model(torch.stack([transform(small.opened(picture)) for picture in PICTURES]))
    assert far(found, lit_tune.load(mean).embed_images(PICTURES)) <= 1e-5
