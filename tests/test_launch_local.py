"""launch/local.sh: exit codes, signals and GPUs with a stand-in for lit-tune; then two real processes, one killed."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import several
import simulated
import tiny
from local_processes import LOCAL, make_home, start, wait_for_files


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder with a stand-in for lit-tune in bin/."""
    return make_home(tmp_path)


@pytest.mark.parametrize("play, code", [("exit 0,exit 0", 0), ("exit 75,exit 2", 2), ("exit 75,exit 1", 1),
                                        ("exit 0,exit 75", 75), ("exit 1,exit 4", 4)])
def test_the_exit_code_is_the_worst(home: Path, play: str, code: int) -> None:
    found, output = tiny.finish(start(home, "2", play), 60)
    assert found == code, output
    assert "process 0 plays" in output and "process 1 plays" not in output
    assert "process 1 plays" in (home / "run/logs/process-1.log").read_text()


def test_every_process_is_told_its_place_and_the_flags_as_they_were(home: Path) -> None:
    found, output = tiny.finish(start(home, "2", "exit 0,exit 0", "--config.data.train=a b/*.tar", "--restarts=3"), 60)
    assert found == 0, output
    places = [(home / f"place-{i}").read_text().split() for i in range(2)]
    assert places[0] == places[1] and re.fullmatch(r"127\.0\.0\.1:\d+", places[0][0]) and places[0][1] == "2"
    assert (home / "words-1").read_text() == (
        f"train --workdir={home / 'run'} --config.data.train=a b/*.tar --restarts=3\n")


@pytest.mark.parametrize("play, codes", [
    ("exit 1,wait 75", "1 75"), ("wait 75,exit 1", "75 1"),
    pytest.param("exit 1,deaf", "1 137", marks=pytest.mark.slow)])  # who does not hear SIGTERM has 30 s
def test_one_that_fails_ends_the_others_even_a_deaf_one_is_not_left(home: Path, play: str, codes: str) -> None:
    process = start(home, "2", play, LIT_TUNE_LOCAL_GRACE="1")
    found, output = tiny.finish(process, 90)
    assert found == 1 and f"exit codes {codes}" in output, output
    told = {file.name: file.read_text() for file in home.glob("signals-*")}
    assert told == {f"signals-{i}": "TERM\n" for i, one in enumerate(play.split(",")) if one.startswith("wait")}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_handed_on_once_and_the_code_is_the_runs(home: Path, number: int) -> None:
    process = start(home, "2", "wait 75,wait 75")
    wait_for_files(home / "ready-0", home / "ready-1")
    os.killpg(process.pid, number)  # as a terminal does: the whole group of local.sh
    found, output = tiny.finish(process, 60)
    assert found == 75, output
    assert [(home / f"signals-{i}").read_text() for i in range(2)] == ["TERM\n", "TERM\n"]


def test_ctrl_c_at_a_terminal_reaches_every_process_once(home: Path) -> None:
    child, terminal = pty.fork()  # a session with a terminal of its own: Ctrl-C goes to its foreground group
    if child == 0:
        os.execvpe("bash", ["bash", str(LOCAL), "2", f"--workdir={home / 'run'}"],
                   {"PATH": f"{home / 'bin'}:/usr/bin:/bin", "HOME": str(home), "LIT_TUNE_PLAY": "wait 75,wait 75"})
    try:
        wait_for_files(home / "ready-0", home / "ready-1")
        os.write(terminal, b"\x03")
        deadline = time.monotonic() + 30
        while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert ended[0] == child and os.waitstatus_to_exitcode(ended[1]) == 75
        assert [(home / f"signals-{i}").read_text() for i in range(2)] == ["TERM\n", "TERM\n"]
    finally:
        os.close(terminal)
        if ended == (0, 0):
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_a_signal_while_processes_are_being_started_leaves_none(home: Path) -> None:
    (home / "run" / "logs").mkdir(parents=True)
    os.mkfifo(home / "run/logs/process-1.log")  # local.sh waits for a reader before it starts process 1
    process = start(home, "2", "wait 0,wait 0")
    wait_for_files(home / "ready-0")
    process.terminate()
    with (home / "run/logs/process-1.log").open():
        code, output = tiny.finish(process, 60)
    assert code == 0 and (home / "signals-0").read_text() == "TERM\n", output
    assert not (home / "ready-1").exists() or (home / "signals-1").read_text() == "TERM\n"


@pytest.mark.parametrize("visible, places", [("0,1,4,5", ["0,1", "4,5"]), (None, ["0", "1"]), ("", ["none", "none"]),
                                             ("-1", ["-1", "-1"]), ("NoDevFiles", ["NoDevFiles", "NoDevFiles"])])
def test_gpus_are_shared_out_unless_they_are_hidden(home: Path, visible: str | None, places: list[str]) -> None:
    card = home / "bin" / "nvidia-smi"
    card.write_text("#!/bin/sh\nprintf '0\\n1\\n'\n")
    card.chmod(0o755)
    variables = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    code, output = tiny.finish(start(home, "2", "exit 0,exit 0", **variables), 60)
    assert code == 0, output
    assert [(home / f"place-{i}").read_text().split()[2] for i in range(2)] == places


