"""launch/slurm.py and the job that it sends, slurm.sh, against recording stand-ins for Slurm's programs."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from fake_cloud import LAUNCH, Cloud, interrupt

PLAN = {"fits": True, "topology": "h200x16", "slices": 1, "chips": 16, "devices": 16, "hosts": 2, "hbm_peak_gib": 15.2,
        "hbm_limit_gib": 133.0, "would_fit": [], "run_hours_low": 1.0, "run_hours_high": 2.0, "cost_usd_low": None,
        "cost_usd_high": None, "memory_is_bound": True}
UNFIT = PLAN | {"fits": False, "would_fit": [{"change": "micro_batches=8", "hbm_peak_gib": 20.0}]}
NAME = ("--name=lit", "--poll=0")
GPUS = "--topology=h200x16"


@pytest.fixture
def slurm(tmp_path: Path) -> Cloud:
    """A cluster with stand-ins for Slurm's programs."""
    return Cloud(tmp_path / "slurm", "sbatch", "squeue", "srun", "scontrol", "scancel", "sinfo", "tail", "lit-tune")


def train(slurm: Cloud) -> tuple[str, ...]:
    """The words for lit-tune."""
    return ("--", "--config=quickstart", f"--workdir={slurm.home}/r", "--config.data.train=a b")


def test_run_submits_once_and_passes_words_as_they_were(slurm: Cloud) -> None:
    slurm.play({"^sbatch": ["77;cluster\n"]})
    sbatch = ("--sbatch=--nodes=2 --comment='a b'", "--sbatch=--partition=gpu", "--restarts=3")
    code, output = slurm.launch("slurm.py", "run", *NAME, *sbatch, *train(slurm))
    assert code == 0 and "submitted: job 77\n" in output, output
    (call,) = slurm.calls("sbatch")
    assert call == ["sbatch", "--parsable", "--job-name=lit", "--nodes=2", "--comment=a b", "--partition=gpu",
                    str(LAUNCH / "slurm.sh"), "job", "3", *train(slurm)[1:]]
    assert "left, and billed" in output and "launch/slurm.py down --name=lit" in output


@pytest.mark.parametrize("verb", ["run", "resume", "up"])
def test_what_is_there_is_neither_planned_nor_submitted_again(slurm: Cloud, verb: str) -> None:
    slurm.play({"^squeue": ["77 PENDING\n"]})
    code, output = slurm.launch("slurm.py", verb, *NAME, GPUS, *train(slurm))
    assert code == 0 and "job 77 (PENDING) is there already" in output, output
    assert not slurm.calls("sbatch") and not slurm.calls("lit-tune") and "left, and billed" in output


def test_a_person_may_call_the_script_itself(slurm: Cloud) -> None:
    code, output = slurm.launch("slurm.sh", "status", *NAME, PATH=f"{slurm.home}/bin:{os.environ['PATH']}",
                                SLURM_JOB_ID="5")  # in a shell that salloc gave
    assert code == 0 and "job: none" in output and len(slurm.calls("squeue")) == 1, output


@pytest.mark.parametrize("answer, says", [
    (json.dumps(UNFIT), "micro_batches=8"), (json.dumps(UNFIT), "an upper bound"),
    ({"code": 2, "error": "lit-tune plan: --topology h900x16: expected a slice"}, "h900x16")])
@pytest.mark.parametrize("verb", ["up", "plan"])
def test_what_does_not_fit_or_cannot_be_planned_is_refused_unless_forced(
        slurm: Cloud, verb: str, answer: str | dict, says: str) -> None:
    slurm.play({"^lit-tune plan": [answer]})
    code, output = slurm.launch("slurm.py", verb, *NAME, GPUS, *train(slurm))
    assert code == 2 and says in output and "--force" in output and not slurm.calls("sinfo"), output
    slurm.play({"^lit-tune plan": [answer]})
    code, output = slurm.launch("slurm.py", verb, *NAME, GPUS, "--force", *train(slurm))
    assert code == 0 and says in output and bool(slurm.calls("sinfo")) == (verb == "up"), output


@pytest.mark.parametrize("words, says", [
    ((), "--config="), (("--", "--config=quickstart"), "--topology=GPUS"), ((GPUS,), "--config=")])
def test_up_without_what_a_plan_needs_is_refused_unless_forced(
        slurm: Cloud, words: tuple[str, ...], says: str) -> None:
    code, output = slurm.launch("slurm.py", "up", *NAME, *words)
    assert code == 2 and says in output and not slurm.calls("lit-tune") and not slurm.calls("sinfo"), output
    assert slurm.launch("slurm.py", "up", *NAME, "--force", *words)[0] == 0 and slurm.calls("sinfo")


