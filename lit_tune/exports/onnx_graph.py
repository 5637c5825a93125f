"""A traced jax function as a list of ONNX nodes: no onnx package needed until `onnx.py` puts them into a file.

`translate` traces with symbolic sizes, walks the jaxpr (calls are inlined) and asks `onnx_ops.OPS` for each primitive.
Whatever depends on constants only is computed here and now by jax itself; parameters stay initializers under our names.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from lit_tune.errors import ConfigError, explain
from lit_tune.exports import onnx_dims
from lit_tune.tree import Tree

Shape = tuple[Any, ...]  # ints and jax's symbolic sizes
# Primitives whose meaning is a jaxpr in their parameters; loops and branches are not among them.
CALLS = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr",
         "remat", "remat2", "checkpoint")  # fmt: skip
BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")
DIMS = {"add": "Add", "sub": "Sub", "mul": "Mul", "floordiv": "Div", "mod": "Mod", "max": "Max", "min": "Min"}
FEW = 1 << 24  # numbers of a constant that is computed here; a larger one is left to the runtime


@dataclass(frozen=True)
class Node:
    """One ONNX node: operator, names of what goes in and out, attributes."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Input:
    """An input of the graph: int64 ones are traced as int32, since jax has no int64 by default."""

    name: str
    dtype: str
    shape: Shape


@dataclass(frozen=True)
class Value:
    """A value of the trace.

    Attributes:
        shape, dtype: as jax has them.
        name: of the ONNX tensor; "" for a constant.
        data: the constant.
        whole: False where axes of 1 still have to be expanded to `shape`; arithmetic does that by itself.
    """

    shape: Shape
    dtype: np.dtype
    name: str = ""
    data: np.ndarray | None = None
    whole: bool = True


@dataclass
class Graph:
    """Nodes in order, initializers by name, and the inputs' symbols; equal nodes and constants exist once."""

    nodes: list[Node] = field(default_factory=list)
    initializers: dict[str, np.ndarray] = field(default_factory=dict)
    inputs: list[Input] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    symbols: dict[str, str] = field(default_factory=dict)
    _made: dict[Any, tuple[str, ...]] = field(default_factory=dict)

    def emit(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Name of the output of a new node, or of an equal one that is there."""
        return self.emit_many(op, inputs, 1, attributes)[0]

    def emit_many(self, op: str, inputs: Sequence[str], count: int, attributes: dict[str, Any]) -> tuple[str, ...]:
        """Names of `count` outputs of a node."""
        key = (op, tuple(inputs), tuple(sorted(attributes.items())), count)
        if key not in self._made:
            names = tuple(f"{op}_{len(self.nodes)}" + (f"_{i}" if i else "") for i in range(count))
            self.nodes.append(Node(op, key[1], names, key[2]))
            self._made[key] = names
        return self._made[key]

    def constant(self, array: Any, dtype: Any = np.int64) -> str:
        """Name of an initializer that holds `array`."""
        array = np.asarray(array, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._made:
            name = f"constant_{len(self._made)}"
            self.initializers[name] = array
            self._made[key] = (name,)
        return self._made[key][0]

    def raw(self, value: Value) -> str:
        """Name of a value's tensor, which broadcasts to its shape but may be smaller."""
        return self.constant(value.data, value.dtype) if value.data is not None else value.name

    def full(self, value: Value) -> str:
        """Name of a tensor of exactly the value's shape."""
        return self.raw(value) if value.whole else self.emit("Expand", self.raw(value), self.sizes(value.shape))

    def size(self, dim: Any) -> str:
        """Name of an int64 tensor of shape (1,) that holds a size."""
        found = dim if isinstance(dim, int) else onnx_dims.evaluate(str(dim), self.symbols, self._combine)
        return self.constant([found]) if isinstance(found, int) else found

    def _combine(self, operation: str, a: str | int, b: str | int) -> str:
        a, b = (self.constant([one]) if isinstance(one, int) else one for one in (a, b))
        return self.emit(DIMS[operation], a, b)

    def sizes(self, shape: Shape) -> str:
        """Name of an int64 tensor (rank,) that holds a shape."""
        if all(isinstance(dim, int) for dim in shape):
            return self.constant(shape)
        return self.emit("Concat", *(self.size(dim) for dim in shape), axis=0)

    def reshape(self, name: str, shape: Shape) -> str:
        """Name of the tensor in another shape; one unknown size is left to the runtime to find."""
        unknown = [i for i, dim in enumerate(shape) if not isinstance(dim, int)]
        if len(unknown) == 1 and 0 not in shape:
            return self.emit("Reshape", name, self.constant([-1 if i in unknown else d for i, d in enumerate(shape)]))
        return self.emit("Reshape", name, self.sizes(shape))

    def transpose(self, name: str, order: Sequence[int]) -> str:
        """Name of the tensor with its axes in another order."""
        order = tuple(int(axis) for axis in order)
        return name if order == tuple(range(len(order))) else self.emit("Transpose", name, perm=order)

    def prune(self) -> None:
        """Drop what no output needs."""
        needed = {one.name for one in self.outputs}
        kept = []
        for node in reversed(self.nodes):
            if needed & set(node.outputs):
                needed |= set(node.inputs)
                kept.append(node)
        self.nodes = kept[::-1]
        self.initializers = {name: array for name, array in self.initializers.items() if name in needed}


def same(a: Shape, b: Shape) -> bool:
    """Whether two shapes are surely equal."""
    return tuple(map(str, a)) == tuple(map(str, b))


def refuse(equation: Any, found: str) -> ConfigError:
    """The error for a form of a known primitive that is not written here."""
    return ConfigError(explain(f"ONNX: {equation.primitive.name}", expected="a form that is known here", found=found,
                               do="export another format"))  # fmt: skip


def translate(
    function: Callable[..., tuple[jax.Array, ...]],
    params: Tree,
    inputs: Sequence[Input],
    outputs: Sequence[str],
    ops: dict[str, Callable],
) -> Graph:
    """The graph of `function(params, *inputs)`.

    Args:
        function: pure; gives a tuple of arrays.
        params: nested dict of arrays, which become initializers named a/b/c.
        inputs: of the graph, in the function's order; every symbol has to be a whole axis of one of them.
        outputs: a name for each result.
        ops: primitive name -> its nodes, `onnx_ops.OPS`.

    Raises:
        ConfigError: a primitive or a dtype that has no form here; it is named.
    """
    specs = [jax.ShapeDtypeStruct(i.shape, {"int64": "int32"}.get(i.dtype, i.dtype)) for i in inputs]
    paths = [("/".join(str(k.key) for k in path), np.asarray(leaf))
             for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]]
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    traced = jax.jit(function).trace(abstract, *specs)
    graph = Graph(inputs=list(inputs), initializers=dict(paths))
    values = [Value(array.shape, array.dtype, name) for name, array in paths]
    values += [_input(graph, one, spec) for one, spec in zip(inputs, specs, strict=True)]
    with jax.default_device(jax.devices("cpu")[0]):  # folded products in full float32, whatever the accelerator
        results = _run(graph, traced.jaxpr, values, ops)
    for name, value in zip(outputs, results, strict=True):
        graph.nodes.append(Node("Identity", (graph.full(value),), (name,), ()))
        graph.outputs.append(Value(value.shape, value.dtype, name))
    graph.prune()
    return graph


