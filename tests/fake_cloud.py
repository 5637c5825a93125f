"""A stand-in for `gcloud`, `kubectl`, `xpk` and the like on the PATH: records every call and plays a scenario.

A scenario is {pattern: [answer, ...]}: of the patterns that are found in the call's words (joined by blanks), the first
one answers, with its answers in turn and the last one for ever. An answer is text for standard output, or
{"code", "out", "error", "seconds"}. A call that no pattern knows is a silent success.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

LAUNCH = Path(__file__).parents[1] / "launch"
PROGRAM = """#!{python} -S
import json, re, sys, time
from pathlib import Path
home, words = Path({home!r}), [Path(sys.argv[0]).name, *sys.argv[1:]]
with open(home / "calls.jsonl", "a") as calls:
    calls.write(json.dumps(words) + "\\n")
scenario = json.loads((home / "scenario.json").read_text())
for number, (pattern, answers) in enumerate(scenario.items()):
    if re.search(pattern, " ".join(words)):
        count = home / f"count-{{number}}"
        asked = int(count.read_text()) if count.exists() else 0
        count.write_text(str(asked + 1))
        answer = answers[min(asked, len(answers) - 1)]
        answer = {{"out": answer}} if isinstance(answer, str) else answer
        time.sleep(answer.get("seconds", 0))
        print(answer.get("out", ""), end="", flush=True)
        print(answer.get("error", ""), end="", file=sys.stderr)
        sys.exit(answer.get("code", 0))
"""


class Cloud:
    """Fake programs in a folder, and the launchers of the repository called with them."""

    def __init__(self, home: Path, *names: str) -> None:
        """The programs `names` are made; nothing is called."""
        self.home = home
        (home / "bin").mkdir(parents=True)
        self.play({})
        for name in names:
            program = home / "bin" / name
            program.write_text(PROGRAM.format(python=sys.executable, home=str(home)))
            program.chmod(0o755)

    def play(self, scenario: dict[str, list]) -> None:
        """From now on these are the answers; what was recorded is forgotten."""
        for file in [*self.home.glob("count-*"), *self.home.glob("calls.jsonl")]:
            file.unlink()
        (self.home / "scenario.json").write_text(json.dumps(scenario))

    def calls(self, *words: str) -> list[list[str]]:
        """The recorded calls that have all of these words."""
        file = self.home / "calls.jsonl"
        made = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [call for call in made if set(words) <= set(call)]

    def start(self, program: str, *words: str, **variables: str) -> subprocess.Popen:
        """A started launcher, its output as text in `.stdout`."""
        interpreter = [sys.executable] if program.endswith(".py") else ["bash"]
        path = f"{self.home / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin"
        environment = {"PATH": path, "HOME": str(self.home), "TMPDIR": str(self.home), **variables}
        return subprocess.Popen([*interpreter, str(LAUNCH / program), *words], env=environment, text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def launch(self, program: str, *words: str, timeout: float = 60, **variables: str) -> tuple[int, str]:
        """(exit code, output) of a launcher."""
        process = self.start(program, *words, **variables)
        output = process.communicate(timeout=timeout)[0]
        return process.returncode, output

    def wait_for(self, pattern: str, process: subprocess.Popen, timeout: float = 30) -> None:
        """Returns when a call with these words was made."""
        deadline = time.monotonic() + timeout
        while not any(pattern in " ".join(call) for call in self.calls()):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, f"no call of {pattern}"
            time.sleep(0.02)


def interrupt(process: subprocess.Popen, number: int = signal.SIGINT, timeout: float = 30) -> tuple[int, str]:
    """(exit code, output) of a launcher that gets a signal."""
    process.send_signal(number)
    output = process.communicate(timeout=timeout)[0]
    return process.returncode, output
