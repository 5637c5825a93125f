"""CPU machines for getting data ready: the same verbs, each machine does its part of what follows `--`.

    python launch/cpu_vm.py up --name=prep --project=my-project --zone=us-east5-b --bucket=gs://my-lit --machines=4
    python launch/cpu_vm.py run (the same flags) -- data convert 'gs://my-lit/raw/{i}/*.tar' --to=tar --out='small/{i}'
    python launch/cpu_vm.py run (the same flags) -- copy 'small/{i}' 'gs://my-lit/small/{i}'

`{i}` is the machine's number from 1, `{n}` how many there are. The machines delete themselves after --max-hours, and
what lies on their disks with them: `lit-tune` writes there, `copy` brings it into the bucket.
"""

import json
import re
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import machines
import planned
import storage
from commands import TRIES, Answer, Commands, Stop, called, last, reason
from settings import ELSEWHERE, Settings, parse

NEEDS = ("name", "project", "zone", "bucket")
UNUSED = ("--slices", "--reserved", "--reservation", "--queue-for", "--image")
IMAGE = ["--image-family=ubuntu-2204-lts", "--image-project=ubuntu-os-cloud", "--boot-disk-size=200GB"]
PRICES = json.loads(Path(__file__).with_name("prices.json").read_text())
GB_A_VCPU = 4  # of the standard machines of the families in there


class Pool:
    """The machines NAME-1 to NAME-N.

    Attributes:
        count: how many there are to be.
    """

    together = False

    def __init__(self, settings: Settings, commands: Commands, *, assumed: bool = True) -> None:
        """Nothing is asked yet.

        Args:
            settings: name, zone, how many.
            commands: what runs gcloud.
            assumed: whether they are there, in a dry run.
        """
        self.settings, self.commands = settings, commands
        self.count = settings.machines
        self.names = [f"{settings.name}-{i + 1}" for i in range(self.count)]
        self.assumed = self.names if assumed else []
        self.what = f"CPU machines {settings.name}-1 to -{self.count} in {settings.zone}"
        self.place = [f"--project={settings.project}", f"--zone={settings.zone}"]

    def look(self) -> dict[str, str]:
        """{machine: status} of those that are there; they go on the list of what is left.

        Raises:
            Stop: gcloud does not answer, several times.
        """
        words = ["gcloud", "compute", "instances", "list", f"--project={self.settings.project}",
                 f"--zones={self.settings.zone}", f"--filter=labels.lit-tune={self.settings.name}",
                 "--format=csv[no-heading](name,status)"]
        answer = self.commands.insist(words, self.what, self.settings.poll,
                                      assumed="".join(f"{name},RUNNING\n" for name in self.assumed))
        found = dict(line.split(",", 1) for line in answer.out.split() if "," in line)
        if found:
            self._owe(sorted(found))
        else:
            self.commands.left.pop(self.what, None)
        return found

    def there(self) -> bool:
        """Whether all of them run."""
        found = self.look()
        return all(found.get(name) == "RUNNING" for name in self.names)

    def make(self) -> None:
        """Make those that are not there; returns when all run.

        Raises:
            Stop: over quota, refused, or still not there after some tries.
        """
        for attempt in range(TRIES):
            found = self.look()
            missing = [name for name in self.names if name not in found]
            if not missing and self.there():
                return
            if missing:
                self._create(missing)
            self.commands.back_off(attempt, self.settings.poll)
        if not self.there():
            raise Stop(1, f"{self.what}: not all run after {TRIES} tries; `status` shows them, `down` deletes them")

    def _create(self, names: list[str]) -> None:
        """Ask for machines.

        Raises:
            Stop: over quota or refused.
        """
        chosen = self.settings
        optional = [f"--service-account={chosen.service_account}"] if chosen.service_account else []
        optional += [f"--network={chosen.network}"] if chosen.network else []
        optional += ["--no-address"] if chosen.iap else []
        optional += ["--provisioning-model=SPOT"] if chosen.tier == "spot" else []
        self._owe(self.names)  # before the call: one that is interrupted may have arrived
        answer = self.commands.ask([
            "gcloud", "compute", "instances", "create", *names, *self.place, f"--machine-type={chosen.machine_type}",
            *IMAGE, "--scopes=cloud-platform", f"--labels=lit-tune={chosen.name}",
            f"--max-run-duration={chosen.max_hours}h", "--instance-termination-action=DELETE", *optional])
        self.assumed = self.names
        if answer.code == 0 or reason(answer.error) in ("exists", "passing", "stockout"):
            if answer.code != 0:
                self.commands.say(f"asking for machines failed: {last(answer)}; again")
            return
        raise Stop(2 if answer.code == 2 else 1, f"machines were refused: {answer.error.strip()}; some may be there")

    def remove(self) -> None:
        """Delete them and see that they are gone.

        Raises:
            Stop: some are still there.
        """
        names = sorted(self.look())
        if names:
            answer = self.commands.ask(self._delete(names))
            self.assumed = []
            if answer.code != 0:
                self.commands.say(f"deleting failed: {last(answer)}")
        if left := sorted(self.look()):
            raise Stop(1, f"{', '.join(left)} ARE STILL THERE AND BILLED; delete them: "
                          f"{shlex.join(self._delete(left))}")

    def ssh(self, command: str, worker: str = "all") -> Answer:
        """What a shell command says on machine `worker` from 0, or on all; {i} is the machine's number from 1."""
        chosen = range(self.count) if worker == "all" else [int(worker)]
        with ThreadPoolExecutor(1 if self.commands.dry_run else 16) as threads:
            answers = list(threads.map(lambda i: self.commands.ask(self.reach(command, i)), chosen))
        return Answer(max(one.code for one in answers), "".join(one.out for one in answers),
                      "".join(one.error for one in answers))

    def reach(self, command: str, number: int) -> list[str]:
        """The words of that, for machine `number` from 0."""
        iap = ["--tunnel-through-iap"] if self.settings.iap else []
        return ["gcloud", "compute", "ssh", self.names[number], *self.place, *machines.SSH, *iap,
                f"--command={command.replace('{i}', str(number + 1))}", "--quiet"]

    def _delete(self, names: list[str]) -> list[str]:
        """The words that delete machines."""
        return ["gcloud", "compute", "instances", "delete", *names, *self.place, "--quiet"]

    def _owe(self, names: list[str]) -> None:
        """Note that they are billed."""
        if not self.commands.dry_run:
            self.commands.left[self.what] = shlex.join(self._delete(names))


