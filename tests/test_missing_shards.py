"""Shards that are missing at the start: named, left out only where that was asked for, and the same set ever after."""

import json
from pathlib import Path

import pytest
import shards_on_disk
import tiny
from PIL import Image

from lit_tune import cli


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text tower, and four shards of six drawings each."""
    home = tmp_path_factory.mktemp("missing")
    tiny.text_folder(home / "text")
    number = 0
    for shard in range(4):
        members = []
        for shape in tiny.SHAPES:
            color = list(tiny.COLORS)[shard]
            image = shards_on_disk.encoded(Image.new("RGB", (20, 20), tiny.COLORS[color]))
            members += [(f"{number:05}.jpg", image), (f"{number:05}.txt", f"a {color} {shape}".encode())]
            number += 1
        shards_on_disk.write(home / f"{shard:05}.tar", members)
    return home


def run(home: Path, *flags: str) -> tuple[int, str]:
    """Exit code and output of a run over shards 0 to 3."""
    words = tiny.arguments(home / "text", home / "{00000..00003}.tar", home / "run", total_steps=4, global_batch=4,
                           checkpoint__every=2, optim__warmup_steps=1, eval__sets=())  # fmt: skip
    return tiny.finish(tiny.start([*words, *flags], home / "cache"))


@pytest.mark.slow
@pytest.mark.faults(row=32, fault="a shard is missing at the first start, with and without --allow_missing",
                    expected="exit 4 naming it; within the share left out and told, and a resume wants the same shards")
def test_a_missing_shard_is_left_out_only_where_that_was_asked_for(home: Path) -> None:
    hidden = (home / "00002.tar").rename(home / "00002.hidden")
    code, output = run(home)
    assert code == 4 and "00002.tar" in output and not (home / "run" / "checkpoints").exists(), output
    code, output = run(home, "--allow_missing=0.2")  # one of four is more
    assert code == 4 and "00002.tar" in output, output
    code, output = run(home, "--allow_missing=0.25")
    assert code == 0 and "00002.tar" in output and "18 pairs" in output and "1 bad_shards" in output, output
    before = json.loads((home / "run" / "config.json").read_text())["data"]
    hidden.rename(home / "00002.tar")
    code, output = run(home, "--allow_missing=0.25", "--extend", "--config.total_steps=6")
    assert code == 2 and "other data" in output, output
    assert json.loads((home / "run" / "config.json").read_text())["data"] == before


@pytest.mark.parametrize("text", ["1.5", "-0.1", "some"])
def test_a_share_that_is_none_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--config=quickstart", "--workdir=nowhere", f"--allow_missing={text}"]) == 2
    assert "--allow_missing" in capsys.readouterr().err
