"""Starting from trained weights: resampled, adapted, its settings taken over, watched.

Whole runs that start so, also on two processes, are in test_end_to_end.py.
"""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import small_config, write_export, write_run, write_text_tower

from lit_tune import config as config_lib, tower, tree, warm_start, watch
from lit_tune.convert import resample
from lit_tune.convert.adapt import adapt
from lit_tune.errors import ConfigError
from lit_tune.exports import timm as timm_export
from lit_tune.models import two_towers
from lit_tune.models.eva02 import Eva02Spec
from lit_tune.models.vision import resample_positions

SPEC = Eva02Spec(
    image_size=(28, 28), patch_size=14, width=16, depth=2, num_heads=2, mlp_dim=32, qkv_fused=False, qkv_bias=True,
    key_bias=False, sub_ln=True, attn_inner_norm=False, class_token=True, pos_embed=True, pos_embed_grid=(0, 0),
    rope=True, rope_theta=10_000.0, rope_reference_grid=(16, 16), norm_eps=1e-6, sub_ln_eps=1e-6, pool="mean",
    pool_mlp_dim=32, pool_norm_eps=1e-6, final_norm=True, embed_dim=0, embed_bias=False)  # fmt: skip


def random_params(spec: Eva02Spec, seed: int = 0) -> tree.Tree:
    """Random numbers under the names of a tower."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: np.float32(rng.normal(0, 0.1, leaf.shape)), two_towers.tower_of(spec).abstract())


# Resampling.


def cubic(x: float, a: float) -> float:
    """Keys' kernel, written out."""
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def plain_weights(old: int, new: int) -> np.ndarray:
    """Four taps around each new centre, those outside read the border."""
    weights = np.zeros((new, old))
    for i in range(new):
        centre = (i + 0.5) * old / new - 0.5
        for j in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            weights[i, min(max(j, 0), old - 1)] += cubic(centre - j, -0.75)
    return weights


@pytest.mark.parametrize("old, new", [(14, 16), (16, 14), (16, 8), (5, 7)])
def test_plain_bicubic_is_the_formula(old: int, new: int) -> None:
    kernel = np.float32(np.random.default_rng(0).normal(0, 0.1, (old * old * 3, 4)))
    weights = plain_weights(old, new)
    expected = np.einsum("ai,bj,ijcw->abcw", weights, weights, kernel.reshape(old, old, 3, 4))
    found = resample.patch_kernel(kernel, new, "bicubic")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.reshape(new, new, 3, 4), expected, atol=1e-6)


def test_another_grid_of_positions_is_the_formula_and_keeps_the_class_token() -> None:
    table = np.float32(np.random.default_rng(0).normal(0, 0.1, (1, 1 + 4 * 6, 3)))
    rows, columns = plain_weights(4, 7), plain_weights(6, 5)
    expected = np.einsum("ai,bj,ijd->abd", rows, columns, table[0, 1:].reshape(4, 6, 3)).reshape(35, 3)
    found = resample.position_table(table, (4, 6), (7, 5), "bicubic")
    np.testing.assert_array_equal(found[0, 0], table[0, 0])
    np.testing.assert_allclose(found[0, 1:], expected, atol=1e-6)
    assert resample.position_table(table, (4, 6), (4, 6), "bicubic") is table


@pytest.mark.parametrize("grid", [(14, 14), (16, 9), (24, 20)])
def test_the_antialiased_way_is_what_the_towers_do_with_a_picture_of_another_size(grid: tuple[int, int]) -> None:
    table = np.float32(np.random.default_rng(0).normal(0, 0.1, (1, 1 + 16 * 16, 3)))
    np.testing.assert_allclose(resample.position_table(table, (16, 16), grid, "pinv"),
                               resample_positions(jnp.asarray(table), (16, 16), grid, 1), atol=1e-6)


