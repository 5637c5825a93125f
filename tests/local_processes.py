"""Processes that launch/local.sh starts, with a stand-in for lit-tune that does as it is told."""

import subprocess
import time
from pathlib import Path

LOCAL = Path(__file__).parents[1] / "launch" / "local.sh"
# Does what LIT_TUNE_PLAY says for its number: `exit CODE`, `wait CODE` (until SIGTERM), `deaf` (ignores it).
STAND_IN = """#!/bin/bash
echo "$*" >"$HOME/words-$LIT_TUNE_PROCESS_ID"
echo "$LIT_TUNE_COORDINATOR $LIT_TUNE_NUM_PROCESSES ${CUDA_VISIBLE_DEVICES:-none}" >"$HOME/place-$LIT_TUNE_PROCESS_ID"
IFS=, read -ra plays <<<"$LIT_TUNE_PLAY"
set -- ${plays[$LIT_TUNE_PROCESS_ID]}
echo "process $LIT_TUNE_PROCESS_ID plays $*"
case $1 in
  exit) exit "$2" ;;
  wait) trap 'echo TERM >>"$HOME/signals-$LIT_TUNE_PROCESS_ID"; exit '"$2" TERM INT ;;
  deaf) trap '' TERM ;;
esac
: >"$HOME/ready-$LIT_TUNE_PROCESS_ID"
while true; do sleep 0.05; done
"""


def make_home(folder: Path) -> Path:
    """A home folder with a stand-in for lit-tune in bin/."""
    program = folder / "bin" / "lit-tune"
    program.parent.mkdir()
    program.write_text(STAND_IN)
    program.chmod(0o755)
    return folder


def start(home: Path, number: str, play: str, *words: str, **variables: str) -> subprocess.Popen:
    """A started local.sh of stand-ins, in a session of its own."""
    environment = {"PATH": f"{home / 'bin'}:/usr/bin:/bin", "HOME": str(home), "LIT_TUNE_PLAY": play, **variables}
    command = ["bash", str(LOCAL), number, f"--workdir={home / 'run'}", *words]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            start_new_session=True)


def wait_for_files(*files: Path) -> None:
    """Returns when all are there."""
    deadline = time.monotonic() + 30
    while not all(file.exists() for file in files):
        assert time.monotonic() < deadline, files
        time.sleep(0.02)
