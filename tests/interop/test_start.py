"""Starting weights against torch and timm: resampled kernels and positions, the paper's start, rates of layers."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.layers import patch_embed as timm_patch_embed, resample_abs_pos_embed, resample_patch_embed
from timm.models.eva import checkpoint_filter_fn
from timm.optim import param_groups_layer_decay
from torch.nn import functional

from lit_tune import config as config_lib, convert, optim, warm_start
from lit_tune.convert import keymap, mapping, peer_vision, resample
from lit_tune.convert.adapt import adapt
from lit_tune.models import two_towers

pytestmark = pytest.mark.interop
SIZES = dict(embed_dim=32, depth=2, num_heads=2, mlp_ratio=2.0)
OURS = [("vision.width", "32"), ("vision.depth", "2"), ("vision.num_heads", "2"), ("vision.mlp_dim", "64"),
        ("vision.pool_mlp_dim", "64")]  # fmt: skip


def conv_kernel(ours: np.ndarray, patch: int) -> np.ndarray:
    """(out, channel, row, column) of our (row * column * channel, out)."""
    return ours.reshape(patch, patch, 3, -1).transpose(3, 2, 0, 1)


@pytest.mark.parametrize("old, new", [(14, 16), (16, 14), (16, 8), (8, 16), (14, 32)])
def test_patch_kernels_are_resampled_as_torch_and_timm_do(old: int, new: int) -> None:
    kernel = np.float32(np.random.default_rng(0).normal(0, 0.1, (6, 3, old, old)))
    given, ours = torch.from_numpy(kernel), kernel.transpose(2, 3, 1, 0).reshape(-1, 6)
    plain = functional.interpolate(given, (new, new), mode="bicubic", align_corners=False).numpy()
    np.testing.assert_allclose(conv_kernel(resample.patch_kernel(ours, new, "bicubic"), new), plain, atol=1e-6)
    found = conv_kernel(resample.patch_kernel(ours, new, "pinv"), new)
    exact = timm_patch_embed._compute_resize_matrix((old, old), (new, new), "bicubic", True, "cpu", torch.float64)
    exact = timm_patch_embed._apply_resampling(
        given, torch.linalg.pinv(exact), (new, new), torch.float32, torch.float64)
    np.testing.assert_allclose(found, exact.numpy(), atol=1e-7)
    # as timm calls it, in float32: its pseudo-inverse carries a rounding error of up to 2e-6 of the largest number
    theirs = resample_patch_embed(given, [new, new]).numpy()
    np.testing.assert_allclose(found, theirs, atol=3e-6 * np.max(np.abs(theirs)))


@pytest.mark.parametrize("old, new", [((16, 16), (14, 14)), ((4, 6), (7, 5)), ((14, 14), (24, 24))])
def test_positions_are_resampled_as_torch_and_timm_do(old: tuple[int, int], new: tuple[int, int]) -> None:
    table = np.float32(np.random.default_rng(0).normal(0, 0.1, (1, 1 + old[0] * old[1], 8)))
    grid = torch.from_numpy(table[:, 1:]).reshape(1, *old, 8).permute(0, 3, 1, 2)
    plain = functional.interpolate(grid, new, mode="bicubic", align_corners=False).flatten(2).transpose(1, 2).numpy()
    found = resample.position_table(table, old, new, "bicubic")
    np.testing.assert_allclose(found[:, 1:], plain, atol=1e-6)
    np.testing.assert_array_equal(found[:, 0], table[:, 0])
    theirs = resample_abs_pos_embed(torch.from_numpy(table), list(new), list(old), 1).numpy()
    np.testing.assert_allclose(resample.position_table(table, old, new, "pinv"), theirs, atol=1e-6)


def timm_folder(folder: Path, name: str = "eva02_base_patch14_224", mim: bool = False, **arguments: Any) -> Any:
    """A timm model of random numbers, saved by timm; with `mim` the file names its arrays as BAAI's do."""
    torch.manual_seed(0)
    arguments = SIZES | arguments
    model = timm.create_model(name, num_classes=0, **arguments).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    timm.models.save_for_hf(model, folder, model_args=arguments, safe_serialization=True)
    if mim:
        from safetensors.torch import load_file, save_file

        state = load_file(folder / "model.safetensors")
        state = {key.replace("fc_norm.", "norm."): value for key, value in state.items()}
        save_file(state | {"mask_token": torch.zeros(1, 1, 32)}, folder / "model.safetensors")
    return model


def forward(model: Any, pixels: np.ndarray) -> np.ndarray:
    """timm's vectors of our pixels."""
    with torch.no_grad():
        return model(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).numpy()


