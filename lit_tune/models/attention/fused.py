"""Attention by an accelerator's kernel on the devices of a mesh: each computes its own pictures and heads."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lit_tune.models.attention.choice import Kernel
from lit_tune.models.attention.short import Rope, short_attention


def pallas_attention(
    q: Float[Array, "b n d"], k: Float[Array, "b n d"], v: Float[Array, "b n d"], rope: Rope, head_dim: int,
    kernel: Kernel,
) -> Float[Array, "b n d"]:
    """`short.short_attention` under the kernel's mesh; q and k are not rotated yet.

    Nothing is gathered: a device holds whole pictures and whole heads.
    """
    def on_one(q: Array, k: Array, v: Array, rope: Rope) -> Array:
        return short_attention(q, k, v, rope, head_dim, kernel.interpret)

    tables = None if rope is None else (kernel.rope_spec(rope[0].shape[0]),) * 2
    return _over_mesh(on_one, kernel, tables)(q, k, v, rope)


def cudnn_attention(
    q: Float[Array, "b n h k"], k: Float[Array, "b n h k"], v: Float[Array, "b n h k"], kernel: Kernel
) -> Float[Array, "b n h k"]:
    """softmax(q k / sqrt(head dim)) v by cuDNN's flash attention; q and k are rotated already.

    An odd number of tokens gets one more row, which the kernel is told to leave out: jax refuses odd numbers when it
    takes gradients.
    """
    def on_one(q: Array, k: Array, v: Array) -> Array:
        b, n = q.shape[:2]
        lengths = jnp.full((b,), n, jnp.int32) if n % 2 else None
        q, k, v = (jnp.pad(x, ((0, 0), (0, n % 2), (0, 0), (0, 0))) for x in (q, k, v))
        out = jax.nn.dot_product_attention(
            q, k, v, query_seq_lengths=lengths, key_value_seq_lengths=lengths, implementation="cudnn")
        return out[:, :n]

    return _over_mesh(on_one, kernel)(q, k, v)


def _over_mesh(on_one: Callable[..., Array], kernel: Kernel, *further: object) -> Callable[..., Array]:
    """`on_one` on each device's part of three token arrays; `further` are the partitions of the other arguments."""
    if kernel.mesh is None or kernel.mesh.size == 1:
        return on_one
    tokens = kernel.tokens_spec()
    # The axes of the mesh are all manual inside, and no collective runs: nothing to check.
    return jax.shard_map(
        on_one, mesh=kernel.mesh, in_specs=(tokens, tokens, tokens, *further), out_specs=tokens, check_vma=False)
