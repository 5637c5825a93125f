"""A folder that timm and transformers load as an image tower, written without torch.

`timm.create_model("local-dir:DIR", pretrained=True)` gives the vectors of our tower, before L2. The text tower's own
files, where there is one, lie beside it, unchanged.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from lit_tune.convert import mapping, weights
from lit_tune.convert.peer_timm import architecture, timm_arguments
from lit_tune.convert.timm import CONFIG
from lit_tune.exports.parts import Source, Written
from lit_tune.exports.text_files import copy_text
from lit_tune.models.vision import VisionSpec
from lit_tune.tree import Tree


def write(source: Source, out: Path) -> list[Written]:
    """What was written: the image tower as timm's own folder, a text tower in text/."""
    vision = source.vision
    export(jax.device_get(vision.params), vision.tower.spec, vision.preprocess, out)
    return [Written("timm image tower", "vision", weights.FILE, "timm"), *copy_text(source.text, out)]


def export(params: Tree, spec: VisionSpec, preprocess: Mapping[str, Any], out: Path) -> str:
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


def timm_config(spec: VisionSpec, preprocess: Mapping[str, Any]) -> dict[str, Any]:
    """The object of timm's config.json."""
    arguments = timm_arguments(spec)
    classes = arguments.pop("num_classes")
    return {
        # model_args overrides all of it: pooling must stand there, timm would rebuild the model with the
        # architecture's own otherwise
        "architecture": architecture(spec),
        "num_classes": classes,
        "num_features": spec.width,
        "global_pool": arguments["global_pool"],
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [3, *preprocess["image_size"]],
            "fixed_input_size": not arguments["dynamic_img_size"],
            "interpolation": preprocess["interpolation"],
            "crop_pct": preprocess["crop_pct"] if "crop_pct" in preprocess else 1.0,
            "crop_mode": {"shortest": "center", "squash": "squash"}[preprocess["resize"]],
            "mean": list(preprocess["mean"]),
            "std": list(preprocess["std"]),
            "num_classes": classes,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
