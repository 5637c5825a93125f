"""What sources over several files of pairs have in common: which file holds pair i, open files, one fingerprint."""

import bisect
import hashlib
import itertools
import logging
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from lit_tune.data.file_digest import file_sha256
from lit_tune.data.sample import BadSample
from lit_tune.errors import DataError, explain

OPEN_FILES = 128  # held open at a time; many systems allow 1,024 a process
LOOK_THREADS = 4

log = logging.getLogger(__name__)
Opened = TypeVar("Opened")


@dataclass(frozen=True)
class PairFile:
    """One file: where it lies, how many pairs it holds, hex sha256 of all its bytes."""

    path: Path
    pairs: int
    sha256: str


class PairFiles(ABC, Generic[Opened]):
    """The pairs of several files, one file after the other in the given order; the base of ArrayRecord and Parquet.

    Args:
        files: what is known of each.
        caption_field: where captions are taken from; what it means is the file kind's business.
        spec: what the user wrote.
        max_samples: use only the first so many pairs; None for all.

    Attributes:
        problems: one line for each file that is missing or damaged, where that was allowed.
    """

    def __init__(
        self, files: Sequence[PairFile], caption_field: str, spec: str, max_samples: int | None = None
    ) -> None:
        self.spec = spec
        self.caption_field = caption_field
        self.problems: list[str] = []
        self.counts: dict[str, int] = {"bad_shards": 0}
        self.files = list(files)
        self._ends = list(itertools.accumulate(file.pairs for file in files))
        self._length = min(self._ends[-1], max_samples or self._ends[-1]) if files else 0
        # Contents and order, not paths: a data set that was moved is still the same one.
        digest = hashlib.sha256(f"{caption_field}|{self._length}".encode())
        for file in files:
            digest.update(f"|{file.sha256}|{file.pairs}".encode())
        self.fingerprint = digest.hexdigest()
        self._forget()

    def shard_digests(self) -> list[tuple[str, str]]:
        """(name, hex sha256) of each file, in order."""
        return [(file.path.name, file.sha256) for file in self.files]

    def _forget(self) -> None:
        """Start without open files."""
        self._opened: OrderedDict[int, Opened] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_opened", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.spec!r}, {len(self.files)} files, {len(self)} pairs)"

    def __len__(self) -> int:
        return self._length

    @abstractmethod
    def captions(self, i: int) -> tuple[str, ...]:
        """The usable captions of pair `i`. Raises BadSample."""

    @abstractmethod
    def _open(self, file: PairFile) -> Opened:
        """A file, open for reads from any thread."""

    def caption_sets(self) -> Iterator[tuple[str, ...]]:
        """The usable captions of every pair in index order, () for a bad one."""
        for i in range(len(self)):
            try:
                yield self.captions(i)
            except BadSample:
                yield ()

    def _find(self, i: int) -> tuple[Opened, int]:
        """The open file that holds pair `i`, and the pair's number there."""
        number, place = self._place(i)
        with self._lock:
            opened = self._opened.get(number)
            if opened is None:
                opened = self._opened[number] = self._open(_unchanged(self.files[number]))
            self._opened.move_to_end(number)
            if len(self._opened) > OPEN_FILES:
                self._opened.popitem(last=False)  # closes when no other thread reads from it any more
        return opened, place

    def _place(self, i: int) -> tuple[int, int]:
        """Number of the file that holds pair `i`, and the pair's number there."""
        i = int(i)
        if not 0 <= i < self._length:
            raise IndexError(f"sample {i} of {self._length}")
        # Empty files share their end with the one before; bisect_right steps over them.
        number = bisect.bisect_right(self._ends, i)
        return number, i - (self._ends[number - 1] if number else 0)


def _unchanged(file: PairFile) -> PairFile:
    """The file again. Raises DataError where it is no longer what it was when the source was made."""
    if file_sha256(file.path) != file.sha256:
        do = "never change files while a run uses them"
        raise DataError(explain(str(file.path), expected="the file as at the start", found="another content", do=do))
    return file


def look_at(
    paths: Sequence[Path], look: Callable[[Path], PairFile], allow_missing: float
) -> tuple[list[PairFile], list[str]]:
    """The files that can be used, and one line for each that cannot.

    Args:
        paths: the files, in order.
        look: what is known of a file; raises DataError for a missing or damaged one.
        allow_missing: share of the files that may be so.

    Raises:
        DataError: too many bad files (the first is named), or no file is left.
    """
    with ThreadPoolExecutor(LOOK_THREADS) as pool:
        looked_at = list(pool.map(lambda path: _file_or_problem(path, look), paths))
    files = [found for found in looked_at if isinstance(found, PairFile)]
    problems = [found for found in looked_at if isinstance(found, str)]
    if problems and (not files or len(problems) > allow_missing * len(paths)):
        more = f" ({len(problems)} of {len(paths)} files are bad)" if len(problems) > 1 else ""
        raise DataError(problems[0] + more)
    for problem in problems:
        log.warning("%s", problem)
    return files, problems


def _file_or_problem(path: Path, look: Callable[[Path], PairFile]) -> PairFile | str:
    """What is known of a file, or one line that says what is wrong with it."""
    try:
        return look(path)
    except DataError as error:
        return str(error)


def finished(source: PairFiles, problems: list[str]) -> None:
    """Note the bad files in a new source. Raises DataError where it holds no pair."""
    source.problems = problems
    source.counts["bad_shards"] = len(problems)
    if not len(source):
        raise DataError(explain(source.spec, expected="pairs", found="0 of them", do="name files that hold some"))
