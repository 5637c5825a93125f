"""A peer's config of a text tower -> our spec. Nothing is inferred from array shapes."""

from collections.abc import Collection, Mapping
from typing import Any

from lit_tune.convert.peer_clip_text import clip_spec, open_clip_spec, siglip_spec
from lit_tune.convert.peer_options import NOMIC_FIXED, check_layout, not_yet, require, round_up
from lit_tune.models.bert import BertSpec
from lit_tune.models.jina_bert import JinaBertSpec
from lit_tune.models.modern_bert import ModernBertSpec
from lit_tune.models.nomic_bert import NomicBertSpec
from lit_tune.models.text_tower import TextSpec

# What Jina CLIP v1's config leaves out: its text tower's sizes are those of the repository that it names, at b78d159.
# Source: huggingface.co/jinaai/jina-bert-flash-implementation config.json
_JINA_FLASH = {
    "vocab_size": 30528, "type_vocab_size": 2, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "layer_norm_eps": 1e-12, "hidden_act": "gelu", "mlp_type": "glu", "use_qk_norm": False,
    "window_size": [-1, -1], "pad_vocab_size_multiple": 1,
}  # fmt: skip
_JINA_NAMES = ("jinaai/jina-bert-flash-implementation", "jinaai/jina-bert-v2-base-en-flash")


def text_spec(
    config: Mapping[str, Any],
    layout: str,
    *,
    pool: str = "mean",
    layer_norm: bool = False,
    dim: int = 0,
    names: Collection[str] = (),
) -> TextSpec:
    """The spec of the text tower that a peer's config describes.

    Args:
        config: a transformers, contrastors or open_clip config, of the text tower or of a model with two towers.
        layout: nomic | hf | open_clip.
        pool: mean | cls | last, for towers whose config does not say; CLIP and SigLIP pool by their own rule, Jina CLIP
            by the mean, whatever is given here.
        layer_norm, dim: of a text tower; no config says them.
        names: of the arrays that go with the config, if known: CLIPTextConfig does not say whether there is a
            projection.

    Raises:
        ConfigError: a family or an option that we do not have yet.
    """
    check_layout(layout)
    rest = {"layer_norm": layer_norm, "dim": dim}
    if layout == "open_clip":
        return open_clip_spec(config, rest)
    if layout == "timm" or ("img_size" in config and "n_embd" in config):
        raise not_yet("a vision tower where a text tower is asked for")
    kind = config["model_type"] if "model_type" in config else "nomic_bert" if "n_embd" in config else "unknown"
    if kind in ("clip", "clip_text_model"):
        return clip_spec(config, rest, names)
    if kind in ("siglip", "siglip_text_model"):
        return siglip_spec(config, rest)
    if kind not in _BY_TYPE:
        raise not_yet(f"model_type {kind}")
    return _BY_TYPE[kind](config, {"pool": pool} | rest)


def any_nomic_spec(config: Mapping[str, Any], text: Mapping[str, Any]) -> NomicBertSpec:
    """Either spelling of a nomic_bert config."""
    return (nomic_spec if "n_embd" in config else native_nomic_spec)(config, text)


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


def any_bert_spec(config: Mapping[str, Any], text: Mapping[str, Any]) -> BertSpec | JinaBertSpec:
    """What calls itself bert: BERT, or JinaBERT in either of its spellings."""
    kind = config["position_embedding_type"] if "position_embedding_type" in config else "absolute"
    if kind == "alibi" or ("mlp_type" in config and config["mlp_type"] == "glu"):
        return jina_spec(config, text)
    if kind != "absolute":
        raise not_yet(f"BERT with {kind} positions")
    return bert_spec(config, text)


def bert_spec(config: Mapping[str, Any], text: Mapping[str, Any], first_position: int = 0) -> BertSpec:
    """transformers' BertConfig."""
    require(config, {"hidden_act": "gelu", "is_decoder": False, "add_cross_attention": False})
    return BertSpec(
        vocab_size=config["vocab_size"], max_positions=config["max_position_embeddings"],
        type_vocab=config["type_vocab_size"], width=config["hidden_size"], depth=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"], mlp_dim=config["intermediate_size"],
        norm_eps=config["layer_norm_eps"], first_position=first_position, **text,
    )  # fmt: skip


