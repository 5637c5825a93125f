"""The compiler's own estimate of a program's time: its `estimated_cycles`, loops by their trip count.

Static: no TPU was asked. Pallas kernels and most exchanges carry no estimate (see `kernels.py` and `traffic.py`).
"""

from collections import Counter
from typing import NamedTuple

from lit_tune.planning.hlo import Instruction, Program

MOVES = frozenset(("parameter", "constant", "copy", "transpose", "bitcast", "reshape", "slice", "concatenate", "pad",
                   "broadcast", "dynamic-slice", "dynamic-update-slice", "tuple", "get-tuple-element", "iota",
                   "bitcast-convert", "copy-start", "copy-done"))


class Cycles(NamedTuple):
    """Estimated cycles of one step.

    Attributes:
        low, high: with the cheapest and the dearest branch of every conditional.
        kinds: of the high one, by matmul, elementwise, copy, collective and custom call.
        conditionals: how many there are.
        unknown_loops: names of loops whose trip count the text does not say; their bodies count once.
    """

    low: int
    high: int
    kinds: dict[str, int]
    conditionals: int
    unknown_loops: tuple[str, ...]


def count(program: Program) -> Cycles:
    """The estimate of a whole program."""
    seen: dict[str, tuple[int, Counter[str]]] = {}
    visits = list(program.visits())
    lines = [visit.instruction for visit in visits]
    unknown = tuple(line.name for line in lines if line.opcode == "while" and program.trips(line) is None)
    low, kinds = _cost(program, program.entry, seen)
    conditionals = sum(visit.times for visit in visits if visit.instruction.opcode == "conditional")
    return Cycles(low, kinds.total(), dict(kinds), conditionals, unknown)


def _cost(program: Program, computation: str, seen: dict[str, tuple[int, Counter[str]]]) -> tuple[int, Counter[str]]:
    """(low, high by kind) of a computation."""
    if computation not in seen:
        low, kinds = 0, Counter()
        for line in program.computations.get(computation, ()):
            cheap, dear = of_line(program, line, seen)
            low += cheap
            kinds.update(dear)
        seen[computation] = low, kinds
    return seen[computation]


def of_line(program: Program, line: Instruction,
            seen: dict[str, tuple[int, Counter[str]]]) -> tuple[int, Counter[str]]:
    """(low, high by kind) of one instruction and what it runs; a fusion's own line stands for its inside.

    Args:
        program: that it stands in.
        line: it.
        seen: computations that are counted already; more are added.
    """
    own = line.cycles or 0
    low, kinds = own, Counter({kind(program, line): own} if own else {})
    if line.opcode == "while":
        times = program.trips(line) or 1
        cheap, dear = _cost(program, line.attribute("body"), seen)
        low += times * cheap
        kinds.update({name: times * value for name, value in dear.items()})
    elif line.opcode == "conditional":
        branches = [_cost(program, name, seen) for name in line.branches()]
        low += min(cheap for cheap, _ in branches)
        kinds.update(max((dear for _, dear in branches), key=Counter.total))
    elif line.opcode in ("call", "async-start", "call-start"):
        for name in line.called():
            cheap, dear = _cost(program, name, seen)
            low += cheap
            kinds.update(dear)
    return low, kinds


def kind(program: Program, line: Instruction) -> str:
    """What an instruction's time goes into."""
    if line.opcode == "custom-call":
        return "custom call"
    opcodes = {inner.opcode for inner in program.body(line)} if line.opcode == "fusion" else {line.opcode}
    if opcodes & {"convolution", "dot"}:
        return "matmul"
    if any(opcode.startswith(("all-", "reduce-scatter", "collective", "ragged")) for opcode in opcodes):
        return "collective"
    return "copy" if opcodes <= MOVES else "elementwise"
