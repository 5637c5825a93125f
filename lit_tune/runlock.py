"""A lock file that two runs cannot hold, and that a dead run does not keep. No jax."""

import fcntl
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

from lit_tune.errors import ConfigError

BEAT = 5.0  # seconds between heartbeats (the file's time is set)
WATCH = 3 * BEAT  # seconds without a heartbeat after which the holder on another machine counts as dead


class RunLock:
    """`run.lock`: who is writing in a run directory, on which machine, since when; its file time is the heartbeat."""

    def __init__(self, path: Path) -> None:
        """Nothing is touched before `acquire`."""
        self._path = path
        self._me = _me()
        self._released = threading.Event()

    def acquire(self) -> None:
        """Returns when this process holds the lock.

        A holder on this machine is alive if its process is. One elsewhere is alive if its heartbeat moves while we
        watch (no clocks are compared); a dead one's lock is taken over with a message.

        Raises:
            ConfigError: a live process holds it.
        """
        with _open_locked(self._path) as file:
            holder = _read(file)
            if holder is not None:
                self._check_dead(holder)
                print(f"lit_tune: taking over {self._path} from {_name(holder)}, which is gone", file=sys.stderr)
            file.seek(0)
            file.truncate()
            json.dump(self._me, file)
            file.flush()
            os.fsync(file.fileno())
        self._thread = threading.Thread(target=self._beat, name="run-lock", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Remove the file, if it is still ours."""
        if self._released.is_set():
            return
        self._released.set()
        self._thread.join()
        if not self._path.exists():
            return
        with _open_locked(self._path) as file:
            if _read(file) == self._me:
                self._path.unlink()

    def _check_dead(self, holder: dict[str, Any]) -> None:
        """Refuse if the holder is alive."""
        here = ("host", "boot_id", "pid_namespace")
        if all(holder.get(key) == self._me[key] for key in here):
            alive = _start_time(holder.get("pid", -1)) == holder.get("started") is not None
        else:
            alive = _moves(self._path, WATCH)
        if alive:
            raise ConfigError(
                f"{self._path}: {_name(holder)} is writing in this directory; stop it or use another --workdir"
            )

    def _beat(self) -> None:
        """The heartbeat thread."""
        while not self._released.wait(BEAT):
            try:
                os.utime(self._path)
            except OSError:
                return  # somebody removed the file: there is nothing to keep alive


def _me() -> dict[str, Any]:
    """What identifies this process among all machines that may see the directory."""
    return {
        "pid": os.getpid(),
        "started": _start_time(os.getpid()),
        "host": socket.gethostname(),
        "boot_id": _read_text("/proc/sys/kernel/random/boot_id"),
        "pid_namespace": _link("/proc/self/ns/pid"),  # in containers the same pid means different processes
        "time": time.time(),
    }


def _start_time(pid: int) -> str | None:
    """When a process started, in ticks since boot (so that a reused pid is not mistaken); None if it is gone."""
    stat = _read_text(f"/proc/{pid}/stat")
    fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces
    if not fields:
        return _exists_without_proc(pid)
    return None if fields[0] == "Z" else fields[19]


def _exists_without_proc(pid: int) -> str | None:
    """The same where there is no /proc (macOS): only whether the pid is in use."""
    if Path("/proc").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return "exists"
    return "exists"


def _read_text(path: str) -> str:
    """The text of a small system file, "" where it is missing."""
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    """Where a system link points, "" where it is missing."""
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _open_locked(path: Path) -> TextIO:
    """The lock file, open and flock-ed, so that only one process at a time reads and decides."""
    while True:
        file = open(path, "a+", encoding="utf-8")  # the caller's `with` closes it
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            return file  # file systems without flock: the heartbeat has to do
        if path.exists() and os.fstat(file.fileno()).st_ino == path.stat().st_ino:
            file.seek(0)
            return file
        file.close()  # it was removed while we waited


def _read(file: TextIO) -> dict[str, Any] | None:
    """The holder; None if the file is empty or was never finished."""
    file.seek(0)
    try:
        holder = json.loads(file.read())
    except ValueError:
        return None
    return holder if isinstance(holder, dict) else None


def _moves(path: Path, seconds: float) -> bool:
    """Whether the file's time changes while we look."""
    first, deadline = path.stat().st_mtime_ns, time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.1)
        if path.stat().st_mtime_ns != first:
            return True
    return False


def _name(holder: dict[str, Any]) -> str:
    """The holder for a message."""
    return f"process {holder.get('pid')} on {holder.get('host')}"
