"""The text of a compiled program, read: computations, instructions, shapes, and how often each instruction runs.

Reads what `compiled.as_text()` of jax 0.10 to 0.12 writes, for TPU and CPU; nothing here knows a model or a chip.
"""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

BITS = {"pred": 8, "token": 0, "opaque": 0, "s2": 2, "u2": 2, "s4": 4, "u4": 4}
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{\s*$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = ")
SHAPE = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,<=]*)\]")
CALLED = re.compile(r"\b(?:calls|to_apply|called_computations)=(?:\{([^}]*)\}|%?([\w.\-]+))")
BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}|\b(?:true|false)_computation=%?([\w.\-]+)")
PARTITIONS = re.compile(r"^HloModule .*\bnum_partitions=(\d+)")
TRIPS = re.compile(r'"?known_trip_count"?\s*[:=]\s*\{\s*"?n"?\s*[:=]\s*"?(\d+)')
NO_ESTIMATE = 2**62  # the largest int64 stands where the compiler could not say
CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


class Shape(NamedTuple):
    """One array's element type, as HLO names it, and its dimensions."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.dims)

    @property
    def bytes(self) -> int:
        """Bytes without padding."""
        digits = re.search(r"\d+", self.dtype)
        bits = BITS[self.dtype] if self.dtype in BITS else int(digits[0]) if digits else 8
        return (self.size * bits + 7) // 8


class Instruction(NamedTuple):
    """One line of a computation.

    Attributes:
        name: unique in the program.
        opcode: all-gather, fusion, while...
        shapes: of the result, more than one for a tuple.
        operands: names.
        text: what stands behind the operands: attributes, metadata, backend_config.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    text: str

    @property
    def cycles(self) -> int | None:
        """The compiler's own estimate, None where it makes none."""
        found = CYCLES.search(self.text)
        return int(found[1]) if found and int(found[1]) < NO_ESTIMATE else None

    @property
    def target(self) -> str:
        """Of a custom call."""
        found = re.search(r'custom_call_target="([^"]*)"', self.text)
        return found[1] if found else ""

    @property
    def source(self) -> str:
        """The name that jax gave the operation, "" for one of the compiler's own."""
        found = re.search(r'op_name="([^"]*)"', self.text)
        return found[1] if found else ""

    def called(self) -> tuple[str, ...]:
        """Computations that it runs once; none of a loop's or a conditional's."""
        return tuple(name for group in CALLED.findall(self.text) for name in _names(group))

    def branches(self) -> tuple[str, ...]:
        """Computations of which a conditional runs one."""
        return tuple(name for group in BRANCHES.findall(self.text) for name in _names(group))

    def attribute(self, name: str) -> str:
        """The computation that `name=` names (body, condition), "" if none."""
        found = re.search(rf"\b{name}=%?([\w.\-]+)", self.text)
        return found[1] if found else ""


class Visit(NamedTuple):
    """An instruction in its place.

    Attributes:
        instruction: it.
        computation: the computation that it stands in.
        times: runs a step.
        fused: inside a fusion, whose own line carries the cost.
        apart: begun and waited for later, other work between.
    """

    instruction: Instruction
    computation: str
    times: int
    fused: bool
    apart: bool


@dataclass(frozen=True)
class Program:
    """A compiled program as text says it is.

    Attributes:
        computations: by name, their lines in the order that they run in.
        entry: the name of the one that runs.
        partitions: devices that its replica groups number; of several slices those of one. 0 where the text has none.
    """

    computations: dict[str, list[Instruction]]
    entry: str
    partitions: int = 0

    def trips(self, loop: Instruction) -> int | None:
        """How often a `while` runs: what the compiler says, else the constant it compares with, else None."""
        known = TRIPS.search(loop.text)
        if known:
            return int(known[1])
        bounds = [int(value) for line in self._below(loop.attribute("condition")) if line.opcode == "constant"
                  and line.shapes[0].dims == () and (value := line.operands[0] if line.operands else "").isdigit()]
        return max(bounds) if bounds else None

    def _below(self, computation: str) -> Iterator[Instruction]:
        """The instructions of a computation and of those that it calls."""
        for line in self.computations.get(computation, ()):
            yield line
            for name in line.called():
                yield from self._below(name)

    def body(self, fusion: Instruction) -> Iterator[Instruction]:
        """The instructions inside a fusion, at any depth."""
        for name in fusion.called():
            yield from self._below(name)

    def visits(self) -> Iterator[Visit]:
        """Every instruction that runs, at every place that it runs from, with how often."""
        yield from self._walk(self.entry, 1, False, False)

    def _walk(self, computation: str, times: int, fused: bool, apart: bool) -> Iterator[Visit]:
        """`visits` of a computation that runs `times` times."""
        for line in self.computations.get(computation, ()):
            yield Visit(line, computation, times, fused, apart)
            if line.opcode == "while":
                yield from self._walk(line.attribute("body"), times * (self.trips(line) or 1), fused, apart)
            elif line.opcode == "conditional":
                for name in line.branches():
                    yield from self._walk(name, times, fused, apart)
            elif line.opcode in ("fusion", "call", "async-start", "call-start"):
                for name in line.called():
                    yield from self._walk(name, times, fused or line.opcode == "fusion",
                                          apart or line.opcode.endswith("-start"))


def read(text: str) -> Program:
    """The program that a text of `compiled.as_text()` holds.

    Raises:
        ValueError: there is no entry computation in it.
    """
    computations: dict[str, list[Instruction]] = {}
    entry, lines = "", None
    for line in text.splitlines():
        if lines is not None and line.startswith("}"):
            lines = None
        elif lines is not None:
            found = _instruction(line)
            lines += [found] if found else []
        elif header := COMPUTATION.match(line):
            lines = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
    if not entry:
        raise ValueError("no ENTRY computation in the program's text")
    found = PARTITIONS.match(text)
    return Program(computations, entry, int(found[1]) if found else 0)


@functools.lru_cache(maxsize=4096)
def shapes(text: str) -> tuple[Shape, ...]:
    """The arrays of a type: one, or those of a tuple."""
    return tuple(Shape(dtype, tuple(int(d.lstrip("<=")) for d in dims.split(",") if d))
                 for dtype, dims in SHAPE.findall(text) if dtype not in ("token", "opaque"))


def _instruction(line: str) -> Instruction | None:
    """One line of a computation, None for anything else."""
    head = INSTRUCTION.match(line)
    if head is None:
        return None
    start = head.end()
    end = _closing(line, start) + 1 if line[start] == "(" else line.find(" ", start)
    opened = line.find("(", end)
    if end <= start or opened < 0:
        return None
    closed = _closing(line, opened)
    operands = re.sub(r"/\*.*?\*/", "", line[opened + 1 : closed])
    # older texts repeat the type of each operand; the name is the last word of it
    words = [part.split()[-1].lstrip("%") for part in _split(operands) if part.strip()]
    return Instruction(head[1], line[end:opened].strip(), shapes(line[start:end]), tuple(words), line[closed + 1 :])


def _closing(text: str, opened: int) -> int:
    """Where the bracket that opens at `opened` closes."""
    depth = 0
    for found in re.finditer(r"[()]", text[opened:]):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return opened + found.start()
    return len(text) - 1


def _split(text: str) -> list[str]:
    """The parts between the commas that stand in no bracket."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _names(group: tuple[str, ...]) -> list[str]:
    """Names in the groups of a match: %a, %b."""
    return [word.strip().lstrip("%") for part in group for word in part.split(",") if word.strip()]
