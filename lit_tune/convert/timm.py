"""A timm folder, config.json and model.safetensors, read as our tower; `lit_tune.exports.timm` writes them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lit_tune.convert import mapping, weights
from lit_tune.convert.adapt import at_image_size
from lit_tune.convert.peer_files import timm_preprocess
from lit_tune.convert.peer_timm import timm_spec
from lit_tune.models.vision import VisionSpec
from lit_tune.tree import Tree

CONFIG = "config.json"


def load(folder: Path) -> tuple[Tree, VisionSpec, dict[str, Any]]:
    """(params, spec, preprocess) of a timm folder, ours or anyone's EVA02 or ViT.

    Raises:
        ConfigError: not such a folder, or options that our tower does not have.
    """
    config = weights.read_config(folder / CONFIG)
    named = weights.read(folder)
    spec = timm_spec(config)
    if spec.projects and "head.bias" in named and not np.any(named["head.bias"]):
        spec = replace(spec, embed_bias=False)  # timm's classifier always has a bias: zeros say that ours has none
    pretrained = config["pretrained_cfg"] if "pretrained_cfg" in config else {}
    preprocess = timm_preprocess(pretrained, spec.image_size)
    spec = at_image_size(spec, preprocess["image_size"])
    return mapping.from_peer(named, spec, "timm"), spec, preprocess
