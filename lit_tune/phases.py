"""Which phase the program is in, how long each has taken, and what a signal means there.

A signal's own Python handler runs only when the main thread is back in Python, which can take minutes while XLA
compiles. So the C-level handler writes a byte into a pipe (`signal.set_wakeup_fd`) and a thread reads it: it asks the
loop to stop where there is something to save, and ends the program where there is nothing.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

# Before the first trained step of this start there is nothing that the last checkpoint does not already hold.
NOTHING_TO_SAVE = ("start", "devices", "compile", "restore")
# Signals so close together are one: sent to a whole group of processes, and once more by the one that supervises.
TOGETHER_S = 0.2


class Phases:
    """The current phase, the seconds spent in each, and the request to stop.

    Made once, in `train.main`, and used as a context manager on the main thread:

        with Phases(preempted_exit_code=75) as phases:
            with phases.enter("restore"):
                ...
            while phases.step < total_steps:
                with phases.enter("data wait"):
                    batch = next(batches)
                with phases.enter("step"):
                    state, logs = train_step(state, batch)
                phases.step += 1
                if stop.agreed(phases.step):      # distributed.StopAgreement; one process: phases.stop_requested()
                    ...save, wait...
                    return phases.preempted()

    Phases: start, devices, compile, restore, data wait, step, eval, save. A long evaluation asks `stop_requested()`
    between its batches and says `alive()` there. The first SIGTERM or SIGINT asks to stop, or ends the program at once
    in start, devices, compile and restore before the first `step`; a second one ends it at once anywhere; so does a
    stop that was not obeyed for `grace_seconds` (not counted while in `save`). Ending this way prints the same line as
    `preempted()` and leaves the last checkpoint as it is.

    Attributes:
        step: steps trained so far, set by the loop.
        saved_step: step of the newest finished checkpoint (what a restart begins from), set by the loop.
        seconds: seconds of wall time by phase, each moment counted once (for the innermost phase).
        announce: called with one word, "stop" or "exit", when a stop becomes known; distributed.StopAgreement sets it.
        reading: says what is being read for the next batch, for the watchdog; set by whoever knows.
    """

    def __init__(self, *, preempted_exit_code: int = 0, grace_seconds: float = 25.0) -> None:
        """Nothing happens before the `with` statement.

        Args:
            preempted_exit_code: exit code of a run that was stopped by a signal.
            grace_seconds: time for the loop to come to a place where it can save. Spot machines give 30 s.
        """
        self.preempted_exit_code = preempted_exit_code
        self.grace_seconds = grace_seconds
        self.step = 0
        self.saved_step = 0
        self.seconds: dict[str, float] = {}
        self.announce: Callable[[str], None] = lambda word: None
        self.reading: Callable[[], str] = lambda: ""
        self._now = "start", time.monotonic()  # one tuple: other threads read both or neither
        self._stop = threading.Event()
        self._left_grace = threading.Event()
        self._stopped_at: float | None = None  # when the first signal came

    @property
    def name(self) -> str:
        """The phase the main thread is in."""
        return self._now[0]

    @property
    def last_sign(self) -> tuple[str, float]:
        """(phase, `time.monotonic()` of the last sign of life in it): it was entered, or `alive` was called."""
        return self._now

    def alive(self) -> None:
        """A sign of life inside a long phase: something of it was done, so the watchdog counts anew."""
        self._switch(self.name)

    @contextmanager
    def enter(self, name: str) -> Iterator[None]:
        """Inside the `with`, `name` is the phase; afterwards the one before it is again."""
        before = self._switch(name)
        try:
            yield
        finally:
            self._switch(before)

    def _switch(self, name: str) -> str:
        """The phase until now; its seconds are booked."""
        now = time.monotonic()  # a clock that jumps back must not change anything
        before, since = self._now
        self.seconds[before] = self.seconds.get(before, 0.0) + now - since
        self._now = name, now
        return before

    def booked(self) -> dict[str, float]:
        """Seconds of wall time by phase since the start, until this moment."""
        self._switch(self.name)
        return dict(self.seconds)

    def stop_requested(self) -> bool:
        """Whether a signal, here or on another process, has asked the run to save and end."""
        return self._stop.is_set()

    def preempted(self) -> int:
        """The exit code of a stopped run, after printing `preempted at step N` with the step a restart begins from."""
        self._left_grace.set()
        print(f"preempted at step {self.saved_step}", flush=True)
        return self.preempted_exit_code

    def request_stop(self) -> None:
        """Do what the first signal does; for other threads, such as the one that hears of other processes' signals."""
        if self._stop.is_set():
            return
        self._stop.set()
        if self.nothing_to_save():
            at_most(5.0, lambda: self.announce("exit"))
            self.exit_now()
        self.announce("stop")
        threading.Thread(target=self._enforce_grace, name="stop-grace", daemon=True).start()

    def nothing_to_save(self) -> bool:
        """Whether ending here would lose nothing that a save could keep."""
        return self.name in NOTHING_TO_SAVE and "step" not in self.seconds

    def exit_now(self) -> None:
        """End the process from any thread, with the same line and code as `preempted()`."""
        # In threads, since each may block: the main thread may hold stdout's lock, a pipe may be full.
        at_most(1.0, _flush)
        at_most(1.0, lambda: os.write(1, f"preempted at step {self.saved_step}\n".encode()))
        os._exit(self.preempted_exit_code)

    def _enforce_grace(self) -> None:
        """End the program if the loop has not stopped in time; a save may take as long as it takes."""
        waited, tick = 0.0, 0.1
        while waited < self.grace_seconds:
            if self._left_grace.wait(tick):
                return
            waited += tick if self.name != "save" else 0.0
        self.exit_now()

    def __enter__(self) -> "Phases":
        """Signals are caught from here on."""
        self._read_end, self._write_end = socket.socketpair()
        self._write_end.setblocking(False)
        self._old_fd = signal.set_wakeup_fd(self._write_end.fileno(), warn_on_full_buffer=False)
        # A Python handler has to exist for the C-level one to be installed; the thread does the work. No signal mask
        # is touched, and exec resets caught signals: child processes inherit nothing.
        self._old = {s: signal.signal(s, _ignore) for s in (signal.SIGTERM, signal.SIGINT)}
        self._reader = threading.Thread(target=self._read_signals, name="signals", daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Signals mean again what they meant before."""
        self._left_grace.set()
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_fd)
        self._write_end.close()  # the reader sees the end of the stream
        self._reader.join(timeout=1.0)
        self._read_end.close()

    def _read_signals(self) -> None:
        """The reader thread: one byte a signal."""
        while True:
            received = self._read_end.recv(1)
            if not received:
                return
            if received[0] not in (signal.SIGTERM, signal.SIGINT):
                continue
            if self._stopped_at is not None and time.monotonic() - self._stopped_at > TOGETHER_S:
                self.exit_now()
            if self._stopped_at is None:
                self._stopped_at = time.monotonic()
                self.request_stop()


def _ignore(number: int, frame: FrameType | None) -> None:
    """Nothing: the reader thread acts on signals."""


def at_most(seconds: float, function: Callable[[], object]) -> None:
    """Call a function and wait for it no longer than this."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    thread.join(timeout=seconds)


def _flush() -> None:
    """Write out what print has buffered."""
    sys.stdout.flush()
    sys.stderr.flush()
