"""launch/cpu_vm.py against a recording stand-in for gcloud: machines that each do a part, and delete themselves."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import range_server
import shards_on_disk
from fake_cloud import Cloud

from lit_tune import flag_reading

PLACE = ("--name=prep", "--project=my-project", "--zone=us-east5-b", "--bucket=gs://my-lit", "--machines=2", "--poll=0")
CONVERT = ("--", "data", "convert", "gs://my-lit/raw/{i}/*.tar", "--to=tar", "--out=small/{i}-of-{n}")
ALL = "prep-1,RUNNING\nprep-2,RUNNING\n"


# Whole machines in us-central1, as tables of others have them; these are no lines of ours.
PUBLISHED = {"c3-standard-176": 8.870752, "n2-standard-2": 0.0971, "e2-standard-2": 0.0670, "n2d-standard-4": 0.1690,
             "c2-standard-4": 0.2088}


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    """A cloud with gcloud only."""
    return Cloud(tmp_path / "cloud", "gcloud")


def well(lists: list, *states: str) -> dict[str, list]:
    """A scenario: what `list` says in turn, and the state of machines 1 and 2."""
    answers = {f"ssh prep-{i + 1} .*worker.sh state": [f"lit-tune-worker prep-{i + 1} {state}\n"]
               for i, state in enumerate(states)}
    return {"instances list": lists, "buckets describe": ["US-EAST5"], **answers}


def test_up_makes_what_is_missing_and_it_deletes_itself(cloud: Cloud) -> None:
    cloud.play(well(["", "prep-1,RUNNING\n", ALL]))
    code, output = cloud.launch("cpu_vm.py", "up", *PLACE, "--max-hours=6", "--yes")
    assert code == 0 and "12 machine hours" in output and "delete themselves by" in output, output
    (create,) = cloud.calls("instances", "create")
    assert create[4] == "prep-2" and "prep-1" not in create
    assert {"--max-run-duration=6h", "--instance-termination-action=DELETE", "--labels=lit-tune=prep"} <= set(create)
    assert "instances delete prep-1 prep-2" in output  # what is left, and how it goes


@pytest.mark.parametrize("machine", [*PUBLISHED, "n2-standard-32"])
def test_the_cost_is_said_before_anything_is_created(cloud: Cloud, machine: str) -> None:
    cloud.play(well([""]))
    words = () if machine == "n2-standard-32" else (f"--machine-type={machine}",)  # that one is the default
    code, output = cloud.launch("cpu_vm.py", "up", *PLACE, "--max-hours=1000", *words)
    assert code == 2 and "--yes" in output and not cloud.calls("create"), output  # nobody agreed
    found = float(re.search(r"cost: at most \$([\d,.]+) ", output)[1].replace(",", ""))
    expected = PUBLISHED.get(machine) or 16 * PUBLISHED["n2-standard-2"]
    assert found == pytest.approx(2000 * expected, rel=1e-3), output
    assert "list prices of us-central1, published 2025-03-06, may be old" in output and "spot is cheaper" not in output
    assert "spot is cheaper" in cloud.launch("cpu_vm.py", "plan", *PLACE, *words, "--spot")[1]


@pytest.mark.parametrize("machine", ["n2-highmem-32", "x9-standard-8", "n2-custom-8-16384", "n2-standard"])
def test_a_type_without_a_price_is_said_to_have_none(cloud: Cloud, machine: str) -> None:
    code, output = cloud.launch("cpu_vm.py", "plan", *PLACE, f"--machine-type={machine}", "--spot")
    assert code == 0 and "cost: unknown: no price for this type in launch/prices.json\n" in output, output
    assert "delete themselves by" in output and not cloud.calls()


def test_run_gives_every_machine_its_part_and_waits_for_the_last(cloud: Cloud) -> None:
    cloud.play(well([ALL], "ended 0", "ended 0") | {"ssh prep-2 .*worker.sh state": [
        "lit-tune-worker prep-2 running\n"] * 15 + ["lit-tune-worker prep-2 ended 4\n"]})
    code, output = cloud.launch("cpu_vm.py", "run", *PLACE, *CONVERT)
    assert code == 4 and "exit code 4 on prep-2" in output, output
    starts = [call for call in cloud.calls("ssh") if "worker.sh start" in " ".join(call)]
    for number in (1, 2):
        (start,) = [call for call in starts if f"prep-{number}" in call]
        remote = next(word for word in start if word.startswith("--command=")).removeprefix("--command=")
        assert shlex.split(remote)[2:] == ["start", "data", "convert", f"gs://my-lit/raw/{number}/*.tar", "--to=tar",
                                           f"--out=small/{number}-of-2"]


# What a job leaves on the machines' own disks, and where `copy` is told to bring it.
LEFT = [
    (CONVERT, "copy 'small/{i}-of-{n}' 'gs://my-lit/small/{i}-of-{n}'"),
    (("--", "data", "convert", "gs://my-lit/raw/*.tar", "--to=tar", "--out", "small"), "copy small 'gs://my-lit/small/{i}'"),
    (("--", "data", "index", "gs://my-lit/small/{i}/*.tar"), "copy .cache/lit_tune/index gs://my-lit/index"),
]


@pytest.mark.parametrize("words, keeps", LEFT)
def test_what_lies_on_the_machines_is_said_with_the_line_that_keeps_it(
        cloud: Cloud, words: tuple[str, ...], keeps: str) -> None:
    flag_reading.read([word.replace("{i}", "1").replace("{n}", "2") for word in words[2:]], "data")  # lit-tune takes it
    cloud.play(well([ALL], "ended 0", "ended 0"))
    code, output = cloud.launch("cpu_vm.py", "run", *PLACE, *words)
    assert code == 0, output
    (line,) = [line.partition("to keep it: ")[2] for line in output.splitlines() if "to keep it: " in line]
    assert line == f"python launch/cpu_vm.py run {shlex.join(PLACE)} -- {keeps}"
    cloud.play(well([ALL], "ended 0", "ended 0"))
    code, output = cloud.launch("cpu_vm.py", *shlex.split(line)[2:])
    assert code == 0 and "to keep it" not in output, output
    starts = [shlex.split(word.removeprefix("--command="))[2:] for call in cloud.calls("ssh") for word in call
              if "worker.sh start" in word]
    expected = [shlex.split(keeps.replace("{i}", str(i)).replace("{n}", "2")) for i in (1, 2)]
    assert sorted(starts) == [["start", *words] for words in expected]


@pytest.mark.parametrize("words, says", [
    (("--", "data", "convert", "gs://b/*.tar", "--to=tar", "--out=lit/small/{i}"), False),
    (("--", "data", "convert", "gs://b/*.tar", "--to=tar", "--out=other/{i}"), True),
    (("--", "cache-text", "--config=quickstart"), True)])
def test_nothing_is_said_of_what_lies_in_the_bucket(cloud: Cloud, words: tuple[str, ...], says: bool) -> None:
    cloud.play(well([ALL], "ended 0", "ended 0"))
    code, output = cloud.launch("cpu_vm.py", "run", *PLACE, "--mount=lit", *words)
    assert code == 0 and ("own disks" in output) == says, output


def test_the_index_of_shards_in_a_bucket_is_worth_as_much_on_another_machine(tmp_path: Path) -> None:
    """What README.md does with `copy` and --fetch, with two caches on this machine and shards behind an address."""
    (tmp_path / "shards").mkdir()
    for number in range(2):
        shards_on_disk.shard(tmp_path / "shards" / f"{number}.tar", [number])
    server = range_server.Server(tmp_path / "shards")
    try:
        made = [indexed(tmp_path / f"machine-{i}", f"{server.url}/{i}.tar") for i in range(2)]
        for i in range(2):
            shutil.copytree(tmp_path / f"machine-{i}" / "index", tmp_path / "run" / "index", dirs_exist_ok=True)
        again = indexed(tmp_path / "run", f"{server.url}/{{0..1}}.tar")
    finally:
        server.close()
    assert [one["read"] for one in made] == [1, 1] and (again["read"], again["shards"], again["pairs"]) == (0, 2, 2)


def indexed(cache: Path, shards: str) -> dict:
    """What `lit-tune data index` says, with a cache of its own."""
    done = subprocess.run([sys.executable, "-m", "lit_tune.data", "index", shards, "--json", "--workers=1"],
                          env=os.environ | {"LIT_TUNE_CACHE": str(cache)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_machines_that_are_gone_are_not_made_again_without_a_word(cloud: Cloud) -> None:
    cloud.play(well([ALL, "prep-1,RUNNING\n"], "running", "running"))
    code, output = cloud.launch("cpu_vm.py", "run", *PLACE, *CONVERT)
    assert code == 75 and "`resume`" in output and not cloud.calls("instances", "create"), output


def test_resume_asks_before_it_makes_all_machines_again(cloud: Cloud) -> None:
    cloud.play(well([""]))
    code, output = cloud.launch("cpu_vm.py", "resume", *PLACE, *CONVERT)
    assert code == 2 and "machine hours" in output and not cloud.calls("instances", "create"), output
    cloud.play(well(["prep-1,RUNNING\n", "prep-1,RUNNING\n", ALL], "ended 0", "ended 0"))
    code, output = cloud.launch("cpu_vm.py", "resume", *PLACE, *CONVERT)
    assert code == 0 and len(cloud.calls("instances", "create")) == 1, output


def test_status_and_down_of_nothing_say_so(cloud: Cloud) -> None:
    cloud.play(well([""]))
    code, output = cloud.launch("cpu_vm.py", "status", *PLACE)
    assert code == 0 and "machines: none" in output and not cloud.calls("ssh"), output
    code, output = cloud.launch("cpu_vm.py", "down", *PLACE)
    assert code == 0 and "look at --name, --project and --zone" in output and "gs://my-lit" in output, output


def test_quota_ends_it_and_names_what_is_there(cloud: Cloud) -> None:
    cloud.play({"create": [{"code": 1, "error": "Quota 'CPUS' exceeded. Limit: 24.0"}], **well([""])})
    code, output = cloud.launch("cpu_vm.py", "up", *PLACE, "--yes")
    assert code == 1 and "Quota 'CPUS'" in output and len(cloud.calls("create")) == 1
    assert "instances delete prep-1 prep-2" in output


def test_down_deletes_all_that_have_the_label(cloud: Cloud) -> None:
    cloud.play(well([ALL, ALL, ""]))
    code, output = cloud.launch("cpu_vm.py", "down", *PLACE, "--yes")
    assert code == 0 and "left, and billed" not in output, output
    (delete,) = cloud.calls("instances", "delete")
    assert delete[4:6] == ["prep-1", "prep-2"] and "--quiet" in delete
    cloud.play(well([ALL]))
    code, output = cloud.launch("cpu_vm.py", "down", *PLACE, "--yes")
    assert code == 1 and "ARE STILL THERE AND BILLED" in output
