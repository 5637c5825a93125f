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


def go_on(home: Path, name: str, **changes: object) -> tuple[tiny.subprocess.Popen, float]:
    """The same command once more: the process at its first new step, and the seconds that took."""
    before, start = max(line["step"] for line in tiny.lines(home / name)), time.monotonic()
    process = run(home, name, **changes)
    tiny.wait_for_step(home / name, before + 1, process)
    return process, time.monotonic() - start


def check_lines(home: Path, name: str, until: int) -> None:
    """Every step stands once in the log, up to `until` at least, with the very numbers of the straight run."""
    counts = Counter((line["step"], line["kind"]) for line in tiny.lines(home / name))
    assert set(counts.values()) == {1}, "a step stands twice in metrics.jsonl"
    steps = {step for step, kind in counts if kind == "train"}
    assert steps == set(range(1, max(steps) + 1)) and max(steps) >= until
    same = {line["step"]: line for line in tiny.lines(home / "straight") if line["kind"] == "train"}
    for line in tiny.lines(home / name):
        if line["kind"] == "train":
            for key in ("train/loss", "train/grad_norm", "data/batch_digest", "train/lr"):
                assert line[key] == same[line["step"]][key], (line["step"], key)


def stop(process: tiny.subprocess.Popen, home: Path, name: str, number: signal.Signals) -> int:
    """The step that a signalled run says it has saved."""
    process.send_signal(number)
    code, output = tiny.finish(process)
    assert code == 0 and "preempted at step" in output, output
    saved = int(output.rsplit("preempted at step", 1)[1].split()[0])
    assert (home / name / "checkpoints" / str(saved) / "digests.json").exists()
    return saved


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


@pytest.mark.faults(row=48, fault="a finished run is started again", expected="exit 0 at once, nothing rewritten")
def test_a_finished_run_started_again_ends_at_once_and_rewrites_nothing(home: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (home / "straight").rglob("*") if path.is_file()}
    code, output = tiny.finish(run(home, "straight"))
    assert code == 0 and "is finished" in output, output
    after = {path: path.stat().st_mtime_ns for path in (home / "straight").rglob("*") if path.is_file()}
    assert {p: t for p, t in after.items() if p.name != "run.lock"} == {
        p: t for p, t in before.items() if p.name != "run.lock"}


@pytest.mark.faults(row=1, fault="kill -9 between two saves", expected="resumes bit for bit, each log line once")
@pytest.mark.faults(row=2, fault="kill -9 in an asynchronous save", expected="the step before is restored, bit for bit")
@pytest.mark.faults(row=5, fault="SIGTERM of one process with a worker", expected="saves, exit 0, resumes bit for bit")
def test_a_run_stopped_in_every_way_ends_bitwise_as_one_left_alone(
    home: Path, recovery: Callable[[float], None]
) -> None:
    name, checkpoints = "stopped", home / "stopped" / "checkpoints"
    process = run(home, name)
    tiny.wait_for_step(home / name, 13, process)
    process.kill()
    process.communicate()

    process, seconds = go_on(home, name, data__workers=1)
    recovery(seconds)
    check_lines(home, name, until=13)
    assert stop(process, home, name, signal.SIGTERM) >= 13

    process, seconds = go_on(home, name)
    recovery(seconds)
    check_lines(home, name, until=14)
    deadline = time.monotonic() + 240
    while not any("tmp" in path.name or path.suffix == ".changing" for path in checkpoints.iterdir()):
        assert process.poll() is None and time.monotonic() < deadline, "no further save was seen"
    process.kill()
    process.communicate()

    process, seconds = go_on(home, name)
    recovery(seconds)
    code, output = tiny.finish(process)
    assert code == 0 and "resumed" in output, output
    check_lines(home, name, until=STEPS)
    assert final(home, name) == final(home, "straight")
    assert not [path.name for path in checkpoints.iterdir() if not path.name.isdecimal()]


@pytest.mark.faults(row=17, fault="another config in the same run directory", expected="exit 2 with the difference")
def test_another_config_in_the_same_directory_is_refused_with_the_difference(home: Path) -> None:
    code, output = tiny.finish(run(home, "straight", optim__lr=0.5))
    assert code == 2 and "optim.lr" in output and output.strip().count("\n") == 0, output


def test_a_batch_of_nothing_finite_ends_with_exit_code_3(home: Path) -> None:
    words = tiny.arguments(home / "text", home / "pictures", home / "wild", optim__lr=1e30, loss__logit_scale_init=80.0,
                           loss__logit_scale_max=0.0, log__every=10, total_steps=30)
    code, output = tiny.finish(tiny.start(words, home / "cache"))
    assert code == 3 and "--skip_batches" in output, output