def reference_names(state: dict[str, torch.Tensor], depth: int) -> dict[str, np.ndarray]:
    """contrastors' arrays of a timm trunk of patch 14 and 16x16 positions at patch 16 and 14x14, as BAAI made them.

    Written out here, with torch: q, k, v joined with zeros for the bias of k, patches as a Linear over (channel, row,
    column), value before gate; no final norm.
    """
    kernel = functional.interpolate(state["patch_embed.proj.weight"], (16, 16), mode="bicubic", align_corners=False)
    table = state["pos_embed"]
    grid = table[:, 1:].reshape(1, 16, 16, -1).permute(0, 3, 1, 2)
    grid = functional.interpolate(grid, (14, 14), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    found = {
        "embeddings.proj.weight": kernel.flatten(1), "embeddings.proj.bias": state["patch_embed.proj.bias"],
        "embeddings.cls_token": state["cls_token"], "embeddings.pos_embed": torch.cat([table[:, :1], grid], 1),
    }  # fmt: skip
    same = {"norm1": "norm1", "norm2": "norm2", "attn.proj": "attn.out_proj", "mlp.fc1_x": "mlp.fc11",
            "mlp.fc1_g": "mlp.fc12", "mlp.norm": "mlp.norm", "mlp.fc2": "mlp.fc2"}  # fmt: skip
    for i in range(depth):
        block, layer = f"blocks.{i}.", f"layers.{i}."
        for part in ("weight", "bias"):
            found |= {f"{layer}{new}.{part}": state[f"{block}{old}.{part}"] for old, new in same.items()}
        q, k, v = (state[f"{block}attn.{name}_proj.weight"] for name in "qkv")
        q_bias, v_bias = (state[f"{block}attn.{name}_proj.bias"] for name in "qv")
        found[f"{layer}attn.Wqkv.weight"] = torch.cat([q, k, v])
        found[f"{layer}attn.Wqkv.bias"] = torch.cat([q_bias, torch.zeros_like(q_bias), v_bias])
    return {name: array.detach().numpy() for name, array in found.items()}


@pytest.mark.parametrize("mim", [False, True], ids=["timm's file", "BAAI's names"])
def test_the_papers_start_has_the_reference_codes_arrays(mim: bool, tmp_path: Path) -> None:
    model = timm_folder(tmp_path, mim=mim)
    config = config_lib.load("nomic_embed_vision_v1_5", [*OURS, ("vision.mlp_dim", "64")])
    target = two_towers.vision_tower(config)
    params = warm_start.load_vision_params(str(tmp_path), target, config.vision.init_resample)
    # contrastors rounds hidden widths up to 256, so the layout check of the export does not apply to this small one
    ours = mapping.write_with(keymap.TABLES["eva02", "nomic"], params, target.spec)
    theirs = reference_names(model.state_dict(), 2)
    assert {name for name in ours if not name.startswith("selector.")} == set(theirs)
    for name, array in theirs.items():
        resampled = name in ("embeddings.proj.weight", "embeddings.pos_embed")
        np.testing.assert_allclose(ours[name], array, rtol=0, atol=1e-6 if resampled else 0, err_msg=name)
    best = two_towers.vision_tower(config_lib.load("nomic_embed_vision_v1_5:best", OURS))
    kept = warm_start.load_vision_params(str(tmp_path), best, "bicubic")
    np.testing.assert_array_equal(kept["norm"]["scale"], model.fc_norm.weight.detach().numpy())
    np.testing.assert_array_equal(kept["patch_embed"]["kernel"], params["patch_embed"]["kernel"])


@pytest.mark.parametrize("name", ["eva02_base_patch14_224", "eva02_tiny_patch14_224", "eva02_base_patch16_clip_224"])
def test_the_forward_pass_of_step_0_is_timms(name: str, tmp_path: Path) -> None:
    model = timm_folder(tmp_path, name, img_size=64 if "16" in name else 56)
    spec = convert.timm.load(tmp_path)[1]
    target = two_towers.tower_of(dataclasses.replace(spec, key_bias=True))  # zeros there change nothing
    params = warm_start.load_vision_params(str(tmp_path), target)
    pixels = np.random.default_rng(0).standard_normal((3, *spec.image_size, 3), np.float32)
    theirs = forward(model, pixels)
    found = convert.ConvertedTower(params, target.spec)(pixels)
    np.testing.assert_allclose(found, theirs, atol=1e-5 * np.sqrt(np.mean(theirs**2)))


def test_another_patch_size_in_timms_way_gives_timms_vectors(tmp_path: Path) -> None:
    old = timm_folder(tmp_path, img_size=56)
    new = timm.create_model("eva02_base_patch14_224", num_classes=0, **SIZES, img_size=96, patch_size=16).eval()
    new.load_state_dict(checkpoint_filter_fn(old.state_dict(), new), strict=True)
    params, spec, _ = convert.timm.load(tmp_path)
    target = dataclasses.replace(spec, image_size=(96, 96), patch_size=16)
    pixels = np.random.default_rng(0).standard_normal((2, 96, 96, 3), np.float32)
    theirs = forward(new, pixels)
    found = convert.ConvertedTower(adapt(params, spec, target, "pinv"), target)(pixels)
    np.testing.assert_allclose(found, theirs, atol=1e-5 * np.sqrt(np.mean(theirs**2)))


@pytest.mark.parametrize("pool", ["map", "avg", "token"])
def test_rates_of_layers_are_timms(pool: str) -> None:
    model = timm.create_model("eva02_base_patch14_224", img_size=28, global_pool=pool, num_classes=5, **SIZES | {
        "depth": 3, **({"attn_pool_mlp_ratio": 2.0} if pool == "map" else {})})
    theirs = {}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in param_groups_layer_decay(model, layer_decay=0.7):
        theirs |= {names[id(parameter)]: group["lr_scale"] for parameter in group["params"]}
    arguments = {"img_size": 28, "patch_size": 14, "global_pool": pool, "num_classes": 5, "embed_dim": 32, "depth": 3,
                 "num_heads": 2, "mlp_ratio": 2.0, "qkv_fused": False, "swiglu_mlp": True, "scale_mlp": True,
                 "use_rot_pos_emb": True}  # fmt: skip
    spec = peer_vision.timm_spec(arguments)
    rules = mapping.expand(keymap.TABLES["eva02", "timm"], spec)
    assert {rule.peer for rule in rules} == set(theirs)
    for rule in rules:
        for ours in rule.ours:
            # timm counts a norm on tokens to the last block; BEiT, from which it has the scheme, to the head, as we do
            expected = theirs[rule.peer] / (0.7 if ours.startswith("norm/") else 1.0)
            assert optim.lr_scale(f"image/{ours}", 3, 0.7) == pytest.approx(expected, rel=1e-12), ours
    assert len(set(theirs.values())) == 5
