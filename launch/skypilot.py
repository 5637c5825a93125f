r"""One TPU slice by SkyPilot's managed jobs: the same verbs as tpu_vm.py, by the program `sky`.

    python launch/skypilot.py up --name=lit --project=my-project --zone=us-east5-b --tpu=v6e-8 --spot \
        --bucket=gs://my-lit -- train --config=lit_b16_v5e8 --config.data.train='gs://my-lit/dfn/*.tar'

skypilot.yaml is the job. It makes its machines itself, makes them again when they are taken away, and deletes them when
it ends. So `up` launches it and returns, `run` launches it and follows it, and either finds what the other launched.
"""

import json
import re
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import planned
import storage
from commands import Commands, Stop, called, last, reason
from machines import worst
from settings import Settings, parse
from tpu_vm import RUNTIMES, count_of

TASK = Path(__file__).resolve().with_name("skypilot.yaml")
UNUSED = ("--slices", "--reserved", "--reservation", "--queue-for", "--fetch", "--mount", "--nfs", "--image",
          "--worker", "--service-account", "--network", "--iap", "--machines", "--machine-type", "--max-hours")
SAVED = 76  # exit code of a run that was told to stop and has saved; SkyPilot starts that one again, without a bound
ENDED = ("SUCCEEDED", "CANCELLED", "FAILED", "FAILED_SETUP", "FAILED_PRECHECKS", "FAILED_NO_RESOURCE",
         "FAILED_CONTROLLER")
CONTROLLER = "sky-jobs-controller-"
NO_JOBS = "No in-progress managed jobs"  # what it says, and fails with, where there is no controller that runs
LOOKS = 10  # at a job that is being cancelled


