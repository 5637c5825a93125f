"""launch/local.py: the verbs around local.sh, with a stand-in for lit-tune; real processes and real signals."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
from local_processes import LOCAL, STAND_IN, make_home, start, wait_for_files

PLAN = {"fits": True, "topology": "h100x2", "slices": 1, "chips": 2, "devices": 2, "hosts": 1, "hbm_peak_gib": 15.2,
        "hbm_limit_gib": 75.0, "would_fit": [], "run_hours_low": 1.0, "run_hours_high": 2.0, "cost_usd_low": 10.0,
        "cost_usd_high": 20.0, "price_date": "2026-11-25"}
TRAIN = ("--", "--config=quickstart", "--config.data.train=a b/*.tar")
# `plan` and `doctor` answer by files; everything else is a process of a run.
OTHERS = """#!/bin/bash
case $1 in
  plan) echo "$*" >>"$HOME/asked"; cat "$HOME/plan"; exit ;;
  doctor) echo "$*" >>"$HOME/asked"; exit "${DOCTOR:-0}" ;;
esac
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder with a stand-in for lit-tune in bin/."""
    home = make_home(tmp_path)
    (home / "bin" / "lit-tune").write_text(OTHERS + STAND_IN)
    (home / "plan").write_text(json.dumps(PLAN))
    return home


def begin(home: Path, *words: str, play: str = "", program: str = "local.py", **variables: str) -> subprocess.Popen:
    """A started launcher, in a session of its own."""
    environment = {"PATH": f"{home / 'bin'}:/usr/bin:/bin", "HOME": str(home), "LIT_TUNE_PLAY": play, **variables}
    interpreter = sys.executable if program.endswith(".py") else "bash"
    return subprocess.Popen([interpreter, str(LOCAL.with_name(program)), *words], env=environment, text=True, cwd=home,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)


def call(home: Path, *words: str, **options: str) -> tuple[int, str]:
    """(exit code, output) of a launcher."""
    return tiny.finish(begin(home, *words, **options), 60)


def asked(home: Path) -> list[str]:
    """What lit-tune was asked, apart from running."""
    file = home / "asked"
    return file.read_text().splitlines() if file.exists() else []


@pytest.mark.parametrize("play, code", [("exit 0,exit 0", 0), ("exit 75,exit 2", 2), ("exit 1,exit 4", 4)])
def test_run_is_local_sh_with_its_exit_code_and_words(home: Path, play: str, code: int) -> None:
    found, output = call(home, "run", "--processes=2", "--workdir=run", *TRAIN, play=play)
    assert found == code and "process 0 plays" in output, output
    assert (home / "words-1").read_text() == "train --config=quickstart --config.data.train=a b/*.tar --workdir=run\n"
    assert not (home / "run/logs/processes").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_run_reaches_every_process_once(home: Path, number: int) -> None:
    process = begin(home, "resume", "--processes=2", "--workdir=run", *TRAIN, play="wait 75,wait 75")
    wait_for_files(home / "ready-0", home / "ready-1")
    os.killpg(process.pid, number)
    code, output = tiny.finish(process, 60)
    assert code == 75, output
    assert [(home / f"signals-{i}").read_text() for i in range(2)] == ["TERM\n", "TERM\n"]


@pytest.mark.parametrize("program, words", [("local.py", ("run", "--processes=2", "--workdir=run", *TRAIN)),
                                            ("local.sh", ("run", "--processes=2", "--workdir=run", *TRAIN)),
                                            ("local.sh", ("2", "--workdir=run", *TRAIN[1:]))])
def test_down_ends_a_run_that_another_terminal_started(home: Path, program: str, words: tuple[str, ...]) -> None:
    path = f"{home / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin"
    process = begin(home, *words, play="wait 75,wait 75", program=program, PATH=path)
    wait_for_files(home / "ready-0", home / "ready-1")
    (home / "run/checkpoints/40").mkdir(parents=True)
    (home / "run/checkpoints/40/digests.json").write_text("{}")
    noted = home / "run/logs/processes"
    deadline = time.monotonic() + 30
    while len(noted.read_text().splitlines()) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    code, output = call(home, "status", f"--workdir={home}/run")
    assert code == 0 and f"local.sh: running as {process.pid}\n" in output and "process 1: running as" in output, output
    assert "newest checkpoint: step 40" in output
    for verb in ("run", "up"):
        code, output = call(home, verb, "--processes=2", "--workdir=run", *TRAIN)
        assert code == 0 and "runs already" in output and not asked(home), output
    code, output = tiny.finish(start(home, "1", "exit 0"), 60)
    assert code == 2 and "no run writes to" in output and str(process.pid) in output, output
    code, output = call(home, "down", "--workdir=run", "--dry-run")
    assert code == 0 and output == f"kill -TERM {process.pid}\n" and process.poll() is None
    code, output = call(home, "down", "--workdir=run")
    assert code == 0 and "ended" in output and "step 40" in output, output
    assert tiny.finish(process, 60)[0] == 75
    assert [(home / f"signals-{i}").read_text() for i in range(2)] == ["TERM\n", "TERM\n"]
    code, output = call(home, "down", "--workdir=run")
    assert code == 0 and output == "nothing runs in run\n"
    assert "processes: none" in call(home, "status", "--workdir=run")[1]


def test_down_ends_processes_whose_local_sh_was_killed(home: Path) -> None:
    process = begin(home, "run", "--processes=2", "--workdir=run", *TRAIN, play="wait 75,wait 75")
    wait_for_files(home / "ready-0", home / "ready-1")
    time.sleep(0.5)  # until their numbers are noted
    process.kill()
    process.wait()
    code, output = call(home, "status", "--workdir=run")
    assert "local.sh:" not in output and "process 0: running as" in output and "process 1: running as" in output, output
    assert call(home, "down", "--workdir=run")[0] == 0
    assert [(home / f"signals-{i}").read_text() for i in range(2)] == ["TERM\n", "TERM\n"]
    process.communicate()


def test_down_says_what_does_not_end(home: Path) -> None:
    process = begin(home, "run", "--workdir=run", *TRAIN, play="deaf")
    wait_for_files(home / "ready-0")
    time.sleep(0.5)
    code, output = call(home, "down", "--workdir=run", LIT_TUNE_SAVE_SECONDS="0.5")
    assert code == 1 and "IS STILL THERE after 0.5 s" in output and "kill -9" in output, output
    numbers = [int(word) for word in output.partition("kill -9 ")[2].split(" ends")[0].split()]
    assert numbers[0] == process.pid and len(numbers) == 2
    for number in numbers[1:]:
        os.kill(number, signal.SIGKILL)
    tiny.finish(process, 60)


def test_a_process_of_the_same_number_is_not_taken_for_ours(home: Path) -> None:
    (home / "run/logs").mkdir(parents=True)
    (home / "run/logs/processes").write_text(f"local.sh {os.getpid()} 12\n0 1 13\nhalf a line\n")
    assert call(home, "down", "--workdir=run") == (0, "nothing runs in run\n")
    assert "processes: none" in call(home, "status", "--workdir=run")[1]
    assert call(home, "run", "--workdir=run", *TRAIN, play="exit 0")[0] == 0


@pytest.mark.parametrize("plan, words, expected", [
    (json.dumps(PLAN), (), 0), (json.dumps(PLAN | {"fits": False}), (), 2), (json.dumps(PLAN | {"fits": False}),
                                                                            ("--force",), 0)])
@pytest.mark.parametrize("verb", ["plan", "up"])
def test_what_does_not_fit_is_refused_unless_forced(
        home: Path, verb: str, plan: str, words: tuple[str, ...], expected: int) -> None:
    (home / "plan").write_text(plan)
    code, output = call(home, verb, "--processes=2", "--topology=h100x2", "--workdir=run", *words, *TRAIN)
    assert code == expected and "15.2 of 75.0 GiB" in output and not (home / "run").exists(), output
    assert asked(home)[0].startswith("plan --config=quickstart --config.data.train=a b/*.tar --topology=h100x2")
    assert ("ready; next:" in output) == (verb == "up" and expected == 0)


def test_up_without_gpus_is_not_planned_and_shows_what_would_be_started(home: Path) -> None:
    code, output = call(home, "up", "--processes=2", "--workdir=run", *TRAIN, CUDA_VISIBLE_DEVICES="4,5")
    assert code == 0 and "plan: none" in output and not (home / "run").exists(), output
    assert "LIT_TUNE_PROCESS_ID=1 CUDA_VISIBLE_DEVICES=5 lit-tune train --config=quickstart" in output
    assert asked(home) == ["doctor --config=quickstart --config.data.train=a b/*.tar"]
    (line,) = [line for line in output.splitlines() if line.startswith("ready; next: ")]
    words = shlex.split(line.removeprefix("ready; next: python launch/local.py "))
    assert call(home, *words, play="exit 0,exit 0")[0] == 0
    assert (home / "words-0").read_text() == "train --config=quickstart --config.data.train=a b/*.tar --workdir=run\n"


@pytest.mark.parametrize("words, variables, expected, says", [
    ((), {"DOCTOR": "2"}, 2, "stands in the way"), (("--force",), {"DOCTOR": "2"}, 0, "ready"),
    (("--processes=2",), {"CUDA_VISIBLE_DEVICES": "0,1,2"}, 2, "divides the 3 GPUs"),
    (("--workdir=plan/run",), {}, 2, "can be written"),
    ((), {"PATH": "/usr/bin:/bin"}, 1, "lit-tune: expected on the PATH")])
def test_up_finds_what_stands_in_the_way(
        home: Path, words: tuple[str, ...], variables: dict[str, str], expected: int, says: str) -> None:
    code, output = call(home, "up", "--workdir=run", *words, *TRAIN, **variables)
    assert code == expected and says in output, output


@pytest.mark.parametrize("program, words", [
    ("local.py", ("run", "--processes=2", "--workdir=run", "--dry-run", *TRAIN)),
    ("local.py", ("resume", "--processes=2", "--workdir=run", "--dry_run", *TRAIN)),
    ("local.sh", ("2", "--dry-run", *TRAIN[1:], "--workdir=run"))])
def test_a_dry_run_prints_a_line_a_process_and_makes_nothing(home: Path, program: str, words: tuple[str, ...]) -> None:
    code, output = call(home, *words, program=program, CUDA_VISIBLE_DEVICES="0,1,4,5")
    assert code == 0 and not (home / "run").exists() and not asked(home), output
    lines = [shlex.split(line) for line in output.splitlines()]
    assert len(lines) == 2 and lines[0][0] == lines[1][0] and lines[0][0].startswith("LIT_TUNE_COORDINATOR=127.0.0.1:")
    for i, cards in enumerate(("0,1", "4,5")):
        assert lines[i][1:] == ["LIT_TUNE_NUM_PROCESSES=2", f"LIT_TUNE_PROCESS_ID={i}", f"CUDA_VISIBLE_DEVICES={cards}",
                                "lit-tune", "train", *TRAIN[1:], "--workdir=run"]
    done = subprocess.run(["bash", "-c", f"export CUDA_VISIBLE_DEVICES; {output.splitlines()[1]}"], cwd=home, text=True,
                          env={"PATH": f"{home / 'bin'}:/usr/bin:/bin", "HOME": str(home), "LIT_TUNE_PLAY": ",exit 3"})
    assert done.returncode == 3 and (home / "place-1").read_text().split()[1:] == ["2", "4,5"]  # it can be pasted


@pytest.mark.parametrize("verb", ["plan", "up", "run", "logs", "status", "resume", "down"])
def test_every_verb_has_a_dry_run_that_calls_nothing(home: Path, verb: str) -> None:
    (home / "run/logs").mkdir(parents=True)
    (home / "run/logs/process-1.log").write_text("")
    code, output = call(home, verb, "--topology=h100x2", "--workdir=run", "--worker=1", "--dry-run", *TRAIN)
    assert code == 0 and not asked(home) and not list(home.glob("words-*")), output
    expected = {"plan": "lit-tune plan", "up": "lit-tune doctor", "run": "LIT_TUNE_PROCESS_ID=0",
                "resume": "LIT_TUNE_PROCESS_ID=0", "status": "# processes",
                "logs": "tail -n 200 -F run/logs/process-1.log", "down": "# nothing"}
    assert expected[verb] in output, output


def test_logs_of_a_process(home: Path) -> None:
    assert call(home, "run", "--processes=2", "--workdir=run", *TRAIN, play="exit 0,exit 0")[0] == 0
    process = begin(home, "logs", "--workdir=run", "--worker=1")
    assert process.stdout.readline() == "process 1 plays exit 0\n"
    process.send_signal(signal.SIGINT)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=30)
    code, output = call(home, "logs", "--workdir=run", "--worker=2")
    assert code == 1 and "process-2.log: expected a log" in output and output.count("\n") == 1


@pytest.mark.parametrize("words, says", [
    (("upp",), "'upp'"), (("run", "--workdir=r"), "expected `-- train"), (("run", *TRAIN), "a folder of this machine"),
    (("run", "--workdir=gs://b/r", *TRAIN), "a folder of this machine"), (("status",), "add --workdir=DIR"),
    (("status", "--workdir=gs://b/r"), "a folder of this machine"), (("plan", *TRAIN), "--topology"),
    (("run", "2", "--workdir=r", *TRAIN), "--processes=N"), (("run", "--procesess=2", *TRAIN), "mean --processes?"),
    (("run", "--processes=0", "--workdir=r", *TRAIN), "at least 1"), (("run", "--spot", *TRAIN), "leave it out"),
    (("run", "--workdir=r", *TRAIN, "--dry-run"), "before `--`"), (("run", "--name=lit", *TRAIN), "leave it out"),
    (("run", "--workdir=r", "--", "search", "--model=m"), "another subcommand"),
    (("run", "--workdir=r", *TRAIN, "--coordinator=a:1"), "leave it out"),
    (("down", "--workdir=r", "LIT_TUNE_SAVE_SECONDS"), "found an unknown one")])
@pytest.mark.parametrize("program", ["local.py", "local.sh"])
def test_what_is_mistyped_is_one_line_and_makes_nothing(
        home: Path, program: str, words: tuple[str, ...], says: str) -> None:
    path = f"{home / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin"
    code, output = call(home, *words, program=program, PATH=path)
    assert code == 2 and says in output and output.count("\n") == 1 and not (home / "r").exists(), output
