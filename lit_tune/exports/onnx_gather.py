"""jax's gather as ONNX nodes: the three forms that indexing makes.

`table[ids]` and `take` are Gather; `x[:, 0]` and `x[:n]` are Slice; `x[rows, columns]` and `take_along_axis` are
GatherND. Indices are taken to lie inside, as ours do; a runtime stops with an error where one does not.
"""

from typing import Any

from lit_tune.exports.onnx_graph import Graph, Value, refuse, same


def gather(graph: Graph, equation: Any, values: list[Value]) -> str:
    """One of the three forms, in the order of axes that jax asks for."""
    x, indices = values
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    if len(indices.shape) == 1:
        return _window(graph, x, indices, numbers, sizes)
    dropped = (*numbers.operand_batching_dims, *numbers.collapsed_slice_dims)
    kept = [axis for axis in range(len(x.shape)) if axis not in dropped]
    if set(numbers.start_index_map) != set(numbers.collapsed_slice_dims) or not all(
        same((sizes[axis],), (x.shape[axis],)) for axis in kept
    ):
        raise refuse(equation, "windows at many places")
    if len(numbers.start_index_map) == 1 and not numbers.operand_batching_dims:
        return _one_axis(graph, equation, x, indices)
    return _points(graph, equation, x, indices, kept)


def _int64(graph: Graph, value: Value) -> str:
    return graph.emit("Cast", graph.full(value), to="int64")


def _window(graph: Graph, x: Value, indices: Value, numbers: Any, sizes: tuple[Any, ...]) -> str:
    """A box at one place, its collapsed axes dropped."""
    axes = list(numbers.start_index_map)
    start = graph.constant(indices.data) if indices.data is not None else _int64(graph, indices)
    size = graph.sizes(tuple(sizes[axis] for axis in axes))
    fixed = indices.data is not None and all(isinstance(sizes[axis], int) for axis in axes)
    end = (
        graph.constant([int(i) + sizes[axis] for i, axis in zip(indices.data, axes, strict=True)])
        if fixed else graph.emit("Add", start, size)
    )  # fmt: skip
    box = graph.emit("Slice", graph.full(x), start, end, graph.constant(axes))
    # axes that no index moves along may be cut too
    rest = [axis for axis in range(len(x.shape)) if axis not in axes and not same((sizes[axis],), (x.shape[axis],))]
    if rest:
        ends = graph.sizes(tuple(sizes[axis] for axis in rest))
        box = graph.emit("Slice", box, graph.constant([0] * len(rest)), ends, graph.constant(rest))
    collapsed = list(numbers.collapsed_slice_dims)
    return graph.emit("Squeeze", box, graph.constant(collapsed)) if collapsed else box


def _one_axis(graph: Graph, equation: Any, x: Value, indices: Value) -> str:
    """Rows of one axis; Gather puts the indices' axes where that axis was."""
    (axis,) = equation.params["dimension_numbers"].start_index_map
    last = len(indices.shape) - 1
    rows = graph.emit("Squeeze", graph.full(indices), graph.constant([last]))
    found = graph.emit("Gather", graph.full(x), rows, axis=int(axis))
    return _ordered(graph, equation, found, lead=axis, count=last)


def _points(graph: Graph, equation: Any, x: Value, indices: Value, kept: list[int]) -> str:
    """Single places of several axes, for each element of the batching axes on its own."""
    numbers = equation.params["dimension_numbers"]
    batching = list(numbers.start_indices_batching_dims)
    last = len(indices.shape) - 1
    others = [axis for axis in range(last) if axis not in batching]
    data = graph.transpose(graph.full(x), (*numbers.operand_batching_dims, *numbers.start_index_map, *kept))
    places = graph.transpose(_int64(graph, indices), (*batching, *others, last))
    found = graph.emit("GatherND", data, places, batch_dims=len(batching))
    order = [*batching, *others]  # where the axes of the indices stand in the result, before the kept ones
    if order != sorted(order):
        back = [order.index(axis) for axis in range(last)]
        found = graph.transpose(found, (*back, *range(last, last + len(kept))))
    return _ordered(graph, equation, found, lead=0, count=last)


def _ordered(graph: Graph, equation: Any, name: str, lead: int, count: int) -> str:
    """Axes in jax's order: those of the indices stand at `lead`, jax wants them where no offset axis is."""
    rank = len(equation.outvars[0].aval.shape)
    offsets = list(equation.params["dimension_numbers"].offset_dims)
    batch = [axis for axis in range(rank) if axis not in offsets]
    standing = offsets[:lead] + batch + offsets[lead:]  # which axis of the result each axis is
    assert len(batch) == count
    return graph.transpose(name, [standing.index(axis) for axis in range(rank)])
