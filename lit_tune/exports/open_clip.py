"""A folder that open_clip loads: `open_clip.create_model_and_transforms("local-dir:DIR")` and `get_tokenizer`.

The image tower is a timm model (projection as timm's classifier), the text tower a transformers model, both in one
file. Three things open_clip 3.3 lacks: it reads paths in a config relative to the working directory, it does not know
nomic_bert, and it has no pooler with a LayerNorm. `lit_tune.integrations.open_clip.register()` adds them;
`lit_tune.integrations.open_clip.load(DIR)` does all at once. From inside the folder ("local-dir:.") a BERT tower with
plain pooling loads without us.

`timm.create_model("local-dir:DIR", pretrained=True)` reads the image tower out of the same file. With Nomic's pooling
head both need our `register()`, which adds the architecture that the folder names: without it they know no such model.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lit_tune.convert import mapping, weights
from lit_tune.convert.keymap import TABLES
from lit_tune.convert.limits import refuse
from lit_tune.convert.rules import prefixed
from lit_tune.description import TEXT_FOLDER
from lit_tune.errors import ConfigError, explain
from lit_tune.exports import open_clip_native, text_folder, timm
from lit_tune.exports.parts import Source, Written
from lit_tune.exports.sentence_transformers import TEXT
from lit_tune.exports.text_folder import write_json
from lit_tune.models.clip_text import ClipTextSpec
from lit_tune.models.two_towers import family_of
from lit_tune.models.vision import VisionSpec
from lit_tune.text.encode import TextEncoder
from lit_tune.tree import Tree

CONFIG, FILE = "open_clip_config.json", "open_clip_model.safetensors"
LAYOUT = "open_clip"
HERE = "local-dir:."  # made absolute by lit_tune.integrations.open_clip
# (pooling, LayerNorm) -> open_clip's name of the pooler; those with a LayerNorm are lit_tune.integrations.open_clip's
POOLERS = {
    ("mean", False): "mean_pooler",
    ("cls", False): "cls_last_hidden_state_pooler",
    ("mean", True): "mean_layer_norm_pooler",
    ("cls", True): "cls_layer_norm_pooler",
}
UNKNOWN_SCALE = float(np.log(1 / 0.07))  # of a model that no run of ours trained: open_clip's own initial value


def write(source: Source, out: Path) -> list[Written]:
    """Fill `out` for open_clip and, from the same weights, timm; what was written.

    The scale that cosines are multiplied with is `facts["logit_scale"]`, a logarithm, and `facts["logit_bias"]` comes
    with it where the loss was the sigmoid's.

    Raises:
        ConfigError: timm cannot hold the image tower or open_clip the text tower; the line says why.
    """
    if isinstance(source.text.tower.spec, ClipTextSpec):
        return _write_native(source, out)
    text, vision = source.text, source.vision
    refuse(vision.tower.spec, LAYOUT)
    config = {"model_cfg": model_config(source), "preprocess_cfg": preprocess_config(vision.preprocess)}
    spec, params = vision.tower.spec, jax.device_get(vision.params)
    named = _image_arrays(params, spec) | _text_arrays(text) | _scale(source)
    out.mkdir(parents=True, exist_ok=True)
    weights.write(out / FILE, named, {"format": "pt"})
    write_json(out / CONFIG, config)
    write_json(out / timm.CONFIG, timm.timm_config(spec, vision.preprocess))
    text_folder.write_tokenizer(text.tokenizer, out, text.tokenizer.prefix)
    text_folder.write_tokenizer(text.tokenizer, out / TEXT)  # without prefix, for `lit_tune.load`
    page = text_folder.config(text.tower.spec, text.tokenizer.pad_id, text.tokenizer.max_length)
    write_json(out / TEXT / "config.json", page)
    return [
        Written("open_clip image tower", "vision", FILE, LAYOUT),
        Written("open_clip text tower", "text", FILE, LAYOUT, f"{TEXT}/tokenizer.json"),
    ]


def _write_native(source: Source, out: Path) -> list[Written]:
    """CLIP's own two towers, which open_clip builds without timm and transformers."""
    config = {"model_cfg": open_clip_native.model_config(source),
              "preprocess_cfg": preprocess_config(source.vision.preprocess)}  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    weights.write(out / FILE, open_clip_native.arrays(source) | _scale(source), {"format": "pt"})
    write_json(out / CONFIG, config)
    tokenizer = source.text.tokenizer
    text_folder.write_tokenizer(tokenizer, out, tokenizer.prefix)
    text_folder.write_tokenizer(tokenizer, out / TEXT_FOLDER)  # without prefix, for `lit_tune.load`
    return [
        Written("open_clip image tower", "vision", FILE, LAYOUT),
        Written("open_clip text tower", "text", FILE, LAYOUT, f"{TEXT_FOLDER}/tokenizer.json"),
    ]


