"""launch/skypilot.py against recording stand-ins for sky and gcloud; and by SkyPilot's own parser."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from fake_cloud import LAUNCH, Cloud, interrupt

TASK = LAUNCH / "skypilot.yaml"
PLACE = ("--name=lit", "--project=my-project", "--zone=us-east5-b", "--tpu=v6e-8", "--bucket=gs://my-lit", "--poll=0")
TRAIN = ("--", "train", "--config=quickstart", "--config.data.train=gs://my-lit/it's a b/*.tar")
SENT = ["train", *TRAIN[2:], "--workdir=gs://my-lit/runs/lit", "--preempted_exit_code=76", "--restarts=10"]
PLAN = {"fits": True, "topology": "v6e:2x4", "slices": 1, "chips": 8, "devices": 8, "hosts": 1, "hbm_peak_gib": 14.3,
        "hbm_limit_gib": 31.25, "would_fit": [], "run_hours_low": 10.0, "run_hours_high": 20.0, "cost_usd_low": 400.0,
        "cost_usd_high": 800.0, "price_date": "2026-11-25"}
NONE = {"code": 1, "error": "sky.exceptions.ClusterNotUpError: No in-progress managed jobs.\n"}  # as 0.14.1 says it
STARTED = "\x1b[2mFailed to connect to SkyPilot API server at http://127.0.0.1:46580. Starting a local server.\x1b[0m\n"


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    """A machine with SkyPilot."""
    return Cloud(tmp_path / "cloud", "sky", "gcloud", "lit-tune")


def queue(*jobs: tuple[int, str], why: str | None = None, name: str = "lit") -> str:
    """What `sky jobs queue --output=json` says of jobs (number, status)."""
    said = [{"job_id": number, "task_id": 0, "job_name": name, "status": status, "failure_reason": why,
             "infra": "GCP (us-east5-b)"} for number, status in jobs]
    return STARTED + json.dumps(said, indent=2)


def well(queues: list, **more: list) -> dict[str, list]:
    """A scenario with what is said of the jobs."""
    usual = {"^lit-tune plan": [json.dumps(PLAN)], "^sky jobs queue": queues, "^sky status": ["[]"],
             "buckets describe": ["US-EAST5\n"], "storage ls": [{"code": 1, "error": "matched no objects"}]}
    return more | {pattern: answers for pattern, answers in usual.items() if pattern not in more}


def test_up_plans_asks_and_launches_the_slice(cloud: Cloud) -> None:
    cloud.play(well([NONE, queue((3, "STARTING"))]))
    code, output = cloud.launch("skypilot.py", "up", *PLACE, "--spot", "--yes", *TRAIN)
    assert code == 0, output
    (launch,) = cloud.calls("launch")
    arguments = [word for word in launch if word.startswith("--env=ARGS=")]
    assert shlex.split(arguments[0].removeprefix("--env=ARGS=")) == SENT
    assert set(launch) - set(arguments) == {
        "sky", "jobs", "launch", "--name=lit", f"--workdir={LAUNCH.parent}", "--infra=gcp/us-east5/us-east5-b",
        "--gpus=tpu-v6e-8", "--use-spot", "--detach-run", "--yes", str(TASK)}
    (plan,) = cloud.calls("lit-tune")
    assert {"--topology=v6e-8", "--config=quickstart"} <= set(plan)
    made = cloud.calls()
    assert made.index(plan) < made.index(cloud.calls("buckets")[0]) < made.index(launch)
    for word in ("$400 to $800", "end: between", "launched: job 3", "left, and billed", "sky jobs cancel 3 --yes"):
        assert word in output, output
    (line,) = re.findall(r"next: python launch/skypilot\.py (.*)", output)
    cloud.play(well([queue((3, "RUNNING")), queue((3, "SUCCEEDED"))]))
    assert cloud.launch("skypilot.py", *shlex.split(line))[0] == 0 and not cloud.calls("launch")


def test_without_a_person_or_yes_nothing_is_launched(cloud: Cloud) -> None:
    for verb, says in (("up", "Create 1 x v6e-8"), ("run", "Create 1 x v6e-8"), ("resume", "no checkpoint in gs://my")):
        cloud.play(well([NONE]))
        code, output = cloud.launch("skypilot.py", verb, *PLACE, *TRAIN)
        assert code == 2 and says in output and "--yes" in output and not cloud.calls("launch"), output


@pytest.mark.parametrize("answer", [json.dumps(PLAN | {"fits": False, "hbm_peak_gib": 40.0}),
                                    {"code": 2, "error": "lit-tune plan: no such config"}])
@pytest.mark.parametrize("verb", ["up", "run", "plan"])
def test_what_does_not_fit_or_cannot_be_planned_is_refused_unless_forced(
        cloud: Cloud, verb: str, answer: str | dict) -> None:
    cloud.play(well([NONE], **{"^lit-tune plan": [answer]}))
    code, output = cloud.launch("skypilot.py", verb, *PLACE, "--yes", *TRAIN)
    assert code == 2 and "--force" in output and not cloud.calls("launch") and not cloud.calls("buckets"), output
    cloud.play(well([NONE, queue((3, "SUCCEEDED"))], **{"^lit-tune plan": [answer]}))
    code, output = cloud.launch("skypilot.py", verb, *PLACE, "--yes", "--force", *TRAIN)
    assert code == 0 and len(cloud.calls("launch")) == (verb != "plan"), output


@pytest.mark.parametrize("status", ["PENDING", "STARTING", "RUNNING", "RECOVERING"])
def test_a_job_that_is_there_is_not_launched_again(cloud: Cloud, status: str) -> None:
    cloud.play(well([queue((2, "FAILED"), (3, status))]))
    code, output = cloud.launch("skypilot.py", "up", *PLACE, *TRAIN)
    assert code == 0 and f"job 3 is there already ({status})" in output, output
    for verb in ("run", "resume"):
        cloud.play(well([queue((3, status)), queue((3, "SUCCEEDED"))]))
        code, output = cloud.launch("skypilot.py", verb, *PLACE, *TRAIN)
        assert code == 0 and "finished" in output and cloud.calls("logs") == [["sky", "jobs", "logs", "3"]], output
    assert not cloud.calls("launch") and not cloud.calls("lit-tune")


def test_jobs_of_other_names_are_not_ours(cloud: Cloud) -> None:
    cloud.play(well([queue((9, "RUNNING"), name="lit-2")]))
    code, output = cloud.launch("skypilot.py", "down", *PLACE, "--yes")
    assert code == 0 and "there is no managed job lit" in output and not cloud.calls("cancel"), output


def test_a_job_that_is_being_cancelled_is_waited_for(cloud: Cloud) -> None:
    cloud.play(well([queue((3, "CANCELLING"))]))
    code, output = cloud.launch("skypilot.py", "resume", *PLACE, "--yes", *TRAIN)
    assert code == 1 and "being cancelled" in output and not cloud.calls("launch"), output


def test_resume_asks_no_plan_and_nothing_where_there_is_a_checkpoint(cloud: Cloud) -> None:
    cloud.play(well([queue((3, "FAILED")), queue((3, "FAILED"), (4, "RUNNING")), queue((4, "SUCCEEDED"))],
                    **{"storage ls": ["gs://my-lit/runs/lit/checkpoints/40/digests.json\n"]}))
    code, output = cloud.launch("skypilot.py", "resume", *PLACE, *TRAIN)
    assert code == 0 and len(cloud.calls("launch")) == 1 and not cloud.calls("lit-tune"), output
    assert cloud.calls("logs") == [["sky", "jobs", "logs", "4"]]


@pytest.mark.parametrize("status, why, expected, says", [
    ("SUCCEEDED", None, 0, "finished"),
    ("FAILED", "Job exited with exit code 2 (user program failure). To see the details, run: ...", 2, "exit code 2"),
    ("FAILED", "Job exited with exit codes [75, 4, 75] (user program failure).", 4, "exit code 4"),
    ("FAILED", "Job failed (FAILED_DRIVER)", 1, "FAILED_DRIVER"),
    ("FAILED_NO_RESOURCE", "Resources unavailable: stockout in us-east5-b", 1, "stockout in us-east5-b"),
    ("FAILED_SETUP", "\x1b[31mJob setup failed\x1b[0m", 1, "FAILED_SETUP: Job setup failed"),
    ("CANCELLED", None, 1, "CANCELLED"),
])
def test_the_exit_code_is_the_runs(cloud: Cloud, status: str, why: str | None, expected: int, says: str) -> None:
    cloud.play(well([queue((3, "RUNNING")), queue((3, "RUNNING")), queue((3, status), why=why)]))
    code, output = cloud.launch("skypilot.py", "run", *PLACE, *TRAIN)
    assert code == expected and says in output and "left," not in output, output
    assert len(cloud.calls("logs")) == 2  # the first one broke off


@pytest.mark.parametrize("said, says", [
    ("Quota 'TPUS_PER_TPU_FAMILY' exceeded. Limit: 0.0 in region us-east5.", "name a smaller --tpu"),
    ("There is no more capacity in the zone us-east5-b", "another --zone"),
    ("\x1b[31mValueError: Accelerator tpu-v6e-8 not found\x1b[0m", ": ValueError: Accelerator tpu-v6e-8 not found;"),
])
def test_a_launch_that_fails_says_why_and_leaves_nothing(cloud: Cloud, said: str, says: str) -> None:
    cloud.play(well([NONE], **{"^sky jobs launch": [{"code": 1, "out": f"working\n{said}\n"}]}))
    code, output = cloud.launch("skypilot.py", "up", *PLACE, "--yes", *TRAIN)
    assert code == 1 and says in output and "left," not in output and len(cloud.calls("launch")) == 1, output


def test_a_launch_that_was_lost_on_its_way_back_is_found(cloud: Cloud) -> None:
    cloud.play(well([NONE, queue((3, "PENDING"))], **{"^sky jobs launch": [{"code": 1, "error": "connection reset"}]}))
    code, output = cloud.launch("skypilot.py", "up", *PLACE, "--yes", *TRAIN)
    assert code == 0 and "launched: job 3" in output and "sky jobs cancel 3" in output, output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_says_what_may_be_there(cloud: Cloud, number: int) -> None:
    cloud.play(well([NONE], **{"^sky jobs launch": [{"seconds": 5}]}))
    process = cloud.start("skypilot.py", "run", *PLACE, "--yes", "--tpu=v5p-8", *TRAIN)
    cloud.wait_for("sky jobs launch", process)
    code, output = interrupt(process, number)
    assert code == 130 and "left, and billed" in output and "sky jobs cancel --name=lit --yes" in output, output
    assert not list(cloud.home.glob("lit-tune-*"))  # the filled-in file


@pytest.mark.parametrize("answer, says", [
    ({"code": 1, "error": "requests.exceptions.ConnectionError: refused"}, "after 5 tries"),
    ({"code": 1, "error": "HTTPError: 404 Client Error: Not Found for url"}, "cannot be looked at"),
    ("no jobs today\n", "expected a list in JSON")])
def test_an_answer_that_is_none_is_no_empty_queue(cloud: Cloud, answer: str | dict, says: str) -> None:
    cloud.play(well([answer]))
    code, output = cloud.launch("skypilot.py", "run", *PLACE, "--yes", *TRAIN)
    assert code == 1 and says in output and not cloud.calls("launch"), output


@pytest.mark.parametrize("absent", ["sky", "lit-tune"])
def test_a_program_that_is_not_there_is_one_line(cloud: Cloud, absent: str) -> None:
    (cloud.home / "bin" / absent).unlink()
    cloud.play(well([NONE]))
    code, output = cloud.launch("skypilot.py", "up", *PLACE, "--yes", *TRAIN)
    assert code == 1 and f"launch/skypilot.py: {absent}: expected on the PATH" in output and "pip install" in output


CONTROLLER = json.dumps([{"name": "mine", "status": "UP"},
                         {"name": "sky-jobs-controller-0a1b2c3d", "status": "STOPPED"}])


def test_down_cancels_looks_and_names_the_controller_that_stays(cloud: Cloud) -> None:
    cloud.play(well([queue((3, "RUNNING")), queue((3, "CANCELLING")), queue((3, "CANCELLED"))],
                    **{"^sky status": [CONTROLLER]}))
    code, output = cloud.launch("skypilot.py", "down", *PLACE, "--yes")
    assert code == 0 and "cancelled: job 3" in output, output
    assert cloud.calls("cancel") == [["sky", "jobs", "cancel", "3", "--graceful", "--yes"]]
    assert "left, and billed while it is there: SkyPilot's controller sky-jobs-controller-0a1b2c3d (STOPPED)" in output
    assert "delete it: sky down sky-jobs-controller-0a1b2c3d\n" in output and "gs://my-lit" in output, output
    cloud.play(well([queue((3, "CANCELLED"))], **{"^sky status": [CONTROLLER]}))
    code, output = cloud.launch("skypilot.py", "down", *PLACE)
    assert code == 0 and "there is no managed job lit" in output and "sky down sky-jobs" in output, output
    assert not cloud.calls("cancel")


def test_a_job_that_cannot_be_cancelled_is_said(cloud: Cloud) -> None:
    cloud.play(well([queue((3, "RUNNING"))], **{"jobs cancel": [{"code": 1, "error": "no connection"}]}))
    code, output = cloud.launch("skypilot.py", "down", *PLACE, "--yes")
    assert code == 1 and "no connection" in output and "ARE STILL THERE AND BILLED" in output, output
    cloud.play(well([queue((3, "RUNNING"))]))
    code, output = cloud.launch("skypilot.py", "down", *PLACE)
    assert code == 2 and "Cancel job 3 (lit)" in output and not cloud.calls("cancel"), output


def test_status_and_logs(cloud: Cloud) -> None:
    saved = ["gs://my-lit/runs/lit/checkpoints/40/digests.json\n"]
    cloud.play(well([queue((3, "RECOVERING"))], **{"^sky status": [CONTROLLER], "storage ls": saved}))
    code, output = cloud.launch("skypilot.py", "status", *PLACE)
    for word in ("job 3: RECOVERING, GCP (us-east5-b)", "newest checkpoint: step 40", "sky down sky-jobs-controller"):
        assert word in output, output
    assert code == 0 and cloud.launch("skypilot.py", "logs", *PLACE)[0] == 0
    assert cloud.calls("logs") == [["sky", "jobs", "logs", "3"]]
    cloud.play(well([NONE], **{"^sky status": [{"code": 1, "error": "refused"}]}))
    code, output = cloud.launch("skypilot.py", "status", *PLACE)
    assert code == 0 and "job: none" in output and "cannot be told: refused" in output, output
    code, output = cloud.launch("skypilot.py", "logs", *PLACE)
    assert code == 1 and "there is no managed job lit" in output, output


def printed(cloud: Cloud, verb: str, *words: str) -> list[list[str]]:
    """The commands that a dry run prints; nothing is called."""
    code, output = cloud.launch("skypilot.py", verb, *PLACE, "--dry-run", *words, *TRAIN)
    assert code == 0 and not cloud.calls(), output
    return [shlex.split(line) for line in output.splitlines() if not line.startswith("#")]


@pytest.mark.parametrize("verb", ["plan", "up", "run", "logs", "status", "resume", "down"])
def test_a_dry_run_prints_commands_that_can_be_pasted_and_calls_none(cloud: Cloud, verb: str) -> None:
    found = {" ".join(words[: 3 if words[0] == "sky" else 1]) for words in printed(cloud, verb)}
    expected = {"plan": "lit-tune", "up": "sky jobs launch", "run": "sky jobs logs", "resume": "sky jobs launch",
                "logs": "sky jobs logs", "status": "gcloud", "down": "sky jobs cancel"}
    assert expected[verb] in found and all(name.split()[0] in ("sky", "gcloud", "lit-tune") for name in found), found


@pytest.mark.parametrize("words, says", [
    (("up", *PLACE), "expected `-- train"), (("up", *PLACE, "--slices=2", *TRAIN), "leave it out"),
    (("up", *PLACE, "--reserved", *TRAIN), "leave it out"), (("up", *PLACE, "--tpu=v9-8", *TRAIN), "v9-8"),
    (("up", *PLACE, "--tpu=tpu7x-16", *TRAIN), "on GKE only"), (("run", *PLACE, "--spott", *TRAIN), "mean --spot?"),
    (("run", *PLACE, *TRAIN, "--part={i}/{n}"), "{i} and {n}"), (("run", *PLACE, *TRAIN, "--yes"), "before `--`"),
    (("run", *PLACE, *TRAIN, "--workdir=runs/a"), "gs://BUCKET/FOLDER")])
def test_what_is_mistyped_is_one_line_and_touches_nothing(cloud: Cloud, words: tuple[str, ...], says: str) -> None:
    code, output = cloud.launch("skypilot.py", *words)
    assert code == 2 and says in output and output.count("\n") == 1 and not cloud.calls(), output


def test_the_run_of_the_file_takes_words_as_they_were_and_runs_none_of_them(tmp_path: Path) -> None:
    program = tmp_path / "lit_tune_venv" / "bin" / "lit-tune"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@" >"$HOME/said"\n')
    program.chmod(0o755)
    script = re.search(r"^run: \|\n((?:  .*\n|\n)+)", TASK.read_text(), re.M)[1]
    words = ["train", "--a=it's", '--b="c d"', "--c=$(touch hurt) `touch hurt` $HOME", "--d=e\\f;g|h&", "--i=*", "--j="]
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True,
                          env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "ARGS": shlex.join(words)})
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "said").read_text().splitlines() == words and not (tmp_path / "hurt").exists()


def parsed_by_sky(commands: list[list[str]], home: Path) -> subprocess.CompletedProcess:
    """What tests/sky_commands.py says of commands, in the environment that `sky` is installed in."""
    found = shutil.which("sky")
    python = found and shutil.which("python", path=str(Path(found).parent))
    if not python or subprocess.run([python, "-c", "import sky"], capture_output=True).returncode != 0:
        pytest.skip("SkyPilot is not installed in an environment of its own: pip install skypilot")
    script = str(Path(__file__).parent / "sky_commands.py")
    return subprocess.run([python, script], input=json.dumps(commands), text=True, capture_output=True,
                          env=os.environ | {"HOME": str(home)}, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("tpu, tier, version", [
    ("v6e-8", "--spot", "v2-alpha-tpuv6e"), ("v5litepod-8", "--spot", "v2-alpha-tpuv5-lite"),
    ("v5p-8", "", "v2-alpha-tpuv5"), ("v4-8", "", "tpu-ubuntu2204-base")])
def test_skypilots_own_parser_takes_every_command(cloud: Cloud, tpu: str, tier: str, version: str) -> None:
    commands = [words for verb in ("resume", "status", "down")
                for words in printed(cloud, verb, f"--tpu={tpu}", *tier.split()) if words[0] == "sky"]
    assert {words[-1] if len(words) == 3 else words[2] for words in commands} == {
        "launch", "queue", "logs", "cancel", "--output=json"}
    done = parsed_by_sky(commands, cloud.home)
    assert done.returncode == 0, done.stderr
    (task,) = json.loads(done.stdout.splitlines()[-1])
    assert shlex.split(task.pop("words")) == SENT
    assert task == {"name": "lit", "workdir": str(LAUNCH.parent), "chips": {f"tpu-{tpu}": 1}, "runtime": version,
                    "place": ["us-east5", "us-east5-b"], "spot": bool(tier), "again": [76]}


@pytest.mark.slow
def test_a_flag_that_skypilot_does_not_know_would_be_found(cloud: Cloud) -> None:
    for words in (["sky", "jobs", "queue", "--outputt=json"], ["sky", "jobs", "launch", "--infrac=gcp", str(TASK)]):
        done = parsed_by_sky([words], cloud.home)
        assert done.returncode != 0 and "No such option" in done.stderr, done.stderr