def run(settings: Settings, commands: Commands) -> int:
    """The exit code of a verb."""
    if not 1 <= settings.machines <= 1000 or settings.max_hours < 1:
        raise Stop(2, f"--machines, --max-hours: expected at least 1, found {settings.machines} and "
                      f"{settings.max_hours}; change them")
    return VERBS[settings.verb](settings, commands)


def price(machine_type: str) -> float | None:
    """Dollars an hour of one machine, by the list prices in prices.json; None where they do not have it."""
    match = re.fullmatch(r"([a-z0-9]+)-standard-(\d+)", machine_type)
    rates = PRICES["families"].get(match[1]) if match else None
    return int(match[2]) * (rates["vcpu"] + GB_A_VCPU * rates["gb"]) if rates else None


def _plan(settings: Settings, commands: Commands) -> int:
    end = datetime.now() + timedelta(hours=settings.max_hours)
    hours = settings.machines * settings.max_hours
    commands.say(f"{settings.machines} x {settings.machine_type}: at most {hours} machine hours; they delete "
                 f"themselves by {end:%Y-%m-%d %H:%M}, and all that lies on their disks")
    one = price(settings.machine_type)
    dollars = ("unknown: no price for this type in launch/prices.json" if one is None else
               f"at most ${hours * one:,.2f} (${one:.3f} an hour each: list prices of {PRICES['region']}, published "
               f"{PRICES['date']}, may be old), disks and traffic not included")
    commands.say(f"cost: {dollars}{planned.SPOT if one and settings.tier == 'spot' else ''}")
    return 0


def _up(settings: Settings, commands: Commands) -> int:
    pool = Pool(settings, commands, assumed=False)
    if not pool.look():
        _plan(settings, commands)
        commands.confirm(f"Create {pool.what}?", yes=settings.yes)
        storage.ensure_bucket(settings, commands)
    pool.make()
    machines.bring(settings, commands, pool, "gcs")
    commands.say(f"ready; next: {settings.again('run', shlex.join(settings.words) or 'data index ...')}")
    return 0


def _run(settings: Settings, commands: Commands) -> int:
    pool = Pool(settings, commands)
    if settings.verb == "resume":
        if not pool.look():
            _plan(settings, commands)
            commands.confirm(f"Create {pool.what}?", yes=settings.yes)
        pool.make()
    elif not pool.there():
        raise Stop(1, f"{pool.what}: expected all to run, found {pool.look() or 'none'}; call `up` or `resume`")

    def begin() -> None:
        machines.bring(settings, commands, pool, "gcs")
        machines.start(settings, commands, pool)

    begin()
    return machines.watch(settings, commands, pool, begin)


def _logs(settings: Settings, commands: Commands) -> int:
    pool = Pool(settings, commands)
    if not 0 <= settings.worker < pool.count:
        raise Stop(2, f"--worker: expected 0 to {pool.count - 1}, found {settings.worker}; change it")
    return commands.run(pool.reach(f"{machines.WORKER} logs --lines=200 --follow", settings.worker))


def _status(settings: Settings, commands: Commands) -> int:
    pool = Pool(settings, commands)
    found = pool.look()
    if not found:
        commands.say("machines: none")
        return 0
    for name, status in sorted(found.items()):
        commands.say(f"{name}: {status}")
    for host, now in sorted(machines.states(pool).items()):
        commands.say(f"process on {host}: {now}")
    return 0


def _down(settings: Settings, commands: Commands) -> int:
    pool = Pool(settings, commands)
    if pool.look():
        commands.confirm(f"Delete {pool.what}, and all that lies on their disks?", yes=settings.yes)
        pool.ssh(f"{machines.WORKER} stop")
        pool.remove()
        commands.say(f"deleted: {pool.what}")
    else:
        commands.say(f"there are no {pool.what}; {ELSEWHERE}")
    commands.say(f"kept, and billed by what lies in it: {settings.bucket}")
    return 0


VERBS = {"plan": _plan, "up": _up, "run": _run, "logs": _logs, "status": _status, "resume": _run, "down": _down}


if __name__ == "__main__":
    sys.exit(called("launch/cpu_vm.py", lambda: parse("launch/cpu_vm.py", sys.argv[1:], needs=NEEDS, unused=UNUSED),
                    run))
