"""What open_clip lacks for our exports, added to it: `register()` for its own functions, `load(DIR)` at once.

    from lit_tune.integrations import open_clip as lit_open_clip
    model, transform, tokenizer = lit_open_clip.load("DIR")

or `lit_open_clip.register()`, and then `open_clip.create_model_and_transforms("local-dir:DIR")` and
`open_clip.get_tokenizer("local-dir:DIR")`.

open_clip 3.3.0 has no entry for nomic_bert in `hf_configs.arch_dict`, no pooler with a LayerNorm, reads the paths in a
config relative to the working directory, and rewrites texts before tokenising (ftfy, HTML entities), which no text
tower of ours was run with. Nomic's pooling head is timm's part: `timm.py`. This module imports torch and open_clip.
"""

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip import factory, hf_configs, hf_model
from torch import nn

from lit_tune.errors import ConfigError, explain
from lit_tune.exports.open_clip import CONFIG, HERE
from lit_tune.integrations import timm

LOCAL = "local-dir:"
FORCED = (  # options of create_model that change a part of the config
    ("force_image_size", "vision", "image_size"),
    ("force_patch_dropout", "vision", "patch_dropout"),
    ("force_context_length", "text", "context_length"),
)
NOMIC_BERT = {
    "config_names": {
        "context_length": "max_position_embeddings",
        "vocab_size": "vocab_size",
        "width": "hidden_size",
        "heads": "num_attention_heads",
        "layers": "num_hidden_layers",
        "layer_attr": "layers",
        "token_embeddings_attr": "embeddings",
    },
    "pooler": "mean_pooler",
}


def _normed(x: torch.Tensor) -> torch.Tensor:
    """The pooled vectors standardised, without affine (nomic-embed-text-v1.5)."""
    return nn.functional.layer_norm(x, x.shape[-1:])


class MeanLayerNormPooler(hf_model.MeanPooler):
    """Mean over real tokens, then LayerNorm without affine."""

    def forward(self, x: Any, attention_mask: torch.Tensor) -> torch.Tensor:
        """(b, d)."""
        return _normed(super().forward(x, attention_mask))


class ClsLayerNormPooler(hf_model.ClsLastHiddenStatePooler):
    """The first token, then LayerNorm without affine."""

    def forward(self, x: Any, attention_mask: torch.Tensor) -> torch.Tensor:
        """(b, d)."""
        return _normed(super().forward(x, attention_mask))


def register() -> None:
    """Teach open_clip what our exports need; again does nothing.

    Its `create_model`, and all that is built on it, then finds the parts of a folder of ours from any working
    directory, and `get_tokenizer` takes texts as they are. Models of anyone else are made as before.
    """
    timm.register()
    hf_configs.arch_dict.setdefault("nomic_bert", NOMIC_BERT)
    for pooler in (MeanLayerNormPooler, ClsLayerNormPooler):
        hf_model.register_pooler(pooler)
    if not hasattr(factory.create_model, "__wrapped__"):
        factory.create_model = open_clip.create_model = _finding_parts(factory.create_model)
        factory.get_tokenizer = open_clip.get_tokenizer = _as_they_are(factory.get_tokenizer)


def _finding_parts(create_model: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """open_clip's `create_model` with the parts of our folders under absolute paths."""

    @functools.wraps(create_model)
    def found(model_name: str, *args: Any, **kwargs: Any) -> nn.Module:
        return create_model(model_name, *args, **(_parts(model_name, kwargs) | kwargs))

    return found


def _as_they_are(get_tokenizer: Callable[..., Any]) -> Callable[..., Any]:
    """open_clip's `get_tokenizer` without the cleaning of texts, for our folders."""

    @functools.wraps(get_tokenizer)
    def found(model_name: str = "", *args: Any, **kwargs: Any) -> Any:
        tokenizer = get_tokenizer(model_name, *args, **kwargs)
        if _our_config(model_name) is not None:
            tokenizer.clean_fn = str
        return tokenizer

    return found


def _our_config(model_name: str) -> dict[str, Any] | None:
    """The model_cfg of "local-dir:" and a folder that we wrote, None for anything else."""
    path = Path(model_name.removeprefix(LOCAL)) / CONFIG
    if not model_name.startswith(LOCAL) or not path.is_file():
        return None
    config = json.loads(path.read_text())["model_cfg"]
    ours = "timm_model_name" in config["vision_cfg"] and config["vision_cfg"]["timm_model_name"] == HERE
    return config if ours else None


def _parts(model_name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """{"vision_cfg", "text_cfg"} with absolute paths for a folder of ours, {} for anything else.

    Args:
        options: of the call; whole parts given to `create_model` replace what its own `force_*` options would change.
    """
    config = _our_config(model_name)
    if config is None:
        return {}
    folder = Path(model_name.removeprefix(LOCAL)).absolute()
    vision = config["vision_cfg"] | {"timm_model_name": f"{LOCAL}{folder}"}
    text = config["text_cfg"] | {"hf_model_name": str(folder / config["text_cfg"]["hf_model_name"])}
    for option, part, key in FORCED:
        if option in options and options[option] is not None:
            {"vision": vision, "text": text}[part][key] = options[option]
    return {"vision_cfg": vision, "text_cfg": text}


def load(
    folder: str | Path, device: str | torch.device = "cpu", precision: str = "fp32"
) -> tuple[nn.Module, Callable[[Any], torch.Tensor], Any]:
    """(model, transform, tokenizer) of an export of formats `hf` or `open_clip`, in evaluation mode.

    `model.encode_image(transform(picture)[None])` and `model.encode_text(tokenizer([text]))`; the prefix is in the
    tokenizer. Hand the transform pictures as Pillow opens them: it converts to RGB itself, after resizing.

    Args:
        folder: of the export.
        device, precision: as open_clip's.

    Raises:
        ConfigError: it is no such folder.
    """
    path = Path(folder).expanduser().absolute()
    if not (path / CONFIG).is_file():
        raise ConfigError(explain(f"open_clip model {folder}", expected=f"a folder with {CONFIG}", found="none",
                                  do="lit-tune export RUN --format=hf"))
    register()
    name = f"{LOCAL}{path}"
    model, _, transform = open_clip.create_model_and_transforms(name, device=device, precision=precision)
    return model.eval(), transform, open_clip.get_tokenizer(name)
