"""jax primitive -> ONNX nodes (opset 17), one table: `OPS`. What is not in it is refused by name.

A function here gets the graph, the equation and its input values; it gives the name of the output (or a `Value` that
is not expanded yet, or a list, one for each output). Out-of-bounds gathers are the runtime's error here, not nan.

Source: onnx operators.md at opset 17; jax.lax's documentation of gather, dot_general and select_n.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from lit_tune.exports.onnx_gather import gather
from lit_tune.exports.onnx_graph import Graph, Value, refuse, same

OPSET = 17
FAR = np.iinfo(np.int64).min  # "to the very start" of a slice that runs backwards


def operands(graph: Graph, equation: Any, values: list[Value]) -> list[str]:
    """Names of the operands of elementwise arithmetic; broadcasts are left to it where one operand is whole."""
    shape = equation.outvars[0].aval.shape
    if any(v.whole and same(v.shape, shape) for v in values):
        return [graph.raw(v) for v in values]
    return [graph.full(v) for v in values]


def elementwise(op: str, **attributes: Any) -> Callable[..., str]:
    """Nodes of a primitive that is one ONNX operator."""
    return lambda graph, equation, values: graph.emit(op, *operands(graph, equation, values), **attributes)


def inverted(op: str) -> Callable[..., str]:
    """Nodes of a comparison that ONNX has only the opposite of."""
    return lambda graph, equation, values: graph.emit("Not", graph.emit(op, *operands(graph, equation, values)))


def bools_only(op: str) -> Callable[..., str]:
    """Nodes of a logical operator; jax has the bitwise one of integers under the same name."""

    def nodes(graph: Graph, equation: Any, values: list[Value]) -> str:
        if values[0].dtype != np.bool_:
            raise refuse(equation, str(values[0].dtype))
        return graph.emit(op, *operands(graph, equation, values))

    return nodes


def same_value(graph: Graph, equation: Any, values: list[Value]) -> list[Value]:
    """The values themselves: copies and hints to the compiler."""
    return values


def after(op: str, first: str) -> Callable[..., str]:
    """Nodes of op(first(x))."""
    return lambda graph, equation, values: graph.emit(op, graph.emit(first, graph.full(values[0])))


def square(graph: Graph, equation: Any, values: list[Value]) -> str:
    """x x."""
    return graph.emit("Mul", graph.full(values[0]), graph.full(values[0]))


def erfc(graph: Graph, equation: Any, values: list[Value]) -> str:
    """1 - erf(x): the absolute error is a float32's, the relative one for large x is not (GELU needs no more)."""
    return graph.emit("Sub", graph.constant(1, values[0].dtype), graph.emit("Erf", graph.full(values[0])))


def expm1(graph: Graph, equation: Any, values: list[Value]) -> str:
    """exp(x) - 1."""
    return graph.emit("Sub", graph.emit("Exp", graph.full(values[0])), graph.constant(1, values[0].dtype))


def log1p(graph: Graph, equation: Any, values: list[Value]) -> str:
    """log(1 + x)."""
    return graph.emit("Log", graph.emit("Add", graph.full(values[0]), graph.constant(1, values[0].dtype)))


def integer_pow(graph: Graph, equation: Any, values: list[Value]) -> str:
    """x to a whole power."""
    if equation.params["y"] == 2:
        return square(graph, equation, values)
    return graph.emit("Pow", graph.full(values[0]), graph.constant(equation.params["y"], values[0].dtype))


def exp2(graph: Graph, equation: Any, values: list[Value]) -> str:
    """2 to the x."""
    return graph.emit("Pow", graph.constant(2, values[0].dtype), graph.full(values[0]))


def clamp(graph: Graph, equation: Any, values: list[Value]) -> str:
    """min(max(x, low), high); low and high may be scalars."""
    low, x, high = (graph.full(v) for v in values)
    return graph.emit("Min", graph.emit("Max", x, low), high)


def select(graph: Graph, equation: Any, values: list[Value]) -> str:
    """Where, with jax's order: the case of False comes first."""
    if len(values) != 3 or values[0].dtype != np.bool_:
        raise refuse(equation, "an integer predicate")
    chosen, no, yes = operands(graph, equation, values)
    if values[1].dtype == np.bool_:  # onnxruntime has no Where of bools
        return graph.emit("Or", graph.emit("And", chosen, yes), graph.emit("And", graph.emit("Not", chosen), no))
    return graph.emit("Where", chosen, yes, no)


def cast(graph: Graph, equation: Any, values: list[Value]) -> Value:
    """Cast; a broadcast that waits goes on waiting."""
    (value,) = values
    dtype = np.dtype(equation.params["new_dtype"])
    name = graph.raw(value) if dtype == value.dtype else graph.emit("Cast", graph.raw(value), to=dtype.name)
    return Value(value.shape, dtype, name, whole=value.whole)


