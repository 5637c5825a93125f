"""What jax finds, asked in a process of its own: a TPU that is in use, or that waits for its other hosts, blocks it.

`python -m lit_tune.checkup.probe` is that process. It prints a line once everything that `lit-tune train` imports is
imported, and a line with the devices.
"""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 60.0  # for the devices; importing has its own time before
IMPORT_SECONDS = 120.0
PAUSE = 0.1
GRACE = 5.0  # a process that hangs in its driver may not even die


@dataclass(frozen=True)
class Seen:
    """What came back.

    Attributes:
        imported: everything that training imports could be imported.
        devices: {"platform": "tpu", "kind": "TPU v5 lite", "chip": "v5e"} each, of all processes; chip "" if unknown.
        processes: that jax counts; on a TPU slice one a host.
        late: there was no answer in time.
        left: number of the process that was asked, where it could not even be ended; else 0.
        words: the last thing that was said on stderr, without a traceback's lines.
    """

    imported: bool = False
    devices: tuple[dict[str, str], ...] = ()
    processes: int = 1
    late: bool = False
    left: int = 0
    words: str = ""

    @property
    def platforms(self) -> set[str]:
        """tpu, gpu, cpu."""
        return {device["platform"] for device in self.devices}


def look(environ: Mapping[str, str] | None = None, *, seconds: float = SECONDS,
         import_seconds: float = IMPORT_SECONDS) -> Seen:
    """What a new process sees; after at most import_seconds + seconds + a few this returns, whatever that process does.

    Args:
        environ: its variables; ours if None.
        seconds: for the devices.
        import_seconds: for the imports before.
    """
    with tempfile.TemporaryDirectory() as scratch:
        out, err = Path(scratch) / "out", Path(scratch) / "err"
        with out.open("w") as stdout, err.open("w") as stderr:  # files: a pipe that nobody reads would block it
            process = subprocess.Popen([sys.executable, "-P", "-m", "lit_tune.checkup.probe"], stdout=stdout,
                                       stderr=stderr, stdin=subprocess.DEVNULL, env=_with_this_copy(environ),
                                       start_new_session=True)
            try:
                late = not _ends(process, out, import_seconds, seconds)
            finally:
                left = 0 if _end(process) else process.pid
        pages = _pages(out)
        found = pages.get("devices", {"devices": [], "processes": 1})
        return Seen("imported" in pages, tuple(found["devices"]), found["processes"], late, left,
                    _last_words(err.read_text(errors="replace")))


def _with_this_copy(environ: Mapping[str, str] | None) -> dict[str, str]:
    """The variables, and among them where this very copy of lit_tune is, behind what the user has put there."""
    variables = dict(os.environ if environ is None else environ)
    own = str(Path(__file__).parents[2])
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [variables.get("PYTHONPATH", ""), own]))
    return variables


def _ends(process: subprocess.Popen, out: Path, import_seconds: float, seconds: float) -> bool:
    """Whether the process ends in time; the time for the devices starts when everything is imported."""
    deadline, importing = time.monotonic() + import_seconds, True
    while process.poll() is None:
        if importing and "imported" in _pages(out):
            deadline, importing = time.monotonic() + seconds, False
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE)
    return True


def _end(process: subprocess.Popen) -> bool:
    """Kill the process with what it has started; whether it has ended. One that hangs in a driver is left behind."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    return process.poll() is not None


def _pages(out: Path) -> dict[str, Any]:
    """The lines that the process has printed, by their name."""
    found = {}
    for line in out.read_text(errors="replace").splitlines():
        name, _, page = line.partition(" ")
        if name in ("imported", "devices"):
            found[name] = json.loads(page)
    return found


def _last_words(text: str) -> str:
    """The last line that says something: an exception's, or a log's without its time and place."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith((" ", "-"))]
    told = [line for line in lines if "simplified" not in line and "Traceback" not in line]
    return told[-1][-300:] if told else ""


def main() -> int:
    """Print what is imported and which devices there are."""
    # By name: nobody imports the module of a command, and this only asks whether it could be.
    importlib.import_module("lit_tune.train")
    import jax

    print("imported", json.dumps({"jax": jax.__version__}), flush=True)
    from lit_tune.benching import machine

    devices = []
    for device in jax.devices():
        chip = machine.chip(device.device_kind)
        devices.append({"platform": device.platform, "kind": device.device_kind, "chip": chip.name if chip else ""})
    print("devices", json.dumps({"devices": devices, "processes": jax.process_count()}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
