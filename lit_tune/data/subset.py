"""The pairs of a shard that a uid list names: row numbers, found once for each shard and list, kept in the cache."""

import hashlib
import logging
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from lit_tune import files
from lit_tune.data import uid_files, uids
from lit_tune.data.tar_index import Index
from lit_tune.errors import ConfigError, explain

MAGIC = b"LTROWS\0"
VERSION = 1
HEADER = np.dtype([("magic", "S8"), ("version", "<u4"), ("rows", "<u4"), ("hits", "<u8"), ("without_uid", "<u8"),
                   ("list_rows", "<u8"), ("sha256", "V32")])  # fmt: skip

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subset:
    """A uid list and what a uid that stands in it several times means.

    Attributes:
        path: of the list, see `uid_files.open_list`.
        repeats: "once": one sample; "multiplicity": as many samples as rows.
    """

    path: str
    repeats: str


@dataclass(frozen=True)
class Rows:
    """A shard's pairs that are in a subset.

    Attributes:
        rows: uint32, numbers of pairs in the index, rising; one that counts n times stands there n times.
        hits: pairs that the list names.
        without_uid: pairs without a uid; no list names them.
        list_rows: rows of the list that these pairs account for.
        sha256: of `rows`, hex.
    """

    rows: np.ndarray
    hits: int
    without_uid: int
    list_rows: int
    sha256: str


def of_config(data: Any) -> Subset | None:
    """The subset that `config.data` asks for, None for all pairs."""
    return Subset(data.uid_list, data.uid_repeats) if data.uid_list else None


def opened(subset: Subset) -> uids.UidList:
    """The subset's list, opened and checked once in this process.

    Raises:
        ConfigError: see `uid_files.open_list`.
    """
    return _opened(subset.path, *_state(subset.path))


@lru_cache(maxsize=1)
def _opened(path: str, size: int, mtime_ns: int) -> uids.UidList:
    """The list in its present state."""
    del size, mtime_ns
    return uid_files.open_list(path)


def _state(path: str) -> tuple[int, int]:
    """Size and time of change of a list; (0, 0) where there is none, which opening it will tell."""
    try:
        state = os.stat(Path(path).expanduser())
    except OSError:
        return 0, 0
    return state.st_size, state.st_mtime_ns


def select(index: Index, listed: uids.UidList, repeats: str) -> Rows:
    """The pairs of one index that are in a list."""
    records = index.records
    counts = listed.counts(records["uid_high"], records["uid_low"])
    rows = np.arange(len(records), dtype="<u4")
    rows = np.repeat(rows, counts) if repeats == "multiplicity" else rows[counts > 0]
    without = int(((records["uid_high"] == 0) & (records["uid_low"] == 0)).sum())
    return Rows(rows, int((counts > 0).sum()), without, int(counts.sum()), hashlib.sha256(rows.tobytes()).hexdigest())


def shard_rows(index: Index, index_file: Path, subset: Subset) -> Rows:
    """`select` for one shard, from the cache or made now and put there.

    Args:
        index: of the shard.
        index_file: where the cache keeps it; its name stands for the shard in its present state.
        subset: the list.

    Raises:
        ConfigError: see `uid_files.open_list`.
    """
    file = _rows_file(index_file, subset)
    found = _load(file)
    if found is None:
        found = select(index, opened(subset), subset.repeats)
        try:
            _save(found, file)
        except OSError as error:  # costs time at the next start, nothing else
            log.warning("%s", explain(str(file), expected="a writable cache", found=error, do="set LIT_TUNE_CACHE"))
    return found


def has_rows(index_file: Path, subset: Subset) -> bool:
    """Whether the cache holds the rows of a shard."""
    return _load(_rows_file(index_file, subset)) is not None


def _rows_file(index_file: Path, subset: Subset) -> Path:
    """Where the cache keeps them, beside the index."""
    # As with shards, path, size and time of change stand in for the list's content.
    name = f"{VERSION}|{os.path.abspath(os.path.expanduser(subset.path))}|{_state(subset.path)}|{subset.repeats}"
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return index_file.with_name(f"{index_file.stem}-{digest}.rows")


def none_found(spec: str, subset: Subset, counts: dict[str, int]) -> ConfigError:
    """The error for a subset without a pair."""
    return ConfigError(
        explain(spec, expected=f"pairs whose uid is in {subset.path}",
                found=f"none ({counts['not_listed']} are not, of which {counts['without_uid']} have no uid)",
                do="check that the list belongs to these shards, and that their .json members hold a uid")
    )  # fmt: skip


def _save(found: Rows, file: Path) -> None:
    """Write rows so that readers see all of them or nothing."""
    header = np.zeros((), HEADER)
    header["magic"], header["version"], header["rows"] = MAGIC, VERSION, len(found.rows)
    header["hits"], header["without_uid"], header["list_rows"] = found.hits, found.without_uid, found.list_rows
    header["sha256"] = np.void(bytes.fromhex(found.sha256))
    files.write_whole(file, header.tobytes() + found.rows.tobytes())


def _load(file: Path) -> Rows | None:
    """The rows that `_save` wrote, mapped; None where there are none of ours."""
    try:
        raw = np.memmap(file, np.uint8, "r").view(np.ndarray)
    except (OSError, ValueError):
        return None
    if len(raw) < HEADER.itemsize:
        return None
    header = raw[: HEADER.itemsize].view(HEADER)[0]
    written_as = (bytes(header["magic"]).ljust(8, b"\0"), int(header["version"]))
    if written_as != (MAGIC.ljust(8, b"\0"), VERSION) or len(raw) != HEADER.itemsize + 4 * int(header["rows"]):
        return None
    return Rows(raw[HEADER.itemsize :].view("<u4"), int(header["hits"]), int(header["without_uid"]),
                int(header["list_rows"]), header["sha256"].tobytes().hex())
