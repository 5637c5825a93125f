"""What a compiled program sends between devices: kind, bytes, how often, and over which axes of the mesh."""

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from lit_tune.planning.hlo import Program, Shape, Visit

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute",
         "collective-broadcast")
ALL_DEVICES = "all"
TRANSFER = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
TRANSFERS = {"ONE_TO_ONE": "collective-permute"}  # the other names are the kinds' own

Groups = frozenset[frozenset[int]]


class Layout(NamedTuple):
    """How devices stand in the mesh.

    Attributes:
        axes: {name: size}, in the mesh's order; a device's number is its place in the mesh, row by row.
        slice_of: the slice of each device, in that order.
    """

    axes: dict[str, int]
    slice_of: tuple[int, ...]

    def one_slice(self) -> "Layout":
        """The devices of one slice; the first axis is the one that crosses slices."""
        slices = len(set(self.slice_of))
        first, *rest = self.axes.items()
        return Layout({first[0]: first[1] // slices, **dict(rest)}, (0,) * (len(self.slice_of) // slices))


class Collective(NamedTuple):
    """One exchange between devices; sizes are one device's, whole where it ends (gather) or begins (scatter).

    Attributes:
        kind: one of `KINDS`.
        axis: of the mesh, joined by +; "all" for every device, "?" for groups that are no axes.
        shapes: what is exchanged, several arrays where the compiler joined exchanges.
        times: a step.
        group: devices that exchange with each other.
        crosses_slices: over the data centre's network.
        asynchronous: the compiler runs other work meanwhile.
        estimated: the compiler's cycles include it.
        source: jax's name of the operation.
        name: of the instruction that waits for the network, "" for an exchange that the chips make themselves.
    """

    kind: str
    axis: str
    shapes: tuple[Shape, ...]
    times: int
    group: int
    crosses_slices: bool
    asynchronous: bool
    estimated: bool
    source: str
    name: str = ""

    @property
    def bytes(self) -> int:
        """Of one run."""
        return sum(shape.bytes for shape in self.shapes)

    @property
    def largest(self) -> Shape:
        """The largest array."""
        return max(self.shapes, key=lambda shape: shape.bytes)


def find(program: Program, layout: Layout) -> list[Collective]:
    """Every exchange of a program between more than one device, largest first.

    A gather that the compiler cuts into pieces, to run them under other work, stands in the text once a piece, in
    fusions of their own and with one channel number: it is one exchange.

    A program for several slices is the program of one: its replica groups number the devices of a slice, and what
    crosses the network is handed to the hosts and taken back (`_transfers`).
    """
    found, pieces = _transfers(program, layout), defaultdict(list)
    starts = {visit.computation for visit in program.visits() if visit.instruction.target == "AsyncCollectiveStart"}
    for visit in program.visits():
        kind = _kind(visit)
        channel = re.search(r"channel_id=(\d+)", visit.instruction.text)
        if kind and visit.fused and channel:
            pieces[kind, channel[1], visit.instruction.shapes].append(visit)
        elif kind:
            found.append(_collective(program, visit, kind, layout, visit.times, _is_asynchronous(visit)))
    for (kind, _, _), visits in pieces.items():
        begun = [visit for visit in visits if visit.computation in starts]
        first, split = (begun or visits)[0], bool(begun)
        times = sum(visit.times for visit in (begun or visits))
        found.append(_collective(program, first, kind, layout, times, split))
    real = [one for one in found if one.group > 1]
    return sorted(real, key=lambda one: -one.bytes * one.times)


def groups(text: str, devices: int) -> Groups:
    """Which devices exchange with each other, from an instruction's attributes in any of their spellings.

    Args:
        text: replica_groups={{0,1},{2,3}}, ={}, =[2,4]<=[4,2]T(1,0), =mesh['a'=4,'b'=2] {'a'}, or
            source_target_pairs={{0,1},{1,0}}.
        devices: how many there are.
    """
    if found := re.search(r"source_target_pairs=\{(.*?\})\}", text):
        return _joined(re.findall(r"\{(\d+),(\d+)\}", found[1] + "}"))
    if found := re.search(r"replica_groups=(\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?)", text):
        return _sets(_iota(found[1]))
    if found := re.search(r"replica_groups=@?mesh\w*\[([^\]]*)\]\s*\{([^}]*)\}", text):
        return _sets(_axes(found[1], found[2]))
    if found := re.search(r"replica_groups=\{(\{.*?\})\}", text):
        return frozenset(frozenset(map(int, group.split(","))) for group in re.findall(r"\{([\d,]+)\}", found[1]))
    return frozenset({frozenset(range(devices))})


def axis_of(found: Groups, layout: Layout) -> str:
    """The mesh axes whose devices form these groups."""
    grid = np.arange(math.prod(layout.axes.values())).reshape(tuple(layout.axes.values()))
    if len(found) == 1 and len(next(iter(found))) == grid.size:
        names = [name for name, size in layout.axes.items() if size > 1]
        return names[0] if len(names) == 1 else ALL_DEVICES
    wide = [i for i, size in enumerate(layout.axes.values()) if size > 1]
    for chosen in itertools.chain.from_iterable(itertools.combinations(wide, n) for n in range(1, len(wide) + 1)):
        others = [i for i in range(grid.ndim) if i not in chosen]
        rows = grid.transpose(*others, *chosen).reshape(-1, math.prod(grid.shape[i] for i in chosen))
        if _sets(rows) == found:
            return "+".join(list(layout.axes)[i] for i in chosen)
    return "?"


def _kind(visit: Visit) -> str:
    """The kind of exchange that an instruction begins, "" for anything else."""
    opcode = visit.instruction.opcode.removesuffix("-start")
    # a TPU's reduce-scatter is a fusion of this name around an all-reduce that each device keeps its part of
    if opcode == "all-reduce" and visit.computation.startswith("all-reduce-scatter"):
        return "reduce-scatter"
    return opcode if opcode in KINDS else ""


def _transfers(program: Program, layout: Layout) -> list[Collective]:
    """The exchanges between slices: each chip with those in its place in the other slices, by way of the hosts.

    A send and a receive stand for each, with a name in common. The whole array is the larger of the two: the one
    received of a gather, either of a reduction.
    """
    visits = [visit for visit in program.visits() if TRANSFER.search(visit.instruction.text)]
    sent = {_rendezvous(visit): visit.instruction for visit in visits if visit.instruction.opcode == "send"}
    found = []
    for visit in visits:
        line = visit.instruction
        if line.opcode != "recv":
            continue
        name = TRANSFER.search(line.text)[1]
        both = [one.shapes[:-1] for one in (line, sent.get(_rendezvous(visit), line))]  # the last is the state
        whole = max(both, key=lambda shapes: sum(shape.bytes for shape in shapes))
        members = re.search(r'_xla_megascale_target="\{([\d,]+)\}', line.text)
        group = len(members[1].split(",")) if members else len(set(layout.slice_of))
        found.append(Collective(
            TRANSFERS.get(name, name.lower().replace("_", "-")), next(iter(layout.axes)), whole, visit.times, group,
            crosses_slices=True, asynchronous=_works_between(program, visit), estimated=False,
            source=line.source or _rendezvous(visit), name=line.name))
    return found


def _rendezvous(visit: Visit) -> str:
    """The name that the send and the receive of an exchange between slices share."""
    found = re.search(r'_xla_host_transfer_rendezvous="([^"]*)"', visit.instruction.text)
    return found[1] if found else ""


def _works_between(program: Program, visit: Visit) -> bool:
    """Whether the schedule has other work between a receive and the line that waits for it."""
    lines = program.computations[visit.computation]
    start = next(i for i, line in enumerate(lines) if line.name == visit.instruction.name)
    for line in lines[start + 1 :]:
        if line.opcode == "recv-done" and visit.instruction.name in line.operands:
            return False
        if line.cycles:
            return True
    return False


def _is_asynchronous(visit: Visit) -> bool:
    """Whether the exchange is begun here and waited for later."""
    return visit.apart or visit.instruction.opcode.endswith("-start")


def _collective(program: Program, visit: Visit, kind: str, layout: Layout, times: int,
                asynchronous: bool) -> Collective:
    """An exchange from the instruction that begins it."""
    line = visit.instruction
    exchanged = _exchanged(program, visit, kind)
    part = layout.one_slice() if 0 < program.partitions < len(layout.slice_of) else layout
    found = groups(line.text, len(part.slice_of))
    crosses = any(len({part.slice_of[device] for device in group}) > 1 for group in found)
    axis = axis_of(found, part)
    if part is not layout and axis == ALL_DEVICES:  # of the slice
        axis = "+".join(name for name, size in part.axes.items() if size > 1)
    return Collective(kind, axis, exchanged, times, max(map(len, found)), crosses, asynchronous,
                      line.cycles is not None, line.source)


def _exchanged(program: Program, visit: Visit, kind: str) -> tuple[Shape, ...]:
    """The whole arrays of an exchange: what a gather makes, what a reduction is given."""
    line = visit.instruction
    if kind == "reduce-scatter" and line.opcode.startswith("reduce-scatter"):
        given = {other.name: other.shapes for other in program.computations[visit.computation]}
        return tuple(shape for name in line.operands for shape in given.get(name, ())) or line.shapes
    if not line.opcode.endswith("-start") or kind == "all-reduce":
        return line.shapes
    arrays = tuple(shape for shape in line.shapes if shape.dims)  # the state of the exchange stands behind them
    return arrays[len(arrays) // 2 :]  # ((given), (made), state)


def _iota(text: str) -> np.ndarray:
    """(groups, members) of [2,4]<=[4,2]T(1,0)."""
    shape, source, order = re.fullmatch(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text).groups()
    sizes = _numbers(source)
    devices = np.arange(math.prod(sizes)).reshape(sizes)
    rows = devices.transpose(_numbers(order)) if order else devices
    shape = _numbers(shape)
    return rows.reshape(-1, shape[-1])


def _axes(mesh: str, chosen: str) -> np.ndarray:
    """(groups, members) of the mesh 'a'=4,'b'=2 and the axes 'a','b':(1)2: a part of an axis is (before it)size."""
    sizes = [(name, int(size)) for name, size in re.findall(r"['\"]?([\w.]+)['\"]?=(\d+)", mesh)
             if name != "device_ids"]
    parts: list[tuple[int, bool]] = []  # (size, chosen), axis by axis, an axis of which a part is chosen in three
    wanted = {name: (before, size) for name, before, size in re.findall(
        r"['\"]([\w.]+)['\"](?::\((\d+)\)(\d+))?", chosen)}
    for name, size in sizes:
        if name not in wanted:
            parts.append((size, False))
        elif not wanted[name][1]:
            parts.append((size, True))
        else:
            before, part = int(wanted[name][0]), int(wanted[name][1])
            parts += [(before, False), (part, True), (size // before // part, False)]
    grid = np.arange(math.prod(size for size, _ in parts)).reshape([size for size, _ in parts])
    inside = [i for i, (_, mine) in enumerate(parts) if mine]
    outside = [i for i, (_, mine) in enumerate(parts) if not mine]
    return grid.transpose(*outside, *inside).reshape(-1, math.prod(parts[i][0] for i in inside))


def _joined(pairs: Iterable[Sequence[str]]) -> Groups:
    """The devices that send to each other, directly or by others."""
    home: dict[int, set[int]] = {}
    for pair in pairs:
        a, b = map(int, pair)
        both = home.setdefault(a, {a}) | home.setdefault(b, {b})
        home.update(dict.fromkeys(both, both))
    return frozenset(map(frozenset, home.values()))


def _sets(rows: np.ndarray) -> Groups:
    return frozenset(frozenset(map(int, row)) for row in rows)


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]
