"""timm's config of an EVA02 or a plain ViT -> our spec, and back. Nothing is inferred from array shapes.

Source: timm 1.0.31, models/eva.py and models/vision_transformer.py.
"""

import functools
from collections.abc import Mapping
from typing import Any

from lit_tune.convert.peer_options import as_pair, not_yet, require
from lit_tune.models import eva02, vit
from lit_tune.models.eva02 import Eva02Spec
from lit_tune.models.two_towers import family_of
from lit_tune.models.vision import VisionSpec
from lit_tune.models.vit import VitSpec

VARIANTS: dict[str, VisionSpec] = eva02.VARIANTS | vit.VARIANTS
NOMIC = "lit_tune_nomic_vision"  # no name of timm's own: lit_tune.integrations.timm registers it
POOLS = {"avg": "mean", "token": "cls", "map": "map", "": "none"}
_DROPOUT = ("drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate")
_NO_EFFECT = (*_DROPOUT, "head_init_scale", "dynamic_img_size", "img_size", "num_classes", "device", "dtype",
              "weight_init", "fix_init")  # fmt: skip
_EVA_FIXED = {  # arguments of timm's Eva with the one value that our tower has
    "in_chans": 3, "swiglu_mlp": True, "swiglu_align_to": 0, "num_kv_heads": None, "qk_norm": False, "attn_type": "eva",
    "init_values": None, "attn_only_layer_scale": False, "num_reg_tokens": 0, "no_embed_class": False,
    "rope_type": "cat", "rope_grid_offset": 0.0, "rope_grid_indexing": "ij", "rope_rotate_half": False,
    "use_post_norm": False, "use_pre_transformer_norm": False, "dynamic_img_pad": False,
}  # fmt: skip
_EVA_DEFAULTS = {  # of timm's Eva, where an argument is left out
    "img_size": 224, "patch_size": 16, "num_classes": 1000, "global_pool": "avg", "embed_dim": 768, "depth": 12,
    "num_heads": 12, "qkv_bias": True, "qkv_fused": True, "mlp_ratio": 4.0, "swiglu_mlp": False, "scale_mlp": False,
    "scale_attn_inner": False, "class_token": True, "use_abs_pos_emb": True, "use_rot_pos_emb": False,
    "rope_temperature": 10_000.0, "use_post_transformer_norm": None, "use_fc_norm": None, "attn_pool_num_heads": None,
    "attn_pool_mlp_ratio": None, "ref_feat_shape": None,
}  # fmt: skip
_VIT_FIXED = {
    "in_chans": 3, "qk_norm": False, "scale_attn_norm": False, "scale_mlp_norm": False, "proj_bias": True,
    "init_values": None, "no_embed_class": False, "reg_tokens": 0, "pool_include_prefix": False,
    "dynamic_img_pad": False, "embed_norm_layer": None,
}  # fmt: skip
_VIT_DEFAULTS = {
    "img_size": 224, "patch_size": 16, "num_classes": 1000, "global_pool": "token", "embed_dim": 768, "depth": 12,
    "num_heads": 12, "mlp_ratio": 4.0, "qkv_bias": True, "class_token": True, "pos_embed": "learn", "pre_norm": False,
    "final_norm": True, "fc_norm": None, "act_layer": None, "norm_layer": None,
}  # fmt: skip
# Arguments that only timm's Eva has: who gives one of them means that class.
_EVA_ONLY = {*_EVA_DEFAULTS, *_EVA_FIXED} - {*_VIT_DEFAULTS, *_VIT_FIXED}
_ACTS = {None: "gelu", "gelu": "gelu", "gelu_tanh": "gelu_tanh", "quick_gelu": "quick_gelu"}


def timm_spec(config: Mapping[str, Any]) -> VisionSpec:
    """The tower of timm's config.json, or of the arguments of its Eva or VisionTransformer class.

    Raises:
        ConfigError: a model or an option that we do not have.
    """
    if "architecture" not in config:
        return eva_spec(config) if set(config) & _EVA_ONLY else vit_spec(config, 1e-6)
    name = config["architecture"].split(".")[0]  # "eva02_base_patch14_224.mim_in22k": the tag names weights
    if name not in VARIANTS:
        raise not_yet(f"timm architecture {name}")
    top = {"num_classes": config["num_classes"]} if "num_classes" in config else {}
    given = config["model_args"] if "model_args" in config else {}
    arguments = timm_arguments(VARIANTS[name]) | _NORM_BY_POOL | top | dict(given or {})
    if family_of(VARIANTS[name]) == "eva02":
        return eva_spec({key: value for key, value in arguments.items() if key != "fc_norm"})
    drop = {"use_fc_norm", "use_post_transformer_norm"}
    return vit_spec({k: v for k, v in arguments.items() if k not in drop}, VARIANTS[name].norm_eps)


