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
            "data__resize_on": "device", "data__canvas": 512, "data__rotate": 0, "global_batch": ROWS,
            "eval__sets": (), "total_steps": STEPS, "checkpoint__every": STEPS}  # fmt: skip


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


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc")
@pytest.mark.faults(row=45, fault="300 batches of 12 MiB made by two workers, faster than they are used",
                    expected="what input adds to the processes' memory stays under the bound that `host_bytes` states")
def test_a_run_with_two_workers_stays_under_the_stated_bound(
    tmp_path: Path, recovery: Callable[[float], None]
) -> None:
    tiny.text_folder(tmp_path / "text")
    words = tiny.arguments(tmp_path / "text", tiny.picture_folder(tmp_path / "pictures"), tmp_path / "run", **SETTINGS)
    changes = [word.removeprefix("--config.").partition("=")[::2] for word in words if word.startswith("--config.")]
    config = config_lib.load("quickstart", changes)
    bound = host_bytes(config, ROWS)
    assert batch_bytes(config, ROWS) * STEPS > 5 * bound, "making all batches ahead would show"
    started = time.monotonic()
    process = tiny.start(words, tmp_path / "cache")
    seen: list[tuple[int, int]] = []  # (step, bytes)
    while process.poll() is None:
        logged = tiny.lines(tmp_path / "run")
        seen.append((logged[-1]["step"] if logged else 0, resident(family(process.pid))))
        time.sleep(0.25)
    code, output = tiny.finish(process)
    assert code == 0, output
    before = [size for step, size in seen if step == 0]
    later = [size for step, size in seen if step >= SETTLED]
    assert len(later) > 10, "the run was seen at work"
    # Before the first step the libraries are not all loaded, so what they take beside the input counts against us too.
    assert max(later) - max(before) < bound, f"{max(later):,} after {max(before):,}, {bound:,} stated"
    half = len(later) // 2
    assert max(later[half:]) < max(later[:half]) + bound / 4, "it does not grow"
    recovery(time.monotonic() - started)
    print(f"{max(before) >> 20} MiB, then {max(later) >> 20}; bound {bound >> 20}; {len(later)} looks")
