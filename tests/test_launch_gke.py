"""launch/gke.py against recording stand-ins for gcloud, kubectl, xpk and docker."""

import json
import re
import shlex
from pathlib import Path

import fake_cloud
import pytest
from fake_cloud import PLACE, PLAN, TRAIN, Cloud, checkpoints, node_pools

IMAGE = "--image=us-docker.pkg.dev/p/r/lit-tune:1"


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    """A cloud where everything goes well."""
    return Cloud(tmp_path / "cloud", "gcloud", "kubectl", "xpk", "docker", "lit-tune")


def well(clusters: list[str], jobsets: list[str], **more: list) -> dict[str, list]:
    """A scenario with what is said of the cluster and of the JobSet."""
    usual = {"^lit-tune plan": [json.dumps(PLAN)], "clusters list": clusters, "get jobset": jobsets,
             "buckets describe": ["US-EAST5\n"]}
    return more | {pattern: answers for pattern, answers in usual.items() if pattern not in more}


def jobset(condition: str = "") -> str:
    """What kubectl says of a JobSet."""
    conditions = [{"type": condition, "status": "True"}] if condition else []
    return json.dumps({"kind": "JobSet", "status": {"conditions": conditions}})


def pods(*codes: int) -> str:
    """What kubectl says of pods that ended."""
    return json.dumps({"items": [{"status": {"containerStatuses": [{"state": {"terminated": {"exitCode": code}}}]}}
                                 for code in codes]})


def test_up_plans_builds_the_image_and_makes_the_cluster(cloud: Cloud) -> None:
    absent = {"code": 1, "error": "NOT_FOUND"}
    cloud.play(well([""], [], **{"artifacts .*describe": [absent]}))
    code, output = cloud.launch("gke.py", "up", *PLACE, "--spot", "--slices=2", "--yes", *TRAIN)
    assert code == 0, output
    (create,) = cloud.calls("xpk", "cluster", "create")
    assert set(create[3:]) == {"--cluster=lit", "--project=my-project", "--zone=us-east5-b", "--tpu-type=v6e-16",
                               "--num-slices=2", "--spot", "--default-pool-cpu-num-nodes=2"}
    made = cloud.calls()
    plan, build, push = (next(call for call in made if call[:2] == words) for words in (
        ["lit-tune", "plan"], ["docker", "build"], ["docker", "push"]))
    assert made.index(plan) < made.index(build) < made.index(push) < made.index(create)
    assert re.fullmatch(r"us-east5-docker\.pkg\.dev/my-project/lit-tune/lit-tune:\w{16}", push[2])
    assert "$400 to $800" in output and "xpk cluster delete --cluster=lit" in output


def test_up_again_completes_without_a_plan_or_a_new_image(cloud: Cloud) -> None:
    cloud.play(well(["RUNNING"], [], **{"node-pools list": [node_pools("default-pool", "lit-np-0")]}))
    code, output = cloud.launch("gke.py", "up", *PLACE, *TRAIN)
    assert code == 0 and not {"lit-tune", "docker"} & {call[0] for call in cloud.calls()}, output
    assert len(cloud.calls("xpk", "cluster", "create")) == 1  # completes what an interrupted `up` left


@pytest.mark.parametrize("pools, slices, says", [
    (("default-pool", "lit-np-0"), 2, "Create 2 x v6e-16"), (("default-pool",), 1, "Create 1 x v6e-16"),
    (("lit-np-0", "lit-np-1", "other-np-2"), 1, "expected at least 2")])
def test_slices_that_a_cluster_lacks_are_asked_for_and_none_is_deleted(
        cloud: Cloud, pools: tuple[str, ...], slices: int, says: str) -> None:
    cloud.play(well(["RUNNING"], [], **{"node-pools list": [node_pools(*pools)]}))
    code, output = cloud.launch("gke.py", "up", *PLACE, f"--slices={slices}", *TRAIN)
    assert code == 2 and says in output and not cloud.calls("xpk"), output