# No registered name says where its final norm stands: it follows the pooling, which model_args may change.
_NORM_BY_POOL = {"use_fc_norm": None, "use_post_transformer_norm": None, "fc_norm": None}


def eva_spec(arguments: Mapping[str, Any]) -> Eva02Spec:
    """The tower that arguments of timm's Eva make."""
    a = _EVA_DEFAULTS | dict(arguments)
    if not a["swiglu_mlp"]:
        raise not_yet("an Eva without SwiGLU")
    _require_known(a, _EVA_DEFAULTS, _EVA_FIXED)
    if a["attn_pool_num_heads"] not in (None, a["num_heads"]):
        raise not_yet(f"attn_pool_num_heads={a['attn_pool_num_heads']!r}")
    width = a["embed_dim"]
    return Eva02Spec(
        **_common(a), mlp_dim=int(width * a["mlp_ratio"]), qkv_fused=a["qkv_fused"], key_bias=False,
        sub_ln=a["scale_mlp"], attn_inner_norm=a["scale_attn_inner"], pos_embed=a["use_abs_pos_emb"],
        rope=a["use_rot_pos_emb"], rope_theta=a["rope_temperature"],
        rope_reference_grid=as_pair(a["ref_feat_shape"] or 0), norm_eps=1e-6, sub_ln_eps=1e-6,
        pool_mlp_dim=int(width * (a["attn_pool_mlp_ratio"] or a["mlp_ratio"])), pool_norm_eps=1e-6,
        final_norm=_eva_final_norm(a),
    )  # fmt: skip


def vit_spec(arguments: Mapping[str, Any], norm_eps: float) -> VitSpec:
    """The tower that arguments of timm's VisionTransformer make.

    Args:
        norm_eps: of a registered model, whose norm layer no config.json can state; 1e-6 is the class's own.
    """
    a = _VIT_DEFAULTS | dict(arguments)
    _require_known(a, _VIT_DEFAULTS, _VIT_FIXED)
    if a["act_layer"] not in _ACTS:
        raise not_yet(f"act_layer={a['act_layer']!r}")
    if a["global_pool"] == "map" and a["class_token"]:
        raise not_yet("a VisionTransformer with a class token and global_pool='map'")
    mlp_dim, eps = int(a["embed_dim"] * a["mlp_ratio"]), _norm_eps(a["norm_layer"], norm_eps)
    after = a["global_pool"] == "avg" if a["fc_norm"] is None else a["fc_norm"]
    return VitSpec(
        **_common(a), mlp_dim=mlp_dim, pos_embed=a["pos_embed"] == "learn", norm_eps=eps, pool_mlp_dim=mlp_dim,
        pool_norm_eps=eps, final_norm=a["final_norm"], act=_ACTS[a["act_layer"]], pre_norm=a["pre_norm"],
        patch_bias=not a["pre_norm"], norm_after_pool=after,
    )  # fmt: skip


