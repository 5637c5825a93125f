"""Runs under --restarts, and what happens to the other processes of a run when one is lost."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import several
import tiny

from lit_tune import supervisor
from lit_tune.step_folders import StepFolders


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the text tower and the pictures."""
    return tiny.make_home(tmp_path_factory.mktemp("restarts"))


@pytest.fixture(scope="module")
def straight(home: Path) -> str:
    """The name of a run of one process that nobody disturbed."""
    return several.straight(home)


@pytest.fixture(scope="module")
def straight_2(home: Path) -> str:
    """The name of a run of two processes that nobody disturbed."""
    return several.straight(home, 2)


def kill_one_of_two(home: Path, straight: str, number: int) -> float:
    """Kill -9 one process of two under --restarts, hold the end against the straight run's; seconds until it trains."""
    name = f"killed-{number}"
    processes = several.run_several(home, name, "--restarts=4")
    tiny.wait_for_step(home / name, 23, processes[0], saved=10)
    (child,) = several.children(processes[number].pid)
    reached, kept, began = several.newest(home, name), tiny.kept(home / name), time.monotonic()
    os.kill(child, signal.SIGKILL)
    while several.newest(home, name) >= reached and several.newest(home, name) < several.STEPS:
        assert time.monotonic() - began < 120 and processes[0].poll() is None, "no restart was seen"
        time.sleep(0.05)
    seconds = several.seconds_to_step(home, name, reached + 1, processes[0], began)
    codes, outputs = several.finish(processes)
    assert codes == [0, 0], outputs
    assert re.search(r"lit-tune: the run was ended by SIGKILL; newest checkpoint: step \d+; restart 1 of 4",
                     outputs[number]), outputs[number]
    other = outputs[1 - number]
    # jax ends the others by SIGABRT where the coordinator is lost, unless a collective tells them first.
    words = ["another process was lost"] + (["SIGABRT"] if number == 0 else [])
    assert "restart 1 of 4" in other and any(word in other for word in words), other
    tiny.check_kept(home / name, kept)
    several.same_end(home, name, straight)
    return seconds


@pytest.mark.slow
@pytest.mark.faults(row=3, fault="kill -9 of one process of two, under `--restarts`",
                    expected="the other ends too, both come back, ends bit for bit")
def test_kill_9_of_one_of_two_brings_both_back(
    home: Path, straight_2: str, recovery: Callable[[float], None]
) -> None:
    recovery(kill_one_of_two(home, straight_2, 1))


@pytest.mark.slow
@pytest.mark.faults(row=4, fault="kill -9 of the coordinator (process 0), under `--restarts`",
                    expected="the other ends too, both come back, ends bit for bit")
def test_kill_9_of_the_coordinator_brings_both_back(
    home: Path, straight_2: str, recovery: Callable[[float], None]
) -> None:
    recovery(kill_one_of_two(home, straight_2, 0))


@pytest.mark.slow
@pytest.mark.faults(row=8, fault="a second SIGTERM, in a save that takes long",
                    expected="ends at once, last checkpoint intact, resumes bit for bit")
def test_second_sigterm_ends_at_once_and_resume_is_bitwise(
    home: Path, straight: str, recovery: Callable[[float], None]
) -> None:
    process = several.run(home, "twice", "--debug_fault=slow_save@11")
    tiny.wait_for_step(home / "twice", 22, process)  # step 10 is saved, 20 is held
    process.send_signal(signal.SIGTERM)
    time.sleep(1.5)
    assert process.poll() is None, "the first signal leaves the save alone"
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    code, output = tiny.finish(process, timeout=20)
    assert time.monotonic() - began < 5 and code == 0 and output.endswith("preempted at step 10\n"), output
    began = time.monotonic()
    process = several.run(home, "twice")
    recovery(several.seconds_to_step(home, "twice", several.newest(home, "twice") + 1, process, began))
    code, output = tiny.finish(process)
    assert code == 0 and "resumed   at step 10" in output, output
    several.same_end(home, "twice", straight)


@pytest.mark.slow
def test_a_run_that_fails_again_and_again_is_given_up_when_no_checkpoint_is_newer(home: Path) -> None:
    code, output = tiny.finish(several.run(home, "hopeless", "--restarts=1", "--debug_fault=raise@25"))
    lines = [line for line in output.splitlines() if line.startswith("lit-tune: the run")]
    assert code == 1, output
    assert lines == ["lit-tune: the run ended with exit code 1; newest checkpoint: step 20; restart 1 of 1 in 1 s",
                     "lit-tune: the run ended with exit code 1; newest checkpoint: step 20; no newer one in 1 restart: "
                     "giving up"]


