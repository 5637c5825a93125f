"""What the memory-bounded losses share: one device's share of the table of cosines, walked in blocks of columns.

A device holds n_local images and, after one gather, all m texts. Its n_local x m table is never stored: the blocks
are made, used and forgotten, and made again where the gradient needs them. The functions here run on one device
inside `jax.shard_map`; without a mesh they run on the whole arrays and the collectives fall away.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int, UInt32

from lit_tune.losses import shapes

_ELEMENTS = 2**24  # of a block: 64 MiB in float32, enough for products at full speed
_WIDEST = 4_096  # columns: more gain nothing, and a small share of a large batch would be one block, the whole table


class Form(NamedTuple):
    """What is known when a loss is traced."""

    mesh: Mesh | None
    frozen_text: bool
    dims: tuple[int, ...]  # nested widths, the full one first; (): the full one only
    block: int | None  # columns at a time; None: `width_of_block`


class Side(NamedTuple):
    """One device's images against all texts."""

    image: Float[jax.Array, "n d"]  # unit rows times the scale, in the dtype of the products
    text: Float[jax.Array, "m d"]  # unit rows, gathered
    own: Int[jax.Array, " n"]  # column of each image's own text
    own_logit: Float[jax.Array, " n"]  # scale x cosine
    owners: Float[jax.Array, " m"]  # how many images, of all devices, own a column
    ids: UInt32[jax.Array, "m 2"] | None  # equal words: equal captions; None masks nothing
    own_ids: UInt32[jax.Array, "n 2"] | None
    in_order: bool  # image i of the global batch owns column i


class Block(NamedTuple):
    """Some columns of the table."""

    text: Float[jax.Array, "c d"]
    logits: Float[jax.Array, "n c"]
    own: Bool[jax.Array, "n c"]
    masked: Bool[jax.Array, "n c"] | None


class Tally(NamedTuple):
    """Row sums for the metrics, where pairs are masked; without a mask they follow from sums of vectors."""

    kept: Float[jax.Array, " n"]  # sum of the logits that count, own text included
    masked: Float[jax.Array, " n"]  # number of pairs that do not count


# Collectives over the axes that the rows are cut over.


def gather(rows: jax.Array, mesh: Mesh | None) -> jax.Array:
    """The rows of all devices on each of them, in the dtype they arrive in."""
    return rows if mesh is None else lax.all_gather(rows, shapes.AXES, tiled=True)


def scatter(rows: jax.Array, mesh: Mesh | None) -> jax.Array:
    """The sum over devices, each keeping its share of the rows: the transpose of `gather`."""
    return rows if mesh is None else lax.psum_scatter(rows, shapes.AXES, scatter_dimension=0, tiled=True)


def total(values: Any, mesh: Mesh | None) -> Any:
    """The sum over devices of every leaf."""
    return values if mesh is None else lax.psum(values, shapes.AXES)


def largest(values: Any, mesh: Mesh | None) -> Any:
    """The largest over devices of every leaf."""
    return values if mesh is None else lax.pmax(values, shapes.AXES)


def share(rows: jax.Array, mesh: Mesh | None, count: int | None = None) -> jax.Array:
    """This device's part of rows that all devices hold; `count` rows a device, by default an even cut."""
    if mesh is None:
        return rows[:count]
    count = rows.shape[0] // shapes.devices(mesh) if count is None else count
    return lax.dynamic_slice_in_dim(rows, lax.axis_index(shapes.AXES) * count, count)


# The table.


