"""The flags of the launchers, read once; everything after `--` is for `lit-tune` on the machines.

    python launch/tpu_vm.py VERB @lit.flags [--more=flags] -- train --config=nomic_embed_vision_v1_5

`@FILE` stands for the flags in a file, one a line, `#` for comments. Only Python's own library is used here.
"""

import argparse
import difflib
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from commands import Stop

VERBS = {
    "plan": "what the run needs on that slice, what it would cost, when it would end; creates nothing",
    "up": "plan, ask, then bucket, machines and program",
    "run": "start what follows `--` on all machines and watch it; started twice it is watched only",
    "logs": "the log of one machine (--worker)",
    "status": "machines, processes, newest checkpoint",
    "resume": "what `run` does, after making again whatever is no longer there",
    "down": "stop the run so that it saves, delete the machines, say what is left",
}
NEEDS = ("name", "project", "zone", "tpu", "bucket")
NEEDS_LESS = {"plan": ("tpu",), "logs": ("name", "project", "zone")}
OF_BOTH = {"--help", "--name", "--restarts", "--slices", "--topology", "--workdir"}  # of launchers and of lit-tune
# What only Google's machines have; the other launchers refuse it.
OF_GOOGLE = ("--project", "--zone", "--tpu", "--slices", "--spot", "--reserved", "--reservation", "--bucket",
             "--queue-for", "--fetch", "--mount", "--nfs", "--image", "--service-account", "--network", "--machines",
             "--machine-type", "--max-hours", "--iap")
# Flags of some launchers only, which name them to `parse`.
OF_SOME: dict[str, dict[str, Any]] = {
    "--topology": {"default": "", "metavar": "GPUS", "help": "all GPUs of the run, such as h200x8: what is planned"},
    "--workdir": {"default": "", "dest": "folder", "metavar": "DIR", "help": "the run's folder, if no words name it"},
    "--processes": {"type": int, "default": 1, "metavar": "N", "help": "how many, on this machine"},
    "--sbatch": {"action": "append", "default": [], "metavar": "FLAGS",
                 "help": "flags for sbatch, such as '--nodes=2 --partition=gpu'; may be repeated"},
}
# Flags of lit-tune that are read here too. It takes `--flag value` as well as `--flag=value`.
READ_HERE = r"--(workdir|out|restarts|preempted[-_]exit[-_]code|config(\..+)?)"
ELSEWHERE = "if there should be, look at --name, --project and --zone"
PREEMPTED = 75  # exit code of a run that was told to stop and has saved: start it again


@dataclass(frozen=True)
class Settings:
    """What one call of a launcher was told.

    Attributes:
        program: how the launcher is called, for messages.
        typed: its flags as they were typed, without the verb.
        words: what `lit-tune` is to be called with on the machines; "train" is added where only flags are given.
        Others: as their flags' help says.
    """

    program: str
    typed: tuple[str, ...]
    verb: str
    name: str
    project: str
    zone: str
    tpu: str
    slices: int
    tier: str
    reservation: str
    bucket: str
    restarts: int
    queue_for: str
    mount: str
    nfs: tuple[str, str] | None
    fetch: tuple[tuple[str, str], ...]
    image: str
    service_account: str
    network: str
    iap: bool
    machines: int
    machine_type: str
    max_hours: int
    worker: int
    poll: float
    yes: bool
    force: bool
    dry_run: bool
    words: tuple[str, ...]
    topology: str = ""
    folder: str = ""
    sbatch: tuple[str, ...] = ()
    processes: int = 1

    @property
    def region(self) -> str:
        """Of the zone: us-east5 of us-east5-b."""
        return self.zone.rpartition("-")[0]

    @property
    def workdir(self) -> str:
        """Where the run's checkpoints are: what the words or the flags say, else BUCKET/runs/NAME, else ""."""
        return self.flag("workdir") or self.folder or (f"{self.bucket}/runs/{self.name}" if self.bucket else "")

    def flag(self, name: str) -> str:
        """The value of --NAME=VALUE among the words; "" if it is not there."""
        found = [word.partition("=")[2] for word in self.words if word.startswith(f"--{name}=")]
        return found[-1] if found else ""

    def train_words(self, preempted: int = PREEMPTED) -> list[str]:
        """The words, completed for a training run: where it saves, how often it starts itself again, how it ends."""
        words = list(self.words)
        if words[0] == "train":
            words += [] if self.flag("workdir") else [f"--workdir={self.workdir}"]
            words += [f"--preempted_exit_code={preempted}"]
            words += [] if self.flag("restarts") else [f"--restarts={self.restarts}"]
        return words

    def again(self, verb: str, words: str) -> str:
        """The line to type for another verb, with the same flags."""
        return f"{shlex.join(['python', self.program, verb, *self.typed])} -- {words}"


