"""Real runs of several processes on this machine, on top of tiny.py."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import tiny

STEPS = 60  # 24 pictures, 8 a step: 20 epochs


def run(home: Path, name: str, *words: str, **changes: object) -> subprocess.Popen:
    """A started run of one process in a folder `name`."""
    arguments = tiny.arguments(home / "text", home / "pictures", home / name, **{"total_steps": STEPS} | changes)
    return tiny.start([*arguments, *words], home / "cache")


def run_several(home: Path, name: str, *words: str, numbers: Sequence[int] = (0, 1), count: int = 2,
                **changes: object) -> list[subprocess.Popen]:
    """The started processes `numbers` of a run of `count`."""
    place = f"--coordinator=127.0.0.1:{tiny.free_port()}"
    return [run(home, name, *words, place, f"--num_processes={count}", f"--process_id={number}", **changes)
            for number in numbers]


def finish(processes: Sequence[subprocess.Popen], timeout: float = 240) -> tuple[list[int], list[str]]:
    """(exit codes, outputs); whoever is left at the time-out is killed."""
    end, outputs = time.monotonic() + timeout, []
    try:
        for process in processes:
            outputs.append(process.communicate(timeout=max(end - time.monotonic(), 0.1))[0])
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.communicate()
    return [process.returncode for process in processes], outputs


def straight(home: Path, count: int = 1) -> str:
    """The name of a run of `count` processes that nobody disturbs, once it has ended well."""
    name = f"straight-{count}"
    alone = count == 1
    codes, outputs = finish([run(home, name)] if alone else run_several(home, name, numbers=range(count), count=count))
    assert set(codes) == {0}, outputs
    return name


def children(pid: int, command: str = "") -> list[int]:
    """Numbers of a process's living children whose command line holds a text, the oldest first."""
    found = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread may end while we look
            found += [int(one) for one in file.read_text().split()]
    return sorted(one for one in found if command in Path(f"/proc/{one}/cmdline").read_text())


def workers(process: subprocess.Popen) -> list[int]:
    """The data workers of a run."""
    return children(process.pid, "spawn_main")


def gone(pid: int, seconds: float = 20) -> bool:
    """Whether a process has ended within some seconds; one that nobody has waited for yet counts as ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


def final(home: Path, name: str) -> dict:
    """The content of final.json."""
    return json.loads((home / name / "final.json").read_text())


def same_end(home: Path, name: str, straight: str) -> None:
    """Hold a run's end and its log against those of a run that nobody disturbed."""
    assert final(home, name) == final(home, straight)
    logs = [{(line["step"], line["kind"]): line.get("train/loss") for line in tiny.lines(home / one)}
            for one in (name, straight)]
    assert logs[0] == logs[1]
    assert len(tiny.lines(home / name)) == len(logs[0]), "a step stands twice in metrics.jsonl"


def seconds_to_step(home: Path, name: str, step: int, process: subprocess.Popen, since: float) -> float:
    """Seconds from a moment until the log has reached a step."""
    tiny.wait_for_step(home / name, step, process)
    return time.monotonic() - since


def newest(home: Path, name: str) -> int:
    """The last step in the log."""
    return max(line["step"] for line in tiny.lines(home / name))


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Inside, a process stands still."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def read_until(process: subprocess.Popen, words: str) -> str:
    """The output up to the line that holds some words, that line included."""
    found = ""
    for line in process.stdout:
        found += line
        if words in line:
            return found
    raise AssertionError(f"ended without {words!r}: {found}")
