"""EVA02, in every shape and switch of timm's Ti/S/B/L family and of nomic-embed-vision; the rest is in `vision.py`.

Rotary positions are rescaled to the image's grid.

Source: arXiv 2303.11331; timm models/eva.py 1.0.31 (names and initial values); contrastors 613ddfd for Nomic's variant.
"""

import dataclasses
import math
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Int

from lit_tune.models.layers import Attention, PreNormBlock, SwiGLU
from lit_tune.models.linear import LayerNorm
from lit_tune.models.vision import VisionSpec, VisionTower


@dataclasses.dataclass(frozen=True, kw_only=True)
class Eva02Spec(VisionSpec):
    """The architecture; `configs/common.py` explains each field and holds the defaults.

    Raises:
        ConfigError: at construction, for a combination that no tower can have.
    """

    act: ClassVar[str] = "gelu"  # of a MAP head; the blocks have SwiGLU
    patch_bias: ClassVar[bool] = True

    qkv_fused: bool
    key_bias: bool
    sub_ln: bool
    attn_inner_norm: bool
    rope: bool
    rope_theta: float
    rope_reference_grid: tuple[int, int]
    sub_ln_eps: float

    def _rules(self) -> list[tuple[str, bool, str, object]]:
        bands = not self.rope or (self.width // self.num_heads) % 4 == 0
        return [
            *super()._rules(),
            ("width", bands, "4 channels a head for each rotary band", self.width),
            ("key_bias", self.qkv_bias or not self.key_bias, "False without qkv_bias", self.key_bias),
        ]

    @property
    def norm_after_pool(self) -> bool:
        """Whether the final norm acts on the pooled vector, as timm has it after a mean."""
        return self.pool == "mean"


def _variant(size: int, patch: int, width: int, depth: int, num_heads: int, pool: str, **changes: bool) -> Eva02Spec:
    values = dict(
        image_size=(size, size), patch_size=patch, width=width, depth=depth, num_heads=num_heads,
        mlp_dim=int(width * 4 * 2 / 3), qkv_fused=False, qkv_bias=True, key_bias=False, sub_ln=True,
        attn_inner_norm=pool == "cls", class_token=True, pos_embed=True, pos_embed_grid=(0, 0), rope=True,
        rope_theta=10_000.0, rope_reference_grid=(16, 16), norm_eps=1e-6, sub_ln_eps=1e-6, pool=pool,
        pool_mlp_dim=int(width * 4 * 2 / 3), pool_norm_eps=1e-6, final_norm=True, embed_dim=0, embed_bias=False,
    )  # fmt: skip
    return Eva02Spec(**(values | changes))


_PLAIN = {"qkv_fused": True, "sub_ln": False}  # tiny and small

# Names as timm registers them (models/eva.py 1.0.31). Its eva02_enormous is another architecture: post-norm, GELU.
VARIANTS: dict[str, Eva02Spec] = {
    # masked-image-modelling towers: mean of the patch tokens, then a norm
    "eva02_tiny_patch14_224": _variant(224, 14, 192, 12, 3, "mean", **_PLAIN),
    "eva02_tiny_patch14_336": _variant(336, 14, 192, 12, 3, "mean", **_PLAIN),
    "eva02_small_patch14_224": _variant(224, 14, 384, 12, 6, "mean", **_PLAIN),
    "eva02_small_patch14_336": _variant(336, 14, 384, 12, 6, "mean", **_PLAIN),
    "eva02_base_patch14_224": _variant(224, 14, 768, 12, 12, "mean"),
    "eva02_base_patch14_448": _variant(448, 14, 768, 12, 12, "mean"),
    "eva02_large_patch14_224": _variant(224, 14, 1024, 24, 16, "mean"),
    "eva02_large_patch14_448": _variant(448, 14, 1024, 24, 16, "mean"),
    # CLIP towers: class token, and a norm inside attention
    "eva02_base_patch16_clip_224": _variant(224, 16, 768, 12, 12, "cls"),
    "eva02_large_patch14_clip_224": _variant(224, 14, 1024, 24, 16, "cls"),
    "eva02_large_patch14_clip_336": _variant(336, 14, 1024, 24, 16, "cls"),
}


def rope_tables(
    grid: tuple[int, int], head_dim: int, theta: float, reference_grid: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin, float32 (patches, head_dim / 2), of the 2-D rotary angles of a grid in row-major order.

    The first half of the pairs turns with the row, the second with the column. A grid other than the reference one is
    stretched onto it: position i of g becomes i * reference / g.

    Source: timm layers/pos_embed_sincos.py `build_rotary_pos_embed` ("ij" indexing, `ref_feat_shape`).
    """
    bands = head_dim // 4
    frequencies = theta ** (-np.arange(bands) / bands)
    reference = grid if reference_grid == (0, 0) else reference_grid
    rows, columns = (np.arange(g) * r / g for g, r in zip(grid, reference, strict=True))
    angles = np.zeros((*grid, 2, bands))
    angles[:, :, 0] = rows[:, None, None] * frequencies
    angles[:, :, 1] = columns[None, :, None] * frequencies
    angles = angles.reshape(grid[0] * grid[1], 2 * bands)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


class Block(PreNormBlock):
    """The common block with EVA02's attention and MLP in it."""

    def __init__(self, spec: Eva02Spec, index: int, *, rngs: nnx.Rngs) -> None:
        eps = spec.norm_eps
        # timm's fix_init_weight: both output projections shrink with depth
        out_std = 0.02 / math.sqrt(2.0 * (index + 1))
        self.norm1 = LayerNorm(spec.width, eps)
        self.attn = Attention(
            spec.width, spec.num_heads, biases=(spec.qkv_bias, spec.key_bias, spec.qkv_bias, True),
            norm_eps=eps if spec.attn_inner_norm else None, interleaved=True, proj_std=out_std, rngs=rngs,
        )  # fmt: skip
        self.norm2 = LayerNorm(spec.width, eps)
        self.mlp = SwiGLU(
            spec.width, spec.mlp_dim, norm_eps=spec.sub_ln_eps if spec.sub_ln else None, fc2_std=out_std, rngs=rngs
        )


class Eva02(VisionTower):
    """The tower: blocks of EVA02, rotary positions."""

    block = Block

    def rope(self, grid: tuple[int, int], rows: Int[Array, "b n"] | None) -> tuple[Array, Array] | None:
        """cos and sin (1 | b, n, head_dim / 2); a class token has angle 0."""
        spec, prefix = self.spec, int(self.spec.class_token)
        if not spec.rope:
            return None
        tables = rope_tables(grid, spec.width // spec.num_heads, spec.rope_theta, spec.rope_reference_grid)
        cos, sin = (
            jnp.asarray(np.pad(t, ((prefix, 0), (0, 0)), constant_values=still))
            for t, still in zip(tables, (1.0, 0.0), strict=True)
        )  # (n, head_dim / 2)
        return (cos[None], sin[None]) if rows is None else (cos[rows], sin[rows])
