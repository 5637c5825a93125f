"""launch/tpu_vm.py against a recording stand-in for gcloud: a run started, watched, taken away, resumed and ended."""

import shlex
from pathlib import Path

import pytest
from fake_cloud import PLACE, TRAIN, Cloud, checkpoints
from fake_slices import HOSTS, NO_SUCH, creations, state, well, workers


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    """A cloud where everything goes well: no request yet, a bucket in the right place."""
    return Cloud(tmp_path / "cloud", "gcloud", "lit-tune")


def test_run_starts_on_every_machine_with_what_a_pod_needs_and_returns_its_code(cloud: Cloud) -> None:
    cloud.play(well([state("ACTIVE")], **{"worker.sh state": [workers("running"), workers("ended 0"),
                                                              workers(*["ended 0"] * HOSTS)]}))
    code, output = cloud.launch("tpu_vm.py", "run", *PLACE, "--restarts=7", "--fetch=gs://my-lit/v=vectors", *TRAIN)
    assert code == 0 and "finished" in output, output
    (start,) = [call for call in cloud.calls("ssh") if "worker.sh start" in " ".join(call)]
    remote = next(word for word in start if word.startswith("--command=")).removeprefix("--command=")
    assert shlex.split(remote) == ["bash", "lit_tune/launch/worker.sh", "start", "train", "--config=quickstart",
                                   "--config.data.train=gs://my-lit/a b/*.tar", "--workdir=gs://my-lit/runs/lit",
                                   "--preempted_exit_code=75", "--restarts=7"]
    assert any("worker.sh fetch gs://my-lit/v vectors" in " ".join(call) for call in cloud.calls("ssh"))
    assert "left, and billed" in output  # a finished run's slice goes on costing


def test_run_without_machines_is_refused(cloud: Cloud) -> None:
    cloud.play(well([state("SUSPENDED")]))
    code, output = cloud.launch("tpu_vm.py", "run", *PLACE, *TRAIN)
    assert code == 1 and "SUSPENDED" in output and "resume" in output and not cloud.calls("ssh")


@pytest.mark.parametrize("codes, worst", [((2, 75, 75, 75), 2), ((75, 75, 75, 75), 75), ((0, 0, 137, 75), 137),
                                          ((75, 4, 1, 0), 4)])
def test_a_run_that_ended_everywhere_gives_the_code_that_says_most(
        cloud: Cloud, codes: tuple[int, ...], worst: int) -> None:
    cloud.play(well([state("ACTIVE")], **{"worker.sh state": [workers(*(f"ended {code}" for code in codes))]}))
    code, output = cloud.launch("tpu_vm.py", "run", *PLACE, *TRAIN)
    assert code == worst and creations(cloud) == 0, output


def test_preemption_while_running_makes_the_slice_again_and_goes_on(cloud: Cloud) -> None:
    cloud.play(well([state("ACTIVE"), state("ACTIVE"), state("SUSPENDING"), state("SUSPENDING"), state("SUSPENDED"),
                     NO_SUCH, NO_SUCH, state("ACTIVE")],
                    **{"worker.sh state": [workers("running"), workers(*["ended 0"] * HOSTS)],
                       "storage ls .*checkpoints": [checkpoints(100), checkpoints(100, 250)]}))
    code, output = cloud.launch("tpu_vm.py", "run", *PLACE, "--spot", *TRAIN)
    assert code == 0 and "taken away; newest checkpoint: step 250" in output, output
    assert len(cloud.calls("queued-resources", "delete")) == 1 and creations(cloud) == 1
    assert "--spot" in cloud.calls("queued-resources", "create")[0]
    assert len([call for call in cloud.calls("ssh") if "worker.sh start" in " ".join(call)]) == 2


def test_preemption_without_progress_is_bounded_and_nothing_stays(cloud: Cloud) -> None:
    taken = [state("SUSPENDED")] * 3 + [NO_SUCH, NO_SUCH, state("ACTIVE")]  # seen, looked at twice; deleted, made again
    cloud.play(well([state("ACTIVE"), *taken * 3], **{"storage ls .*checkpoints": [checkpoints(100)]}))
    code, output = cloud.launch("tpu_vm.py", "run", *PLACE, "--restarts=2", *TRAIN)
    assert code == 75 and "3 times without a new checkpoint since step 100" in output, output
    assert creations(cloud) == 2


