"""No silent hang: a thread that ends the program where nothing has happened for too long, and says where it stands.

The main thread may be blocked in C++ (a collective whose peer is gone or stuck, XLA's compiler, a dead disk): nothing
can be raised there, and jax notices a lost process but not one that is alive and does nothing. So the thread prints
one line and all stacks, and ends the process with the exit code that means "restart me".
"""

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import statistics
import threading
import time
from collections import deque
from pathlib import Path

from ml_collections import ConfigDict

from lit_tune import distributed, errors
from lit_tune.phases import Phases, at_most

WORDS = {  # phase -> what the line says
    "start": "starting", "devices": "waiting for the devices", "compile": "compiling the step",
    "restore": "restoring a checkpoint", "data wait": "waiting for data", "step": "waiting for a step",
    "eval": "evaluating", "save": "saving a checkpoint",
}  # fmt: skip
MEDIANS = 10  # median step times that a step or a batch may take
MEASURED = 3  # steps until the median counts; before them a step may be anything, and so gets
UNMEASURED = 5  # times as long
# Opening data, grouping or encoding captions can take hours; who waits for another process there does nothing. Those
# waits have time-outs of their own, the longest 6 h (train.ORDER_S); only past them is standing still a hang.
START_S = 7 * 3600.0
BUSY = 0.05  # of a core: a start that computes this much, itself or in worker processes, is alive
HANG = "hang"  # what processes say to each other, see distributed.vote
# Of several processes all end with 75 and their stacks: whoever is gone first takes the others' word away, the
# coordinator even their lives (jax ends them by SIGABRT).
LINGER_S = 10.0  # for the others to say that they end too
LAST_TO_GO_S = 2.0  # longer that the coordinator stays
LAST_S = 30  # the kernel ends the process after these, should even the telling get stuck


