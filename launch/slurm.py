r"""A GPU cluster with Slurm: the same verbs as the other launchers, from the login node. slurm.sh is the job itself.

    python launch/slurm.py up --name=lit --topology=h200x16 -- --config=lit_b16_1gpu
    python launch/slurm.py run --name=lit --sbatch='--nodes=2 --partition=gpu' \
        -- --config=lit_b16_1gpu --workdir=/disk/lit

`run` submits the job and returns; Slurm queues, starts and requeues it by itself. The lines `#SBATCH` of slurm.sh are
the defaults, variables such as SBATCH_ACCOUNT win over them, and --sbatch over both. LIT_TUNE_SAVE_SECONDS (60): how
long `down` gives the run to save.
"""

import re
import shlex
import sys
import time
from pathlib import Path

import planned
import storage
from commands import SLURM, Commands, Stop, called, last
from settings import OF_GOOGLE, Settings, parse, save_seconds

JOB = Path(__file__).resolve().with_name("slurm.sh")
UNUSED = (*OF_GOOGLE, "--worker")
MORE = ("--topology", "--workdir", "--sbatch")
SHARED = "a folder that all nodes share"
HINT = "flags for sbatch stand in --sbatch='--nodes=2 ...'"
WAITS, ENDS = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED"), ("COMPLETING", "CANCELLED", "COMPLETED", "FAILED")


class Jobs:
    """The jobs of this name and user: one, unless somebody submitted others by hand."""

    def __init__(self, settings: Settings, commands: Commands, *, assumed: str = "") -> None:
        """Nothing is asked yet.

        Args:
            settings: the name.
            commands: what runs Slurm's programs.
            assumed: what squeue says in a dry run.
        """
        self.settings, self.commands, self.assumed = settings, commands, assumed
        self.what = f"Slurm job {settings.name}"

    def look(self) -> dict[str, str]:
        """{number: state} of those that are queued or running; they go on the list of what is left.

        Raises:
            Stop: squeue does not answer, several times.
        """
        words = ["squeue", "--me", "--noheader", f"--name={self.settings.name}", "--format=%i %T"]
        answer = self.commands.insist(words, self.what, self.settings.poll, assumed=self.assumed)
        found = dict(line.split(None, 1) for line in answer.out.splitlines() if len(line.split()) > 1)
        self.commands.left.pop(self.what, None)
        if found:
            self.owe()
        return found

    def owe(self) -> None:
        """Note that it holds nodes, or will."""
        if not self.commands.dry_run:
            self.commands.left[self.what] = f"python {self.settings.program} down --name={self.settings.name}"

    def submit(self) -> None:
        """Put the job into the queue.

        Raises:
            Stop: sbatch refused.
        """
        chosen = self.settings
        words = [*chosen.words[1:], *([] if chosen.flag("workdir") else [f"--workdir={chosen.workdir}"])]
        self.owe()  # before the call: one that is interrupted may have arrived
        answer = self.commands.ask(["sbatch", "--parsable", f"--job-name={chosen.name}", *chosen.sbatch, str(JOB),
                                    "job", str(chosen.restarts), *words], assumed="JOB")
        if answer.code != 0:
            found = self.look()
            raise Stop(1, f"sbatch: expected a number, found exit code {answer.code}: {last(answer)}; "
                          f"{f'job {list(found)[0]} is there all the same' if found else 'nothing was submitted'}")
        self.commands.say(f"submitted: job {answer.out.strip().partition(';')[0]}")

    def gone(self, seconds: float, states: tuple[str, ...]) -> dict[str, str]:
        """{number: state} of those that are in none of these states after some seconds, or once there are none."""
        end = time.monotonic() + seconds
        while True:
            found = {number: state for number, state in self.look().items() if state not in states}
            if not found or self.commands.dry_run or time.monotonic() >= end:
                return found
            self.commands.wait(min(2.0, self.settings.poll))


