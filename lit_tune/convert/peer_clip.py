"""Configs of CLIP and SigLIP vision towers, in open_clip and in transformers -> our spec.

Source: open_clip 3.3.0 model.py, transformer.py, timm_model.py; transformers 5.24 models/clip and models/siglip. Their
config files leave out what equals a default, so the defaults of their classes stand here.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from lit_tune.convert.peer_options import as_pair, not_yet, require
from lit_tune.convert.peer_timm import POOLS, VARIANTS, timm_spec
from lit_tune.models.vision import VisionSpec
from lit_tune.models.vit import VitSpec

_OPEN_CLIP_DEFAULTS = {
    "layers": 12, "width": 768, "head_width": 64, "mlp_ratio": 4.0, "patch_size": 16, "image_size": 224,
    "no_ln_pre": False, "final_ln_after_pool": False, "pool_type": "tok", "act_kwargs": None, "norm_kwargs": None,
    "timm_model_name": None, "timm_pool": "avg", "timm_proj": "linear", "timm_proj_bias": False,
}  # fmt: skip
_OPEN_CLIP_FIXED = {
    "ls_init_value": None, "attentional_pool": False, "qk_norm": False, "scaled_cosine_attn": False,
    "scale_heads": False, "scale_attn_inner": False, "scale_attn": False, "scale_fc": False,
}  # fmt: skip
_OPEN_CLIP_NO_EFFECT = ("patch_dropout", "attn_pooler_queries", "attn_pooler_heads", "output_tokens", "block_type",
                        "pos_embed_type",  # a fixed table stands in the file like a learned one
                        "timm_model_pretrained", "timm_drop", "timm_drop_path")  # fmt: skip
_HF_DEFAULTS = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
                "num_channels": 3, "image_size": 224}  # fmt: skip
_CLIP_DEFAULTS = _HF_DEFAULTS | {"patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
                                 "projection_dim": 512}  # fmt: skip
_SIGLIP_DEFAULTS = _HF_DEFAULTS | {"patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
                                   "vision_use_head": True}  # fmt: skip
_HF_ACTS = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "quick_gelu"}


def open_clip_spec(config: Mapping[str, Any]) -> VisionSpec:
    """The vision tower of open_clip's model config, or of the whole open_clip_config.json."""
    model = config["model_cfg"] if "model_cfg" in config else config
    if "vision_cfg" not in model or "embed_dim" not in model:
        raise not_yet("an open_clip config without vision_cfg and embed_dim")
    given = dict(model["vision_cfg"])
    v = _OPEN_CLIP_DEFAULTS | given
    require(v, _OPEN_CLIP_FIXED)
    unknown = sorted(set(v) - set(_OPEN_CLIP_DEFAULTS) - set(_OPEN_CLIP_FIXED) - set(_OPEN_CLIP_NO_EFFECT))
    if unknown:
        raise not_yet(f"open_clip option {unknown[0]}={v[unknown[0]]!r}")
    if v["timm_model_name"]:
        return _timm_tower(v, model["embed_dim"])
    return _openai_tower(v, model["embed_dim"], bool("quick_gelu" in model and model["quick_gelu"]))


def _openai_tower(v: Mapping[str, Any], embed_dim: int, quick_gelu: bool) -> VitSpec:
    """OpenAI's vision transformer; open_clip always has its projection, also to the same width."""
    if isinstance(v["layers"], list | tuple):
        raise not_yet("a ResNet of OpenAI CLIP")
    pools = {"tok": "cls", "avg": "mean"}
    if v["pool_type"] not in pools:
        raise not_yet(f"pool_type={v['pool_type']!r}")
    act_kwargs, norm_kwargs = v["act_kwargs"] or {}, v["norm_kwargs"] or {}
    if act_kwargs not in ({}, {"approximate": "tanh"}) or set(norm_kwargs) - {"eps"}:
        raise not_yet(f"act_kwargs={act_kwargs}, norm_kwargs={norm_kwargs}")
    act, eps = "gelu_tanh" if act_kwargs else "gelu", norm_kwargs["eps"] if norm_kwargs else 1e-5
    width, mlp_dim = v["width"], int(v["width"] * v["mlp_ratio"])
    return VitSpec(
        image_size=as_pair(v["image_size"]), patch_size=v["patch_size"], width=width, depth=v["layers"],
        num_heads=width // v["head_width"], mlp_dim=mlp_dim, qkv_bias=True, class_token=True, pos_embed=True,
        pos_embed_grid=(0, 0), norm_eps=eps, pool=pools[v["pool_type"]], pool_mlp_dim=mlp_dim, pool_norm_eps=eps,
        final_norm=True, embed_dim=embed_dim, embed_bias=False, embed_square=embed_dim == width,
        act="quick_gelu" if quick_gelu else act, pre_norm=not v["no_ln_pre"], patch_bias=False,
        norm_after_pool=v["final_ln_after_pool"],
    )  # fmt: skip


