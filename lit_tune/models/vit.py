"""The plain vision transformer of timm, OpenAI CLIP and SigLIP; the rest is in `vision.py`.

Source: arXiv 2010.11929; timm models/vision_transformer.py 1.0.31; open_clip transformer.py 3.3.0.
"""

import dataclasses
from typing import ClassVar

from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from lit_tune.models.layers import ACTIVATIONS, LayerNorm, PreNormBlock
from lit_tune.models.vision import VisionSpec, VisionTower


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
        self, image: Float[Array, "b h w 3"], keep: Int[Array, "b m"] | None, dtype: DTypeLike
    ) -> tuple[Float[Array, "b n d"], tuple[Array, Array] | None]:
        """The first block's input, class token first; None stands where other families have rotary tables.

        Raises:
            ConfigError: the image is no multiple of the patch size.
        """
        x, rope = super().embeddings(image, keep, dtype)
        return x if self.norm_pre is None else self.norm_pre(x), rope
