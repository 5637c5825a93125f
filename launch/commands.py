"""Commands of other programs: run, asked or only printed; and what is left behind when a launcher ends."""

import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NamedTuple, NoReturn


class Stop(Exception):
    """Ends a launcher with one line and an exit code: 2 command line or refused, 1 anything that failed."""

    def __init__(self, code: int, line: str) -> None:
        """The line is printed by `ending`."""
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
    """Runs commands as lists of words, never through a shell; `dry_run` prints them instead, one a line.

    Attributes:
        left: {what is there and costs money: the command that deletes it}; printed whenever the launcher ends.
    """

    def __init__(self, *, dry_run: bool = False) -> None:
        """Nothing is run yet."""
        self.dry_run = dry_run
        self.left: dict[str, str] = {}

    def run(self, words: Sequence[str]) -> int:
        """The exit code; the command's output goes where ours goes."""
        if self._printed(words):
            return 0
        return subprocess.call(list(words)) if self._there(words) else 127

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

    def say(self, line: str) -> None:
        """A line for the person; in a dry run it is a comment, so that everything printed can be pasted."""
        print(f"# {line}" if self.dry_run else line, flush=True)

    def wait(self, seconds: float) -> None:
        """Sleep, unless nothing is run."""
        if not self.dry_run:
            time.sleep(seconds)

    def confirm(self, question: str, *, yes: bool) -> None:
        """Returns when the person agrees.

        Raises:
            Stop: they do not, or there is nobody to ask.
        """
        if yes or self.dry_run:
            return
        if not sys.stdin.isatty():
            raise Stop(2, f"{question} Expected a person or --yes, found neither; add --yes")
        if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
            raise Stop(1, "nothing was done")

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


INSTALL = {
    "gcloud": "install the Google Cloud SDK and run `gcloud auth login`",
    "kubectl": "run `gcloud components install kubectl gke-gcloud-auth-plugin`",
    "xpk": "run `pip install xpk`",
    "docker": "install Docker, or name an image that is there already with --image",
    "lit-tune": "run `pip install -e '.[tpu]'` in the clone and activate that environment",
}


def ending(program: str, commands: Commands, verb: Callable[[], int]) -> int:
    """The exit code of a verb; however it ends, what is left and billed is said with the command that deletes it."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return verb()
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