# Of v6e-16: two machines of 8, another number, another topology of as many chips, TPU7x, which tells no topology.
OTHERS = [("v6e-16", {"topology": "2x4", "nodes": 2}, "v6e with 8 chips (2x4)"),
          ("v5litepod-16", {}, "v6e with 16 chips (4x4)"), ("v6e-2x8", {}, "v6e with 16 chips (4x4)"),
          ("tpu7x-32", {"machine": "tpu7x-standard-4t", "nodes": 2, "topology": ""}, "tpu7x with 8 chips"),
          ("v6e-16", {"machine": "n2-standard-8", "topology": ""}, "n2-standard-8 with 0 chips")]


@pytest.mark.parametrize("verb", ["up", "run", "resume"])
@pytest.mark.parametrize("tpu, there, found", OTHERS)
def test_a_cluster_with_another_type_is_refused_and_left_alone(
        cloud: Cloud, verb: str, tpu: str, there: dict, found: str) -> None:
    cloud.play(well(["RUNNING"], [jobset("Completed")], **{"node-pools list": [node_pools("lit-np-0", **there)]}))
    code, output = cloud.launch("gke.py", verb, *PLACE, f"--tpu={tpu}", "--yes", IMAGE, *TRAIN)
    assert code == 2 and f"expected {found}, which the cluster lit has, found {tpu}" in output, output
    assert not cloud.calls("xpk") and {call[0] for call in cloud.calls()} == {"gcloud"}
    assert cloud.launch("gke.py", verb, *PLACE, f"--tpu={tpu}", "--yes", "--force", IMAGE, *TRAIN)[0] == 0


def test_tpu7x_that_this_libtpu_cannot_plan_asks_for_force(cloud: Cloud) -> None:
    unknown = {"code": 2, "error": "lit-tune plan: libtpu: expected one that compiles for TPU7x, found an unknown name"}
    cloud.play(well([""], [], **{"^lit-tune plan": [unknown]}))
    code, output = cloud.launch("gke.py", "up", *PLACE, "--tpu=tpu7x-16", "--yes", *TRAIN)
    assert code == 2 and "unknown name" in output and "--force" in output and not cloud.calls("xpk")
    assert cloud.launch("gke.py", "up", *PLACE, "--tpu=tpu7x-16", "--yes", "--force", IMAGE, *TRAIN)[0] == 0
    assert "--tpu-type=tpu7x-16" in cloud.calls("xpk", "cluster")[0]


def test_over_quota_and_stockout_of_node_pools(cloud: Cloud) -> None:
    quota = {"code": 1, "out": "[XPK] Quota 'TPUS_PER_TPU_FAMILY' exceeded.\n"}
    cloud.play(well([""], [], **{"xpk cluster create": [quota]}))
    code, output = cloud.launch("gke.py", "up", *PLACE, "--yes", IMAGE, *TRAIN)
    assert code == 1 and "TPUS_PER_TPU_FAMILY" in output and len(cloud.calls("xpk")) == 1
    assert "left, and billed" in output and "xpk cluster delete" in output  # the cluster itself may be there
    stockout = {"code": 1, "out": "[XPK] GCE_STOCKOUT: no more capacity\n"}
    cloud.play(well([""], [], **{"xpk cluster create": [stockout]}))
    code, output = cloud.launch("gke.py", "up", *PLACE, "--yes", IMAGE, *TRAIN)
    assert code == 1 and len(cloud.calls("xpk")) == 5 and "`down` deletes it" in output


def test_run_makes_one_jobset_and_returns_when_it_is_complete(cloud: Cloud) -> None:
    cloud.play(well(["RUNNING"], ["", jobset(), jobset("Completed")]))
    code, output = cloud.launch("gke.py", "run", *PLACE, "--restarts=7", IMAGE, *TRAIN)
    assert code == 0 and "finished" in output, output
    (create,) = cloud.calls("xpk", "workload", "create")
    command = next(word for word in create if word.startswith("--command=")).removeprefix("--command=")
    assert shlex.split(command) == ["exec", "lit-tune", "train", "--config=quickstart",
                                    "--config.data.train=gs://my-lit/a b/*.tar", "--workdir=gs://my-lit/runs/lit",
                                    "--preempted_exit_code=75", "--restarts=7"]
    wanted = {"--max-restarts=7", "--restart-on-exit-codes=1,75", "--docker-image=us-docker.pkg.dev/p/r/lit-tune:1"}
    assert wanted <= set(create)
    assert "left, and billed" in output


