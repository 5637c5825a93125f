"""What a peer's layout cannot hold, with the reason in words."""

from typing import Any

from lit_tune.errors import ConfigError, explain
from lit_tune.models.two_towers import family_of


def refuse(spec: Any, layout: str) -> None:
    """Nothing, if the layout can hold the tower.

    Raises:
        ConfigError: it cannot; the line says why.
    """
    reasons = {"timm": _not_in_timm, "open_clip": _not_in_open_clip, "nomic": _not_in_nomic}
    if family_of(spec) != "eva02" or layout not in reasons:
        return
    found = reasons[layout](spec)
    if found:
        do = "export --format=timm" if layout == "nomic" else "export another format"
        raise ConfigError(
            explain(f"{layout} layout", expected="a tower that it can hold", found="; ".join(found), do=do)
        )


def _not_in_timm(spec: Any) -> list[str]:
    eps = {spec.norm_eps} | ({spec.sub_ln_eps} if spec.sub_ln else set())
    eps |= {spec.pool_norm_eps} if spec.pool == "map" else set()
    facts = {
        "the nomic pooling head": spec.pool == "nomic",
        "a trained bias on the keys": spec.key_bias,
        f"a LayerNorm eps of {max(eps)} (timm has 1e-6)": eps != {1e-6},
    }
    return [what for what, holds in facts.items() if holds]


def _not_in_open_clip(spec: Any) -> list[str]:
    # timm knows the image tower of an open_clip file by its position embedding
    return _not_in_timm(spec) + ([] if spec.pos_embed else ["no position embedding"])


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
    }
    return [what for what, holds in facts.items() if holds]