def test_a_machine_that_died_is_replaced_with_its_slice_after_some_looks(cloud: Cloud) -> None:
    one, three = workers("ended 75"), workers("ended 75", "ended 75", "ended 75")
    cloud.play(well([*[state("ACTIVE")] * 13, NO_SUCH, NO_SUCH, state("ACTIVE")],
                    **{"worker.sh state": [*[one, three] * 11, workers(*["ended 0"] * HOSTS)]}))
    code, output = cloud.launch("tpu_vm.py", "run", *PLACE, *TRAIN)
    assert code == 0 and "1 of 4 machines do not answer" in output, output
    assert len(cloud.calls("queued-resources", "delete")) == 1 and creations(cloud) == 1


def test_ssh_that_is_silent_twice_deletes_nothing_that_works(cloud: Cloud) -> None:
    cloud.play(well([state("ACTIVE")], **{"worker.sh state": [
        workers("running"), "", "", "", "", workers("running"), workers(*["ended 0"] * HOSTS)]}))
    code, output = cloud.launch("tpu_vm.py", "run", *PLACE, *TRAIN)
    assert code == 0 and "4 of 4 machines do not answer" in output, output
    assert not cloud.calls("queued-resources", "delete") and creations(cloud) == 0


def test_looks_count_in_a_row_only(cloud: Cloud) -> None:
    silent = ["", workers("ended 75", "ended 75", "ended 75")] * 8
    cloud.play(well([state("ACTIVE")], **{"worker.sh state": [
        *silent, workers("running"), *silent, workers("running"), workers(*["ended 0"] * HOSTS)]}))
    code, output = cloud.launch("tpu_vm.py", "run", *PLACE, *TRAIN)
    assert code == 0 and not cloud.calls("queued-resources", "delete"), output


def test_nothing_is_deleted_while_a_machine_that_answers_runs(cloud: Cloud) -> None:
    others = "".join(f"lit-tune-worker w-{i} running\n" for i in (1, 2, 3))  # machine 0 cannot be reached
    cloud.play(well([state("ACTIVE")], **{"worker.sh state": [*["", others] * 12, workers(*["ended 0"] * HOSTS)]}))
    code, output = cloud.launch("tpu_vm.py", "run", *PLACE, *TRAIN)
    assert code == 0 and not cloud.calls("queued-resources", "delete"), output


def test_no_way_to_any_machine_ends_the_launcher_and_not_the_run(cloud: Cloud) -> None:
    cloud.play(well([state("ACTIVE")], **{"worker.sh state": [workers("running"), {"code": 255, "error": "denied"}]}))
    code, output = cloud.launch("tpu_vm.py", "run", *PLACE, *TRAIN)
    assert code == 1 and "they were left alone" in output and "`resume` watches again" in output, output
    assert not cloud.calls("queued-resources", "delete") and "left, and billed" in output


def test_a_slice_that_is_back_before_it_was_deleted_is_not_deleted(cloud: Cloud) -> None:
    cloud.play(well([state("ACTIVE"), state("SUSPENDING"), state("ACTIVE")],
                    **{"worker.sh state": [workers(*["ended 0"] * HOSTS)]}))
    code, output = cloud.launch("tpu_vm.py", "run", *PLACE, *TRAIN)
    assert code == 0 and "taken away" in output, output
    assert not cloud.calls("queued-resources", "delete") and creations(cloud) == 0


def test_an_install_that_fails_is_tried_three_times(cloud: Cloud) -> None:
    cloud.play(well([state("ACTIVE")], **{"worker.sh install": [{"code": 1, "error": "no route to pypi"}]}))
    code, output = cloud.launch("tpu_vm.py", "up", *PLACE, *TRAIN)
    assert code == 1 and "no route to pypi" in output and len(cloud.calls("ssh")) == 3
    assert "left, and billed" in output


def test_resume_makes_the_slice_again_without_a_new_plan(cloud: Cloud) -> None:
    cloud.play(well([state("SUSPENDED"), state("SUSPENDED"), NO_SUCH, NO_SUCH, state("ACTIVE")]))
    code, output = cloud.launch("tpu_vm.py", "resume", *PLACE, *TRAIN)
    assert code == 0 and creations(cloud) == 1 and not cloud.calls("lit-tune"), output


