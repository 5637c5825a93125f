"""The plain vision transformer of timm, OpenAI CLIP and SigLIP; the rest is in `vision.py`.

Source: arXiv 2010.11929; timm models/vision_transformer.py 1.0.31; open_clip transformer.py 3.3.0.
"""

import dataclasses
from typing import ClassVar

from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from lit_tune.models.layers import ACTIVATIONS, PreNormBlock
from lit_tune.models.linear import LayerNorm
from lit_tune.models.vision import Image, Pixels, VisionSpec, VisionTower


@dataclasses.dataclass(frozen=True, kw_only=True)
class VitSpec(VisionSpec):
    """The architecture; `configs/common.py` explains each field.

    Raises:
        ConfigError: at construction, for a combination that no tower can have.
    """

    act: str
    pre_norm: bool
    patch_bias: bool
    norm_after_pool: bool

    def _rules(self) -> list[tuple[str, bool, str, object]]:
        return [*super()._rules(), ("act", self.act in ACTIVATIONS, " | ".join(ACTIVATIONS), self.act)]


class Block(PreNormBlock):
    """The common block, made from a spec."""

    def __init__(self, spec: VitSpec, index: int, *, rngs: nnx.Rngs) -> None:
        del index  # no block differs from the others
        super().__init__(
            spec.width, spec.num_heads, spec.mlp_dim, act=spec.act, eps=spec.norm_eps, qkv_bias=spec.qkv_bias, rngs=rngs
        )


class Vit(VisionTower):
    """The tower: plain blocks, and CLIP's norm before the first of them (timm calls it `norm_pre`)."""

    block: ClassVar[type[nnx.Module]] = Block

    def __init__(self, spec: VitSpec, *, rngs: nnx.Rngs) -> None:
        super().__init__(spec, rngs=rngs)
        self.norm_pre = LayerNorm(spec.width, spec.norm_eps) if spec.pre_norm else None

    def embeddings(
        self, image: Image, keep: Int[Array, "b m"] | None, dtype: DTypeLike, pixels: Pixels | None = None
    ) -> tuple[Float[Array, "b n d"], tuple[Array, Array] | None]:
        """The first block's input, class token first; None stands where other families have rotary tables.

        Raises:
            ConfigError: the image is no multiple of the patch size.
        """
        x, rope = super().embeddings(image, keep, dtype, pixels)
        return x if self.norm_pre is None else self.norm_pre(x), rope


# width, depth, heads, ratio of the MLP, as timm registers them (models/vision_transformer.py 1.0.31)
_SIZES = {
    "tiny": (192, 12, 3, 4.0), "small": (384, 12, 6, 4.0), "medium": (512, 12, 8, 4.0), "base": (768, 12, 12, 4.0),
    "large": (1024, 24, 16, 4.0), "so400m": (1152, 27, 16, 3.7362), "huge": (1280, 32, 16, 4.0),
    "giant": (1408, 40, 16, 48 / 11), "giantopt": (1536, 40, 16, 4.0), "gigantic": (1664, 48, 16, 64 / 13),
}  # fmt: skip
_COMMON = dict(qkv_bias=True, pos_embed=True, pos_embed_grid=(0, 0), final_norm=True, embed_dim=0, embed_bias=False)
_PLAIN = dict(class_token=True, pool="cls", norm_eps=1e-6, pool_norm_eps=1e-6, act="gelu", pre_norm=False,
              patch_bias=True, norm_after_pool=False)  # fmt: skip
_CLIP = _PLAIN | dict(norm_eps=1e-5, pool_norm_eps=1e-5, pre_norm=True, patch_bias=False)
_SIGLIP = _PLAIN | dict(class_token=False, pool="map")
_TANH, _QUICK = dict(act="gelu_tanh"), dict(act="quick_gelu")

# Names without the sizes of the image -> those sizes and the kind. Left out: vit_so400m_patch14_siglip_384, whose
# pictures are no multiple of its patch (timm cuts 6 pixels off; its _378 is the same model without them).
_NAMES: dict[str, tuple[tuple[int, ...], dict[str, object]]] = {
    "vit_tiny_patch16": ((224, 384), _PLAIN),
    "vit_small_patch32": ((224, 384), _PLAIN),
    "vit_small_patch16": ((224, 384), _PLAIN),
    "vit_base_patch32": ((224, 384), _PLAIN),
    "vit_base_patch16": ((224, 384), _PLAIN),
    "vit_base_patch8": ((224,), _PLAIN),
    "vit_large_patch32": ((224, 384), _PLAIN),
    "vit_large_patch16": ((224, 384), _PLAIN),
    "vit_large_patch14": ((224,), _PLAIN),
    "vit_medium_patch32_clip": ((224,), _CLIP),
    "vit_medium_patch16_clip": ((224,), _CLIP),
    "vit_base_patch32_clip": ((224, 256, 384, 448), _CLIP),
    "vit_base_patch16_clip": ((224, 384), _CLIP),
    "vit_large_patch14_clip": ((224, 336), _CLIP),
    "vit_huge_patch14_clip": ((224, 336, 378), _CLIP),
    "vit_giant_patch14_clip": ((224,), _CLIP),
    "vit_gigantic_patch14_clip": ((224, 378), _CLIP),
    "vit_base_patch32_clip_quickgelu": ((224,), _CLIP | _QUICK),
    "vit_base_patch16_clip_quickgelu": ((224,), _CLIP | _QUICK),
    "vit_large_patch14_clip_quickgelu": ((224, 336), _CLIP | _QUICK),
    "vit_huge_patch14_clip_quickgelu": ((224, 378), _CLIP | _QUICK),
    "vit_gigantic_patch14_clip_quickgelu": ((224,), _CLIP | _QUICK),
    "vit_base_patch32_siglip": ((256,), _SIGLIP | _TANH),
    "vit_base_patch16_siglip": ((224, 256, 384, 512), _SIGLIP),
    "vit_large_patch16_siglip": ((256, 384), _SIGLIP),
    "vit_so400m_patch14_siglip": ((224, 378), _SIGLIP),
    "vit_so400m_patch16_siglip": ((256, 384, 512), _SIGLIP | _TANH),
    "vit_giantopt_patch16_siglip": ((256, 384), _SIGLIP | _TANH),
}


def _variant(name: str, size: int, kind: dict[str, object]) -> VitSpec:
    _, scale, patch, *_ = name.split("_")
    width, depth, num_heads, ratio = _SIZES[scale]
    return VitSpec(
        image_size=(size, size), patch_size=int(patch.removeprefix("patch")), width=width, depth=depth,
        num_heads=num_heads, mlp_dim=int(width * ratio), pool_mlp_dim=int(width * ratio), **_COMMON, **kind,
    )  # fmt: skip


# Names as timm registers them, those whose switches this tower has.
VARIANTS: dict[str, VitSpec] = {
    f"{name}_{size}": _variant(name, size, kind) for name, (sizes, kind) in _NAMES.items() for size in sizes
} | {"vit_large_patch16_siglip_512": _variant("vit_large_patch16_siglip", 512, _SIGLIP | _TANH)}
