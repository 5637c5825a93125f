"""Tests that load our files in other people's packages: collected with `-m interop` only, and then nothing skips."""

from pathlib import Path

import pytest

# What the torchvision wheel registers in its compiled part, which does not load beside a CPU build of torch.
MISSING_OPERATORS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_kept_alive: list[object] = []  # a torch.library.Library takes its operators with it when it is collected


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave this folder out unless it is asked for: its modules import torch."""
    asked = config.getoption("markexpr")
    return None if "interop" in asked and "not interop" not in asked else True


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Declare torchvision's operators before anything imports timm."""
    if isinstance(collector, pytest.Module) and not _kept_alive:
        import torch

        library = torch.library.Library("torchvision", "FRAGMENT")
        for name, schema in MISSING_OPERATORS.items():
            if not hasattr(torch.ops.torchvision, name):
                library.define(schema)
        _kept_alive.append(library)
