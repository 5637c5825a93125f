"""TPUs on Google Kubernetes Engine by xpk and JobSet (v4, v5e, v5p, v6e, TPU7x): the same verbs as tpu_vm.py.

    python launch/gke.py up --name=lit --project=my-project --zone=us-east5-b --tpu=v6e-256 --spot \
        --bucket=gs://my-lit -- train --config=nomic_embed_vision_v1_5 --config.data.train='gs://my-lit/dfn/*.tar'

xpk makes the cluster, its node pools and the JobSet; kubectl tells how the JobSet is. The image is launch/Dockerfile.
"""

import hashlib
import json
import math
import re
import shlex
import sys
from typing import Any

import planned
import storage
from commands import TRIES, Commands, Stop, called, last, reason
from machines import FINAL, worst
from settings import ELSEWHERE, PREEMPTED, Settings, parse

TYPES = r"(v4|v5litepod|v5p|v6e|tpu7x)-\d+(x\d+)*"
# How xpk's node pools tell a type: by their machines, MACHINE-...-CHIPSt. TPU7x, v4 and v5p count two cores a chip.
MACHINES = {"ct4p": "v4", "ct5lp": "v5litepod", "ct5p": "v5p", "ct6e": "v6e", "tpu7x": "tpu7x"}
CORES_A_CHIP = {"v4": 2, "v5p": 2, "tpu7x": 2}
RESTARTED = "1,75"  # exit codes that restart all pods, beside those of signals; the others are final
CONTAINER = "jax-tpu"  # as xpk calls it
REPOSITORY = "lit-tune"
UNUSED = ("--queue-for", "--service-account", "--network", "--iap", "--machines", "--machine-type", "--max-hours")


