"""A stated model of what the compiler does not estimate: Pallas attention kernels, as a low and a high time.

The work of a pass is `lit_tune.models.attention.cost.passes`: products padded to the matrix unit's side, and vector
instructions as counted in the compiler's own schedule. Low: matrix unit and vector unit one after the other, which is
what that schedule comes to (the kernel's loop: 1,757 bundles forward and 2,965 backward for a third of a picture of
197 tokens on v5e, so 0.45 and 0.76 ms for 128 pictures; the model says 0.40 and 0.74), or memory where that takes
longer. High: half as long again for stalls, and then memory, nothing under it. Never held against a TPU.
"""

import re
from typing import NamedTuple

from lit_tune.models.attention import cost
from lit_tune.planning.chips import Chip
from lit_tune.planning.hlo import Instruction, Program, Shape

VECTOR_LANES = 8 * 128 * 4  # elements a TensorCore's vector unit takes a cycle: 8 sublanes, 128 lanes, 4 units
STALLS, SLOW_MEMORY = 1.5, 3.0
FLOAT32_PRODUCTS = 6  # bfloat16 products that stand for one of float32
TARGET = "tpu_custom_call"


class Kernel(NamedTuple):
    """A Pallas call of a program.

    Attributes:
        name: as the kernel's author gave it.
        operands: shapes.
        results: shapes.
        times: a step.
        products: matrix products of an attention kernel, forward or backward; 0 for any other kernel, of which only
            the bytes are known.
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
        return Span(memory, SLOW_MEMORY * memory)
    pictures, tokens, width = _sizes(kernel, heads)
    flops, elements = cost.passes(tokens, heads, width // heads, kernel.products == cost.BACKWARD, chip.mxu)
    flops *= FLOAT32_PRODUCTS if kernel.operands[0].dtype == "f32" else 1
    busy = pictures * (flops / chip.peak + elements / (VECTOR_LANES * chip.cores // chip.devices * chip.clock))
    return Span(max(busy, memory), STALLS * busy + memory)


def _products(operands: tuple[Shape, ...], results: tuple[Shape, ...]) -> int:
    """Of an attention kernel: three or more equal arrays go in, one (forward) or three (backward) come out."""
    large = [shape for shape in operands if len(shape.dims) in (3, 4)]
    equal = max((large.count(shape) for shape in large), default=0)
    made = sum(shape.dims in {one.dims for one in large} for shape in results)
    if equal < 3 or made not in (1, 3):
        return 0
    return cost.FORWARD if made == 1 else cost.BACKWARD


def _sizes(kernel: Kernel, heads: int) -> tuple[int, int, int]:
    """(images, tokens, width of all heads) of an attention kernel."""
    large = [shape for shape in kernel.operands if len(shape.dims) in (3, 4)]
    shape = max(large, key=large.count).dims
    if len(shape) == 3:
        return shape
    b, n, k = shape[0], *((shape[2], shape[3]) if shape[1] == heads else (shape[1], shape[3]))
    return b, n, heads * k


def _name(line: Instruction) -> str:
    """The kernel's own name."""
    found = re.search(r'kernel_name\W+"?([\w.\-]+)', line.text)
    return found[1] if found else line.source.rsplit("/", 1)[-1] or line.name