def width_of_block(images: int, texts: int) -> int:
    """Columns at a time for a number of images on a device."""
    lanes = 128  # of a TPU's vector registers
    return min(texts, _WIDEST, max(lanes, _ELEMENTS // images // lanes * lanes))


def make_side(image: jax.Array, text: jax.Array, scale: jax.Array, positives: jax.Array | None, ids: jax.Array | None,
              mesh: Mesh | None) -> Side:
    """The two sides of one device's table.

    Args:
        image: (n_local, d) float32.
        text: (m, d) gathered; its dtype is the dtype of the products.
        scale: factor on the cosines; on the image it costs nothing, on the table one operation an element.
        positives: (n_local,) columns of the own texts; None: image i of the global batch owns column i.
        ids: (m, 2) gathered words, or None.
        mesh: the mesh that the images are cut over.
    """
    n, m = image.shape[0], text.shape[0]
    image = (image * scale).astype(text.dtype)
    if positives is None:
        own = share(jnp.arange(n * shapes.devices(mesh)), mesh)
        owners = jnp.float32(jnp.arange(m) < n * shapes.devices(mesh))
        own_text = share(text, mesh, n)
    else:
        own, own_text = positives, text[positives]
        owners = total(jnp.zeros(m, jnp.float32).at[positives].add(1.0), mesh)
    own_logit = jnp.sum(jnp.float32(image) * jnp.float32(own_text), axis=1)
    return Side(image, text, own, own_logit, owners, ids, None if ids is None else ids[own],
                positives is None)


def at_own(values: Float[jax.Array, " m"], side: Side, mesh: Mesh | None) -> Float[jax.Array, " n"]:
    """The value of each image's own column."""
    return share(values, mesh, side.own.shape[0]) if side.in_order else values[side.own]


def walk(side: Side, form: Form, body: Callable[[Any, Block, Any], tuple[Any, Any]], carry: Any, columns: Any,
         last_first: bool = False) -> Any:
    """(carry, column results) of `body(carry, block, its part of columns)` over all blocks of the table.

    The last block is written out beside the loop. A walk that ends with it and another that starts with it make its
    logits once: they are still at hand.

    Args:
        side: the two sides of the table.
        form: with the width of the blocks; the last takes what is left.
        body: gives the new carry, and arrays with one row a column of the block.
        carry: what passes from block to block.
        columns: arrays of m rows, cut along with the texts.
        last_first: start with the last block.
    """
    m = side.text.shape[0]
    width = min(form.block or width_of_block(side.image.shape[0], m), m)
    looped = (m - 1) // width  # the last block, whole or not, stands outside the loop

    def one(carry: Any, start: Any, cut: Callable[[jax.Array], jax.Array]) -> tuple[Any, Any]:
        block = _block(side, cut(side.text), None if side.ids is None else cut(side.ids), start)
        return body(carry, block, jax.tree.map(cut, columns))

    def step(carry: Any, index: jax.Array) -> tuple[Any, Any]:
        start = index * width
        return one(carry, start, lambda rows: lax.dynamic_slice_in_dim(rows, start, width))

    def end(carry: Any) -> tuple[Any, Any]:
        return one(carry, looped * width, lambda rows: rows[looped * width:])

    if looped == 0:
        return end(carry)
    if last_first:
        carry, last = end(carry)
    carry, results = lax.scan(step, carry, jnp.arange(looped))
    if not last_first:
        carry, last = end(carry)
    return carry, jax.tree.map(lambda many, rest: jnp.concatenate([many.reshape(-1, *rest.shape[1:]), rest]),
                               results, last)


def pull_back(side: Side, block: Block, slopes: Float[jax.Array, "n c"], frozen_text: bool) -> tuple:
    """(gradient of the images (n, d), of the block's texts (c, d) or None) for slopes of its logits."""
    slopes = slopes.astype(block.text.dtype)
    image = product("nc,cd->nd", slopes, block.text)
    return image, None if frozen_text else product("nc,nd->cd", slopes, side.image)


def product(spec: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """A matrix product with float32 sums; float32 factors stay float32.

    By default a TPU multiplies float32 in bfloat16 passes: errors up to 0.2 % a factor, 0.4 in a logit at scale 100.
    """
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jnp.einsum(spec, a, b, precision=precision, preferred_element_type=jnp.float32)


def _block(side: Side, text: jax.Array, ids: jax.Array | None, start: Any) -> Block:
    """The columns from `start` on that belong to `text`."""
    own = (side.own - start)[:, None] == jnp.arange(text.shape[0])
    masked = None
    if ids is not None:  # word by word: (n, c, 2) never exists
        masked = (side.own_ids[:, None, 0] == ids[:, 0]) & (side.own_ids[:, None, 1] == ids[:, 1]) & ~own
    return Block(text, product("nd,cd->nc", side.image, text), own, masked)


# Metrics.


def no_tally(side: Side) -> Tally | None:
    """Sums before the first block; None where nothing is masked."""
    zeros = jnp.zeros(side.own.shape, jnp.float32)
    return None if side.ids is None else Tally(zeros, zeros)


def add_tally(tally: Tally | None, block: Block) -> Tally | None:
    """The sums with one more block."""
    if tally is None:
        return None
    # A count near n x m (4.3e9 at the paper's batch) is beyond int32, and ones are lost in one float32 sum of that
    # length: rows first.
    return Tally(tally.kept + jnp.sum(jnp.where(block.masked, 0.0, block.logits), axis=1),
                 tally.masked + jnp.sum(block.masked, axis=1, dtype=jnp.float32))


def pair_metrics(side: Side, scale: jax.Array, tally: Tally | None, mesh: Mesh | None) -> dict[str, jax.Array]:
    """{cos_pos, cos_neg, masked_frac}: mean cosine of own and of other texts, and the share of the others masked."""
    n, m = side.image.shape[0] * shapes.devices(mesh), side.text.shape[0]
    others = float(n * (m - 1))  # beyond int32 at the paper's batch
    if tally is None:  # the sum over all pairs is the product of the two sums of rows: no table
        image, text = (jnp.sum(rows, axis=0, dtype=jnp.float32) for rows in (side.image, share(side.text, mesh)))
        own, image, text = total((jnp.sum(side.own_logit), image, text), mesh)
        kept, masked = jnp.dot(image, text, precision=lax.Precision.HIGHEST), jnp.float32(0)
    else:
        own, kept, masked = total((jnp.sum(side.own_logit), jnp.sum(tally.kept), jnp.sum(tally.masked)), mesh)
    return {"cos_pos": own / n / scale, "cos_neg": (kept - own) / jnp.maximum(others - masked, 1.0) / scale,
            "masked_frac": masked / max(others, 1.0)}