class Cluster:
    """The cluster of these settings and the one JobSet in it."""

    def __init__(self, settings: Settings, commands: Commands, *, assumed: str = "RUNNING") -> None:
        """Nothing is asked yet.

        Args:
            settings: name, zone, type, how many.
            commands: what runs the programs.
            assumed: the cluster's status in a dry run.
        """
        self.settings, self.commands, self.assumed = settings, commands, assumed
        self.what = f"GKE cluster {settings.name} ({settings.tpu or 'TPU'} x {settings.slices}) in {settings.region}"
        self.place = [f"--project={settings.project}", f"--zone={settings.zone}"]

    def status(self) -> str:
        """As GKE calls it, "" where there is no cluster. A cluster that is there goes on the list of what is left."""
        found = self.commands.insist(
            ["gcloud", "container", "clusters", "list", f"--project={self.settings.project}",
             f"--region={self.settings.region}", f"--filter=name={self.settings.name}", "--format=value(status)"],
            self.what, self.settings.poll, assumed=self.assumed).out.strip()
        if found:
            self._owe()
        else:
            self.commands.left.pop(self.what, None)
        return found

    def slices(self) -> int:
        """How many slices the cluster has: xpk's node pools NAME-np-0, NAME-np-1 ...

        Raises:
            Stop: they are of another type: xpk would delete them, or the pods of a run would wait for ever.
        """
        answer = self.commands.insist(
            ["gcloud", "container", "node-pools", "list", f"--cluster={self.settings.name}",
             f"--project={self.settings.project}", f"--region={self.settings.region}",
             "--format=json(name,initialNodeCount,config.machineType,placementPolicy.tpuTopology)"],
            self.what, self.settings.poll, assumed="[]")
        pools = [pool for pool in json.loads(answer.out or "[]")
                 if re.fullmatch(rf"{self.settings.name}-np-\d+", pool["name"])]
        kind, _, size = self.settings.tpu.partition("-")
        chips = math.prod(map(int, size.split("x"))) // (1 if "x" in size else CORES_A_CHIP.get(kind, 1))
        for pool in pools:
            found, count, topology = _slice_of(pool)
            other = (found, count) != (kind, chips) or ("x" in size and topology not in ("", size))
            if other and not self.settings.force:
                place = f" ({topology})" if topology else ""
                raise Stop(2, f"--tpu: expected {found} with {count} chips{place}, which the cluster "
                              f"{self.settings.name} has, found {self.settings.tpu}; change it, delete the cluster "
                              "first (`down`), take another --name, or add --force")
        return len(pools)

    def make(self) -> None:
        """Make the cluster and its node pools, or complete them.

        Raises:
            Stop: over quota, refused, or failed too often. What was made by then is on the list of what is left.
        """
        chosen = self.settings
        tier = {"on-demand": "--on-demand", "spot": "--spot", "reserved": f"--reservation={chosen.reservation}"}
        words = ["xpk", "cluster", "create", f"--cluster={chosen.name}", *self.place, f"--tpu-type={chosen.tpu}",
                 f"--num-slices={chosen.slices}", tier[chosen.tier], "--default-pool-cpu-num-nodes=2"]
        for attempt in range(TRIES):
            self._owe()
            answer = self.commands.stream(words)
            if answer.code == 0:
                return
            kind = reason(answer.out)
            if kind == "quota":
                raise Stop(1, f"quota: {last(answer)}; name a smaller --tpu, fewer --slices or another --zone, or ask "
                              "for more; what was made already is named below")
            if kind not in ("passing", "stockout") or attempt + 1 == TRIES:
                raise Stop(1, f"the cluster is not complete: {last(answer)}; `up` goes on, `down` deletes it")
            self.commands.say(f"making the cluster failed ({kind}); again")
            self.commands.back_off(attempt, 10 * chosen.poll)

    def connect(self) -> None:
        """Let kubectl find the cluster."""
        self.commands.must(["gcloud", "container", "clusters", "get-credentials", self.settings.name, "--dns-endpoint",
                            f"--location={self.settings.region}", f"--project={self.settings.project}"],
                           "kubectl cannot find the cluster")

    def remove(self) -> None:
        """Delete it and see that it is gone.

        Raises:
            Stop: it is still there.
        """
        code = self.commands.run(self._delete())
        self.assumed = ""
        if self.status():
            raise Stop(1, f"{self.what} IS STILL THERE AND BILLED (exit code {code}); delete it: "
                          f"{shlex.join(self._delete())}")

    def job(self) -> str:
        """none, running, complete or failed: the JobSet.

        Raises:
            Stop: kubectl does not answer, several times.
        """
        return self._condition(self._get("jobset", self.settings.name))

    def exit_code(self) -> int:
        """The one of the failed JobSet's pods that says most; 1 where none is known."""
        pods = self._get("pods", f"--selector=jobset.sigs.k8s.io/jobset-name={self.settings.name}").get("items", [])
        states = [status.get("state", {}).get("terminated") or status.get("lastState", {}).get("terminated")
                  for pod in pods for status in pod.get("status", {}).get("containerStatuses", [])]
        return worst(state["exitCode"] for state in states if state) or 1

    def start(self, image: str) -> None:
        """Make the JobSet: every pod runs the words, all pods start again together where that helps."""
        chosen = self.settings
        # exec: the shell that xpk puts around it hands SIGTERM to its child, which is then the run itself.
        command = f"exec lit-tune {shlex.join(chosen.train_words())}"
        self.commands.must(
            ["xpk", "workload", "create", f"--cluster={chosen.name}", f"--workload={chosen.name}", *self.place,
             f"--tpu-type={chosen.tpu}", f"--num-slices={chosen.slices}", f"--docker-image={image}",
             f"--max-restarts={chosen.restarts}", f"--restart-on-exit-codes={RESTARTED}", f"--command={command}"],
            "the JobSet could not be made")

    def stop(self) -> None:
        """Delete the JobSet: its pods get SIGTERM and 30 s, in which the run saves."""
        self.commands.run(["xpk", "workload", "delete", f"--cluster={self.settings.name}",
                           f"--workload={self.settings.name}", *self.place, "--force"])

    def logs(self) -> list[str]:
        """The words that show the log of machine --worker of the first slice."""
        labels = {"jobset.sigs.k8s.io/jobset-name": self.settings.name, "jobset.sigs.k8s.io/job-index": 0,
                  "batch.kubernetes.io/job-completion-index": self.settings.worker}
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        return ["kubectl", "logs", "--follow", f"--selector={selector}", f"--container={CONTAINER}", "--tail=200"]

    def _get(self, *words: str) -> dict[str, Any]:
        """What kubectl says of something; {} where there is none."""
        answer = self.commands.insist(["kubectl", "get", *words, "--ignore-not-found", "--output=json"],
                                      f"the JobSet {self.settings.name}", self.settings.poll)
        return json.loads(answer.out or "{}")

    @staticmethod
    def _condition(jobset: dict[str, Any]) -> str:
        """The state that a JobSet's conditions tell."""
        true = {one["type"] for one in jobset.get("status", {}).get("conditions", []) if one["status"] == "True"}
        if not jobset:
            return "none"
        return "complete" if "Completed" in true else "failed" if "Failed" in true else "running"

    def _delete(self) -> list[str]:
        """The words that delete the cluster with its node pools."""
        return ["xpk", "cluster", "delete", f"--cluster={self.settings.name}", *self.place, "--force"]

    def _owe(self) -> None:
        """Note that it is billed from now on."""
        if not self.commands.dry_run:
            self.commands.left[self.what] = shlex.join(self._delete())


