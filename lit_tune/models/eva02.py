"""The vision tower: EVA02, in every shape and switch of timm's Ti/S/B/L family and of nomic-embed-vision.

image (b, h, w, 3) -> patches (b, n, d) -> blocks -> pooled (b, d). The image size is free at every call: positions are
resampled, rotary positions rescaled.

Source: arXiv 2303.11331; timm models/eva.py 1.0.31 (names and initial values); contrastors 613ddfd for Nomic's variant.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from lit_tune.errors import ConfigError, explain
from lit_tune.models.heads import POOLS, MapHead, NomicHead
from lit_tune.models.layers import Attention, LayerNorm, Linear, SwiGLU, affine, attention_logits


@dataclasses.dataclass(frozen=True)
class Eva02Spec:
    """The architecture; `configs/common.py` explains each field and holds the defaults.

    Raises:
        ConfigError: at construction, for a combination that no tower can have.
    """

    image_size: tuple[int, int]
    patch_size: int
    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    qkv_fused: bool
    qkv_bias: bool
    key_bias: bool
    sub_ln: bool
    attn_inner_norm: bool
    class_token: bool
    pos_embed: bool
    pos_embed_grid: tuple[int, int]
    rope: bool
    rope_theta: float
    rope_reference_grid: tuple[int, int]
    norm_eps: float
    sub_ln_eps: float
    pool: str
    pool_mlp_dim: int
    pool_norm_eps: float
    final_norm: bool
    embed_dim: int
    embed_bias: bool

    def __post_init__(self) -> None:
        # Tuples arrive as lists from JSON; a spec must be hashable.
        for name in ("image_size", "pos_embed_grid", "rope_reference_grid"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for what, good, expected, found in self._rules():
            if not good:
                raise ConfigError(explain(f"vision.{what}", expected=expected, found=found, do=f"change vision.{what}"))

    def _rules(self) -> list[tuple[str, bool, str, object]]:
        head_dim, odd = divmod(self.width, self.num_heads)
        whole = all(s > 0 and s % self.patch_size == 0 for s in self.image_size)
        needs_class = self.pool in ("cls", "nomic")
        return [
            ("pool", self.pool in POOLS, " | ".join(POOLS), self.pool),
            ("num_heads", odd == 0, f"a divisor of the width {self.width}", self.num_heads),
            ("width", not self.rope or head_dim % 4 == 0, "4 channels a head for each rotary band", self.width),
            ("image_size", whole, f"multiples of the patch size {self.patch_size}", self.image_size),
            ("class_token", self.class_token or not needs_class, f"True for pool={self.pool}", self.class_token),
            ("key_bias", self.qkv_bias or not self.key_bias, "False without qkv_bias", self.key_bias),
        ]

    @property
    def grid(self) -> tuple[int, int]:
        """Patches (rows, columns) of an image of the nominal size."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def table_grid(self) -> tuple[int, int]:
        """Patches (rows, columns) that the stored position embedding covers."""
        return self.pos_embed_grid if self.pos_embed_grid != (0, 0) else self.grid

    @property
    def projects(self) -> bool:
        """Whether a Linear follows the pooling: only where the output width differs."""
        return self.embed_dim not in (0, self.width)

    @property
    def dim(self) -> int:
        """Width of the output."""
        return self.embed_dim if self.projects else self.width


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


def resample_positions(
    table: Float[Array, "1 n d"], old: tuple[int, int], new: tuple[int, int], prefix: int
) -> Float[Array, "1 m d"]:
    """A learned position table for another grid: bicubic, antialiased, class-token entries untouched, float32.

    Source: timm layers/pos_embed.py `resample_abs_pos_embed`; torch's antialiased bicubic has a = -0.5, as jax's has.
    """
    if old == new:
        return table
    patches = table[0, prefix:].reshape(*old, -1)  # (rows, columns, d)
    patches = jax.image.resize(patches, (*new, patches.shape[-1]), "cubic", antialias=True, precision="highest")
    return jnp.concatenate([table[:, :prefix], patches.reshape(1, new[0] * new[1], -1)], axis=1)