def test_up_plans_looks_at_the_cluster_and_names_a_line_that_can_be_typed(slurm: Cloud) -> None:
    slurm.play({"^lit-tune plan": [json.dumps(PLAN)]})
    code, output = slurm.launch("slurm.py", "up", *NAME, GPUS, "--sbatch=--nodes=2", *train(slurm))
    assert code == 0 and "15.2 of 133.0 GiB" in output and "1.0 to 2.0 hours" in output, output
    (plan,) = slurm.calls("lit-tune")
    assert plan == ["lit-tune", "plan", "--config=quickstart", "--config.data.train=a b", GPUS, "--slices=1",
                    "--noplain", "--json"]
    made = slurm.calls()
    assert made.index(plan) < made.index(["sinfo", "--summarize"]) and not slurm.calls("sbatch")
    (line,) = [line for line in output.splitlines() if line.startswith("ready; next: ")]
    words = shlex.split(line.removeprefix("ready; next: python launch/slurm.py "))
    slurm.play({"^sbatch": ["77\n"]})
    assert slurm.launch("slurm.py", *words)[0] == 0
    (call,) = slurm.calls("sbatch")
    assert "--nodes=2" in call and call[-3:] == list(train(slurm)[1:])


@pytest.mark.parametrize("absent", ["sbatch", "srun", "squeue", "lit-tune"])
def test_up_wants_every_program(slurm: Cloud, absent: str) -> None:
    (slurm.home / "bin" / absent).unlink()
    code, output = slurm.launch("slurm.py", "up", *NAME, GPUS, *train(slurm), PATH=str(slurm.home / "bin"))
    assert code == 1 and f"{absent}: expected on the PATH" in output and output.count("\n") == 1, output


@pytest.mark.parametrize("verb, needed", [("run", "squeue"), ("run", "sbatch"), ("down", "squeue"), ("logs", "squeue")])
def test_a_program_that_is_not_there_is_one_line(slurm: Cloud, verb: str, needed: str) -> None:
    (slurm.home / "bin" / needed).unlink()
    code, output = slurm.launch("slurm.py", verb, *NAME, *train(slurm), PATH=str(slurm.home / "bin"))
    assert code == 1 and f"launch/slurm.py: {needed}: expected on the PATH" in output and "log in" in output, output


def test_a_refusal_of_sbatch_is_said_and_nothing_is_left(slurm: Cloud) -> None:
    slurm.play({"^sbatch": [{"code": 1, "error": "sbatch: error: invalid partition specified: gpuu"}]})
    code, output = slurm.launch("slurm.py", "run", *NAME, "--sbatch=--partition=gpuu", *train(slurm))
    assert code == 1 and "gpuu" in output and "nothing was submitted" in output and "left," not in output, output
    lost = {"code": 1, "error": "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"}
    slurm.play({"^sbatch": [lost], "^squeue": ["", "77 PENDING\n"]})
    code, output = slurm.launch("slurm.py", "run", *NAME, *train(slurm))
    assert code == 1 and "job 77 is there all the same" in output and "left, and billed" in output, output


@pytest.mark.parametrize("number, expected", [(signal.SIGINT, 130), (signal.SIGTERM, 130)])
def test_an_interruption_says_what_may_be_there(slurm: Cloud, number: int, expected: int) -> None:
    slurm.play({"^sbatch": [{"out": "77", "seconds": 5}]})
    process = slurm.start("slurm.py", "run", *NAME, *train(slurm))
    slurm.wait_for("sbatch", process)
    code, output = interrupt(process, number)
    assert code == expected and "left, and billed" in output and "slurm.py down --name=lit" in output, output


def test_squeue_that_does_not_answer_is_asked_again_and_nothing_is_submitted(slurm: Cloud) -> None:
    slurm.play({"^squeue": [{"code": 1, "error": "slurm_load_jobs error: Unable to contact slurm controller"}]})
    code, output = slurm.launch("slurm.py", "run", *NAME, *train(slurm))
    assert code == 1 and len(slurm.calls("squeue")) == 5 and not slurm.calls("sbatch"), output
    assert "Unable to contact slurm controller" in output and "nothing was changed" in output


def test_down_lets_a_running_job_save_first(slurm: Cloud) -> None:
    # It runs for two looks, then has put itself into the queue again, then is gone.
    slurm.play({"^squeue": ["77 RUNNING\n"] * 3 + ["77 PENDING\n", ""]})
    code, output = slurm.launch("slurm.py", "down", *NAME)
    assert code == 0 and "job 77 is off the queue" in output and "left," not in output, output
    assert slurm.calls("scancel") == [["scancel", "--signal=TERM", "77"], ["scancel", "77"]]
    made = slurm.calls()
    assert made.index(["scancel", "77"]) == 5, made


