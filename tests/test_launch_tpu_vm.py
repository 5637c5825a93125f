"""launch/tpu_vm.py against a recording stand-in for gcloud: every state that a request can be in, and every refusal."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import fake_cloud
import pytest
from fake_cloud import PLACE, PLAN, TRAIN, Cloud
from fake_slices import NO_SUCH, QUOTA, STOCKOUT, creations, state, well


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    """A cloud where everything goes well: no request yet, a bucket in the right place."""
    return Cloud(tmp_path / "cloud", "gcloud", "lit-tune")


def test_up_asks_for_the_slice_and_installs_on_every_machine(cloud: Cloud) -> None:
    cloud.play(well([NO_SUCH, NO_SUCH, state("WAITING_FOR_RESOURCES"), state("PROVISIONING"), state("ACTIVE")]))
    code, output = cloud.launch("tpu_vm.py", "up", *PLACE, "--spot", "--slices=2", "--yes",
                                "--service-account=s@p.iam", "--network=n", *TRAIN)
    assert code == 0, output
    (create,) = cloud.calls("queued-resources", "create")
    assert create[:6] == ["gcloud", "compute", "tpus", "queued-resources", "create", "lit"]
    assert set(create[6:]) == {
        "--project=my-project", "--zone=us-east5-b", "--accelerator-type=v6e-16", "--runtime-version=v2-alpha-tpuv6e",
        "--node-count=2", "--node-prefix=lit", "--spot", "--service-account=s@p.iam", "--network=n",
        "--valid-until-duration=24h", "--labels=lit-tune=lit", "--async"}
    (plan,) = cloud.calls("lit-tune")
    assert plan == ["lit-tune", "plan", "--config=quickstart", "--config.data.train=gs://my-lit/a b/*.tar",
                    "--topology=v6e-16", "--slices=2", "--noplain", "--json"]
    (install,) = cloud.calls("ssh")
    assert {"--node=all", "--worker=all", "--quiet"} <= set(install)
    assert "worker.sh install tpu" in " ".join(install)
    made = cloud.calls()
    assert made.index(plan) < made.index(create) < made.index(install)
    for word in ("$400 to $800", "2026-11-25", "10.0 to 20.0 hours", "end: between", "14.3 of 31.25 GiB",
                 "left, and billed", "queued-resources delete lit"):
        assert word in output, output
    assert "list price on demand" in output


def test_up_again_asks_nothing_and_creates_nothing(cloud: Cloud) -> None:
    cloud.play(well([state("ACTIVE")]))
    code, output = cloud.launch("tpu_vm.py", "up", *PLACE, *TRAIN)
    assert code == 0, output
    assert creations(cloud) == 0 and not cloud.calls("lit-tune") and not cloud.calls("buckets")


def test_what_does_not_fit_is_refused_before_anything_exists(cloud: Cloud) -> None:
    worse = PLAN | {"fits": False, "would_fit": [{"change": "micro_batches=8", "hbm_peak_gib": 20.0}]}
    cloud.play(well([NO_SUCH], **{"^lit-tune plan": [json.dumps(worse)]}))
    code, output = cloud.launch("tpu_vm.py", "up", *PLACE, "--yes", *TRAIN)
    assert code == 2 and "does NOT fit" in output and "micro_batches=8" in output and "--force" in output
    assert creations(cloud) == 0 and not cloud.calls("buckets")
    cloud.play(well([NO_SUCH, NO_SUCH, state("ACTIVE")], **{"^lit-tune plan": [json.dumps(worse)]}))
    code, output = cloud.launch("tpu_vm.py", "up", *PLACE, "--yes", "--force", *TRAIN)
    assert code == 0 and creations(cloud) == 1, output


def test_nothing_is_created_without_a_yes(cloud: Cloud) -> None:
    cloud.play(well([NO_SUCH]))
    code, output = cloud.launch("tpu_vm.py", "up", *PLACE, *TRAIN)
    assert code == 2 and "--yes" in output and creations(cloud) == 0


def test_a_plan_that_cannot_be_made_is_no_yes(cloud: Cloud) -> None:
    cloud.play(well([NO_SUCH], **{"^lit-tune plan": [{"code": 2, "error": "lit-tune plan: libtpu: install it"}]}))
    code, output = cloud.launch("tpu_vm.py", "up", *PLACE, "--yes", *TRAIN)
    assert code == 2 and "libtpu: install it" in output and creations(cloud) == 0


def test_over_quota_is_said_and_not_tried_again(cloud: Cloud) -> None:
    refused = {"code": 1, "error": f"ERROR: RESOURCE_EXHAUSTED: {QUOTA}"}
    cloud.play(well([NO_SUCH], **{"queued-resources create": [refused]}))
    code, output = cloud.launch("tpu_vm.py", "up", *PLACE, "--yes", *TRAIN)
    assert code == 1 and creations(cloud) == 1
    assert QUOTA in output and "iam-admin/quotas" in output and "left, and billed" not in output


def test_over_quota_told_later_ends_with_the_request_deleted(cloud: Cloud) -> None:
    cloud.play(well([NO_SUCH, NO_SUCH, state("ACCEPTED"), state("FAILED", QUOTA), NO_SUCH]))
    code, output = cloud.launch("tpu_vm.py", "up", *PLACE, "--yes", *TRAIN)
    assert code == 1 and "quota" in output and creations(cloud) == 1
    assert len(cloud.calls("queued-resources", "delete")) == 1 and "left, and billed" not in output


def test_stockout_is_asked_again_with_a_bound(cloud: Cloud) -> None:
    cloud.play(well([NO_SUCH, NO_SUCH, *[state("FAILED", STOCKOUT), NO_SUCH, NO_SUCH] * 3]))
    code, output = cloud.launch("tpu_vm.py", "up", *PLACE, "--yes", "--restarts=2", *TRAIN)
    assert code == 1 and "failed 3 times" in output and STOCKOUT in output
    assert creations(cloud) == 3 and len(cloud.calls("queued-resources", "delete")) == 3
    assert "left, and billed" not in output


def test_an_expired_request_is_deleted_and_not_asked_again(cloud: Cloud) -> None:
    cloud.play(well([NO_SUCH, NO_SUCH, state("WAITING_FOR_RESOURCES"), state("FAILED", "valid until time has expired"),
                     NO_SUCH]))
    code, output = cloud.launch("tpu_vm.py", "up", *PLACE, "--yes", "--queue-for=6h", *TRAIN)
    assert code == 1 and "--queue-for=6h" in output and creations(cloud) == 1
    assert len(cloud.calls("queued-resources", "delete")) == 1
    assert "--valid-until-duration=6h" in cloud.calls("queued-resources", "create")[0]


def test_a_passing_fault_of_the_service_is_tried_again_and_a_refusal_is_not(cloud: Cloud) -> None:
    passing = {"code": 1, "error": "ERROR: (gcloud) 503 Service unavailable"}
    cloud.play(well([NO_SUCH, NO_SUCH, state("ACTIVE")], **{"queued-resources create": [passing, passing, "made"]}))
    assert cloud.launch("tpu_vm.py", "up", *PLACE, "--yes", *TRAIN)[0] == 0
    assert creations(cloud) == 3
    cloud.play(well([NO_SUCH], **{"queued-resources create": [{"code": 1, "error": "PERMISSION_DENIED: no"}]}))
    code, output = cloud.launch("tpu_vm.py", "up", *PLACE, "--yes", *TRAIN)
    assert code == 1 and creations(cloud) == 1 and "PERMISSION_DENIED" in output and "left, and billed" not in output


@pytest.mark.parametrize("verb", ["up", "run", "resume"])
@pytest.mark.parametrize("node, found", [
    ({"node": {"acceleratorType": "v6e-8"}}, "v6e-8 x 1"),
    ({"node": {"acceleratorType": "v6e-16"}, "multisliceParams": {"nodeCount": 2}}, "v6e-16 x 2")])
def test_another_slice_of_this_name_is_refused_and_left_alone(cloud: Cloud, verb: str, node: dict, found: str) -> None:
    there = json.dumps({"state": {"state": "ACTIVE"}, "tpu": {"nodeSpec": [node]}})
    cloud.play(well([there]))
    code, output = cloud.launch("tpu_vm.py", verb, *PLACE, "--yes", *TRAIN)
    assert code == 2 and f"expected {found}" in output and "v6e-16 x 1" in output, output
    assert not cloud.calls("ssh") and not cloud.calls("queued-resources", "delete") and creations(cloud) == 0
    cloud.play(well([there, NO_SUCH]))
    assert cloud.launch("tpu_vm.py", "down", *PLACE, "--yes")[0] == 0  # deletes it all the same
    same = {"node": {"acceleratorType": "v6e-16"}}
    cloud.play(well([json.dumps({"state": {"state": "ACTIVE"}, "tpu": {"nodeSpec": [same]}})]))
    assert cloud.launch("tpu_vm.py", verb, *PLACE, *TRAIN)[0] == 0


@pytest.mark.parametrize("lost", ["503 Service unavailable", STOCKOUT])
def test_a_request_that_may_have_arrived_is_named_when_the_launcher_gives_up(cloud: Cloud, lost: str) -> None:
    cloud.play(well([NO_SUCH], **{"queued-resources create": [{"code": 1, "error": lost}]}))
    code, output = cloud.launch("tpu_vm.py", "up", *PLACE, "--yes", *TRAIN)
    assert code == 1 and creations(cloud) == 5 and lost in output, output
    assert "left, and billed" in output and "queued-resources delete lit" in output, output


def test_the_code_goes_by_a_folder_of_this_user_that_is_removed(cloud: Cloud) -> None:
    cloud.play(well([state("ACTIVE")], **{"storage ls .*code/": [{"code": 1, "error": "not found"}]}))
    assert cloud.launch("tpu_vm.py", "up", *PLACE, *TRAIN)[0] == 0
    (copy,) = cloud.calls("storage", "cp")
    file = Path(copy[3])
    assert copy[4] == f"gs://my-lit/code/{file.name}" and file.parent.parent == cloud.home
    assert not file.parent.exists()


def test_a_request_that_arrived_although_gcloud_failed_is_waited_for(cloud: Cloud) -> None:
    exists = {"code": 1, "error": "ERROR: ALREADY_EXISTS: lit already exists"}
    cloud.play(well([NO_SUCH, NO_SUCH, state("ACTIVE")], **{"queued-resources create": [exists]}))
    code, output = cloud.launch("tpu_vm.py", "up", *PLACE, "--yes", *TRAIN)
    assert code == 0 and creations(cloud) == 1, output


def test_gcloud_that_does_not_answer_is_asked_a_bounded_number_of_times(cloud: Cloud) -> None:
    cloud.play({"describe": [{"code": 1, "error": "connection reset"}]})
    code, output = cloud.launch("tpu_vm.py", "status", *PLACE)
    assert code == 1 and "no answer" in output and len(cloud.calls("describe")) == 5


@pytest.mark.parametrize("place", ["EU", "US-CENTRAL1"])
def test_a_bucket_elsewhere_is_refused_unless_told(cloud: Cloud, place: str) -> None:
    cloud.play(well([NO_SUCH], **{"buckets describe": [place]}))
    code, output = cloud.launch("tpu_vm.py", "up", *PLACE, "--yes", *TRAIN)
    assert code == 2 and "us-east5" in output and place.lower() in output and creations(cloud) == 0
    cloud.play(well([NO_SUCH, NO_SUCH, state("ACTIVE")], **{"buckets describe": [place]}))
    assert cloud.launch("tpu_vm.py", "up", *PLACE, "--yes", "--force", *TRAIN)[0] == 0


def test_a_bucket_is_made_where_the_machines_are(cloud: Cloud) -> None:
    absent = {"code": 1, "error": "ERROR: gs://my-lit not found: 404."}
    cloud.play(well([NO_SUCH, NO_SUCH, state("ACTIVE")], **{"buckets describe": [absent]}))
    assert cloud.launch("tpu_vm.py", "up", *PLACE, "--yes", *TRAIN)[0] == 0
    (create,) = cloud.calls("buckets", "create")
    assert "gs://my-lit" in create and "--location=us-east5" in create and "--public-access-prevention" in create
    cloud.play(well([NO_SUCH], **{"buckets describe": [{"code": 1, "error": "403 forbidden"}]}))
    code, output = cloud.launch("tpu_vm.py", "up", *PLACE, "--yes", *TRAIN)
    assert code == 1 and "403 forbidden" in output and not cloud.calls("buckets", "create")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_up_says_what_is_left_and_how_to_delete_it(cloud: Cloud, number: int) -> None:
    cloud.play(well([NO_SUCH, NO_SUCH, state("WAITING_FOR_RESOURCES")]))
    process = cloud.start("tpu_vm.py", "up", *PLACE, "--poll=0.1", "--yes", *TRAIN)
    cloud.wait_for("queued-resources create", process)
    code, output = fake_cloud.interrupt(process, number)
    assert code == 130 and "interrupted" in output
    assert "left, and billed while it is there: queued resource lit" in output
    assert "gcloud compute tpus queued-resources delete lit --project=my-project --zone=us-east5-b --force" in output


def test_interrupted_inside_the_request_it_may_have_arrived_and_is_named(cloud: Cloud) -> None:
    cloud.play(well([NO_SUCH], **{"queued-resources create": [{"seconds": 30}]}))
    process = cloud.start("tpu_vm.py", "up", *PLACE, "--yes", *TRAIN)
    cloud.wait_for("queued-resources create", process)
    code, output = fake_cloud.interrupt(process)
    assert code == 130 and "queued-resources delete lit" in output


@pytest.mark.parametrize("words, expected", [
    (("up", *PLACE, "--tpu=v6e256"), "v6e-256"),
    (("up", *PLACE, "--tpu=tpu7x-16"), "launch/gke.py"),
    (("up", *PLACE, "--tpu=v5e-256"), "v5litepod-256"),
    (("up", *PLACE, "--bucket=gs://my-lit/folder"), "nothing behind it"),
    (("up", *PLACE, "--name=Lit_1"), "lower-case"),
    (("up", *PLACE, "--queue-for=soon"), "24h"),
    (("up", "--name=lit"), "--project"),
    (("run", *PLACE), "-- train"),
    (("run", *PLACE, "--slices=2", "--", "cache-text", "--part={i}/{n}"), "--slices=1"),
    (("run", *PLACE, "--fetch=vectors", "--", "train"), "gs://BUCKET/FOLDER=FOLDER"),
    (("up", "@nowhere.flags"), "nowhere.flags"),
])
def test_wrong_flags_are_one_line_and_touch_nothing(cloud: Cloud, words: tuple[str, ...], expected: str) -> None:
    code, output = cloud.launch("tpu_vm.py", *words)
    assert code == 2 and expected in output and output.count("\n") == 1 and "Traceback" not in output
    assert not cloud.calls()


@pytest.mark.parametrize("tpu, hosts", [("v4-8", 1), ("v4-16", 2), ("v5litepod-4", 1), ("v5litepod-8", 1),
                                        ("v5litepod-256", 64), ("v5p-8", 1), ("v5p-256", 32), ("v6e-8", 1),
                                        ("v6e-256", 64)])
def test_machines_of_a_slice(tpu: str, hosts: int) -> None:
    code = f"import sys; sys.path.insert(0, {str(fake_cloud.LAUNCH)!r}); import tpu_vm; print(tpu_vm.count_of({tpu!r}))"
    assert int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout) == hosts


def test_flags_come_from_a_file(cloud: Cloud) -> None:
    file = cloud.home / "lit.flags"
    file.write_text("\n".join(["# my slice", *PLACE, ""]))
    cloud.play(well([state("ACTIVE")]))
    assert cloud.launch("tpu_vm.py", "status", f"@{file}")[0] == 0
    assert "lit" in cloud.calls("describe")[0]


@pytest.mark.parametrize("verb", ["plan", "up", "run", "logs", "status", "resume", "down"])
def test_a_dry_run_prints_commands_that_can_be_pasted_and_calls_none(cloud: Cloud, verb: str) -> None:
    commands = cloud.dry("tpu_vm.py", verb, *PLACE, *TRAIN)
    assert commands and all(words[0] in ("gcloud", "lit-tune") for words in commands)
