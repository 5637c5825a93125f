"""The loop of a run in this process: no transfer that nobody asked for, lines in order, the devices never idle."""

from pathlib import Path
from typing import Any

import jax
import pytest
import tiny

from lit_tune import train

TOTAL = 7


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loop: Any, **changes: object) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl of a short run whose loop is `loop`."""
    monkeypatch.setenv("LIT_TUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(train, "loop", loop)
    words = tiny.arguments(tiny.text_folder(tmp_path / "text"), tiny.picture_folder(tmp_path / "pictures"),
                           tmp_path / "run", total_steps=TOTAL, eval__sets=(), checkpoint__every=3, **changes)
    assert train.main(words) == 0
    return tiny.lines(tmp_path / "run")


def test_nothing_moves_between_host_and_devices_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, guarded = train.loop, []

    def loop(run: train.Run) -> int:
        with jax.transfer_guard("disallow"):
            with pytest.raises(Exception, match="[Dd]isallowed"):
                jax.jit(lambda x: x + 1)(1.0)  # the guard is on: a number that slips into a step is caught
            guarded.append(True)
            return original(run)

    lines = run(tmp_path, monkeypatch, loop, log__block_stats_steps=2)
    assert guarded and [line["step"] for line in lines if line["kind"] == "train"] == list(range(1, TOTAL + 1))


def test_a_line_waits_for_the_next_step_but_for_no_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events, original, write, save = [], train.loop, train.write_line, train.save

    def noted(run: train.Run, *rest: Any) -> None:
        if run.line is not None:
            events.append(("line", run.line.step, run.step))
        write(run, *rest)

    def saved(run: train.Run, *rest: Any, **options: Any) -> None:
        events.append(("save", run.step, run.step))
        save(run, *rest, **options)

    monkeypatch.setattr(train, "write_line", noted)
    monkeypatch.setattr(train, "save", saved)
    run(tmp_path, monkeypatch, original)
    lines = [(step, at) for kind, step, at in events if kind == "line"]
    assert lines == [(1, 2), (2, 3), (3, 3), (4, 5), (5, 6), (6, 6), (7, 7)]  # saved after 3, 6 and 7
    for place, (kind, step, _) in enumerate(events):
        if kind == "save":
            assert ("line", step) in [event[:2] for event in events[:place]]
