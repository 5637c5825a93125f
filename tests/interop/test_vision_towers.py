"""Vision towers of timm, open_clip and transformers against ours: their weights in, our files out, the same vectors."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import open_clip
import pytest
import timm
import torch
import transformers

from lit_tune import convert, tree
from lit_tune.convert import keymap, mapping, peer_timm, timm as timm_folder, weights as weights_module
from lit_tune.convert.peer_vision import vision_spec
from lit_tune.exports import timm as timm_export
from lit_tune.models import vit
from lit_tune.models.eva02 import VARIANTS
from lit_tune.models.two_towers import family_of, tower_of
from lit_tune.models.vision import VisionSpec

pytestmark = pytest.mark.interop
FORWARD = 5e-5  # of the rms, small towers; as the reference vectors state it
FULL_SIZE, COSINE = 1.5e-4, 1 - 1e-8  # a whole B/16
PREPROCESS = {"image_size": [48, 48], "resize": "squash", "interpolation": "bicubic", "policy": "reference",
              "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}  # fmt: skip


def rel(ours: Any, theirs: Any) -> float:
    """max |ours - theirs| / rms(theirs)."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return float(np.max(np.abs(ours - theirs)) / np.sqrt(np.mean(np.square(theirs))))


def shaken(model: torch.nn.Module, seed: int = 0) -> dict[str, np.ndarray]:
    """A model's weights after noise on all of them (in place), so that a mistake in any shows; as numpy."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 25
            parameter.add_(torch.randn(parameter.shape, generator=generator) / fan_in**0.5)
    model.eval()
    return {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}


def pixels_of(spec: VisionSpec, b: int = 2) -> tuple[np.ndarray, torch.Tensor]:
    """The same random pixels for us and for them."""
    ours = np.random.default_rng(1).standard_normal((b, *spec.image_size, 3), np.float32)
    return ours, torch.from_numpy(ours.transpose(0, 3, 1, 2).copy())


def check(tower: convert.ConvertedTower, pooled: Any, tokens: Any, limit: float = FORWARD) -> None:
    """`pooled` and `tokens` are functions of the peer: pixels -> tensor."""
    ours, theirs = pixels_of(tower.spec)
    with torch.no_grad(), jax.default_matmul_precision("highest"):
        assert rel(tower(ours), pooled(theirs).numpy()) <= limit
        assert rel(tower.tokens(ours), tokens(theirs).numpy()) <= limit


def assert_written(tower: convert.ConvertedTower, layout: str, model: torch.nn.Module) -> None:
    """What we write is what the peer has, bit for bit, and nothing is missing where it loads it."""
    written = mapping.to_peer(tower.params, tower.spec, layout)
    theirs = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, array in written.items():
        np.testing.assert_array_equal(array, theirs[name].numpy(), err_msg=name)
    model.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in written.items()})


TIMM_CLASS = dict(img_size=48, patch_size=16, embed_dim=64, depth=2, num_heads=2)
TIMM = {
    "plain": ("vit_base_patch16_224", dict(num_classes=20)),
    "plain, mean": ("vit_base_patch16_224", dict(num_classes=0, global_pool="avg", class_token=False)),
    "mean of normed tokens": ("vit_base_patch16_224", dict(num_classes=64, global_pool="avg", fc_norm=False)),
    "clip": ("vit_base_patch16_clip_224", dict(num_classes=20)),
    "clip, quickgelu, normed late": ("vit_base_patch16_clip_quickgelu_224", dict(num_classes=0, fc_norm=True)),
    "siglip": ("vit_base_patch16_siglip_224", dict(num_classes=0)),
    "siglip, tanh, odd width": ("vit_base_patch16_siglip_224", dict(num_classes=20, act_layer="gelu_tanh",
                                                                    mlp_ratio=3.7362)),
    "no biases": ("vit_base_patch16_224", dict(num_classes=0, qkv_bias=False, pos_embed="none")),
    "bare, no norm": ("vit_base_patch16_224", dict(num_classes=0, global_pool="", final_norm=False)),
    "dynamic": ("vit_base_patch16_siglip_224", dict(num_classes=0, dynamic_img_size=True)),
}  # fmt: skip


@pytest.mark.parametrize("name", TIMM)
def test_a_vit_of_timm_comes_in_and_goes_out(name: str, tmp_path: Path) -> None:
    architecture, changes = TIMM[name]
    arguments = TIMM_CLASS | changes
    model = timm.create_model(architecture, **arguments)
    named = shaken(model)
    config = {"architecture": architecture, "model_args": arguments}
    tower = convert.vision(named, config, "timm")
    assert family_of(tower.spec) == "vit"
    if name == "dynamic":
        tower = dataclasses.replace(tower, spec=dataclasses.replace(
            tower.spec, image_size=(64, 80), pos_embed_grid=tower.spec.grid))  # fmt: skip
    check(tower, model, model.forward_features)
    timm_export.export(tower.params, tower.spec, PREPROCESS | {"image_size": list(tower.spec.image_size)}, tmp_path)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()  # strict, but for a MAP head left out
    assert set(loaded.state_dict()) == set(named)
    check(tower, loaded, loaded.forward_features)
    params, spec, _ = timm_folder.load(tmp_path)
    assert spec == tower.spec
    for key, array in tree.flatten(tower.params).items():
        np.testing.assert_array_equal(tree.flatten(params)[key], array, err_msg=key)


@pytest.mark.parametrize("name", vit.VARIANTS)
def test_every_registered_vit_has_timms_names_shapes_and_norms(name: str) -> None:
    spec = vit.VARIANTS[name]
    # 40 blocks and more take seconds to make; their count is compared once a size
    scales = {n.split("_")[1] for n in vit.VARIANTS}
    once = [next(n for n in vit.VARIANTS if n.split("_")[1] == scale) for scale in scales]
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0, **({} if name in once else {"depth": 1}))
    spec = spec if name in once else dataclasses.replace(spec, depth=1)
    theirs = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    shapes = {key: leaf.shape for key, leaf in tree.flatten(tower_of(spec).abstract()).items()}
    rules = mapping.expand(keymap.TABLES["vit", "timm"], spec)
    assert {rule.peer: mapping.peer_shape(rule, shapes) for rule in rules} == theirs
    assert {m.eps for m in model.modules() if isinstance(m, torch.nn.LayerNorm)} == {spec.norm_eps}
    acts = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "GELUTanh_": "gelu_tanh", "QuickGELU": "quick_gelu"}
    assert acts[type(model.blocks[0].mlp.act).__name__] == spec.act
    assert model.blocks[0].attn.num_heads == spec.num_heads and peer_timm.architecture(vit.VARIANTS[name]) == name


def test_a_whole_eva02_b_16_is_timms() -> None:
    name = "eva02_base_patch16_clip_224"
    model = timm.create_model(name, num_classes=0).eval()
    tower = convert.vision(
        {key: tensor.numpy() for key, tensor in model.state_dict().items()},
        {"architecture": name, "num_classes": 0}, "timm",
    )  # fmt: skip
    assert tree.count(tower.params) == sum(p.numel() for p in model.parameters()) == tree.count(
        tower_of(VARIANTS[name]).abstract()
    )
    ours, theirs = pixels_of(tower.spec)
    with torch.no_grad(), jax.default_matmul_precision("highest"):
        found, stated = np.asarray(tower(ours), np.float64), model(theirs).numpy().astype(np.float64)
    assert rel(found, stated) <= FULL_SIZE
    cosine = np.sum(found * stated, 1) / np.linalg.norm(found, axis=1) / np.linalg.norm(stated, axis=1)
    assert np.min(cosine) > COSINE


TEXT_CFG = {"context_length": 8, "vocab_size": 40, "width": 32, "heads": 2, "layers": 1}
VISION_CFG = {"image_size": 48, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16, "mlp_ratio": 3.0}
OPEN_CLIP = {
    "quick gelu": {"quick_gelu": True, "vision_cfg": VISION_CFG},
    "projection as wide as the trunk": {"embed_dim": 64, "vision_cfg": VISION_CFG},
    "mean, normed late": {"vision_cfg": VISION_CFG | {"pool_type": "avg", "final_ln_after_pool": True}},
    "no first norm, other eps, tanh": {"vision_cfg": VISION_CFG | {
        "no_ln_pre": True, "norm_kwargs": {"eps": 1e-6}, "act_kwargs": {"approximate": "tanh"}}},
    "not square": {"vision_cfg": VISION_CFG | {"image_size": [32, 64]}},
}  # fmt: skip


@pytest.mark.parametrize("custom_text", [False, True])
@pytest.mark.parametrize("name", OPEN_CLIP)
def test_a_clip_of_open_clip_comes_in_and_goes_out(name: str, custom_text: bool) -> None:
    cfg = {"embed_dim": 24, "text_cfg": TEXT_CFG} | OPEN_CLIP[name]
    model = (open_clip.CustomTextCLIP if custom_text else open_clip.CLIP)(**cfg)
    named = shaken(model)
    tower = convert.vision(named, {"model_cfg": cfg, "preprocess_cfg": {}}, "open_clip")

    def tokens(x: torch.Tensor) -> torch.Tensor:
        """The input of the projection's pooling: what output_tokens shows without the class token."""
        visual = model.visual
        x = visual.transformer(visual._embeds(x))
        return x if visual.final_ln_after_pool else visual.ln_post(x)

    check(tower, model.encode_image, tokens)
    assert_written(tower, "open_clip", Visual(model))


