"""Which steps of a `checkpoints` folder count: those whose digests.json was written, last of all files. No jax.

Beside the folders `N` there may be `N.changing`, a file that is there while N is being written or removed, and
`N.damaged`, a folder that was found damaged and set aside.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_tune.digests import NAME, find_damage, read_digests, write_digests
from lit_tune.errors import CheckpointError
from lit_tune.files import as_path, remove_tree, write_atomically


class StepFolders:
    """The folders of one run's checkpoints, as seen by the only process that may change them (process 0)."""

    def __init__(self, directory: Path | str, *, read_only: bool) -> None:
        """Nothing is touched yet.

        Args:
            directory: need not exist. May be gs://.
            read_only: `choose` then renames nothing.
        """
        self.directory = as_path(directory)
        self._read_only = read_only

    def folder(self, step: int) -> Any:
        """Where a step is."""
        return self.directory / str(step)

    def all(self) -> list[int]:
        """Steps that have a folder, whole or not, oldest first."""
        return sorted(int(p.name) for p in self._entries() if p.name.isdecimal())

    def steps(self) -> list[int]:
        """Steps that count (have digests), oldest first."""
        return [step for step in self.all() if read_digests(self.folder(step)) is not None]

    def size(self, step: int) -> int:
        """Bytes of a step that counts; 0 if it does not."""
        return (read_digests(self.folder(step)) or {"bytes": 0})["bytes"]

    def begin(self, step: int) -> None:
        """Note that a step is being written: found without digests, it was never whole."""
        self._marker(step).touch()

    def commit(self, step: int, metrics: Mapping[str, float]) -> None:
        """Make a written step count."""
        write_digests(self.folder(step), step=step, metrics=dict(metrics))
        self._marker(step).unlink(missing_ok=True)

    def rate(self, step: int, metrics: Mapping[str, float]) -> None:
        """Put the scores of a step that counts beside its digests, where `remove_old` looks."""
        content = {**(read_digests(self.folder(step)) or {}), "metrics": dict(metrics)}
        write_atomically(self.folder(step) / NAME, json.dumps(content, indent=1))

    def choose(self, step: int | None) -> int | None:
        """The step to restore, its files verified; None if there never was one.

        Args:
            step: a step, or None for the newest that is whole; damaged ones are set aside on the way.

        Raises:
            CheckpointError: the given one is not whole, or none is.
        """
        if step is not None:
            damage = find_damage(self.folder(step)) if step in self.all() else ["no such step"]
            if damage:
                raise CheckpointError(f"{self.folder(step)}: {'; '.join(damage[:3])}; steps here: {self.steps()}")
            return step
        for candidate in reversed(self.all()):
            damage = find_damage(self.folder(candidate))
            if not damage:
                return candidate
            self._set_aside(candidate, damage)
        bad = [p.name for p in self._entries() if p.name.split(".")[0].isdecimal()]
        if not bad:
            return None
        raise CheckpointError(
            f"{self.directory}: no checkpoint is whole ({', '.join(sorted(bad))}); put back a copy, or remove these "
            "folders to start from step 0"
        )

    def remove_old(self, keep: int, best_metric: str) -> None:
        """Remove what is neither among the newest nor the best; only steps that count are counted.

        Args:
            keep: number of newest steps to keep.
            best_metric: the step where this is largest (smallest if it ends in "loss") is kept as well; "": none.
        """
        steps = self.steps()
        kept = set(steps[-keep:])
        if best_metric:
            sign = -1 if best_metric.endswith("loss") else 1
            metrics = {step: (read_digests(self.folder(step)) or {}).get("metrics", {}) for step in steps}
            rated = [(sign * m[best_metric], step) for step, m in metrics.items() if best_metric in m]
            kept |= {max(rated)[1]} if rated else set()
        for step in set(steps) - kept:
            self._marker(step).touch()
            remove_tree(self.folder(step))
            self._marker(step).unlink(missing_ok=True)

    def clear_leftovers(self) -> None:
        """Remove what a killed process was writing or removing; nothing of it ever counted."""
        for path in self._entries():
            if ".orbax-checkpoint-tmp" in path.name:
                remove_tree(path)
            elif path.name.endswith(".changing"):
                step = int(path.name.split(".")[0])
                if step in self.all() and find_damage(self.folder(step)):
                    remove_tree(self.folder(step))
                path.unlink(missing_ok=True)

    def _set_aside(self, step: int, damage: list[str]) -> None:
        """Rename a damaged checkpoint, keeping what is left of it for people to look at."""
        if self._read_only:
            say(f"checkpoint {self.folder(step)} is damaged and skipped: {'; '.join(damage[:3])}")
            return
        target = self.directory / f"{step}.damaged"
        if target.exists():
            remove_tree(target)
        self.folder(step).rename(target)
        say(f"checkpoint {self.folder(step)} is damaged ({'; '.join(damage[:3])}) and now called {target.name}")

    def _entries(self) -> list[Any]:
        """Everything in the directory."""
        return list(self.directory.iterdir()) if self.directory.exists() else []

    def _marker(self, step: int) -> Any:
        """The file that is there while `step` is being written or removed. A folder without digests and without this
        file has lost them: that is damage."""
        return self.directory / f"{step}.changing"


def say(line: str) -> None:
    """One line for people, beside the metrics."""
    print(f"lit_tune: {line}", file=sys.stderr, flush=True)
