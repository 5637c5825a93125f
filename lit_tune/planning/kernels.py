"""A stated model of what the compiler does not estimate: Pallas attention kernels, as a low and a high time.

One image and one head at a time. A product (m, k) x (k, n) takes m rows through a matrix unit whose side k and n are
padded to; a kernel's softmax, mask and rotary positions are 22 vector operations an element of the (n, n) logits,
forward and backward together. Low: the longest of matrix unit, vector unit and memory, all at full rate. High: the
three one after the other, the vector unit at a third of its rate. Never held against a TPU.
"""

import re
from typing import NamedTuple

from lit_tune.planning.chips import Chip
from lit_tune.planning.hlo import Instruction, Program, Shape

ROWS = 16  # bfloat16 rows of a tile: what m is padded to
VECTOR_LANES = 8 * 128 * 4  # elements a TensorCore's vector unit takes a cycle: 8 sublanes, 128 lanes, 4 units
FORWARD_OPERATIONS, BACKWARD_OPERATIONS = 7, 15  # of the 22
SLOW_VECTOR = 3.0
TARGET = "tpu_custom_call"


class Kernel(NamedTuple):
    """A Pallas call of a program.

    Attributes:
        name: as the kernel's author gave it.
        operands: shapes.
        results: shapes.
        times: a step.
        products: matrix products of an attention kernel, 2 forward and 5 backward; 0 for any other kernel, of which
            only the bytes are known.
        estimated: the compiler's cycles include it.
    """

    name: str
    operands: tuple[Shape, ...]
    results: tuple[Shape, ...]
    times: int
    products: int
    estimated: bool

    @property
    def bytes(self) -> int:
        """Of operands and results of one run."""
        return sum(shape.bytes for shape in (*self.operands, *self.results))


class Span(NamedTuple):
    """Seconds, at best and at worst."""

    low: float
    high: float


def find(program: Program) -> list[Kernel]:
    """The Pallas calls of a program, equal ones together."""
    found: dict[tuple, int] = {}
    shapes: dict[str, dict[str, tuple[Shape, ...]]] = {}
    for visit in program.visits():
        line = visit.instruction
        if line.target != TARGET:
            continue
        if visit.computation not in shapes:
            shapes[visit.computation] = {other.name: other.shapes for other in program.computations[visit.computation]}
        operands = tuple(shape for name in line.operands for shape in shapes[visit.computation].get(name, ()))
        key = (_name(line), operands, line.shapes, line.cycles is not None)
        found[key] = found.get(key, 0) + visit.times
    return [Kernel(name, operands, results, times, _products(operands, results), estimated)
            for (name, operands, results, estimated), times in found.items()]


def span(kernel: Kernel, chip: Chip, heads: int) -> Span:
    """Time of one run of a kernel.

    Args:
        kernel: with (b, n, h k) or (b, h, n, k) operands.
        chip: that it runs on.
        heads: of the attention, those of one device.
    """
    memory = kernel.bytes / chip.hbm_rate
    if not kernel.products:
        return Span(memory, SLOW_VECTOR * memory)
    (b, n, width), operations = _sizes(kernel, heads), (
        FORWARD_OPERATIONS if kernel.products == 2 else BACKWARD_OPERATIONS)
    rows, wide, narrow = _pad(n, ROWS), _pad(n, chip.mxu), _pad(width // heads, chip.mxu)
    matrix = kernel.products * 2 * rows * wide * narrow * b * heads / chip.peak
    vector = operations * rows * _pad(n, 128) * b * heads / (VECTOR_LANES * chip.cores * chip.clock)
    return Span(max(matrix, vector, memory), matrix + SLOW_VECTOR * vector + memory)


def _products(operands: tuple[Shape, ...], results: tuple[Shape, ...]) -> int:
    """Of an attention kernel: three or more equal arrays go in, one (forward) or three (backward) come out."""
    large = [shape for shape in operands if len(shape.dims) in (3, 4)]
    equal = max((large.count(shape) for shape in large), default=0)
    made = sum(shape.dims in {one.dims for one in large} for shape in results)
    if equal < 3 or made not in (1, 3):
        return 0
    return 2 if made == 1 else 5


def _sizes(kernel: Kernel, heads: int) -> tuple[int, int, int]:
    """(images, tokens, width of all heads) of an attention kernel."""
    large = [shape for shape in kernel.operands if len(shape.dims) in (3, 4)]
    shape = max(large, key=large.count).dims
    if len(shape) == 3:
        return shape
    b, n, k = shape[0], *((shape[2], shape[3]) if shape[1] == heads else (shape[1], shape[3]))
    return b, n, heads * k


def _pad(size: int, unit: int) -> int:
    """The next multiple."""
    return -(-size // unit) * unit


def _name(line: Instruction) -> str:
    """The kernel's own name."""
    found = re.search(r'kernel_name\W+"?([\w.\-]+)', line.text)
    return found[1] if found else line.source.rsplit("/", 1)[-1] or line.name
