"""A peer's config of a vision tower -> our spec, and back for timm. Nothing is inferred from array shapes."""

from collections.abc import Mapping
from typing import Any

from lit_tune.convert.peer_options import NOMIC_FIXED, as_pair, check_layout, not_yet, require, round_up
from lit_tune.models.eva02 import VARIANTS, Eva02Spec

# What a config calls itself -> how people call it: known, and not ours yet.
NOT_YET = {
    "clip": "OpenAI CLIP",
    "clip_vision_model": "OpenAI CLIP ViT",
    "siglip": "SigLIP",
    "siglip2": "SigLIP 2",
    "siglip_vision_model": "SigLIP ViT",
    "timm_wrapper": "a timm model inside transformers (use layout timm)",
}
_DROPOUT = ("drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate")
_NO_EFFECT = (*_DROPOUT, "head_init_scale", "dynamic_img_size", "img_size", "num_classes", "device", "dtype")
_TIMM_FIXED = {  # arguments of timm's Eva with the one value that our tower has
    "in_chans": 3, "swiglu_mlp": True, "swiglu_align_to": 0, "num_kv_heads": None, "qk_norm": False, "attn_type": "eva",
    "init_values": None, "attn_only_layer_scale": False, "num_reg_tokens": 0, "no_embed_class": False,
    "rope_type": "cat", "rope_grid_offset": 0.0, "rope_grid_indexing": "ij", "rope_rotate_half": False,
    "use_post_norm": False, "use_pre_transformer_norm": False, "dynamic_img_pad": False,
}  # fmt: skip
_TIMM_DEFAULTS = {  # of timm's Eva, models/eva.py 1.0.31, where an argument is left out
    "img_size": 224, "patch_size": 16, "num_classes": 1000, "global_pool": "avg", "embed_dim": 768, "depth": 12,
    "num_heads": 12, "qkv_bias": True, "qkv_fused": True, "mlp_ratio": 4.0, "swiglu_mlp": False, "scale_mlp": False,
    "scale_attn_inner": False, "class_token": True, "use_abs_pos_emb": True, "use_rot_pos_emb": False,
    "rope_temperature": 10_000.0, "use_post_transformer_norm": None, "use_fc_norm": None, "attn_pool_num_heads": None,
    "attn_pool_mlp_ratio": None, "ref_feat_shape": None,
}  # fmt: skip
_TIMM_POOLS = {"avg": "mean", "token": "cls", "map": "map", "": "none"}


def vision_spec(config: Mapping[str, Any], layout: str) -> Eva02Spec:
    """The spec of the vision tower that a peer's config describes.

    Args:
        config: timm's config.json or the arguments of its class; a transformers or contrastors config.
        layout: timm | nomic | hf | open_clip.

    Raises:
        ConfigError: a family or an option that we do not have yet.
    """
    check_layout(layout)
    if layout == "timm":
        return timm_spec(config)
    if layout == "open_clip":
        raise not_yet("EVA02-CLIP in open_clip's layout")
    if "img_size" in config and "n_embd" in config:
        return nomic_spec(config)
    if "n_embd" in config:
        raise not_yet("a text tower where a vision tower is asked for")
    kind = config["model_type"] if "model_type" in config else "unknown"
    raise not_yet(NOT_YET[kind] if kind in NOT_YET else f"model_type {kind} as a vision tower")