def parse(program: str, argv: Sequence[str], *, needs: Sequence[str] = NEEDS, unused: Sequence[str] = (),
          more: Sequence[str] = (), shared: str = "", hint: str = "") -> Settings:
    """The settings of a command line.

    Args:
        program: how the launcher is called, for messages.
        argv: the words behind that.
        needs: the settings without which its machines cannot be named.
        unused: flags that mean nothing to it, and are refused.
        more: of OF_SOME those that it takes.
        shared: what the run's folder has to be, where it is none in a bucket.
        hint: where else an unknown flag may belong.

    Raises:
        Stop: exit code 2, one line.
        SystemExit: help was asked for.
    """
    ours, words = _split(argv)
    if not ours or ours[0] not in (*VERBS, "-h", "--help"):
        raise Stop(2, f"VERB: expected {', '.join(VERBS)} as the first word, found {ours[0] if ours else 'nothing'!r}; "
                      "`--help` tells what they do")
    flags = list(_expanded(ours))
    found = {word.partition("=")[0].replace("_", "-") for word in flags}
    for flag in unused:
        if flag in found:
            raise Stop(2, f"{flag}: expected with another launcher, found with {program}, to which it means nothing; "
                          "leave it out")
    given = _read(_parser(program, unused, more), flags, words, hint)
    given["nfs"] = _disk(given["nfs"]) if given["nfs"] else None
    given["fetch"] = tuple(_pair(text) for text in given["fetch"])
    given["sbatch"] = tuple(word for text in given.get("sbatch", ()) for word in _cut(text))
    settings = Settings(program=program, typed=tuple(ours[1:]), words=tuple(_joined(words)), **given)
    _check(settings, needs)
    if shared and ("://" in settings.workdir or (settings.verb in ("run", "resume") and not settings.workdir)):
        raise Stop(2, f"--workdir: expected {shared}, found {settings.workdir or 'none'}; name one")
    if settings.words[:1] == ("train",):
        _check_training(settings, bucket=not shared)
    return settings


def save_seconds() -> float:
    """How long `down` waits for a run to save, where machines are not deleted: LIT_TUNE_SAVE_SECONDS, else 60.

    Raises:
        Stop: that is no number.
    """
    given = os.environ.get("LIT_TUNE_SAVE_SECONDS", "60")
    if not re.fullmatch(r"\d+(\.\d+)?", given):
        raise Stop(2, f"LIT_TUNE_SAVE_SECONDS: expected a number of seconds, found {given!r}; change it")
    return float(given)


def _read(parser: "_Parser", flags: Sequence[str], words: Sequence[str], hint: str) -> dict[str, Any]:
    """The values of the flags, and the verb; none of the flags stands behind `--`."""
    there = parser.flags
    for flag in (word.partition("=")[0] for word in words):
        if flag.replace("_", "-") in there - OF_BOTH:  # a `--dry-run` there would not be one
            raise Stop(2, f"{flag}: expected before `--`, found behind it, where the words for lit-tune are; move it")
    known, unknown = parser.parse_known_args(flags)
    if unknown:
        near = difflib.get_close_matches(unknown[0].partition("=")[0], there, n=1, cutoff=0.8 if hint else 0.7)
        do = f"did you mean {near[0]}?" if near else (
            hint or "`--help` shows them; words for lit-tune stand behind `--`")
        raise Stop(2, f"{unknown[0]}: expected a flag, found an unknown one; {do}")
    return vars(known)