def _timm_tower(v: Mapping[str, Any], embed_dim: int) -> VisionSpec:
    """A timm tower inside open_clip, as its TimmModel builds it: three ways to come to `embed_dim`."""
    name, pool, proj = v["timm_model_name"], v["timm_pool"], v["timm_proj"]
    if name not in VARIANTS or pool not in POOLS or proj not in (None, "", "none", "linear"):
        raise not_yet(f"timm_model_name={name!r} with timm_pool={pool!r}, timm_proj={proj!r}")
    if proj != "linear":  # the trunk's own classifier, or with "none" nothing
        classes = 0 if proj == "none" else embed_dim
        arguments = {"global_pool": pool, "num_classes": classes}
        spec = timm_spec({"architecture": name, "model_args": arguments})
    else:
        # The trunk is built as registered, and then its pooling is exchanged: the norm stays where it was.
        spec = timm_spec({"architecture": name, "num_classes": 0})
        wanted = POOLS[pool] if pool else spec.pool
        after = spec.norm_after_pool
        spec = replace(spec, pool=wanted, embed_dim=embed_dim, embed_bias=v["timm_proj_bias"],
                       embed_square=embed_dim == spec.width)  # fmt: skip
        if spec.norm_after_pool != after or (wanted == "map") != (VARIANTS[name].pool == "map"):
            raise not_yet(f"{name} with timm_pool={pool!r} and timm_proj='linear'")
    if as_pair(v["image_size"]) != spec.image_size or spec.dim != embed_dim:
        # open_clip hands neither to timm: such a config fails there at the first picture or the first loss
        raise not_yet(f"{name} with image_size={v['image_size']}, embed_dim={embed_dim}, timm_proj={proj!r}")
    return spec


def hf_spec(config: Mapping[str, Any], names: Collection[str] | None) -> VitSpec:
    """The vision tower of transformers' CLIP or SigLIP config; of a whole model's its vision_config.

    Args:
        names: of the arrays in the file. Whether a vision model has a projection or a head is said by its class only,
            and a config does not always name it.
    """
    kind = config["model_type"]
    whole = kind in ("clip", "siglip")
    vision = dict(config["vision_config"] or {}) if whole else dict(config)
    if kind.startswith("siglip"):
        return _hf_siglip(_SIGLIP_DEFAULTS | vision, names)
    v = _CLIP_DEFAULTS | vision
    if whole and "projection_dim" in config:
        v["projection_dim"] = config["projection_dim"]
    classes = config["architectures"] if "architectures" in config and config["architectures"] else ()
    projects = whole or "CLIPVisionModelWithProjection" in classes
    return _hf_clip(v, projects if names is None else "visual_projection.weight" in names)


def _hf_clip(v: Mapping[str, Any], projects: bool) -> VitSpec:
    embed_dim = v["projection_dim"] if projects else 0
    return VitSpec(
        **_hf_common(v), class_token=True, pool="cls", embed_dim=embed_dim,
        embed_square=projects and embed_dim == v["hidden_size"], pre_norm=True, patch_bias=False,
        norm_after_pool=True,  # last_hidden_state is without it
    )  # fmt: skip


def _hf_siglip(v: Mapping[str, Any], names: Collection[str] | None) -> VitSpec:
    head = v["vision_use_head"] if names is None else any(name.endswith("head.probe") for name in names)
    return VitSpec(
        **_hf_common(v), class_token=False, pool="map" if head else "none", embed_dim=0, pre_norm=False,
        patch_bias=True, norm_after_pool=False,
    )  # fmt: skip


def _hf_common(v: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that both have under the same key; options of text towers in old files are not looked at."""
    require(v, {"num_channels": 3})
    if v["hidden_act"] not in _HF_ACTS:
        raise not_yet(f"hidden_act={v['hidden_act']!r}")
    return dict(
        image_size=as_pair(v["image_size"]), patch_size=v["patch_size"], width=v["hidden_size"],
        depth=v["num_hidden_layers"], num_heads=v["num_attention_heads"], mlp_dim=v["intermediate_size"], qkv_bias=True,
        pos_embed=True, pos_embed_grid=(0, 0), norm_eps=v["layer_norm_eps"], pool_mlp_dim=v["intermediate_size"],
        pool_norm_eps=v["layer_norm_eps"], final_norm=True, embed_bias=False, act=_HF_ACTS[v["hidden_act"]],
    )  # fmt: skip
