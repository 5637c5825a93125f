"""Reading a peer's config: options that our towers do not have are refused by name, never ignored."""

from collections.abc import Mapping
from typing import Any

from lit_tune.errors import ConfigError, explain

LAYOUTS = ("timm", "nomic", "hf", "open_clip")
NOMIC_FIXED = {
    "activation_function": "swiglu", "use_rms_norm": False, "parallel_block": False, "causal": False,
    "rotary_emb_interleaved": False, "rotary_emb_scale_base": None, "sinusoidal_pos_embedding": False,
}  # fmt: skip


def check_layout(layout: str) -> None:
    """Nothing.

    Raises:
        ConfigError: no such layout.
    """
    if layout not in LAYOUTS:
        raise ConfigError(explain("layout", expected=" | ".join(LAYOUTS), found=layout, do="choose one"))


def not_yet(what: str) -> ConfigError:
    """The error for a family that is known but that we do not have."""
    ours = (
        "EVA02 (timm, nomic, open_clip, hf), ViT, CLIP and SigLIP (timm, open_clip, hf), BERT, XLM-R, ModernBERT, "
        "JinaBERT (hf), NomicBert (nomic, hf)"
    )
    return ConfigError(explain("model", expected=ours, found=f"{what}, not yet supported", do="convert one of these"))


def require(config: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    """Refuse options that are present with a value that our tower does not have."""
    for name, value in fixed.items():
        if name in config and config[name] != value:
            raise not_yet(f"{name}={config[name]!r} (only {value!r} is supported)")


def as_pair(value: Any) -> tuple[int, int]:
    """(height, width) of a number or a pair."""
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)


def round_up(value: float, multiple: int) -> int:
    """The next multiple that is no smaller."""
    return -(-int(value) // multiple) * multiple
