"""What the launchers share: why a command failed, by the words of Google's side, and questions asked again."""

import dataclasses
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from fake_cloud import LAUNCH, PLACE, Cloud, node_pools

from lit_tune import flag_reading, flags


def evaluated(expression: str, modules: str, *given: str) -> object:
    """The value of an expression about launch/, which is no package, in a process of its own; `given` is sys.argv."""
    code = f"import sys, json; sys.path.insert(0, {str(LAUNCH)!r}); import {modules}; print(json.dumps({expression}))"
    return json.loads(subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True,
                                     check=True).stdout)


# As Google's side writes them; the numbers of projects, the names and the quotas are made up.
SAID = {
    "ERROR: NOT_FOUND: Resource 'projects/p/locations/z/queuedResources/lit' was not found": "absent",
    "ERROR: (gcloud.storage.buckets.describe) gs://my-lit not found: 404.": "absent",
    "ERROR: (gcloud.storage.ls) One or more URLs matched no objects.": "absent",
    "sky.exceptions.ClusterNotUpError: No in-progress managed jobs.": "absent",
    "ERROR: UNAVAILABLE: Resource 'projects/404123456/locations/z/queuedResources/lit' connection reset": "passing",
    "UNAVAILABLE: the backend was not found": "passing",
    "HTTPError 503: try later": "passing",
    "gs://run-404/x: [502] bad gateway": "passing",
    "PERMISSION_DENIED: 'tpu.nodes.get' denied on 'projects/215031234567/locations/z/nodes/lit-404'": "denied",
    "PERMISSION_DENIED: denied on projects/404": "denied",
    "UNAVAILABLE: permission denied": "denied",
    "ERROR: (gcloud.projects.describe) [me] does not have permission to access projects instance [p]": "denied",
    "ERROR: (gcloud.compute.instances.list) - Required 'compute.instances.list' permission for 'projects/p'": "denied",
    "ERROR: (gcloud.container.clusters.list) You do not currently have an active account selected.": "denied",
    "error: You must be logged in to the server (Unauthorized)": "denied",
    "Quota 'CPUS' exceeded; the caller does not have permission to raise it": "quota",
    "denied on 'lit-500', 'lit-404-b' and my_404": "other",
    "RESOURCE_EXHAUSTED: Quota limit 'TPUV6E' has been exceeded. Limit: 404": "quota",
    "The zone 'projects/p/zones/z' does not have enough resources available to fulfill the request": "stockout",
    "code: ZONE_RESOURCE_POOL_EXHAUSTED": "stockout",
    "There is no more capacity in the zone; you can try in another zone": "stockout",
}


def test_the_reason_of_a_failure_is_read_from_words_not_from_names_and_numbers() -> None:
    found = evaluated("[commands.reason(text) for text in sys.argv[1:]]", "commands", *SAID)
    assert dict(zip(SAID, found, strict=True)) == SAID


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    """A cloud with all programs that are asked."""
    return Cloud(tmp_path / "cloud", "gcloud", "kubectl", "xpk", "docker", "lit-tune")


def test_a_lost_answer_about_a_project_with_404_in_its_number_is_no_absence(cloud: Cloud) -> None:
    lost = {"code": 1, "error": "UNAVAILABLE: Resource 'projects/404123456/queuedResources/lit' connection reset"}
    active = json.dumps({"state": {"state": "ACTIVE"}})
    absent = {"code": 1, "error": "NOT_FOUND: no lit"}
    cloud.play({"queued-resources describe": [lost, active, absent]})
    code, output = cloud.launch("tpu_vm.py", "down", *PLACE, "--yes")
    assert code == 0 and len(cloud.calls("queued-resources", "delete")) == 1 and "deleted:" in output, output


@pytest.mark.parametrize("program, pattern, words", [
    ("tpu_vm.py", "queued-resources describe", ()), ("gke.py", "clusters list", ()), ("gke.py", "kubectl get", ()),
    ("cpu_vm.py", "instances list", ("--machines=2",))])
@pytest.mark.parametrize("error", ["connection reset", "Project 'p' was not found"])
def test_a_question_is_asked_five_times_then_the_launcher_ends(
        cloud: Cloud, program: str, pattern: str, words: tuple[str, ...], error: str) -> None:
    cloud.play({"clusters list": ["RUNNING"]} | {pattern: [{"code": 1, "error": error}]})
    code, output = cloud.launch(program, "status", *PLACE, *words)
    asked = [call for call in cloud.calls() if pattern in " ".join(call)]
    if program == "tpu_vm.py" and "not found" in error:  # `describe` answers so where there is none, a list does not
        assert code == 0 and "machines: none" in output and len(asked) == 1, output
        return
    assert code == 1 and len(asked) == 5 and "after 5 tries" in output and error in output, output
    cloud.play({"clusters list": ["RUNNING"]} | {pattern: [{"code": 1, "error": error}] * 4 + [""]})
    assert cloud.launch(program, "status", *PLACE, *words)[0] == 0


