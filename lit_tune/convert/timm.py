"""A folder that timm, transformers, open_clip and sentence-transformers load as an image tower, written without torch.

`timm.create_model("local-dir:DIR", pretrained=True)` gives the vectors of our tower, before L2.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lit_tune.convert import mapping, weights
from lit_tune.convert.peer_vision import timm_arguments, vision_spec
from lit_tune.models.eva02 import VARIANTS, Eva02Spec
from lit_tune.tree import Tree

CONFIG = "config.json"


def export(params: Tree, spec: Eva02Spec, preprocess: Mapping[str, Any], out: Path) -> str:
    """Write config.json and model.safetensors into `out` (made if absent); the sha256 (hex) of the weights.

    A projection becomes timm's classifier `head`, so the model's output is our pooled and projected vector.

    Args:
        params: of the vision tower.
        preprocess: image_size, resize (shortest | squash), interpolation, mean and std of the tower's description.

    Raises:
        ConfigError: timm's layout cannot hold this tower; the line says why.
    """
    named = mapping.to_peer(params, spec, "timm")
    out.mkdir(parents=True, exist_ok=True)
    # transformers' loader refuses a file whose header does not name a framework
    digest = weights.write(out / weights.FILE, named, {"format": "pt"})
    (out / CONFIG).write_text(json.dumps(timm_config(spec, preprocess), indent=2) + "\n")
    return digest


def timm_config(spec: Eva02Spec, preprocess: Mapping[str, Any]) -> dict[str, Any]:
    """The object of timm's config.json."""
    arguments = timm_arguments(spec)
    same = [name for name, variant in VARIANTS.items() if timm_arguments(variant) == arguments]
    classes = arguments.pop("num_classes")
    return {
        # any registered EVA02 will do, because model_args overrides all of it: pooling must stand there, timm would
        # rebuild the model with the architecture's own otherwise
        "architecture": same[0] if same else "eva02_base_patch14_224",
        "num_classes": classes,
        "num_features": spec.width,
        "global_pool": arguments["global_pool"],
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [3, *preprocess["image_size"]],
            "fixed_input_size": not arguments["dynamic_img_size"],
            "interpolation": preprocess["interpolation"],
            "crop_pct": 1.0,
            "crop_mode": {"shortest": "center", "squash": "squash"}[preprocess["resize"]],
            "mean": list(preprocess["mean"]),
            "std": list(preprocess["std"]),
            "num_classes": classes,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "license": "apache-2.0",
        },
    }


def load(folder: Path) -> tuple[Tree, Eva02Spec, dict[str, Any]]:
    """(params, spec, preprocess) of a timm folder, ours or anyone's EVA02.

    Raises:
        ConfigError: not such a folder, or options that our tower does not have.
    """
    config = weights.read_config(folder / CONFIG)
    named = _norm_where_timm_puts_it(weights.read(folder))
    spec = vision_spec(config, "timm")
    if spec.projects and not np.any(named["head.bias"]):
        spec = replace(spec, embed_bias=False)  # timm's classifier always has a bias: zeros say that ours has none
    pretrained = config["pretrained_cfg"] if "pretrained_cfg" in config else {}
    preprocess = _preprocess(pretrained, spec)
    if spec.image_size != tuple(preprocess["image_size"]):
        spec = replace(spec, image_size=tuple(preprocess["image_size"]), pos_embed_grid=spec.table_grid)
    return mapping.from_peer(named, spec, "timm"), spec, preprocess


def _norm_where_timm_puts_it(named: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Files of masked-image modelling hold the norm on tokens; timm pools these towers before it, under another name.

    Source: timm models/eva.py `checkpoint_filter_fn`, which tells such files by their mask token.
    """
    if "mask_token" not in named:
        return named
    return {name.replace("norm.", "fc_norm.", 1) if name.startswith("norm.") else name: array
            for name, array in named.items()}


def _preprocess(pretrained: Mapping[str, Any], spec: Eva02Spec) -> dict[str, Any]:
    """The description's preprocess part; what timm's file leaves out are timm's defaults (ImageNet's, centre crop)."""
    defaults = {
        "input_size": [3, *spec.image_size], "interpolation": "bicubic", "crop_mode": "center",
        "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
    }  # fmt: skip
    found = defaults | {k: v for k, v in pretrained.items() if k in defaults}
    return {
        "image_size": list(found["input_size"][1:]),
        "resize": "squash" if found["crop_mode"] == "squash" else "shortest",
        "interpolation": found["interpolation"],
        "policy": "reference",  # timm decodes as the reference pictures do: alpha dropped, 16-bit grey saturates
        "mean": list(found["mean"]),
        "std": list(found["std"]),
    }
