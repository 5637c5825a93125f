"""Pairs by number from any count of tar shards, through their indexes."""

import bisect
import hashlib
import itertools
import json
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lit_tune.data import captions as text
from lit_tune.data.sample import BadSample, Sample, read_at
from lit_tune.data.tar_index import COUNTS, MAX_JSON, Index, index_shard
from lit_tune.errors import DataError, explain

OPEN_SHARDS = 128  # held open at a time, two descriptors each; many systems allow 1,024 a process
INDEX_THREADS = 4

log = logging.getLogger(__name__)


class _OpenShard:
    """A descriptor and an index; closed when the last thread that reads from it lets go."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self.descriptor = os.open(index.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def read(self, record: Any, member: str, limit: int = -1) -> bytes:
        """Data of a record's "image", "text" or "json" member, at most `limit` bytes of it."""
        size = int(record[f"{member}_size"])
        return read_at(self.descriptor, min(size, limit) if limit >= 0 else size, int(record[f"{member}_offset"]))

    def __del__(self) -> None:
        # at the interpreter's end modules may be gone already, and the system closes the file
        if hasattr(self, "descriptor") and os is not None and os.close is not None:
            os.close(self.descriptor)


class TarSource:
    """The pairs of several shards, one after the other in the given order.

    Args:
        indexes: one index a shard.
        caption_field: "txt" for the caption member, else the field of the json member that holds one caption or a list.
        spec: what the user wrote.
        max_samples: use only the first so many pairs; None for all.

    Attributes:
        problems: one line for each shard that is missing or damaged, where that was allowed.
    """

    def __init__(self, indexes: Sequence[Index], caption_field: str, spec: str, max_samples: int | None = None) -> None:
        self.spec = spec
        self.caption_field = caption_field
        self.problems: list[str] = []
        self.shards = [index.path for index in indexes]
        self.counts = {name: sum(index.counts[name] for index in indexes) for name in COUNTS}
        # Numbers only: the indexes themselves are mapped again where they are read, in this process or a worker.
        self._sha256 = [index.sha256 for index in indexes]
        self._ends = list(itertools.accumulate(len(index) for index in indexes))
        self._length = min(self._ends[-1], max_samples or self._ends[-1]) if indexes else 0
        # Contents and order, not paths: a data set that was moved is still the same one.
        digest = hashlib.sha256(f"{caption_field}|{self._length}".encode())
        for index in indexes:
            digest.update(f"|{index.sha256}|{len(index)}".encode())
        self.fingerprint = digest.hexdigest()
        self._open_again()

    def _open_again(self) -> None:
        self._opened: OrderedDict[int, _OpenShard] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_opened", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open_again()

    def __repr__(self) -> str:
        return f"TarSource({self.spec!r}, {len(self.shards)} shards, {len(self)} pairs)"

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> Sample:
        shard, record, key = self._find(i)
        captions = self._captions(shard, record)
        meta = _json(shard, record, strict=self.caption_field != "txt") if record["json_offset"] else {}
        return Sample(key, shard.read(record, "image"), captions, meta)

    def pair(self, i: int, max_image_bytes: int) -> tuple[bytes, tuple[str, ...]]:
        """Encoded picture and captions of pair `i`; a larger picture is refused unread. Raises BadSample."""
        shard, record, _ = self._find(i)
        if record["image_size"] > max_image_bytes:
            raise BadSample("too_many_bytes")
        return shard.read(record, "image"), self._captions(shard, record)

    def captions(self, i: int) -> tuple[str, ...]:
        """The usable captions of pair `i`. Raises BadSample."""
        shard, record, _ = self._find(i)
        return self._captions(shard, record)

    def caption_sets(self) -> Iterator[tuple[str, ...]]:
        """The usable captions of every pair in index order, () for a bad one."""
        for i in range(len(self)):
            try:
                yield self.captions(i)
            except BadSample:
                yield ()

    def indexes(self) -> Iterator[Index]:
        """The index of every shard, in order; with `max_samples` they may hold more pairs than the source."""
        for number in range(len(self.shards)):
            yield self._shard(number).index

    def describe(self, i: int) -> tuple[str, str]:
        """(shard name, key) of pair `i`."""
        shard, _, key = self._find(i)
        return shard.index.path.name, key

    def shard_pairs(self) -> list[tuple[Path, int]]:
        """Each shard and how many of its pairs are in use, `max_samples` aside."""
        starts = [0, *self._ends[:-1]]
        return [(path, end - start) for path, start, end in zip(self.shards, starts, self._ends, strict=True)]

    def _find(self, i: int) -> tuple[_OpenShard, Any, str]:
        """The shard that holds pair `i`, its record there and its key."""
        i = int(i)
        if not 0 <= i < self._length:
            raise IndexError(f"sample {i} of {self._length}")
        # Empty shards share their end with the one before; bisect_right steps over them.
        number = bisect.bisect_right(self._ends, i)
        shard = self._shard(number)
        place = i - (self._ends[number - 1] if number else 0)
        return shard, shard.index.records[place], shard.index.key(place)

    def _shard(self, number: int) -> _OpenShard:
        """Shard `number`, opened; the one unused for longest makes room."""
        with self._lock:
            shard = self._opened.get(number)
            if shard is None:
                shard = self._opened[number] = self._open(number)
            self._opened.move_to_end(number)
            if len(self._opened) > OPEN_SHARDS:
                self._opened.popitem(last=False)  # closes when no other thread reads from it any more
            return shard

    def _open(self, number: int) -> _OpenShard:
        """Open a shard; refuse one that is no longer what it was when the source was made."""
        path = self.shards[number]
        index = index_shard(path, caption_member(self.caption_field))
        if index.sha256 != self._sha256[number]:
            raise DataError(
                explain(str(path), expected="the shard as it was at the start", found="another content",
                        do="never change shards while a run uses them")
            )  # fmt: skip
        return _OpenShard(index)

    def _captions(self, shard: _OpenShard, record: Any) -> tuple[str, ...]:
        """The usable captions that a record leads to."""
        if self.caption_field == "txt":
            found: list[str] = [text.clean(shard.read(record, "text", limit=text.MAX_BYTES))]
        else:
            found = captions_of(_json(shard, record, strict=True).get(self.caption_field))
        return keep_usable(found)