@pytest.mark.parametrize("program, verb, pattern, words", [
    ("tpu_vm.py", "status", "queued-resources describe", ()), ("tpu_vm.py", "down", "queued-resources describe", ()),
    ("gke.py", "status", "clusters list", ()), ("gke.py", "down", "clusters list", ()),
    ("gke.py", "status", "kubectl get", ()), ("cpu_vm.py", "down", "instances list", ("--machines=2",))])
def test_a_question_that_nobody_may_ask_is_asked_once(
        cloud: Cloud, program: str, verb: str, pattern: str, words: tuple[str, ...]) -> None:
    error = ("ERROR: PERMISSION_DENIED: Permission 'x.list' denied on 'projects/my-projcet' (or it may not exist)\n"
             "- '@type': type.googleapis.com/google.rpc.ErrorInfo\n  reason: IAM_PERMISSION_DENIED\n  metadata: x\n")
    cloud.play({"clusters list": ["RUNNING"]} | {pattern: [{"code": 1, "error": error}]})
    code, output = cloud.launch(program, verb, *PLACE, *words, "--yes")
    assert code == 1 and len([call for call in cloud.calls() if pattern in " ".join(call)]) == 1, output
    assert "denied on 'projects/my-projcet' (or it may not exist); look whether --project is right" in output, output
    assert "gcloud auth login" in output and "metadata: x" not in output
    assert not [call for call in cloud.calls() if "delete" in call]


def test_checkpoints_that_cannot_be_looked_at_are_not_called_absent_without_a_word(cloud: Cloud) -> None:
    cloud.play({"storage ls": [{"code": 1, "error": "ERROR: One or more URLs matched no objects."}]})
    code, output = cloud.launch("tpu_vm.py", "status", *PLACE)
    assert code == 0 and "cannot be looked at" not in output and "newest checkpoint: none" in output, output
    cloud.play({"storage ls": [{"code": 1, "error": "denied on projects/404123"}]})
    code, output = cloud.launch("tpu_vm.py", "status", *PLACE)
    assert "cannot be looked at: denied on projects/404123" in output, output


UP = {"^lit-tune plan": ['{"fits": true, "topology": "v6e:4x4", "slices": 1, "chips": 16, "devices": 16, "hosts": 4, '
                         '"hbm_peak_gib": 14.3, "hbm_limit_gib": 31.25, "would_fit": [], "run_hours_low": 10.0, '
                         '"run_hours_high": 20.0, "cost_usd_low": null, "cost_usd_high": null}'],
      "queued-resources describe": [json.dumps({"state": {"state": "ACTIVE"}})], "clusters list": ["RUNNING"],
      "node-pools list": [node_pools("lit-np-0")],
      "instances list": ["lit-1,RUNNING\n"], "buckets describe": ["US-EAST5"]}


@pytest.mark.parametrize("program, more", [
    ("tpu_vm.py", ("--spot", "--slices=2", "--iap", "--network=n 1", "--service-account=s@p.iam", "--mount=lit",
                   "--fetch=gs://b/v=v", "--restarts=3", "--queue-for=6h")),
    ("tpu_vm.py", ("--reserved",)), ("gke.py", ("--reserved", "--reservation=r", "--image=i:1")),
    ("cpu_vm.py", ("--machines=1", "--machine-type=c3-standard-88", "--max-hours=6", "--iap", "--network=n"))])
def test_the_line_that_up_names_keeps_every_flag(cloud: Cloud, program: str, more: tuple[str, ...]) -> None:
    place = ["--name", "lit", *PLACE[1:]]
    cloud.play(UP)
    code, output = cloud.launch(program, "up", *place, *more, "--yes", "--", "--config", "a b")
    assert code == 0, output
    (line,) = [line for line in output.splitlines() if line.startswith("ready; next: ")]
    words = shlex.split(line.removeprefix("ready; next: "))
    assert words == ["python", f"launch/{program}", "run", *place, *more, "--yes", "--", "train", "--config=a b"]
    code, output = cloud.launch(program, "run", "--dry-run", *words[3:])  # it can be typed
    assert code == 0, output


def started(cloud: Cloud, *words: str) -> list[str]:
    """The words that a run of tpu_vm.py gives to the machines."""
    cloud.play(UP | {"worker.sh state": ["".join(f"lit-tune-worker w-{i} ended 0\n" for i in range(4))]})
    code, output = cloud.launch("tpu_vm.py", "run", *PLACE, "--", *words)
    assert code == 0, output
    assert any("storage ls gs://my-lit/mine/checkpoints" in " ".join(call) for call in cloud.calls()), cloud.calls()
    (start,) = [call for call in cloud.calls("ssh") if "worker.sh start" in " ".join(call)]
    command = next(word for word in start if word.startswith("--command="))
    return shlex.split(command.removeprefix("--command="))[3:]