def _slice_of(pool: dict[str, Any]) -> tuple[str, int, str]:
    """(kind, chips, topology) of a node pool; the kind is the machine's name where it is none of a TPU."""
    machine = pool.get("config", {}).get("machineType", "")
    topology = pool.get("placementPolicy", {}).get("tpuTopology", "")
    match = re.fullmatch(r"(\w+)-\w+-(\d+)t", machine)
    if not match or match[1] not in MACHINES:
        return machine or "no TPU", 0, topology
    nodes = int(pool.get("initialNodeCount", 0))  # TPU7x has no topology here
    return MACHINES[match[1]], math.prod(map(int, topology.split("x"))) if topology else nodes * int(match[2]), topology


def image(settings: Settings, commands: Commands) -> str:
    """The name of an image with this clone in it; built and pushed where it is not there yet."""
    if settings.image:
        return settings.image
    host = f"{settings.region}-docker.pkg.dev"
    repositories = ["gcloud", "artifacts", "repositories"]
    where = [REPOSITORY, f"--project={settings.project}", f"--location={settings.region}"]
    digest = hashlib.sha256(storage.pack()).hexdigest()[:16]
    name = f"{host}/{settings.project}/{REPOSITORY}/{REPOSITORY}:{digest}"
    if not commands.dry_run and commands.ask(["gcloud", "artifacts", "docker", "images", "describe", name]).code == 0:
        return name
    if commands.dry_run or commands.ask([*repositories, "describe", *where]).code != 0:
        commands.must([*repositories, "create", *where, "--repository-format=docker"],
                      "the repository of images could not be made")
    commands.must(["gcloud", "auth", "configure-docker", host, "--quiet"], "docker cannot push to it")
    commands.must(["docker", "build", f"--file={storage.CLONE / 'launch' / 'Dockerfile'}", f"--tag={name}",
                   str(storage.CLONE)], "the image could not be built")
    commands.must(["docker", "push", name], "the image could not be pushed")
    return name


def run(settings: Settings, commands: Commands) -> int:
    """The exit code of a verb."""
    if settings.tpu and not re.fullmatch(TYPES, settings.tpu):
        examples = "v5litepod-256, v6e-256, v5p-128 or tpu7x-16"
        raise Stop(2, f"--tpu: expected a type such as {examples}, found {settings.tpu!r}; change it")
    if settings.tier == "reserved" and not settings.reservation:
        raise Stop(2, "--reserved: expected --reservation=NAME with it on GKE, found none; add it")
    numbered = any("{i}" in word or "{n}" in word for word in settings.words)
    if settings.fetch or settings.mount or settings.nfs or numbered:
        raise Stop(2, "--fetch, --mount, --nfs, {i} and {n}: expected with launch/tpu_vm.py and cpu_vm.py only, found "
                      "here; read from gs:// addresses")
    return VERBS[settings.verb](settings, commands)


