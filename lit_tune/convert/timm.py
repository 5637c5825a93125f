"""A timm folder, config.json and model.safetensors, read as our tower; `lit_tune.exports.timm` writes them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lit_tune.convert import mapping, weights
from lit_tune.convert.peer_vision import vision_spec
from lit_tune.models.eva02 import Eva02Spec
from lit_tune.tree import Tree

CONFIG = "config.json"


def load(folder: Path) -> tuple[Tree, Eva02Spec, dict[str, Any]]:
    """(params, spec, preprocess) of a timm folder, ours or anyone's EVA02.

    Raises:
        ConfigError: not such a folder, or options that our tower does not have.
    """
    config = weights.read_config(folder / CONFIG)
    named = weights.read(folder)
    spec = vision_spec(config, "timm")
    if spec.projects and not np.any(named["head.bias"]):
        spec = replace(spec, embed_bias=False)  # timm's classifier always has a bias: zeros say that ours has none
    pretrained = config["pretrained_cfg"] if "pretrained_cfg" in config else {}
    preprocess = _preprocess(pretrained, spec)
    if spec.image_size != tuple(preprocess["image_size"]):
        spec = replace(spec, image_size=tuple(preprocess["image_size"]), pos_embed_grid=spec.table_grid)
    return mapping.from_peer(named, spec, "timm"), spec, preprocess


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
