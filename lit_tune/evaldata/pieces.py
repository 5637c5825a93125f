"""Pictures that stay where they lie: byte ranges of files, read when they are asked for."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from lit_tune.data.sample import BadSample, read_at
from lit_tune.errors import ConfigError, DataError, explain
from lit_tune.evaldata.dataset import Puzzle


class Pieces:
    """Pictures as byte ranges of files; nothing is held open or in memory between two reads.

    Args:
        files: the files.
        rows: int64 (n, 3), for each picture its file's number, its first byte and its length.
        names: for each picture what it is called in messages.
    """

    def __init__(self, files: Sequence[Path], rows: Int[np.ndarray, "n 3"], names: Sequence[str]) -> None:
        self._files, self._rows, self._names = list(files), rows, list(names)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> bytes:
        number, offset, size = self._rows[i].tolist()
        try:
            descriptor = os.open(self._files[number], os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise BadSample("unreadable") from error
        try:
            return read_at(descriptor, size, offset)
        finally:
            os.close(descriptor)

    def describe(self, i: int) -> str:
        """Where picture `i` lies."""
        return self._names[i]


def sha256(
    kind: str,
    pictures: Iterable[bytes],
    *,
    labels: Shaped[np.ndarray, "n *c"] | None = None,
    captions: Sequence[Sequence[str]] = (),
    fields: Int[np.ndarray, "n f"] | None = None,
    puzzles: Sequence[Puzzle] = (),
) -> str:
    """Hex sha256 over the pictures of a data set, in order, and what is asked about them; names and places are not in.

    Args:
        kind: one of `dataset.KINDS`.
        pictures: the sha256 digest (32 bytes) of each picture, in order.
        labels, captions, fields, puzzles: as in `EvalData`.
    """
    whole = hashlib.sha256(f"{kind}\n".encode())
    for digest in pictures:
        whole.update(digest)
    for array in (labels, fields):
        whole.update(b"\n" if array is None else _canonical([array.dtype.kind, array.shape, array.tolist()]))
    whole.update(_canonical([list(one) for one in captions]))
    whole.update(_canonical([[one.cue, one.candidates.tolist(), one.right.tolist()] for one in puzzles]))
    return whole.hexdigest()


def _canonical(value: Any) -> bytes:
    """One line of JSON; a lone surrogate is escaped like any other character that is not ASCII."""
    return json.dumps(value).encode() + b"\n"


def wrong(what: object, expected: object, found: object, do: str) -> ConfigError:
    """The error for evaluation data that is not what it should be: exit code 2."""
    return ConfigError(explain(str(what), expected=expected, found=found, do=do))


def damaged(what: object, expected: object, found: object, do: str = "fetch the data again") -> DataError:
    """The error for evaluation data that is broken: exit code 4."""
    return DataError(explain(str(what), expected=expected, found=found, do=do))