def test_gpus_that_cannot_be_shared_out_are_refused(home: Path) -> None:
    code, output = tiny.finish(start(home, "2", "exit 0,exit 0", CUDA_VISIBLE_DEVICES="0,1,2"), 60)
    assert code == 2 and "divides the 3 GPUs" in output


@pytest.mark.parametrize("words, expected", [
    (["two", "--workdir=x"], "how many processes"), (["2"], "--workdir"),
    (["2", "--workdir=gs://b/x"], "a folder here"), (["2", "--workdir=x", "--num-processes=2"], "leave it out")])
def test_wrong_words_are_one_line(home: Path, words: list[str], expected: str) -> None:
    done = subprocess.run(["bash", str(LOCAL), *words], capture_output=True, text=True, cwd=home,
                          env={"PATH": f"{home / 'bin'}:/usr/bin:/bin"})
    assert done.returncode == 2 and expected in done.stderr and done.stderr.count("\n") == 1


def real(home: Path, name: str, *more: str, **changes: object) -> subprocess.Popen:
    """A started local.sh of two real processes, one device each."""
    environment = os.environ | {"LIT_TUNE_CACHE": str(home / "cache"), "JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1",
                                "XLA_FLAGS": simulated.flags(1), "CUDA_VISIBLE_DEVICES": "",
                                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    words = tiny.arguments(home / "text", home / "pictures", home / name, **changes)
    return subprocess.Popen(["bash", str(LOCAL), "2", *words, *more], env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)


def process_id(workdir: Path, number: int, word: str = "") -> int:
    """The process of a run whose variables say that it is `number`, with a word on its command line."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"LIT_TUNE_PROCESS_ID={number}".encode() in variables and f"--workdir={workdir}".encode() in words and (
                not word or word.encode() in words):
            return int(folder.name)
    raise AssertionError(f"no process {number} of {workdir}")


def back_at(home: Path, name: str, reached: int, process: subprocess.Popen, began: float) -> float:
    """Seconds until a run trains beyond a step again, once its log has fallen back to a checkpoint."""
    while several.newest(home, name) >= reached and several.newest(home, name) < several.STEPS:
        assert time.monotonic() - began < 120 and process.poll() is None, "no restart was seen"
        time.sleep(0.05)
    return several.seconds_to_step(home, name, reached + 1, process, began)


real_runs = pytest.mark.skipif(not (Path(sys.executable).parent / "lit-tune").exists() or not Path("/proc").is_dir(),
                               reason="the command is not installed, or this is not Linux")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures and a run of two processes that nobody disturbed."""
    home = tiny.make_home(tmp_path_factory.mktemp("local"))
    code, output = tiny.finish(real(home, "straight"))
    assert code == 0, output
    return home


def same_end(home: Path, name: str) -> None:
    """A run ended as the straight one did, bit for bit."""
    ends = [json.loads((home / one / "final.json").read_text()) for one in ("straight", name)]
    assert ends[0]["params_sha256"] == ends[1]["params_sha256"] and ends[0]["eval"] == ends[1]["eval"]


@real_runs
@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.faults(row=3, fault="local.sh: kill -9 of one of two processes",
                    expected="the other ends too; the same command resumes bit for bit")
def test_kill_9_of_one_of_two_ends_both_and_the_same_command_resumes_bitwise(
        straight: Path, recovery: Callable[[float], None]) -> None:
    process = real(straight, "killed")
    tiny.wait_for_step(straight / "killed", 23, process, saved=10)
    os.kill(process_id(straight / "killed", 1), signal.SIGKILL)
    code, output = tiny.finish(process, 150)
    assert code == 137 and "exit codes" in output, output

    reached, kept = several.newest(straight, "killed"), tiny.kept(straight / "killed")  # nobody writes any more
    began = time.monotonic()
    process = real(straight, "killed")
    recovery(back_at(straight, "killed", reached, process, began))
    code, output = tiny.finish(process)
    tiny.check_kept(straight / "killed", kept)
    assert code == 0 and "resumed" in output, output
    same_end(straight, "killed")


@real_runs
@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.faults(row=3, fault="local.sh --restarts: kill -9 of one of two processes",
                    expected="both start again by themselves and end bit for bit")
def test_restarts_bring_a_killed_process_and_its_peer_back(straight: Path, recovery: Callable[[float], None]) -> None:
    process = real(straight, "restarted", "--restarts=3")
    tiny.wait_for_step(straight / "restarted", 23, process, saved=10)
    victim = process_id(straight / "restarted", 1, "--restarts=0")  # the child of the supervisor
    reached, kept = several.newest(straight, "restarted"), tiny.kept(straight / "restarted")
    began = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    recovery(back_at(straight, "restarted", reached, process, began))
    code, output = tiny.finish(process)
    tiny.check_kept(straight / "restarted", kept)
    assert code == 0 and "resumed" in output, output
    same_end(straight, "restarted")
