"""From a global batch to the loss and its gradients: both towers, the texts beside the batch's own, gradient cache.

Everything here is traced inside the step. `value_and_grads` is what the step calls; with `config.micro_batches` above 1
it embeds the batch part by part and gives the same numbers with the activations of one part.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, Shaped, UInt32
from ml_collections import ConfigDict

from lit_tune import device_resize, live_text, losses, sharding, tree
from lit_tune.models import two_towers
from lit_tune.models.attention.choice import Kernel
from lit_tune.models.functional import Tower

Batch = dict[str, Any]
Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Forward:
    """What stays the same from step to step: the config, the mesh and both towers without parameters."""

    config: ConfigDict
    mesh: Mesh
    image_tower: Tower
    text_tower: Tower | None  # None where cached vectors reach the step
    kernel: Kernel  # of the image tower's self-attention

    @classmethod
    def of(cls, config: ConfigDict, mesh: Mesh, image_tower: Tower, text_tower: Tower | None) -> "Forward":
        """The forward pass of a config on a mesh, its attention kernel chosen by the mesh's devices.

        Raises:
            ConfigError: an attention kernel that cannot run there.
        """
        kernel = two_towers.attention_kernel(image_tower.spec, config.vision.attention, mesh,
                                             patches=_patches(config)[1], dtype=jnp.dtype(config.dtype))
        return cls(config, mesh, image_tower, text_tower, kernel)

    @property
    def dtype(self) -> jnp.dtype:
        """The compute dtype of the towers."""
        return jnp.dtype(self.config.dtype)


class Texts(NamedTuple):
    """The text rows of a step, m of them: the batch's own and those that are negatives only."""

    rows: Float[Array, "m d"]  # compute dtype, cut over the batch axes of the mesh
    caption_ids: UInt32[Array, "m 2"]
    positives: Int[Array, " b"] | None  # row of each picture's own text; None: the same row
    own: Float[Array, "b d"]  # ztxt: the batch's own vectors, float32


def value_and_grads(
    model: Forward, frozen: tree.Tree, trained: tree.Tree, text_params: tree.Tree, batch: Batch, step: Int[Array, ""]
) -> tuple[Float[Array, ""], Metrics, dict[str, Array], tree.Tree]:
    """(loss, metrics, {"zimg", "ztxt"}, gradients of `trained`) of one global batch.

    Args:
        model: what is computed.
        frozen, trained: the parts of the parameters; nothing of the backward pass is computed for the frozen one.
        text_params: of the text tower that runs inside the step, or {}.
        batch: global arrays, see `step.abstract_batch`.
        step: number of the step; randomness follows from it and the row.
    """
    texts = embed_texts(model, text_params, batch)
    scalars = {name: leaf for name, leaf in trained.items() if name != "image"}
    images = pictures(model, batch)
    rows = jnp.arange(images.shape[0])

    def loss_of(zimg: Array, scalars: tree.Tree) -> tuple[Array, Metrics]:
        return contrast(model, scalars, zimg, texts)

    def embed(image: tree.Tree, pictures: Array, rows: Array, kernel: Kernel = model.kernel) -> Array:
        params = tree.merge(frozen, {"image": image})["image"]
        return embed_images(model, params, pictures, step, rows, kernel)

    if model.config.micro_batches == 1:
        zimg, pull = jax.vjp(lambda image: embed(image, images, rows), trained["image"])
        (loss, metrics), (dzimg, dscalars) = jax.value_and_grad(loss_of, (0, 1), has_aux=True)(zimg, scalars)
        (dimage,) = pull(dzimg)
    else:
        cut = Parts.of(model)
        zimg = cut.join(jax.lax.map(
            lambda i: embed(trained["image"], cut.part(images, i), cut.part(rows, i)), cut.numbers))
        (loss, metrics), (dzimg, dscalars) = jax.value_and_grad(loss_of, (0, 1), has_aux=True)(zimg, scalars)
        dimage = accumulate(model, embed, trained["image"], images, rows, dzimg)
    return loss, metrics, {"zimg": zimg, "ztxt": texts.own}, {"image": dimage} | dscalars