def test_a_kernel_through_the_pseudo_inverse_sees_in_an_enlarged_patch_what_it_saw() -> None:
    rng = np.random.default_rng(0)
    kernel, patch = np.float32(rng.normal(0, 0.1, (8 * 8 * 3, 4))), np.float32(rng.uniform(0, 1, (8, 8, 3)))
    larger = np.asarray(jax.image.resize(patch, (16, 16, 3), "cubic"))  # jax's, not ours
    found = larger.ravel() @ resample.patch_kernel(kernel, 16, "pinv")
    np.testing.assert_allclose(found, patch.ravel() @ kernel, atol=1e-5)
    plain = larger.ravel() @ resample.patch_kernel(kernel, 16, "bicubic")
    assert np.max(np.abs(plain - patch.ravel() @ kernel)) > 0.1  # which the plain way does not


# Adapting.


def paper_target(**changes: Any) -> Eva02Spec:
    """The paper's tower in small: patch 16, another grid, Nomic's head and biases, no final norm."""
    values = dict(image_size=(48, 48), patch_size=16, rope_reference_grid=(14, 14), pool="nomic", final_norm=False,
                  key_bias=True, qkv_fused=True, sub_ln_eps=1e-5)  # fmt: skip
    return dataclasses.replace(SPEC, **(values | changes))


@pytest.mark.parametrize("how", ["bicubic", "pinv"])
def test_the_start_of_the_paper_drops_the_norm_and_adds_key_biases(how: str, capfd: pytest.CaptureFixture) -> None:
    params, spec = random_params(SPEC), paper_target()
    found, given = tree.flatten(adapt(params, SPEC, spec, how)), tree.flatten(params)
    kernel, table = given.pop("patch_embed/kernel"), given.pop("pos_embed")
    np.testing.assert_array_equal(found.pop("patch_embed/kernel"), resample.patch_kernel(kernel, 16, how))
    np.testing.assert_array_equal(found.pop("pos_embed"), resample.position_table(table, (2, 2), (3, 3), how))
    for name, value in found.items():
        if name.endswith("attn/k/bias") and name.startswith("blocks"):
            assert not np.any(value)
        elif not name.startswith("attn_pool"):
            np.testing.assert_array_equal(value, given.pop(name), err_msg=name)
    assert set(given) == {"fc_norm/scale", "fc_norm/bias"} and not any("norm" in name.split("/")[0] for name in found)
    assert {leaf.shape for leaf in found.values()} == {  # and everything has its shape
        leaf.shape for name, leaf in tree.flatten(two_towers.tower_of(spec).abstract()).items()
        if name not in ("patch_embed/kernel", "pos_embed")}
    said = capfd.readouterr().err
    for words in (f"patch kernel resampled from 14x14 to 16x16 pixels ({how})", "rotary positions count on a grid",
                  f"position table resampled from 2x2 to 3x3 patches ({how})", "left out: fc_norm", "no attn_pool"):
        assert words in said
    assert said.count("\n") == 5


def test_the_final_norm_moves_to_where_the_target_has_it_and_back() -> None:
    params = random_params(SPEC)
    on_tokens = dataclasses.replace(SPEC, pool="map")
    moved = adapt(params, SPEC, on_tokens)
    np.testing.assert_array_equal(moved["norm"]["scale"], params["fc_norm"]["scale"])
    assert "fc_norm" not in moved
    back = adapt(moved, on_tokens, SPEC)
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_a_projection_of_another_width_or_a_head_of_another_kind_starts_at_random(capfd: pytest.CaptureFixture) -> None:
    spec = dataclasses.replace(SPEC, pool="map", embed_dim=24, embed_bias=True)
    params = random_params(spec)
    assert tree.digest(adapt(params, spec, spec)) == tree.digest(params) and not capfd.readouterr().err
    narrower = adapt(params, spec, dataclasses.replace(spec, embed_dim=8, embed_bias=False))
    assert narrower["head"]["kernel"].shape == (16, 8)
    np.testing.assert_array_equal(narrower["attn_pool"]["latent"], params["attn_pool"]["latent"])
    assert capfd.readouterr().err == ("lit_tune: start: left out: head\n"
                                      "lit_tune: start: no head to start from: random numbers there\n")
    nomic = adapt(params, spec, dataclasses.replace(spec, pool="nomic"))
    assert not np.array_equal(nomic["attn_pool"]["q"]["kernel"], params["attn_pool"]["q"]["kernel"])
    capfd.readouterr()
    adapt(params, spec, dataclasses.replace(spec, embed_bias=False))
    assert capfd.readouterr().err == "lit_tune: start: left out: head/bias\n"


