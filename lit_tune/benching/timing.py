"""Seconds of several things done in turns in one process, and their ratios: other load on the machine hits them all."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

Figures = dict[str, Any]


class Times(NamedTuple):
    """Of one thing, one entry a turn; seconds.

    Attributes:
        wall: by the clock.
        cpu: of all cores of this process together.
    """

    wall: list[float]
    cpu: list[float]


def times(runs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, Times]:
    """Times of each run by name, `repeats` of them, all runs in turns; each run returns once its work is done."""
    found = {name: Times([], []) for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            found[name].wall.append(time.perf_counter() - wall)
            found[name].cpu.append(time.process_time() - cpu)
    return found


def in_turns(runs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds by the clock of each run by name, as `times`."""
    return {name: found.wall for name, found in times(runs, repeats).items()}


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Median of the ratios of the same turn."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def compared(found: Mapping[str, Times], ours: str) -> dict[str, Figures]:
    """{name: seconds, cpu_seconds (medians), over_ours (median ratio of the same turns)} of `times`.

    Args:
        found: what `times` returned.
        ours: the name that the others are compared with.
    """
    return {name: {"seconds": statistics.median(one.wall), "cpu_seconds": statistics.median(one.cpu),
                   "over_ours": ratio(one.wall, found[ours].wall)} for name, one in found.items()}  # fmt: skip


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column to the left, the others to the right, two spaces before each line."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  " + "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in
                                                         zip(row[1:], widths[1:], strict=True))]) for row in rows]
