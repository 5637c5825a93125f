"""The notebook that takes a tower from timm and gives it back, executed with the real packages."""

import re
from pathlib import Path

import notebook_runs
import pytest
import timm

pytestmark = pytest.mark.interop
# the kernel is a process of its own, which needs what this folder's conftest does here
STARTUP = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import torchvision_operators"


def test_weights_go_in_and_come_out_bit_for_bit(tmp_path: Path) -> None:
    printed = notebook_runs.text(notebook_runs.run("convert_weights", tmp_path, STARTUP))
    vectors, tokens = (float(found) for found in re.findall(r"(?:vectors|tokens): (\S+)", printed))
    assert 0 < vectors < 1e-4 and 0 < tokens < 1e-4
    assert float(re.search(r"from the picture on: (\S+)", printed)[1]) < 1e-5
    checked = dict(re.findall(r"^model.safetensors +(\S+(?: \S+)?) +(\S+)$", printed, re.M))
    assert set(checked) == {"own_reader", f"timm {timm.__version__}"} and max(map(float, checked.values())) <= 1e-5
    assert "frozen text unchanged: True" in printed
    arrays, numbers = re.search(r"(\d+) arrays, ([\d,]+) numbers, bit for bit", printed).groups()
    assert int(arrays) == 162 and numbers == f"{parameters():,}"
    assert "timm's vectors, before and after: 0.0e+00 apart" in printed


def parameters() -> int:
    """Of the tower, by timm's own count."""
    peer = timm.create_model("eva02_small_patch14_224", num_classes=0, pretrained=False)
    return sum(parameter.numel() for parameter in peer.parameters())
