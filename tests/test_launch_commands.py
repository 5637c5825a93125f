"""What the launchers share: why a command failed, by the words of Google's side, and questions asked again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fake_cloud import LAUNCH, Cloud

PLACE = ("--name=lit", "--project=my-project", "--zone=us-east5-b", "--tpu=v6e-16", "--bucket=gs://my-lit", "--poll=0")


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
    "ERROR: UNAVAILABLE: Resource 'projects/404123456/locations/z/queuedResources/lit' connection reset": "passing",
    "UNAVAILABLE: the backend was not found": "passing",
    "HTTPError 503: try later": "passing",
    "gs://run-404/x: [502] bad gateway": "passing",
    "PERMISSION_DENIED: 'tpu.nodes.get' denied on 'projects/215031234567/locations/z/nodes/lit-404'": "other",
    "PERMISSION_DENIED: denied on projects/404": "other",
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


def test_checkpoints_that_cannot_be_looked_at_are_not_called_absent_without_a_word(cloud: Cloud) -> None:
    cloud.play({"storage ls": [{"code": 1, "error": "ERROR: One or more URLs matched no objects."}]})
    code, output = cloud.launch("tpu_vm.py", "status", *PLACE)
    assert code == 0 and "cannot be looked at" not in output and "newest checkpoint: none" in output, output
    cloud.play({"storage ls": [{"code": 1, "error": "denied on projects/404123"}]})
    code, output = cloud.launch("tpu_vm.py", "status", *PLACE)
    assert "cannot be looked at: denied on projects/404123" in output, output
