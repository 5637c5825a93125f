"""Cloud TPU machines by queued resources (v4, v5e, v5p, v6e): from a laptop to a running pod and back.

    python launch/tpu_vm.py up --name=lit --project=my-project --zone=us-east5-b --tpu=v6e-256 --spot \
        --bucket=gs://my-lit -- train --config=nomic_embed_vision_v1_5 --config.data.train='gs://my-lit/dfn/*.tar'

Verbs and flags: `--help`, launch/README.md. Everything is done by `gcloud`; `--dry-run` prints what would be called.
"""

import json
import re
import shlex
import sys
import time
from typing import Any

import machines
import planned
import storage
from commands import TRIES, Answer, Commands, Stop, called, last, reason
from settings import ELSEWHERE, Settings, parse

RUNTIMES = {"v4": "tpu-ubuntu2204-base", "v5litepod": "v2-alpha-tpuv5-lite", "v5p": "v2-alpha-tpuv5",
            "v6e": "v2-alpha-tpuv6e"}
CORES_A_CHIP = {"v4": 2, "v5p": 2}  # what the number in the type counts; chips elsewhere
CHIPS_ALONE = {"v5litepod": 8, "v6e": 8}  # largest slice that is one machine; else 4 chips a machine
UNUSED = ("--image", "--reservation", "--machines", "--machine-type", "--max-hours")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def count_of(tpu: str) -> int:
    """Machines of one slice.

    Raises:
        Stop: no such accelerator type.
    """
    kind, _, size = tpu.partition("-")
    if kind not in RUNTIMES or not size.isdigit() or int(size) < 1:
        examples = "v4-16, v5litepod-256, v5p-128 or v6e-256"
        hints = {"tpu7x": "; TPU7x is on GKE only: python launch/gke.py", "v5e": f"; v5e is called v5litepod-{size}"}
        raise Stop(2, f"--tpu: expected an accelerator type such as {examples}, found {tpu!r}{hints.get(kind, '')}; "
                      "change it")
    chips = int(size) // CORES_A_CHIP.get(kind, 1)
    return 1 if chips <= CHIPS_ALONE.get(kind, 4) else chips // 4


def seconds(text: str) -> float:
    """Of a time such as 90m or 24h.

    Raises:
        Stop: it is none.
    """
    match = re.fullmatch(r"(\d+)([smhd])", text)
    if not match:
        raise Stop(2, f"--queue-for: expected a time such as 90m, 24h or 7d, found {text!r}; change it")
    return float(int(match[1]) * UNITS[match[2]])