@pytest.mark.slow
def test_sigterm_to_the_supervisor_is_passed_on_and_ends_both(home: Path, straight: str) -> None:
    process = several.run(home, "told", "--restarts=3", "--preempted_exit_code=75")
    tiny.wait_for_step(home / "told", 13, process)
    (child,) = several.children(process.pid)
    os.kill(child, signal.SIGTERM)  # as one that stops a whole group does
    process.send_signal(signal.SIGTERM)
    code, output = tiny.finish(process)
    assert code == 75 and "lit-tune: the run" not in output and "preempted at step" in output, output
    assert int(output.rsplit("preempted at step", 1)[1]) >= 13
    kept = tiny.kept(home / "told")
    process = several.run(home, "told", "--restarts=3")
    assert tiny.finish(process)[0] == 0
    tiny.check_kept(home / "told", kept)
    several.same_end(home, "told", straight)


@pytest.mark.slow
def test_a_killed_supervisor_takes_the_run_with_it(home: Path) -> None:
    process = several.run(home, "orphan", "--restarts=3", data__workers=1)
    tiny.wait_for_step(home / "orphan", 5, process)
    (child,) = several.children(process.pid)
    process.kill()
    assert several.gone(child, 40), "the run goes on without its supervisor"
    process.communicate()


SUPERVISED = """
import sys
from lit_tune import supervisor
from lit_tune.step_folders import StepFolders
home, program, restarts = sys.argv[1:]
supervisor._Child.stop_within = lambda self, seconds: False   # no waiting
with supervisor._Child([sys.executable, "-c", program, home]) as child:
    code = supervisor.supervise(child, int(restarts), StepFolders(home, read_only=True), 0)
assert "jax" not in sys.modules
sys.exit(code)
"""
COUNTED = """
import os, signal, sys
from pathlib import Path
home = Path(sys.argv[1])
starts = len(list(home.glob("start-*")))
(home / f"start-{starts}").touch()
"""


def supervised(home: Path, body: str, restarts: int) -> tuple[int, int, list[str]]:
    """(exit code, number of starts, lines said) of a program `body` under a supervisor that does not wait."""
    done = subprocess.run([sys.executable, "-c", SUPERVISED, str(home), COUNTED + body, str(restarts)],
                          capture_output=True, text=True, timeout=60)
    return done.returncode, len(list(home.glob("start-*"))), done.stderr.splitlines()


@pytest.mark.parametrize("code, starts", [(0, 1), (1, 3), (2, 1), (3, 1), (4, 1), (5, 1), (75, 3), (130, 1)])
def test_only_codes_that_a_restart_may_help_are_restarted(code: int, starts: int, tmp_path: Path) -> None:
    assert supervised(tmp_path, f"sys.exit({code})", 2)[:2] == (code, starts)


def test_death_by_a_signal_is_restarted_and_told_as_a_shell_does(tmp_path: Path) -> None:
    assert supervised(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)", 1) == (137, 2, [
        "lit-tune: the run was ended by SIGKILL; newest checkpoint: none; restart 1 of 1 in 1 s",
        "lit-tune: the run was ended by SIGKILL; newest checkpoint: none; no newer one in 1 restart: giving up"])


def test_restarts_wait_longer_and_longer_up_to_a_minute(tmp_path: Path) -> None:
    said = supervised(tmp_path, "sys.exit(1)", 8)[2]
    assert [line.rpartition(" in ")[2] for line in said[:-1]] == [f"{s} s" for s in (1, 2, 4, 8, 16, 32, 60, 60)]


def test_a_disk_that_does_not_answer_and_a_signal_without_a_name_do_not_end_the_supervisor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(folders: StepFolders) -> list[int]:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(StepFolders, "steps", fails)
    monkeypatch.setattr(supervisor._Child, "stop_within", lambda child, seconds: False)
    with supervisor._Child([sys.executable, "-c", "import os; os.kill(os.getpid(), 40)"]) as child:
        assert supervisor.supervise(child, 1, StepFolders(tmp_path, read_only=True), 0) == 128 + 40
    said = capsys.readouterr().err
    assert said.count("cannot be listed now (OSError: [Errno 5] Input/output error)") == 3
    assert said.count("was ended by signal 40") == 2 and "giving up" in said


def test_a_newer_checkpoint_starts_the_count_anew(tmp_path: Path) -> None:
    progress = """
step = home / str(10 * (starts + 1))
if starts < 4:
    step.mkdir()
    (step / "arrays").write_text("")
    from lit_tune.digests import write_digests
    write_digests(step, step=int(step.name), metrics={})
sys.exit(75)
"""
    code, starts, _ = supervised(tmp_path, progress, 2)
    assert (code, starts) == (75, 4 + 2), "four that came further, then two that did not"