def test_resume_of_a_name_that_never_was_asks_first(cloud: Cloud) -> None:
    cloud.play(well([NO_SUCH]))
    code, output = cloud.launch("tpu_vm.py", "resume", *PLACE, *TRAIN)
    assert code == 2 and "no checkpoint in gs://my-lit/runs/lit" in output and creations(cloud) == 0, output
    scenario = well([NO_SUCH, NO_SUCH, state("ACTIVE")])
    cloud.play(scenario)
    assert cloud.launch("tpu_vm.py", "resume", *PLACE, "--yes", *TRAIN)[0] == 0 and creations(cloud) == 1
    cloud.play(scenario | {"storage ls .*checkpoints": [checkpoints(40)]})
    assert cloud.launch("tpu_vm.py", "resume", *PLACE, *TRAIN)[0] == 0 and creations(cloud) == 1


def test_down_stops_the_run_first_and_sees_that_the_slice_is_gone(cloud: Cloud) -> None:
    cloud.play(well([state("ACTIVE"), state("DELETING"), NO_SUCH]))
    code, output = cloud.launch("tpu_vm.py", "down", *PLACE, "--yes")
    assert code == 0, output
    made = cloud.calls()
    (delete,) = cloud.calls("queued-resources", "delete")
    (stop,) = cloud.calls("ssh")
    assert "worker.sh stop" in " ".join(stop) and made.index(stop) < made.index(delete)
    assert {"--force", "--quiet"} <= set(delete)
    assert "kept, and billed by what lies in it: gs://my-lit" in output and "left, and billed" not in output
    cloud.play(well([NO_SUCH]))
    code, output = cloud.launch("tpu_vm.py", "down", *PLACE)
    assert code == 0 and "there is no" in output and not cloud.calls("delete")


def test_a_slice_that_cannot_be_deleted_is_shouted_about(cloud: Cloud) -> None:
    cloud.play(well([state("ACTIVE")], **{"queued-resources delete": [{"code": 1, "error": "internal error"}]}))
    code, output = cloud.launch("tpu_vm.py", "down", *PLACE, "--yes")
    assert code == 1 and "IS STILL THERE AND BILLED" in output and "queued-resources delete lit" in output


def test_status_counts_the_machines_that_do_not_answer(cloud: Cloud) -> None:
    cloud.play(well([state("ACTIVE")], **{"worker.sh state": [workers("running", "running", "ended 75")],
                                          "checkpoints": [checkpoints(10, 300, 20)]}))
    code, output = cloud.launch("tpu_vm.py", "status", *PLACE)
    assert code == 0 and "process on w-2: ended 75" in output and "1 of 4 machines do not answer" in output
    assert "newest checkpoint: step 300" in output


def test_a_network_disk_is_mounted_on_new_machines_too(cloud: Cloud) -> None:
    cloud.play(well([state("ACTIVE")]))
    words = ("--nfs=10.0.0.2:/vol 1=/mnt/shared", "--", "cache-text", "--config=quickstart", "--out=/mnt/shared/v")
    code, output = cloud.launch("tpu_vm.py", "run", *PLACE, *words)
    assert code == 2 and "--nfs=10.0.0.2:/vol 1=/mnt/shared: expected SERVER:/PATH=FOLDER" in output
    code, output = cloud.launch("tpu_vm.py", "run", *PLACE, words[0].replace(" ", "_"), *words[1:])
    assert code == 0 and "goes with them" not in output  # what is on that disk stays
    (brought,) = [call for call in cloud.calls("ssh") if "worker.sh install" in " ".join(call)]
    assert "worker.sh nfs 10.0.0.2:/vol_1 /mnt/shared" in " ".join(brought)


def test_data_jobs_know_how_many_machines_there_are(cloud: Cloud) -> None:
    cloud.play(well([state("ACTIVE")]))
    words = ("--", "cache-text", "--config=quickstart", "--out=lit/vectors", "--part={i}/{n}")
    assert cloud.launch("tpu_vm.py", "run", *PLACE, "--mount=lit", *words)[0] == 0
    assert any("worker.sh mount my-lit lit" in " ".join(call) for call in cloud.calls("ssh"))
    (start,) = [" ".join(call) for call in cloud.calls("ssh") if "worker.sh start" in " ".join(call)]
    assert "'--part={i}/4'" in start and "--workdir" not in start
