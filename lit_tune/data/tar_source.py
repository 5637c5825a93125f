"""Pairs by number from any count of tar shards, through their indexes."""

import bisect
import hashlib
import itertools
import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lit_tune.data import captions as text, subset as subsets
from lit_tune.data.address import Address
from lit_tune.data.packed_keys import uid_digits
from lit_tune.data.sample import BadSample, Sample
from lit_tune.data.storage import Location, RandomReader
from lit_tune.data.subset import Subset
from lit_tune.data.tar_index import COUNTS, MAX_JSON, RECORD, SUFFIXES, U32_MAX, Index, index_file, index_shard, load
from lit_tune.data.tar_walk import BLOCK
from lit_tune.errors import DataError, explain
from lit_tune.redaction import redact

OPEN_SHARDS = 128  # held open at a time, two descriptors each; many systems allow 1,024 a process
INDEX_THREADS = 4
ADDRESS_THREADS = 32  # each waits for the network most of the time
SUBSET_COUNTS = (  # of a uid list, beside COUNTS
    "not_listed",  # pairs that it does not name, those without uid included
    "without_uid",  # pairs without a uid in their json
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Shard:
    """What a source keeps of a shard: numbers only, since a map of each index would be 100,000 open files.

    `sha256` is of the shard, `rows_sha256` of the row numbers of a subset ("" for all rows).
    """

    path: Location
    sha256: str
    rows_sha256: str
    pairs: int
    counts: dict[str, int]


@dataclass(frozen=True)
class Piece:
    """Pairs `start` to `stop` - 1 of the `pairs` that a source has in one shard."""

    path: Location
    start: int
    stop: int
    pairs: int


class Member(NamedTuple):
    """A member of a pair: where a record of the index holds its size and its place, and how much of it is read."""

    size: int
    block: int
    most: int


def _member(name: str, most: int = U32_MAX) -> Member:
    """The member called "image", "text" or "json" in RECORD."""
    names = RECORD.names or ()
    return Member(names.index(f"{name}_size"), names.index(f"{name}_block"), most)


IMAGE, TEXT, JSON = _member("image"), _member("text"), _member("json")  # whole
CAPTION, FIELDS = _member("text", text.MAX_BYTES), _member("json", MAX_JSON)  # as far as anyone looks


class _OpenShard:
    """An open shard and its index; closed when the last thread that reads from it lets go.

    `rows` are the numbers of the pairs in use, None for all.
    """

    def __init__(self, index: Index, rows: np.ndarray | None) -> None:
        self.index = index
        self.rows = rows
        self._reader = RandomReader(index.path)

    def read(self, place: int, *members: Member) -> list[bytes]:
        """Data of these members of pair `place`, as much of each as it says."""
        record = self.index.records[place].item()  # numbers all at once: numpy takes its time with each field
        return self._reader.read([(min(record[member.size], member.most), record[member.block] * BLOCK)
                                  for member in members])


class TarSource:
    """The pairs of several shards, one after the other in the given order.

    Args:
        shards: what is known of each.
        caption_field: "txt" for the caption member, else the field of the json member that holds one caption or a list.
        spec: what the user wrote.
        max_samples: use only the first so many pairs; None for all.
        subset: the uid list whose pairs alone are used; None for all.

    Attributes:
        problems: one line for each shard that is missing or damaged, where that was allowed.
    """

    def __init__(self, shards: Sequence[_Shard], caption_field: str, spec: str, max_samples: int | None = None,
                 subset: Subset | None = None) -> None:
        self.spec = redact(spec)
        self.caption_field = caption_field
        self.subset = subset
        self.problems: list[str] = []
        self.shards = [shard.path for shard in shards]
        names = (*COUNTS, *(SUBSET_COUNTS if subset else ()))
        self.counts = {name: sum(shard.counts[name] for shard in shards) for name in names}
        self._sha256 = [(shard.sha256, shard.rows_sha256) for shard in shards]
        self._ends = list(itertools.accumulate(shard.pairs for shard in shards))
        self._length = min(self._ends[-1], max_samples or self._ends[-1]) if shards else 0
        # Contents and order, not paths: a data set that was moved is still the same one.
        digest = hashlib.sha256(f"{caption_field}|{self._length}".encode())
        for shard in shards:
            rows = f"|{shard.rows_sha256}" if shard.rows_sha256 else ""
            digest.update(f"|{shard.sha256}|{shard.pairs}{rows}".encode())
        self.fingerprint = digest.hexdigest()
        self._open_again()

    def _open_again(self) -> None:
        self._opened: OrderedDict[int, _OpenShard] = OrderedDict()
        self._unsaved: dict[int, Index] = {}  # where the cache cannot be written
        self._index_files: dict[int, Path] = {}  # of shards at addresses: opened again, they cost no request
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        own = "_opened", "_unsaved", "_index_files", "_lock"
        return {name: value for name, value in vars(self).items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open_again()

    def __repr__(self) -> str:
        return f"TarSource({self.spec!r}, {len(self.shards)} shards, {len(self)} pairs)"

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> Sample:
        shard, place = self._find(i)
        captions = self._captions(*shard.read(place, self._words))
        with_json = shard.index.records[place]["json_block"]
        meta = _fields(*shard.read(place, FIELDS), strict=self.caption_field != "txt") if with_json else {}
        return Sample(shard.index.key(place), *shard.read(place, IMAGE), captions, meta)

    def pair(self, i: int, max_image_bytes: int) -> tuple[bytes, tuple[str, ...]]:
        """Encoded picture and captions of pair `i`; a larger picture is refused unread. Raises BadSample."""
        shard, place = self._find(i)
        if shard.index.records[place]["image_size"] > max_image_bytes:
            raise BadSample("too_many_bytes")
        image, words = shard.read(place, IMAGE, self._words)
        return image, self._captions(words)

    def captions(self, i: int) -> tuple[str, ...]:
        """The usable captions of pair `i`. Raises BadSample."""
        shard, place = self._find(i)
        return self._captions(*shard.read(place, self._words))

    def caption_sets(self) -> Iterator[tuple[str, ...]]:
        """The usable captions of every pair in index order, () for a bad one."""
        for i in range(len(self)):
            try:
                yield self.captions(i)
            except BadSample:
                yield ()

    def indexes(self) -> Iterator[Index]:
        """The index of every shard, in order; with `max_samples` or a subset they hold more pairs than the source."""
        for number in range(len(self.shards)):
            yield self._shard(number).index

    def describe(self, i: int) -> tuple[str, str]:
        """(shard name, key) of pair `i`."""
        shard, place = self._find(i)
        return shard.index.path.name, shard.index.key(place)

    def members(self, i: int) -> dict[str, bytes]:
        """{suffix: bytes as they are in the tar} of pair `i`: picture, caption and json, as far as there. BadSample."""
        shard, place = self._find(i)
        record = shard.index.records[place]
        named = {SUFFIXES[record["suffix"]]: IMAGE, "txt": TEXT, "json": JSON}
        there = {suffix: member for suffix, member in named.items() if record[member.block]}
        return dict(zip(there, shard.read(place, *there.values()), strict=True))

    def uid(self, i: int) -> str:
        """The uid of pair `i` as its index has it, 32 hex digits; "" where the json has none of that form."""
        shard, place = self._find(i)
        high, low = (int(shard.index.records[place][word]) for word in ("uid_high", "uid_low"))
        return uid_digits(high, low).decode() if high or low else ""

    def copy(self, i: int) -> tuple[str, int]:
        """(uid, which copy) of pair `i`: 32 hex digits, and how many of the pairs before it are the same member."""
        shard, place = self._find(i)
        record = shard.index.records[place]
        earlier = 0
        while i - earlier - 1 >= 0 and self._find(i - earlier - 1) == (shard, place):  # copies stand side by side
            earlier += 1
        return uid_digits(int(record["uid_high"]), int(record["uid_low"])).decode(), earlier

    def shard_pairs(self) -> list[tuple[Location, int]]:
        """Each shard and how many of its pairs are in use, `max_samples` aside."""
        starts = [0, *self._ends[:-1]]
        return [(path, end - start) for path, start, end in zip(self.shards, starts, self._ends, strict=True)]

    def shard_digests(self) -> list[tuple[str, str]]:
        """(name, hex sha256) of each shard, in order; with a uid list the digest is of the rows in use too."""
        return [(path.name, "-".join(filter(None, own))) for path, own in zip(self.shards, self._sha256, strict=True)]

    def pieces(self, start: int, stop: int) -> list[Piece]:
        """Where pairs `start` to `stop` - 1 lie, shard by shard."""
        out, number = [], bisect.bisect_right(self._ends, start)
        while start < stop:
            first = self._ends[number - 1] if number else 0
            end = min(stop, self._ends[number])
            if start < end:  # an empty shard holds none
                out.append(Piece(self.shards[number], start - first, end - first, self._ends[number] - first))
            start, number = end, number + 1
        return out

    def _find(self, i: int) -> tuple[_OpenShard, int]:
        """The shard that holds pair `i`, and its number in that shard's index."""
        i = int(i)
        if not 0 <= i < self._length:
            raise IndexError(f"sample {i} of {self._length}")
        # Empty shards share their end with the one before; bisect_right steps over them.
        number = bisect.bisect_right(self._ends, i)
        shard = self._shard(number)
        place = i - (self._ends[number - 1] if number else 0)
        return shard, place if shard.rows is None else int(shard.rows[place])

    def _shard(self, number: int) -> _OpenShard:
        """Shard `number`, opened; the one unused for longest makes room."""
        with self._lock:
            shard = self._opened.get(number)
        if shard is None:
            shard = self._open(number)  # outside the lock: at an address this takes a while
        with self._lock:
            shard = self._opened.setdefault(number, shard)
            self._opened.move_to_end(number)
            if len(self._opened) > OPEN_SHARDS:
                self._opened.popitem(last=False)  # closes when no other thread reads from it any more
            return shard

    def _open(self, number: int) -> _OpenShard:
        """Open a shard; refuse one that is no longer what it was when the source was made."""
        path, member = self.shards[number], caption_member(self.caption_field)
        file = self._index_files.get(number) or index_file(path, member)
        index, rows = self._unsaved.get(number), None
        if index is None and (index := load(path, file)) is None:
            index = index_shard(path, member)
            if not file.exists():  # or each opening would read the whole shard
                self._unsaved[number] = index
        if self.subset is not None:
            rows = subsets.shard_rows(index, file, self.subset)
        if (index.sha256, rows.sha256 if rows else "") != self._sha256[number]:
            raise DataError(
                explain(str(path), expected="the shard and uid list as they were at the start", found="another content",
                        do="never change them while a run uses them")
            )  # fmt: skip
        if isinstance(path, Address):
            self._index_files[number] = file
        return _OpenShard(index, rows.rows if rows else None)

    @property
    def _words(self) -> Member:
        """The member with the captions."""
        return CAPTION if self.caption_field == "txt" else FIELDS

    def _captions(self, words: bytes) -> tuple[str, ...]:
        """The usable captions in that member."""
        if self.caption_field == "txt":
            return keep_usable([text.clean(words)])
        return keep_usable(captions_of(_fields(words, strict=True).get(self.caption_field)))


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


def _fields(raw: bytes, strict: bool = False) -> dict[str, Any]:
    """The fields of a json member; a broken one is {} or, where captions hang on it, BadSample."""
    try:
        fields = json.loads(raw)
    except (ValueError, RecursionError):
        fields = None
    if isinstance(fields, dict):
        return fields
    if strict:
        raise BadSample("bad_json")
    return {}


def open_shards(
    paths: Sequence[Location], spec: str, caption_field: str, allow_missing: float = 0.0,
    max_samples: int | None = None, subset: Subset | None = None,
) -> TarSource:
    """The source over tar shards; each is indexed first where the cache does not know it yet.

    Args:
        paths: the shards, in order.
        spec: what the user wrote.
        caption_field: see TarSource.
        allow_missing: share of the shards that may be missing or damaged; of a damaged one the pairs before the damage
            are used.
        max_samples: use only the first so many pairs.
        subset: the uid list whose pairs alone are used.

    Raises:
        ConfigError: the uid list is none, or names no pair.
        DataError: too many bad shards (the first is named), or no pair at all.
    """  # fmt: skip
    if subset is not None:
        subsets.opened(subset)  # a list that cannot be used is told before a shard is read
    threads = ADDRESS_THREADS if any(isinstance(path, Address) for path in paths) else INDEX_THREADS
    with ThreadPoolExecutor(threads) as pool:
        looked_at = list(pool.map(lambda path: _look(path, caption_field, subset), paths))
    problems = [problem for _, problem in looked_at if problem]
    if len(problems) > allow_missing * len(paths):
        more = f" ({len(problems)} of {len(paths)} shards are bad)" if len(problems) > 1 else ""
        raise DataError(problems[0] + more)
    for problem in problems:
        log.warning("%s", problem)
    shards = [shard for shard, _ in looked_at if shard is not None]
    source = TarSource(shards, caption_field, spec, max_samples, subset)
    source.problems = problems
    source.counts["bad_shards"] = len(problems)
    if not len(source) and problems:
        raise DataError(problems[0])
    if not len(source) and subset is not None and source.counts["not_listed"]:
        raise subsets.none_found(spec, subset, source.counts)
    if not len(source):
        drops = ", ".join(f"{name} {count}" for name, count in source.counts.items() if count) or "nothing in it"
        raise DataError(
            explain(spec, expected=f"pairs of a picture and a .{caption_member(caption_field)} member",
                    found=f"0 of them ({drops})", do="check the member names and config.data.caption_field")
        )  # fmt: skip
    return source


def _look(path: Location, caption_field: str, subset: Subset | None) -> tuple[_Shard | None, str]:
    """What a source keeps of a shard and what is wrong with the shard, one line or ""."""
    member = caption_member(caption_field)
    try:
        index = index_shard(path, member)
    except DataError as error:
        return None, str(error)
    problem = shard_problem(index)
    if index.counts["no_end_marker"] and not problem:
        log.warning("%s has no end marker: taken as whole with its %d samples", path, index.groups)
    if subset is None:
        return _Shard(path, index.sha256, "", len(index), index.counts), problem
    rows = subsets.shard_rows(index, index_file(path, member), subset)
    counts = {"not_listed": len(index) - rows.hits, "without_uid": rows.without_uid}
    return _Shard(path, index.sha256, rows.sha256, len(rows.rows), index.counts | counts), problem


def shard_problem(index: Index) -> str:
    """One line that names a damaged shard, what is wrong with it and what to do; "" for a whole one."""
    problem = index.problem()
    if not problem:
        return ""
    do = "fetch the shard again, or correct the announced count if the shard is whole"
    return explain(str(index.path), expected="a whole tar shard", found=problem, do=do)
