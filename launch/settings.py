"""The flags of the launchers, read once; everything after `--` is for `lit-tune` on the machines.

    python launch/tpu_vm.py VERB @lit.flags [--more=flags] -- train --config=nomic_embed_vision_v1_5

`@FILE` stands for the flags in a file, one a line, `#` for comments. Only Python's own library is used here.
"""

import argparse
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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
NEEDED = {"plan": ("tpu",), "logs": ("name", "project", "zone")}
NEEDED_ELSE = ("name", "project", "zone", "tpu", "bucket")
CPU = "launch/cpu_vm.py"  # which needs no --tpu
PREEMPTED = 75  # exit code of a run that was told to stop and has saved: start it again


@dataclass(frozen=True)
class Settings:
    """What one call of a launcher was told.

    Attributes:
        program: how the launcher is called, for messages.
        words: what `lit-tune` is to be called with on the machines; "train" is added where only flags are given.
        Others: as their flags' help says.
    """

    program: str
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

    @property
    def region(self) -> str:
        """Of the zone: us-east5 of us-east5-b."""
        return self.zone.rpartition("-")[0]

    @property
    def workdir(self) -> str:
        """Where the run's checkpoints are: what the words say, else BUCKET/runs/NAME."""
        return self.flag("workdir") or f"{self.bucket}/runs/{self.name}"

    def flag(self, name: str) -> str:
        """The value of --NAME=VALUE among the words; "" if it is not there."""
        found = [word.partition("=")[2] for word in self.words if word.startswith(f"--{name}=")]
        return found[-1] if found else ""

    def train_words(self) -> list[str]:
        """The words, completed for a training run: where it saves, how often it starts itself again."""
        words = list(self.words)
        if words[0] == "train":
            words += [] if self.flag("workdir") else [f"--workdir={self.workdir}"]
            words += [f"--preempted_exit_code={PREEMPTED}", f"--restarts={self.restarts}"]
        return words

    def again(self, verb: str) -> list[str]:
        """The words of another verb for the same machines, for messages."""
        words = ["python", self.program, verb]
        words += [f"--{key}={getattr(self, key)}" for key in ("name", "project", "zone", "tpu") if getattr(self, key)]
        words += [f"--slices={self.slices}"] if self.slices > 1 else []
        words += [f"--machines={self.machines}"] if self.program == CPU else []
        return words + ([f"--bucket={self.bucket}"] if self.bucket else [])


def parse(program: str, argv: Sequence[str]) -> Settings:
    """The settings of a command line.

    Raises:
        Stop: exit code 2, one line.
        SystemExit: help was asked for, or argparse refused a flag (exit code 2).
    """
    ours, words = _split(argv)
    given = vars(_parser(program).parse_args(list(_expanded(ours))))
    if words and words[0].startswith("-"):
        words = ["train", *words]
    fetch = tuple(_pair(text) for text in given.pop("fetch"))
    settings = Settings(program=program, words=tuple(words), fetch=fetch, **given)
    _check(settings)
    return settings


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


def _check(settings: Settings) -> None:
    """Refuse what cannot be meant, before anything is asked or created."""
    for name in NEEDED.get(settings.verb, NEEDED_ELSE):
        if not getattr(settings, name):
            if name == "tpu" and settings.program == CPU:
                continue
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
    if settings.verb in ("run", "resume") and not settings.words:
        raise Stop(2, f"{settings.verb}: expected `-- train --config=...` at the end, found nothing after the flags; "
                      "add what is to run")


def _parser(program: str) -> argparse.ArgumentParser:
    """The flags."""
    verbs = "\n".join(f"  {verb:7} {meaning}" for verb, meaning in VERBS.items())
    parser = argparse.ArgumentParser(prog=f"python {program}", formatter_class=argparse.RawDescriptionHelpFormatter,
                                     description=f"verbs:\n{verbs}", allow_abbrev=False,
                                     epilog="@FILE: flags from a file. After `--`: the words for lit-tune.")
    parser.add_argument("verb", choices=VERBS)
    add = parser.add_argument
    add("--name", default="", help="of the machines, the run's folder and everything else that is made")
    add("--project", default=os.environ.get("CLOUDSDK_CORE_PROJECT", ""), help="Google Cloud project id")
    add("--zone", default="", help="such as us-east5-b; the bucket belongs in its region")
    add("--tpu", default="", help="v4-16, v5litepod-256, v5p-128, v6e-256; on GKE tpu7x-16 too")
    add("--slices", type=int, default=1, metavar="N", help="how many of them, joined by the data centre's network")
    tier = parser.add_mutually_exclusive_group()
    tier.add_argument("--spot", dest="tier", action="store_const", const="spot", help="cheaper, may be taken away")
    tier.add_argument("--reserved", dest="tier", action="store_const", const="reserved", help="from a reservation")
    parser.set_defaults(tier="on-demand")
    add("--reservation", default="", metavar="NAME", help="which one, with --reserved on GKE")
    add("--bucket", default="", metavar="gs://B", help="for code, data and checkpoints; made in the region if absent")
    add("--restarts", type=int, default=10, metavar="N", help="tries without a new checkpoint before giving up")
    add("--queue-for", "--queue_for", default="24h", metavar="TIME", help="how long to wait in the queue")
    add("--fetch", action="append", default=[], metavar="gs://B/FOLDER=FOLDER",
        help="copy this to every machine before the run; may be repeated")
    add("--mount", default="", metavar="FOLDER", help="the bucket as a folder on every machine, by gcsfuse")
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
    return parser