@pytest.mark.parametrize("change, says", [
    ({"width": 32}, "expected width 32, found width 16"), ({"rope": False}, "expected rope False"),
    ({"depth": 3}, "expected depth 3"), ({"norm_eps": 1e-5}, "expected norm_eps 1e-05"),
    ({"pool_mlp_dim": 64}, r"attn_pool/mlp/fc1/bias: expected \(64,\), found \(32,\)"),
    ({"key_bias": False}, "found a trained one; set config.vision.key_bias=true"),
])
def test_what_cannot_be_adapted_is_refused_in_one_line(change: dict[str, Any], says: str) -> None:
    spec = dataclasses.replace(SPEC, pool="map", key_bias=True)
    with pytest.raises(ConfigError, match=says) as caught:
        adapt(random_params(spec), spec, dataclasses.replace(spec, **change))
    assert "\n" not in str(caught.value)


def test_the_papers_config_starts_from_a_timm_folder_of_the_published_kind(tmp_path: Path) -> None:
    """eva02_base_patch14_224 in small: patch 14, a 16x16 grid, mean pooling with its norm."""
    spec = dataclasses.replace(SPEC, image_size=(224, 224))
    params = random_params(spec)
    preprocess = {"image_size": [224, 224], "resize": "shortest", "interpolation": "bicubic",
                  "mean": [0.5] * 3, "std": [0.5] * 3}  # fmt: skip
    timm_export.export(params, spec, preprocess, tmp_path)
    sizes = [("vision.width", "16"), ("vision.depth", "2"), ("vision.num_heads", "2"), ("vision.mlp_dim", "32"),
             ("vision.pool_mlp_dim", "32"), ("vision.init_from", str(tmp_path))]
    for arg, norm in (("", None), (":best", "norm")):
        config = config_lib.load(f"nomic_embed_vision_v1_5{arg}", sizes)
        target = two_towers.vision_tower(config)
        assert (target.spec.grid, target.spec.rope_reference_grid) == ((14, 14), (14, 14))
        found = warm_start.load_vision_params(config.vision.init_from, target, config.vision.init_resample)
        np.testing.assert_array_equal(
            found["patch_embed"]["kernel"], resample.patch_kernel(params["patch_embed"]["kernel"], 16, "bicubic"))
        np.testing.assert_array_equal(
            found["pos_embed"], resample.position_table(params["pos_embed"], (16, 16), (14, 14), "bicubic"))
        assert ("norm" in found) == bool(norm) and "fc_norm" not in found
        if norm:
            np.testing.assert_array_equal(found["norm"]["scale"], params["fc_norm"]["scale"])


# Settings from the description.


@pytest.fixture
def started(tmp_path: Path) -> Path:
    """A folder with a run and its export, whose architecture and preprocessing are not the defaults."""
    config = small_config(write_text_tower(tmp_path / "text"), vision__pool="mean", vision__rope_theta=100,
                          vision__key_bias=False, vision__pos_embed_grid="2,2", data__mean="0.5,0.4,0.3",
                          data__resize="squash")  # fmt: skip
    state = write_run(tmp_path / "run", config)
    write_export(tmp_path / "export", config, state["params"]["image"])
    return tmp_path


@pytest.mark.parametrize("kind", ["run", "export", "export/model.safetensors"])
def test_the_starting_models_description_replaces_the_keys_of_the_config(
    started: Path, kind: str, capfd: pytest.CaptureFixture
) -> None:
    changes = [("vision.init_from", str(started / kind)), ("vision.depth", "3"), ("vision.patch_dropout", "0.25")]
    config = config_lib.load("finetune", changes)
    vision = config.vision
    assert (vision.width, vision.pool, vision.rope_theta, vision.pos_embed_grid) == (16, "mean", 100.0, (2, 2))
    assert vision.depth == 3 and vision.patch_dropout == 0.25  # given on the command line; how a run treats its tower
    assert vision.embed_dim == 384 and vision.init_spec  # fits the text tower
    assert config.data.mean == (0.5, 0.4, 0.3) and config.data.resize == "squash"
    said = capfd.readouterr().err
    assert "vision.width=16" in said and "data.mean=(0.5, 0.4, 0.3)" in said and "embed_dim is this config's" in said
    assert said.count("\n") == 1 and "depth" not in said
    # the same command line gives the same config, and what is stored is explicit
    again = config_lib.load("finetune", changes)
    assert config_lib.config_hash(again) == config_lib.config_hash(config)
    assert config_lib.diff(config, config_lib.from_json(config_lib.to_json(config))) == {}