def pictures(model: Forward, batch: Batch) -> Shaped[Array, "b h w 3"]:
    """The batch's pictures at the tower's size: as they came, or resized here, in the parts that are embedded."""
    if "crop" not in batch:
        return batch["image"]
    size, cut = tuple(model.config.vision.image_size), Parts.of(model)

    def resized(i: Array) -> Array:
        return device_resize.resize(cut.part(batch["image"], i), cut.part(batch["crop"], i), size)

    if cut.count == 1:
        return device_resize.resize(batch["image"], batch["crop"], size)
    return cut.join(jax.lax.map(resized, cut.numbers))


def accumulate(model: Forward, embed: Callable[..., Array], params: tree.Tree, *rows: Array) -> tree.Tree:
    """The gradient of the image tower, summed over the parts of the batch, float32.

    Where every device has all parameters it sums its own parts first, and the sums cross the devices once; left to
    itself the compiler reduces the gradients of every part.

    Args:
        model: what is computed.
        embed: (params, pictures, rows, kernel) -> zimg.
        params: the trained ones.
        rows: pictures, numbers of the rows and cotangents of zimg, each (b, ...).
    """
    def total(params: tree.Tree, cut: Parts, kernel: Kernel, *rows: Array) -> tree.Tree:
        def add(total: tree.Tree, i: Array) -> tuple[tree.Tree, None]:
            pictures, numbers, dzimg = (cut.part(array, i) for array in rows)
            _, pull = jax.vjp(lambda params: embed(params, pictures, numbers, kernel), params)
            return jax.tree.map(jnp.add, total, pull(dzimg)[0]), None

        return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), cut.numbers)[0]

    mesh, count = model.mesh, model.config.micro_batches
    if mesh.shape["fsdp"] * mesh.shape["tensor"] > 1:
        return total(params, Parts.of(model), model.kernel, *rows)
    alone = dataclasses.replace(model.kernel, mesh=None)

    def on_one(params: tree.Tree, *rows: Array) -> tree.Tree:
        return jax.lax.psum(total(params, Parts(count, 1, None), alone, *rows), "data")

    return jax.shard_map(on_one, mesh=mesh, in_specs=(PartitionSpec(), *[sharding.BATCH] * len(rows)),
                         out_specs=PartitionSpec(), check_vma=False)(params, *rows)


class Parts(NamedTuple):
    """How a batch is cut into micro-batches: part i is the i-th share of every device's rows, so that nothing moves."""

    count: int
    shards: int  # devices that hold different rows
    mesh: Mesh | None  # None for the rows of one device

    @classmethod
    def of(cls, model: Forward) -> "Parts":
        """The parts of a config on a mesh."""
        return cls(model.config.micro_batches, sharding.batch_shards(model.mesh), model.mesh)

    @property
    def numbers(self) -> Int[Array, " parts"]:
        """0, 1, ..., what a scan over the parts runs over."""
        return jnp.arange(self.count)

    def part(self, rows: Array, i: Int[Array, ""]) -> Array:
        """(b / count, ...): part i of (b, ...)."""
        own = rows.shape[0] // (self.shards * self.count)
        view = rows.reshape(self.shards, self.count * own, *rows.shape[1:])
        part = jax.lax.dynamic_slice_in_dim(view, i * own, own, axis=1)
        part = part.reshape(self.shards * own, *rows.shape[1:])
        return part if self.mesh is None else self._spread(part)

    def join(self, parts: Array) -> Array:
        """(b, ...) of (count, b / count, ...): the parts put back where their rows came from."""
        own = parts.shape[1] // self.shards
        rows = jnp.swapaxes(parts.reshape(self.count, self.shards, own, *parts.shape[2:]), 0, 1)
        return self._spread(rows.reshape(-1, *parts.shape[2:]))

    def _spread(self, rows: Array) -> Array:
        return jax.lax.with_sharding_constraint(rows, sharding.batch_sharding(self.mesh))


