"""Real runs, interrupted in every way and started again, end with the very bits of a run that was left alone."""

import json
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny

STEPS = 60  # 24 pictures, 8 a step: 20 epochs


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the text tower, the pictures and a run that nobody interrupted."""
    home = tmp_path_factory.mktemp("resume")
    tiny.text_folder(home / "text")
    tiny.picture_folder(home / "pictures")
    code, output = tiny.finish(run(home, "straight"))
    assert code == 0, output
    return home


def run(home: Path, name: str, **changes: object) -> tiny.subprocess.Popen:
    """A started run of the module's pictures in a folder `name`."""
    words = tiny.arguments(home / "text", home / "pictures", home / name, total_steps=STEPS, **changes)
    return tiny.start(words, home / "cache")


def final(home: Path, name: str) -> dict:
    """The content of final.json."""
    return json.loads((home / name / "final.json").read_text())


def check_resumed(home: Path, name: str, **changes: object) -> float:
    """Start the same command once more and compare its end with the straight run; seconds until its first new step."""
    before, start = max(line["step"] for line in tiny.lines(home / name)), time.monotonic()
    process = run(home, name, **changes)
    tiny.wait_for_step(home / name, before + 1, process)
    seconds = time.monotonic() - start
    code, output = tiny.finish(process)
    assert code == 0, output
    assert "resumed" in output, output
    resumed = int(output.split("resumed   at step ")[1].split()[0])
    assert final(home, name)["params_sha256"] == final(home, "straight")["params_sha256"]
    assert final(home, name)["eval"] == final(home, "straight")["eval"]
    counts = Counter((line["step"], line["kind"]) for line in tiny.lines(home / name))
    assert set(counts.values()) == {1}, "a step stands twice in metrics.jsonl"
    assert {step for step, kind in counts if kind == "train"} == set(range(1, STEPS + 1))
    same = {line["step"]: line for line in tiny.lines(home / "straight") if line["kind"] == "train"}
    for line in tiny.lines(home / name):
        if line["kind"] == "train":
            for key in ("train/loss", "data/batch_digest", "train/lr"):
                assert line[key] == same[line["step"]][key], (line["step"], key)
            lost = [share for key, share in line.items() if key.startswith("perf/lost_")]
            assert line["perf/goodput"] + sum(lost) == pytest.approx(1) and min(lost) >= 0
            assert ("perf/lost_redone" in line) == ("perf/lost_down" in line) == (line["step"] > resumed)
    return seconds


def test_the_straight_run_writes_what_the_interface_promises(home: Path) -> None:
    folder = home / "straight"
    assert final(home, "straight")["step"] == STEPS
    for name in ("config.json", "metrics.jsonl", "tb", f"eval/{STEPS}.json", "eval/report.html",
                 f"checkpoints/{STEPS}/digests.json"):
        assert (folder / name).exists(), name
    last = [line for line in tiny.lines(folder) if line["kind"] == "train"][-1]
    for key in ("loss", "loss_i2t", "loss_t2i", "grad_norm", "lr", "logit_scale", "skipped_steps", "masked_frac",
                "clipped_frac", "cos_pos", "cos_neg", "centroid_gap", "erank_image", "erank_text"):
        assert f"train/{key}" in last, key
    for key in ("data/bad_samples", "data/batch_digest", "data/wait_frac", "perf/pairs_per_s",
                "perf/pairs_per_s_per_chip", "perf/goodput"):
        assert key in last, key


def test_a_finished_run_started_again_ends_at_once_and_rewrites_nothing(home: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (home / "straight").rglob("*") if path.is_file()}
    code, output = tiny.finish(run(home, "straight"))
    assert code == 0 and "is finished" in output, output
    after = {path: path.stat().st_mtime_ns for path in (home / "straight").rglob("*") if path.is_file()}
    assert {p: t for p, t in after.items() if p.name != "run.lock"} == {
        p: t for p, t in before.items() if p.name != "run.lock"}


@pytest.mark.faults(row=1, fault="kill -9 between two saves", expected="resumes bit for bit, each log line once")
def test_kill_9_at_some_step_and_resume_is_bitwise(home: Path, recovery: Callable[[float], None]) -> None:
    process = run(home, "killed")
    tiny.wait_for_step(home / "killed", 23, process)
    process.kill()
    process.communicate()
    recovery(check_resumed(home, "killed"))


def test_sigterm_saves_and_resume_is_bitwise(home: Path) -> None:
    process = run(home, "terminated")
    tiny.wait_for_step(home / "terminated", 17, process)
    process.send_signal(signal.SIGTERM)
    code, output = tiny.finish(process)
    assert code == 0 and "preempted at step" in output, output
    saved = int(output.rsplit("preempted at step", 1)[1].split()[0])
    assert saved >= 17 and (home / "terminated" / "checkpoints" / str(saved) / "digests.json").exists()
    check_resumed(home, "terminated")


def test_ctrl_c_with_workers_and_resume_is_bitwise(home: Path) -> None:
    process = run(home, "interrupted", data__workers=1)
    tiny.wait_for_step(home / "interrupted", 5, process)  # 3 steps an epoch: the second one
    process.send_signal(signal.SIGINT)
    code, output = tiny.finish(process)
    assert code == 0 and "preempted at step" in output, output
    check_resumed(home, "interrupted", data__workers=2)


def test_kill_9_inside_a_save_and_resume_is_bitwise(home: Path) -> None:
    process = run(home, "save", checkpoint__every=15)
    checkpoints, deadline = home / "save" / "checkpoints", time.monotonic() + 240
    tiny.wait_for_step(home / "save", 15, process)
    while not ((checkpoints / "15" / "digests.json").exists() and any("tmp" in p.name for p in checkpoints.iterdir())):
        assert process.poll() is None and time.monotonic() < deadline, "no second save was seen"
    process.kill()
    process.communicate()
    check_resumed(home, "save", checkpoint__every=15)


def test_another_config_in_the_same_directory_is_refused_with_the_difference(home: Path) -> None:
    code, output = tiny.finish(run(home, "straight", optim__lr=0.5))
    assert code == 2 and "optim.lr" in output and output.strip().count("\n") == 0, output
