"""OpenAI-CLIP towers as a model that open_clip builds by itself: an imported CLIP, or a ViT trained beside its text.

Both towers under OpenAI's names and their sizes in `open_clip_config.json`; nothing of ours is needed to load it.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from lit_tune.convert import mapping, peer_text, peer_vision
from lit_tune.convert.limits import fits_openai
from lit_tune.errors import ConfigError, explain
from lit_tune.exports.parts import Source
from lit_tune.models.clip_text import ClipTextSpec
from lit_tune.models.two_towers import family_of

LAYOUT = "open_clip"


def arrays(source: Source) -> dict[str, np.ndarray]:
    """Both towers under OpenAI's names."""
    towers = [(source.vision.params, source.vision.tower.spec), (source.text.params, source.text.tower.spec)]
    image, text = (mapping.to_peer(jax.device_get(params), spec, LAYOUT) for params, spec in towers)
    return image | text


def model_config(source: Source) -> dict[str, Any]:
    """open_clip's model_cfg, read back by our own reader of such configs.

    Raises:
        ConfigError: open_clip would build other towers from it; the line names the first difference.
    """
    image, text = source.vision.tower.spec, source.text.tower.spec
    if family_of(image) != "vit" or not fits_openai(image):
        raise _refused("image", "OpenAI's plain ViT with a projection", f"{family_of(image)} with pool {image.pool}")
    tanh = {"act_kwargs": {"approximate": "tanh"}}
    config = {
        "embed_dim": source.vision.dim,
        "quick_gelu": text.act == "quick_gelu",  # one word for both towers
        "vision_cfg": {
            "image_size": list(image.image_size), "patch_size": image.patch_size, "width": image.width,
            "layers": image.depth, "head_width": image.width // image.num_heads,
            "mlp_ratio": image.mlp_dim / image.width, "norm_kwargs": {"eps": image.norm_eps},
            "pool_type": {"cls": "tok", "mean": "avg"}[image.pool], "no_ln_pre": not image.pre_norm,
            "final_ln_after_pool": image.norm_after_pool, **(tanh if image.act == "gelu_tanh" else {}),
        },
        "text_cfg": {
            "context_length": text.max_positions, "vocab_size": text.vocab_size, "width": text.width,
            "heads": text.num_heads, "layers": text.depth, "mlp_ratio": text.mlp_dim / text.width,
            "norm_kwargs": {"eps": text.norm_eps}, "pool_type": text.pool, "eos_id": text.eos_id,
            "hf_tokenizer_name": ".", **(tanh if text.act == "gelu_tanh" else {}),
        },
    }  # fmt: skip
    there = peer_vision.vision_spec(config, LAYOUT), peer_text.text_spec(config, LAYOUT)
    # what has no effect: a head that is not there, ids that only other pooling reads, a table on its own grid
    no_effect = [("pool_mlp_dim", "pool_norm_eps", "pos_embed_grid", "embed_square"), ("pad_id", "eos_id")]
    for own, other, names in zip((image, text), there, no_effect, strict=True):
        _require_same(own, other, names)
    return config


def _require_same(own: Any, other: Any, no_effect: tuple[str, ...]) -> None:
    """Refuse a tower that open_clip would build otherwise."""
    for field in dataclasses.fields(own):
        expected, found = getattr(other, field.name), getattr(own, field.name)
        if field.name not in no_effect and expected != found:
            kind = "text" if isinstance(own, ClipTextSpec) else "image"
            raise _refused(kind, f"{field.name} {expected}", found)


def _refused(kind: str, expected: str, found: object) -> ConfigError:
    """The error for a tower that open_clip's CLIP is not."""
    return ConfigError(explain(f"open_clip layout: {kind} tower of a CLIP", expected=expected, found=found,
                               do="export --format=onnx | timm"))
