"""Weights in and out: round trips bit for bit, refusals in one line, files without torch."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
import reference
from safetensors.numpy import save_file

from lit_tune import convert, tree
from lit_tune.convert import keymap, mapping, peer_vision, timm, weights
from lit_tune.errors import ConfigError
from lit_tune.exports import timm as timm_export
from lit_tune.models import two_towers
from lit_tune.models.bert import BertSpec
from lit_tune.models.clip_text import ClipTextSpec
from lit_tune.models.eva02 import VARIANTS, Eva02Spec
from lit_tune.models.jina_bert import JinaBertSpec
from lit_tune.models.modern_bert import ModernBertSpec
from lit_tune.models.nomic_bert import NomicBertSpec
from lit_tune.models.two_towers import tower_of

SMALL = dict(image_size=(28, 42), width=32, depth=2, num_heads=2, mlp_dim=43, pool_mlp_dim=50)
PREPROCESS = {"image_size": [28, 42], "resize": "squash", "interpolation": "bicubic", "policy": "reference",
              "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}  # fmt: skip
NOMIC = dict(
    pool="nomic", key_bias=True, qkv_fused=True, final_norm=False, sub_ln_eps=1e-5, mlp_dim=256, pool_mlp_dim=256
)


def eva02(name: str = "eva02_base_patch14_224", **changes: Any) -> Eva02Spec:
    """A small tower with the switches of a variant."""
    return dataclasses.replace(VARIANTS[name], **(SMALL | changes))


def random_params(spec: Any, seed: int = 0) -> tree.Tree:
    """Different numbers everywhere, as numpy."""
    named = tree.flatten(tower_of(spec).abstract())
    return tree.unflatten({name: reference.draw(name, leaf.shape, seed) for name, leaf in named.items()})


def assert_equal(ours: tree.Tree, theirs: tree.Tree) -> None:
    """Same names, same bits."""
    ours, theirs = tree.flatten(ours), tree.flatten(theirs)
    assert set(ours) == set(theirs)
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype == np.float32 and np.array_equal(ours[name], array), name


BERT = BertSpec(50, 24, 2, 32, 2, 4, 48, 1e-12, "mean", False, 0)
NOMIC_BERT = NomicBertSpec(50, 2, 32, 2, 4, 48, 1e-12, 1000.0, 0.0, 0, "mean", True, 0)
CLIP = ClipTextSpec(50, 24, 32, 2, 4, 48, 1e-5, "quick_gelu", True, "argmax", 2, 1, 20, False, False, 0)
SIGLIP = ClipTextSpec(50, 24, 32, 2, 4, 48, 1e-6, "gelu_tanh", False, "last", -1, 1, 32, True, False, 0)
JINA_BERT = JinaBertSpec(50, 2, 30, 2, 6, 48, 1e-12, "mean", False, 0)
IMPORTED_ONLY = {
    "XLM-R": ("hf", BertSpec(50, 26, 1, 32, 2, 4, 48, 1e-5, "mean", False, 0, first_position=2)),
    "ModernBERT": ("hf", ModernBertSpec(50, 32, 4, 4, 48, 1e-5, 3, 4, 160e3, 10e3, "mean", False, 0)),
    "SigLIP text": ("hf", SIGLIP),
    "SigLIP text of open_clip": ("open_clip", SIGLIP),
}
TIMM_SPECS = {
    "fused, no sub-LN": eva02("eva02_tiny_patch14_224"),
    "split, sub-LN, mean": eva02(),
    "CLIP": eva02("eva02_base_patch16_clip_224", image_size=(32, 48)),
    "map with a projection": eva02(pool="map", embed_dim=20),
    "map with a biased projection": eva02(pool="map", embed_dim=20, embed_bias=True),
    "bare trunk": eva02(pool="none", final_norm=False),
    "no class token, no biases": eva02(class_token=False, qkv_bias=False),
    "fused with biases, no positions": eva02(qkv_fused=True, pos_embed=False),
    "no rope, own grid": eva02(rope=False, rope_reference_grid=(0, 0), pool="cls"),
    "positions of another grid": eva02(pos_embed_grid=(3, 3)),
}
CASES = [("timm", spec) for spec in TIMM_SPECS.values()] + [
    ("nomic", eva02(**(NOMIC | {"image_size": (28, 28)}))),
    ("open_clip", eva02(**NOMIC)),
    ("open_clip", eva02(pool="nomic", key_bias=True, embed_dim=20)),
    ("open_clip", eva02(pool="nomic", sub_ln=False, qkv_fused=True)),
    ("hf", BERT),
    ("hf", NOMIC_BERT),
    ("nomic", NOMIC_BERT),
    ("hf", CLIP),
    ("hf", dataclasses.replace(CLIP, embed_dim=0)),
    ("open_clip", CLIP),
    ("open_clip_custom_text", CLIP),
    ("hf", JINA_BERT),
    ("jina_clip", JINA_BERT),
]


@pytest.mark.parametrize("layout, spec", CASES)
def test_weights_go_to_a_peer_and_back_bit_for_bit(layout: str, spec: Any) -> None:
    params = random_params(spec)
    named = mapping.to_peer(params, spec, layout)
    assert_equal(mapping.from_peer(named, spec, layout.removesuffix("_custom_text")), params)
    again = mapping.to_peer(mapping.from_peer(named, spec, layout), spec, layout)
    assert set(again) == set(named) and all(np.array_equal(again[name], named[name]) for name in named)
    # every number is somewhere, once (a bias that only timm has is zeros)
    assert sum(np.count_nonzero(a) for a in named.values()) == sum(np.count_nonzero(a) for a in jax.tree.leaves(params))


@pytest.mark.parametrize("name", IMPORTED_ONLY)
def test_what_is_imported_only_is_read_whole_and_its_export_refused_with_the_reason(name: str) -> None:
    layout, spec = IMPORTED_ONLY[name]
    params = random_params(spec)
    named = mapping.write_with(keymap.TABLES[two_towers.family_of(spec), layout], params, spec)
    assert_equal(mapping.from_peer(named, spec, layout), params)
    with pytest.raises(ConfigError, match=f"{name.removesuffix(' of open_clip')}.*imported only") as caught:
        mapping.to_peer(params, spec, layout)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", TIMM_SPECS)
def test_a_timm_folder_comes_back_as_it_went(name: str, tmp_path: Path) -> None:
    spec, preprocess = TIMM_SPECS[name], PREPROCESS | {"image_size": list(TIMM_SPECS[name].image_size)}
    params = random_params(spec)
    digest = timm_export.export(params, spec, preprocess, tmp_path / "out")
    assert digest == weights.sha256(tmp_path / "out" / weights.FILE)
    found, found_spec, found_preprocess = timm.load(tmp_path / "out")
    assert_equal(found, params)
    assert found_preprocess == preprocess
    # hidden width of a head that is not there, and positions on their own grid: said in two ways, the same tower
    meant = dataclasses.replace(spec, pool_mlp_dim=spec.pool_mlp_dim if spec.pool == "map" else spec.mlp_dim)
    assert found_spec == meant


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_what_timms_arguments_say(name: str) -> None:
    assert peer_vision.vision_spec({"architecture": f"{name}.mim_in22k", "num_classes": 0}, "timm") == VARIANTS[name]
    arguments = peer_vision.timm_arguments(VARIANTS[name])
    assert peer_vision.vision_spec(arguments, "timm") == VARIANTS[name]
    assert timm_export.timm_config(VARIANTS[name], PREPROCESS)["architecture"] == name


@pytest.mark.parametrize("mlp_dim", range(300, 400, 7))
def test_timms_ratio_gives_the_hidden_width_again(mlp_dim: int) -> None:
    for width in (96, 128, 1024):
        ratio = peer_vision.timm_arguments(eva02(width=width, mlp_dim=mlp_dim))["mlp_ratio"]
        assert int(width * ratio) == mlp_dim


@pytest.mark.parametrize(
    "layout, changes, reason",
    [
        ("timm", NOMIC, "the nomic pooling head; a trained bias on the keys; a LayerNorm eps of 1e-05"),
        ("timm", {"norm_eps": 1e-5}, "a LayerNorm eps of 1e-05"),
        ("nomic", {}, "pooling mean"),
        ("nomic", NOMIC | {"embed_dim": 20}, "a projection to 20"),
        ("nomic", NOMIC | {"mlp_dim": 43}, "a hidden width of 43, no multiple of 256"),
        ("nomic", NOMIC | {"sub_ln_eps": 1e-6}, "eps of the MLP other than 1e-5"),
    ],
)
def test_what_a_layout_cannot_hold_is_refused_with_the_reason(layout: str, changes: dict, reason: str) -> None:
    spec = eva02(**changes)
    with pytest.raises(ConfigError, match=reason):
        mapping.to_peer(random_params(spec), spec, layout)


def test_an_unknown_layout_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"expected hf \| open_clip for bert, found timm"):
        mapping.to_peer(random_params(BERT), BERT, "timm")
    with pytest.raises(ConfigError, match=r"timm \| nomic \| hf \| open_clip, found flax"):
        peer_vision.vision_spec({}, "flax")


def test_missing_extra_and_misshaped_arrays_are_named() -> None:
    spec = eva02()
    named = mapping.to_peer(random_params(spec), spec, "timm")
    named["blocks.7.norm1.weight"] = named.pop("blocks.1.norm1.weight")
    named["patch_embed.proj.bias"] = np.zeros(33, np.float32)
    with pytest.raises(ConfigError) as caught:
        mapping.from_peer(named, spec, "timm")
    for part in ("1 missing (blocks.1.norm1.weight)", "1 extra (blocks.7.norm1.weight)",
                 "patch_embed.proj.bias of shape (33,) instead of (32,)"):  # fmt: skip
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_trained_bias_is_not_dropped_where_ours_has_none() -> None:
    spec = eva02(pool="map", embed_dim=20)
    named = mapping.to_peer(random_params(spec), spec, "timm")
    named["head.bias"][3] = 1
    with pytest.raises(ConfigError, match="head.bias: expected zeros, found a trained bias"):
        mapping.from_peer(named, spec, "timm")


def test_berts_pooler_pretraining_head_and_prefix_are_left_aside() -> None:
    params = random_params(BERT)
    named = {f"bert.{name}": array for name, array in mapping.to_peer(params, BERT, "hf").items()}
    named |= {
        "bert.pooler.dense.weight": np.ones((32, 32), np.float32),
        "cls.predictions.bias": np.ones(50, np.float32),
    }
    named |= {"bert.embeddings.position_ids": np.arange(24)[None]}
    assert_equal(mapping.from_peer(named, BERT, "hf"), params)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_files_are_read_exactly_as_float32(dtype: Any, tmp_path: Path) -> None:
    array = np.linspace(-2, 2, 12).astype(dtype).reshape(3, 4)
    save_file({"a": array}, tmp_path / weights.FILE)
    found = weights.read(tmp_path)["a"]
    assert found.dtype == np.float32 and np.array_equal(found, array.astype(np.float32))


def test_bad_weight_files_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="or a folder with model.safetensors"):
        weights.read(tmp_path)
    (tmp_path / weights.FILE).write_bytes(b"no weights")
    with pytest.raises(ConfigError, match="expected a whole safetensors file"):
        weights.read(tmp_path)
    with pytest.raises(ConfigError, match="weight b: expected finite numbers, found 2 inf or nan"):
        weights.read({"a": np.ones(3, np.float32), "b": np.array([1, np.inf, np.nan], np.float32)})
    with pytest.raises(ConfigError, match="weight a: expected float32, float16 or bfloat16, found float64"):
        weights.read({"a": np.ones(3)})
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ConfigError, match="expected a JSON object, found list"):
        weights.read_config(tmp_path / "config.json")
    with pytest.raises(ConfigError, match="none at"):
        weights.read_config(tmp_path / "other.json")


def test_a_written_file_is_whole_or_absent_and_says_its_framework(tmp_path: Path) -> None:
    path = tmp_path / weights.FILE
    weights.write(path, {"a": np.ones((2, 3), np.float32).T}, {"format": "pt"})
    header = path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")]
    assert json.loads(header)["__metadata__"] == {"format": "pt"}
    assert [p.name for p in tmp_path.iterdir()] == [weights.FILE]
    assert weights.read(path)["a"].shape == (3, 2)


@pytest.mark.parametrize(
    "config, layout, name",
    [
        ({"model_type": "clip_vision_model", "hidden_act": "relu"}, "hf", "hidden_act='relu'"),
        ({"model_type": "siglip2_vision_model"}, "hf", "SigLIP 2"),
        ({"model_type": "made up"}, "hf", "model_type made up"),
        ({"architecture": "vit_so400m_patch14_siglip_384"}, "timm", "vit_so400m_patch14_siglip_384"),
        ({"embed_dim": 64, "global_pool": "map"}, "timm", "a class token and global_pool='map'"),
        ({"class_token": False, "norm_layer": "rmsnorm"}, "timm", "norm_layer='rmsnorm'"),
        ({"class_token": False, "qkv_norm": True}, "timm", "qkv_norm=True"),
        ({"use_rot_pos_emb": True}, "timm", "an Eva without SwiGLU"),
        ({"architecture": "eva02_base_patch14_224", "model_args": {"qk_norm": True}}, "timm", "qk_norm=True"),
        ({"swiglu_mlp": True, "novelty": 3}, "timm", "novelty=3"),
        ({"swiglu_mlp": True, "global_pool": "avgmax"}, "timm", "avgmax"),
        ({"swiglu_mlp": True, "global_pool": "map", "use_fc_norm": True}, "timm", "use_fc_norm=True"),
        ({}, "open_clip", "without vision_cfg"),
        ({"embed_dim": 1024, "vision_cfg": {"layers": [3, 4, 6, 3]}}, "open_clip", "a ResNet of OpenAI CLIP"),
        ({"embed_dim": 8, "vision_cfg": {"attentional_pool": True}}, "open_clip", "attentional_pool=True"),
        ({"embed_dim": 8, "vision_cfg": {"novelty": 1}}, "open_clip", "novelty=1"),
        ({"embed_dim": 8, "vision_cfg": {"timm_model_name": "resnet50"}}, "open_clip", "resnet50"),
        ({"model_type": "jina_clip", "vision_config": {}}, "hf", "naive_swiglu=False"),
    ],
)
def test_what_is_not_supported_yet_is_said_by_name(config: dict[str, Any], layout: str, name: str) -> None:
    with pytest.raises(ConfigError, match="not yet supported") as caught:
        peer_vision.vision_spec(config, layout)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_text_config_is_no_vision_tower_and_the_other_way_round() -> None:
    text = json.loads((reference.ROOT / "c_text_nomic/nomic_embed_text_v1_5.keys.json").read_text())["config"]
    vision = json.loads((reference.ROOT / "b_nomic_vision/nomic_embed_vision_v1_5.config.json").read_text())
    with pytest.raises(ConfigError, match="text tower where a vision tower"):
        convert.vision({}, text, "nomic")
    with pytest.raises(ConfigError, match="vision tower where a text tower"):
        convert.text({}, vision, "nomic")


def test_regenerated_weights_have_the_hashes_that_the_reference_states() -> None:
    folder = "b_nomic_vision"
    for case in reference.cases(folder):
        found = reference.weights(folder, case)
        ending = ".weights.safetensors"
        stored = reference.has(folder, case, ending)
        stated = reference.entry(folder, case, ending + ("" if stored else reference.NOT_STORED))["arrays"]
        assert {name: reference.short_hash(array) for name, array in found.items()} == {
            name: digest for name, (_, _, digest) in stated.items()
        }
