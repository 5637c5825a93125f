"""What is the same on every kind of virtual machine: install, start, ask, watch, stop a run over ssh."""

import re
import shlex
from collections.abc import Callable, Iterable
from typing import Protocol

import storage
from commands import Answer, Commands, Stop
from settings import PREEMPTED, Settings

WORKER = "bash lit_tune/launch/worker.sh"
CACHE = ".cache/lit_tune"  # of lit-tune, in the home folder
# A connection that is dead ends within two minutes, and not what waits for it.
SSH = ("--ssh-flag=-oConnectTimeout=30", "--ssh-flag=-oServerAliveInterval=30")
FINAL = (2, 3, 4, 5)  # config, numbers, data, checkpoint: starting again would end the same way
LOOKS = 10  # in a row at machines that do not answer, or still run after machine 0 has ended, before anything is done


class Machines(Protocol):
    """Machines that run one thing together, or each its part.

    Attributes:
        count: how many.
        together: whether they are one run, which ends everywhere when it ends on one.
    """

    count: int
    together: bool

    def there(self) -> bool:
        """Whether all of them can be used now."""

    def make(self) -> None:
        """Bring them there, whatever state they are in; returns when they are."""

    def remove(self) -> None:
        """Delete them; returns when they are gone."""

    def ssh(self, command: str, worker: str = "all") -> Answer:
        """What a shell command says on one machine or on all."""


def bring(settings: Settings, commands: Commands, machines: Machines, extra: str) -> None:
    """Put this clone, its requirements and the folders of --fetch on every machine; what is there stays.

    Raises:
        Stop: a machine failed three times.
    """
    address = shlex.quote(storage.upload_code(settings, commands))
    steps = [f"gcloud storage cp {address} lit_tune.tar", "mkdir -p lit_tune",
             "tar -xf lit_tune.tar -C lit_tune", f"{WORKER} install {extra}"]
    if settings.mount:
        steps.append(f"{WORKER} mount {shlex.join([settings.bucket.removeprefix('gs://'), settings.mount])}")
    if settings.nfs:
        steps.append(f"{WORKER} nfs {shlex.join(settings.nfs)}")
    steps += [f"{WORKER} fetch {shlex.join(pair)}" for pair in settings.fetch]
    commands.say("installing on all machines")
    everywhere(settings, commands, machines, " && ".join(steps), "installing", tries=3)


def start(settings: Settings, commands: Commands, machines: Machines) -> None:
    """Start the run on every machine; one that runs it already is left alone."""
    words = [word.replace("{n}", str(machines.count)) for word in settings.train_words()]  # {i}: worker.sh
    everywhere(settings, commands, machines, f"{WORKER} start {shlex.join(words)}", "starting", tries=1)
    commands.say(f"started: lit-tune {shlex.join(words)}")


def everywhere(settings: Settings, commands: Commands, machines: Machines, command: str, doing: str, *,
               tries: int) -> None:
    """Returns when a command went well on all machines.

    Raises:
        Stop: it did not, `tries` times.
    """
    for attempt in range(tries):
        answer = machines.ssh(command)
        if answer.code == 0:
            return
        said = "\n".join((answer.error.strip() or answer.out.strip() or "nothing").splitlines()[-5:])
        commands.say(f"{doing} failed (try {attempt + 1} of {tries}): {said}")
        commands.wait(min(10.0, settings.poll) if attempt + 1 < tries else 0.0)
    raise Stop(1, f"{doing} failed on a machine; see above")


def states(machines: Machines, worker: str = "all") -> dict[str, str]:
    """{host: "none", "running" or "ended CODE"} of the machines that answer."""
    found = re.findall(r"^lit-tune-worker (\S+) (none|running|ended \d+)\s*$", machines.ssh(
        f"{WORKER} state", worker).out, re.M)
    return dict(found)


def worst(codes: Iterable[int]) -> int:
    """The exit code that says most: a final one, then any other, then 75 (a lost peer follows from another's end)."""
    ranked = sorted(codes, key=lambda code: (code != 0, code not in (0, PREEMPTED), code in FINAL))
    return ranked[-1] if ranked else 0