class Visual(torch.nn.Module):
    """The vision tower alone under its name, so that it loads strictly."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.visual = model.visual


OPEN_CLIP_TIMM = {
    "EVA02-CLIP": ("eva02_tiny_patch14_224", {"timm_pool": "token", "timm_proj": None}, 24),
    "EVA02, linear": ("eva02_tiny_patch14_224", {"timm_pool": "avg", "timm_proj": "linear"}, 24),
    "SigLIP": ("vit_tiny_patch16_224", {"timm_pool": "token", "timm_proj": "none"}, 192),
    "plain, linear with bias": ("vit_tiny_patch16_224", {"timm_proj": "linear", "timm_proj_bias": True}, 192),
}


@pytest.mark.parametrize("name", OPEN_CLIP_TIMM)
def test_a_timm_tower_inside_open_clip_comes_in_and_goes_out(name: str) -> None:
    trunk, cfg, embed_dim = OPEN_CLIP_TIMM[name]
    cfg = {"image_size": 224, "timm_model_name": trunk} | cfg
    model = open_clip.CustomTextCLIP(embed_dim=embed_dim, vision_cfg=cfg, text_cfg=TEXT_CFG)
    named = shaken(model)
    tower = convert.vision(named, {"embed_dim": embed_dim, "vision_cfg": cfg, "text_cfg": TEXT_CFG}, "open_clip")
    assert tower.spec.dim == embed_dim
    check(tower, model.encode_image, model.visual.trunk.forward_features)
    written = mapping.to_peer(tower.params, tower.spec, "open_clip")
    if "visual.trunk.head.weight" not in named:  # else we write the projection where open_clip has its own
        assert_written(tower, "open_clip", Visual(model))
    again = mapping.from_peer(written, tower.spec, "open_clip")
    for key, array in tree.flatten(tower.params).items():
        np.testing.assert_array_equal(tree.flatten(again)[key], array, err_msg=key)


def test_a_whole_siglip_of_open_clip_has_our_names_and_shapes() -> None:
    cfg = open_clip.get_model_config("ViT-B-16-SigLIP")
    with torch.device("meta"):
        trunk = timm.create_model(cfg["vision_cfg"]["timm_model_name"], num_classes=0, global_pool="map")
    spec = vision_spec(cfg, "open_clip")
    shapes = {key: leaf.shape for key, leaf in tree.flatten(tower_of(spec).abstract()).items()}
    found = {r.peer: mapping.peer_shape(r, shapes) for r in mapping.expand(keymap.VIT_TRUNK, spec)}
    assert found == {f"visual.trunk.{key}": tuple(tensor.shape) for key, tensor in trunk.state_dict().items()}


@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-B-16-quickgelu", "ViT-L-14", "ViT-S-16", "ViT-H-14", "EVA02-B-16",
                                  "EVA02-L-14-336", "ViT-SO400M-14-SigLIP", "ViT-B-16-SigLIP2-512"])  # fmt: skip
def test_open_clips_own_configs_are_understood(name: str) -> None:
    cfg = open_clip.get_model_config(name)
    spec = vision_spec(cfg, "open_clip")
    assert spec.dim == cfg["embed_dim"] and spec.image_size[0] == cfg["vision_cfg"]["image_size"]


HF_SIZES = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2, image_size=48,
                patch_size=16)  # fmt: skip
HF_TEXT = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=40,
               max_position_embeddings=8)  # fmt: skip


def hf_model(name: str) -> torch.nn.Module:
    """A small random model of transformers."""
    if name == "CLIPModel":
        return transformers.CLIPModel(
            transformers.CLIPConfig(text_config=HF_TEXT, vision_config=HF_SIZES, projection_dim=24)
        )
    if name == "SiglipModel":
        return transformers.SiglipModel(transformers.SiglipConfig(text_config=HF_TEXT, vision_config=HF_SIZES))
    kind = transformers.CLIPVisionConfig if name.startswith("CLIP") else transformers.SiglipVisionConfig
    changes = {"projection_dim": 64, "hidden_act": "gelu"} if name == "CLIPVisionModelWithProjection" else {}
    return getattr(transformers, name)(kind(**HF_SIZES, **changes))


def hf_pooled(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The vector that the model is used for."""
    if hasattr(model, "get_image_features"):
        found = model.get_image_features(pixel_values=x)
        return found if isinstance(found, torch.Tensor) else found.pooler_output
    out = model(pixel_values=x)
    return out.image_embeds if hasattr(out, "image_embeds") else out.pooler_output


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("name", ["CLIPVisionModel", "CLIPVisionModelWithProjection", "CLIPModel",
                                  "SiglipVisionModel", "SiglipModel"])  # fmt: skip