def _up(settings: Settings, commands: Commands) -> int:
    cluster = Cluster(settings, commands, assumed="")
    there = cluster.slices() if cluster.status() else 0
    if there > settings.slices:
        raise Stop(2, f"--slices: expected at least {there}, which the cluster {settings.name} has, found "
                      f"{settings.slices}: xpk would delete the others; change it, or call `down` first")
    if there < settings.slices:  # else all was agreed to before
        planned.approve(settings, commands)
        storage.ensure_bucket(settings, commands)
    image(settings, commands)
    cluster.make()
    commands.say(f"ready; next: {settings.again('run', shlex.join(settings.words) or 'train --config=...')}")
    return 0


def _run(settings: Settings, commands: Commands) -> int:
    cluster = Cluster(settings, commands)
    if cluster.status() != "RUNNING":
        raise Stop(1, f"{cluster.what}: expected RUNNING, found {cluster.status() or 'nothing'}; call `up` or `resume`")
    cluster.slices()
    return _go(settings, commands, cluster)


def _resume(settings: Settings, commands: Commands) -> int:
    cluster = Cluster(settings, commands)
    status = cluster.status()
    if not status:
        storage.confirm_new(settings, commands, cluster.what)
    else:
        cluster.slices()
    if status != "RUNNING":
        cluster.make()
    return _go(settings, commands, cluster)


def _go(settings: Settings, commands: Commands, cluster: Cluster) -> int:
    """Start the JobSet unless it runs, and watch it; one that used up its restarts but came further is made again."""
    cluster.connect()
    name = image(settings, commands)
    best = storage.newest_step(settings, commands)
    state = cluster.job()
    if state != "running":
        if state != "none":
            cluster.stop()
        cluster.start(name)
    commands.say("watching; Ctrl-C leaves the run going, `resume` watches again, `logs` shows what it prints")
    while not commands.dry_run:
        commands.wait(settings.poll)
        state = cluster.job()
        if state == "complete":
            commands.say("finished")
            return 0
        if state == "running":
            continue
        if state == "none":
            raise Stop(1, "the JobSet was deleted by somebody; `resume` makes it again")
        code, step = cluster.exit_code(), storage.newest_step(settings, commands)
        if code in FINAL or step <= best:
            why = "a restart would end the same way" if code in FINAL else f"no new checkpoint since step {best}"
            commands.say(f"the run ended with exit code {code}; {why}; `logs` shows more")
            return code if code in FINAL else PREEMPTED
        commands.say(f"the JobSet used up its restarts at step {step}; making it again")
        best = step
        cluster.stop()
        cluster.start(name)
    return 0


def _logs(settings: Settings, commands: Commands) -> int:
    cluster = Cluster(settings, commands)
    cluster.connect()
    return commands.run(cluster.logs())


def _status(settings: Settings, commands: Commands) -> int:
    cluster = Cluster(settings, commands)
    found = cluster.status()
    commands.say(f"cluster: {found or 'none'}")
    if found:
        cluster.connect()
        commands.say(f"JobSet: {cluster.job()}")
    storage.tell_newest(settings, commands)
    return 0


def _down(settings: Settings, commands: Commands) -> int:
    cluster = Cluster(settings, commands)
    found = cluster.status()
    if found:
        commands.confirm(f"Stop the run and delete {cluster.what}?", yes=settings.yes)
        cluster.stop()
        cluster.remove()
    commands.say(f"deleted: {cluster.what}" if found else f"there is no {cluster.what}; {ELSEWHERE}")
    commands.say(f"kept, and billed by what lies in it: {settings.bucket} (gcloud storage rm --recursive) and the "
                 f"images (gcloud artifacts repositories delete {REPOSITORY} --location={settings.region})")
    return 0


VERBS = {"plan": planned.plan, "up": _up, "run": _run, "logs": _logs, "status": _status, "resume": _resume,
         "down": _down}


if __name__ == "__main__":
    sys.exit(called("launch/gke.py", lambda: parse("launch/gke.py", sys.argv[1:], unused=UNUSED), run))
