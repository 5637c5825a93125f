"""launch/ read by the programs that it is written for, where they are installed: gcloud and xpk.

Nothing is called that would need an account or reach a cloud.

    pip install xpk==1.16.0 kubeflow-trainer-api==2.3.0 kubernetes-validate==1.37.0

in an environment of its own whose bin/ is on the PATH; .ci/run does that. The Google Cloud SDK is in no package index.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from fake_cloud import PLACE, TRAIN, Cloud, node_pools

pytestmark = pytest.mark.slow
CHECK = Path(__file__).parent / "jobset_check.py"
IMAGE = "--image=us-docker.pkg.dev/p/r/lit-tune:1"
needs_gcloud = pytest.mark.skipif(shutil.which("gcloud") is None, reason="the Google Cloud SDK is not installed")
needs_xpk = pytest.mark.skipif(shutil.which("xpk") is None, reason="xpk is not installed: pip install xpk")


def python_of(program: str, *modules: str) -> str:
    """The Python of the environment that a program is installed in; the test skips where it lacks a module."""
    found = shutil.which(program)
    python = found and shutil.which("python", path=str(Path(found).parent))
    if not python:
        pytest.skip(f"{program} is not installed in an environment of its own")
    if subprocess.run([python, "-c", f"import {', '.join(modules)}"], capture_output=True).returncode != 0:
        pytest.skip(f"{', '.join(modules)}: not installed beside {program}")
    return python


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    """Stand-ins, none of which is called: dry runs only."""
    return Cloud(tmp_path / "cloud", "gcloud", "kubectl", "xpk", "docker", "lit-tune")


OPTIONS = ("--spot", "--iap", "--network=n")
PREP = ("--name=prep", "--project=my-project", "--zone=us-east5-b", "--bucket=gs://my-lit", "--machines=2")
CONVERT = ("--", "data", "convert", "gs://my-lit/raw/{i}/*.tar", "--to=tar", "--out=small/{i}-of-{n}")


@needs_gcloud
@pytest.mark.parametrize("program, verbs, words, least", [
    ("tpu_vm.py", ("up", "logs", "resume", "down"),
     (*PLACE, *OPTIONS, "--slices=2", "--service-account=s@p.iam", *TRAIN), 8),
    ("tpu_vm.py", ("up",), (*PLACE, "--reserved", *TRAIN), 4), ("gke.py", ("up", "run", "down"), (*PLACE, *TRAIN), 4),
    ("cpu_vm.py", ("up", "run", "down"), (*PREP, *OPTIONS, *CONVERT), 8)])
def test_the_real_gcloud_parses_every_command(
        cloud: Cloud, program: str, verbs: tuple[str, ...], words: tuple[str, ...], least: int) -> None:
    printed = [line for verb in verbs for line in cloud.dry(program, verb, *words)]
    assert parsed_by_gcloud(printed, cloud.home) > least


def parsed_by_gcloud(printed: list[list[str]], home: Path) -> int:
    """How many different commands the real gcloud takes; it reads all flags before it asks for an account.

    Exit code 2 is a flag that it does not know, 1 that nobody is logged in. No account, no metadata server, a proxy
    that is closed: nothing can leave this machine.
    """
    variables = os.environ | {"CLOUDSDK_CONFIG": str(home / "empty"), "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
                              "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false", "CLOUDSDK_PROXY_TYPE": "http",
                              "CLOUDSDK_PROXY_ADDRESS": "127.0.0.1", "CLOUDSDK_PROXY_PORT": "9"}
    variables.pop("GOOGLE_APPLICATION_CREDENTIALS", None)

    def answer(words: list[str]) -> tuple[int, str]:
        done = subprocess.run(words, env=variables, capture_output=True, text=True, stdin=subprocess.DEVNULL,
                              timeout=120)
        return done.returncode, done.stderr

    assert answer(["gcloud", "compute", "tpus", "queued-resources", "create", "x", "--bogus"])[0] == 2
    local = ["gcloud", "auth", "configure-docker"]  # needs no account: it writes a file
    different = {shlex.join(words): words for words in printed if words[0] == "gcloud" and words[:3] != local}
    for line, words in different.items():
        code, error = answer(words)
        assert code == 1 and "active account" in error, (code, line, error)
    return len(different)


def page_of_xpk(cloud: Cloud, words: list[str]) -> str:
    """What xpk prints of one of our commands in its own dry run."""
    done = subprocess.run([*words, "--dry-run", "--skip-validation"], capture_output=True, text=True, timeout=120,
                          stdin=subprocess.DEVNULL, env=os.environ | {"HOME": str(cloud.home)})
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def jobset_of(cloud: Cloud, tpu: str) -> str:
    """The JobSet that xpk makes of `run`, as YAML."""
    (create,) = [words for words in cloud.dry("gke.py", "run", *PLACE, f"--tpu={tpu}", "--slices=2", IMAGE, *TRAIN)
                 if words[:3] == ["xpk", "workload", "create"]]
    page = page_of_xpk(cloud, create)
    return page[page.index("apiVersion: jobset.x-k8s.io/v1alpha2"):].partition("\n[XPK]")[0]


def checked(*pages: str) -> list[list[str]]:
    """What is wrong with each JobSet by the API's descriptions: JobSet's own models, Kubernetes's schemas of Jobs."""
    python = python_of("xpk", "kubeflow_trainer_api", "kubernetes_validate", "yaml")
    done = subprocess.run([python, str(CHECK)], input="\n---\n".join(pages), capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_xpk
@pytest.mark.parametrize("tpu, accelerator, topology, machines", [
    ("v6e-256", "tpu-v6e-slice", "16x16", 64), ("v5litepod-256", "tpu-v5-lite-podslice", "16x16", 64),
    ("v5p-256", "tpu-v5p-slice", "4x4x8", 32), ("v4-16", "tpu-v4-podslice", "2x2x2", 2),
    ("tpu7x-16", "tpu7x", "2x2x2", 2)])
def test_xpk_makes_a_jobset_of_it_that_the_api_describes(
        cloud: Cloud, tpu: str, accelerator: str, topology: str, machines: int) -> None:
    page = jobset_of(cloud, tpu)
    for line in (f"gke-tpu-accelerator: {accelerator}", f"gke-tpu-topology: {topology}", f"parallelism: {machines}",
                 "replicas: 2", "maxRestarts: 10", "action: FailJobSet", "operator: NotIn", "values: [1,42,75,127,",
                 "(exec lit-tune train --config=quickstart '--config.data.train=gs://my-lit/a b/*.tar'"):
        assert line in page, page
    assert "name: jax-tpu" in page
    assert checked(page) == [[]]


@needs_xpk
def test_a_wrong_jobset_would_be_found(cloud: Cloud) -> None:
    page = jobset_of(cloud, "v6e-256")
    wrong = {"maxRestarts: 10": "maxRestart: 10", "replicas: 2": "replicas: two", "parallelism: 64": "paralelism: 64",
             "privileged: true": "privileged: 1", "mountPath: /dev/shm": "mount: /dev/shm",
             "onJobFailureReasons": "onReasons", "terminationGracePeriodSeconds: 30": "terminationGracePeriod: 30"}
    assert all(page.count(right) == 1 for right in wrong), page
    found = checked(page, *(page.replace(right, mistake) for right, mistake in wrong.items()))
    for mistake, lines in zip(["", *wrong.values()], found, strict=True):
        assert bool(lines) == bool(mistake), (mistake, lines)
        assert not mistake or any(mistake.partition(":")[0] in line for line in lines), (mistake, lines)


@needs_xpk
@pytest.mark.parametrize("tpu", ["v6e-8", "v6e-256", "v5litepod-8", "v5litepod-16", "v5p-128", "v4-16", "tpu7x-16"])
def test_the_node_pools_that_xpk_would_make_are_told_by_type(cloud: Cloud, tpu: str) -> None:
    flags = (*PLACE, IMAGE, f"--tpu={tpu}")
    (create,) = [line for line in cloud.dry("gke.py", "up", *flags, *TRAIN) if line[:3] == ["xpk", "cluster", "create"]]
    (made,) = re.findall(r"node-pools create lit-np-0 (.*)", page_of_xpk(cloud, create))
    told = dict(re.findall(r"--(machine-type|num-nodes|tpu-topology)=(\S+)", made))
    there = node_pools("lit-np-0", machine=told["machine-type"], nodes=int(told["num-nodes"]),
                       topology=told.get("tpu-topology", ""))
    cloud.play({"clusters list": ["RUNNING"], "node-pools list": [there]})
    assert cloud.launch("gke.py", "up", *flags, *TRAIN)[0] == 0
    for other in ("v6e-16", "v5p-16"):
        code, output = cloud.launch("gke.py", "up", *flags, f"--tpu={other}", *TRAIN)
        assert code == 2 and f"found {other}; change it" in output, output


@needs_xpk
def test_xpk_takes_the_commands_about_the_cluster(cloud: Cloud) -> None:
    flags = (*PLACE, "--slices=2", "--spot", IMAGE)
    printed = [cloud.dry("gke.py", verb, *flags, f"--tpu={tpu}", *TRAIN)
               for verb, tpu in (("up", "v6e-256"), ("up", "tpu7x-16"), ("down", "v6e-256"))]
    ours = [line for lines in printed for line in lines if line[0] == "xpk"]
    assert [line[1:3] for line in ours] == [["cluster", "create"]] * 2 + [["workload", "delete"], ["cluster", "delete"]]
    for line in ours:
        page_of_xpk(cloud, line)
