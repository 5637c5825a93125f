"""Name-based helpers for plain nested dicts of arrays ("a/b/c" names); nothing here knows a model."""

import hashlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

Tree = Any  # a nested dict with string keys whose leaves are arrays (or their abstract stand-ins)


def flatten(tree: Tree, prefix: str = "") -> dict[str, Any]:
    """{"a/b/c": leaf}, sorted by name.

    Anything that is not a dict (optax's named tuples included) is walked by jax's own key paths, so optimizer
    states get stable names too.
    """
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    named = {prefix + "/".join(_key_name(k) for k in path): leaf for path, leaf in leaves}
    return dict(sorted(named.items()))


def _key_name(key: Any) -> str:
    """The plain word of one jax key-path entry (dict key, attribute or index)."""
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def unflatten(named: dict[str, Any]) -> Tree:
    """The nested dict whose `flatten` is `named`; keys stay strings, also those that look like numbers."""
    tree: dict[str, Any] = {}
    for name, leaf in named.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def map_with_names(function: Callable[[str, Any], Any], tree: Tree) -> Tree:
    """The same structure with `function(name, leaf)` in place of every leaf."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function("/".join(_key_name(k) for k in path), leaf), tree
    )


def split(tree: Tree, chosen: Callable[[str], bool]) -> tuple[Tree, Tree]:
    """(the nested dict of the leaves whose name is chosen, that of the others); `merge` joins them again."""
    named = flatten(tree)
    parts = ({name: leaf for name, leaf in named.items() if chosen(name) == side} for side in (True, False))
    chosen_part, others = (unflatten(part) for part in parts)
    return chosen_part, others


def merge(one: Tree, other: Tree) -> Tree:
    """One nested dict with the leaves of two that share no name."""
    return unflatten(flatten(one) | flatten(other))


def count(tree: Tree) -> int:
    """Number of scalars in all leaves (arrays or abstract arrays)."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def digest(tree: Tree) -> str:
    """sha256 (hex) over sorted names, dtypes, shapes and little-endian bytes of all leaves.

    Two trees have one digest exactly if every array is equal bit for bit under the same name, so it can be compared
    across machines and processes. Arrays are brought to the host one at a time.
    """
    sha = hashlib.sha256()
    for name, leaf in flatten(tree).items():
        array = np.asarray(leaf)
        array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
        sha.update(f"{name}\0{array.dtype.name}\0{array.shape}\0".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()
