"""What a peer's layout cannot hold, with the reason in words."""

from typing import Any

from lit_tune.errors import ConfigError, explain
from lit_tune.models.two_towers import family_of


def refuse(spec: Any, layout: str) -> None:
    """Nothing, if the layout can hold the tower.

    Raises:
        ConfigError: it cannot; the line says why.
    """
    if _imported_only(spec):
        do = "copy the model's own files"
        raise ConfigError(
            explain(f"{layout} layout", expected="a tower that is written too", found=_imported_only(spec), do=do)
        )
    reasons = {"timm": _not_in_timm, "nomic": _not_in_nomic}
    if family_of(spec) != "eva02" or layout not in reasons:
        return
    found = reasons[layout](spec)
    if found:
        do = "export another format" if layout == "timm" else "export --format=timm"
        raise ConfigError(
            explain(f"{layout} layout", expected="a tower that it can hold", found="; ".join(found), do=do)
        )


def _imported_only(spec: Any) -> str:
    """What a text tower is that we read and do not write; "" for those that we write."""
    family = family_of(spec)
    facts = {
        "ModernBERT, which is imported only": family == "modern_bert",
        "XLM-R (RoBERTa's positions), which is imported only": family == "bert" and spec.first_position > 0,
        "SigLIP text, which is imported only": family == "clip_text" and not spec.causal,
    }
    return next((what for what, holds in facts.items() if holds), "")


def _not_in_timm(spec: Any) -> list[str]:
    eps = {spec.norm_eps} | ({spec.sub_ln_eps} if spec.sub_ln else set())
    eps |= {spec.pool_norm_eps} if spec.pool == "map" else set()
    facts = {
        "the nomic pooling head": spec.pool == "nomic",
        "a trained bias on the keys": spec.key_bias,
        f"a LayerNorm eps of {max(eps)} (timm has 1e-6)": eps != {1e-6},
    }
    return [what for what, holds in facts.items() if holds]


def _not_in_nomic(spec: Any) -> list[str]:
    facts = {
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
    }
    return [what for what, holds in facts.items() if holds]