def broadcast_in_dim(graph: Graph, equation: Any, values: list[Value]) -> Value:
    """New axes of size 1 now, larger ones when they are needed."""
    value, shape, kept = values[0], equation.params["shape"], equation.params["broadcast_dimensions"]
    new = [axis for axis in range(len(shape)) if axis not in kept]
    before = [1] * len(shape)
    for axis, dim in zip(kept, value.shape, strict=True):
        before[axis] = dim
    whole = value.whole and same(tuple(before), shape)
    if value.data is not None:
        return Value(shape, value.dtype, data=np.expand_dims(value.data, new), whole=whole)
    name = graph.emit("Unsqueeze", value.name, graph.constant(new)) if new else value.name
    return Value(shape, value.dtype, name, whole=whole)


def reshape(graph: Graph, equation: Any, values: list[Value]) -> str:
    """Reshape in row-major order."""
    if equation.params["dimensions"] is not None:
        raise refuse(equation, "another order of the axes")
    return graph.reshape(graph.full(values[0]), equation.params["new_sizes"])


def squeeze(graph: Graph, equation: Any, values: list[Value]) -> str:
    """Axes of size 1 away."""
    axes = [int(axis) % len(values[0].shape) for axis in equation.params["dimensions"]]
    return graph.emit("Squeeze", graph.full(values[0]), graph.constant(axes)) if axes else graph.full(values[0])


def transpose(graph: Graph, equation: Any, values: list[Value]) -> str:
    """Axes in another order."""
    return graph.transpose(graph.full(values[0]), equation.params["permutation"])


def concatenate(graph: Graph, equation: Any, values: list[Value]) -> str:
    """Side by side."""
    return graph.emit("Concat", *(graph.full(v) for v in values), axis=int(equation.params["dimension"]))


def split(graph: Graph, equation: Any, values: list[Value]) -> list[str]:
    """Cut into pieces along one axis."""
    sizes = graph.constant([int(size) for size in equation.params["sizes"]])
    axis = {"axis": int(equation.params["axis"])}
    return list(graph.emit_many("Split", (graph.full(values[0]), sizes), len(equation.outvars), axis))


def slice_(graph: Graph, equation: Any, values: list[Value]) -> str:
    """A box with strides."""
    starts, limits = equation.params["start_indices"], equation.params["limit_indices"]
    strides = equation.params["strides"] or [1] * len(starts)
    axes = graph.constant(range(len(starts)))
    return graph.emit("Slice", graph.full(values[0]), graph.sizes(starts), graph.sizes(limits), axes,
                      graph.constant(strides))  # fmt: skip


def rev(graph: Graph, equation: Any, values: list[Value]) -> str:
    """Some axes backwards."""
    axes = list(equation.params["dimensions"])
    back = graph.constant([-1] * len(axes))
    ends = graph.constant([FAR] * len(axes))
    return graph.emit("Slice", graph.full(values[0]), back, ends, graph.constant(axes), back)


def pad(graph: Graph, equation: Any, values: list[Value]) -> str:
    """A border of one value."""
    config = equation.params["padding_config"]
    if any(inner or low < 0 or high < 0 for low, high, inner in config):
        raise refuse(equation, f"padding {config}")
    pads = graph.sizes((*(low for low, _, _ in config), *(high for _, high, _ in config)))
    return graph.emit("Pad", graph.full(values[0]), pads, graph.full(values[1]), mode="constant")


def dynamic_slice(graph: Graph, equation: Any, values: list[Value]) -> str:
    """A box whose start is computed; jax moves it so that it lies inside."""
    box, size = values[0], equation.params["slice_sizes"]
    starts = [graph.reshape(graph.emit("Cast", graph.full(v), to="int64"), (1,)) for v in values[1:]]
    start = graph.emit("Concat", *starts, axis=0)
    last = graph.emit("Sub", graph.sizes(box.shape), graph.sizes(size))
    start = graph.emit("Min", graph.emit("Max", start, graph.constant([0])), last)
    end = graph.emit("Add", start, graph.sizes(size))
    return graph.emit("Slice", graph.full(box), start, end, graph.constant(range(len(size))))


def iota(graph: Graph, equation: Any, values: list[Value]) -> Value:
    """0, 1, 2, ... along one axis."""
    shape, axis = equation.params["shape"], int(equation.params["dimension"])
    dtype = np.dtype(equation.params["dtype"])
    count = graph.reshape(graph.size(shape[axis]), ())
    numbers = graph.emit("Range", graph.constant(0), count, graph.constant(1))
    numbers = graph.emit("Cast", numbers, to=dtype.name)
    others = [other for other in range(len(shape)) if other != axis]
    name = graph.emit("Unsqueeze", numbers, graph.constant(others)) if others else numbers
    return Value(shape, dtype, name, whole=not others)


def dim_as_value(graph: Graph, equation: Any, values: list[Value]) -> str:
    """A size as a number."""
    number = graph.reshape(graph.size(equation.params["dim"]), ())
    return graph.emit("Cast", number, to=np.dtype(equation.outvars[0].aval.dtype).name)


def reduce_sum(graph: Graph, equation: Any, values: list[Value]) -> str:
    """Sum over some axes."""
    return graph.emit("ReduceSum", graph.full(values[0]), graph.constant(equation.params["axes"]), keepdims=0)