class Watchdog:
    """Ends the process with exit code 75 when a phase shows no sign of life for longer than its limit.

        with Phases() as phases, Watchdog(phases, config.watchdog):
            ...

    A sign of life is a change of phase or `phases.alive()`. The limit is

    - of `step` and `data wait`: the larger of `step_s` and 10 median step times, five times `step_s` until three steps
      were measured;
    - of `devices`, `compile`, `restore`, `save`, `eval`, and between the phases of the loop: `phase_s`;
    - of `start`: 7 h; there computing counts as life too.

    Of several processes all end where one does: the others hear of it and show where they stand.

    Half-way (in `start` at half of `phase_s`) a warning says what is waited for. Time in which the whole process was
    stopped (Ctrl-Z, a sleeping laptop) does not count.
    """

    def __init__(self, phases: Phases, limits: ConfigDict) -> None:
        """Nothing happens before the `with` statement.

        Args:
            phases: where the main thread is.
            limits: `config.watchdog`.
        """
        self._phases = phases
        self._limits = limits
        self._tick = min(1.0, limits.step_s / 10)  # seconds between looks
        self._closed = threading.Event()
        self._others = threading.Event()  # another process ends because of a hang
        self._times: deque[float] = deque(maxlen=100)  # seconds of a step, at the last looks that saw new ones
        self._measured = 0, 0.0  # steps so far, their seconds
        self._count = 0  # of the steps, those measured
        self._pardoned = time.monotonic()  # earlier signs of life count as this one
        self._warned: tuple[str, float] | None = None  # the sign of life that the warning was about
        self._work = time.monotonic(), cpu_seconds()

    def __enter__(self) -> "Watchdog":
        """Watches from here on."""
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()
        threading.Thread(target=self._listen, name="watchdog-others", daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Watches no longer."""
        self._closed.set()
        self._thread.join(timeout=2 * self._tick)

    def limit(self, phase: str) -> float:
        """Seconds without a sign of life that a phase is given."""
        if phase in ("step", "data wait"):
            if self._count < MEASURED:
                return UNMEASURED * self._limits.step_s
            return max(self._limits.step_s, MEDIANS * statistics.median(self._times))
        return START_S if phase == "start" and not self._in_loop() else self._limits.phase_s

    def _in_loop(self) -> bool:
        """Whether steps were trained: `start` is then what the loop does between its phases."""
        return "step" in self._phases.seconds

    def _watch(self) -> None:
        """The thread."""
        looked = time.monotonic()
        while not self._closed.wait(self._tick):
            now = time.monotonic()
            if now - looked > 10 * self._tick:  # this thread did not run either: the whole process was stopped
                self._pardoned = now
            looked = now
            self._measure()
            sign = self._phases.last_sign
            if sign[0] == "start":
                self._see_work(now)
            waited, limit = now - max(sign[1], self._pardoned), self.limit(sign[0])
            if waited > limit or self._others.is_set():
                self._end(sign[0], waited)
            elif waited > min(limit, max(self._limits.phase_s, self._limits.step_s)) / 2 and sign != self._warned:
                self._warned = sign
                self._warn(sign[0], waited, limit)

    def _listen(self) -> None:
        """A thread of its own, since a coordinator that is stopped does not answer: hear of hangs elsewhere."""
        while not self._closed.wait(self._tick):
            joined = "devices" in self._phases.seconds  # a question before the processes have met ends them
            if joined and distributed.num_processes() > 1 and distributed.votes(HANG):
                self._others.set()
                return

    def _measure(self) -> None:
        """Note the mean time of the steps since the last look."""
        step, seconds = self._phases.step, sum(self._phases.seconds.get(name, 0.0) for name in ("step", "data wait"))
        (before, spent), self._measured = self._measured, (step, seconds)
        if step > before and spent > 0:  # else they are the steps of earlier starts
            self._times.append((seconds - spent) / (step - before))
            self._count += step - before

    def _see_work(self, now: float) -> None:
        """In `start`: take it for a sign of life that this process and its workers have computed in the last minute."""
        since, before = self._work
        if now - since >= min(60.0, self._limits.phase_s / 4):
            seconds = cpu_seconds()
            if seconds - before > BUSY * (now - since):
                self._pardoned = now
            self._work = now, seconds

    def _where(self, phase: str, waited: float) -> str:
        """Who waits for what, for how long, where."""
        number, count = distributed.process_index(), distributed.num_processes()
        who = f"process {number} of {count}: " if count > 1 else ""
        what = "between steps" if phase == "start" and self._in_loop() else WORDS[phase]
        found = [""]
        if phase == "data wait":  # looking it up may touch the very disk that hangs
            at_most(2.0, lambda: found.__setitem__(0, self._phases.reading()))
        reading = f", reading {found[0]}" if found[0] else ""
        return f"{who}{what} for {waited:.0f} s after step {self._phases.step}{reading}"

    def _warn(self, phase: str, waited: float, limit: float) -> None:
        """Say that it takes long."""
        line = f"lit_tune: warning: {self._where(phase, waited)}; at {limit:.0f} s the process ends to be restarted\n"
        at_most(2.0, lambda: os.write(2, line.encode()))

    def _end(self, phase: str, waited: float) -> None:
        """Say what is stuck, show all stacks, end."""
        signal.alarm(LAST_S)  # stderr may be a pipe that nobody reads, and the stacks are written under Python's lock
        found = "this is a hang" + (", another process says" if self._others.is_set() else "")
        line = f"lit-tune: {self._where(phase, waited)}: {found}; the stacks of all threads, then exit code 75\n"
        at_most(2.0, lambda: os.write(2, line.encode()))
        faulthandler.dump_traceback(file=2, all_threads=True)
        if distributed.num_processes() > 1:
            at_most(LINGER_S, _tell_others)
            time.sleep(LAST_TO_GO_S if distributed.process_index() == 0 else 0.0)
        for worker in multiprocessing.active_children():  # one that was stopped would never see that we are gone
            worker.kill()
        os._exit(errors.HangError.exit_code)


def _tell_others() -> None:
    """Say that this process ends; returns when all have said so."""
    with contextlib.suppress(RuntimeError):  # the coordinator is lost
        distributed.vote(HANG, "ends")
    while len(distributed.votes(HANG)) < distributed.num_processes():
        time.sleep(0.1)


def cpu_seconds() -> float:
    """Processor time so far of this process and, where the system shows them, of the worker processes it has now."""
    seconds, ticks = time.process_time(), os.sysconf("SC_CLK_TCK")
    for children in Path("/proc/self/task").glob("*/children"):
        for pid in _read(children).split():
            fields = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()  # the name before it may hold spaces
            seconds += sum(map(int, fields[11:13])) / ticks  # utime and stime
    return seconds


def _read(path: Path) -> str:
    """The text of a small system file; "" where the thread or process it tells of has gone."""
    try:
        return path.read_text(errors="replace")  # a process's name may be any bytes
    except OSError:
        return ""
