"""What all vision towers share: patches, positions, the loop over blocks, pooling. A family adds its blocks.

image (b, h, w, 3) -> patches (b, n, d) -> blocks -> pooled (b, d). The image size is free at every call: positions are
resampled. `eva02.py` and `vit.py` are the families.

Source: timm models/eva.py and models/vision_transformer.py 1.0.31 (names and initial values).
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, UInt8

from lit_tune.errors import ConfigError, explain
from lit_tune.models.attention.choice import EINSUM, Kernel
from lit_tune.models.heads import POOLS, MapHead, NomicHead
from lit_tune.models.layers import attention_logits
from lit_tune.models.linear import LayerNorm, Linear, affine


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionSpec:
    """The part of an architecture that every family has; `configs/common.py` explains each field.

    A family also says, as a field or for good: `act`, `patch_bias` and `norm_after_pool`.

    Raises:
        ConfigError: at construction, for a combination that no tower can have.
    """

    image_size: tuple[int, int]
    patch_size: int
    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    qkv_bias: bool
    class_token: bool
    pos_embed: bool
    pos_embed_grid: tuple[int, int]
    norm_eps: float
    pool: str
    pool_mlp_dim: int
    pool_norm_eps: float
    final_norm: bool
    embed_dim: int
    embed_bias: bool
    embed_square: bool = False  # descriptions written before there was such a tower do not have it

    def __post_init__(self) -> None:
        for what, good, expected, found in self._rules():
            if not good:
                raise ConfigError(explain(f"vision.{what}", expected=expected, found=found, do=f"change vision.{what}"))

    def _rules(self) -> list[tuple[str, bool, str, object]]:
        whole = all(s > 0 and s % self.patch_size == 0 for s in self.image_size)
        needs_class = self.pool in ("cls", "nomic")
        return [
            ("pool", self.pool in POOLS, " | ".join(POOLS), self.pool),
            ("num_heads", self.width % self.num_heads == 0, f"a divisor of the width {self.width}", self.num_heads),
            ("image_size", whole, f"multiples of the patch size {self.patch_size}", self.image_size),
            ("class_token", self.class_token or not needs_class, f"True for pool={self.pool}", self.class_token),
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
        """Whether a Linear follows the pooling: where the output width differs, or `embed_square` asks for it."""
        return self.embed_dim != 0 and (self.embed_square or self.embed_dim != self.width)

    @property
    def dim(self) -> int:
        """Width of the output."""
        return self.embed_dim if self.projects else self.width


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


Image = Float[Array, "b h w 3"] | UInt8[Array, "b h w 3"]
Pixels = Callable[[Image], Float[Array, "b h w 3"]]

# Results inside a block that are worth their memory: each costs a matmul or the attention to compute again.
WORTH_KEEPING = ("q", "k", "v", "attention", "gate", "value", "hidden")


def remember(remat: str, block: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """`block`, keeping for its backward pass what `config.vision.remat` says.

    Args:
        remat: none: all that the compiler wants. save: the input and `WORTH_KEEPING`. dots: the input and the results
            of all products with weights. full: the input only, so that each block is computed twice.
        block: (b, n, d) -> (b, n, d).
    """
    policies = jax.checkpoint_policies
    if remat == "none":
        return block
    policy = {"save": policies.save_only_these_names(*WORTH_KEEPING),
              "dots": policies.dots_with_no_batch_dims_saveable, "full": policies.nothing_saveable}[remat]
    return jax.checkpoint(block, policy=policy)


class PatchEmbed(nnx.Module):
    """Non-overlapping patches through one Linear; kernel rows run over (row, column, channel) of a patch."""

    def __init__(self, patch_size: int, width: int, *, bias: bool, rngs: nnx.Rngs) -> None:
        # torch's default for a convolution, which timm leaves as it is: uniform within fan_in^-0.5, bias too
        fan_in = patch_size * patch_size * 3
        limit = fan_in**-0.5
        self.patch_size = patch_size
        self.kernel = nnx.Param(jax.random.uniform(rngs.params(), (fan_in, width), jnp.float32, -limit, limit))
        self.bias = nnx.Param(jax.random.uniform(rngs.params(), (width,), jnp.float32, -limit, limit)) if bias else None

    def __call__(self, image: Float[Array, "b h w 3"], dtype: DTypeLike) -> Float[Array, "b n d"]:
        b, h, w, _ = image.shape
        p = self.patch_size
        patches = image.reshape(b, h // p, p, w // p, p, 3).transpose(0, 1, 3, 2, 4, 5)  # (b, rows, columns, p, p, 3)
        bias = None if self.bias is None else self.bias[...]
        return affine(patches.reshape(b, (h // p) * (w // p), p * p * 3), self.kernel[...], bias, dtype)


class VisionTower(nnx.Module):
    """A tower. Attribute paths are parameter names: blocks/0/attn/q/kernel.

    Attributes:
        block: class of the family's blocks: made as block(spec, index, rngs=), called as block(x, rope=, kernel=,
            dtype=).
    """

    block: ClassVar[type[nnx.Module]]

    def __init__(self, spec: VisionSpec, *, rngs: nnx.Rngs) -> None:
        width = spec.width
        self.spec = spec
        self.patch_embed = PatchEmbed(spec.patch_size, width, bias=spec.patch_bias, rngs=rngs)
        # The leading axes of 1 are the peers': weight decay goes by their ranks and names.
        self.cls_token = nnx.Param(self._small((1, 1, width), rngs)) if spec.class_token else None
        positions = spec.table_grid[0] * spec.table_grid[1] + int(spec.class_token)
        self.pos_embed = nnx.Param(self._small((1, positions, width), rngs)) if spec.pos_embed else None
        self.blocks = nnx.List([self.block(spec, i, rngs=rngs) for i in range(spec.depth)])
        # timm's names: `norm` acts on tokens, `fc_norm` on the pooled vector
        self.norm = LayerNorm(width, spec.norm_eps) if spec.final_norm and not spec.norm_after_pool else None
        self.fc_norm = LayerNorm(width, spec.norm_eps) if spec.final_norm and spec.norm_after_pool else None
        self.attn_pool = self._head(rngs)
        # width^-0.5 is CLIP's initial value of a projection (open_clip model.py); timm's 0.02 * 0.001 suits classifiers
        self.head = (
            Linear(width, spec.embed_dim, bias=spec.embed_bias, std=width**-0.5, rngs=rngs) if spec.projects else None
        )

    def _head(self, rngs: nnx.Rngs) -> nnx.Module | None:
        """The attention head, where the pooling has one."""
        spec = self.spec
        sizes = (spec.width, spec.num_heads, spec.pool_mlp_dim, spec.pool_norm_eps)
        if spec.pool == "map":
            return MapHead(*sizes, act=spec.act, rngs=rngs)
        return NomicHead(*sizes, rngs=rngs) if spec.pool == "nomic" else None

    @staticmethod
    def _small(shape: tuple[int, ...], rngs: nnx.Rngs) -> Float[Array, "..."]:
        # timm's trunc_normal_ cuts at +-2, a hundred standard deviations: a plain normal
        return 0.02 * jax.random.normal(rngs.params(), shape, jnp.float32)

    def embeddings(
        self, image: Image, keep: Int[Array, "b m"] | None, dtype: DTypeLike, pixels: Pixels | None = None
    ) -> tuple[Float[Array, "b n d"], tuple[Array, Array] | None]:
        """The first block's input, class token first, and the rotary tables of its tokens or None.

        Raises:
            ConfigError: the image is no multiple of the patch size.
        """
        spec, p = self.spec, self.spec.patch_size
        b, h, w, _ = image.shape
        if h % p or w % p:
            raise ConfigError(explain("image", expected=f"multiples of {p} pixels", found=(h, w), do="resize it"))
        grid = (h // p, w // p)
        prefix = int(spec.class_token)
        if pixels is None:
            x = self.patch_embed(image, dtype)  # (b, patches, d)
        else:  # bytes are kept for the backward pass, not the numbers made of them
            x = jax.checkpoint(lambda image: self.patch_embed(pixels(image), dtype))(image)
        if self.cls_token is not None:
            token = jnp.broadcast_to(self.cls_token[...].astype(dtype), (b, 1, spec.width))
            x = jnp.concatenate([token, x], axis=1)
        if self.pos_embed is not None:
            x = x + resample_positions(self.pos_embed[...], spec.table_grid, grid, prefix).astype(dtype)
        rows = None
        if keep is not None:  # patch dropout: the class token stays
            rows = jnp.concatenate([jnp.zeros((b, prefix), keep.dtype), keep + prefix], axis=1)  # (b, n)
            x = jnp.take_along_axis(x, rows[:, :, None], axis=1)
        return x, self.rope(grid, rows)

    def rope(self, grid: tuple[int, int], rows: Int[Array, "b n"] | None) -> tuple[Array, Array] | None:
        """cos and sin (1 | b, n, head_dim / 2) of the rotary angles of the tokens; None for a family without.

        Args:
            grid: patches (rows, columns) of the image.
            rows: numbers of the tokens that each picture keeps, class token included; None for all.
        """
        del grid, rows
        return None

    def trunk(
        self,
        image: Image,
        *,
        dtype: DTypeLike = jnp.float32,
        keep: Int[Array, "b m"] | None = None,
        remat: str = "none",
        kernel: Kernel = EINSUM,
        pixels: Pixels | None = None,
    ) -> Float[Array, "b n d"]:
        """The tokens after the last block and the final norm, in `dtype`."""
        x, rope = self.embeddings(image, keep, dtype, pixels)
        for block in self.blocks:
            x = remember(remat, lambda y, block=block: block(y, rope=rope, kernel=kernel, dtype=dtype))(x)
        return x if self.norm is None else self.norm(x)

    def __call__(
        self,
        image: Image,
        *,
        dtype: DTypeLike = jnp.float32,
        keep: Int[Array, "b m"] | None = None,
        remat: str = "none",
        kernel: Kernel = EINSUM,
        pixels: Pixels | None = None,
    ) -> Float[Array, "b out"] | Float[Array, "b n d"]:
        """The pooled vector, float32, not L2-normalised (with pool "none": the tokens).

        Args:
            image: float32, normalised with the tower's mean and std; or what `pixels` makes that of.
            dtype: compute dtype.
            keep: numbers of the patches that each picture keeps (patch dropout), or None for all.
            remat: of `remember`.
            kernel: of the blocks' self-attention.
            pixels: from `image` to normalised pixels, computed again in the backward pass; None: they are that.
        """
        tokens = self.trunk(image, dtype=dtype, keep=keep, remat=remat, kernel=kernel, pixels=pixels)
        return self.pool(tokens, dtype)

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
        """What the peer calls forward_features (timm) or last_hidden_state, float32."""
        x = self.trunk(image, dtype=dtype)
        return (self.attn_pool(x, dtype) if self.spec.pool == "nomic" else x).astype(jnp.float32)

    def pool_attention(
        self, image: Float[Array, "b h w 3"], *, dtype: DTypeLike = jnp.float32
    ) -> Float[Array, "b heads n"]:
        """How each head of the pooling spreads its attention over the tokens, class token first; each adds up to 1.

        Raises:
            ConfigError: the tower's pooling has no attention.
        """
        if self.attn_pool is None:
            raise ConfigError(explain("pooling", expected="map or nomic, which attend to the tokens",
                                      found=self.spec.pool, do="take a tower with an attention head"))
        return self.attn_pool.weights(self.trunk(image, dtype=dtype), dtype)

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
            x = block(x, rope=rope, dtype=dtype)
            rms.append(jnp.sqrt(jnp.mean(jnp.square(x.astype(jnp.float32)))))
        return {"rms": jnp.stack(rms), "max_logit": jnp.stack(logit)}
