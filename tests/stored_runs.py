"""The reference's stored training runs (f_train) as our configs, parameter trees and batches."""

import functools
from functools import cache
from typing import Any

import jax
import numpy as np
import reference
from ml_collections import ConfigDict

from lit_tune import config as config_module, tree
from lit_tune.convert import keymap_text, keymap_vision, mapping, rules
from lit_tune.models import two_towers
from lit_tune.models.functional import Tower
from lit_tune.models.nomic_bert import NomicBert, NomicBertSpec

FOLDER = "f_train"

# The stored models join a timm trunk and one of two heads under names of their own.
TRUNK = rules.prefixed("vision.trunk.", keymap_vision.TIMM_TRUNK)
HEADS = {"nomic": rules.prefixed("vision.selector.", keymap_vision.NOMIC_POOL),
         "timm": rules.prefixed("vision.selector.", keymap_vision.TIMM_POOL)}
TEXT = rules.prefixed("text.trunk.", keymap_text.NOMIC_BERT_NOMIC)


def runs() -> list[str]:
    """Names of the runs, "softmax" among them."""
    return reference.cases(FOLDER, ".log.npz")


def has(run: str, what: str) -> bool:
    """Whether the weights (or gradients) called `what` are stored: init, grads_step0, after_step_1, final."""
    return reference.has(FOLDER, run, f".{what}.safetensors")


def weights(run: str, what: str) -> dict[str, np.ndarray]:
    """Those weights under the peers' names."""
    return reference.arrays(FOLDER, run, f".{what}.safetensors")


def log(run: str) -> dict[str, np.ndarray]:
    """What the peers logged: one number a step, and two embeddings."""
    return reference.arrays(FOLDER, run, ".log.npz")


def inputs() -> dict[str, np.ndarray]:
    """The stored batches: pixels_N, input_ids_N, attention_mask_N."""
    return reference.arrays(FOLDER, "batches", ".npz")


def settings(run: str) -> dict[str, Any]:
    """What the manifest says about a run, sizes and loss joined."""
    entry = reference.entry(FOLDER, run, ".log.npz")
    return entry | entry["sizes"] | entry["run"]


def config_of(run: str) -> ConfigDict:
    """The config under which our step is that run."""
    s = settings(run)
    config = config_module.load("quickstart").unlock()
    config.global_batch, config.total_steps, config.dtype = s["batch"], s["steps"], "float32"
    config.vision.update(
        image_size=(s["img"], s["img"]), patch_size=s["patch"], width=s["dim"], depth=s["depth"], num_heads=s["heads"],
        mlp_dim=int(s["dim"] * 4 * 2 / 3), qkv_fused=False, qkv_bias=True, key_bias=False, sub_ln=True,
        attn_inner_norm=False, class_token=True, pos_embed=True, pos_embed_grid=(0, 0), rope=True, rope_theta=10_000.0,
        rope_reference_grid=(14, 14), norm_eps=1e-6, sub_ln_eps=1e-6, pool_norm_eps=1e-6, final_norm=False, embed_dim=0,
        pool={"timm": "map"}.get(s["pool"], s["pool"]), pool_mlp_dim=_pool_mlp_dim(run), patch_dropout=0.0)
    config.text.source = "cached"
    config.loss.update(
        name=s["loss"], logit_scale_max=s["clamp"] or 0.0, mask_equal_captions=False, extra_negatives=0,
        logit_scale_init=float(np.log(10) if s["loss"] == "sigmoid" else np.log(1 / 0.07)), logit_bias_init=-10.0)
    config.optim.update(
        lr=s["lr"], lr_scaling="none", schedule="cosine", warmup_steps=s["warmup"], end_lr=0.0, b1=s["betas"][0],
        b2=s["betas"][1], eps=s["adam_eps"], wd=s["wd"], clip_norm=s["clip"], ema_decay=0.0)
    return config.lock()


def image_params(run: str, named: dict[str, np.ndarray]) -> tree.Tree:
    """Our vision parameters from stored arrays (weights, gradients, or anything of their shapes)."""
    vision = {name: array for name, array in named.items() if name.startswith("vision.")}
    return mapping.read_with(TRUNK + HEADS[settings(run)["pool"]], vision, two_towers.vision_spec(config_of(run)), run)


def params(run: str, named: dict[str, np.ndarray]) -> tree.Tree:
    """All trained parameters of a run as our step's `state["params"]`."""
    found = {"image": image_params(run, named), "logit_scale": named["logit_scale.logit_scale"][0]}
    if "logit_bias" in named:
        found["logit_bias"] = named["logit_bias"][0]
    return found


def start(run: str) -> tree.Tree:
    """The parameters before the first step. Runs whose start is not stored begin where `softmax` does."""
    config = config_of(run)
    found = {"image": image_params(run, _initial(run)), "logit_scale": np.float32(config.loss.logit_scale_init)}
    if config.loss.name == "sigmoid":
        found["logit_bias"] = np.float32(config.loss.logit_bias_init)
    return found


def text_tower(run: str) -> tuple[Tower, tree.Tree]:
    """The frozen text tower of a run and its parameters."""
    s, named = settings(run), {k: v for k, v in _initial(run).items() if k.startswith("text.")}
    spec = NomicBertSpec(
        vocab_size=s["vocab"], type_vocab=2, width=s["dim"], depth=s["text_layers"], num_heads=s["heads"],
        mlp_dim=len(named["text.trunk.encoder.layers.0.mlp.fc11.weight"]), norm_eps=1e-12, rope_theta=1000.0,
        ntk_factor=0.0, ntk_length=0, pool="mean", layer_norm=True, dim=0)
    return Tower(NomicBert, spec), mapping.read_with(TEXT, named, spec, run)


@cache
def batches(run: str) -> list[dict[str, Any]]:
    """The batches of a run, in order; step t takes number t modulo their count. Text as the frozen tower's vectors."""
    stored, (tower, text_params) = inputs(), text_tower(run)
    embed, found = jax.jit(functools.partial(two_towers.embed_text, tower)), []
    for t in range(settings(run)["nbatch"]):
        ztxt = embed(text_params, stored[f"input_ids_{t}"], stored[f"attention_mask_{t}"])
        rows = len(ztxt)
        found.append({"image": stored[f"pixels_{t}"].transpose(0, 2, 3, 1),  # (b, h, w, 3), normalised already
                      "ztxt": np.asarray(ztxt), "caption_id": np.arange(2 * rows, dtype=np.uint32).reshape(rows, 2)})
    return found


def decays(run: str) -> dict[str, bool]:
    """{our name: whether the peer's optimizer decays it}."""
    groups = settings(run)["optimizer_groups"]
    flags = {name: group["weight_decay"] > 0 for group in groups for name in group["names"]}
    arrays = reference.entry(FOLDER, run, ".final.safetensors")["arrays"]  # name: dtype, shape, hash
    full = {name: np.full(arrays[name][1], flag, np.float32) for name, flag in flags.items()}
    return {name: bool(np.all(leaf == 1)) for name, leaf in tree.flatten(params(run, full)).items()}


def _initial(run: str) -> dict[str, np.ndarray]:
    return weights(run if has(run, "init") else "softmax", "init")


def _pool_mlp_dim(run: str) -> int:
    names = ("vision.selector.mlp.fc11.weight", "vision.selector.mlp.fc1.weight")
    named = _initial(run)
    return next(len(named[name]) for name in names if name in named)