def timm_spec(config: Mapping[str, Any]) -> Eva02Spec:
    """The tower of timm's config.json, or of the arguments of its Eva class."""
    arguments = _timm_arguments(config)
    a = _TIMM_DEFAULTS | arguments
    if not a["swiglu_mlp"]:
        raise not_yet("an Eva without SwiGLU or a VisionTransformer (SigLIP ViT, OpenAI CLIP ViT)")
    require(a, _TIMM_FIXED)
    unknown = sorted(set(a) - set(_TIMM_DEFAULTS) - set(_TIMM_FIXED) - set(_NO_EFFECT))
    if unknown:
        raise not_yet(f"timm argument {unknown[0]}={a[unknown[0]]!r}")
    if a["global_pool"] not in _TIMM_POOLS or a["attn_pool_num_heads"] not in (None, a["num_heads"]):
        raise not_yet(f"global_pool={a['global_pool']!r} with attn_pool_num_heads={a['attn_pool_num_heads']!r}")
    width = a["embed_dim"]
    if a["num_classes"] == width:
        raise not_yet("a head as wide as the trunk")
    return Eva02Spec(
        image_size=as_pair(a["img_size"]), patch_size=a["patch_size"], width=width, depth=a["depth"],
        num_heads=a["num_heads"], mlp_dim=int(width * a["mlp_ratio"]), qkv_fused=a["qkv_fused"],
        qkv_bias=a["qkv_bias"], key_bias=False, sub_ln=a["scale_mlp"], attn_inner_norm=a["scale_attn_inner"],
        class_token=a["class_token"], pos_embed=a["use_abs_pos_emb"], pos_embed_grid=(0, 0), rope=a["use_rot_pos_emb"],
        rope_theta=a["rope_temperature"], rope_reference_grid=as_pair(a["ref_feat_shape"] or 0), norm_eps=1e-6,
        sub_ln_eps=1e-6, pool=_TIMM_POOLS[a["global_pool"]],
        pool_mlp_dim=int(width * (a["attn_pool_mlp_ratio"] or a["mlp_ratio"])), pool_norm_eps=1e-6,
        final_norm=_timm_final_norm(a), embed_dim=a["num_classes"], embed_bias=a["num_classes"] > 0,
    )  # fmt: skip


def _timm_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of timm's Eva that a config.json (or they themselves) amount to."""
    if "architecture" not in config:
        return dict(config)
    name = config["architecture"].split(".")[0]  # "eva02_base_patch14_224.mim_in22k": the tag names weights
    if name not in VARIANTS:
        raise not_yet(f"timm architecture {name}")
    top = {"num_classes": config["num_classes"]} if "num_classes" in config else {}
    given = config["model_args"] if "model_args" in config else {}
    return timm_arguments(VARIANTS[name]) | top | dict(given)


def _timm_final_norm(a: Mapping[str, Any]) -> bool:
    """Whether there is a final norm, where our tower has it; timm could have it on either side of the pooling."""
    pooled = a["use_fc_norm"] if a["use_fc_norm"] is not None else a["global_pool"] == "avg"
    tokens = a["use_post_transformer_norm"] if a["use_post_transformer_norm"] is not None else not pooled
    if tokens if a["global_pool"] == "avg" else pooled:
        raise not_yet(f"global_pool={a['global_pool']!r} with use_fc_norm={pooled}, use_post_transformer_norm={tokens}")
    return bool(pooled or tokens)


def timm_arguments(spec: Eva02Spec) -> dict[str, Any]:
    """The arguments that make timm's Eva this tower; the reverse of `timm_spec`."""
    pools = {ours: timms for timms, ours in _TIMM_POOLS.items()}
    mean = spec.pool == "mean"
    table = tuple(g * spec.patch_size for g in spec.table_grid)
    return {
        "img_size": list(table), "patch_size": spec.patch_size, "embed_dim": spec.width, "depth": spec.depth,
        "num_heads": spec.num_heads, "qkv_bias": spec.qkv_bias, "qkv_fused": spec.qkv_fused,
        "mlp_ratio": _ratio(spec.mlp_dim, spec.width), "swiglu_mlp": True, "scale_mlp": spec.sub_ln,
        "scale_attn_inner": spec.attn_inner_norm, "class_token": spec.class_token, "use_abs_pos_emb": spec.pos_embed,
        "use_rot_pos_emb": spec.rope, "rope_temperature": spec.rope_theta,
        "ref_feat_shape": list(spec.rope_reference_grid) if spec.rope_reference_grid != (0, 0) else None,
        "global_pool": pools[spec.pool], "use_fc_norm": spec.final_norm and mean,
        "use_post_transformer_norm": spec.final_norm and not mean,
        "attn_pool_mlp_ratio": _ratio(spec.pool_mlp_dim, spec.width) if spec.pool == "map" else None,
        "dynamic_img_size": spec.table_grid != spec.grid, "num_classes": spec.embed_dim if spec.projects else 0,
    }  # fmt: skip


def _ratio(mlp_dim: int, width: int) -> float:
    """A ratio with int(width * ratio) == mlp_dim, as timm computes it; plain division can fall just below."""
    ratio = mlp_dim / width
    return ratio if int(width * ratio) == mlp_dim else (mlp_dim + 0.5) / width


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
