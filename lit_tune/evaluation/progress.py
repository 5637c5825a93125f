"""Lines of progress on stderr: which task, how far, how fast, how long to go."""

import sys
import time
from collections.abc import Callable, Sequence

from lit_tune import distributed

EVERY = 10.0  # seconds between lines


class Progress:
    """How far several tasks are.

    Args:
        tasks: (name, pictures) of each, in order.
        clock: seconds, from any moment on.
    """

    def __init__(self, tasks: Sequence[tuple[str, int]], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sizes = dict(tasks)
        self._left = sum(self._sizes.values())
        self._embedded, self._seconds = 0, 0.0
        self._label, self._done = "", 0
        self._since = self._shown = clock()

    def skip(self, name: str) -> None:
        """A task that was done before."""
        self._left -= self._sizes[name]
        self._say(f"{name}: done before")

    def begin(self, label: str, start: int) -> None:
        """The next task, from its picture `start` on."""
        self._label, self._done, self._since = label, start, self._clock()
        if label in self._sizes:
            self._left -= start
        if start:
            self._say(f"{label}: going on after {start:,} pictures")

    def add(self, count: int) -> None:
        """So many pictures more."""
        now = self._clock()
        self._embedded, self._seconds, self._since = self._embedded + count, self._seconds + now - self._since, now
        self._done += count
        if self._label in self._sizes:
            self._left -= count
        if now - self._shown >= EVERY:
            self._shown = now
            self._say(self.line())

    def line(self) -> str:
        """Where the task under way stands, and all tasks together."""
        rate = self._embedded / max(self._seconds, 1e-9)
        number = list(self._sizes).index(self._label) + 1 if self._label in self._sizes else 0
        of = f" ({number} of {len(self._sizes)})" if number and len(self._sizes) > 1 else ""
        whole = f" of {self._sizes[self._label]:,}" if number else ""
        return (f"{self._label}{of}: {self._done:,}{whole} pictures, {rate:,.0f} a second, "
                f"{_duration(self._left / max(rate, 1e-9))} to go")

    @staticmethod
    def _say(line: str) -> None:
        """Print on process 0."""
        if distributed.process_index() == 0:
            print(line, file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    """ "48 s", "12 min", "3.4 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
