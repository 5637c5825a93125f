"""What of the ONNX export needs no onnx: sizes, the file for preprocessing, refusals, and the graph itself."""

import dataclasses
import importlib.util
import operator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.export import symbolic_shape
from small_models import TEXT_SPEC

from lit_tune.convert import onnx_session
from lit_tune.errors import ConfigError
from lit_tune.exports import onnx as onnx_export, preprocessing
from lit_tune.exports.onnx_dims import evaluate
from lit_tune.exports.onnx_graph import Input, translate
from lit_tune.exports.onnx_ops import OPS
from lit_tune.models import two_towers

PREPROCESS = {"image_size": [224, 224], "resize": "shortest", "interpolation": "bicubic", "policy": "reference",
              "mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}  # fmt: skip


def combine(name: str, a: int, b: int) -> int:
    """Sizes of plain ints."""
    return (max if name == "max" else min if name == "min" else getattr(operator, name))(a, b)


def test_sizes_are_read_as_jax_prints_them() -> None:
    b, s = symbolic_shape("batch, sequence")
    sizes = {b: 3, b * s: 15, b * s + 1: 16, 2 * b * b - s: 13, (b * s) // 4: 3, (b * s) % 4: 3, s - b: 2,
             (b + 1) * (s // 2): 8, jax.core.max_dim(b, s): 5, jax.core.min_dim(b, s): 3}  # fmt: skip
    for size, value in sizes.items():
        assert evaluate(str(size), {"batch": 3, "sequence": 5}, combine) == value, size


@pytest.mark.parametrize("text", ["height", "batch / 2", "f(batch, 2)", "batch^sequence"])
def test_a_size_that_is_unknown_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is unknown"):
        evaluate(text, {"batch": 3, "sequence": 5}, combine)


def test_preprocessing_is_written_as_clip_has_it() -> None:
    # openai/clip-vit-base-patch16's preprocessor_config.json, with sizes in the words of today's transformers
    page = preprocessing.preprocessor_config(PREPROCESS)
    square = {"height": 224, "width": 224}
    assert page["size"] == {"shortest_edge": 224} and page["crop_size"] == square and page["do_center_crop"]
    assert page["resample"] == 3 and page["rescale_factor"] == 1 / 255
    assert page["image_mean"] == PREPROCESS["mean"] and page["image_std"] == PREPROCESS["std"]
    assert all(page[f"do_{step}"] for step in ("resize", "rescale", "normalize", "convert_rgb"))


def test_preprocessing_of_other_shapes_is_squashed_or_refused() -> None:
    page = preprocessing.preprocessor_config(PREPROCESS | {"image_size": [32, 48], "resize": "squash"})
    assert page["size"] == {"height": 32, "width": 48} and not page["do_center_crop"]
    page = preprocessing.preprocessor_config(PREPROCESS | {"crop_pct": 0.9, "interpolation": "bilinear"})
    assert page["size"] == {"shortest_edge": 248} and page["crop_size"]["height"] == 224 and page["resample"] == 2
    with pytest.raises(ConfigError, match="a square picture, or resize squash, found resize shortest at 32 x 48"):
        preprocessing.preprocessor_config(PREPROCESS | {"image_size": [32, 48]})


def test_without_the_packages_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    tower = two_towers.tower_of(TEXT_SPEC)
    assert "pip install 'lit_tune[onnx]'" in onnx_export.available()
    with pytest.raises(ConfigError, match=r"^ONNX: expected the package onnx, found none; pip install 'lit_tune.onnx"):
        onnx_export.export_text(tower.init(jax.random.key(0)), tower, tmp_path / "x.onnx", 8)
    with pytest.raises(ConfigError, match="expected the package onnxruntime"):
        onnx_session.text_session(tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("function, found", [
    (lambda x: jnp.sort(x), "found sort"),
    (lambda x: jax.lax.scan(lambda c, row: (c + row, row), x[0], x)[0], "found scan"),
    (lambda x: x.astype(jnp.bfloat16), "bfloat16"),
    (lambda x: jax.lax.select_n((x > 0).astype(jnp.int32), x, x, x), "an integer predicate"),
])
def test_what_has_no_form_here_is_refused_by_name(function: object, found: str) -> None:
    (n,) = symbolic_shape("n")
    with pytest.raises(ConfigError, match=found) as error:
        translate(lambda params, x: (function(x),), {}, [Input("x", "float32", (n, 4))], ["y"], OPS)
    assert "\n" not in str(error.value) and error.value.exit_code == 2


def test_parameters_stay_named_and_what_is_constant_is_computed() -> None:
    (n,) = symbolic_shape("n")
    params = {"a": {"kernel": np.ones((4, 4), np.float32)}, "unused": np.ones(3, np.float32)}

    def function(params: dict, x: jax.Array) -> tuple[jax.Array]:
        return (x @ params["a"]["kernel"] + jnp.cos(jnp.arange(4.0)),)

    graph = translate(function, params, [Input("x", "float32", (n, 4))], ["y"], OPS)
    assert [node.op for node in graph.nodes] == ["MatMul", "Add", "Identity"]
    constants = dict(graph.initializers)
    np.testing.assert_array_equal(constants.pop("a/kernel"), params["a"]["kernel"])
    (angle,) = constants.values()
    np.testing.assert_allclose(angle.reshape(-1), np.cos(np.arange(4)), atol=1e-7)


def test_more_tokens_than_positions_are_refused_when_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    tower = two_towers.tower_of(dataclasses.replace(TEXT_SPEC, max_positions=16))
    with pytest.raises(ConfigError, match="text: expected at most 16 tokens, found 17"):
        onnx_export.export_text(tower.init(jax.random.key(0)), tower, tmp_path / "x.onnx", 17)
