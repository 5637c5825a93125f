"""The memory of a real run with worker processes stays under the bound that the program states for it."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny

from lit_tune import config as config_lib
from lit_tune.data.memory import batch_bytes, host_bytes

STEPS, ROWS, WORKERS, SETTLED = 300, 16, 2, 20  # SETTLED: steps after which the libraries have what they need
SETTINGS = {"data__workers": WORKERS, "data__prefetch": 4, "data__threads": 2, "data__max_pixels": 1 << 20,
            "data__resize_on": "device", "data__rotate": 0, "global_batch": ROWS, "eval__sets": ()}  # fmt: skip


def family(pid: int) -> list[int]:
    """A process and all that came from it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += family(int(child))
    return found


def resident(pids: list[int]) -> int:
    """Bytes that these processes have in memory, shared ones counted by their share."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has ended
            continue
        total += next(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    return total


def workers(home: Path, name: str, steps: int, canvas: int) -> tuple[list[int], list[str]]:
    """Bytes that the processes beside the main one held, look by look once settled, and the words of the run."""
    words = tiny.arguments(home / "text", home / "pictures", home / name, **SETTINGS, data__canvas=canvas,
                           total_steps=steps, checkpoint__every=steps)  # fmt: skip
    process, seen = tiny.start(words, home / "cache"), []
    while process.poll() is None:
        logged = tiny.lines(home / name)
        if logged and logged[-1]["step"] >= SETTLED:
            seen.append(resident(family(process.pid)[1:]))
        time.sleep(0.25)
    code, output = tiny.finish(process)
    assert code == 0, output
    return seen, words


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc")
@pytest.mark.faults(row=45, fault="300 batches of 12 MiB, made by two workers, ahead of their use",
                    expected="what batches add to the workers' memory stays under the stated bound (`host_bytes`)")
def test_two_workers_stay_under_the_stated_bound(tmp_path: Path, recovery: Callable[[float], None]) -> None:
    tiny.text_folder(tmp_path / "text")
    tiny.picture_folder(tmp_path / "pictures")
    small, _ = workers(tmp_path, "small", 100, 32)  # what their libraries take
    started = time.monotonic()
    large, words = workers(tmp_path, "large", STEPS, 512)
    changes = [word.removeprefix("--config.").partition("=")[::2] for word in words if word.startswith("--config.")]
    config = config_lib.load("quickstart", changes)
    bound = host_bytes(config, ROWS)
    assert batch_bytes(config, ROWS) * STEPS > 5 * bound, "making all batches ahead would show"
    waits = [line["data/wait_frac"] for line in tiny.lines(tmp_path / "large")
             if line["kind"] == "train" and line["step"] > SETTLED]
    assert sorted(waits)[len(waits) // 5] < 0.5, "batches lay ready at many steps, so what is read ahead was held"
    added = max(large) - max(small)
    print(f"workers: {max(small) >> 20} MiB without, {max(large) >> 20} with batches; {bound >> 20} stated")
    assert 0 < added < bound, f"{added:,} bytes more, {bound:,} stated"
    recovery(time.monotonic() - started)