def _joined(words: Sequence[str]) -> Iterator[str]:
    """The words for lit-tune: with the subcommand, and each flag that is read here in one word with its value."""
    rest = list(words)
    if words and words[0].startswith("-"):
        yield "train"
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        if not re.fullmatch(READ_HERE, flag):
            yield word
            continue
        flag = flag if flag.startswith("--config") else f"--{flag[2:].replace('-', '_')}"
        if not equals and (not rest or rest[0].startswith("--")):
            yield flag  # without a value, which lit-tune will say
        else:
            yield f"{flag}={value if equals else rest.pop(0)}"


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """What stands before the first `--`, and after it."""
    place = list(argv).index("--") if "--" in argv else len(argv)
    return list(argv[:place]), list(argv[place + 1:])


def _expanded(argv: Sequence[str]) -> Iterator[str]:
    """The words, with the lines of every @FILE in its place."""
    for word in argv:
        if not word.startswith("@"):
            yield word
            continue
        file = Path(word[1:]).expanduser()
        if not file.is_file():
            raise Stop(2, f"{word}: expected a file with one flag a line, found none at {file}; check the path")
        lines = [line.strip() for line in file.read_text().splitlines()]
        yield from (line for line in lines if line and not line.startswith("#"))


def _pair(text: str) -> tuple[str, str]:
    """(FROM, TO) of --fetch."""
    source, equals, target = text.rpartition("=")
    if not equals or not source.startswith("gs://") or not target:
        raise Stop(2, f"--fetch={text}: expected gs://BUCKET/FOLDER=FOLDER, found {text!r}; write both")
    return source, target


def _disk(text: str) -> tuple[str, str]:
    """(SERVER:/PATH, FOLDER) of --nfs."""
    source, equals, target = text.rpartition("=")
    if not equals or not re.fullmatch(r"[\w.\-]+:/\S*", source) or not target:
        raise Stop(2, f"--nfs={text}: expected SERVER:/PATH=FOLDER, found {text!r}; write both")
    return source, target


def _cut(text: str) -> list[str]:
    """The words of --sbatch, cut as a shell does."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise Stop(2, f"--sbatch={text}: expected flags for sbatch, found {str(error).lower()}; close it") from error


def _check(settings: Settings, needs: Sequence[str]) -> None:
    """Refuse what cannot be meant, before anything is asked or created."""
    for name in NEEDS_LESS.get(settings.verb, needs):
        if name in needs and not getattr(settings, name):
            raise Stop(2, f"--{name}: expected a value for `{settings.verb}`, found none; add --{name}=...")
    rules = (
        ("name", r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", "lower-case letters, digits and `-`, at most 40"),
        ("project", r"[a-z][-a-z0-9:.]{4,}[a-z0-9]", "a project id"),
        ("zone", r"[a-z]+-[a-z]+[0-9]+-[a-z0-9]+", "a zone such as us-east5-b"),
        ("bucket", r"gs://[a-z0-9][-_.a-z0-9]{1,220}[a-z0-9]", "gs://BUCKET, nothing behind it"),
    )
    for name, rule, expected in rules:
        value = getattr(settings, name)
        if value and not re.fullmatch(rule, value):
            raise Stop(2, f"--{name}: expected {expected}, found {value!r}; change it")
    for name, least in (("slices", 1), ("restarts", 0), ("worker", 0), ("poll", 0), ("processes", 1)):
        if not getattr(settings, name) >= least:
            raise Stop(2, f"--{name}: expected at least {least}, found {getattr(settings, name)}; change it")
    if settings.verb in ("run", "resume") and not settings.words:
        raise Stop(2, f"{settings.verb}: expected `-- train --config=...` at the end, found nothing after the flags; "
                      "add what is to run")
    if settings.folder and settings.flag("workdir") not in ("", settings.folder):
        raise Stop(2, f"--workdir: expected one folder, found {settings.folder!r} before `--` and "
                      f"{settings.flag('workdir')!r} behind it; leave one out")


def _check_training(settings: Settings, *, bucket: bool) -> None:
    """Refuse what would let a run's work go with its machines, or hide from the launcher how it ended."""
    if bucket and settings.flag("workdir") and not settings.workdir.startswith("gs://"):
        raise Stop(2, f"--workdir: expected gs://BUCKET/FOLDER, found {settings.workdir!r}: the machines' own disks go "
                      "with them; leave it out, or name one in a bucket")
    code = settings.flag("preempted_exit_code")
    if code not in ("", str(PREEMPTED)):
        raise Stop(2, f"--preempted_exit_code: expected {PREEMPTED}, by which a launcher knows a run that is to go on, "
                      f"found {code}; leave it out")


