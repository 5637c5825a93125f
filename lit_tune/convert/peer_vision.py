"""A peer's config of a vision tower -> our spec, by layout. Nothing is inferred from array shapes."""

from collections.abc import Collection, Mapping
from typing import Any

from lit_tune.convert.peer_clip import hf_spec, open_clip_spec
from lit_tune.convert.peer_options import NOMIC_FIXED, as_pair, check_layout, not_yet, require, round_up
from lit_tune.convert.peer_timm import timm_arguments, timm_spec
from lit_tune.models.eva02 import Eva02Spec
from lit_tune.models.vision import VisionSpec

__all__ = ["jina_spec", "nomic_spec", "timm_arguments", "vision_spec"]

# What a config calls itself -> how people call it: known, and not ours yet.
NOT_YET = {
    "siglip2": "SigLIP 2 for pictures of any shape (its other checkpoints call themselves siglip)",
    "siglip2_vision_model": "SigLIP 2 for pictures of any shape",
    "timm_wrapper": "a timm model inside transformers (use layout timm)",
}
_HF = ("clip", "clip_vision_model", "siglip", "siglip_vision_model")
_JINA_DEFAULTS = {
    "embed_dim": 768, "width": 768, "image_size": 224, "patch_size": 16, "layers": 12, "head_width": 64,
    "mlp_ratio": 4.0, "qkv_bias": True, "rope_embeddings": False, "pt_hw_seq_len": 16, "intp_freq": False,
    "naive_swiglu": False, "subln": False, "post_norm": False, "ls_init_value": None, "proj_type": None,
}  # fmt: skip


def vision_spec(config: Mapping[str, Any], layout: str, names: Collection[str] | None = None) -> VisionSpec:
    """The spec of the vision tower that a peer's config describes.

    Args:
        config: timm's config.json or the arguments of its class; a transformers, contrastors or open_clip config.
        layout: timm | nomic | hf | open_clip.
        names: of the arrays in the weight file, where it is at hand: a transformers config does not always say
            whether a projection or a head belongs to the model.

    Raises:
        ConfigError: a family or an option that we do not have yet.
    """
    check_layout(layout)
    if layout == "timm":
        return timm_spec(config)
    if layout == "open_clip":
        return open_clip_spec(config)
    if "img_size" in config and "n_embd" in config:
        return nomic_spec(config)
    if "n_embd" in config:
        raise not_yet("a text tower where a vision tower is asked for")
    kind = config["model_type"] if "model_type" in config else "unknown"
    if kind in _HF:
        return hf_spec(config, names)
    if kind in ("jina_clip", "jina_clip_vision"):
        return jina_spec(config)
    raise not_yet(NOT_YET[kind] if kind in NOT_YET else f"model_type {kind} as a vision tower")


def jina_spec(config: Mapping[str, Any]) -> Eva02Spec:
    """Jina CLIP's vision tower: EVA02 in BAAI's code, class token, and no Linear where the widths agree.

    Source: jina-clip-implementation, configuration_clip.py (defaults), modeling_clip.py `_build_vision_tower` (eps
    1e-6, class token) and eva_model.py (no head if the output is as wide as the trunk and proj_type is None), read in
    public copies. Neither the released config.json nor the weights of jina-clip-v1 were at hand: the numbers of that
    model are those of its config, and only the arithmetic was compared, with timm's Eva in the same shape.
    """
    whole = config["model_type"] == "jina_clip"
    v = _JINA_DEFAULTS | dict(config["vision_config"] if whole else config)
    require(v, {"post_norm": False, "ls_init_value": None, "naive_swiglu": True, "subln": True})
    width, embed_dim, proj = v["width"], v["embed_dim"], v["proj_type"]
    if proj not in (None, "linear") or (proj is None and embed_dim != width):
        raise not_yet(f"proj_type={proj!r} with width {width} and embed_dim {embed_dim}")
    adds = whole and "add_projections" in config and config["add_projections"]
    if adds and proj:
        raise not_yet("two projections, proj_type='linear' and add_projections")
    grid = tuple(size // v["patch_size"] for size in as_pair(v["image_size"]))
    reference = as_pair(v["pt_hw_seq_len"])
    if v["rope_embeddings"] and not v["intp_freq"] and grid != reference:
        raise not_yet(f"rotary positions for {reference} patches without intp_freq on {grid} patches")
    mlp_dim = int(width * v["mlp_ratio"])
    return Eva02Spec(
        image_size=as_pair(v["image_size"]), patch_size=v["patch_size"], width=width, depth=v["layers"],
        num_heads=width // v["head_width"], mlp_dim=mlp_dim, qkv_fused=False, qkv_bias=v["qkv_bias"], key_bias=False,
        sub_ln=True, attn_inner_norm=True, class_token=True, pos_embed=True, pos_embed_grid=(0, 0),
        rope=v["rope_embeddings"], rope_theta=10_000.0, rope_reference_grid=reference, norm_eps=1e-6, sub_ln_eps=1e-6,
        pool="cls", pool_mlp_dim=mlp_dim, pool_norm_eps=1e-6, final_norm=True,
        embed_dim=config["projection_dim"] if adds else embed_dim if proj else 0, embed_bias=proj == "linear",
        embed_square=bool(adds or proj),
    )  # fmt: skip


def nomic_spec(config: Mapping[str, Any]) -> Eva02Spec:
    """contrastors' NomicVisionModel; its class ignores everything of the config that is about text."""
    fixed = {
        "prenorm": True, "no_last_ln": True, "no_cls_token": False, "no_embed_class": False, "register_tokens": 0,
        "layer_scale": False, "num_channels": 3, "patch_embed_bias": True, "mlp_fc1_bias": True, "mlp_fc2_bias": True,
        "prepre_layernom": False, "rotary_emb_base": 10_000, "use_rotary_pos_emb": True, "use_pos_embed": True,
    }  # fmt: skip
    require(config, NOMIC_FIXED | fixed)
    # both SwiGLUs round up their hidden width; the released file says 2048.0
    hidden = round_up(config["n_inner"], 256)
    eps = config["layer_norm_epsilon"]
    return Eva02Spec(
        image_size=as_pair(config["img_size"]), patch_size=config["patch_size"], width=config["n_embd"],
        depth=config["n_layer"], num_heads=config["n_head"], mlp_dim=hidden, qkv_fused=True,
        qkv_bias=config["qkv_proj_bias"], key_bias=config["qkv_proj_bias"], sub_ln=config["norm_mlp"],
        attn_inner_norm=False, class_token=True, pos_embed=True, pos_embed_grid=(0, 0), rope=True, rope_theta=10_000.0,
        rope_reference_grid=as_pair(config["ref_feat_shape"] or 0), norm_eps=eps,
        sub_ln_eps=1e-5,  # torch's default: the class gives that norm no eps
        pool="nomic", pool_mlp_dim=hidden, pool_norm_eps=eps, final_norm=False, embed_dim=0, embed_bias=False,
    )  # fmt: skip