def run(settings: Settings, commands: Commands) -> int:
    """The exit code of a verb."""
    named = next((word for word in settings.sbatch if re.match(r"--job-name|-J", word)), "")
    if named:
        raise Stop(2, f"--sbatch={named}: expected the job's name in --name, by which the verbs find it, found one "
                      "here; leave it out")
    if settings.words[:1] not in ((), ("train",)):
        raise Stop(2, f"-- {settings.words[0]}: expected the words of `lit-tune train`, which is what the job runs, "
                      "found another subcommand; call that one by srun")
    if settings.verb == "plan" and not settings.topology:
        raise Stop(2, "--topology: expected the GPUs of all nodes together, such as h200x8, found none; add it")
    return VERBS[settings.verb](settings, commands)


def _up(settings: Settings, commands: Commands) -> int:
    commands.need((*SLURM, "lit-tune"))
    found = Jobs(settings, commands).look()
    if found:  # it was agreed to before
        commands.say(_there(settings, found))
        return 0
    planned.insist(settings, commands)
    commands.must(["sinfo", "--summarize"], "the cluster does not answer")
    commands.say(f"ready; next: {settings.again('run', shlex.join(settings.words) or '--config=... --workdir=...')}")
    return 0


def _run(settings: Settings, commands: Commands) -> int:
    jobs = Jobs(settings, commands)
    found = jobs.look()
    if found:
        commands.say(_there(settings, found))
    else:
        jobs.submit()
    return 0


def _there(settings: Settings, found: dict[str, str]) -> str:
    """What to say of jobs that are there."""
    return (f"job {', '.join(f'{number} ({state})' for number, state in found.items())} is there already; "
            f"`logs` shows what it prints, `down` takes {settings.name} off the queue")


def _logs(settings: Settings, commands: Commands) -> int:
    found = Jobs(settings, commands, assumed="JOB RUNNING").look()
    if not found:
        raise Stop(1, f"no job {settings.name} is queued or running; its last log is {settings.name}-JOB.log in the "
                      "folder it was sent from")
    number = next(iter(found))
    told = commands.ask(["scontrol", "show", "job", number], assumed=f"StdOut={settings.name}-{number}.log")
    file = re.search(r"^\s*StdOut=(.+)$", told.out, re.M)
    if file is None:
        raise Stop(1, f"job {number}: expected its log's path from scontrol, found: {last(told)}")
    return commands.run(["tail", "-n", "200", "-F", file[1].strip()])


def _status(settings: Settings, commands: Commands) -> int:
    found = Jobs(settings, commands, assumed="JOB RUNNING").look()
    for number, state in found.items():
        commands.say(f"job {number}: {state}")
    if not found:
        commands.say("job: none is queued or running")
    if settings.workdir:
        storage.tell_newest(settings, commands)
    return 0


def _down(settings: Settings, commands: Commands) -> int:
    seconds = save_seconds()
    jobs = Jobs(settings, commands, assumed="JOB RUNNING")
    found = jobs.look()
    if not found:
        commands.say(f"there is no job {settings.name}; `squeue --me` shows those of other names")
        return 0
    running = [number for number, state in found.items() if state not in (*WAITS, *ENDS)]
    if running:  # to the tasks first: a cancelled job's grace is the cluster's own and may be short
        commands.ask(["scancel", "--signal=TERM", *running])
        commands.say(f"told the run to save; at most {seconds:g} s, then the job is taken off")
        jobs.gone(seconds, (*WAITS, *ENDS))  # one that has saved puts itself into the queue again
    code = commands.ask(["scancel", *found]).code
    jobs.assumed = ""
    left = jobs.gone(10.0 if code == 0 else 0.0, ENDS)
    if left:
        raise Stop(1, f"job {', '.join(left)} IS STILL THERE (scancel ended with {code}); `down` again, or scancel "
                      f"{' '.join(left)}")
    commands.left.pop(jobs.what, None)  # what is completing holds its nodes for seconds
    commands.say(f"job {', '.join(found)} is off the queue")
    return 0


VERBS = {"plan": planned.plan, "up": _up, "run": _run, "logs": _logs, "status": _status, "resume": _run, "down": _down}


if __name__ == "__main__":
    sys.exit(called("launch/slurm.py", lambda: parse("launch/slurm.py", sys.argv[1:], needs=("name",), unused=UNUSED,
                                                     more=MORE, shared=SHARED, hint=HINT), run))
