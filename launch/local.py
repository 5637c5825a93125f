"""N processes of one run on this machine, with the verbs of the other launchers. local.sh starts and ends them.

    python launch/local.py run --processes=2 --workdir=runs/two -- --config=quickstart
    python launch/local.py down --workdir=runs/two

`run` stays until the run ends. LIT_TUNE_SAVE_SECONDS (60): how long `down` waits for the run to save.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import planned
import storage
from commands import Commands, Stop, called
from settings import OF_GOOGLE, Settings, parse, save_seconds

LOCAL = Path(__file__).resolve().with_name("local.sh")
UNUSED = (*OF_GOOGLE, "--name", "--restarts")
MORE = ("--processes", "--topology", "--workdir")
SHARED = "a folder of this machine, where the logs go too"
HINT = "--processes=N says how many; words for lit-tune stand behind `--`"
SUPERVISOR = "local.sh"


def living(workdir: str) -> dict[str, int]:
    """{"local.sh", "0", "1" ...: process} of those that local.sh noted in a run's folder and that are still there."""
    file = Path(workdir) / "logs" / "processes"
    lines = [line.split(maxsplit=2) for line in (file.read_text().splitlines() if file.exists() else [])]
    whole = [words for words in lines if len(words) == 3 and words[1].isdigit()]  # it may be being written
    return {name: int(process) for name, process, began in whole if _began(int(process)) == began}


def _began(process: int) -> str:
    """When a process began, as local.sh writes it, by which another one of the same number is told; "" if it ended."""
    stat = Path(f"/proc/{process}/stat")
    if Path("/proc/self/stat").exists():
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            return ""
        return "" if fields[0] == "Z" else fields[19]
    return subprocess.run(["ps", "-o", "lstart=", "-p", str(process)], capture_output=True, text=True).stdout.strip()


def run(settings: Settings, commands: Commands) -> int:
    """The exit code of a verb."""
    if settings.words[:1] not in ((), ("train",)):
        raise Stop(2, f"-- {settings.words[0]}: expected the words of `lit-tune train`, found another subcommand; call "
                      "`lit-tune` itself")
    if settings.verb == "plan" and not settings.topology:
        raise Stop(2, "--topology: expected the GPUs of this machine, such as h100x2, found none; add it; a run on the "
                      "CPU cannot be planned")
    if settings.verb != "plan" and not settings.workdir:
        raise Stop(2, f"--workdir: expected {SHARED}, found none; add --workdir=DIR")
    return VERBS[settings.verb](settings, commands)


def _words(settings: Settings) -> list[str]:
    """The words that local.sh is called with."""
    more = [] if settings.flag("workdir") else [f"--workdir={settings.workdir}"]
    return ["bash", str(LOCAL), str(settings.processes), *settings.words[1:], *more]


def _up(settings: Settings, commands: Commands) -> int:
    if found := living(settings.workdir):
        commands.say(_there(settings, found))
        return 0
    if settings.topology:
        planned.insist(settings, commands)
    else:
        commands.say("plan: none without the GPUs of this machine, such as --topology=h100x2")
    folder = Path(settings.workdir).absolute()
    above = next(one for one in (folder, *folder.parents) if one.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise Stop(2, f"--workdir: expected a folder that can be written, found {above}, which cannot; name another")
    commands.need(["lit-tune"])
    commands.say("what would be started:")
    if code := subprocess.call([*_words(settings), "--dry-run"]):
        return code  # said why
    configs = [word for word in settings.words if word.startswith("--config")]
    if commands.run(["lit-tune", "doctor", *configs]) and not settings.force:
        raise Stop(2, "`lit-tune doctor` found what stands in the way, see above; put it right, or add --force")
    commands.say(f"ready; next: {settings.again('run', shlex.join(settings.words) or '--config=...')}")
    return 0


def _run(settings: Settings, commands: Commands) -> int:
    if found := living(settings.workdir):
        commands.say(_there(settings, found))
        return 0
    if commands.dry_run:
        return subprocess.call([*_words(settings), "--dry-run"])
    sys.stdout.flush()
    os.execvp("bash", _words(settings))  # signals and the exit code are local.sh's from here on


def _there(settings: Settings, found: dict[str, int]) -> str:
    """What to say of processes that are there."""
    return (f"{settings.workdir} runs already (process {', '.join(map(str, found.values()))}); `logs` shows what it "
            "prints, `down` ends it")


def _logs(settings: Settings, commands: Commands) -> int:
    file = Path(settings.workdir) / "logs" / f"process-{settings.worker}.log"
    if not file.exists() and not commands.dry_run:
        raise Stop(1, f"{file}: expected a log, found none; `run` makes it; --worker=I names another process")
    return commands.run(["tail", "-n", "200", "-F", str(file)])


def _status(settings: Settings, commands: Commands) -> int:
    found = living(settings.workdir)
    for name, process in found.items():
        commands.say(f"{name if name == SUPERVISOR else f'process {name}'}: running as {process}")
    if not found:
        commands.say("processes: none")
    storage.tell_newest(settings, commands)
    if (Path(settings.workdir) / "final.json").exists():
        commands.say(f"finished: {settings.workdir}/final.json")
    return 0


def _down(settings: Settings, commands: Commands) -> int:
    seconds = save_seconds()
    found = living(settings.workdir)
    if not found:
        commands.say(f"nothing runs in {settings.workdir}")
        return 0
    told = [found[SUPERVISOR]] if SUPERVISOR in found else list(found.values())  # it tells the others, once
    if commands.dry_run:
        return commands.run(["kill", "-TERM", *map(str, told)])
    for process in told:
        os.kill(process, signal.SIGTERM)
    commands.say(f"told the run to save and end; waiting, at most {seconds:g} s")
    end = time.monotonic() + seconds
    while left := living(settings.workdir):
        if time.monotonic() >= end:
            numbers = " ".join(map(str, left.values()))
            raise Stop(1, f"process {numbers} IS STILL THERE after {seconds:g} s; `down` again ends it at once, "
                          f"without a save; kill -9 {numbers} ends one that hangs")
        commands.wait(min(0.2, settings.poll))
    commands.say("ended")
    storage.tell_newest(settings, commands)
    return 0


VERBS = {"plan": planned.plan, "up": _up, "run": _run, "logs": _logs, "status": _status, "resume": _run, "down": _down}


if __name__ == "__main__":
    sys.exit(called("launch/local.py", lambda: parse("launch/local.py", sys.argv[1:], needs=(), unused=UNUSED,
                                                     more=MORE, shared=SHARED, hint=HINT), run))
