"""Commands of other programs: run, asked or only printed; and what is left behind when a launcher ends."""

import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NamedTuple, NoReturn

TRIES = 5  # of a question that the network lost, or of a request that Google's side lost


class Stop(Exception):
    """Ends a launcher with one line and an exit code: 2 command line or refused, 1 anything that failed."""

    def __init__(self, code: int, line: str) -> None:
        """The line is printed by `called`."""
        super().__init__(line)
        self.code = code


class Answer(NamedTuple):
    """What a command said.

    Attributes:
        code: exit code, 0 for good.
        out: standard output.
        error: standard error.
    """

    code: int
    out: str
    error: str


class Commands:
    """Runs commands as lists of words, never through a shell.

    Attributes:
        dry_run: print instead of running.
        left: {what is there and costs money: the command that deletes it}; printed whenever the launcher ends.
    """

    def __init__(self) -> None:
        """Nothing is run yet."""
        self.dry_run = False
        self.left: dict[str, str] = {}

    def run(self, words: Sequence[str]) -> int:
        """The exit code; the command's output goes where ours goes."""
        if self._printed(words):
            return 0
        return subprocess.call(list(words)) if self._there(words) else 127

    def stream(self, words: Sequence[str]) -> Answer:
        """What the command says, shown while it says it; its errors are in `out`."""
        if self._printed(words):
            return Answer(0, "", "")
        self._there(words)
        lines = []
        with subprocess.Popen(list(words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                              text=True, errors="replace") as process:
            for line in process.stdout or ():
                print(line, end="", flush=True)
                lines.append(line)
        return Answer(process.returncode, "".join(lines), "")

    def must(self, words: Sequence[str], why: str) -> None:
        """Run; a failure ends the launcher with the command and what it was for."""
        code = self.run(words)
        if code != 0:
            raise Stop(1, f"{why}: the command failed with exit code {code}: {shlex.join(words)}")

    def ask(self, words: Sequence[str], assumed: str = "") -> Answer:
        """What the command says.

        Args:
            words: the command.
            assumed: its output in a dry run.
        """
        if self._printed(words):
            return Answer(0, assumed, "")
        self._there(words)
        done = subprocess.run(list(words), capture_output=True, text=True, stdin=subprocess.DEVNULL)
        return Answer(done.returncode, done.stdout, done.stderr)

    def insist(self, words: Sequence[str], what: str, most: float, *, assumed: str = "",
               absent: bool = False) -> Answer:
        """What the command says, asked again where it fails: the network may have lost the question.

        Args:
            words: the command, which changes nothing.
            what: that it asks about.
            most: seconds between two tries.
            assumed: its output in a dry run.
            absent: whether "there is none" is an answer too; its code is not 0.

        Raises:
            Stop: nobody may ask that, or it failed TRIES times.
        """
        for attempt in range(TRIES):
            answer = self.ask(words, assumed)
            if answer.code == 0 or (absent and reason(answer.error) == "absent"):
                return answer
            if reason(answer.error) == "denied":
                raise Stop(1, f"{what}: {words[0]} may not ask: {_line(answer, 'denied')}; look whether --project is "
                              "right and `gcloud auth list` shows the right account; `gcloud auth login` adds one")
            self.say(f"asking about {what} failed: {last(answer)}")
            if attempt + 1 < TRIES:
                self.back_off(attempt, most)
        raise Stop(1, f"{what}: no answer from {words[0]} after {TRIES} tries; nothing was changed; see above")

    def say(self, line: str) -> None:
        """A line for the person; in a dry run it is a comment, so that everything printed can be pasted."""
        print(f"# {line}" if self.dry_run else line, flush=True)

    def wait(self, seconds: float) -> None:
        """Sleep, unless nothing is run."""
        if not self.dry_run:
            time.sleep(seconds)

    def back_off(self, attempt: int, most: float) -> None:
        """Wait before the next try: 10 s, 20 s, 40 s ... up to ten minutes, and to `most`."""
        self.wait(min(600.0, 10.0 * 2**attempt, most))

    def confirm(self, question: str, *, yes: bool) -> None:
        """Returns when the person agrees.

        Raises:
            Stop: they do not, or there is nobody to ask.
        """
        if yes or self.dry_run:
            return
        if not sys.stdin.isatty():
            raise Stop(2, f"{question} Expected a person or --yes, found neither; add --yes")
        try:
            answer = input(f"{question} [y/N] ")
        except EOFError:  # Ctrl-D
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            raise Stop(1, "nothing was done")

    def need(self, programs: Sequence[str]) -> None:
        """Returns if all of these are on the PATH, or nothing is run."""
        for program in () if self.dry_run else programs:
            self._there([program])

    def _printed(self, words: Sequence[str]) -> bool:
        """Whether this is a dry run; the command is printed then."""
        if self.dry_run:
            print(shlex.join(words), flush=True)
        return self.dry_run

    @staticmethod
    def _there(words: Sequence[str]) -> bool:
        """True; a program that is not installed ends the launcher."""
        if shutil.which(words[0]) is None:
            raise Stop(1, f"{words[0]}: expected on the PATH, found nothing; {INSTALL.get(words[0], 'install it')}")
        return True


SLURM = ("sbatch", "squeue", "scontrol", "scancel", "srun", "sinfo")
INSTALL = {
    "gcloud": "install the Google Cloud SDK and run `gcloud auth login`",
    "kubectl": "run `gcloud components install kubectl gke-gcloud-auth-plugin`",
    "xpk": "run `pip install xpk`",
    "docker": "install Docker, or name an image that is there already with --image",
    "lit-tune": "run `pip install -e '.[tpu]'` in the clone and activate that environment",
    "sky": "run `pip install 'skypilot[gcp]'` and `sky check gcp`",
    **dict.fromkeys(SLURM, "log in to the cluster"),
}


# In this order. A number is a code only where it stands alone: names, and numbers of projects, hold digits too.
REASONS = (
    ("exists", r"already exists|ALREADY_EXISTS"),
    ("quota", r"quota"),
    ("stockout", r"no more capacity|stock-?out|enough resources|insufficient capacity|RESOURCE_(POOL_)?EXHAUSTED"),
    ("expired", r"expired|valid[ -]?until"),
    ("denied", r"PERMISSION_DENIED|UNAUTHENTICATED|permission denied|do(es)? not have permission|"
               r"required '[\w.]+' permission|active account|reauthenticat|invalid_grant|\((Forbidden|Unauthorized)\)"),
    ("passing", r"(?-i:\bUNAVAILABLE\b)"),  # Google's own word, whatever the text says besides
    ("absent", r"NOT_FOUND|not found|matched no objects|No in-progress managed jobs|(?<![\w/-])404(?![\w-])"),
    ("passing", r"internal error|unavailable|deadline|try again|timed? ?out|connection|(?<![\w/-])50[0234](?![\w-])"),
)


def reason(text: str) -> str:
    """Why a command failed, by what Google's side writes: the names in REASONS, or other."""
    return next((name for name, mark in REASONS if re.search(mark, text, re.I)), "other")


def _line(answer: Answer, why: str) -> str:
    """The first line of what a failed command said that tells this reason: some explain themselves at length."""
    return next((line.strip() for line in answer.error.splitlines() if reason(line) == why), last(answer))


def last(answer: Answer) -> str:
    """The last line of what a failed command said."""
    return (answer.error.strip() or answer.out.strip() or f"exit code {answer.code}").splitlines()[-1]


def called(program: str, parse: Callable[[], Any], run: Callable[[Any, Commands], int]) -> int:
    """The exit code of a launcher; however it ends, what is left and billed is said, with the command that deletes it.

    Args:
        program: for messages.
        parse: gives the settings.
        run: does what they say.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    commands = Commands()
    try:
        settings = parse()
        commands.dry_run = settings.dry_run
        return run(settings, commands)
    except Stop as stop:
        print(f"{program}: {stop}", file=sys.stderr, flush=True)
        return stop.code
    except KeyboardInterrupt:
        print(f"{program}: interrupted; the machines were not told to stop", file=sys.stderr, flush=True)
        return 130
    finally:
        for what, delete in commands.left.items():
            print(f"left, and billed while it is there: {what}\n  delete it: {delete}", file=sys.stderr, flush=True)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM ends a launcher as Ctrl-C does."""
    raise KeyboardInterrupt
