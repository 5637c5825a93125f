"""metrics.jsonl, TensorBoard, the progress line and the rates."""

import io
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lit_tune.files import read_lines
from lit_tune.metrics import MetricWriter, Throughput, peak_flops, progress_line


def test_line_has_step_kind_time_and_values(tmp_path: Path) -> None:
    with MetricWriter(tmp_path, total_steps=10) as writer:
        assert writer.write(5, "train", {"train/loss": np.float32(1.5), "data/batch_digest": "ab", "n": np.int64(3)})
        assert writer.write(5, "val", {"val/dev/top1": 0.5, "bad": float("nan")})
    train, val = read_lines(tmp_path / "metrics.jsonl")
    assert abs(train.pop("time") - time.time()) < 60
    assert train == {"step": 5, "kind": "train", "train/loss": 1.5, "data/batch_digest": "ab", "n": 3}
    assert val["bad"] == "nan", "JSON has no NaN"
    assert val["kind"] == "val"


def test_each_step_and_kind_is_written_once_also_after_a_restart(tmp_path: Path) -> None:
    for first in (True, False):
        with MetricWriter(tmp_path, total_steps=10) as writer:
            assert writer.write(5, "train", {"x": 1}) is first
            assert writer.write(5, "train", {"x": 2}) is False
    assert [line["x"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1]


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    out = io.StringIO()
    with MetricWriter(tmp_path, total_steps=10, process_index=1, out=out) as writer:
        assert writer.write(5, "train", {"x": 1}) is False
        writer.progress(5, {"train/loss": 1.0})
    assert list(tmp_path.iterdir()) == []
    assert out.getvalue() == ""


def test_deleted_file_is_made_anew_and_an_unwritable_one_is_told_of_once(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "metrics.jsonl"
    with MetricWriter(tmp_path, total_steps=10) as writer:
        writer.write(1, "train", {"x": 1})
        file.unlink()
        writer.write(2, "train", {"x": 2})
        assert [line["step"] for line in read_lines(file)] == [2]
        assert capsys.readouterr().err.count("has gone and is made anew; training goes on") == 1
        file.unlink()
        file.mkdir()  # cannot be written, even by root
        writer.write(3, "train", {"x": 3})
        writer.write(4, "train", {"x": 4})
        file.rmdir()
        writer.write(5, "train", {"x": 5})
    assert capsys.readouterr().err.count("training goes on") == 1
    assert [line["step"] for line in read_lines(file)] == [3, 4, 5], "lines wait until they can be written"


FULL = """
import os, resource, sys
from pathlib import Path
from lit_tune.metrics import MetricWriter
folder, full = Path(sys.argv[1]), 4_000
with MetricWriter(folder, total_steps=99) as writer:
    for step in range(1, 61):
        size = full if step < 50 else resource.RLIM_INFINITY    # at step 50 there is room again
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        writer.write(step, "train", {f"train/{name}": 1.5 for name in "abcdefghijklmnopqrst"})
"""


def test_a_full_disk_costs_neither_the_training_nor_a_line(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("metrics.jsonl cannot be written") == done.stderr.count("tb cannot be written") == 1
    text = (tmp_path / "metrics.jsonl").read_text()
    assert [json.loads(line)["step"] for line in text.splitlines()] == list(range(1, 61))
    files = list((tmp_path / "tb").iterdir())
    assert any(b"train/a" in file.read_bytes() for file in files) and len(files) <= 2, "not a file for each step"


def test_tensorboard_has_the_numbers(tmp_path: Path) -> None:
    with MetricWriter(tmp_path, total_steps=10) as writer:
        writer.write(5, "train", {"train/loss": 1.5, "data/batch_digest": "ab"})
    (events,) = (tmp_path / "tb").iterdir()
    assert b"train/loss" in events.read_bytes()
    assert b"batch_digest" not in events.read_bytes()


def test_reading_metrics_imports_neither_jax_nor_tensorboard() -> None:
    code = "import sys, lit_tune.metrics; print([m for m in ('jax', 'tensorboardX') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_progress_line_says_what_people_look_for() -> None:
    values = {"train/loss": 3.21, "train/logit_scale": 14.3, "perf/pairs_per_s": 12345.6, "data/wait_frac": 0.03}
    line = progress_line(50, 1000, values, 3725.0)
    assert line == "step 50/1000  loss 3.2100  temperature 14.30  12,346 pairs/s  data wait 3%  1:02:05 left"
    assert progress_line(1, 2, {}, 0.0) == "step 1/2"


def test_time_left_follows_the_steps_since_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    out = io.StringIO()
    with MetricWriter(tmp_path, total_steps=100, out=out) as writer:
        writer.progress(40, {})
        now[0] = 20.0
        writer.progress(50, {})
    assert out.getvalue().splitlines() == ["step 40/100", "step 50/100  0:01:40 left"]


def test_terminal_gets_a_bar_on_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: True)
    with MetricWriter(tmp_path, total_steps=100, out=out) as writer:
        writer.progress(50, {"train/loss": 1.0})
        writer.progress(100, {"train/loss": 0.5})
    assert out.getvalue().count("\r") == 2
    assert out.getvalue().count("\n") == 1
    assert "[##########..........] step 50/100" in out.getvalue()


def test_rates_are_those_of_the_steps_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [5.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "time", lambda: -1e6 * now[0])  # the clock of the day runs backwards
    clock = Throughput(global_batch=64, num_devices=4, flops_per_pair=1e9, peak=1e12)
    assert clock.rates(0, data_wait=1.0) == {}
    now[0] = 17.0
    rates = clock.rates(10, data_wait=1.0, other=2.0)
    assert rates == pytest.approx({
        "perf/pairs_per_s": 64.0, "perf/pairs_per_s_per_chip": 16.0, "data/wait_frac": 0.1, "perf/mfu": 0.016})


def test_mfu_is_left_out_where_the_peak_is_not_known() -> None:
    assert peak_flops("cpu") is None
    assert peak_flops("TPU v5 lite") == 197e12
    assert peak_flops("TPU v5p") == peak_flops("TPU v5") == 459e12
    assert peak_flops("NVIDIA H200") == 989e12
    clock = Throughput(64, 1, 1e9, peak_flops("cpu"))
    clock.rates(0, 0.0)
    time.sleep(0.01)
    assert "perf/mfu" not in clock.rates(1, 0.0)


def test_values_survive_json(tmp_path: Path) -> None:
    with MetricWriter(tmp_path, total_steps=1) as writer:
        writer.write(1, "train", {"inf": np.float32("inf"), "flag": True})
    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=lambda word: pytest.fail(word))
    assert line["inf"] == "inf"
    assert line["flag"] is True