def _input(graph: Graph, one: Input, spec: jax.ShapeDtypeStruct) -> Value:
    """An input as the trace sees it; notes where its symbols are read from."""
    for axis, dim in enumerate(one.shape):
        if str(dim).isidentifier() and str(dim) not in graph.symbols:
            graph.symbols[str(dim)] = graph.emit("Shape", one.name, start=axis, end=axis + 1)
    dtype = np.dtype(spec.dtype)
    cast = one.name if dtype.name == one.dtype else graph.emit("Cast", one.name, to=dtype.name)
    return Value(one.shape, dtype, cast)


def _run(graph: Graph, closed: Any, arguments: Sequence[Value], ops: dict[str, Callable]) -> list[Value]:
    """The outputs of a closed jaxpr for some inputs."""
    jaxpr = closed.jaxpr
    known = dict(zip(jaxpr.invars, arguments, strict=True))
    known |= {var: _constant(var.aval, c) for var, c in zip(jaxpr.constvars, closed.consts, strict=True)}
    read = lambda atom: _constant(atom.aval, atom.val) if isinstance(atom, Literal) else known[atom]  # noqa: E731
    for equation in jaxpr.eqns:
        known |= dict(zip(equation.outvars, _equation(graph, equation, [read(a) for a in equation.invars], ops),
                          strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _constant(aval: Any, data: Any) -> Value:
    array = np.asarray(data, aval.dtype)
    return Value(array.shape, array.dtype, data=array)


def _equation(graph: Graph, equation: Any, values: list[Value], ops: dict[str, Callable]) -> list[Value]:
    """The outputs of one equation: folded, inlined or written as nodes."""
    name, params = equation.primitive.name, equation.params
    avals = [var.aval for var in equation.outvars]
    if name in CALLS:
        body = next(params[key] for key in BODIES if key in params)
        closed = body if hasattr(body, "consts") else ClosedJaxpr(body, ())
        return _run(graph, closed, values, ops)
    if name not in ops:
        raise ConfigError(explain("ONNX", expected=f"one of {len(ops)} primitives", found=name,
                                  do="export another format"))
    for aval in avals:
        if np.dtype(aval.dtype).name not in ("float32", "int32", "bool"):
            raise ConfigError(explain("ONNX", expected="a float32 tower", found=f"{name} in {aval.dtype}",
                                      do="export with dtype float32"))
    fixed = name != "dim_as_value" and all(v.data is not None and v.whole for v in values)
    if fixed and all(_small(aval) for aval in avals):
        folded = equation.primitive.bind(*(v.data for v in values), **params)
        return [_constant(a, f) for a, f in zip(avals, folded if equation.primitive.multiple_results else [folded],
                                                strict=True)]
    made = ops[name](graph, equation, values)
    return [one if isinstance(one, Value) else Value(aval.shape, np.dtype(aval.dtype), one)
            for one, aval in zip(made if isinstance(made, list | tuple) else [made], avals, strict=True)]


def _small(aval: Any) -> bool:
    return all(isinstance(dim, int) for dim in aval.shape) and math.prod(aval.shape) <= FEW