def caption_member(caption_field: str) -> str:
    """The member a pair must have for this `config.data.caption_field`: "txt" or "json"."""
    return "txt" if caption_field == "txt" else "json"


def captions_of(value: object) -> list[str]:
    """Clean captions of a field that holds one caption or a list of them. Raises BadSample for anything else."""
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(one, str) for one in values):
        raise BadSample("no_caption")
    return [text.clean(one.encode("utf-8", "replace")) for one in values]


def keep_usable(found: list[str]) -> tuple[str, ...]:
    """The captions of at least 2 bytes. Raises BadSample where none is left."""
    captions = tuple(caption for caption in found if text.usable(caption))
    if not captions:
        raise BadSample("short_caption")
    return captions


def _json(shard: _OpenShard, record: Any, strict: bool = False) -> dict[str, Any]:
    """The fields of the json member; a broken one is {} or, where captions hang on it, BadSample."""
    try:
        fields = json.loads(shard.read(record, "json", limit=MAX_JSON))
    except (ValueError, RecursionError):
        fields = None
    if isinstance(fields, dict):
        return fields
    if strict:
        raise BadSample("bad_json")
    return {}


def open_shards(
    paths: Sequence[Path], spec: str, caption_field: str, allow_missing: float = 0.0, max_samples: int | None = None
) -> TarSource:
    """The source over tar shards; each is indexed first where the cache does not know it yet.

    Args:
        paths: the shards, in order.
        spec: what the user wrote.
        caption_field: see TarSource.
        allow_missing: share of the shards that may be missing or damaged; of a damaged one the pairs before the damage
            are used.
        max_samples: use only the first so many pairs.

    Raises:
        DataError: too many bad shards (the first is named), or no pair at all.
    """
    with ThreadPoolExecutor(INDEX_THREADS) as pool:
        looked_at = list(pool.map(lambda path: _look(path, caption_field), paths))
    problems = [problem for _, problem in looked_at if problem]
    if len(problems) > allow_missing * len(paths):
        more = f" ({len(problems)} of {len(paths)} shards are bad)" if len(problems) > 1 else ""
        raise DataError(problems[0] + more)
    for problem in problems:
        log.warning("%s", problem)
    indexes = [index for index, _ in looked_at if index is not None]
    for index in indexes:
        if index.counts["no_end_marker"] and not index.problem():
            log.warning("%s has no end marker: taken as whole with its %d samples", index.path, index.groups)
    source = TarSource(indexes, caption_field, spec, max_samples)
    source.problems = problems
    source.counts["bad_shards"] = len(problems)
    if not len(source) and problems:
        raise DataError(problems[0])
    if not len(source):
        drops = ", ".join(f"{name} {count}" for name, count in source.counts.items() if count) or "nothing in it"
        raise DataError(
            explain(spec, expected=f"pairs of a picture and a .{caption_member(caption_field)} member",
                    found=f"0 of them ({drops})", do="check the member names and config.data.caption_field")
        )  # fmt: skip
    return source


def _look(path: Path, caption_field: str) -> tuple[Index | None, str]:
    """A shard's index and what is wrong with the shard, one line or ""."""
    try:
        index = index_shard(path, caption_member(caption_field))
    except DataError as error:
        return None, str(error)
    problem = index.problem()
    if problem:
        do = "fetch the shard again, or correct the announced count if the shard is whole"
        problem = explain(str(path), expected="a whole tar shard", found=problem, do=do)
    return index, problem