def roberta_spec(config: Mapping[str, Any], text: Mapping[str, Any]) -> BertSpec:
    """transformers' RobertaConfig and XLMRobertaConfig: a BERT whose positions start after the padding id."""
    require(config, {"position_embedding_type": "absolute"})
    return bert_spec(config, text, config["pad_token_id"] + 1)


def jina_spec(config: Mapping[str, Any], text: Mapping[str, Any]) -> JinaBertSpec:
    """JinaBertConfig of jina-bert-implementation or of jina-bert-flash-implementation."""
    fixed = {"hidden_act": "gelu", "feed_forward_type": "geglu", "mlp_type": "glu", "use_qk_norm": False}
    require(config, fixed | {"is_decoder": False, "add_cross_attention": False, "window_size": [-1, -1]})
    multiple = config["pad_vocab_size_multiple"] if "pad_vocab_size_multiple" in config else 1
    return JinaBertSpec(
        vocab_size=round_up(config["vocab_size"], multiple), type_vocab=config["type_vocab_size"],
        width=config["hidden_size"], depth=config["num_hidden_layers"], num_heads=config["num_attention_heads"],
        mlp_dim=config["intermediate_size"], norm_eps=config["layer_norm_eps"], **text,
    )  # fmt: skip


def jina_clip_spec(config: Mapping[str, Any], text: Mapping[str, Any]) -> JinaBertSpec:
    """The text tower of JinaCLIPConfig, v1."""
    c = config["text_config"]
    if c["hf_model_name_or_path"] not in _JINA_NAMES:
        raise not_yet(f"Jina CLIP over {c['hf_model_name_or_path']} (v1's is {_JINA_NAMES[0]})")
    require(config, {"add_projections": False})
    require(c, {"proj_type": None, "pooler_type": "mean_pooler"})
    return jina_spec(_JINA_FLASH | dict(c["hf_model_config_kwargs"] or {}), dict(text) | {"pool": "mean"})


def modern_bert_spec(config: Mapping[str, Any], text: Mapping[str, Any]) -> ModernBertSpec:
    """transformers' ModernBertConfig, as version 5 or as version 4 (the hub's files) writes it."""
    fixed = {"attention_bias": False, "mlp_bias": False, "norm_bias": False}
    require(config, fixed | {"hidden_activation": "gelu"})
    theta = [_modern_theta(config, *names) for names in (("full", "global"), ("sliding", "local"))]
    return ModernBertSpec(
        vocab_size=config["vocab_size"], width=config["hidden_size"], depth=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"], mlp_dim=config["intermediate_size"], norm_eps=config["norm_eps"],
        global_every=_modern_global_every(config), window=config["local_attention"] // 2, global_theta=theta[0],
        local_theta=theta[1], **text,
    )  # fmt: skip


def _modern_theta(config: Mapping[str, Any], kind: str, older: str) -> float:
    if "rope_parameters" not in config:
        return float(config[f"{older}_rope_theta"])
    rope = config["rope_parameters"][f"{kind}_attention"]
    require(rope, {"rope_type": "default"})
    return float(rope["rope_theta"])


def _modern_global_every(config: Mapping[str, Any]) -> int:
    """How often a layer sees the whole text; a pattern that is no "every so many" is refused."""
    if "layer_types" not in config or not config["layer_types"]:
        return config["global_attn_every_n_layers"]
    types = list(config["layer_types"])
    every = next((i for i, kind in enumerate(types) if i and kind == "full_attention"), len(types))
    if types != ["sliding_attention" if i % every else "full_attention" for i in range(len(types))]:
        raise not_yet(f"ModernBERT with layer_types={types}")
    return every


_BY_TYPE = {
    "nomic_bert": any_nomic_spec,
    "bert": any_bert_spec,
    "roberta": roberta_spec,
    "xlm-roberta": roberta_spec,
    "modernbert": modern_bert_spec,
    "jina_clip": jina_clip_spec,
}