def watch(settings: Settings, commands: Commands, machines: Machines, begin: Callable[[], None]) -> int:
    """The run's exit code, once it has ended; machines that are taken away are made again, and the run with them.

    Args:
        settings: --restarts bounds how often that happens without a new checkpoint.
        commands: of this call.
        machines: that the run was started on.
        begin: installs and starts on new machines.
    """
    commands.say("watching; Ctrl-C leaves the run going, `resume` watches again, `logs` shows what it prints")
    best, fruitless, looks = storage.newest_step(settings, commands), 0, 0
    while True:
        commands.wait(settings.poll)
        there = machines.there()
        found = states(machines, "0" if machines.together else "all") if there else {}
        if commands.dry_run:
            return 0
        if there:
            looks = 0 if "running" in found.values() else looks + 1
            found = states(machines) if looks and machines.together else found
            if _goes_on(commands, machines, found, looks):
                continue
            if len(found) == machines.count:
                return _ended(settings, commands, machines, found)
        looks, lost = 0, _silent(machines, found) if there else "the machines were taken away"
        if not machines.together:  # each did its own part; what they are allowed to cost was agreed to
            raise Stop(PREEMPTED, f"{lost}; `resume` makes them again and starts each part again")
        step = storage.newest_step(settings, commands)
        fruitless, best = (0 if step > best else fruitless + 1), max(step, best)
        if fruitless > settings.restarts:
            raise Stop(PREEMPTED, f"{lost}, {fruitless} times without a new checkpoint since step {best}; given up")
        commands.say(f"{lost}; newest checkpoint: step {step}; making them again")
        if there and machines.there():  # the others answer, have ended, and are billed
            machines.remove()
        machines.make()
        begin()


def _goes_on(commands: Commands, machines: Machines, found: dict[str, str], looks: int) -> bool:
    """Whether to look again: the run goes on, as far as can be told, or what was seen may pass.

    Args:
        commands: of this call.
        machines: all of them.
        found: the states of those that answer; after a look that found machine 0 not running, of all that do.
        looks: such looks in a row; 0 if machine 0 runs.

    Raises:
        Stop: none answers for long. That is more likely the way to them than all of them, so nothing is deleted.
    """
    silent, running = len(found) < machines.count, "running" in found.values()
    if looks == 0:
        return True
    if silent and looks == 1:
        commands.say(f"{_silent(machines, found)}; looking again, at most {LOOKS} times unless some of them still run")
    if not found and looks > LOOKS:
        raise Stop(1, f"{_silent(machines, found)} over ssh, {looks} times, though they are there; they were left "
                      "alone; `status` asks again, `resume` watches again, `down` deletes them")
    return (silent and running) or ((silent or running) and looks <= LOOKS)


def _silent(machines: Machines, found: dict[str, str]) -> str:
    """How many do not answer, in words."""
    return f"{machines.count - len(found)} of {machines.count} machines do not answer"


def _ended(settings: Settings, commands: Commands, machines: Machines, found: dict[str, str]) -> int:
    """The exit code of a run that has ended on machine 0; whoever still runs is stopped."""
    if "running" in found.values():
        machines.ssh(f"{WORKER} stop")
    codes = {host: int(state.split()[1]) for host, state in found.items() if state.startswith("ended")}
    if not codes:
        raise Stop(1, "nothing has been started on these machines; `run` starts it")
    code = worst(codes.values())
    host = next(host for host, one in codes.items() if one == code)
    commands.say("finished" if code == 0 else f"the run ended with exit code {code} on {host}; `logs` shows why")
    _tell_what_goes(settings, commands)
    return code


def _tell_what_goes(settings: Settings, commands: Commands) -> None:
    """Say what a job that writes to the machines' own disks has left there, and the line that keeps it."""
    out = settings.flag("out") or (f"{CACHE}/index" if settings.words[:2] == ("data", "index") else "")
    kept = [folder for folder in (settings.mount, settings.nfs[1] if settings.nfs else "") if folder]
    if settings.words[0] in ("train", "copy") or any(out.startswith(f"{folder}/") for folder in kept):
        return
    if not out:
        commands.say(f"what it wrote, in {CACHE} or elsewhere, lies on the machines' own disks and goes with them; "
                     "`-- copy FOLDER gs://...` keeps a folder")
        return
    name = out.rpartition(f"{CACHE}/")[2].strip("/")
    # Files of an index are named after the shards, so those of all machines may lie together.
    apart = "" if "{i}" in name or out.startswith(CACHE) else "/{i}"
    line = settings.again("run", shlex.join(["copy", out, f"{settings.bucket}/{name}{apart}"]))
    commands.say(f"{out} lies on the machines' own disks and goes with them; to keep it: {line}")