class Slice:
    """The queued resource of these settings, whatever state it is in.

    Attributes:
        count: machines of all its slices.
    """

    together = True

    def __init__(self, settings: Settings, commands: Commands, *, assumed: str = "ACTIVE") -> None:
        """Nothing is asked yet.

        Args:
            settings: name, zone, type, how many.
            commands: what runs gcloud.
            assumed: its state in a dry run.
        """
        self.settings, self.commands, self.assumed = settings, commands, assumed
        self.count = settings.slices * count_of(settings.tpu) if settings.tpu else 0
        self.nodes: list[dict[str, Any]] = []  # as asked for, where it is there
        self.what = f"queued resource {settings.name} ({settings.tpu or 'TPU'} x {settings.slices}) in {settings.zone}"

    def words(self, verb: str, *more: str, name: bool = True) -> list[str]:
        """The words of a gcloud command about it."""
        place = [f"--project={self.settings.project}", f"--zone={self.settings.zone}"]
        return ["gcloud", "compute", "tpus", "queued-resources", verb, *([self.settings.name] if name else []), *place,
                *more]

    def look(self) -> tuple[str, str]:
        """(state, why it failed): "" where there is none. What is there goes on the list of what is left.

        Raises:
            Stop: the question got no answer, several times.
        """
        answer = self.commands.insist(
            self.words("describe", "--format=json(state,tpu)"), self.what, self.settings.poll, absent=True,
            assumed=json.dumps({"state": {"state": self.assumed}} if self.assumed else {}))
        told = json.loads(answer.out or "{}") if answer.code == 0 else {}
        state, self.nodes = told.get("state", {}), told.get("tpu", {}).get("nodeSpec", [])
        if state.get("state"):
            self._owe()
        elif answer.code != 0:
            self.commands.left.pop(self.what, None)
        return state.get("state", ""), state.get("failedData", {}).get("error", {}).get("message", "")

    def there(self) -> bool:
        """Whether its machines can be used."""
        return self.look()[0] == "ACTIVE"

    def check(self) -> None:
        """Refuse a slice of this name that is not the one of the flags, once it has been looked at.

        Raises:
            Stop: it has another type or number: it would be watched, deleted and made again as something else.
        """
        types = {node["node"]["acceleratorType"] for node in self.nodes if "acceleratorType" in node.get("node", {})}
        parts = [part for node in self.nodes for part in node.values() if isinstance(part, dict)]
        found = f"{', '.join(sorted(types))} x {sum(int(part.get('nodeCount', 0)) for part in parts) or 1}"
        asked = f"{self.settings.tpu} x {self.settings.slices}"
        if types and found != asked and not self.settings.force:
            raise Stop(2, f"--tpu, --slices: expected {found}, which {self.settings.name} is, found {asked}; change "
                          "them, delete it first (`down`), take another --name, or add --force")

    def make(self) -> None:
        """Create it, create it again where it failed or was taken away, wait until it is ACTIVE.

        Raises:
            Stop: over quota, refused, the queue's time is over, or too many failures.
        """
        failures, vanished, shown = 0, 0, ""
        patience = seconds(self.settings.queue_for)
        end = time.monotonic() + patience
        while True:
            state, why = self.look()
            self.check()
            if state != shown and state:
                self.commands.say(f"{self.settings.name}: {state}")
            shown = state
            if state == "ACTIVE":
                return
            if not state:
                if vanished >= TRIES:
                    raise Stop(1, f"{self.what} was asked for {vanished} times and is not there; look at the console")
                vanished += 1
                self._create()
                end = time.monotonic() + patience
            elif state in ("FAILED", "SUSPENDED"):
                self.remove()
                failures, vanished = failures + self._failed(state, why, failures), 0
            elif time.monotonic() > end + 600:  # requests may stay in the queue after their time
                self.remove()
                raise Stop(1, f"no machines within --queue-for={self.settings.queue_for}; the request was deleted")
            else:
                self.commands.wait(self.settings.poll)

    def _failed(self, state: str, why: str, failures: int) -> int:
        """1 after the pause before the next try, 0 where a slice was taken away; the request is deleted already.

        Raises:
            Stop: another try would fail the same way, or there were enough.
        """
        if state == "SUSPENDED":
            self.commands.say("the slice had been taken away; asking for it again")
            return 0
        kind = reason(why)
        if kind == "quota":
            raise Stop(1, self._over_quota(why))
        if kind == "expired":
            raise Stop(1, f"no machines within --queue-for={self.settings.queue_for} ({why}); the request was deleted; "
                          "ask for longer, for another zone or for --spot")
        if failures >= self.settings.restarts:
            raise Stop(1, f"the request failed {failures + 1} times, last: {why or 'no reason given'}; it was deleted")
        self.commands.say(f"the request failed: {why or 'no reason given'}; deleted, asking again")
        self.commands.back_off(failures, 10 * self.settings.poll)
        return 1

    def _create(self) -> None:
        """Ask for it.

        Raises:
            Stop: refused, over quota, or failed several times.
        """
        chosen = self.settings
        nodes = ([f"--node-count={chosen.slices}", f"--node-prefix={chosen.name}"] if chosen.slices > 1
                 else [f"--node-id={chosen.name}"])
        optional = [f"--{chosen.tier}"] if chosen.tier != "on-demand" else []
        optional += [f"--service-account={chosen.service_account}"] if chosen.service_account else []
        optional += [f"--network={chosen.network}"] if chosen.network else []
        optional += ["--internal-ips"] if chosen.iap else []
        words = self.words("create", f"--accelerator-type={chosen.tpu}",
                           f"--runtime-version={RUNTIMES[chosen.tpu.partition('-')[0]]}", *nodes, *optional,
                           f"--valid-until-duration={chosen.queue_for}", f"--labels=lit-tune={chosen.name}", "--async")
        for attempt in range(TRIES):
            self._owe()  # before the call: one that is interrupted may have arrived
            answer = self.commands.ask(words)
            if answer.code == 0 or reason(answer.error) == "exists":
                self.assumed = "ACTIVE"
                return
            kind = reason(answer.error)
            if kind not in ("passing", "stockout"):  # these may have arrived all the same, and stay on the list
                self.commands.left.pop(self.what, None)
            if kind == "quota":
                raise Stop(1, self._over_quota(last(answer)))
            if kind not in ("passing", "stockout") or attempt + 1 == TRIES:
                raise Stop(2 if answer.code == 2 else 1, f"the request was refused: {answer.error.strip()}")
            self.commands.say(f"asking for the slice failed: {last(answer)}; again")
            self.commands.back_off(attempt, 10 * chosen.poll)

    def _over_quota(self, why: str) -> str:
        """One line about a quota."""
        page = "https://console.cloud.google.com/iam-admin/quotas?service=tpu.googleapis.com"
        return (f"quota: {why}; no request is left; name a smaller --tpu, fewer --slices or another --zone, or ask for "
                f"more: {page}&project={self.settings.project}")

    def remove(self) -> None:
        """Delete it and see that it is gone.

        Raises:
            Stop: it is still there.
        """
        answer = self.commands.ask(self._delete())
        self.assumed = ""
        if answer.code != 0 and reason(answer.error) != "absent":
            self.commands.say(f"deleting failed: {last(answer)}")
        for attempt in range(TRIES):
            if not self.look()[0]:
                self.commands.left.pop(self.what, None)
                return
            self.commands.back_off(attempt, self.settings.poll)
        raise Stop(1, f"{self.what} IS STILL THERE AND BILLED; delete it: {shlex.join(self._delete())}")

    def ssh(self, command: str, worker: str = "all") -> Answer:
        """What a shell command says there: on all machines, or on one machine of the first slice."""
        return self.commands.ask(self.reach(command, worker))

    def reach(self, command: str, worker: str) -> list[str]:
        """The words of that."""
        node = "all" if worker == "all" else "0"
        iap = ["--tunnel-through-iap"] if self.settings.iap else []
        return self.words("ssh", f"--node={node}", f"--worker={worker}", *machines.SSH, *iap, f"--command={command}",
                          "--quiet")

    def _delete(self) -> list[str]:
        """The words that delete it, machines included."""
        return self.words("delete", "--force", "--quiet")

    def _owe(self) -> None:
        """Note that it may be billed from now on."""
        if not self.commands.dry_run:
            self.commands.left[self.what] = shlex.join(self._delete())


