"""Unit vectors of pictures and texts in one space: the only model API that the step and the evaluations use."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, UInt8
from ml_collections import ConfigDict

from lit_tune.models.attention.choice import Kernel, choose
from lit_tune.models.bert import Bert, BertSpec
from lit_tune.models.clip_text import ClipText, ClipTextSpec
from lit_tune.models.eva02 import Eva02, Eva02Spec
from lit_tune.models.functional import Tower
from lit_tune.models.jina_bert import JinaBert, JinaBertSpec
from lit_tune.models.modern_bert import ModernBert, ModernBertSpec
from lit_tune.models.nomic_bert import NomicBert, NomicBertSpec
from lit_tune.models.vision import VisionSpec
from lit_tune.models.vit import Vit, VitSpec
from lit_tune.tree import Tree

# The families of towers that we have: the word in descriptions and on command lines -> (spec, module).
VISION_FAMILIES: dict[str, tuple[type[VisionSpec], type]] = {
    "eva02": (Eva02Spec, Eva02),
    "vit": (VitSpec, Vit),
}
TEXT_FAMILIES: dict[str, tuple[type, type]] = {
    "bert": (BertSpec, Bert),
    "nomic_bert": (NomicBertSpec, NomicBert),
    "clip_text": (ClipTextSpec, ClipText),
    "modern_bert": (ModernBertSpec, ModernBert),
    "jina_bert": (JinaBertSpec, JinaBert),
}
FAMILIES = VISION_FAMILIES | TEXT_FAMILIES
# of config.vision: which family, and how a run treats the tower, not what it is
RUN_KEYS = ("family", "init_from", "init_spec", "init_resample", "freeze_blocks", "attention", "remat", "patch_dropout")


def family_of(spec: Any) -> str:
    """The family that a spec belongs to."""
    return next(name for name, (spec_class, _) in FAMILIES.items() if isinstance(spec, spec_class))


def tower_of(spec: Any) -> Tower:
    """The tower of a spec of any family, without parameters."""
    return Tower(FAMILIES[family_of(spec)][1], spec)


def vision_spec(config: ConfigDict) -> VisionSpec:
    """The architecture that `config.vision` describes: of its keys those that its family has.

    Raises:
        TypeError: a key that nobody takes, or one that is missing.
        ConfigError: a combination that no tower can have.
    """
    own = VISION_FAMILIES[config.vision.family][0]
    fields = {name: {field.name for field in dataclasses.fields(spec)} for name, (spec, _) in VISION_FAMILIES.items()}
    others = set().union(*fields.values()) - fields[config.vision.family]
    return own(**{name: config.vision[name] for name in config.vision if name not in {*RUN_KEYS, *others}})


def vision_tower(config: ConfigDict) -> Tower:
    """The vision tower of `config.vision`, without parameters."""
    return tower_of(vision_spec(config))


def attention_kernel(spec: VisionSpec, requested: str, mesh: Mesh, *, patches: int, dtype: DTypeLike) -> Kernel:
    """The kernel of an image tower's self-attention on the devices of a mesh.

    Args:
        spec: of the tower.
        requested: as `config.vision.attention`.
        mesh: that the batch is cut over.
        patches: of a picture, those that patch dropout keeps.
        dtype: compute dtype.

    Raises:
        ConfigError: a kernel asked for by name that cannot run.
    """
    return choose(requested, mesh.devices.flat[0].platform, mesh, width=spec.width, num_heads=spec.num_heads,
                  tokens=patches + int(spec.class_token), dtype=dtype)


def normalize_pixels(
    image: UInt8[Array, "b h w 3"], mean: Sequence[float], std: Sequence[float]
) -> Float[Array, "b h w 3"]:
    """(image / 255 - mean) / std in float32; mean and std per channel, of values in [0, 1]."""
    centred = image.astype(jnp.float32) / 255.0 - jnp.asarray(mean, jnp.float32)
    return centred / jnp.asarray(std, jnp.float32)


def l2_normalize(x: Float[Array, "b d"]) -> Float[Array, "b d"]:
    """x / |x| in float32; a row of zeros stays zero, with gradient zero times a large number, never nan."""
    x = x.astype(jnp.float32)
    # 1e-24 is the square of torch.nn.functional.normalize's 1e-12
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-24))


def embed_image(
    tower: Tower,
    params: Tree,
    image: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"],
    mean: Sequence[float],
    std: Sequence[float],
    dtype: DTypeLike = jnp.float32,
    **options: Any,
) -> Float[Array, "b d"]:
    """zimg: unit float32 vectors of uint8 pictures.

    Args:
        image: uint8 RGB; float pictures are taken as normalised already.
        mean, std: of the tower's description, RGB.
        dtype: compute dtype of the tower; pixels are normalised and vectors scaled in float32 whatever it is.
        options: `keep`, `remat` and `kernel` of `VisionTower.__call__`, for training.
    """
    pixels = functools.partial(normalize_pixels, mean=mean, std=std) if image.dtype == jnp.uint8 else None
    pooled = tower.apply(params, image, dtype=dtype, pixels=pixels, **options)
    return l2_normalize(pooled)


def pool_attention(
    tower: Tower, params: Tree, image: UInt8[Array, "b h w 3"], mean: Sequence[float], std: Sequence[float]
) -> Float[Array, "b heads n"]:
    """Attention of a vision tower's pooling over the tokens of uint8 pictures, class token first.

    Raises:
        ConfigError: the pooling has no attention.
    """
    return tower.apply(params, normalize_pixels(image, mean, std), method="pool_attention")


def embed_text(
    tower: Tower,
    params: Tree,
    input_ids: Int[Array, "b s"],
    attention_mask: Int[Array, "b s"],
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "b d"]:
    """ztxt: unit float32 vectors of token ids."""
    return l2_normalize(tower.apply(params, input_ids, attention_mask, dtype=dtype))
