"""A loss or a gradient norm far above its own recent level: seen on the host, step by step. No jax."""

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

RECENT = 128  # steps that the level is taken of
FEWEST = 32  # steps below which there is no level yet
DEVIATIONS = 10.0  # above the median, in standard deviations as a normal distribution's median deviation tells them
NORMAL = 1.4826  # standard deviation of a normal distribution / its median absolute deviation
LEAST = {"loss": 1.25, "grad_norm": 4.0}  # a spike is above this many times the median at least: norms vary widely


class Spikes:
    """Counts spikes: stretches of steps in which loss or gradient norm is above the limit of the steps before.

    limit = max(median + 10 * 1.4826 * median(|x - median|), LEAST * median) of the last 128 steps that were looked at,
    spikes included: a level that stays is no spike for longer than 64 steps.

    Attributes:
        count: spikes of the run so far.
    """

    def __init__(self, saved: Mapping[str, Any] | None) -> None:
        """Takes up what `record` gave for a checkpoint; None: the start of a run."""
        self.count: int = saved["count"] if saved else 0
        self._inside: bool = saved["inside"] if saved else False
        self._recent = {name: deque(saved[name] if saved else (), maxlen=RECENT) for name in LEAST}

    def look(self, values: Mapping[str, float]) -> str:
        """What is wrong with the numbers of the next step, where a spike begins there; else "".

        Args:
            values: finite, by the names in LEAST.
        """
        above = []
        for name, least in LEAST.items():
            recent, value = self._recent[name], values[name]
            if len(recent) >= FEWEST and value > (limit := limit_of(np.array(recent), least)):
                above.append(f"{name} {value:.4g} (limit {limit:.4g}, median {np.median(recent):.4g})")
            recent.append(value)
        begins, self._inside = bool(above) and not self._inside, bool(above)
        self.count += begins
        return ", ".join(above) if begins else ""

    def record(self) -> dict[str, Any]:
        """What a checkpoint has to carry."""
        return {"count": self.count, "inside": self._inside,
                **{name: list(recent) for name, recent in self._recent.items()}}  # fmt: skip


def limit_of(recent: np.ndarray, least: float) -> float:
    """The value above which the next one is a spike.

    Args:
        recent: float (n,), the values before it.
        least: the limit is at least this many times their median.
    """
    median = float(np.median(recent))
    deviation = NORMAL * float(np.median(np.abs(recent - median)))
    return max(median + DEVIATIONS * deviation, least * median)