def model_config(source: Source) -> dict[str, Any]:
    """open_clip's model_cfg.

    Raises:
        ConfigError: a pooling that open_clip and we have no pooler for.
    """
    spec, vision = source.text.tower.spec, source.vision
    if (spec.pool, spec.layer_norm) not in POOLERS:
        raise ConfigError(explain("open_clip layout", expected="text pooling mean or cls", found=spec.pool,
                                  do="export another format"))
    bias = {"init_logit_bias": source.facts["logit_bias"]} if "logit_bias" in source.facts else {}
    return {
        "embed_dim": vision.dim,
        "custom_text": True,
        "vision_cfg": {
            "image_size": list(vision.image_size),
            "timm_model_name": HERE,
            "timm_model_pretrained": False,
            "timm_pool": timm.timm_config(vision.tower.spec, vision.preprocess)["global_pool"],
            "timm_proj": "" if vision.tower.spec.projects else "none",  # "": timm's own classifier
        },
        "text_cfg": {
            "context_length": source.text.tokenizer.max_length,
            "hf_model_name": TEXT,
            "hf_model_pretrained": False,
            "hf_tokenizer_name": ".",  # any: with local-dir, open_clip takes the tokenizer of the folder itself
            "hf_pooler_type": POOLERS[spec.pool, spec.layer_norm],
            "hf_proj_type": "linear" if spec.dim else None,
        },
        **bias,
    }


def preprocess_config(preprocess: Mapping[str, Any]) -> dict[str, Any]:
    """open_clip's preprocess_cfg.

    Raises:
        ConfigError: a way of preparing pictures that open_clip does not have.
    """
    crop = preprocess["crop_pct"] if "crop_pct" in preprocess else 1.0
    height, width = preprocess["image_size"]
    # for images that are not square open_clip's shortest resize takes no interpolation and uses its own, bicubic
    fixed = preprocess["resize"] == "shortest" and height != width and preprocess["interpolation"] != "bicubic"
    if crop != 1.0 or fixed:
        found = f"crop_pct {crop}" if crop != 1.0 else f"{preprocess['interpolation']} at {height} x {width}, shortest"
        raise ConfigError(explain("open_clip layout", expected="pictures resized to the size of the tower, bicubic "
                                  "where it is not square", found=found, do="export --format=timm"))
    return {
        "mean": list(preprocess["mean"]),
        "std": list(preprocess["std"]),
        "interpolation": preprocess["interpolation"],
        "resize_mode": preprocess["resize"],
    }


def _image_arrays(params: Tree, spec: VisionSpec) -> dict[str, np.ndarray]:
    """The image tower as the timm model inside open_clip's, its projection as timm's classifier."""
    return mapping.write_with(prefixed("visual.trunk.", TABLES[family_of(spec), "timm"]), params, spec)


def _text_arrays(encoder: TextEncoder) -> dict[str, np.ndarray]:
    """The text tower under open_clip's names; a cut to the first numbers is a projection by the unit matrix."""
    spec = encoder.tower.spec
    named = mapping.to_peer(jax.device_get(encoder.params), spec, LAYOUT)
    return named | ({"text.proj.weight": np.eye(spec.dim, spec.width, dtype=np.float32)} if spec.dim else {})


def _scale(source: Source) -> dict[str, np.ndarray]:
    """Scale and bias of the logits."""
    facts = source.facts
    scale = facts["logit_scale"] if "logit_scale" in facts else UNKNOWN_SCALE
    bias = {"logit_bias": np.asarray(facts["logit_bias"], np.float32)} if "logit_bias" in facts else {}
    return {"logit_scale": np.asarray(scale, np.float32), **bias}
