"""Vectors of texts inside the step: each device sorts its texts by length and cuts the padding off, part by part.

Captions are short and the padding is long: at 77 tokens most of a text tower's work is done on nothing. The longest of
a batch of thousands fills the table, so a batch is not cut as a whole: its texts are sorted and go through the tower in
parts, each at the smallest of a few lengths that holds its longest text.
"""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from lit_tune import sharding
from lit_tune.models import two_towers
from lit_tune.models.functional import Tower
from lit_tune.tree import Tree

PARTS = 8  # of a device's texts: enough for the short ones to be among themselves


def embed(
    tower: Tower, params: Tree, input_ids: Int[Array, "b s"], mask: Int[Array, "b s"], *, dtype: DTypeLike, mesh: Mesh,
    lengths: tuple[int, ...], parts: int,
) -> Float[Array, "b d"]:
    """ztxt: unit float32 vectors, as `two_towers.embed_text` gives them at full length.

    Args:
        tower, params: the frozen text tower.
        input_ids, mask: cut over the batch axes of the mesh; padding stands at the end.
        dtype: compute dtype.
        mesh: with parameters that are whole on every device where there are `lengths`.
        lengths: tokens that a part may be cut to, rising, below s; () cuts nothing.
        parts: at least so many parts of a device's rows, one after the other; 1 for all at once.
    """
    def at_length(length: int, ids: Array, mask: Array) -> Array:
        return two_towers.embed_text(tower, params, ids[:, :length], mask[:, :length], dtype=dtype)

    full = input_ids.shape[1]
    choices = (*(length for length in lengths if length < full), full)
    rows = input_ids.shape[0] // sharding.batch_shards(mesh)
    count = _parts(rows, max(parts, PARTS if len(choices) > 1 else 1))
    if count == 1:
        return at_length(full, input_ids, mask)

    def shortest(texts: tuple[Array, Array]) -> Array:
        ids, mask = texts
        longest = jnp.max(jnp.sum(mask, axis=1))
        branch = jnp.sum(longest > jnp.asarray(choices))
        return jax.lax.switch(jnp.minimum(branch, len(choices) - 1), [
            lambda ids, mask, length=length: at_length(length, ids, mask) for length in choices], ids, mask)

    def on_one(ids: Array, mask: Array) -> Array:
        order = jnp.argsort(jnp.sum(mask, axis=1))
        ids, mask = (texts[order].reshape(count, -1, full) for texts in (ids, mask))
        vectors = jax.lax.map(shortest, (ids, mask))  # (parts, rows / parts, d)
        return vectors.reshape(rows, -1)[jnp.argsort(order)]

    # Each device takes the branches of its own texts: there is nothing in the tower that it would have to wait for.
    return jax.shard_map(on_one, mesh=mesh, in_specs=(sharding.BATCH, sharding.BATCH), out_specs=sharding.BATCH,
                         check_vma=False)(input_ids, mask)


def _parts(rows: int, wanted: int) -> int:
    """The smallest divisor of `rows` that is at least `wanted`, or all of them."""
    return next(count for count in range(min(wanted, rows), rows + 1) if rows % count == 0)
