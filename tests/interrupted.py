"""Runs of one small data set that faults befall, beside one that nobody disturbs."""

import json
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny

SAME = ("train/loss", "train/grad_norm", "data/batch_digest", "train/lr")  # of a log line, bit for bit


@dataclass(frozen=True)
class Home:
    """A folder with the text tower, the pictures (24; 8 a step) and the runs.

    Attributes:
        folder: holds `text`, `pictures`, `cache` and each run under its name.
        settings: config keys of all runs, dots as `__`.
    """

    folder: Path
    settings: dict[str, Any]

    @classmethod
    def make(cls, folder: Path, **settings: Any) -> "Home":
        """A new one, with text tower and pictures."""
        return cls(tiny.make_home(folder), settings)

    def run(self, name: str, *words: str, devices: int = 1, environment: dict[str, str] | None = None,
            **changes: Any) -> subprocess.Popen:
        """A started run, new or going on; `words` are further flags."""
        line = tiny.arguments(self.folder / "text", self.folder / "pictures", self.folder / name,
                              **self.settings | changes)
        return tiny.start([*line, *words], self.folder / "cache", devices=devices, **environment or {})

    def straight(self, **options: Any) -> "Home":
        """This, once a run called `straight` has ended well."""
        code, output = tiny.finish(self.run("straight", **options))
        assert code == 0, output
        return self

    def go_on(self, name: str, *words: str, at: int | None = None, **changes: Any) -> tuple[subprocess.Popen, float]:
        """The same command once more: the process at its first new step, and the seconds that took.

        It has to go on from the newest checkpoint that counts, or from step `at`.
        """
        before, kept = max((line["step"] for line in self.lines(name)), default=0), tiny.kept(self.folder / name, at)
        start = time.monotonic()
        process = self.run(name, *words, **changes)
        tiny.wait_for_step(self.folder / name, before + 1, process)
        seconds = time.monotonic() - start
        tiny.check_kept(self.folder / name, kept)
        return process, seconds

    def stop(self, process: subprocess.Popen, name: str, number: signal.Signals) -> int:
        """The step that a signalled run says it has saved."""
        process.send_signal(number)
        code, output = tiny.finish(process)
        assert code == 0 and "preempted at step" in output, output
        saved = int(output.rsplit("preempted at step", 1)[1].split()[0])
        assert (self.checkpoints(name) / str(saved) / "digests.json").exists()
        return saved

    def checkpoints(self, name: str) -> Path:
        """The folder of a run's checkpoints."""
        return self.folder / name / "checkpoints"

    def lines(self, name: str, kind: str = "train") -> list[dict[str, Any]]:
        """The lines of a kind of a run's metrics.jsonl."""
        return [line for line in tiny.lines(self.folder / name) if line["kind"] == kind]

    def final(self, name: str) -> dict[str, Any]:
        """The content of a run's final.json."""
        return json.loads((self.folder / name / "final.json").read_text())

    def check_lines(self, name: str, until: int, like: str = "straight") -> None:
        """Every step stands once in the log, up to `until` at least, with the very numbers of another run."""
        counts = Counter((line["step"], line["kind"]) for line in tiny.lines(self.folder / name))
        assert set(counts.values()) == {1}, "a step stands twice in metrics.jsonl"
        steps = {step for step, kind in counts if kind == "train"}
        assert steps == set(range(1, max(steps) + 1)) and max(steps) >= until
        same = {line["step"]: line for line in self.lines(like)}
        for line in self.lines(name):
            assert [line[key] for key in SAME] == [same[line["step"]][key] for key in SAME], line["step"]

    def check_end(self, name: str, process: subprocess.Popen, like: str = "straight") -> str:
        """The run ends well, with the weights and evaluations of another bit for bit; its output."""
        code, output = tiny.finish(process)
        assert code == 0, output
        assert self.final(name) == self.final(like)
        self.check_lines(name, self.final(like)["step"], like)
        return output


def kill(*processes: subprocess.Popen) -> None:
    """kill -9."""
    for process in processes:
        process.kill()
    for process in processes:
        process.communicate(timeout=30)  # ends only when nobody holds the other end of the pipe: no process is left


def wait_until(true: Any, process: subprocess.Popen, what: str, timeout: float = 120) -> None:
    """Returns when `true()` is; the process has to live until then."""
    deadline = time.monotonic() + timeout
    while not true():
        assert process.poll() is None, f"the run ended before {what}: {process.communicate()[0]}"
        assert time.monotonic() < deadline, f"no {what} within {timeout} s"
        time.sleep(0.002)


def saving(checkpoints: Path) -> bool:
    """Whether a save is under way."""
    return checkpoints.exists() and any(path.suffix == ".changing" for path in checkpoints.iterdir())
