"""What every test runs under: the CPU, split into 8 devices, offline, files spread over the cores; and what is counted:
reference arrays compared, seconds of recovery.

This has to come before jax is imported anywhere, which is why it stands here and imports nothing of lit_tune.
"""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import simulated

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("XLA_FLAGS", simulated.flags(8))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

COMPARED = re.compile(r"(\d+) arrays compared")  # what the tests that walk the reference folder print
compared: dict[str, int] = {}  # by test
recovered: dict[str, float] = {}  # seconds by test, the longest of its cases

# Files that take a minute or so: they are started first, so that no core is left with one of them at the end.
DEAR = ("test_end_to_end", "test_resume", "test_step", "test_models_reference", "test_train_reference",
        "test_bench_step", "test_embed_resume", "test_models", "test_train_loop", "test_import", "test_evaluation")
assert all((Path(__file__).parent / f"{name}.py").is_file() for name in DEAR), "a dear file has another name now"
MOST_WORKERS = 4  # each takes about two gigabytes, and the dearest file is a quarter of the whole


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Processes to spread the files over: as many as there are cores, up to 4; 0, this one, where files are named."""
    if any(".py" in word for word in config.args):
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if cores == 1 else min(cores, MOST_WORKERS)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where the times of the fault matrix go."""
    parser.addoption("--fault-times", metavar="FILE", help="write the seconds of recovery by test (fault_matrix.py)")


@pytest.fixture
def recovery(record_property: Callable[[str, object], None]) -> Callable[[float], None]:
    """To be called with the seconds that a run took to recover from the fault of a row of the matrix."""
    return lambda seconds: record_property("recovery_s", seconds)


@pytest.fixture
def no_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """An export asks no other package, whichever are installed: they are slow, and have tests of their own."""
    monkeypatch.setattr("lit_tune.exports.peers.PEERS", ())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the dear files first, in the order of DEAR; the rest stays as it was."""
    place = {name: number for number, name in enumerate(DEAR)}
    items.sort(key=lambda item: place.get(item.path.stem, len(DEAR)))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note how many reference arrays a passed test says it compared."""
    if report.when == "call" and report.passed:
        found = sum(map(int, COMPARED.findall(report.capstdout)))
        compared.update({report.nodeid: found} if found else {})
        for name, seconds in report.user_properties:
            if name == "recovery_s":
                test = report.nodeid.removeprefix("tests/").partition("[")[0]
                recovered[test] = max(seconds, recovered.get(test, 0.0))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The times of recovery; one line with the count of arrays, which .ci/run holds against a number it states."""
    for test, seconds in sorted(recovered.items()):
        terminalreporter.write_line(f"recovered in {seconds:.1f} s: {test}")
    if file := config.getoption("--fault-times"):
        Path(file).write_text(json.dumps(recovered, indent=1) + "\n")
    if compared:
        folder = os.environ.get("LIT_TUNE_REFERENCE", "tests/golden/reference")
        terminalreporter.write_line(f"reference: {sum(compared.values())} arrays compared in {len(compared)} tests, "
                                    f"from {folder}")
