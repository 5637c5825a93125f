"""Real runs, interrupted in every way and started again, end with the very bits of a run that was left alone."""

import signal
from collections.abc import Callable

import interrupted
import pytest
import tiny
from interrupted import Home

STEPS = 60  # 24 pictures, 8 a step: 20 epochs


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The pictures and a run that nobody interrupted."""
    return Home.make(tmp_path_factory.mktemp("resume"), total_steps=STEPS).straight()


def test_the_straight_run_writes_what_the_interface_promises(home: Home) -> None:
    folder = home.folder / "straight"
    assert home.final("straight")["step"] == STEPS
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
def test_a_finished_run_started_again_ends_at_once_and_rewrites_nothing(home: Home) -> None:
    before = {path: path.stat().st_mtime_ns for path in (home.folder / "straight").rglob("*") if path.is_file()}
    code, output = tiny.finish(home.run("straight"))
    assert code == 0 and "is finished" in output, output
    after = {path: path.stat().st_mtime_ns for path in (home.folder / "straight").rglob("*") if path.is_file()}
    assert {p: t for p, t in after.items() if p.name != "run.lock"} == {
        p: t for p, t in before.items() if p.name != "run.lock"}


@pytest.mark.faults(row=1, fault="kill -9 between two saves", expected="resumes bit for bit, each log line once")
@pytest.mark.faults(row=2, fault="kill -9 in an asynchronous save", expected="the step before is restored, bit for bit")
@pytest.mark.faults(row=5, fault="SIGTERM of one process with a worker", expected="saves, exit 0, resumes bit for bit")
def test_a_run_stopped_in_every_way_ends_bitwise_as_one_left_alone(
    home: Home, recovery: Callable[[float], None]
) -> None:
    name = "stopped"
    process = home.run(name)
    tiny.wait_for_step(home.folder / name, 13, process, saved=10)
    interrupted.kill(process)

    process, seconds = home.go_on(name, data__workers=1)
    recovery(seconds)
    home.check_lines(name, until=13)
    assert home.stop(process, name, signal.SIGTERM) >= 13

    process, seconds = home.go_on(name)
    recovery(seconds)
    home.check_lines(name, until=14)
    interrupted.wait_until(lambda: interrupted.saving(home.checkpoints(name)), process, "further save")
    interrupted.kill(process)

    process, seconds = home.go_on(name)
    recovery(seconds)
    assert "resumed" in home.check_end(name, process)
    assert not [path.name for path in home.checkpoints(name).iterdir() if not path.name.isdecimal()]


@pytest.mark.faults(row=17, fault="another config in the same run directory", expected="exit 2 with the difference")
def test_another_config_in_the_same_directory_is_refused_with_the_difference(home: Home) -> None:
    code, output = tiny.finish(home.run("straight", optim__lr=0.5))
    assert code == 2 and "optim.lr" in output and output.strip().count("\n") == 0, output
