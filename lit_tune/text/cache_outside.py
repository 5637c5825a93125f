"""A text cache from vectors of any text model, made elsewhere: matched with the samples, no text tower needed. No jax.

Memory: 40 bytes a row of the file, 24 a caption and one block of vectors; the vectors themselves are streamed.
"""

import array
import hashlib
import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lit_tune import fetch
from lit_tune.data.captions import caption_id
from lit_tune.data.sample import Source, uid_of
from lit_tune.errors import DataError, explain
from lit_tune.text import cache_storage
from lit_tune.text.cache import VECTORS, TextCache
from lit_tune.text.cache_identity import data_identity, usable
from lit_tune.text.cache_writing import no_captions, save_arrays, write_info
from lit_tune.text.vector_table import VectorTable
from lit_tune.text.weights import sha256_of

SHOWN = 3  # samples without a vector that are named
CHUNK = 4_096  # samples looked up together


def build_from(
    source: Source, table: VectorTable, folder: Path, dtype: str, allow_missing: float = 0.0
) -> TextCache:
    """The cache of a source's captions with vectors from a file; read where the folder has it already.

    Args:
        source: the training pairs.
        table: the vectors; they need not be unit vectors.
        folder: where the cache goes.
        dtype: how vectors are stored, one of `cache_storage.DTYPES`.
        allow_missing: share of the samples that may have no vector; training puts others in their place.

    Raises:
        ConfigError: the folder holds another cache, or something else.
        DataError: too many samples without a vector (the first are named), or a vector that has no direction.
    """
    want = {"tower": {"vectors_sha256": sha256_of(table.path), "match": table.match},
            "data": data_identity(source), "dtype": dtype}  # fmt: skip
    target = folder.expanduser()
    with fetch.lock(target):
        if not usable(target, want):
            found = match(source, table)
            _check_missing(source, table, found, allow_missing)
            try:
                with tempfile.TemporaryDirectory(dir=target.parent, prefix=".partial-") as scratch:
                    work = Path(scratch) / "cache"
                    work.mkdir()
                    used, rows = _renumber(found.rows, table.count)
                    _write_vectors(table, used, work / VECTORS, dtype)
                    save_arrays(work, rows, found.offsets, found.caption_ids)
                    write_info(work, want, source.spec, [VECTORS], missing=found.missing)
                    fetch.place(work, target)
            except OSError as error:
                raise fetch.cache_error(target.parent, error) from error
    return TextCache.open(target)


@dataclass
class Match:
    """Which row of the file each caption of each sample has.

    Attributes:
        rows: int64 (captions,) of the file.
        offsets, caption_ids: as in the cache; a sample without a vector has no captions there.
        missing: samples that have captions and no vector.
        first: of these, some numbers.
    """

    rows: np.ndarray
    offsets: np.ndarray
    caption_ids: np.ndarray
    missing: int = 0
    first: list[int] = field(default_factory=list)


def match(source: Source, table: VectorTable) -> Match:
    """Look up every caption (or the sample, for all its captions) in the file; of equal names the first row counts."""
    keys = np.fromiter(map(_digest, map(NORMAL[table.match], table.names())), "S16", count=table.count)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    rows, offsets, ids, missing, first = array.array("q"), array.array("q", [0]), array.array("I"), 0, []
    stream = enumerate(zip(source.caption_sets(), _sample_names(source, table.match), strict=True))
    while chunk := list(itertools.islice(stream, CHUNK)):
        wanted = [name for _, (captions, one) in chunk for name in (captions if one is None else [one] * len(captions))]
        found = iter(_look_up(list(map(NORMAL[table.match], wanted)), keys, order))
        for i, (captions, _) in chunk:
            own = [next(found) for _ in captions]
            if -1 in own:
                missing, own = missing + 1, []
                first += [i] * (len(first) < SHOWN)
            rows.extend(own)
            offsets.append(len(rows))
            ids.extend(caption_id(captions).tolist())
    return Match(np.asarray(rows, "<i8"), np.asarray(offsets, "<i8"), np.asarray(ids, "<u4").reshape(-1, 2), missing,
                 first)  # fmt: skip


def _plain_uid(uid: str) -> str:
    """A uid as it is compared: DataComp's are 32 hex digits, of which an index keeps the number."""
    digits = uid.strip().lower()
    return digits.zfill(32) if digits and not digits.strip("0123456789abcdef") else digits


NORMAL: dict[str, Callable[[str], str]] = {"uid": _plain_uid, "key": str, "caption": str.strip}


def _sample_names(source: Source, by: str) -> Iterator[str | None]:
    """What the file calls each sample; None where it goes by captions."""
    if by == "caption":
        yield from itertools.repeat(None, len(source))
    elif by == "key":
        yield from (source.describe(i)[1] for i in range(len(source)))
    else:
        yield from (uid_of(source, i) for i in range(len(source)))


def _digest(name: str) -> bytes:
    """16 bytes that stand for a name."""
    return hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=16).digest()


def _look_up(names: list[str], keys: np.ndarray, order: np.ndarray) -> list[int]:
    """The row of each name in the file, -1 where there is none."""
    wanted = np.fromiter(map(_digest, names), "S16", count=len(names))
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    named = np.fromiter(map(bool, names), bool, count=len(names))  # a sample without uid is not one with uid ""
    return np.where((keys[place] == wanted) & named, order[place], -1).tolist()


def _check_missing(source: Source, table: VectorTable, found: Match, allow_missing: float) -> None:
    """DataError where too many samples have no vector; also where none has one."""
    names = ", ".join("/".join(source.describe(i)) for i in found.first)
    if found.missing > allow_missing * len(source):
        raise DataError(explain(f"--from {table.path}", expected=f"a vector for each {table.match} of {len(source):,} "
                                f"samples, at most {allow_missing:.3%} without",
                                found=f"{found.missing:,} samples without (such as {names})",
                                do="add them, choose another --match, or raise --allow_missing"))  # fmt: skip
    if not len(found.rows):
        raise no_captions(len(source))


def _renumber(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(bool (count,), which rows of the file are used; the rows counted among these)."""
    used = np.zeros(count, bool)
    used[rows] = True
    return used, np.cumsum(used)[rows] - 1


def _write_vectors(table: VectorTable, used: np.ndarray, path: Path, dtype: str) -> None:
    """Stream the used vectors into a cache's file, as unit rows."""
    vectors, done, start = None, 0, 0
    for block in table.blocks():
        here = used[start : start + len(block)]
        chosen, start = block[here], start + len(block)
        lengths = np.linalg.norm(chosen.astype(np.float64), axis=1)
        bad = ~(np.isfinite(lengths) & (lengths > 0))
        if bad.any():
            row = start - len(block) + int(np.flatnonzero(here)[np.argmax(bad)])
            raise DataError(explain(f"{table.path} row {row}", expected="a finite vector that is not all zeros",
                                    found=f"length {lengths[np.argmax(bad)]}", do="correct or remove it"))
        if vectors is None:
            shape = int(used.sum()), block.shape[1]
            needed = shape[0] * cache_storage.row_bytes(shape[1], dtype)
            if shutil.disk_usage(path.parent).free < needed:
                raise OSError(28, f"no room for {needed / 1e9:.1f} GB of text vectors")
            vectors = np.lib.format.open_memmap(path, mode="w+", dtype=cache_storage.DTYPES[dtype], shape=shape)
        unit = np.asarray(chosen / lengths[:, None], np.float32)
        vectors[done : done + len(chosen)] = cache_storage.pack(unit, dtype)
        done += len(chosen)
    vectors.flush()
