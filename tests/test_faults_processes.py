"""Runs of several real processes on this machine: killed, told to stop, started with other numbers of processes."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import interrupted
import pytest
import tiny
from interrupted import Home
from several import finish

STEPS = 40
pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]


def start(home: Home, name: str, processes: int = 2, devices: int = 1, first: dict[str, object] | None = None,
          **changes: object) -> list[subprocess.Popen]:
    """The processes of one run; `first` are further changes of process 0 alone."""
    together = {"LIT_TUNE_COORDINATOR": f"127.0.0.1:{tiny.free_port()}", "LIT_TUNE_NUM_PROCESSES": str(processes)}
    return [home.run(name, devices=devices, environment=together | {"LIT_TUNE_PROCESS_ID": str(number)},
                     **changes | (first or {} if number == 0 else {})) for number in range(processes)]


def go_on(home: Home, name: str, processes: int = 2, devices: int = 1) -> tuple[list[subprocess.Popen], float]:
    """The run started again, at its first new step, and the seconds that took; it has to go on from its checkpoint."""
    before, kept, began = home.lines(name)[-1]["step"], tiny.kept(home.folder / name), time.monotonic()
    started = start(home, name, processes, devices)
    tiny.wait_for_step(home.folder / name, before + 1, started[0])
    seconds = time.monotonic() - began
    tiny.check_kept(home.folder / name, kept)
    return started, seconds


def end(home: Home, name: str, started: list[subprocess.Popen], like: str) -> None:
    """The processes end well, the run as the other one bit for bit."""
    codes, outputs = finish(started, 120)
    assert codes == [0] * len(started), outputs
    assert home.final(name) == home.final(like)
    home.check_lines(name, STEPS, like)


def stopped_together(started: list[subprocess.Popen], numbers: list[int]) -> int:
    """The one step that all processes say they saved after SIGTERM to some of them."""
    for number in numbers:
        started[number].send_signal(signal.SIGTERM)
    codes, outputs = finish(started, 60)
    assert codes == [0] * len(started), outputs
    (step,) = {int(output.rsplit("preempted at step", 1)[1].split()[0]) for output in outputs}
    return step


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """`straight`: two processes with a device each, which nobody disturbed."""
    home = Home.make(tmp_path_factory.mktemp("processes"), total_steps=STEPS)
    codes, outputs = finish(start(home, "straight"), 200)
    assert codes == [0, 0], outputs
    return home


@pytest.mark.faults(row=1, fault="kill -9 of both processes between two saves", expected="resumes bit for bit")
@pytest.mark.faults(row=2, fault="kill -9 of both processes in an asynchronous save",
                    expected="the step before is restored, the rest cleared away, bit for bit")
@pytest.mark.faults(row=5, fault="SIGTERM to one of two", expected="both save at one step, exit 0, bit for bit")
@pytest.mark.faults(row=6, fault="SIGTERM to both", expected="both save at one step, exit 0, bit for bit")
def test_two_processes_stopped_in_every_way_end_bitwise_as_two_left_alone(
    home: Home, recovery: Callable[[float], None]
) -> None:
    name = "stopped"
    started = start(home, name)
    tiny.wait_for_step(home.folder / name, 6, started[0])
    assert stopped_together(started, [1]) >= 6

    started, seconds = go_on(home, name)
    recovery(seconds)
    assert stopped_together(started, [0, 1]) >= 7

    started, seconds = go_on(home, name)
    recovery(seconds)
    interrupted.wait_until(lambda: interrupted.saving(home.checkpoints(name)), started[0], "further save")
    interrupted.kill(*started)

    started, seconds = go_on(home, name)
    recovery(seconds)
    tiny.wait_for_step(home.folder / name, home.lines(name)[-1]["step"] + 3, started[0])
    interrupted.kill(*started)

    started, seconds = go_on(home, name)
    recovery(seconds)
    end(home, name, started, "straight")
    assert not [path.name for path in home.checkpoints(name).iterdir() if not path.name.isdecimal()]


@pytest.mark.faults(row=15, fault="2 processes, then 1, 2 again, 4 (two, later four devices in all)",
                    expected="the same batches in the same order, loss within 1e-5")
def test_another_number_of_processes_goes_on_with_the_same_batches(
    home: Home, recovery: Callable[[float], None]
) -> None:
    name, legs = "elastic", [(2, 1), (1, 2), (2, 1), (4, 1)]
    for number, (processes, devices) in enumerate(legs):
        if number == 0:
            started = start(home, name, processes, devices)
            tiny.wait_for_step(home.folder / name, 5, started[0])
        else:
            started, seconds = go_on(home, name, processes, devices)
            recovery(seconds)
        if number < len(legs) - 1:
            assert stopped_together(started, [0]) < STEPS, "no steps are left for the other numbers of processes"
    codes, outputs = finish(started, 120)
    assert codes == [0] * 4, outputs
    straight, lines = home.lines("straight"), home.lines(name)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert [line["data/batch_digest"] for line in lines] == [line["data/batch_digest"] for line in straight]
    for line, other in zip(lines, straight, strict=True):
        assert line["train/loss"] == pytest.approx(other["train/loss"], abs=1e-5), line["step"]


@pytest.mark.faults(row=19, fault="two processes with different configs",
                    expected="exit 2 on both within 30 s, with the difference")
def test_processes_with_different_configs_are_told_apart_at_the_start(home: Home) -> None:
    began = time.monotonic()
    codes, outputs = finish(start(home, "different", first={"optim__lr": 0.5, "seed": 3}), 60)
    assert codes == [2, 2], outputs
    assert time.monotonic() - began < 30
    for output in outputs:
        assert "optim.lr is 0.5 on process 0 and 0.001 on process 1" in output, output
        assert "seed is 3 on process 0 and 0 on process 1" in output and "Traceback" not in output
    assert not (home.folder / "different").exists(), "nothing is written"


@pytest.mark.faults(row=19, fault="two processes whose shards differ", expected="exit 2 on both, with the difference")
def test_processes_with_different_data_are_told_apart_at_the_start(home: Home) -> None:
    other = shutil.copytree(home.folder / "pictures", home.folder / "pictures-of-1")
    lines = (other / "captions.csv").read_text().splitlines()
    (other / "captions.csv").write_text("\n".join(lines[:-1]) + "\n")
    together = {"LIT_TUNE_COORDINATOR": f"127.0.0.1:{tiny.free_port()}", "LIT_TUNE_NUM_PROCESSES": "2"}
    # One path that leads to other pictures on each machine, as a copy that was cut short does.
    started = []
    for number in range(2):
        own = home.folder / f"machine{number}"
        own.mkdir()
        os.symlink(home.folder / "pictures" if number == 0 else other, own / "pictures")
        line = tiny.arguments(home.folder / "text", Path("pictures"), home.folder / "other-data", **home.settings)
        started.append(tiny.start(line, home.folder / "cache", folder=own,
                                  **together | {"LIT_TUNE_PROCESS_ID": str(number)}))
    codes, outputs = finish(started, 60)
    assert codes == [2, 2], outputs
    assert all("train is" in output and "on process 1" in output for output in outputs), outputs


@pytest.mark.faults(row=50, fault="3 processes and a batch of 8", expected="exit 2 at the start, with batches that do")
def test_a_number_of_processes_that_does_not_divide_the_batch_is_refused(home: Home) -> None:
    codes, outputs = finish(start(home, "three", processes=3), 90)
    assert codes == [2, 2, 2], outputs
    for output in outputs:
        assert "a multiple of 3" in output and "use 6 or 9" in output and "Traceback" not in output, output
