"""`lit-tune train --restarts=N`: the run as a child process, started again when it ends in a way that a restart helps.

Nothing here imports jax or holds a device. Several processes of a run, on one machine or many, each have a supervisor
of their own: where one process is lost the others end too, and all come back.
"""

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from lit_tune import errors, flag_reading
from lit_tune.step_folders import StepFolders

RESTARTED = (1, errors.HangError.exit_code)  # anything unforeseen, a hang or a lost peer; and death by a signal
LONGEST_WAIT_S = 60.0
DIES_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG


def asked(argv: Sequence[str]) -> bool:
    """Whether a `train` command line asks for restarts.

    Raises:
        ConfigError: the line cannot be read.
    """
    return flag_reading.read(argv, "train")[0].get("restarts", 0) > 0


def main(argv: Sequence[str]) -> int:
    """Runs the command until it ends in a way that no restart helps, or has not come further in N restarts.

    Args:
        argv: of `train`, with --restarts.

    Returns:
        The run's exit code; 128 + n where it died by signal n, as a shell says it.
    """
    values = flag_reading.read(argv, "train")[0]
    # The last flag of a name counts: the child does not supervise.
    command = [sys.executable, "-m", "lit_tune.train", *argv, "--restarts=0"]
    with _Child(command) as child:
        return supervise(child, values["restarts"], StepFolders(f"{values['workdir']}/checkpoints", read_only=True),
                         values.get("preempted_exit_code", 0))


def supervise(child: "_Child", restarts: int, folders: StepFolders, preempted_exit_code: int) -> int:
    """The exit code of the last start, after at most `restarts` in a row that brought no newer checkpoint."""
    newest, left = _newest(folders, 0), restarts
    while True:
        code = child.run()
        if child.stopped and code in (-signal.SIGTERM, -signal.SIGINT):  # it had not yet begun
            return _preempted(newest, preempted_exit_code)
        if child.stopped or (code >= 0 and code not in RESTARTED):
            break
        before, newest = newest, _newest(folders, newest)
        left = restarts if newest > before else left
        what = f"lit-tune: the run {_told(code)}; newest checkpoint: {f'step {newest}' if newest else 'none'}"
        if left == 0:
            _say(f"{what}; no newer one in {restarts} restart{'s' * (restarts > 1)}: giving up")
            break
        left -= 1
        seconds = min(2.0 ** (restarts - left - 1), LONGEST_WAIT_S)  # 1, 2, 4... from the last progress on
        _say(f"{what}; restart {restarts - left} of {restarts} in {seconds:.0f} s")
        if child.stop_within(seconds):
            return _preempted(newest, preempted_exit_code)
    return code if code >= 0 else 128 - code


def _newest(folders: StepFolders, known: int) -> int:
    """The newest finished checkpoint, 0 for none; the one that is known where the disk or the store does not answer.

    That may be the very reason why the run ended, and a restart is what helps.
    """
    try:
        return max(folders.steps(), default=0)
    except Exception as error:  # object stores raise errors of their own kinds
        _say(f"lit-tune: the checkpoints cannot be listed now ({type(error).__name__}: {error})")
        return known


def _preempted(newest: int, exit_code: int) -> int:
    """The exit code of a run that was stopped while no process was training, after the line that `train` prints."""
    print(f"preempted at step {newest}", flush=True)
    return exit_code


def _told(code: int) -> str:
    """How a process ended, in words."""
    if code < 0:
        known = -code in signal.Signals.__members__.values()
        return f"was ended by {signal.Signals(-code).name if known else f'signal {-code}'}"
    reason = " (a hang, or another process was lost)" if code == errors.HangError.exit_code else ""
    return f"ended with exit code {code}{reason}"


def _say(line: str) -> None:
    """One line on stderr, at once."""
    print(line, file=sys.stderr, flush=True)


class _Child:
    """One process at a time that gets the signals which this one gets.

    Attributes:
        stopped: whether this process was told to stop; the child was told so too.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._process: subprocess.Popen | None = None
        self.stopped = False

    def __enter__(self) -> "_Child":
        """Signals are passed on from here on."""
        self._old = {number: signal.signal(number, self._forward) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *exception: object) -> None:
        """Signals mean again what they meant before."""
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def run(self) -> int:
        """Start the command and wait for its end; the exit code, minus the signal's number where one ended it."""
        # In a process group of its own, else Ctrl-C would reach it twice: a second signal means to end at once.
        self._process = subprocess.Popen(self._command, process_group=0, preexec_fn=_die_with_parent)
        if self.stopped:  # it came while the process was being made
            self._process.terminate()
        return self._process.wait()

    def stop_within(self, seconds: float) -> bool:
        """Wait so long; whether a signal asked for the end."""
        end = time.monotonic() + seconds
        while not self.stopped and time.monotonic() < end:
            time.sleep(0.1)
        return self.stopped

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)


def _die_with_parent() -> None:
    """In the child: be asked to save and end when the supervisor is killed, where the system offers that (Linux)."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(DIES_WITH_PARENT, signal.SIGTERM)