def _common(a: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that both classes have under the same argument."""
    if a["global_pool"] not in POOLS:
        raise not_yet(f"global_pool={a['global_pool']!r}")
    classes = a["num_classes"]
    return dict(
        image_size=as_pair(a["img_size"]), patch_size=a["patch_size"], width=a["embed_dim"], depth=a["depth"],
        num_heads=a["num_heads"], qkv_bias=a["qkv_bias"], class_token=a["class_token"], pos_embed_grid=(0, 0),
        pool=POOLS[a["global_pool"]], embed_dim=classes, embed_bias=classes > 0, embed_square=classes == a["embed_dim"],
    )  # fmt: skip


def _require_known(a: Mapping[str, Any], defaults: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    """Refuse arguments with a value that our tower does not have, and those that we have never heard of."""
    require(a, fixed)
    unknown = sorted(set(a) - set(defaults) - set(fixed) - set(_NO_EFFECT))
    if unknown:
        raise not_yet(f"timm argument {unknown[0]}={a[unknown[0]]!r}")


def _norm_eps(norm_layer: Any, default: float) -> float:
    """eps of a norm layer as timm takes it: None, a name, or in Python a partial of the class with its eps."""
    if norm_layer is None:
        return default
    if norm_layer == "layernorm":
        return 1e-6  # of timm's own LayerNorm, layers/norm.py
    if isinstance(norm_layer, functools.partial) and set(norm_layer.keywords) == {"eps"}:
        return norm_layer.keywords["eps"]
    raise not_yet(f"norm_layer={norm_layer!r}")


def _eva_final_norm(a: Mapping[str, Any]) -> bool:
    """Whether there is a final norm, where our tower has it; timm could have it on either side of the pooling."""
    pooled = a["use_fc_norm"] if a["use_fc_norm"] is not None else a["global_pool"] == "avg"
    tokens = a["use_post_transformer_norm"] if a["use_post_transformer_norm"] is not None else not pooled
    if tokens if a["global_pool"] == "avg" else pooled:
        raise not_yet(f"global_pool={a['global_pool']!r} with use_fc_norm={pooled}, use_post_transformer_norm={tokens}")
    return bool(pooled or tokens)


def timm_arguments(spec: VisionSpec) -> dict[str, Any]:
    """The arguments that make timm's Eva or VisionTransformer this tower; the reverse of `timm_spec`.

    Of a ViT the norm layer is not among them: JSON cannot hold it, `architecture` stands for its eps.
    """
    pools = {ours: timms for timms, ours in POOLS.items()} | {"nomic": "map"}  # both are timm's `attn_pool`
    common = {
        "img_size": [g * spec.patch_size for g in spec.table_grid], "patch_size": spec.patch_size,
        "embed_dim": spec.width, "depth": spec.depth, "num_heads": spec.num_heads, "qkv_bias": spec.qkv_bias,
        "mlp_ratio": _ratio(spec.mlp_dim, spec.width), "class_token": spec.class_token,
        "global_pool": pools[spec.pool], "dynamic_img_size": spec.table_grid != spec.grid,
        "num_classes": spec.embed_dim if spec.projects else 0,
    }  # fmt: skip
    return common | (_eva_arguments(spec) if family_of(spec) == "eva02" else _vit_arguments(spec))


def _reference_grid(spec: Eva02Spec) -> tuple[int, int]:
    """The grid that rotary positions count on, which for (0, 0) is the picture's own."""
    return spec.grid if spec.rope_reference_grid == (0, 0) else spec.rope_reference_grid


def _eva_arguments(spec: Eva02Spec) -> dict[str, Any]:
    mean, nomic = spec.pool == "mean", spec.pool == "nomic"
    return {
        "qkv_fused": spec.qkv_fused, "swiglu_mlp": True, "scale_mlp": spec.sub_ln,
        "scale_attn_inner": spec.attn_inner_norm, "use_abs_pos_emb": spec.pos_embed, "use_rot_pos_emb": spec.rope,
        "rope_temperature": spec.rope_theta,
        # the picture's own grid is written out: transformers drops a null and takes the architecture's default instead
        "ref_feat_shape": list(_reference_grid(spec)) if spec.rope else None,
        "use_fc_norm": spec.final_norm and mean, "use_post_transformer_norm": spec.final_norm and not mean,
        "attn_pool_mlp_ratio": _ratio(spec.pool_mlp_dim, spec.width) if spec.pool == "map" or nomic else None,
    } | (_nomic_arguments(spec) if nomic else {})  # fmt: skip


def _nomic_arguments(spec: Eva02Spec) -> dict[str, Any]:
    """What the architecture NOMIC takes besides: timm's own has these as defaults."""
    return {
        "attn_type": "rope" if spec.key_bias else "eva", "norm_eps": spec.norm_eps, "mlp_norm_eps": spec.sub_ln_eps,
        "attn_pool_norm_eps": spec.pool_norm_eps,
    }  # fmt: skip


def _vit_arguments(spec: VitSpec) -> dict[str, Any]:
    return {
        "pos_embed": "learn" if spec.pos_embed else "none", "pre_norm": spec.pre_norm, "final_norm": spec.final_norm,
        "fc_norm": spec.norm_after_pool, "act_layer": spec.act,
    }  # fmt: skip


def architecture(spec: VisionSpec) -> str:
    """A registered name for timm's config.json: the tower's own, or one whose arguments can all be overridden.

    With Nomic's pooling it is the name that `lit_tune.integrations.timm` registers.
    """
    if spec.pool == "nomic":
        return NOMIC
    arguments = timm_arguments(spec)
    for name, variant in VARIANTS.items():
        if timm_arguments(variant) == arguments and variant.norm_eps == spec.norm_eps:
            return name
    if family_of(spec) == "eva02":
        return "eva02_base_patch14_224"
    # the name decides the eps of the norms; the SigLIP names are the ones that load an attention pool strictly
    plain = "vit_base_patch16_siglip_224" if spec.pool == "map" else "vit_base_patch16_224"
    return "vit_base_patch16_clip_224" if spec.norm_eps == 1e-5 else plain


def _ratio(mlp_dim: int, width: int) -> float:
    """A ratio with int(width * ratio) == mlp_dim, as timm computes it; plain division can fall just below."""
    ratio = mlp_dim / width
    return ratio if int(width * ratio) == mlp_dim else (mlp_dim + 0.5) / width