class PatchEmbed(nnx.Module):
    """Non-overlapping patches through one Linear; kernel rows run over (row, column, channel) of a patch."""

    def __init__(self, patch_size: int, width: int, *, rngs: nnx.Rngs) -> None:
        # torch's default for a convolution, which timm leaves as it is: uniform within fan_in^-0.5, bias too
        fan_in = patch_size * patch_size * 3
        limit = fan_in**-0.5
        self.patch_size = patch_size
        self.kernel = nnx.Param(jax.random.uniform(rngs.params(), (fan_in, width), jnp.float32, -limit, limit))
        self.bias = nnx.Param(jax.random.uniform(rngs.params(), (width,), jnp.float32, -limit, limit))

    def __call__(self, image: Float[Array, "b h w 3"], dtype: DTypeLike) -> Float[Array, "b n d"]:
        b, h, w, _ = image.shape
        p = self.patch_size
        patches = image.reshape(b, h // p, p, w // p, p, 3).transpose(0, 1, 3, 2, 4, 5)  # (b, rows, columns, p, p, 3)
        return affine(patches.reshape(b, (h // p) * (w // p), p * p * 3), self.kernel[...], self.bias[...], dtype)


class Block(nnx.Module):
    """x + attn(norm1(x)), then x + mlp(norm2(x))."""

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

    def __call__(
        self, x: Float[Array, "b n d"], rope: tuple[Array, Array] | None, dtype: DTypeLike
    ) -> Float[Array, "b n d"]:
        x = x + self.attn(self.norm1(x), rope=rope, dtype=dtype)
        return x + self.mlp(self.norm2(x), dtype)


class Eva02(nnx.Module):
    """The tower. Attribute paths are parameter names: blocks/0/attn/q/kernel."""

    def __init__(self, spec: Eva02Spec, *, rngs: nnx.Rngs) -> None:
        width = spec.width
        self.spec = spec
        self.patch_embed = PatchEmbed(spec.patch_size, width, rngs=rngs)
        # The leading axes of 1 are the peers': weight decay goes by their ranks and names.
        self.cls_token = nnx.Param(self._small((1, 1, width), rngs)) if spec.class_token else None
        positions = spec.table_grid[0] * spec.table_grid[1] + int(spec.class_token)
        self.pos_embed = nnx.Param(self._small((1, positions, width), rngs)) if spec.pos_embed else None
        self.blocks = nnx.List([Block(spec, i, rngs=rngs) for i in range(spec.depth)])
        # timm's names: `norm` acts on tokens; mean pooling has `fc_norm` behind it instead
        self.norm = LayerNorm(width, spec.norm_eps) if spec.final_norm and spec.pool != "mean" else None
        self.fc_norm = LayerNorm(width, spec.norm_eps) if spec.final_norm and spec.pool == "mean" else None
        heads = {"map": MapHead, "nomic": NomicHead}
        self.attn_pool = (
            heads[spec.pool](width, spec.num_heads, spec.pool_mlp_dim, spec.pool_norm_eps, rngs=rngs)
            if spec.pool in heads else None
        )  # fmt: skip
        # width^-0.5 is CLIP's initial value of a projection (open_clip model.py); timm's 0.02 * 0.001 suits classifiers
        self.head = (
            Linear(width, spec.embed_dim, bias=spec.embed_bias, std=width**-0.5, rngs=rngs) if spec.projects else None
        )

    @staticmethod
    def _small(shape: tuple[int, ...], rngs: nnx.Rngs) -> Float[Array, "..."]:
        # timm's trunc_normal_ cuts at +-2, a hundred standard deviations: a plain normal
        return 0.02 * jax.random.normal(rngs.params(), shape, jnp.float32)

    def embeddings(
        self, image: Float[Array, "b h w 3"], keep: Int[Array, "b m"] | None, dtype: DTypeLike
    ) -> tuple[Float[Array, "b n d"], tuple[Array, Array] | None]:
        """The first block's input and the rotary tables of its tokens, class token first (angle 0).

        Raises:
            ConfigError: the image is no multiple of the patch size.
        """
        spec, p = self.spec, self.spec.patch_size
        b, h, w, _ = image.shape
        if h % p or w % p:
            raise ConfigError(explain("image", expected=f"multiples of {p} pixels", found=(h, w), do="resize it"))
        grid = (h // p, w // p)
        prefix = int(spec.class_token)
        x = self.patch_embed(image, dtype)  # (b, patches, d)
        if self.cls_token is not None:
            token = jnp.broadcast_to(self.cls_token[...].astype(dtype), (b, 1, spec.width))
            x = jnp.concatenate([token, x], axis=1)
        if self.pos_embed is not None:
            x = x + resample_positions(self.pos_embed[...], spec.table_grid, grid, prefix).astype(dtype)
        rows = None
        if keep is not None:  # patch dropout: the class token stays
            rows = jnp.concatenate([jnp.zeros((b, prefix), keep.dtype), keep + prefix], axis=1)  # (b, n)
            x = jnp.take_along_axis(x, rows[:, :, None], axis=1)
        return x, self._rope(grid, rows) if spec.rope else None

    def _rope(self, grid: tuple[int, int], rows: Int[Array, "b n"] | None) -> tuple[Array, Array]:
        """cos and sin (1 | b, n, head_dim / 2); a class token has angle 0."""
        spec, prefix = self.spec, int(self.spec.class_token)
        tables = rope_tables(grid, spec.width // spec.num_heads, spec.rope_theta, spec.rope_reference_grid)
        cos, sin = (
            jnp.asarray(np.pad(t, ((prefix, 0), (0, 0)), constant_values=still))
            for t, still in zip(tables, (1.0, 0.0), strict=True)
        )  # (n, head_dim / 2)
        return (cos[None], sin[None]) if rows is None else (cos[rows], sin[rows])

    def trunk(
        self,
        image: Float[Array, "b h w 3"],
        *,
        dtype: DTypeLike = jnp.float32,
        keep: Int[Array, "b m"] | None = None,
        remat: str = "none",
    ) -> Float[Array, "b n d"]:
        """The tokens after the last block and the final norm, in `dtype`."""
        x, rope = self.embeddings(image, keep, dtype)
        for block in self.blocks:
            apply = lambda y, block=block: block(y, rope, dtype)  # noqa: E731
            # "block" keeps only the blocks' inputs for the backward pass and computes each block a second time
            x = jax.checkpoint(apply)(x) if remat == "block" else apply(x)
        return x if self.norm is None else self.norm(x)

    def __call__(
        self,
        image: Float[Array, "b h w 3"],
        *,
        dtype: DTypeLike = jnp.float32,
        keep: Int[Array, "b m"] | None = None,
        remat: str = "none",
    ) -> Float[Array, "b out"] | Float[Array, "b n d"]:
        """The pooled vector, float32, not L2-normalised (with pool "none": the tokens).

        Args:
            image: float32, normalised with the tower's mean and std.
            dtype: compute dtype.
            keep: numbers of the patches that each picture keeps (patch dropout), or None for all.
            remat: none | block.
        """
        return self.pool(self.trunk(image, dtype=dtype, keep=keep, remat=remat), dtype)

    def pool(self, x: Float[Array, "b n d"], dtype: DTypeLike) -> Float[Array, "b out"] | Float[Array, "b n d"]:
        """The pooled (and projected) vector of the trunk's tokens, float32."""
        if self.spec.pool == "nomic":
            # every token would get the same summand, only the class token is asked for
            x = self.attn_pool.pooled(x, dtype)
        elif self.spec.pool == "map":
            x = self.attn_pool(x, dtype)
        elif self.spec.pool == "mean":
            x = jnp.mean(x[:, int(self.spec.class_token) :], axis=1)
        elif self.spec.pool == "cls":
            x = x[:, 0]
        x = x if self.fc_norm is None else self.fc_norm(x)
        x = x if self.head is None else self.head(x, dtype)
        return x.astype(jnp.float32)

    def tokens(self, image: Float[Array, "b h w 3"], *, dtype: DTypeLike = jnp.float32) -> Float[Array, "b n d"]:
        """What the peer calls forward_features (timm) or last_hidden_state (nomic), float32."""
        x = self.trunk(image, dtype=dtype)
        return (self.attn_pool(x, dtype) if self.spec.pool == "nomic" else x).astype(jnp.float32)

    def stages(self, image: Float[Array, "b h w 3"], *, dtype: DTypeLike = jnp.float32) -> dict[str, Array]:
        """Every intermediate value by name, for comparison with other implementations.

        block_input, block_NN (the residual stream), block_NN_attn and block_NN_mlp (the two summands), hidden_states
        (after the last block), forward_features, pooled, rope_cos and rope_sin (n, head_dim / 2), selector_*.
        """
        x, rope = self.embeddings(image, None, dtype)
        found = {"block_input": x}
        if rope is not None:
            found |= {"rope_cos": rope[0][0], "rope_sin": rope[1][0]}
        for i, block in enumerate(self.blocks):
            attended = block.attn(block.norm1(x), rope=rope, dtype=dtype)
            mixed = block.mlp(block.norm2(x + attended), dtype)
            x = x + attended + mixed
            found |= {f"block_{i:02}_attn": attended, f"block_{i:02}_mlp": mixed, f"block_{i:02}": x}
        found["hidden_states"] = x
        x = x if self.norm is None else self.norm(x)
        if self.spec.pool == "nomic":
            found |= self.attn_pool.stages(x, dtype)
        return found | {"forward_features": x, "pooled": self.pool(x, dtype)}

    def block_stats(self, image: Float[Array, "b h w 3"], *, dtype: DTypeLike = jnp.float32) -> dict[str, Array]:
        """{"rms": (l,), "max_logit": (l,)} float32: size of the residual stream after each block, largest |logit|.

        One forward pass without gradient: give it a few pictures of the batch, not all.
        """
        x, rope = self.embeddings(image, None, dtype)
        rms, logit = [], []
        for block in self.blocks:
            q, k, _ = block.attn.qkv(block.norm1(x), rope, dtype)
            logit.append(jnp.max(jnp.abs(attention_logits(q, k))))
            x = block(x, rope, dtype)
            rms.append(jnp.sqrt(jnp.mean(jnp.square(x.astype(jnp.float32)))))
        return {"rms": jnp.stack(rms), "max_logit": jnp.stack(logit)}