class _Parser(argparse.ArgumentParser):
    """One line where argparse prints all flags.

    Attributes:
        flags: all that there are, the hidden ones too.
    """

    flags: frozenset[str] = frozenset()

    def error(self, message: str) -> NoReturn:
        """End the launcher."""
        raise Stop(2, f"{message}; `--help` shows the flags")


def _parser(program: str, unused: Sequence[str] = (), more: Sequence[str] = ()) -> _Parser:
    """The flags; those that are not used are left out of the help."""
    verbs = "\n".join(f"  {verb:7} {meaning}" for verb, meaning in VERBS.items())
    parser = _Parser(usage=f"python {program} VERB [FLAGS] [-- WORDS]", description=f"verbs:\n{verbs}",
                     formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
                     epilog="@FILE: flags from a file. After `--`: the words for lit-tune.")
    parser.add_argument("verb", choices=VERBS)
    found = {"--help"}

    def add(*names: str, to: Any = parser, **how: Any) -> None:
        found.update(names)
        to.add_argument(*names, **how | ({"help": argparse.SUPPRESS} if names[0] in unused else {}))

    add("--name", default="", help="of the machines, the run's folder and everything else that is made")
    add("--project", default=os.environ.get("CLOUDSDK_CORE_PROJECT", ""), help="Google Cloud project id")
    add("--zone", default="", help="such as us-east5-b; the bucket belongs in its region")
    add("--tpu", default="", help="v4-16, v5litepod-256, v5p-128, v6e-256; on GKE tpu7x-16 too")
    add("--slices", type=int, default=1, metavar="N", help="how many of them, joined by the data centre's network")
    tier = parser.add_mutually_exclusive_group()
    add("--spot", to=tier, dest="tier", action="store_const", const="spot", help="cheaper, may be taken away")
    add("--reserved", to=tier, dest="tier", action="store_const", const="reserved", help="from a reservation")
    parser.set_defaults(tier="on-demand")
    add("--reservation", default="", metavar="NAME", help="which one, with --reserved on GKE")
    add("--bucket", default="", metavar="gs://B", help="for code, data and checkpoints; made in the region if absent")
    add("--restarts", type=int, default=10, metavar="N", help="tries without a new checkpoint before giving up")
    add("--queue-for", "--queue_for", default="24h", metavar="TIME", help="how long to wait in the queue")
    add("--fetch", action="append", default=[], metavar="gs://B/FOLDER=FOLDER",
        help="copy this to every machine before the run; may be repeated")
    add("--mount", default="", metavar="FOLDER", help="the bucket as a folder on every machine, by gcsfuse")
    add("--nfs", default="", metavar="SERVER:/PATH=FOLDER", help="a network disk of yours as a folder on every machine")
    add("--image", default="", metavar="IMAGE", help="GKE: an image that is there already, instead of building one")
    add("--service-account", "--service_account", default="", metavar="EMAIL", help="that the machines run as")
    add("--network", default="", metavar="NAME", help="VPC network, instead of `default`")
    add("--machines", type=int, default=4, metavar="N", help="CPU machines")
    add("--machine-type", "--machine_type", default="n2-standard-32", metavar="NAME", help="of CPU machines")
    add("--max-hours", "--max_hours", type=int, default=24, metavar="N", help="CPU machines delete themselves then")
    add("--iap", action="store_true", help="machines without public addresses, reached through IAP")
    add("--worker", type=int, default=0, metavar="I", help="logs: of which machine")
    add("--poll", type=float, default=60.0, metavar="S", help="seconds between two looks")
    add("--yes", action="store_true", help="do not ask")
    add("--force", action="store_true", help="go on where the plan does not fit or the bucket is far away")
    add("--dry-run", "--dry_run", action="store_true", help="print the commands, one a line; run none")
    for flag in more:
        add(flag, **OF_SOME[flag])
    parser.flags = frozenset(found)
    return parser
