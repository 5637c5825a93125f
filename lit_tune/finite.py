"""Whether the arrays of a state are numbers: asked before a checkpoint is written, and after one was read."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lit_tune import tree

SHOWN = 3  # arrays named in a line


def not_finite(state: tree.Tree) -> str:
    """ "params/image/norm/scale (2 inf or nan), ... and 3 more": the arrays that hold such values; "" if none does.

    Every array is reduced to one number where it lies; with several processes all call it, and all get the same.

    Args:
        state: nested dict of arrays; integers are always finite.
    """
    counts = {name: _count(leaf) for name, leaf in tree.flatten(state).items()
              if jnp.issubdtype(leaf.dtype, jnp.floating)}  # fmt: skip
    found = [f"{name} ({int(count)} inf or nan)" for name, count in jax.device_get(counts).items() if count]
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(found[:SHOWN]) + more


def _count(leaf: Any) -> Any:
    """How many values of one array are not finite, perhaps still being computed."""
    here = not isinstance(leaf, jax.Array) or (
        leaf.is_fully_addressable and all(device.platform == "cpu" for device in leaf.devices()))  # fmt: skip
    if here:  # in this process's memory: nothing to compile
        return np.sum(~np.isfinite(np.asarray(leaf)))
    return _count_on_devices(leaf)


@jax.jit
def _count_on_devices(leaf: jax.Array) -> jax.Array:
    return jnp.sum(~jnp.isfinite(leaf))
