"""A stated model of what exchanges between chips take, where the compiler gives no cycles, as a low and a high time.

Inside a slice a ring over all links of a chip, each device sending (g - 1) / g of the bytes, twice for a reduction that
everyone gets. Low: all links, and nothing for an exchange that runs under other work. High: the links of one direction
of the grid, nothing hidden.

Between slices the data centre's network, each chip with its part of its host's and of its slice's bytes, the same
(g - 1) / g of them for g slices. Low: at the host's full rate, one exchange after the other, less what the schedule
has the chips do meanwhile. High: at half the rate, nothing hidden. Two v6e hosts that each sum 4 GiB were measured at
198 of their 400 Gbit/s, gathers at 221 (github.com/elbertwang/google_support, dcn/v6e, read 2026-11).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lit_tune.planning import cycles
from lit_tune.planning.chips import Chip
from lit_tune.planning.collectives import Collective
from lit_tune.planning.hlo import Program
from lit_tune.planning.kernels import Span

PASSES = {"all-reduce": 2.0, "all-gather": 1.0, "reduce-scatter": 1.0, "all-to-all": 1.0, "ragged-all-to-all": 1.0,
          "collective-permute": 1.0, "collective-broadcast": 1.0}
SLOW_NETWORK = 2.0


class Sent(NamedTuple):
    """Seconds of all exchanges of a step: between the chips of a slice, and over the data centre's network."""

    inside: Span
    network: Span

    @property
    def whole(self) -> Span:
        """Both."""
        return Span(self.inside.low + self.network.low, self.inside.high + self.network.high)


def time(program: Program, found: Sequence[Collective], chip: Chip, slices: int) -> Sent:
    """What the exchanges of a program add to a step.

    Args:
        program: it.
        found: its exchanges.
        chip: of the mesh.
        slices: in the mesh.
    """
    near = [_inside(one, chip, slices) for one in found]
    far = [(one, network_bytes(one, slices) / chip.network_rate) for one in found]
    waits = {one.name: seconds / one.times for one, seconds in far if one.name}
    low = sum(seconds for one, seconds in far if not one.name and not one.asynchronous)
    if waits:  # only a TPU's compiler writes them, and only its chips have a clock here
        low += _waited(program, program.entry, waits, chip, {})
    return Sent(Span(sum(one.low for one in near), sum(one.high for one in near)),
                Span(low, SLOW_NETWORK * sum(seconds for _, seconds in far)))


def network_bytes(one: Collective, slices: int) -> float:
    """What one device sends to other slices in all runs of an exchange in a step."""
    if not one.crosses_slices:
        return 0.0
    if one.name:  # by way of the hosts: this chip's own part, among the chips in its place
        part, among = one.bytes, one.group
    else:  # one exchange of the chips of all slices
        part, among = one.bytes / max(1, one.group // slices), slices
    return PASSES[one.kind] * part * one.times * (among - 1) / among


def _inside(one: Collective, chip: Chip, slices: int) -> Span:
    """Time of all runs of an exchange in a step, over the links of a slice."""
    if one.estimated or one.name:
        return Span(0.0, 0.0)
    inside = max(1, one.group // (slices if one.crosses_slices else 1))
    send = chip.link_rate / 2  # one way
    near = PASSES[one.kind] * one.bytes * one.times * (inside - 1) / inside / send
    return Span(0.0 if one.asynchronous else near, near * max(1, chip.dimensions))


def _waited(program: Program, computation: str, far: Mapping[str, float], chip: Chip, seen: dict) -> float:
    """Seconds that a computation waits for the network, the lines in between taking the compiler's cycles.

    Args:
        program: that it stands in.
        computation: its name.
        far: {name of a receive: seconds of one run at full rate}; they follow each other.
        chip: whose clock counts the cycles.
        seen: of `cycles.of_line`.
    """
    now = free = waited = 0.0
    due: dict[str, float] = {}
    for line in program.computations.get(computation, ()):
        wait = 0.0
        if line.name in far:
            free = due[line.name] = max(free, now) + far[line.name]
        elif line.opcode == "recv-done":
            wait = max(0.0, due.get(line.operands[0], 0.0) - now)
        elif line.opcode == "while":
            wait = (program.trips(line) or 1) * _waited(program, line.attribute("body"), far, chip, seen)
        elif line.opcode == "conditional":
            wait = min(_waited(program, name, far, chip, seen) for name in line.branches())
        waited += wait
        now += wait + cycles.of_line(program, line, seen)[0] / chip.clock
    return waited
