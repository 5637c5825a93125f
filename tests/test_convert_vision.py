"""Vision weights in and out: every layout that is written, bit for bit, spellings that are only read, and refusals."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from test_convert import NOMIC, PREPROCESS, TIMM_SPECS, assert_equal, eva02, random_params

from lit_tune import convert, tree
from lit_tune.convert import keymap, keymap_vision, limits, mapping, peer_timm, peer_vision, rules, timm, weights
from lit_tune.errors import ConfigError
from lit_tune.exports import timm as timm_export
from lit_tune.models import vit
from lit_tune.models.eva02 import VARIANTS as EVA02
from lit_tune.models.two_towers import VISION_FAMILIES
from lit_tune.models.vit import VitSpec

NOMIC_FOLDER = "b_nomic_vision"
TEXT = {"text.x": np.ones(2, np.float32), "logit_scale": np.ones((), np.float32)}


def plain(name: str = "vit_base_patch16_clip_224", **changes: Any) -> VitSpec:
    """A small plain ViT with the switches of a registered one."""
    small = dict(image_size=(32, 48), width=32, depth=2, num_heads=2, mlp_dim=43, pool_mlp_dim=43)
    return dataclasses.replace(vit.VARIANTS[name], **(small | changes))


CLIP = plain("vit_base_patch16_clip_quickgelu_224", embed_dim=20)
SIGLIP = plain("vit_base_patch32_siglip_256", image_size=(32, 64))
TIMM_VITS = {
    "CLIP": CLIP,
    "SigLIP": SIGLIP,
    "plain with a biased head": plain("vit_base_patch16_224", embed_dim=20, embed_bias=True),
    "a head as wide as the trunk": plain(embed_dim=32, embed_square=True),
    "mean, normed late": plain("vit_base_patch16_224", pool="mean", norm_after_pool=True, class_token=False),
    "mean of normed tokens": plain("vit_base_patch16_224", pool="mean"),
    "bare, no positions, no biases": plain(
        "vit_base_patch16_224", pool="none", final_norm=False, pos_embed=False, qkv_bias=False
    ),
    "positions of another grid": plain("vit_base_patch16_siglip_224", pos_embed_grid=(3, 3)),
}
CASES = [("timm", spec) for spec in TIMM_VITS.values()] + [
    ("open_clip", CLIP),
    ("open_clip", plain(embed_dim=32, embed_square=True, pool="mean", norm_after_pool=True)),
    ("open_clip", plain(embed_dim=20, pre_norm=False)),
    ("open_clip", eva02(**NOMIC)),
    ("open_clip", SIGLIP),  # as a timm tower
    ("open_clip", plain("vit_base_patch16_224", embed_dim=20, embed_bias=True)),
    ("hf", dataclasses.replace(CLIP, image_size=(32, 32), norm_after_pool=True)),
    ("hf", dataclasses.replace(CLIP, image_size=(32, 32), embed_dim=0)),
    ("hf", dataclasses.replace(SIGLIP, image_size=(64, 64))),
    *(("open_clip", spec) for spec in TIMM_SPECS.values() if spec.pos_embed),
]


@pytest.mark.parametrize("layout, spec", CASES)
def test_vision_weights_go_to_a_peer_and_back_bit_for_bit(layout: str, spec: Any) -> None:
    params = random_params(spec)
    named = mapping.to_peer(params, spec, layout)
    assert_equal(mapping.from_peer(named, spec, layout), params)
    again = mapping.to_peer(mapping.from_peer(named, spec, layout), spec, layout)
    assert set(again) == set(named) and all(np.array_equal(again[name], named[name]) for name in named)
    ours = sum(np.count_nonzero(array) for array in tree.flatten(params).values())
    assert sum(np.count_nonzero(array) for array in named.values()) == ours


@pytest.mark.parametrize("name", TIMM_VITS)
def test_a_timm_folder_of_a_vit_comes_back_as_it_went(name: str, tmp_path: Path) -> None:
    spec = TIMM_VITS[name]
    preprocess = PREPROCESS | {"image_size": list(spec.image_size)}
    params = random_params(spec)
    timm_export.export(params, spec, preprocess, tmp_path)
    found, found_spec, found_preprocess = timm.load(tmp_path)
    assert_equal(found, params)
    assert found_spec == spec and found_preprocess == preprocess
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] in vit.VARIANTS
    # the eps of the norms travels in the name alone
    assert vit.VARIANTS[config["architecture"]].norm_eps == spec.norm_eps


@pytest.mark.parametrize("name", vit.VARIANTS)
def test_every_vit_is_what_timms_arguments_say(name: str) -> None:
    spec = vit.VARIANTS[name]
    assert peer_vision.vision_spec({"architecture": f"{name}.tag", "num_classes": 0}, "timm") == spec
    arguments = peer_vision.timm_arguments(spec) | {"norm_layer": "layernorm"}
    assert dataclasses.replace(peer_vision.vision_spec(arguments, "timm"), norm_eps=spec.norm_eps,
                               pool_norm_eps=spec.norm_eps) == spec  # fmt: skip
    assert peer_timm.architecture(spec) == name


@pytest.mark.parametrize("model_args, pool, late", [
    ({"global_pool": "token"}, "cls", False), ({"global_pool": "map"}, "map", False), ({}, "mean", True),
])
def test_the_norm_of_a_registered_model_follows_the_pooling_asked_for(model_args: dict, pool: str, late: bool) -> None:
    config = {"architecture": "eva02_base_patch14_224", "num_classes": 0, "model_args": model_args}
    spec = peer_vision.vision_spec(config, "timm")
    assert (spec.pool, spec.norm_after_pool, spec.final_norm) == (pool, late, True)


@pytest.mark.parametrize("layout, spec, reason", [
    ("timm", plain(pool="nomic"), "the nomic pooling head"),
    ("timm", plain(pool="map"), "a class token under MAP pooling"),
    ("timm", plain(patch_bias=True), "a bias of the patches with a norm before"),
    ("timm", plain(norm_eps=1e-3), "a LayerNorm eps of 0.001"),
    ("timm", dataclasses.replace(SIGLIP, pool_mlp_dim=50), "a head of another hidden width, 50"),
    ("open_clip", plain(patch_bias=True, embed_dim=20), "a bias of the patches; a bias of the patches with a norm"),
    ("open_clip", eva02(key_bias=True), "a trained bias on the keys"),
    ("open_clip", eva02(**(NOMIC | {"pos_embed": False})), "found no position embedding; export --format=onnx"),
    ("timm", eva02(**NOMIC), r"the nomic pooling head.*export --format=onnx \| open_clip"),
    ("hf", plain(pool="mean"), "pooling mean"),
    ("hf", plain("vit_base_patch16_224"), "a bias of the patches under CLIP; no norm before the blocks under CLIP"),
    ("hf", dataclasses.replace(SIGLIP, embed_dim=20), "a projection after MAP"),
    ("hf", CLIP, r"an image that is not square, \(32, 48\)"),
])  # fmt: skip
def test_what_a_layout_cannot_hold_of_a_vit_is_refused(layout: str, spec: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        mapping.to_peer(random_params(spec), spec, layout)
    assert "\n" not in str(caught.value)


def test_every_vision_table_can_refuse() -> None:
    assert set(limits._REASONS) == {key for key in keymap.TABLES if key[0] in VISION_FAMILIES}


@pytest.mark.parametrize("written, spec, prefix", [
    (keymap_vision.EVA, TIMM_SPECS["CLIP"], ""), (keymap_vision.EVA, TIMM_SPECS["fused, no sub-LN"], ""),
    (keymap_vision.EVA, TIMM_SPECS["CLIP"], "visual."), (keymap_vision.EVA_MIM, TIMM_SPECS["split, sub-LN, mean"], ""),
    (keymap_vision.TIMM_MIM, TIMM_SPECS["split, sub-LN, mean"], ""),
])  # fmt: skip
def test_spellings_of_eva02_are_told_apart_by_the_names_in_the_file(written: Any, spec: Any, prefix: str) -> None:
    params = random_params(spec)
    named = mapping.write_with(rules.prefixed(prefix, written), params, spec) | TEXT
    named |= {f"{prefix}rope.freqs_cos": np.ones(3, np.float32)}
    if written in (keymap_vision.EVA_MIM, keymap_vision.TIMM_MIM):
        assert "norm.weight" in named and "fc_norm.weight" not in named
        named |= {"mask_token": np.ones((1, 1, 32), np.float32), "lm_head.weight": np.ones((5, 32), np.float32)}
    assert_equal(mapping.from_peer(named, spec, "timm"), params)


def test_a_file_of_two_towers_sets_the_other_aside_by_name_and_nothing_else() -> None:
    params = random_params(CLIP)
    named = mapping.to_peer(params, CLIP, "open_clip") | TEXT | {"transformer.resblocks.0.x": np.ones(2, np.float32)}
    assert_equal(mapping.from_peer(named, CLIP, "open_clip"), params)
    with pytest.raises(ConfigError, match="1 extra \\(visual.adapter\\)"):
        mapping.from_peer(named | {"visual.adapter": np.ones(2, np.float32)}, CLIP, "open_clip")


def test_the_clip_vit_b_16_of_transformers_config_is_the_one_of_open_clips() -> None:
    # config.json of openai/clip-vit-base-patch16 states these of its vision part
    vision = {"hidden_size": 768, "image_size": 224, "intermediate_size": 3072, "layer_norm_eps": 1e-5,
              "num_attention_heads": 12, "num_hidden_layers": 12, "patch_size": 16, "hidden_act": "quick_gelu",
              "projection_dim": 512, "model_type": "clip_vision_model"}  # fmt: skip
    hf = peer_vision.vision_spec({"model_type": "clip", "projection_dim": 512, "vision_config": vision}, "hf")
    cfg = {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16}
    ours = peer_vision.vision_spec({"embed_dim": 512, "quick_gelu": True, "vision_cfg": cfg}, "open_clip")
    assert dataclasses.replace(hf, norm_after_pool=False) == ours
    assert tree.count(convert.tower_of(ours).abstract()) == 86_192_640  # of open_clip's ViT-B-16-quickgelu .visual


def test_a_sparse_siglip_config_takes_the_defaults_of_its_class() -> None:
    config = {"model_type": "siglip", "vision_config": {"model_type": "siglip_vision_model"}}
    spec = peer_vision.vision_spec(config, "hf")
    assert spec == dataclasses.replace(vit.VARIANTS["vit_base_patch16_siglip_224"], act="gelu_tanh")


def test_an_eva02_clip_of_open_clip_is_the_registered_tower_with_a_projection() -> None:
    cfg = {"image_size": 224, "timm_model_name": "eva02_base_patch16_clip_224", "timm_pool": "token"}
    config = {"embed_dim": 512, "vision_cfg": cfg | {"timm_proj": None}, "text_cfg": {}}
    expected = dataclasses.replace(EVA02["eva02_base_patch16_clip_224"], embed_dim=512, embed_bias=True)
    assert peer_vision.vision_spec(config, "open_clip") == expected
    with pytest.raises(ConfigError, match="image_size=336"):
        peer_vision.vision_spec(config | {"vision_cfg": cfg | {"image_size": 336}}, "open_clip")


def test_the_released_nomic_vision_model_goes_in_and_out_bit_for_bit() -> None:
    keys = json.loads((reference.ROOT / NOMIC_FOLDER / "nomic_embed_vision_v1_5.keys.json").read_text())
    config = json.loads((reference.ROOT / NOMIC_FOLDER / "nomic_embed_vision_v1_5.config.json").read_text())
    named = weights.read(reference.fill(keys["shapes"], seed=15))
    spec = peer_vision.vision_spec(config, "nomic")
    params = mapping.from_peer(named, spec, "nomic")
    again = mapping.to_peer(params, spec, "nomic")
    assert tree.count(params) == sum(array.size for array in named.values()) == 92_946_688
    assert set(again) == set(named) and len(again) == 211
    for name, array in named.items():
        assert again[name].dtype == np.float32 and np.array_equal(again[name], array), name
    print(f"nomic-embed-vision-v1.5: {len(again)} arrays compared (bit for bit, there and back)")
