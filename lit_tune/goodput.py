"""How much of a run's life was training, and what took the rest: over all its starts, kills included. No jax.

Each checkpoint carries the seconds by cause until it was written. A start that resumes from it adds what came after:
the log's last line says how long the lost start went on (its steps are done again), the rest until now the run was
down. So nothing has to be written at the moment of a kill.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from lit_tune.phases import Phases

TRAINING = "step"  # the phase whose time is not lost
REDONE, DOWN = "redone", "down"  # causes beside the phases: steps lost with a stop; no process was there


class Goodput:
    """Seconds of a run by cause: the phases of all its starts, `redone` and `down`."""

    def __init__(
        self, phases: Phases, saved: Mapping[str, Any] | None, lines: Sequence[Mapping[str, Any]], *, ended: bool
    ) -> None:
        """To be made before the log is cut to the step that the run goes on from.

        Args:
            phases: of this start.
            saved: what `record` gave for the checkpoint that the run resumes from; None without one.
            lines: of metrics.jsonl as earlier starts left it, [] at the first.
            ended: whether the run had reached its end, and goes on only because it was extended.
        """
        self._phases = phases
        self._before: dict[str, float] = dict(saved["seconds"]) if saved else {}
        known = saved["time"] if saved else lines[0]["time"] if lines else None  # accounted for until then
        if known is None or ended:
            return
        # Clocks of machines differ and jump: no time is less than none.
        started = time.time() - sum(phases.booked().values())
        last = max([known, *(line["time"] for line in lines)])
        self._before[REDONE] = self._before.get(REDONE, 0.0) + min(last, max(started, known)) - known
        self._before[DOWN] = self._before.get(DOWN, 0.0) + max(started - last, 0.0)

    def seconds(self) -> dict[str, float]:
        """Wall time by cause since the run first started."""
        now = self._phases.booked()
        return {cause: self._before.get(cause, 0.0) + now.get(cause, 0.0)
                for cause in dict.fromkeys((*self._before, *now))}  # fmt: skip

    def record(self) -> dict[str, Any]:
        """What a checkpoint has to carry."""
        return {"time": time.time(), "seconds": self.seconds()}

    def shares(self) -> dict[str, float]:
        """{"perf/goodput", "perf/lost_<cause>" each}: shares of the run's wall time, in [0, 1]; they add up to 1."""
        seconds = self.seconds()
        whole = max(sum(seconds.values()), 1e-9)
        lost = {f"perf/lost_{cause.replace(' ', '_')}": value / whole
                for cause, value in seconds.items() if cause != TRAINING}  # fmt: skip
        return {"perf/goodput": seconds.get(TRAINING, 0.0) / whole} | lost


def told(shares: Mapping[str, Any]) -> str:
    """ "81.0 % of the time trained; lost: compile 12.0 %, ...": the largest causes first, none below 0.1 %.

    Args:
        shares: a mapping that holds the keys of `Goodput.shares`, such as a line of metrics.jsonl.
    """
    lost = [f"{cause} {100 * share:.1f} %" for cause, share in causes(shares).items() if share >= 0.001]
    return f"{100 * shares['perf/goodput']:.1f} % of the time trained" + (f"; lost: {', '.join(lost)}" if lost else "")


def causes(shares: Mapping[str, Any]) -> dict[str, float]:
    """{cause: share of the wall time lost by it}, the largest first."""
    found = {name.removeprefix("perf/lost_").replace("_", " "): share for name, share in shares.items()
             if name.startswith("perf/lost_")}  # fmt: skip
    return dict(sorted(found.items(), key=lambda item: -item[1]))