def test_a_tower_of_transformers_comes_in_and_goes_out(name: str, saved: bool, tmp_path: Path) -> None:
    model = hf_model(name)
    weights, config = shaken(model), model.config.to_dict()
    if saved:
        model.save_pretrained(tmp_path)
        weights, config = tmp_path, json.loads((tmp_path / "config.json").read_text())
    tower = convert.vision(weights, config, "hf")
    vision = model.vision_model if hasattr(model, "vision_model") else model
    check(tower, functools.partial(hf_pooled, model), lambda x: vision(pixel_values=x).last_hidden_state)
    loads = {"CLIPModel": "CLIPVisionModelWithProjection", "SiglipModel": "SiglipVisionModel"}
    target = getattr(transformers, loads[name] if name in loads else name)
    folder = tmp_path / "ours"
    folder.mkdir()
    target(target.config_class(**(vision.config.to_dict() | projection_of(model)))).config.save_pretrained(folder)
    weights_module.write(
        folder / "model.safetensors", mapping.to_peer(tower.params, tower.spec, "hf"), {"format": "pt"}
    )
    loaded, report = target.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    _, pixels = pixels_of(tower.spec)
    with torch.no_grad():
        np.testing.assert_array_equal(hf_pooled(loaded.eval(), pixels).numpy(), hf_pooled(model, pixels).numpy())