class Job:
    """The newest managed job of this name."""

    def __init__(self, settings: Settings, commands: Commands, *, assumed: str = "") -> None:
        """Nothing is asked yet.

        Args:
            settings: name, zone, type.
            commands: what runs `sky`.
            assumed: its status in a dry run, "" for none.
        """
        self.settings, self.commands, self.assumed = settings, commands, assumed
        self.what = f"SkyPilot's managed job {settings.name} and its machines"

    def look(self) -> dict[str, Any]:
        """What SkyPilot says of it; {} where there is none. One that has not ended goes on the list of what is left.

        Raises:
            Stop: SkyPilot does not answer, several times.
        """
        assumed = [{"job_id": 1, "job_name": self.settings.name, "status": self.assumed}] if self.assumed else []
        answer = self.commands.insist(["sky", "jobs", "queue", "--all", "--verbose", "--output=json"], self.what,
                                      self.settings.poll, assumed=json.dumps(assumed), absent=True)
        if answer.code != 0 and NO_JOBS not in answer.error:  # another "not found" is no answer: it would launch twice
            raise Stop(1, f"{self.what}: cannot be looked at: {plain(last(answer))}; nothing was changed")
        told = records(answer.out) if answer.code == 0 else []
        named = [one for one in told if one.get("job_name") == self.settings.name and "job_id" in one]
        found = max(named, key=lambda one: one["job_id"], default={})
        self.commands.left.pop(self.what, None)
        if active(found):
            self.owe(str(found["job_id"]))
        return found

    def owe(self, number: str = "") -> None:
        """Note that it is billed from now on."""
        if not self.commands.dry_run:
            which = number or f"--name={self.settings.name}"
            self.commands.left[self.what] = f"sky jobs cancel {which} --yes"

    def launch(self) -> int:
        """Its number, once SkyPilot has it.

        Raises:
            Stop: refused, over quota, or no machine for the controller.
        """
        chosen = self.settings
        file = self._task()
        self.owe()  # before the call: one that is interrupted may have arrived
        try:
            answer = self.commands.stream([
                "sky", "jobs", "launch", f"--name={chosen.name}", f"--workdir={storage.CLONE}",
                f"--infra=gcp/{chosen.region}/{chosen.zone}", f"--gpus=tpu-{chosen.tpu}",
                "--use-spot" if chosen.tier == "spot" else "--no-use-spot",
                f"--env=ARGS={shlex.join(chosen.train_words(SAVED))}", "--detach-run", "--yes", str(file)])
        finally:
            if file != TASK and not self.commands.dry_run:  # there the printed line has to work
                shutil.rmtree(file.parent)
        self.assumed = "STARTING"
        found = self.look()
        self.controllers()
        if active(found) or (found and answer.code == 0):  # one that ended at once is told of by `follow`
            return found["job_id"]
        kind = reason(answer.out)
        hint = {"quota": "; ask for more, or name a smaller --tpu or another --zone",
                "stockout": "; name another --zone, or call again later"}.get(kind, "")
        raise Stop(1, f"SkyPilot did not take the job ({kind}): {plain(last(answer))}{hint}; nothing of it is left")

    def _task(self) -> Path:
        """skypilot.yaml, or a copy with the runtime version of another kind of TPU: `sky` has no flag for that."""
        text = TASK.read_text()
        version = RUNTIMES[self.settings.tpu.partition("-")[0]]
        filled = re.sub(r"^(\s*runtime_version: ).*$", rf"\g<1>{version}", text, flags=re.M)
        if filled == text:
            return TASK
        file = Path(tempfile.mkdtemp(prefix="lit-tune-")) / TASK.name  # of this user alone
        file.write_text(filled)
        return file

    def follow(self, number: int) -> int:
        """The run's exit code, once it has ended; its log is shown until then.

        Raises:
            Stop: it did not end by itself, or before it began.
        """
        self.commands.say("following the log; Ctrl-C leaves the run going, `resume` follows it again")
        while True:
            self.commands.run(["sky", "jobs", "logs", str(number)])
            self.assumed = "SUCCEEDED"
            found = self.look()
            if not active(found):
                break
            if found["job_id"] != number:
                raise Stop(1, f"job {number} has ended, and somebody launched {found['job_id']} of the same name; "
                              "`resume` follows that one")
            self.commands.wait(self.settings.poll)  # the log broke off, the run did not
        self.controllers()
        status, why = found.get("status"), found.get("failure_reason") or "it does not say why"
        if status == "SUCCEEDED":
            self.commands.say("finished")
            return 0
        told = re.search(r"exit codes? \[?(\d+(?:, ?\d+)*)", why)
        if told is None:
            raise Stop(1, f"job {number} ended as {status or 'one that SkyPilot has forgotten'}: {plain(why)}")
        code = worst(map(int, told[1].split(",")))
        self.commands.say(f"the run ended with exit code {code}; `logs` shows why")
        return code

    def controllers(self) -> None:
        """Note the machines that SkyPilot watches its jobs from; they stay when a job has ended."""
        answer = self.commands.ask(["sky", "status", "--output=json"], assumed="[]")
        if answer.code != 0:
            self.commands.say(f"whether SkyPilot's controller is there cannot be told: {plain(last(answer))}; "
                              f"`sky status` shows it, `sky down {CONTROLLER}...` deletes it")
            return
        for one in records(answer.out):
            name = str(one.get("name", ""))
            if name.startswith(CONTROLLER) and not self.commands.dry_run:
                what = f"SkyPilot's controller {name} ({one.get('status')}), which stops itself but is not deleted"
                self.commands.left[what] = f"sky down {name}"


def records(text: str) -> list[dict[str, Any]]:
    """The list in the output of `sky ... --output=json`, before which it may say other things.

    Raises:
        Stop: there is none. That is no empty list: a job that is there would be launched again.
    """
    for line in re.finditer(r"^\[", text, re.M):
        try:
            return json.loads(text[line.start():])
        except json.JSONDecodeError:
            continue
    raise Stop(1, f"sky: expected a list in JSON, found {plain(text.strip())[-200:]!r}; update SkyPilot")


def active(record: dict[str, Any]) -> bool:
    """Whether a job has machines, or will have."""
    return bool(record) and record.get("status") not in ENDED


