"""What stands beside a peer's weights: its config, how it prepares pictures, how it pools and prefixes texts."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_tune.convert import weights
from lit_tune.errors import ConfigError, explain

OPEN_CLIP = "open_clip_config.json"
PREPROCESSOR = "preprocessor_config.json"
# open_clip transform.py PreprocessCfg: what its file leaves out
OPEN_CLIP_DEFAULTS = {
    "mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic", "resize_mode": "shortest",
}  # fmt: skip
# timm data/config.py: likewise (ImageNet's constants)
TIMM_DEFAULTS = {
    "interpolation": "bicubic", "crop_mode": "center", "crop_pct": 0.875, "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}  # fmt: skip
RESAMPLE = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers, as transformers stores them


def config_of(folder: Path, layout: str, given: str) -> dict[str, Any]:
    """The peer's own config.

    Args:
        folder: that the weights lie in.
        layout: timm | nomic | hf | open_clip.
        given: a JSON file that takes its place; "" looks beside the weights.
    """
    config = weights.read_config(Path(given).expanduser() if given else folder / _name(layout))
    for key, other in (("architecture", "timm"), ("model_cfg", "open_clip")):
        if key in config and layout != other:
            raise ConfigError(explain("--from", expected=f"{other}: the config has the key {key!r}", found=layout,
                                      do=f"write --from={other}"))
    return config


def _name(layout: str) -> str:
    return OPEN_CLIP if layout == "open_clip" else "config.json"


def kinds(config: Mapping[str, Any], layout: str) -> tuple[str, ...]:
    """Which towers weights of this config hold: "vision", "text" or both."""
    if layout == "timm" or ("img_size" in config and "n_embd" in config):
        return ("vision",)
    if layout == "open_clip" or ("vision_config" in config and "text_config" in config):
        return ("vision", "text")
    return ("vision",) if "model_type" in config and config["model_type"].endswith("_vision_model") else ("text",)


def preprocess(
    folder: Path, config: Mapping[str, Any], layout: str, image_size: tuple[int, int]
) -> dict[str, Any]:
    """A vision description's part "preprocess", from the peer's own words.

    Args:
        folder: that the weights lie in.
        config: the peer's config.
        layout: timm | nomic | hf | open_clip.
        image_size: (height, width) of the tower.

    Raises:
        ConfigError: the peer says nothing about it, or something that we cannot do.
    """
    if layout == "timm":
        return timm_preprocess(config["pretrained_cfg"] if "pretrained_cfg" in config else config, image_size)
    if layout == "open_clip":
        return _open_clip(config["preprocess_cfg"] if "preprocess_cfg" in config else {}, image_size)
    return _transformers(weights.read_config(folder / PREPROCESSOR), image_size)


def timm_preprocess(pretrained: Mapping[str, Any], image_size: tuple[int, int]) -> dict[str, Any]:
    """From timm's pretrained_cfg; what it leaves out are timm's defaults."""
    found = TIMM_DEFAULTS | {name: pretrained[name] for name in TIMM_DEFAULTS if name in pretrained}
    size = pretrained["input_size"][1:] if "input_size" in pretrained else image_size
    modes = {"center": "shortest", "squash": "squash"}
    return _page(size, _one_of("crop_mode", modes, found["crop_mode"]), found, found["crop_pct"])


def _open_clip(cfg: Mapping[str, Any], image_size: tuple[int, int]) -> dict[str, Any]:
    """From open_clip's preprocess_cfg."""
    found = OPEN_CLIP_DEFAULTS | {name: cfg[name] for name in OPEN_CLIP_DEFAULTS if name in cfg}
    modes = {"shortest": "shortest", "squash": "squash"}
    return _page(image_size, _one_of("resize_mode", modes, found["resize_mode"]), found)


def _transformers(cfg: Mapping[str, Any], image_size: tuple[int, int]) -> dict[str, Any]:
    """From transformers' preprocessor_config.json: CLIP's (shortest edge, crop) or SigLIP's (both sides)."""
    if "resize_mode" in cfg:  # Jina CLIP's processor speaks open_clip's words
        return _open_clip(cfg, image_size)
    found = {"mean": cfg["image_mean"], "std": cfg["image_std"],
             "interpolation": _one_of("resample", RESAMPLE, cfg["resample"])}  # fmt: skip
    size = cfg["size"]
    cut = "do_center_crop" in cfg and cfg["do_center_crop"]
    if isinstance(size, Mapping) and "height" in size:
        crop = cfg["crop_size"] if cut else size
        return _page((crop["height"], crop["width"]), "squash", found, crop["height"] / size["height"])
    edge = size["shortest_edge"] if isinstance(size, Mapping) and "shortest_edge" in size else size
    crop = cfg["crop_size"] if "crop_size" in cfg else edge
    crop = (crop["height"], crop["width"]) if isinstance(crop, Mapping) else (crop, crop)
    return _page(crop, "shortest", found, min(crop) / edge)


def _page(size: Any, resize: str, found: Mapping[str, Any], crop_pct: float = 1.0) -> dict[str, Any]:
    """The part "preprocess"; pictures are decoded as the reference decodes them, which all these peers do."""
    interpolation = _one_of("interpolation", {name: name for name in RESAMPLE.values()}, found["interpolation"])
    page = {"image_size": list(size), "resize": resize, "interpolation": interpolation, "policy": "reference",
            "mean": list(found["mean"]), "std": list(found["std"])}  # fmt: skip
    return page if crop_pct == 1.0 else page | {"crop_pct": crop_pct}


def _one_of(what: str, known: Mapping[Any, str], found: Any) -> str:
    """Our word for a peer's setting."""
    if found not in known:
        raise ConfigError(explain(f"preprocessing: {what}", expected=" or ".join(map(str, known)), found=found,
                                  do="this cannot be done here: use another model"))
    return known[found]


def text_facts(folder: Path) -> dict[str, Any]:
    """Pooling, longest text and prefix as sentence-transformers' files state them; only what is stated.

    Raises:
        ConfigError: pooled in a way that we do not have.
    """
    facts: dict[str, Any] = {}
    if (folder / "1_Pooling/config.json").is_file():
        facts["pool"] = _pooling(weights.read_config(folder / "1_Pooling/config.json"))
    if (folder / "sentence_bert_config.json").is_file():
        page = weights.read_config(folder / "sentence_bert_config.json")
        facts |= {"max_length": page["max_seq_length"]} if "max_seq_length" in page and page["max_seq_length"] else {}
    if (folder / "config_sentence_transformers.json").is_file():
        page = weights.read_config(folder / "config_sentence_transformers.json")
        name = page["default_prompt_name"] if "default_prompt_name" in page else None
        facts |= {"prefix": page["prompts"][name]} if name else {}
    return facts


def _pooling(page: Mapping[str, Any]) -> str:
    """sentence-transformers' pooling in our words."""
    words = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
    keys = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "last"}
    if "pooling_mode" in page:
        return _one_of("pooling_mode", words, page["pooling_mode"])
    on = [name for name, value in page.items() if name.startswith("pooling_mode_") and value is True]
    return _one_of("pooling", keys, on[0] if len(on) == 1 else json.dumps(on))