def test_down_of_a_job_that_does_not_save_in_time_and_of_one_that_waits(slurm: Cloud) -> None:
    slurm.play({"^squeue": ["77 RUNNING\n", "77 RUNNING\n", "77 COMPLETING\n"]})
    code, output = slurm.launch("slurm.py", "down", *NAME, LIT_TUNE_SAVE_SECONDS="0")
    assert code == 0 and "at most 0 s" in output and len(slurm.calls("scancel")) == 2, output
    slurm.play({"^squeue": ["77 PENDING\n78 PENDING\n", ""]})
    code, output = slurm.launch("slurm.py", "down", *NAME)
    assert code == 0 and slurm.calls("scancel") == [["scancel", "77", "78"]] and "77, 78 is off" in output, output
    slurm.play({})
    code, output = slurm.launch("slurm.py", "down", *NAME)
    assert code == 0 and "there is no job lit" in output and not slurm.calls("scancel"), output


def test_a_job_that_cannot_be_taken_off_is_said(slurm: Cloud) -> None:
    slurm.play({"^squeue": ["77 PENDING\n"], "^scancel": [{"code": 1}]})
    code, output = slurm.launch("slurm.py", "down", *NAME)
    assert code == 1 and "IS STILL THERE" in output and "scancel 77" in output and "left, and billed" in output, output


def test_status_and_logs(slurm: Cloud) -> None:
    saved = slurm.home / "r" / "checkpoints"
    for step in (8, 40, 1000):
        (saved / str(step)).mkdir(parents=True)
    for step in (8, 40):  # the third was interrupted
        (saved / str(step) / "digests.json").write_text("{}")
    slurm.play({"^squeue": ["77 RUNNING\n"], "^scontrol": ["JobId=77\n   StdOut=/shared/my logs/lit-77.log\n   X=1\n"]})
    code, output = slurm.launch("slurm.py", "status", *NAME, f"--workdir={slurm.home}/r")
    assert code == 0 and "job 77: RUNNING" in output and "newest checkpoint: step 40" in output, output
    assert slurm.launch("slurm.py", "logs", *NAME)[0] == 0
    assert slurm.calls("tail") == [["tail", "-n", "200", "-F", "/shared/my logs/lit-77.log"]]
    slurm.play({})
    code, output = slurm.launch("slurm.py", "logs", *NAME)
    assert code == 1 and "lit-JOB.log" in output and not slurm.calls("tail"), output


@pytest.mark.parametrize("verb", ["plan", "up", "run", "logs", "status", "resume", "down"])
def test_a_dry_run_prints_commands_that_can_be_pasted_and_calls_none(slurm: Cloud, verb: str) -> None:
    code, output = slurm.launch("slurm.py", verb, *NAME, GPUS, "--sbatch=--nodes=2", "--dry-run", *train(slurm))
    assert code == 0 and not slurm.calls() and not (slurm.home / "r").exists(), output
    printed = [shlex.split(line) for line in output.splitlines() if not line.startswith("#")]
    assert printed and {words[0] for words in printed} <= {"squeue", "sbatch", "scancel", "scontrol", "sinfo", "tail",
                                                           "lit-tune"}
    expected = {"plan": "lit-tune", "up": "lit-tune", "run": "sbatch", "resume": "sbatch", "logs": "tail",
                "status": "squeue", "down": "scancel"}
    assert expected[verb] in {words[0] for words in printed}


@pytest.mark.parametrize("words, says", [
    (("run", "--nodes=2"), "--sbatch='--nodes=2 ...'"), (("run", "--sbtach=--nodes=2"), "did you mean --sbatch?"),
    (("run", "--sbatch=--comment='a"), "no closing quotation"), (("run", "--sbatch=--job-name=other"), "in --name"),
    (("run", "--sbatch=-Jother"), "in --name"), (("down", "--zone=us-east5-b"), "leave it out"),
    (("run", "--name=Lit"), "lower-case"),
    (("status", "--workdir=gs://b/r"), "leave one out"), (("plan",), "--topology: expected the GPUs of all nodes"),
    (("run", "--restarts=-1"), "at least 0"), (("status", "-n"), "-n: expected a flag")])
def test_what_is_mistyped_is_one_line_and_touches_nothing(slurm: Cloud, words: tuple[str, ...], says: str) -> None:
    code, output = slurm.launch("slurm.py", words[0], *NAME, *words[1:], *train(slurm))
    assert code == 2 and says in output and output.count("\n") == 1 and not slurm.calls(), output