def plain(text: str) -> str:
    """A text without a terminal's colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def run(settings: Settings, commands: Commands) -> int:
    """The exit code of a verb."""
    if settings.tpu:
        count_of(settings.tpu)
    if any("{i}" in word or "{n}" in word for word in settings.words):
        raise Stop(2, "{i} and {n}: expected with launch/tpu_vm.py and cpu_vm.py only, found here; leave them out")
    return VERBS[settings.verb](settings, commands)


def _launched(settings: Settings, commands: Commands) -> tuple[Job, int]:
    """The job and its number; it is launched unless it is there.

    Raises:
        Stop: no plan, no person who agrees, no bucket, no job.
    """
    job = Job(settings, commands)
    found = job.look()
    if found.get("status") == "CANCELLING":
        raise Stop(1, f"job {found['job_id']} is being cancelled; call again when `status` says that it has ended")
    if active(found):
        commands.say(f"job {found['job_id']} is there already ({found['status']})")
        job.controllers()
        return job, found["job_id"]
    if settings.verb == "resume":
        storage.confirm_new(settings, commands, f"managed job {settings.name} that runs")
    else:
        planned.approve(settings, commands)
        storage.ensure_bucket(settings, commands)
    return job, job.launch()


def _up(settings: Settings, commands: Commands) -> int:
    if not settings.words and not commands.dry_run:
        raise Stop(2, "up: expected `-- train --config=...` at the end, found nothing after the flags; add what is to "
                      "run: a managed job makes its machines itself")
    _, number = _launched(settings, commands)
    commands.say(f"launched: job {number}; next: {settings.again('run', shlex.join(settings.words))}")
    return 0


def _run(settings: Settings, commands: Commands) -> int:
    job, number = _launched(settings, commands)
    return job.follow(number)


def _logs(settings: Settings, commands: Commands) -> int:
    found = Job(settings, commands, assumed="RUNNING").look()
    if not found:
        raise Stop(1, f"there is no managed job {settings.name}; `sky jobs queue --all` shows those of other names")
    return commands.run(["sky", "jobs", "logs", str(found["job_id"])])


def _status(settings: Settings, commands: Commands) -> int:
    job = Job(settings, commands, assumed="RUNNING")
    found = job.look()
    more = [plain(found[key]) for key in ("infra", "failure_reason") if found.get(key)]
    commands.say(f"job {found['job_id']}: {', '.join([found['status'], *more])}" if found else
                 "job: none that SkyPilot remembers")
    job.controllers()
    storage.tell_newest(settings, commands)
    return 0


def _down(settings: Settings, commands: Commands) -> int:
    job = Job(settings, commands, assumed="RUNNING")
    found = job.look()
    if active(found):
        number = found["job_id"]
        commands.confirm(f"Cancel job {number} ({settings.name}), whose machines are deleted then?", yes=settings.yes)
        answer = commands.ask(["sky", "jobs", "cancel", str(number), "--graceful", "--yes"])
        if answer.code != 0:
            commands.say(f"cancelling failed: {plain(last(answer))}")
        job.assumed = "CANCELLED"
        for _ in range(LOOKS):
            if not active(job.look()):
                break
            commands.wait(settings.poll / 2)
        else:
            raise Stop(1, f"{job.what} ARE STILL THERE AND BILLED; cancel them: sky jobs cancel {number} --yes")
        commands.say(f"cancelled: job {number}; its machines are deleted")
    else:
        commands.say(f"there is no managed job {settings.name} that runs; `sky jobs queue` shows those of other names")
    job.controllers()
    commands.say(f"kept, and billed by what lies in it: {settings.bucket}; all of it goes with: "
                 f"gcloud storage rm --recursive {settings.bucket}")
    return 0


VERBS = {"plan": planned.plan, "up": _up, "run": _run, "logs": _logs, "status": _status, "resume": _run, "down": _down}


if __name__ == "__main__":
    sys.exit(called("launch/skypilot.py", lambda: parse("launch/skypilot.py", sys.argv[1:], unused=UNUSED), run))
