"""A tower as two pure functions, `init` and `apply`, over a plain nested dict of arrays.

The modules in this package are `flax.nnx` modules, because attribute names then *are* parameter names. Nothing of nnx
leaves this file: no Variable or State reaches jit, optax or a checkpoint, so no flax version can change a format.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx

from lit_tune import tree


@dataclass(frozen=True)
class Tower:
    """A module class with its spec, as functions of parameters.

    Attributes:
        cls: an `nnx.Module` class whose constructor is `cls(spec, rngs=nnx.Rngs)` and that keeps no random state.
        spec: a frozen (hashable) dataclass.
    """

    cls: type
    spec: Any

    def init(self, key: jax.Array) -> tree.Tree:
        """Fresh parameters as {"blocks": {"0": ...}}, float32; may be called under `jax.jit`."""
        state = nnx.split(self.cls(self.spec, rngs=nnx.Rngs(params=key)))[1]
        return tree.unflatten(dict(zip(_structure(self.cls, self.spec).names, jax.tree.leaves(state), strict=True)))

    def abstract(self) -> tree.Tree:
        """The tree of `init` with `jax.ShapeDtypeStruct` leaves; computes and allocates nothing."""
        structure = _structure(self.cls, self.spec)
        return tree.unflatten(dict(zip(structure.names, structure.leaves, strict=True)))

    def apply(self, params: tree.Tree, *args: Any, method: str = "__call__", **kwargs: Any) -> Any:
        """`method(*args, **kwargs)` of the module with these parameters; pure, so jit, grad and vmap apply.

        Raises:
            KeyError: a parameter of the module is not in `params`.
        """
        structure = _structure(self.cls, self.spec)
        named = tree.flatten(params)
        state = jax.tree.unflatten(structure.treedef, [named[name] for name in structure.names])
        return getattr(nnx.merge(structure.graphdef, state), method)(*args, **kwargs)


@dataclass(frozen=True)
class _Structure:
    """What is the same for all parameters of one (class, spec): nnx's graph and our names in its leaf order."""

    graphdef: Any
    treedef: Any
    names: tuple[str, ...]
    leaves: tuple[Any, ...]


@functools.lru_cache(maxsize=64)  # building the abstract module takes ~50 ms at 12 blocks, apply is traced often
def _structure(cls: type, spec: Any) -> _Structure:
    graphdef, state = nnx.split(nnx.eval_shape(lambda: cls(spec, rngs=nnx.Rngs(params=0))))
    with_paths, treedef = jax.tree_util.tree_flatten_with_path(state)
    # The last entry of a path is the Variable's own ".value", which is nnx's business and not part of the name.
    names = tuple("/".join(str(k.key) for k in path if hasattr(k, "key")) for path, _ in with_paths)
    leaves = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for _, leaf in with_paths)
    return _Structure(graphdef, treedef, names, leaves)