@pytest.mark.parametrize("words, says", [
    ((), "expected `-- train"), (("--", "--config=c"), "a folder that all nodes share"),
    (("--", "--config=c", "--workdir=gs://b/r"), "a folder that all nodes share"),
    (("--workdir=/a", "--", "--config=c", "--workdir=/b"), "leave one out"),
    (("--workdir=/r", "--", "cache-text", "--out=/b"), "lit-tune train"),
    (("--", "--config=c", "--dry-run"), "before `--`"),
    (("--", "--config=c", "--workdir=/r", "--preempted_exit_code=0"), "expected 75")])
def test_words_that_a_job_cannot_run_are_one_line(slurm: Cloud, words: tuple[str, ...], says: str) -> None:
    code, output = slurm.launch("slurm.py", "run", *NAME, *words)
    assert code == 2 and says in output and output.count("\n") == 1 and not slurm.calls(), output


def test_a_workdir_before_the_dashes_reaches_the_job(slurm: Cloud) -> None:
    assert slurm.launch("slurm.py", "run", *NAME, "--workdir=/disk/r", "--", "--config=c")[0] == 0
    assert slurm.calls("sbatch")[0][-2:] == ["--config=c", "--workdir=/disk/r"]


def live() -> bool:
    """Whether this machine is a node of a cluster, or its login node."""
    if shutil.which("sinfo") is None:
        return False
    try:
        return subprocess.run(["sinfo"], capture_output=True, timeout=10).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def test_a_real_cluster_runs_stops_and_forgets_a_job(slurm: Cloud) -> None:
    """One task that ends with 75 at SIGTERM, as a run that has saved: the job queues itself again, `down` ends it."""
    if not live():
        pytest.skip("no Slurm cluster answers here")
    run = slurm.home / "r"
    program = slurm.home / "mine" / "lit-tune"
    program.parent.mkdir()
    program.write_text('#!/bin/bash\ntrap "exit 75" TERM\nprintf "%s\\n" "$@" >"$HOME/said"\n'
                       "while true; do sleep 0.1; done\n")
    program.chmod(0o755)
    variables = {"PATH": f"{program.parent}:{os.environ['PATH']}", "HOME": str(slurm.home)}
    name = f"--name=lit-{os.getpid()}"
    small = f"--sbatch=--ntasks-per-node=1 --cpus-per-task=1 --gpus-per-task=0 --output={slurm.home}/log"
    words = ("--", "--config=quickstart", f"--workdir={run}", "--config.data.train=a b")

    def call(verb: str, *more: str) -> str:
        code, output = slurm.launch("slurm.py", verb, name, "--poll=0.2", *more, **variables)
        assert code == 0, output
        return output

    try:
        number = re.search(r"submitted: job (\d+)", call("run", small, *words))[1]
        deadline = time.monotonic() + 60
        while not (slurm.home / "said").exists():
            assert time.monotonic() < deadline, call("status")
            time.sleep(0.1)
        assert f"job {number} (RUNNING) is there already" in call("resume", small, *words)
        assert f"job {number}: RUNNING" in call("status")
    finally:
        output = call("down")
    assert f"job {number} is off the queue" in output and "job: none" in call("status")
    assert (slurm.home / "said").read_text().splitlines() == ["train", *words[1:], "--preempted_exit_code=75"]
    assert "exit code 75 at checkpoint -1; into the queue again" in (slurm.home / "log").read_text()


@pytest.mark.parametrize("code, again", [(0, False), (2, False), (5, False), (75, True), (137, True), (1, True)])
def test_slurm_queues_again_what_a_restart_helps(slurm: Cloud, code: int, again: bool) -> None:
    slurm.play({"^srun": [{"code": code}]})
    found, output = slurm.launch("slurm.sh", "job", "10", "--config=c", f"--workdir={slurm.home}/r", SLURM_JOB_ID="5")
    assert found == (0 if again else code), output
    assert slurm.calls("scontrol") == ([["scontrol", "requeue", "5"]] if again else [])
    (run,) = slurm.calls("srun")
    assert run[1:3] == ["--kill-on-bad-exit=1", "bash"]
    assert run[-5:] == ["lit-tune", "train", "--config=c", f"--workdir={slurm.home}/r", "--preempted_exit_code=75"]