def test_a_started_tower_loads_without_a_size_on_the_command_line(started: Path) -> None:
    config = config_lib.load("finetune", [("vision.init_from", str(started / "export")), ("vision.embed_dim", "0")])
    params = warm_start.load_vision_params(config.vision.init_from, two_towers.vision_tower(config))
    assert tree.digest(params) == tree.digest(tower.load(started / "export").vision.params)


def test_other_configs_take_nothing(started: Path) -> None:
    config = config_lib.load("quickstart", [("vision.init_from", str(started / "export"))])
    assert config.vision.width == 192 and not config.vision.init_spec


def broken(folder: Path, name: str, text: str) -> Path:
    """A new folder with one file."""
    folder.mkdir()
    (folder / name).write_text(text)
    return folder


def test_a_start_without_a_description_is_refused_in_one_line(tmp_path: Path) -> None:
    page = {"family": "eva02", "spec": {"width": 3, "embed_dim": 0, "gamma": 1},
            "preprocess": {"mean": [0] * 3, "std": [1] * 3, "policy": "clean", "resize": "shortest"}}  # fmt: skip
    wrong = {**page, "spec": {"width": "wide", "embed_dim": 0}}
    cases = [
        (tmp_path / "none", "no such folder"),
        (broken(tmp_path / "timm", "config.json", '{"architecture": "x"}'), "lit-tune import it first"),
        (broken(tmp_path / "cut", "vision_tower.json", '{"family": '), "JSONDecodeError"),
        (broken(tmp_path / "list", "vision_tower.json", "[]"), "TypeError"),
        (broken(tmp_path / "newer", "vision_tower.json", json.dumps(page)), "found gamma"),
        (broken(tmp_path / "type", "vision_tower.json", json.dumps(wrong)), "vision.width: expected a whole number"),
    ]
    for folder, says in cases:
        with pytest.raises(ConfigError, match=re.escape(says)) as caught:
            config_lib.load("finetune", [("vision.init_from", str(folder))])
        assert "\n" not in str(caught.value)


# Watching.


def test_growth_is_told_once_for_each_block_and_kind() -> None:
    growth = watch.Growth([])
    start = {"train/loss": 2.0, "train/block_00_rms": 1.0, "train/block_00_max_logit": 0.1, "train/lr": 1.0,
             "train/block_01_max_logit": 5.0}  # fmt: skip
    assert growth.look(start) == []
    calm = {"train/loss": 2.9, "train/block_00_rms": 3.9, "train/block_00_max_logit": 3.9, "train/lr": 9.0,
            "train/block_01_max_logit": 19.0}  # fmt: skip
    assert growth.look(calm) == []  # small logits count from 1
    high = {name: value * 1.2 for name, value in calm.items()}
    warnings = growth.look(high)
    assert [line.split(":")[0] for line in warnings] == ["loss", "block_00_rms", "block_00_max_logit",
                                                         "block_01_max_logit"]
    assert "expected at most 20 (it began at 5), found 22.8" in warnings[-1]
    assert growth.look(high) == []


def test_growth_goes_on_where_a_run_stopped() -> None:
    past = [{"step": 1, "kind": "train", "train/loss": 2.0, "train/block_00_rms": 1.0},
            {"step": 1, "kind": "val", "train/loss": 9.0}, {"step": 2, "kind": "train", "train/loss": "nan"},
            {"step": 3, "kind": "train", "train/block_00_rms": 8.0}]  # fmt: skip
    growth = watch.Growth(past)
    assert growth.look({"train/block_00_rms": 9.0}) == []  # was said before
    assert len(growth.look({"train/loss": 3.5})) == 1