def test_a_flag_and_its_value_may_be_two_words(cloud: Cloud) -> None:
    expected = ["train", "--config=x", "--workdir=gs://my-lit/mine", "--config.a.b=a b", "--preempted_exit_code=75"]
    apart = ("--config", "x", "--workdir", "gs://my-lit/mine", "--config.a.b", "a b")
    assert started(cloud, "train", *apart) == [*expected, "--restarts=10"]
    cloud.play(UP)
    assert cloud.launch("tpu_vm.py", "plan", "--tpu=v6e-16", "--", *apart)[0] == 0
    assert cloud.calls("plan")[0][2:4] == ["--config=x", "--config.a.b=a b"]


def test_a_flag_without_its_value_takes_no_other_flag_for_it(cloud: Cloud) -> None:
    words = ("--restarts", "--workdir", "gs://my-lit/mine", "--config")
    assert started(cloud, *words)[1:4] == ["--restarts", "--workdir=gs://my-lit/mine", "--config"]


@pytest.mark.parametrize("words", [("--restarts", "4"), ("--restarts=4",)])
def test_restarts_behind_the_dashes_are_the_users(cloud: Cloud, words: tuple[str, ...]) -> None:
    assert started(cloud, "--config=x", "--workdir=gs://my-lit/mine", *words) == [
        "train", "--config=x", "--workdir=gs://my-lit/mine", "--restarts=4", "--preempted_exit_code=75"]


def test_only_a_flag_that_lit_tune_has_too_may_stand_behind_the_dashes() -> None:
    ours = set(evaluated("sorted(settings._parser('x', (), settings.OF_SOME).flags)", "settings"))
    theirs = {f"--{flag_reading.spelled(field)}".replace("_", "-") for command in flags.COMMANDS.values()
              for field in dataclasses.fields(command)}
    assert set(evaluated("sorted(settings.OF_BOTH)", "settings")) == (ours & theirs) | {"--help"}


@pytest.mark.parametrize("typed, deleted", [(b"y\n", 1), (b"n\n", 0), (b"\n", 0), (b"\x04", 0)])
def test_only_a_yes_is_a_yes(cloud: Cloud, typed: bytes, deleted: int) -> None:
    absent = {"code": 1, "error": "NOT_FOUND: no lit"}
    cloud.play({"queued-resources describe": [json.dumps({"state": {"state": "ACTIVE"}}), absent]})
    ours, theirs = os.openpty()
    try:
        process = cloud.start("tpu_vm.py", "down", *PLACE, stdin=theirs)
        os.write(ours, typed)
        output = process.communicate(timeout=60)[0]
    finally:
        os.close(ours)
        os.close(theirs)
    assert process.returncode == (not deleted) and len(cloud.calls("queued-resources", "delete")) == deleted, output
    assert ("nothing was done" in output) == (not deleted) and "Traceback" not in output, output


TRAIN = ("--", "train", "--config=x")


@pytest.mark.parametrize("program, words, expected", [
    ("tpu_vm.py", (), "up"), ("tpu_vm.py", ("upp", *PLACE), "'upp'"),
    ("tpu_vm.py", (*PLACE, "up"), "as the first word"),
    ("tpu_vm.py", ("up", *PLACE, "--spott"), "did you mean --spot?"),
    ("tpu_vm.py", ("run", *PLACE, "--config=x"), "behind `--`"),
    ("tpu_vm.py", ("up", *PLACE, "--slices=two"), "invalid int"),
    ("tpu_vm.py", ("up", *PLACE, "--slices=0"), "at least 1"),
    *((program, ("run", *PLACE, *TRAIN, flag), "before `--`") for program in ("tpu_vm.py", "gke.py", "cpu_vm.py")
      for flag in ("--dry-run", "--dry_run", "--yes", "--spot", "--max-hours=2")),
    ("tpu_vm.py", ("up", *PLACE, "--poll=-1"), "at least 0"), ("tpu_vm.py", ("up", *PLACE, "--poll=nan"), "at least 0"),
    ("tpu_vm.py", ("up", *PLACE, "--restarts=-1"), "at least 0"),
    ("tpu_vm.py", ("up", *PLACE, "--max-hours=24"), "leave it out"),
    ("tpu_vm.py", ("up", *PLACE, "--spot", "--reserved"), "not allowed with"),
    ("gke.py", ("up", *PLACE, "--iap"), "leave it out"), ("cpu_vm.py", ("up", *PLACE, "--reserved"), "leave it out"),
    ("gke.py", ("run", *PLACE, "--", "cache-text", "--part=1/{n}"), "{n}"),
    ("tpu_vm.py", ("run", *PLACE, *TRAIN, "--workdir=runs/a"), "gs://BUCKET/FOLDER"),
    ("tpu_vm.py", ("run", *PLACE, *TRAIN, "--workdir", "runs/a"), "gs://BUCKET/FOLDER"),
    ("gke.py", ("run", *PLACE, *TRAIN, "--preempted-exit-code", "0"), "expected 75"),
])
def test_what_is_mistyped_is_one_line_and_touches_nothing(
        cloud: Cloud, program: str, words: tuple[str, ...], expected: str) -> None:
    code, output = cloud.launch(program, *words)
    assert code == 2 and expected in output and output.count("\n") == 1 and "Traceback" not in output, output
    assert not cloud.calls()