# Two tasks, as Slurm starts them: each the leader of a group; the code is the highest, the first that fails ends all.
SRUN = """#!/bin/bash
set -m
shift
for i in 0 1; do SLURM_PROCID=$i "$@" & echo $! >"$HOME/task-$i"; done
worst=0
for i in 0 1; do
  wait -n || {
    code=$?; ((code < worst)) || worst=$code; sleep 0.2
    kill -KILL -- -"$(cat "$HOME/task-0")" -"$(cat "$HOME/task-1")"
  }
done 2>/dev/null
exit $worst
"""
# `exit CODE`, or `wait CODE`: until the first SIGTERM; a second one within a second is told by 99.
TASK = """#!/bin/bash
IFS=, read -ra plays <<<"$PLAY"
set -- ${plays[$SLURM_PROCID]}
[ "$1" = wait ] || exit "$2"
trap 'trap "exit 99" TERM; sleep 1; exit '"$2" TERM
: >"$HOME/ready-$SLURM_PROCID"
while kill -0 "$PPID" 2>/dev/null; do sleep 0.05; done
"""


@pytest.fixture
def tasks(slurm: Cloud) -> Cloud:
    """A cluster whose srun starts two tasks."""
    (slurm.home / "bin" / "srun").write_text(SRUN)
    (slurm.home / "bin" / "lit-tune").write_text(TASK)
    return slurm


@pytest.mark.parametrize("play, code", [("exit 2,wait 75", 2), ("wait 75,exit 4", 4), ("exit 5,exit 75", 5),
                                        ("exit 0,exit 0", 0), ("exit 75,exit 75", 0), ("exit 1,wait 75", 0)])
def test_slurm_knows_a_final_code_although_srun_gives_the_highest(tasks: Cloud, play: str, code: int) -> None:
    found, output = tasks.launch("slurm.sh", "job", "10", f"--workdir={tasks.home}/r", SLURM_JOB_ID="5", PLAY=play)
    assert found == code, output
    assert bool(tasks.calls("scontrol")) == (play in ("exit 75,exit 75", "exit 1,wait 75")), output


def test_slurm_forgets_the_final_code_of_an_earlier_start(tasks: Cloud) -> None:
    words = ("slurm.sh", "job", "10", f"--workdir={tasks.home}/r")
    assert tasks.launch(*words, SLURM_JOB_ID="5", PLAY="exit 2,exit 2")[0] == 2
    assert tasks.launch(*words, SLURM_JOB_ID="5", PLAY="exit 0,exit 0")[0] == 0


@pytest.mark.parametrize("group", [False, True])
def test_slurms_signal_reaches_the_run_once(tasks: Cloud, group: bool) -> None:
    process = tasks.start("slurm.sh", "job", "10", f"--workdir={tasks.home}/r", SLURM_JOB_ID="5", PLAY="wait 0,wait 0")
    deadline = time.monotonic() + 30
    while not all((tasks.home / f"ready-{i}").exists() for i in (0, 1)):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    for i in (0, 1):  # Slurm signals the task itself, or the task's group, by the cluster's settings
        task = int((tasks.home / f"task-{i}").read_text())
        (os.killpg if group else os.kill)(task, signal.SIGTERM)
    output = process.communicate(timeout=30)[0]
    assert process.returncode == 0 and not tasks.calls("scontrol"), output


def test_a_workdir_that_is_no_folder_is_refused_by_the_job_too(slurm: Cloud) -> None:
    code, output = slurm.launch("slurm.sh", "job", "10", "--config=c", "--workdir=gs://b/r", SLURM_JOB_ID="5")
    assert code == 2 and "a folder that all nodes share" in output and output.count("\n") == 1, output
    assert not slurm.calls()


@pytest.mark.parametrize("words, variables, says", [
    (("job", "10"), {}, "inside an allocation"), (("job",), {"SLURM_JOB_ID": "5"}, "found ''"),
    (("job", "--config=c"), {"SLURM_JOB_ID": "5"}, "found '--config=c'")])
def test_a_job_that_is_called_wrongly_is_one_line(
        slurm: Cloud, words: tuple[str, ...], variables: dict[str, str], says: str) -> None:
    code, output = slurm.launch("slurm.sh", *words, **variables)
    assert code == 2 and says in output and output.count("\n") == 1 and not slurm.calls(), output


def test_slurm_gives_up_without_progress_and_not_with_it(slurm: Cloud) -> None:
    slurm.play({"^srun": [{"code": 75}]})
    def job() -> int:
        return slurm.launch("slurm.sh", "job", "2", f"--workdir={slurm.home}/r", SLURM_JOB_ID="5")[0]

    assert [job() for _ in range(3)] == [0, 0, 75]
    checkpoint = slurm.home / "r" / "checkpoints" / "40"
    checkpoint.mkdir(parents=True)
    (checkpoint / "digests.json").write_text("{}")
    assert [job() for _ in range(4)] == [0, 0, 0, 75]
