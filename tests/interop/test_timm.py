"""timm loads what we export, and gives the same vectors; and our towers are timm's in every registered shape."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import timm
import torch
from small_models import small_config, text_encoder, write_text_tower
from timm.data import create_transform, resolve_data_config

from lit_tune import convert, description, exports, tree
from lit_tune.convert import keymap, mapping, peer_vision, timm as timm_folder
from lit_tune.exports import check, peers, timm as timm_export
from lit_tune.exports.parts import Source, Written
from lit_tune.model import VisionEncoder
from lit_tune.models.eva02 import VARIANTS, Eva02Spec
from lit_tune.models.two_towers import tower_of

pytestmark = pytest.mark.interop
CLOSE = 1e-5  # of the rms, of float32 vectors

PREPROCESS = {"image_size": [48, 48], "resize": "shortest", "interpolation": "bicubic", "policy": "reference",
              "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}  # fmt: skip
SMALL = dict(image_size=(48, 48), patch_size=8, width=128, depth=4, num_heads=4, mlp_dim=344, pool_mlp_dim=344)


def small(name: str = "eva02_base_patch14_224", **changes: Any) -> Eva02Spec:
    """A tower as large as the quick start's."""
    return dataclasses.replace(VARIANTS[name], **(SMALL | changes))


SPECS = {
    "quick start": small(pool="map", embed_dim=384, rope_reference_grid=(0, 0)),
    "biased projection": small(pool="map", embed_dim=20, embed_bias=True),
    "fused, no sub-LN, mean": small("eva02_tiny_patch14_224"),
    "CLIP": small("eva02_base_patch16_clip_224"),
    "no final norm": small(pool="cls", final_norm=False),
    "not square": small(image_size=(40, 64), pool="map"),
    "positions of another grid": small(pos_embed_grid=(4, 5), pool="map"),
    "bare trunk": small(pool="none"),
    "odd hidden widths": small(mlp_dim=341, pool="map", pool_mlp_dim=339),
    "no class token, no biases": small(class_token=False, qkv_bias=False),
}


def random_params(spec: Eva02Spec) -> tree.Tree:
    """Initial values with noise on all of them."""
    params = tree.flatten(tower_of(spec).init(jax.random.key(0)))
    rng = np.random.default_rng(0)
    noisy = {n: np.asarray(a) + 0.05 * rng.standard_normal(a.shape, np.float32) for n, a in params.items()}
    return tree.unflatten(noisy)


def rel(ours: Any, theirs: Any) -> float:
    """max |ours - theirs| / rms(theirs)."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return float(np.max(np.abs(ours - theirs)) / np.sqrt(np.mean(np.square(theirs))))


@pytest.mark.parametrize("name", SPECS)
def test_timm_gives_our_vectors_from_an_exported_folder(name: str, tmp_path: Path) -> None:
    spec, preprocess = SPECS[name], PREPROCESS | {"image_size": list(SPECS[name].image_size)}
    params = random_params(spec)
    timm_export.export(params, spec, preprocess, tmp_path)
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    pixels = np.random.default_rng(1).standard_normal((3, *spec.image_size, 3), np.float32)
    with torch.no_grad():
        theirs = model(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).numpy()
        tokens = model.forward_features(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).numpy()
    ours = convert.ConvertedTower(params, spec)
    assert rel(ours(pixels), theirs) <= CLOSE
    assert rel(ours.tokens(pixels), tokens) <= CLOSE
    assert rel(convert.ConvertedTower(*timm_folder.load(tmp_path)[:2])(pixels), theirs) <= CLOSE


def test_an_export_is_checked_by_timm_and_a_wrong_mean_in_its_config_is_found(tmp_path: Path) -> None:
    text = text_encoder(small_config(write_text_tower(tmp_path / "text")))
    spec = small(pool="map", embed_dim=16)
    vision = VisionEncoder(description.vision_description(spec, PREPROCESS), random_params(spec))
    proof = exports.export(Source(vision, text, "small", {"kind": "import"}), "timm", tmp_path / "out")
    own, theirs = proof["checks"][0]["checked_by"]
    assert theirs["who"] == f"timm {timm.__version__}" and max(own["max_difference"], theirs["max_difference"]) <= 1e-5
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    config["pretrained_cfg"]["mean"] = [0.5, 0.5, 0.5]
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    wanted = check.expected(Source(vision, text, "small", {}))
    row, written = peers.PEERS[0], Written("timm image tower", "vision", "model.safetensors", "timm")
    vectors = row.vectors(tmp_path / "out", written, wanted.inputs)
    assert np.abs(vectors / np.linalg.norm(vectors, axis=1, keepdims=True) - wanted.vision).max() > 1e-3


@pytest.mark.parametrize("resize", ["shortest", "squash"])
def test_timm_reads_our_preprocessing_from_the_folder(resize: str, tmp_path: Path) -> None:
    spec = SPECS["quick start"]
    timm_export.export(random_params(spec), spec, PREPROCESS | {"resize": resize}, tmp_path)
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    found = resolve_data_config({}, model=model)
    assert found["input_size"] == (3, 48, 48) and found["interpolation"] == "bicubic" and found["crop_pct"] == 1.0
    assert list(found["mean"]) == PREPROCESS["mean"] and list(found["std"]) == PREPROCESS["std"]
    assert found["crop_mode"] == {"shortest": "center", "squash": "squash"}[resize]
    assert create_transform(**found, is_training=False) is not None


@pytest.mark.parametrize("name", [*VARIANTS, "patch 16 with map"])
def test_every_registered_shape_has_timms_names_and_shapes(name: str) -> None:
    base = dataclasses.replace(
        VARIANTS["eva02_base_patch14_224"], patch_size=16, pool="map", rope_reference_grid=(14, 14)
    )
    spec = VARIANTS[name] if name in VARIANTS else base
    with torch.device("meta"):
        arguments = {} if name in VARIANTS else peer_vision.timm_arguments(spec)
        model = timm.create_model(
            name if name in VARIANTS else "eva02_base_patch14_224", **({"num_classes": 0} | arguments)
        )
    theirs = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    shapes = {key: leaf.shape for key, leaf in tree.flatten(tower_of(spec).abstract()).items()}
    rules = mapping.expand(keymap.TABLES["eva02", "timm"], spec)
    assert {rule.peer: mapping.peer_shape(rule, shapes) for rule in rules} == theirs
    assert sum(p.numel() for p in model.parameters()) == tree.count(tower_of(spec).abstract())


def test_initial_values_have_timms_spread() -> None:
    spec = small(pool="map", embed_dim=0)
    model = timm.create_model("eva02_base_patch14_224", **peer_vision.timm_arguments(spec))
    theirs = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    ours = mapping.to_peer(tower_of(spec).init(jax.random.key(0)), spec, "timm")
    for name, array in theirs.items():
        if array.size >= 2000:
            assert np.std(ours[name]) == pytest.approx(np.std(array), rel=0.1), name
        elif "latent" not in name and "patch_embed" not in name and "cls_token" not in name:
            np.testing.assert_array_equal(ours[name], array, err_msg=name)
