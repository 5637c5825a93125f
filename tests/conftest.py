"""What every test runs under: the CPU, split into 8 devices, offline; and the count of reference arrays compared.

This has to come before jax is imported anywhere, which is why it stands here and imports nothing of lit_tune.
"""

import os
import re

import pytest

os.environ["JAX_PLATFORMS"] = "cpu"
# The tests are mostly compiles of small programs: without LLVM's optimisations they take half the time.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

COMPARED = re.compile(r"(\d+) arrays compared")  # what the tests that walk the reference folder print
compared: dict[str, int] = {}  # by test


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note how many reference arrays a passed test says it compared."""
    if report.when == "call" and report.passed:
        found = sum(map(int, COMPARED.findall(report.capstdout)))
        compared.update({report.nodeid: found} if found else {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line with the total, which .ci/run holds against a number it states."""
    if compared:
        folder = os.environ.get("LIT_TUNE_REFERENCE", "tests/golden/reference")
        terminalreporter.write_line(f"reference: {sum(compared.values())} arrays compared in {len(compared)} tests, "
                                    f"from {folder}")
