"""A peer's config of a text tower -> our spec. Nothing is inferred from array shapes."""

from collections.abc import Mapping
from typing import Any

from lit_tune.convert.peer_options import NOMIC_FIXED, check_layout, not_yet, require, round_up
from lit_tune.models.bert import BertSpec
from lit_tune.models.nomic_bert import NomicBertSpec

# What a config calls itself -> how people call it: known, and not ours yet.
NOT_YET = {
    "xlm-roberta": "XLM-R",
    "modernbert": "ModernBERT",
    "clip": "OpenAI CLIP",
    "clip_text_model": "CLIP text",
    "siglip": "SigLIP",
    "siglip_text_model": "SigLIP text",
    "jina_bert": "JinaBERT",
}


def text_spec(
    config: Mapping[str, Any], layout: str, *, pool: str = "mean", layer_norm: bool = False, dim: int = 0
) -> BertSpec | NomicBertSpec:
    """The spec of the text tower that a peer's config describes.

    Args:
        config: a transformers or contrastors config.
        layout: nomic | hf | open_clip.
        pool, layer_norm, dim: of a text tower; their configs do not say how tokens are pooled.

    Raises:
        ConfigError: a family or an option that we do not have yet.
    """
    check_layout(layout)
    if layout == "open_clip":
        raise not_yet("text towers in open_clip's layout")
    if layout == "timm" or ("img_size" in config and "n_embd" in config):
        raise not_yet("a vision tower where a text tower is asked for")
    text = {"pool": pool, "layer_norm": layer_norm, "dim": dim}
    kind = config["model_type"] if "model_type" in config else "nomic_bert" if "n_embd" in config else "unknown"
    if kind == "nomic_bert":
        return nomic_spec(config, text) if "n_embd" in config else native_nomic_spec(config, text)
    if kind == "bert":
        return bert_spec(config, text)
    raise not_yet(NOT_YET[kind] if kind in NOT_YET else f"model_type {kind}")


def nomic_spec(config: Mapping[str, Any], text: Mapping[str, Any]) -> NomicBertSpec:
    """contrastors' spelling, as in the hub files of nomic-embed-text."""
    fixed = {"prenorm": False, "qkv_proj_bias": False, "mlp_fc1_bias": False, "mlp_fc2_bias": False}
    require(config, NOMIC_FIXED | fixed | {"rotary_emb_fraction": 1.0})
    factor = config["rotary_scaling_factor"] if "rotary_scaling_factor" in config else None
    return NomicBertSpec(
        vocab_size=round_up(config["vocab_size"], config["pad_vocab_size_multiple"]),
        type_vocab=config["type_vocab_size"], width=config["n_embd"], depth=config["n_layer"],
        num_heads=config["n_head"], mlp_dim=round_up(config["n_inner"], 256), norm_eps=config["layer_norm_epsilon"],
        rope_theta=float(config["rotary_emb_base"]), ntk_factor=float(factor or 0),
        ntk_length=config["max_trained_positions"] if factor else 0, **text,
    )  # fmt: skip


def native_nomic_spec(config: Mapping[str, Any], text: Mapping[str, Any]) -> NomicBertSpec:
    """transformers' own spelling."""
    rope = config["rope_parameters"]
    require(rope, {"rope_type": "default"})
    require(config, {"hidden_act": "silu"})
    return NomicBertSpec(
        vocab_size=config["vocab_size"], type_vocab=config["type_vocab_size"], width=config["hidden_size"],
        depth=config["num_hidden_layers"], num_heads=config["num_attention_heads"],
        mlp_dim=config["intermediate_size"], norm_eps=config["layer_norm_eps"], rope_theta=float(rope["rope_theta"]),
        ntk_factor=0.0, ntk_length=0, **text,
    )  # fmt: skip


def bert_spec(config: Mapping[str, Any], text: Mapping[str, Any]) -> BertSpec:
    """transformers' BertConfig."""
    if "position_embedding_type" in config and config["position_embedding_type"] != "absolute":
        raise not_yet(f"JinaBERT and BERT with {config['position_embedding_type']} positions")
    require(config, {"hidden_act": "gelu", "is_decoder": False, "add_cross_attention": False})
    return BertSpec(
        vocab_size=config["vocab_size"], max_positions=config["max_position_embeddings"],
        type_vocab=config["type_vocab_size"], width=config["hidden_size"], depth=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"], mlp_dim=config["intermediate_size"],
        norm_eps=config["layer_norm_eps"], **text,
    )  # fmt: skip
