"""A stand-in for `gcloud`, `kubectl`, `xpk` and the like on the PATH: records every call and plays a scenario.

A scenario is {pattern: [answer, ...]}: of the patterns that are found in the call's words (joined by blanks), the first
one answers, with its answers in turn and the last one for ever. An answer is text for standard output, or
{"code", "out", "error", "seconds"}. A call that no pattern knows is a silent success.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

LAUNCH = Path(__file__).parents[1] / "launch"
# A run on a slice, as the tests of launchers type it, and what `lit-tune plan --json` says of it.
PLACE = ("--name=lit", "--project=my-project", "--zone=us-east5-b", "--tpu=v6e-16", "--bucket=gs://my-lit", "--poll=0")
TRAIN = ("--", "train", "--config=quickstart", "--config.data.train=gs://my-lit/a b/*.tar")
PLAN = {"fits": True, "topology": "v6e:4x4", "slices": 1, "chips": 16, "devices": 16, "hosts": 4, "hbm_peak_gib": 14.3,
        "hbm_limit_gib": 31.25, "would_fit": [], "run_hours_low": 10.0, "run_hours_high": 20.0, "cost_usd_low": 400.0,
        "cost_usd_high": 800.0, "price_date": "2026-11-25"}
CALL = "\x1e"  # ends a call in the record; its words end with WORD
WORD = "\x1f"
PROGRAM = r"""#!/bin/sh
# A shell and grep start in milliseconds, Python does not.
home='{home}'
# One write: calls that come at once must not get into each other.
call=$(printf '%s\037' "${{0##*/}}" "$@" && printf '\036')
printf '%s' "$call" >>"$home/calls"
for pattern in "$home"/scenario/*/pattern; do
  [ -e "$pattern" ] || exit 0
  if printf '%s' "${{0##*/}} $*" | grep -Eq -f "$pattern"; then
    folder=${{pattern%/pattern}}
    read -r asked <"$folder/asked"
    [ -e "$folder/$((asked + 1)).code" ] && echo $((asked + 1)) >"$folder/asked"
    cat "$folder/$asked.out"
    cat "$folder/$asked.error" >&2
    sleep "$(cat "$folder/$asked.seconds")"
    exit "$(cat "$folder/$asked.code")"
  fi
done
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
            program.write_text(PROGRAM.format(home=home))
            program.chmod(0o755)

    def play(self, scenario: dict[str, list]) -> None:
        """From now on these are the answers; what was recorded is forgotten."""
        shutil.rmtree(self.home / "scenario", ignore_errors=True)
        (self.home / "calls").write_text("")
        for number, (pattern, answers) in enumerate(scenario.items()):
            folder = self.home / "scenario" / f"{number:03}"
            folder.mkdir(parents=True)
            (folder / "pattern").write_text(pattern)
            (folder / "asked").write_text("0\n")
            for place, answer in enumerate(answers):
                whole = {"code": 0, "out": "", "error": "", "seconds": 0} | (
                    {"out": answer} if isinstance(answer, str) else answer)
                for name, value in whole.items():
                    (folder / f"{place}.{name}").write_text(str(value))

    def calls(self, *words: str) -> list[list[str]]:
        """The recorded calls that have all of these words."""
        made = [call.split(WORD)[:-1] for call in (self.home / "calls").read_text().split(CALL)[:-1]]
        return [call for call in made if set(words) <= set(call)]

    def start(self, program: str, *words: str, stdin: int = subprocess.DEVNULL, **variables: str) -> subprocess.Popen:
        """A started launcher, its output as text in `.stdout`."""
        interpreter = [sys.executable] if program.endswith(".py") else ["bash"]
        path = f"{self.home / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin"
        environment = {"PATH": path, "HOME": str(self.home), "TMPDIR": str(self.home), **variables}
        return subprocess.Popen([*interpreter, str(LAUNCH / program), *words], env=environment, text=True,
                                stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def launch(self, program: str, *words: str, timeout: float = 60, **variables: str) -> tuple[int, str]:
        """(exit code, output) of a launcher."""
        process = self.start(program, *words, **variables)
        output = process.communicate(timeout=timeout)[0]
        return process.returncode, output

    def dry(self, program: str, verb: str, *words: str) -> list[list[str]]:
        """The commands that a dry run of a launcher prints, each as words; it calls none."""
        code, output = self.launch(program, verb, "--dry-run", *words)
        assert code == 0, output
        assert not self.calls(), "a dry run called something"
        return [shlex.split(line) for line in output.splitlines() if not line.startswith("#")]

    def wait_for(self, pattern: str, process: subprocess.Popen, timeout: float = 30) -> None:
        """Returns when a call with these words was made."""
        deadline = time.monotonic() + timeout
        while not any(pattern in " ".join(call) for call in self.calls()):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, f"no call of {pattern}"
            time.sleep(0.02)


def checkpoints(*steps: int) -> str:
    """What `ls` says of the checkpoints."""
    return "".join(f"gs://my-lit/runs/lit/checkpoints/{step}/digests.json\n" for step in steps)


def node_pools(*names: str, machine: str = "ct6e-standard-4t", nodes: int = 4, topology: str = "4x4") -> str:
    """What gcloud says of node pools: v6e-16 unless told; one called default-pool has CPU machines."""
    cpu = {"name": "default-pool", "initialNodeCount": 2, "config": {"machineType": "e2-standard-16"}}
    place = {"placementPolicy": {"tpuTopology": topology}} if topology else {}
    tpu = {"initialNodeCount": nodes, "config": {"machineType": machine}, **place}
    return json.dumps([cpu if name == "default-pool" else {"name": name, **tpu} for name in names])


def interrupt(process: subprocess.Popen, number: int = signal.SIGINT, timeout: float = 30) -> tuple[int, str]:
    """(exit code, output) of a launcher that gets a signal."""
    process.send_signal(number)
    output = process.communicate(timeout=timeout)[0]
    return process.returncode, output
