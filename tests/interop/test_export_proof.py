"""A whole export, as `lit-tune export` makes it, is read back by every package that it is written for."""

import json
from pathlib import Path
from typing import Any

import fastembed
import numpy as np
import pytest
import small_exports as small
from fastembed.common.model_description import DenseModelDescription, ModelSource, PoolingType
from fastembed.image.onnx_embedding import supported_onnx_models
from small_models import write_text_tower

import lit_tune
from lit_tune import exports
from lit_tune.errors import ConfigError

pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("ignore::UserWarning")]
OWN_GRID = {"rope_reference_grid": (0, 0)}  # as the quick start's tower
HEADS: dict[str, dict[str, Any]] = {
    "map": {}, "map + projection": {"embed_dim": 24}, "nomic": small.NOMIC_HEAD, "cls": {"pool": "cls"},
    "mean": {"pool": "mean"}, "cls + projection": {"pool": "cls", "embed_dim": 24},
}  # fmt: skip
NO_TIMM = {"nomic": "the nomic pooling head; a trained bias on the keys; .* --format=nomic . onnx . open_clip"}
# Format -> who reads its image tower, and the heads that it refuses with the reason.
OUTCOMES: dict[str, tuple[set[str], dict[str, str]]] = {
    "hf": ({"own_reader", "timm", "sentence-transformers", "open_clip_torch", "onnxruntime"}, NO_TIMM),
    "timm": ({"own_reader", "timm"}, NO_TIMM),
    "sentence-transformers": ({"own_reader", "timm", "sentence-transformers"}, NO_TIMM),
    "open_clip": ({"own_reader", "open_clip_torch"}, {}),
    "onnx": ({"onnxruntime"}, {}),
    "lit_tune": ({"own_reader"}, {}),
    "nomic": ({"own_reader"}, {
        "map": "pooling map; no bias on the keys; .* --format=onnx . open_clip . timm",
        "map + projection": "pooling map; a projection to 24",
        "cls": "pooling cls", "mean": "pooling mean", "cls + projection": "pooling cls; a projection to 24",
    }),
}  # fmt: skip
ASKED = {
    "timm image tower": {"own_reader", "timm", "sentence-transformers"},
    "transformers text tower": {"own_reader", "sentence-transformers"},
    "open_clip image tower": {"own_reader", "open_clip_torch"},
    "open_clip text tower": {"own_reader", "open_clip_torch"},
    "ONNX image tower": {"onnxruntime"},
    "ONNX text tower": {"onnxruntime"},
}


@pytest.mark.parametrize("changes, text", [(OWN_GRID, small.bert), ({}, small.nomic_bert)])
def test_every_reader_of_the_default_export_is_asked_and_agrees(changes: dict, text: Any, tmp_path: Path) -> None:
    given = small.source(small.vision(**changes), text(tmp_path / "text", "query: "), kind="import")
    proof = exports.export(given, "hf", tmp_path / "out")
    found = {one["what"]: {check["who"].split()[0] for check in one["checked_by"]} for one in proof["checks"]}
    assert found == ASKED
    assert all(not one["not_asked"] for one in proof["checks"])
    assert max(c["max_difference"] for one in proof["checks"] for c in one["checked_by"]) <= 1e-5
    assert proof["frozen_text"]["unchanged"] and json.loads((tmp_path / "out" / "proof.json").read_text()) == proof


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("format", exports.FORMATS)
def test_every_head_goes_out_in_a_format_and_is_loaded_from_it_or_is_refused(
    format: str, head: str, tmp_path: Path
) -> None:
    readers, refused = OUTCOMES[format]
    image = small.vision(**HEADS[head])
    text = small.encoder(write_text_tower(tmp_path / "text", width=image.dim), "a ")
    given = small.source(image, text, kind="import")
    if head in refused:
        with pytest.raises(ConfigError, match=refused[head]) as error:
            exports.export(given, format, tmp_path / "out")
        assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
        return
    proof = exports.export(given, format, tmp_path / "out")
    checks = [check for one in proof["checks"] if one["kind"] == "vision" for check in one["checked_by"]]
    assert {check["who"].split()[0] for check in checks} == readers
    assert max(check["max_difference"] for check in checks) <= 1e-5
    ours, model = small.model(given), lit_tune.load(tmp_path / "out")
    picture = small.saved(small.photo(40, 50), "PNG")
    np.testing.assert_allclose(model.embed_images([picture]), ours.embed_images([picture]), atol=1e-5)
    np.testing.assert_allclose(model.embed_texts(small.TEXTS), ours.embed_texts(small.TEXTS), atol=1e-5)
    assert model.prompt == "a "


@pytest.mark.parametrize("format", ["hf", "onnx"])
def test_fastembed_gives_our_vectors_from_an_exported_folder(format: str, tmp_path: Path) -> None:
    given = small.source(small.vision(**OWN_GRID), small.nomic_bert(tmp_path / "t", "query: "), kind="import")
    folder = tmp_path / "out"
    exports.export(given, format, folder)
    ours, name = small.model(given), f"own/{format}"
    fastembed.TextEmbedding.add_custom_model(
        f"{name}-text", pooling=PoolingType.DISABLED, normalization=True, sources=ModelSource(hf=name), dim=ours.dim,
        model_file="onnx/text_model.onnx")  # fmt: skip
    theirs = list(fastembed.TextEmbedding(f"{name}-text", specific_model_path=str(folder)).embed(small.TEXTS))
    np.testing.assert_allclose(ours.embed_texts(small.TEXTS), np.stack(theirs), atol=1e-5)  # the prefix is inside
    # fastembed has no call for own models of pictures: its list is what it reads
    supported_onnx_models.append(DenseModelDescription(
        model=name, dim=ours.dim, description="", license="", size_in_GB=0.1, sources=ModelSource(hf=name),
        model_file="onnx/model.onnx"))  # fmt: skip
    pictures = [small.photo(40, 50), small.photo(64, 33, seed=1)]  # even margins: it cuts odd ones one pixel off ours
    theirs = list(fastembed.ImageEmbedding(name, specific_model_path=str(folder)).embed(pictures))
    encoded = [small.saved(picture, "PNG") for picture in pictures]
    np.testing.assert_allclose(ours.embed_images(encoded), np.stack(theirs), atol=1e-4)
