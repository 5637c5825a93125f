"""Tests that load our files in other people's packages: collected with `-m interop` only, and then nothing skips."""

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave this folder out unless it is asked for: its modules import torch."""
    asked = config.getoption("markexpr")
    return None if "interop" in asked and "not interop" not in asked else True


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Declare torchvision's operators before anything imports timm."""
    if isinstance(collector, pytest.Module):
        import torchvision_operators  # noqa: F401
