"""What a peer's layout cannot hold, with the reason in words."""

from typing import Any

from lit_tune.errors import ConfigError, explain
from lit_tune.models.two_towers import family_of


def refuse(spec: Any, layout: str) -> None:
    """Nothing, if the layout can hold the tower.

    Raises:
        ConfigError: it cannot; the line says why.
    """
    family = family_of(spec)
    if _imported_only(spec):
        do = "copy the model's own files"
        raise ConfigError(
            explain(f"{layout} layout", expected="a tower that is written too", found=_imported_only(spec), do=do)
        )
    if (family, layout) not in _REASONS:
        return
    found = _REASONS[family, layout](spec)
    if found:
        do = f"export --format={' | '.join(_formats(spec))}"
        raise ConfigError(
            explain(f"{layout} layout", expected="a tower that it can hold", found="; ".join(found), do=do)
        )


def _formats(spec: Any) -> list[str]:
    """The formats that hold a vision tower, by their layouts; ONNX has no layout of its own and holds every one."""
    family = family_of(spec)
    held = [name for name in ("nomic", "open_clip", "timm") if (family, name) in _REASONS]
    return sorted(["onnx", *(name for name in held if not _REASONS[family, name](spec))])


def _imported_only(spec: Any) -> str:
    """What a text tower is that we read and do not write; "" for those that we write."""
    family = family_of(spec)
    facts = {
        "ModernBERT, which is imported only": family == "modern_bert",
        "XLM-R (RoBERTa's positions), which is imported only": family == "bert" and spec.first_position > 0,
        "SigLIP text, which is imported only": family == "clip_text" and not spec.causal,
    }
    return next((what for what, holds in facts.items() if holds), "")


def fits_openai(spec: Any) -> bool:
    """Whether a plain ViT can go into open_clip under OpenAI's own names; else it goes as a timm tower inside."""
    return not _not_in_openai(spec)


def _true(facts: dict[str, bool]) -> list[str]:
    return [what for what, holds in facts.items() if holds]


def _eps_of(spec: Any) -> set[float]:
    """The eps of all norms that a tower has."""
    eps = {spec.norm_eps} | ({spec.pool_norm_eps} if spec.pool in ("map", "nomic") else set())
    return eps | ({spec.sub_ln_eps} if family_of(spec) == "eva02" and spec.sub_ln else set())


def _eva02_not_in_timm(spec: Any) -> list[str]:
    eps = _eps_of(spec)
    return _true({
        "the nomic pooling head": spec.pool == "nomic",
        "a trained bias on the keys": spec.key_bias,
        f"a LayerNorm eps of {max(eps)} (timm has 1e-6)": eps != {1e-6},
    })  # fmt: skip


def _eva02_not_in_open_clip(spec: Any) -> list[str]:
    # A timm tower inside; with Nomic's pooling it is lit_tune.integrations.timm's, which has key biases and any eps.
    found = [] if spec.pool == "nomic" else _eva02_not_in_timm(spec)
    # timm knows an open_clip file by its position embedding
    return found + ([] if spec.pos_embed else ["no position embedding"])


def _vit_not_in_timm(spec: Any) -> list[str]:
    eps = _eps_of(spec)
    return _true({
        "the nomic pooling head": spec.pool == "nomic",
        "a class token under MAP pooling (timm leaves it out there)": spec.pool == "map" and spec.class_token,
        f"a head of another hidden width, {spec.pool_mlp_dim}":
            spec.pool == "map" and spec.pool_mlp_dim != spec.mlp_dim,
        "a bias of the patches with a norm before the blocks": spec.pre_norm and spec.patch_bias,
        "no bias of the patches without a norm before the blocks": not spec.pre_norm and not spec.patch_bias,
        f"a LayerNorm eps of {max(eps)} (timm has 1e-6 or 1e-5)": eps not in ({1e-6}, {1e-5}),
    })  # fmt: skip


def _not_in_openai(spec: Any) -> list[str]:
    return _true({
        f"pooling {spec.pool}": spec.pool not in ("cls", "mean"),
        "no class token": not spec.class_token,
        "no position embedding": not spec.pos_embed,
        "no biases on q, k and v": not spec.qkv_bias,
        "a bias of the patches": spec.patch_bias,
        "no final norm": not spec.final_norm,
        "no projection": not spec.projects,
        "a bias of the projection": spec.projects and spec.embed_bias,
    })  # fmt: skip


def _vit_not_in_open_clip(spec: Any) -> list[str]:
    openai, timm = _not_in_openai(spec), _vit_not_in_timm(spec)
    return openai + timm if openai and timm else []


def _vit_not_in_hf(spec: Any) -> list[str]:
    """CLIPVisionModel takes the class token, SiglipVisionModel has MAP: two shapes, nothing between them."""
    siglip = spec.pool == "map"
    common = {
        f"pooling {spec.pool}": spec.pool not in ("cls", "map"),
        "no position embedding": not spec.pos_embed,
        "no biases on q, k and v": not spec.qkv_bias,
        "no final norm": not spec.final_norm,
        "a bias of the projection": spec.projects and spec.embed_bias,
        f"an image that is not square, {spec.image_size}": len(set(spec.image_size)) > 1,
        "positions of another grid": spec.table_grid != spec.grid,
    }
    clip_only = {
        "a bias of the patches under CLIP": spec.patch_bias,
        "no norm before the blocks under CLIP": not spec.pre_norm,
    }
    siglip_only = {
        "a class token under SigLIP": spec.class_token,
        "a norm before the blocks under SigLIP": spec.pre_norm,
        "no bias of the patches under SigLIP": not spec.patch_bias,
        "a projection after MAP": spec.projects,
        "a norm after MAP": spec.norm_after_pool,
        f"a head of another hidden width, {spec.pool_mlp_dim}": spec.pool_mlp_dim != spec.mlp_dim,
        "two LayerNorm eps": len(_eps_of(spec)) > 1,
    }
    return _true(common | (siglip_only if siglip else clip_only))


def _not_in_nomic(spec: Any) -> list[str]:
    return _true({
        f"pooling {spec.pool}": spec.pool != "nomic",
        f"a projection to {spec.embed_dim}": spec.projects,
        "no bias on the keys": spec.qkv_bias and not spec.key_bias,
        "a final norm": spec.final_norm,
        "a LayerNorm eps of the MLP other than 1e-5": spec.sub_ln and spec.sub_ln_eps != 1e-5,
        "a norm inside attention": spec.attn_inner_norm,
        f"a hidden width of {spec.mlp_dim}, no multiple of 256": spec.mlp_dim % 256 != 0,
        f"a head of another hidden width, {spec.pool_mlp_dim}": spec.pool_mlp_dim != spec.mlp_dim,
        f"a head of another LayerNorm eps, {spec.pool_norm_eps}": spec.pool_norm_eps != spec.norm_eps,
        f"pictures of {spec.image_size}, not square": spec.image_size[0] != spec.image_size[1],
        f"positions of another grid, {spec.table_grid}": spec.table_grid != spec.grid,
        "no class token": not spec.class_token,
        "no learned positions": not spec.pos_embed,
        "no rotary positions of base 10,000": not spec.rope or spec.rope_theta != 10_000.0,
    })  # fmt: skip


_REASONS = {
    ("eva02", "timm"): _eva02_not_in_timm,
    ("eva02", "open_clip"): _eva02_not_in_open_clip,
    ("eva02", "nomic"): _not_in_nomic,
    ("vit", "timm"): _vit_not_in_timm,
    ("vit", "open_clip"): _vit_not_in_open_clip,
    ("vit", "hf"): _vit_not_in_hf,
}
