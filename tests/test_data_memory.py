"""The memory of a process that makes batches: flat, however many it has made."""

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from lit_tune.data import sources
from lit_tune.data.decoding import LIMITS
from lit_tune.data.examples import HostBatches, Recipe
from lit_tune.data.order import PlainOrder
from lit_tune.data.quarantine import Quarantine
from lit_tune.data.transforms import Augment

PICTURES, BATCH, FIRST, STEPS = 40, 4, 300, 2_000
MAY_GROW = 4 << 20  # bytes: less than 2 KiB a batch


class Words:
    """A text side."""

    def row(self, index: int, choice: int) -> dict[str, np.ndarray]:
        return {"caption_id": np.array([index, choice], np.uint32)}


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("canvas", [0, 64])
def test_2000_batches_take_no_more_memory_than_the_first(tmp_path: Path, canvas: int) -> None:
    rng = np.random.default_rng(0)
    lines = ["image,caption"]
    for number in range(PICTURES):
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).save(out, "JPEG")
        broken = number % 10 == 0  # the ways of bad samples leak no more than the others
        (tmp_path / f"{number}.jpg").write_bytes(out.getvalue()[:-40] if broken else out.getvalue())
        lines.append(f"{number}.jpg,picture {number}")
    (tmp_path / "captions.csv").write_text("\n".join(lines))
    source = sources.open_source(str(tmp_path), SimpleNamespace(caption_field="txt"))
    recipe = Recipe(seed=0, image_size=(32, 32), policy="clean", limits=LIMITS,
                    augment=Augment(flip=0.5), cache_bytes=0, canvas=canvas, captions="random")
    planned = PlainOrder(len(source), 0, BATCH)
    batches, quarantine = HostBatches(source, Words(), planned, recipe, np.arange(BATCH)), Quarantine(source, 1.0)

    def make(steps: range) -> None:
        for step in steps:
            batch = batches(step)
            quarantine.take(batch["tried"], batch["fault"])

    make(range(FIRST))
    before = resident()
    make(range(FIRST, FIRST + STEPS))
    assert resident() - before < MAY_GROW
    assert len(quarantine.drain()) == PICTURES // 10
    assert quarantine.counts["undecodable"] == quarantine.counts["bad"] > 0