def embed_images(model: Forward, params: tree.Tree, image: Array, step: Array, rows: Int[Array, " b"],
                 kernel: Kernel) -> Array:
    """zimg float32 (b, d) of the pictures in these rows of the global batch."""
    config = model.config
    return two_towers.embed_image(model.image_tower, params, image, config.data.mean, config.data.std,
                                  dtype=model.dtype, remat=config.vision.remat, keep=kept_patches(config, rows, step),
                                  kernel=kernel)


def embed_texts(model: Forward, text_params: tree.Tree, batch: Batch) -> Texts:
    """All texts of the step: vectors that came with the batch, or those of the tower that runs inside the step."""
    if model.text_tower is None:
        own = batch["ztxt"]  # (b, d), the frozen tower's vectors, computed once
    else:
        own = live_text.embed(model.text_tower, text_params, batch["input_ids"], batch["attention_mask"],
                              dtype=model.dtype, mesh=model.mesh, lengths=model.config.text.length_buckets,
                              parts=model.config.micro_batches)
    # The gather of the text is the loss's only large traffic: half the bytes where the towers compute in bfloat16.
    parts = [(own.astype(model.dtype), batch["caption_id"])]
    parts += [(batch[f"{kind}_ztxt"].astype(model.dtype), batch[f"{kind}_caption_id"])
              for kind in ("extra", "bank") if f"{kind}_ztxt" in batch]
    if len(parts) == 1:
        return Texts(*parts[0], None, own)
    # Device by device, its own rows first: a plain concatenation would send most rows to another device.
    shards, n = sharding.batch_shards(model.mesh), own.shape[0]
    rows, ids = (_beside(columns, shards, model.mesh) for columns in zip(*parts, strict=True))
    numbers = jnp.arange(n)
    positives = numbers // (n // shards) * (rows.shape[0] // shards) + numbers % (n // shards)
    return Texts(rows, ids, positives, own)


def contrast(model: Forward, scalars: tree.Tree, zimg: Array, texts: Texts) -> tuple[Array, Metrics]:
    """(loss, metrics) of picture vectors against all texts of the step."""
    loss = model.config.loss
    names = [name for name in ("logit_scale", "logit_bias") if name in scalars]
    if not loss.matryoshka_dims:
        values, dims = [scalars[name] for name in names], ()
    else:
        values = [jnp.concatenate([scalars[name][None], scalars[f"{name}_nested"]]) for name in names]
        dims = (zimg.shape[1], *loss.matryoshka_dims)
    return losses.named(loss.name)(
        zimg, texts.rows, *values, mesh=model.mesh, positives=texts.positives,
        caption_ids=texts.caption_ids if loss.mask_equal_captions else None, dims=dims)


def kept_patches(config: ConfigDict, rows: Int[Array, " b"], step: Int[Array, ""]) -> Int[Array, "b kept"] | None:
    """int32 indices of the patch tokens that the pictures in these rows keep; None without patch dropout.

    Drawn from (seed, step, row), that is from the sample's position: the same on any topology, in any micro-batch and
    after a restart.
    """
    if config.vision.patch_dropout == 0.0:
        return None
    patches, kept = _patches(config)
    key = jax.random.fold_in(jax.random.key(config.seed), step)
    keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)
    draw = jax.vmap(lambda k: jnp.sort(jax.random.permutation(k, patches)[:kept]))
    return draw(keys)  # (b, kept)


def _patches(config: ConfigDict) -> tuple[int, int]:
    """(patches of a picture, those of them that patch dropout keeps)."""
    height, width = config.vision.image_size
    patches = (height // config.vision.patch_size) * (width // config.vision.patch_size)
    return patches, max(1, round(patches * (1 - config.vision.patch_dropout)))


def _beside(columns: tuple[Array, ...], shards: int, mesh: Mesh) -> Array:
    """Row blocks of several arrays joined shard by shard, still cut over the batch axes."""
    views = [rows.reshape(shards, -1, rows.shape[1]) for rows in columns]
    joined = jnp.concatenate(views, axis=1).reshape(-1, columns[0].shape[1])
    return jax.lax.with_sharding_constraint(joined, sharding.batch_sharding(mesh))
