"""SIGTERM and kill -9 in the phases of a run that are no training steps: it ends soon and loses nothing."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import interrupted
import pytest
import tiny
from interrupted import Home

STEPS, EVALUATED = 40, 20
COPIES = 60  # of the pictures in the evaluation set, so that an evaluation takes a while
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A run that nobody disturbed, evaluated in the middle and at the end on a thousand pictures, one at a time."""
    home = Home.make(tmp_path_factory.mktemp("signals"), total_steps=STEPS, eval__every=EVALUATED, eval__batch=1)
    many = home.folder / "many"
    many.mkdir()
    rows = ["image,caption"]
    for line in (home.folder / "pictures" / "captions.csv").read_text().splitlines()[1:]:
        name, caption = line.split(",")
        for copy in range(COPIES):
            os.link(home.folder / "pictures" / name, many / f"{copy}-{name}")
            rows.append(f"{copy}-{name},{caption}")
    (many / "captions.csv").write_text("\n".join(rows) + "\n")
    return Home(home.folder, home.settings | {"eval__sets": (f"many={many}",)}).straight()


def ended(process: subprocess.Popen, at_most: float) -> str:
    """The output of a run that was just told to end, which it does in time, with exit code 0 and the line."""
    code, output = tiny.finish(process, at_most)
    assert code == 0 and "preempted at step" in output, output
    return output


def said(process: subprocess.Popen, start: str) -> None:
    """Returns when the run has printed a line that starts so."""
    assert any(line.startswith(start) for line in process.stdout), f"the run never said {start!r}"


@pytest.mark.faults(row=7, fault="SIGTERM in the first compile",
                    expected="ends within 30 s; no checkpoint and no log bind the next start")
def test_signal_in_the_compile_ends_the_run(home: Home) -> None:
    slow = {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}  # optimised, a compile of many seconds
    process = home.run("compile", environment=slow, vision__depth=12)
    said(process, "run ")  # the last line before the first batch and the compile
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    output = ended(process, 30)
    assert "preempted at step 0" in output and "step 1/" not in output, output
    assert not [path for path in home.checkpoints("compile").glob("*") if path.name.isdecimal()]
    assert not (home.folder / "compile" / "metrics.jsonl").exists(), "the next start may have another config"


@pytest.mark.faults(row=7, fault="kill -9, then SIGTERM in an evaluation",
                    expected="its results neither lost nor repeated, bit for bit")
def test_evaluations_are_neither_lost_nor_repeated(home: Home, recovery: Callable[[float], None]) -> None:
    name = "evaluation"
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = home.run(name)
        if number == signal.SIGTERM:  # restored from before the evaluation
            said(process, "resumed ")
        tiny.wait_for_step(home.folder / name, EVALUATED, process)
        saved = home.checkpoints(name) / "10" / "digests.json"
        interrupted.wait_until(saved.exists, process, "earlier save")
        process.send_signal(number)  # the line of a step stands in the log before its evaluation begins
        code, output = tiny.finish(process, 60)
        assert code == (-9 if number == signal.SIGKILL else 0), output
        assert not home.lines(name, "val") and not (home.folder / name / "eval" / f"{EVALUATED}.json").exists()
        if number == signal.SIGKILL:
            log = home.folder / name / "metrics.jsonl"
            lines = [line for line in log.read_text().splitlines() if json.loads(line)["step"] < EVALUATED]
            log.write_text("\n".join(lines) + "\n")  # so that the wait above sees the second start's own line
    assert f"preempted at step {EVALUATED}" in output
    digests = home.checkpoints(name) / str(EVALUATED) / "digests.json"
    assert not json.loads(digests.read_text())["metrics"]
    process, seconds = home.go_on(name)
    recovery(seconds)
    assert json.loads(digests.read_text())["metrics"], "the scores by which the best is kept"
    home.check_end(name, process)
    assert [line["step"] for line in home.lines(name, "val")] == [EVALUATED, STEPS]
    for step in (EVALUATED, STEPS):
        own, straight = (json.loads((home.folder / run / "eval" / f"{step}.json").read_text())
                         for run in (name, "straight"))
        assert own == straight


@pytest.mark.faults(row=7, fault="SIGTERM while a picture cannot be read and the loop waits for data",
                    expected="ends after the grace time, the last checkpoint whole, bit for bit")
@pytest.mark.faults(row=7, fault="SIGTERM in the restore", expected="ends within 20 s, the checkpoint whole")
@pytest.mark.faults(row=7, fault="SIGTERM in a save", expected="the save is finished, bit for bit")
def test_signals_in_data_wait_restore_and_save(home: Home, recovery: Callable[[float], None]) -> None:
    name = "waits"
    picture = home.folder / "pictures" / "red-bar.png"
    kept = picture.with_suffix(".kept")
    process = home.run(name)
    tiny.wait_for_step(home.folder / name, 12, process, saved=10)
    picture.rename(kept)
    os.mkfifo(picture)  # opened by a reader, it waits for a writer
    step, since = 0, time.monotonic()
    while time.monotonic() - since < 3:
        now = home.lines(name)[-1]["step"]
        if now != step or (now == EVALUATED and not home.lines(name, "val")):  # an evaluation takes as long
            step, since = now, time.monotonic()
        time.sleep(0.05)
    saved, _ = tiny.kept(home.folder / name)
    process.send_signal(signal.SIGTERM)
    since = time.monotonic()
    named = int(ended(process, 60).rsplit("preempted at step", 1)[1])
    # the loop, which waits, has not yet looked whether the last save is through: the one before may be named
    assert named in (saved, saved - 10) and named >= 10, "the steps after the checkpoint cannot be saved"
    assert 20 < time.monotonic() - since < 40, "the loop waits for data, and the grace time of 25 s ends it"
    kept.rename(picture)
    assert tiny.kept(home.folder / name)[0] == saved >= 10
    restored_slowly(home, name, home.checkpoints(name) / str(saved))

    process, seconds = home.go_on(name)
    recovery(seconds)
    interrupted.wait_until(lambda: interrupted.saving(home.checkpoints(name)), process, "save")
    home.stop(process, name, signal.SIGTERM)
    process, seconds = home.go_on(name)
    recovery(seconds)
    home.check_end(name, process)


def restored_slowly(home: Home, name: str, checkpoint: Path) -> None:
    """Start the run with a checkpoint that takes minutes to verify, and end it while it does that."""
    digests, large = checkpoint / "digests.json", checkpoint / "large"
    whole = digests.read_text()
    content = json.loads(whole)
    content["files"] = {"large": {"size": 1 << 38, "sha256": "0" * 64}} | content["files"]
    digests.write_text(json.dumps(content))
    with large.open("wb") as file:
        file.truncate(1 << 38)  # takes no space
    try:
        process = home.run(name)
        folder = Path(f"/proc/{process.pid}/fd")
        interrupted.wait_until(lambda: large in opened(folder), process, "restore")
        process.send_signal(signal.SIGTERM)
        ended(process, 20)
    finally:
        large.unlink()
        digests.write_text(whole)


def opened(descriptors: Path) -> list[Path]:
    """The files that a process has open."""
    found = []
    for link in descriptors.iterdir():
        try:
            found.append(link.readlink())
        except OSError:  # closed since it was listed
            continue
    return found