def run(settings: Settings, commands: Commands) -> int:
    """The exit code of a verb."""
    if settings.tpu:
        count_of(settings.tpu)
    seconds(settings.queue_for)
    if any("{i}" in word for word in settings.words) and settings.slices > 1:
        raise Stop(2, "{i}: expected one slice, found several, whose machines are not numbered through; use --slices=1")
    return VERBS[settings.verb](settings, commands)


def _up(settings: Settings, commands: Commands) -> int:
    slice_ = Slice(settings, commands, assumed="")
    if slice_.look()[0] in ("", "FAILED", "SUSPENDED"):  # else all was agreed to before
        planned.approve(settings, commands)
        storage.ensure_bucket(settings, commands)
    slice_.make()
    machines.bring(settings, commands, slice_, "tpu")
    commands.say(f"ready; next: {settings.again('run', shlex.join(settings.words) or 'train --config=...')}")
    return 0


def _run(settings: Settings, commands: Commands) -> int:
    slice_ = Slice(settings, commands)
    if not slice_.there():
        raise Stop(1, f"{slice_.what}: expected ACTIVE, found {slice_.look()[0] or 'nothing'}; call `up` or `resume`")
    slice_.check()
    return _go(settings, commands, slice_)


def _resume(settings: Settings, commands: Commands) -> int:
    slice_ = Slice(settings, commands, assumed="SUSPENDED")
    if not slice_.look()[0]:
        storage.confirm_new(settings, commands, slice_.what)
    slice_.make()
    return _go(settings, commands, slice_)


def _go(settings: Settings, commands: Commands, slice_: Slice) -> int:
    """Install, start, watch."""
    def begin() -> None:
        machines.bring(settings, commands, slice_, "tpu")
        machines.start(settings, commands, slice_)

    begin()
    return machines.watch(settings, commands, slice_, begin)


def _logs(settings: Settings, commands: Commands) -> int:
    return commands.run(Slice(settings, commands).reach(f"{machines.WORKER} logs --lines=200 --follow",
                                                        str(settings.worker)))


def _status(settings: Settings, commands: Commands) -> int:
    slice_ = Slice(settings, commands)
    state, why = slice_.look()
    commands.say(f"machines: {state or 'none'}{f' ({why})' if why else ''}")
    if state == "ACTIVE":
        found = machines.states(slice_)
        for host, now in sorted(found.items()):
            commands.say(f"process on {host}: {now}")
        if len(found) < slice_.count:
            commands.say(f"{slice_.count - len(found)} of {slice_.count} machines do not answer")
    storage.tell_newest(settings, commands)
    return 0


def _down(settings: Settings, commands: Commands) -> int:
    slice_ = Slice(settings, commands)
    state = slice_.look()[0]
    if state:
        commands.confirm(f"Stop the run and delete {slice_.what}?", yes=settings.yes)
        if state == "ACTIVE":
            commands.say("stopping the run: it saves and ends")
            slice_.ssh(f"{machines.WORKER} stop")
        slice_.remove()
    commands.say(f"deleted: {slice_.what}" if state else f"there is no {slice_.what}; {ELSEWHERE}")
    commands.say(f"kept, and billed by what lies in it: {settings.bucket}; all of it goes with: "
                 f"gcloud storage rm --recursive {settings.bucket}")
    return 0


VERBS = {"plan": planned.plan, "up": _up, "run": _run, "logs": _logs, "status": _status, "resume": _resume,
         "down": _down}


if __name__ == "__main__":
    sys.exit(called("launch/tpu_vm.py", lambda: parse("launch/tpu_vm.py", sys.argv[1:], unused=UNUSED), run))
