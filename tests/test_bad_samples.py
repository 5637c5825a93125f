"""Counts of refused samples: the same whatever the number of processes and starts; what ends a run is named too."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import several
import tiny
from jax.sharding import AxisType

from lit_tune.bad_samples import BadSamples
from lit_tune.data.quarantine import Quarantine
from lit_tune.data.sample import KINDS
from lit_tune.data.sources import open_source

CHANGES = {"data__max_bad_fraction": 1.0, "total_steps": 12, "checkpoint__every": 5, "eval__sets": ()}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text tower and 24 pictures, two of which are none, in every batch of 8 about one."""
    home = tiny.make_home(tmp_path_factory.mktemp("bad"))
    for picture in sorted((home / "pictures").glob("*.png"))[3:5]:
        picture.write_bytes(b"<html>404</html>")
    return home


def counts(home: Path, name: str) -> list[tuple[int, int, int]]:
    """(step, bad samples, those of unknown format) of every line of a run."""
    return [(line["step"], line["data/bad_samples"], line.get("data/bad_unknown_format", 0))
            for line in tiny.lines(home / name) if line["kind"] == "train"]


def test_what_is_added_and_what_was_saved_are_the_totals(home: Path) -> None:
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    quarantine = Quarantine(open_source(str(home / "pictures"), type("Data", (), {"caption_field": "txt"})), 1.0)
    first = BadSamples(quarantine, mesh, None)
    assert first.metrics() == {"data/bad_samples": 0}
    two, three = 1 + KINDS.index("undecodable"), 1 + KINDS.index("too_small")
    tried = np.array([[5, 11, 2], [5, 1, -1], [3, -1, -1]])
    for fault in ([[two, three, 0], [two, 0, 0], [0, 0, 0]], [[two, 0, 0], [0, 0, 0], [0, 0, 0]]):
        quarantine.take(tried, np.array(fault, np.uint8))
        first.add()
    first.add()  # nothing new
    first.settle()
    assert first.metrics() == {"data/bad_samples": 4, "data/bad_undecodable": 3, "data/bad_too_small": 1}
    second = BadSamples(quarantine, mesh, json.loads(json.dumps(first.record())))
    second.add()
    second.settle()
    assert second.totals["bad"] == 8 and second.totals["samples"] == 24


@pytest.mark.multiprocess
def test_processes_and_restarts_count_as_one_undisturbed_run(home: Path) -> None:
    code, output = tiny.finish(several.run(home, "one", **CHANGES))
    assert code == 0, output
    alone = counts(home, "one")
    assert [step for step, *_ in alone] == list(range(1, 13)) and alone[-1][1] == alone[-1][2] >= 4
    codes, outputs = several.finish(several.run_several(home, "two", **CHANGES))
    assert codes == [0, 0], outputs
    assert counts(home, "two") == alone
    code, output = tiny.finish(several.run(home, "again", "--debug_fault=raise@8", **CHANGES))
    assert code == 1, output
    code, again = tiny.finish(several.run(home, "again", **CHANGES))
    assert code == 0 and counts(home, "again") == alone, again
    said = [f"data      {alone[-1][1]} of {96 + alone[-1][1]} samples replaced"]
    assert all(said[0] in one for one in (*outputs[:1], again))


def test_bad_samples_that_end_a_run_are_in_its_quarantine(home: Path) -> None:
    code, output = tiny.finish(several.run(home, "strict", **CHANGES | {"data__max_bad_fraction": 0.00001}))
    assert code == 4 and "1 bad ones among the last" in output, output
    (line,) = [json.loads(line) for line in (home / "strict" / "quarantine.jsonl").read_text().splitlines()]
    assert line["kind"] == "unknown_format" and f"/{line['key']}" in output
