"""A peer's config of a CLIP or SigLIP text tower -> our spec: transformers' and open_clip's.

Both leave out what equals their classes' defaults, so those are restated here. Source: transformers 5.24
models/clip/configuration_clip.py and models/siglip/configuration_siglip.py; open_clip 3.3 model.py (CLIPTextCfg,
_build_text_tower) and model_configs/*.json.
"""

from collections.abc import Collection, Mapping
from typing import Any

from lit_tune.convert.peer_options import not_yet, require
from lit_tune.models.clip_text import ClipTextSpec

_CLIP = {
    "vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "projection_dim": 512, "num_hidden_layers": 12,
    "num_attention_heads": 8, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    "pad_token_id": 1, "eos_token_id": 49407,
}  # fmt: skip
_SIGLIP = {
    "vocab_size": 32000, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "max_position_embeddings": 64, "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6, "pad_token_id": 1, "projection_size": None,
}  # fmt: skip
_OPEN_CLIP = {
    "context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12, "mlp_ratio": 4.0, "pad_id": None,
    "eos_id": 2, "no_causal_mask": False, "pool_type": "argmax", "proj_bias": False, "proj_type": "linear",
    "act_kwargs": None, "norm_kwargs": None, "hf_tokenizer_name": None,
}  # fmt: skip
# Options of open_clip's text tower that ours does not have.
_OPEN_CLIP_FIXED = {
    "ls_init_value": None, "embed_cls": False, "final_ln_after_pool": False, "qk_norm": False,
    "scaled_cosine_attn": False, "scale_heads": False, "scale_attn_inner": False, "scale_attn": False,
    "scale_fc": False,
}  # fmt: skip
_ACTS = {"gelu": "gelu", "quick_gelu": "quick_gelu", "gelu_pytorch_tanh": "gelu_tanh"}
_OPEN_CLIP_POOLS = {"argmax": "argmax", "eos": "eos", "last": "last", "first": "cls"}


def clip_spec(config: Mapping[str, Any], text: Mapping[str, Any], names: Collection[str]) -> ClipTextSpec:
    """transformers' CLIPConfig or CLIPTextConfig.

    Args:
        names: of the arrays: a text config says only in `architectures`, if at all, whether there is a projection.
    """
    whole = config["model_type"] == "clip"
    c = _CLIP | dict(config["text_config"] if whole else config)
    if not isinstance(c["eos_token_id"], int):
        raise not_yet(f"CLIP with eos_token_id={c['eos_token_id']!r}")
    classes = config["architectures"] if "architectures" in config else None
    projects = whole or "CLIPTextModelWithProjection" in (classes or ()) or "text_projection.weight" in names
    embed_dim = (config if whole and "projection_dim" in config else c)["projection_dim"]
    return ClipTextSpec(
        **_hf_sizes(c), causal=True, pool="argmax" if c["eos_token_id"] == 2 else "eos", eos_id=c["eos_token_id"],
        pad_id=c["pad_token_id"] or 0, embed_dim=embed_dim if projects else 0, proj_bias=False, **text,
    )  # fmt: skip


def siglip_spec(config: Mapping[str, Any], text: Mapping[str, Any]) -> ClipTextSpec:
    """transformers' SiglipConfig or SiglipTextConfig."""
    c = _SIGLIP | dict(config["text_config"] if config["model_type"] == "siglip" else config)
    return ClipTextSpec(
        **_hf_sizes(c), causal=False, pool="last", eos_id=-1, pad_id=c["pad_token_id"] or 0,
        embed_dim=c["projection_size"] or c["hidden_size"], proj_bias=True, **text,
    )  # fmt: skip


def _hf_sizes(c: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that transformers' two configs name alike."""
    if c["hidden_act"] not in _ACTS:
        raise not_yet(f"hidden_act={c['hidden_act']!r} in a text tower")
    return {
        "vocab_size": c["vocab_size"], "max_positions": c["max_position_embeddings"], "width": c["hidden_size"],
        "depth": c["num_hidden_layers"], "num_heads": c["num_attention_heads"], "mlp_dim": c["intermediate_size"],
        "norm_eps": c["layer_norm_eps"], "act": _ACTS[c["hidden_act"]],
    }  # fmt: skip


def open_clip_spec(config: Mapping[str, Any], text: Mapping[str, Any]) -> ClipTextSpec:
    """A model config of open_clip: the object of model_configs/*.json, or a hub's open_clip_config.json around it."""
    whole = config["model_cfg"] if "model_cfg" in config else config
    if "text_cfg" not in whole:
        raise not_yet("an open_clip config without text_cfg")
    given = whole["text_cfg"]
    if "hf_model_name" in given and given["hf_model_name"]:
        # its sizes are in that model's config, which open_clip's does not repeat
        raise not_yet(f"open_clip's Hugging Face text tower ({given['hf_model_name']})")
    require(given, _OPEN_CLIP_FIXED)
    c = _OPEN_CLIP | dict(given)
    if c["proj_type"] not in ("linear", "none"):
        raise not_yet(f"proj_type={c['proj_type']!r}")
    norms = c["norm_kwargs"] or {}
    return ClipTextSpec(
        vocab_size=c["vocab_size"], max_positions=c["context_length"], width=c["width"], depth=c["layers"],
        num_heads=c["heads"], mlp_dim=int(c["width"] * c["mlp_ratio"]),
        norm_eps=norms["eps"] if "eps" in norms else 1e-5,  # torch's default
        act=_open_clip_act(whole, c), causal=not c["no_causal_mask"], pool=_open_clip_pool(c), eos_id=c["eos_id"],
        pad_id=_open_clip_pad(c), embed_dim=0 if c["proj_type"] == "none" else whole["embed_dim"],
        proj_bias=c["proj_bias"], **text,
    )  # fmt: skip


def _open_clip_act(whole: Mapping[str, Any], c: Mapping[str, Any]) -> str:
    if c["act_kwargs"] not in (None, {}, {"approximate": "none"}, {"approximate": "tanh"}):
        raise not_yet(f"act_kwargs={c['act_kwargs']!r}")
    if "quick_gelu" in whole and whole["quick_gelu"]:
        return "quick_gelu"
    return "gelu_tanh" if c["act_kwargs"] == {"approximate": "tanh"} else "gelu"


def _open_clip_pool(c: Mapping[str, Any]) -> str:
    if c["pool_type"] not in _OPEN_CLIP_POOLS:
        raise not_yet(f"pool_type={c['pool_type']!r}")
    return _OPEN_CLIP_POOLS[c["pool_type"]]


def _open_clip_pad(c: Mapping[str, Any]) -> int:
    """The id that texts are filled up with. SigLIP's configs leave it to their tokenizer: </s> (1), <pad> (0) in v2."""
    if c["pad_id"] is not None:
        return c["pad_id"]
    name = c["hf_tokenizer_name"] or ""
    return 1 if "SigLIP" in name and "SigLIP2" not in name else 0