def reduction(op: str) -> Callable[..., str]:
    """Nodes of a maximum, minimum or product over some axes."""

    def nodes(graph: Graph, equation: Any, values: list[Value]) -> str:
        axes = tuple(int(axis) for axis in equation.params["axes"])
        x = graph.full(values[0])
        if values[0].dtype != np.bool_:
            return graph.emit(op, x, axes=axes, keepdims=0)
        counted = graph.emit(op, graph.emit("Cast", x, to="int32"), axes=axes, keepdims=0)
        return graph.emit("Cast", counted, to="bool")

    return nodes


def arg(op: str) -> Callable[..., str]:
    """Nodes of the place of the first largest or smallest value."""

    def nodes(graph: Graph, equation: Any, values: list[Value]) -> str:
        (axis,) = equation.params["axes"]
        x = graph.full(values[0])
        x = graph.emit("Cast", x, to="int32") if values[0].dtype == np.bool_ else x
        found = graph.emit(op, x, axis=int(axis), keepdims=0)
        return graph.emit("Cast", found, to=np.dtype(equation.params["index_dtype"]).name)

    return nodes


def cumsum(graph: Graph, equation: Any, values: list[Value]) -> str:
    """Running sum along one axis."""
    axis = graph.constant(equation.params["axis"])
    return graph.emit("CumSum", graph.full(values[0]), axis, reverse=int(equation.params["reverse"]))


def dot_general(graph: Graph, equation: Any, values: list[Value]) -> str:
    """Batched product: axes brought into the order of MatMul, several of a kind joined into one."""
    (left_sum, right_sum), (left_batch, right_batch) = equation.params["dimension_numbers"]
    left, right = values
    left_free = [i for i in range(len(left.shape)) if i not in (*left_sum, *left_batch)]
    right_free = [i for i in range(len(right.shape)) if i not in (*right_sum, *right_batch)]
    a = graph.transpose(graph.full(left), (*left_batch, *left_free, *left_sum))
    b = graph.transpose(graph.full(right), (*right_batch, *right_sum, *right_free))
    plain = len(left_sum) == 1 and len(right_free) == 1
    if plain and (len(left_free) == 1 or (left_free and not left_batch)):
        return graph.emit("MatMul", a, b)
    batch = tuple(left.shape[i] for i in left_batch)
    inner = math.prod(left.shape[i] for i in left_sum)
    a = graph.reshape(a, (*batch, math.prod(left.shape[i] for i in left_free), inner))
    b = graph.reshape(b, (*batch, inner, math.prod(right.shape[i] for i in right_free)))
    return graph.reshape(graph.emit("MatMul", a, b), equation.outvars[0].aval.shape)


IDENTITIES = ("copy", "copy_p", "name", "stop_gradient", "optimization_barrier", "sharding_constraint")
OPS: dict[str, Callable[..., Any]] = {
    **{name: same_value for name in IDENTITIES},
    "add": elementwise("Add"), "sub": elementwise("Sub"), "mul": elementwise("Mul"), "div": elementwise("Div"),
    "max": elementwise("Max"), "min": elementwise("Min"), "pow": elementwise("Pow"), "rem": elementwise("Mod", fmod=1),
    "eq": elementwise("Equal"), "ne": inverted("Equal"), "lt": elementwise("Less"), "le": elementwise("LessOrEqual"),
    "gt": elementwise("Greater"), "ge": elementwise("GreaterOrEqual"),
    "and": bools_only("And"), "or": bools_only("Or"), "xor": bools_only("Xor"), "not": bools_only("Not"),
    "neg": elementwise("Neg"), "abs": elementwise("Abs"), "sign": elementwise("Sign"), "exp": elementwise("Exp"),
    "floor": elementwise("Floor"), "ceil": elementwise("Ceil"), "log": elementwise("Log"), "sqrt": elementwise("Sqrt"),
    "sin": elementwise("Sin"), "cos": elementwise("Cos"), "tanh": elementwise("Tanh"), "erf": elementwise("Erf"),
    "logistic": elementwise("Sigmoid"), "rsqrt": after("Reciprocal", "Sqrt"),
    "erfc": erfc, "expm1": expm1, "log1p": log1p, "exp2": exp2, "square": square, "integer_pow": integer_pow,
    "clamp": clamp, "select_n": select, "convert_element_type": cast,
    "broadcast_in_dim": broadcast_in_dim, "reshape": reshape, "squeeze": squeeze, "transpose": transpose,
    "concatenate": concatenate, "split": split, "slice": slice_, "rev": rev, "pad": pad, "gather": gather,
    "dynamic_slice": dynamic_slice, "iota": iota, "dim_as_value": dim_as_value,
    "reduce_sum": reduce_sum, "reduce_max": reduction("ReduceMax"), "reduce_min": reduction("ReduceMin"),
    "reduce_prod": reduction("ReduceProd"), "reduce_or": reduction("ReduceMax"), "reduce_and": reduction("ReduceMin"),
    "argmax": arg("ArgMax"), "argmin": arg("ArgMin"), "cumsum": cumsum, "dot_general": dot_general,
}  # fmt: skip
