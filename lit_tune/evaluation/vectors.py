"""The vectors of one task's pictures, kept on disk while they come: what a stopped evaluation goes on from."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lit_tune import distributed
from lit_tune.errors import DataError
from lit_tune.evaluation.embedding import Stopped
from lit_tune.evaluation.progress import Progress
from lit_tune.evaluation.systems import System
from lit_tune.files import is_remote, remove_tree
from lit_tune.unfinished import Unfinished

KEPT = 4096  # pictures, about, between two times that vectors are forced to disk


class Kept:
    """Vectors on process 0's disk; in memory where the results folder is in an object store, which cannot append.

    Attributes:
        start: how many were there when the work was taken up.
    """

    def __init__(self, label: str, sha256: str, system: System, folder: Path) -> None:
        """Take up what is there of the same pictures, model and way of preparing them, or begin."""
        folder.mkdir(parents=True, exist_ok=True)
        self._waiting: list[np.ndarray] = []
        self._work = None if is_remote(str(folder)) else _unfinished(label, sha256, system, folder)
        self.start = 0 if self._work is None else self._work.inputs

    def add(self, zimg: np.ndarray) -> None:
        """The next vectors."""
        self._waiting.append(zimg)
        if sum(map(len, self._waiting)) >= KEPT:
            self.flush()

    def flush(self) -> None:
        """Everything so far on disk."""
        if self._work is not None and self._waiting:
            zimg, first = np.concatenate(self._waiting), self._work.inputs
            ids = [str(first + i) for i in range(len(zimg))]
            self._work.add(ids, zimg, len(zimg), first + len(zimg))
            self._waiting = []

    def vectors(self) -> np.ndarray:
        """All of them, memory-mapped where they are on disk."""
        self.flush()
        return np.concatenate(self._waiting) if self._work is None else self._work.vectors()

    def close(self) -> None:
        """Let go of the folder; it stays."""
        if self._work is not None:
            self._work.close()

    def remove(self) -> None:
        """Remove the folder."""
        if self._work is not None:
            self._work.remove()


def _unfinished(label: str, sha256: str, system: System, folder: Path) -> Unfinished:
    """The folder of these pictures' vectors by this model; of another model, or of data that has changed, removed."""
    facts = {"pictures": sha256, "model": system.identity["vision_sha256"], **system.settings}
    manifest = json.loads(json.dumps(facts))
    key = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:12]
    for other in folder.glob(f"{label}-????????????.partial"):
        if other.name != f"{label}-{key}.partial":
            remove_tree(other)
    return Unfinished(folder / f"{label}-{key}", manifest, restart=False)


def embed(
    label: str, count: int, pixels: Callable[[int], np.ndarray], system: System, sha256: str, folder: Path,
    progress: Progress, should_stop: Callable[[], bool],
) -> Kept | None:  # fmt: skip
    """The kept vectors of `count` pictures, on process 0; None on others.

    Raises:
        Stopped: with what is done on disk.
        DataError: a picture cannot be decoded; nothing is kept.
    """
    kept: list[Kept] = []

    def begin() -> int:
        kept.append(Kept(label, sha256, system, folder))
        return kept[0].start

    start = distributed.on_process_0(f"begin {label}", begin)
    work = kept[0] if kept else None
    progress.begin(label, start)
    try:
        for zimg in system.embedder.vectors(system.params, count, pixels, start):
            if work is not None:
                work.add(zimg)
            progress.add(len(zimg))
            if should_stop():
                raise Stopped
    except DataError:
        if work is not None:
            work.remove()
        raise
    except BaseException as error:
        if work is not None:
            if isinstance(error, Stopped | KeyboardInterrupt):
                work.flush()
            work.close()
        raise
    if work is not None:
        work.flush()
    return work