def test_resume_of_a_name_that_never_was_asks_first(cloud: Cloud) -> None:
    cloud.play(well([""], ["", jobset("Completed")]))
    code, output = cloud.launch("gke.py", "resume", *PLACE, IMAGE, *TRAIN)
    assert code == 2 and "no checkpoint in gs://my-lit/runs/lit" in output and not cloud.calls("xpk"), output
    cloud.play(well([""], ["", jobset("Completed")], **{"storage ls": [checkpoints(10)]}))
    assert cloud.launch("gke.py", "resume", *PLACE, IMAGE, *TRAIN)[0] == 0
    assert len(cloud.calls("xpk", "cluster", "create")) == 1


def test_a_running_jobset_is_only_watched(cloud: Cloud) -> None:
    cloud.play(well(["RUNNING"], [jobset(), jobset("Completed")]))
    assert cloud.launch("gke.py", "run", *PLACE, IMAGE, *TRAIN)[0] == 0
    assert not cloud.calls("xpk")


def test_a_config_error_is_final_and_its_code_is_returned(cloud: Cloud) -> None:
    cloud.play(well(["RUNNING"], ["", jobset("Failed")], **{"get pods": [pods(75, 2, 75)]}))
    code, output = cloud.launch("gke.py", "run", *PLACE, IMAGE, *TRAIN)
    assert code == 2 and len(cloud.calls("xpk", "create")) == 1, output


def test_used_up_restarts_are_renewed_only_with_progress(cloud: Cloud) -> None:
    cloud.play(well(["RUNNING"], ["", jobset("Failed")], **{
        "get pods": [pods(75, 137)], "storage ls": [checkpoints(10), checkpoints(10, 90), checkpoints(10, 90)]}))
    code, output = cloud.launch("gke.py", "run", *PLACE, IMAGE, *TRAIN)
    assert code == 75 and "no new checkpoint since step 90" in output, output
    assert len(cloud.calls("xpk", "create")) == 2 and len(cloud.calls("xpk", "delete")) == 1


def test_down_deletes_jobset_then_cluster_and_sees_that_it_is_gone(cloud: Cloud) -> None:
    cloud.play(well(["RUNNING", ""], []))
    code, output = cloud.launch("gke.py", "down", *PLACE, "--yes")
    assert code == 0 and "left, and billed" not in output, output
    assert [call[1:3] for call in cloud.calls("xpk")] == [["workload", "delete"], ["cluster", "delete"]]
    cloud.play(well(["RUNNING"], []))
    code, output = cloud.launch("gke.py", "down", *PLACE, "--yes")
    assert code == 1 and "IS STILL THERE AND BILLED" in output


def test_interrupted_while_the_cluster_is_made(cloud: Cloud) -> None:
    cloud.play(well([""], [], **{"xpk cluster create": [{"seconds": 30}]}))
    process = cloud.start("gke.py", "up", *PLACE, "--yes", IMAGE, *TRAIN)
    cloud.wait_for("xpk cluster create", process)
    code, output = fake_cloud.interrupt(process)
    assert code == 130 and "left, and billed" in output and "xpk cluster delete --cluster=lit" in output


@pytest.mark.parametrize("words, expected", [
    (("up", *PLACE, "--tpu=v6e"), "tpu7x-16"), (("up", *PLACE, "--reserved"), "--reservation=NAME"),
    (("run", *PLACE, "--fetch=gs://b/v=v", "--", "train"), "gs:// addresses")])
def test_wrong_flags_are_one_line_and_touch_nothing(cloud: Cloud, words: tuple[str, ...], expected: str) -> None:
    code, output = cloud.launch("gke.py", *words)
    assert code == 2 and expected in output and output.count("\n") == 1 and not cloud.calls()


@pytest.mark.parametrize("verb", ["plan", "up", "run", "logs", "status", "resume", "down"])
def test_a_dry_run_calls_nothing(cloud: Cloud, verb: str) -> None:
    called = {words[0] for words in cloud.dry("gke.py", verb, *PLACE, *TRAIN)}
    assert called <= {"gcloud", "kubectl", "xpk", "docker", "lit-tune"}
