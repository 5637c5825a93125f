"""Vectors of a collection as they come, on disk: what a killed `lit-tune embed` goes on from.

`OUT.partial/` holds manifest.json (what is embedded, by which model), vectors.f32 and ids.jsonl (both only grow), and
progress.json, which alone says how much of them counts. It is replaced by rename after the data is on disk, so the
folder is whole at any moment; what a killed process wrote beyond it is cut off. Vectors are added for the same ranges
of inputs however often it was killed, and a range is one call of the model: the result does not depend on where.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from jaxtyping import Float

from lit_tune.errors import ConfigError, explain
from lit_tune.files import remove_tree, write_atomically

START = {"inputs": 0, "rows": 0, "left_out": 0, "ids_bytes": 0, "place": 0}


class Unfinished:
    """The folder beside an output file, held by one process.

    Args:
        out: the file that is to be written.
        manifest: what decides the vectors, JSON values; with "dim", the width of the vectors.
        restart: begin anew whatever is there.

    Attributes:
        inputs, rows, left_out, place: how many inputs are done, how many gave vectors, how many gave none, and the
            `place` of the last.

    Raises:
        ConfigError: something else is half done there, another process is at it, or it cannot be written.
    """

    def __init__(self, out: Path, manifest: Mapping[str, Any], restart: bool) -> None:
        self.folder = out.with_name(out.name + ".partial")
        self._dim = manifest["dim"]
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise cannot_write(out, error) from error
        self._lock = FileLock(self.folder / "lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ConfigError(explain(str(self.folder), expected="one process at a time", found="another one at work",
                                      do="wait for it, or write another file")) from error
        try:
            self._begin(dict(manifest), restart)
        except BaseException as error:
            self._lock.release()
            if isinstance(error, OSError):
                raise cannot_write(out, error) from error
            raise

    def _begin(self, manifest: dict[str, Any], restart: bool) -> None:
        """Take up what is there, or begin."""
        page, progress = self.folder / "manifest.json", self.folder / "progress.json"
        there = json.loads(progress.read_text()) if page.is_file() and progress.is_file() and not restart else START
        if there["inputs"]:
            self._refuse_another(json.loads(page.read_text()), manifest)
            self._take(there)
        else:
            progress.unlink(missing_ok=True)  # first: without it nothing there counts
            write_atomically(page, json.dumps(manifest, indent=1) + "\n")
            self._take(START)
            write_atomically(progress, json.dumps(START))
        self._vectors, self._ids = (self._open(name, size) for name, size in (
            ("vectors.f32", 4 * self._dim * self.rows), ("ids.jsonl", self._ids_bytes)))

    def _refuse_another(self, recorded: dict[str, Any], given: dict[str, Any]) -> None:
        """Refuse to mix the vectors of two models or collections."""
        for name in dict.fromkeys((*recorded, *given)):
            before, now = recorded.get(name), given.get(name)
            if before != now:
                raise ConfigError(explain(f"{self.folder}, half done", expected=f"{name} {before}", found=now,
                                          do="give the same command line, or begin anew with --restart"))

    def _take(self, progress: Mapping[str, int]) -> None:
        """Stand where a progress says."""
        self.inputs, self.rows, self.left_out = progress["inputs"], progress["rows"], progress["left_out"]
        self._ids_bytes, self.place = progress["ids_bytes"], progress["place"]

    def _open(self, name: str, size: int) -> Any:
        """A file of at least `size` bytes, cut there and open at its end."""
        path = self.folder / name
        found = path.stat().st_size if path.exists() else 0
        if found < size:
            raise ConfigError(explain(str(self.folder), expected=f"{size} bytes", found=f"{name} of {found} bytes",
                                      do="begin anew with --restart"))
        file = path.open("ab")
        file.truncate(size)
        file.seek(size)
        return file

    def add(self, ids: Sequence[str], vectors: Float[np.ndarray, "n d"], inputs: int, place: int) -> None:
        """Keep the vectors of the next `inputs` inputs, of which `len(ids)` gave one; on disk when it returns."""
        self._vectors.write(np.ascontiguousarray(vectors, "<f4").tobytes())
        self._ids.write("".join(json.dumps(one) + "\n" for one in ids).encode())
        for file in (self._vectors, self._ids):
            file.flush()
            os.fsync(file.fileno())
        progress = {"inputs": self.inputs + inputs, "rows": self.rows + len(ids), "place": place,
                    "left_out": self.left_out + inputs - len(ids), "ids_bytes": self._ids.tell()}
        write_atomically(self.folder / "progress.json", json.dumps(progress))
        self._take(progress)

    def ids(self) -> Iterator[str]:
        """The ids so far."""
        with (self.folder / "ids.jsonl").open("rb") as file:
            yield from map(json.loads, file)

    def vectors(self) -> Float[np.ndarray, "n d"]:
        """The vectors so far, memory-mapped."""
        if self.rows == 0:
            return np.empty((0, self._dim), np.float32)
        return np.memmap(self.folder / "vectors.f32", "<f4", "r", shape=(self.rows, self._dim))

    def close(self) -> None:
        """Let go of the folder; it stays."""
        self._vectors.close()
        self._ids.close()
        self._lock.release()

    def remove(self) -> None:
        """Remove the folder: its vectors are in the output file, or there are none."""
        self.close()
        remove_tree(self.folder)


def cannot_write(out: Path, error: OSError) -> ConfigError:
    """The error of an output that cannot be written."""
    return ConfigError(explain(f"--out {out}", expected="room to write", found=error.strerror,
                               do="free space and give the same command line again, or name another file"))