def projection_of(model: torch.nn.Module) -> dict[str, int]:
    """The width of a whole CLIP's projection, which its vision config does not repeat."""
    return {"projection_dim": model.config.projection_dim} if isinstance(model, transformers.CLIPModel) else {}


def eva_names(named: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """timm's arrays of an EVA02 with sub-LN under BAAI's names, with the buffers that its files hold."""
    names = {"attn.norm": "attn.inner_attn_ln", "mlp.norm": "mlp.ffn_ln", "fc1_g": "w1", "fc1_x": "w2", "fc2": "w3",
             "q_proj.bias": "q_bias", "v_proj.bias": "v_bias"}  # fmt: skip
    found = {}
    for name, array in named.items():
        for timm_name, eva in names.items():
            name = name.replace(timm_name, eva)
        found[name] = array
    return found | {"rope.freqs_cos": np.ones((9, 32), np.float32),
                    "blocks.0.attn.rope.freqs_sin": np.ones((9, 32), np.float32)}  # fmt: skip


EVA_SIZES = dict(img_size=48, patch_size=16, embed_dim=64, depth=2, num_heads=2)


def test_baais_spelling_is_the_one_that_timm_reads() -> None:
    model = timm.create_model("eva02_base_patch16_clip_224", num_classes=20, **EVA_SIZES)
    named = shaken(model)
    theirs = eva_names(named)
    filtered = timm.models.eva.checkpoint_filter_fn({k: torch.from_numpy(v) for k, v in theirs.items()}, model)
    assert set(filtered) == set(named)
    config = {"architecture": "eva02_base_patch16_clip_224", "model_args": EVA_SIZES | {"num_classes": 20}}
    check(convert.vision(theirs, config, "timm"), model, model.forward_features)
    two_towers = {f"visual.{k}": v for k, v in theirs.items()} | {"text.x": np.ones(2, np.float32)}
    check(convert.vision(two_towers, config, "timm"), model, model.forward_features)


@pytest.mark.parametrize("spelling", ["timm", "eva"])
def test_what_masked_image_modelling_leaves_is_set_aside_as_timm_does(spelling: str) -> None:
    arguments = EVA_SIZES | {"num_classes": 0}
    model = timm.create_model("eva02_base_patch14_224", **arguments)
    named = shaken(model)
    file = {name.replace("fc_norm", "norm"): array for name, array in named.items()}
    file |= {"mask_token": np.ones((1, 1, 64), np.float32), "lm_head.weight": np.ones((8, 64), np.float32),
             "lm_head.bias": np.ones(8, np.float32)}  # fmt: skip
    file = eva_names(file) if spelling == "eva" else file
    read = timm.models.eva.checkpoint_filter_fn({k: torch.from_numpy(v.copy()) for k, v in file.items()}, model)
    model.load_state_dict(read)
    config = {"architecture": "eva02_base_patch14_224", "model_args": arguments}
    check(convert.vision(file, config, "timm"), model, model.forward_features)


@pytest.mark.parametrize("projection", ["none", "linear", "added"])
def test_jina_clips_tower_is_timms_eva_in_its_shape(projection: str) -> None:
    arguments = EVA_SIZES | {"num_classes": 0 if projection == "none" else 24, "ref_feat_shape": (16, 16)}
    model = timm.create_model("eva02_base_patch16_clip_224", mlp_ratio=2.6667, **arguments)
    named = shaken(model)
    if projection == "added":
        with torch.no_grad():
            model.head.bias.zero_()
    vision = dict(embed_dim=24 if projection == "linear" else 64, width=64, image_size=48, patch_size=16, layers=2,
                  head_width=32, mlp_ratio=2.6667, qkv_bias=True, rope_embeddings=True, pt_hw_seq_len=16,
                  intp_freq=True, naive_swiglu=True, subln=True, x_attention=True, post_norm=False,
                  proj_type="linear" if projection == "linear" else None)  # fmt: skip
    config = {"model_type": "jina_clip", "vision_config": vision, "text_config": {"embed_dim": 64},
              "add_projections": projection == "added", "projection_dim": 24}  # fmt: skip
    file = {f"vision_model.{name}": array for name, array in eva_names(named).items()}
    if projection == "added":
        file["visual_projection.weight"] = file.pop("vision_model.head.weight")
        del file["vision_model.head.bias"]
    file |= {"text_model.transformer.x": np.ones(3, np.float32), "logit_scale": np.ones((), np.float32)}
    check(convert.vision(file, config, "hf"), model, model.forward_features)
