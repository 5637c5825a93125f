"""The forms in which uid lists are published, each opened as a `UidList`; the form is told by content."""

import binascii
import mmap
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from lit_tune.data.uids import BLOCK_ROWS, UidList
from lit_tune.errors import ConfigError, explain

ROW = np.dtype("<u8,<u8")  # (high, low)
UID_DIGITS = 32


def open_list(path: str) -> UidList:
    """The uid list in a file, its form told by content.

    Sorted arrays of dtype u8,u8 are mapped: `.npy`, or the same rows without a header. A parquet file with a column
    `uid` and a text file with one uid a line are read into memory, 16 bytes a row, and sorted.

    Raises:
        ConfigError: no such file, another dtype, a row that is no uid, rows of an array that are not sorted.
    """
    if "://" in path:
        raise ConfigError(explain(path, expected="a file of this machine", found="an address", do="copy it here"))
    file = Path(path).expanduser()
    try:
        with open(file, "rb") as opened:
            head = opened.read(4096)
        size = os.stat(file).st_size
    except OSError as error:
        raise ConfigError(
            explain(path, expected="a uid list", found=error.strerror or error, do="check the path")
        ) from error
    if head.startswith(b"\x93NUMPY"):
        return _npy(file)
    if head.startswith(b"PAR1"):
        return UidList(path, _sorted(_digits(_parquet(file), path)))
    if not head.strip(b"\t\n\r" + bytes(range(32, 127))):
        with open(file, encoding="ascii", errors="replace") as lines:
            return UidList(path, _sorted(_digits((line.strip() for line in lines), path)))
    if size % ROW.itemsize:
        raise _refused(path, f"{size} bytes that are none of them")
    return _map(file, 0, path)


def _npy(file: Path) -> UidList:
    """The rows of a .npy."""
    try:
        rows = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:  # cut, or an array of Python objects
        raise _refused(str(file), str(error)) from error
    if rows.dtype != ROW or rows.ndim != 1:
        raise _refused(str(file), f"an array of {rows.dtype} and {rows.ndim} dimensions")
    return _map(file, rows.offset, str(file)) if len(rows) else UidList(str(file), np.zeros((0, 2), np.uint64))


def _map(file: Path, start: int, path: str) -> UidList:
    """The list whose rows lie in a file from byte `start` on."""
    with open(file, "rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    # One page for each of the first looks, which are far apart; later a look brings the pages around it, as the next
    # ones of the same search will be there.
    if hasattr(mmap, "MADV_RANDOM"):
        mapped.madvise(mmap.MADV_RANDOM)
    listed = UidList(path, np.frombuffer(mapped, "<u8", offset=start).reshape(-1, 2))
    if hasattr(mmap, "MADV_RANDOM"):
        mapped.madvise(mmap.MADV_NORMAL)
    return listed


def _parquet(file: Path) -> Iterator[str | None]:
    """The column `uid` of a parquet file."""
    import pyarrow as pa
    from pyarrow import parquet  # only here: it takes a quarter of a second

    try:
        table = parquet.ParquetFile(file)
        kind = dict(zip(table.schema_arrow.names, table.schema_arrow.types, strict=True)).get("uid")
        if kind not in (pa.string(), pa.large_string()):
            raise _refused(str(file), f"a parquet file with {'no column uid' if kind is None else f'uid of {kind}'}")
        for batch in table.iter_batches(columns=["uid"]):
            yield from batch.column(0).to_pylist()
    except pa.ArrowException as error:
        raise _refused(str(file), str(error)) from error


def _digits(values: Iterable[str | None], path: str) -> np.ndarray:
    """uint64 (n, 2) of uids as hex digits, left-padded with zeros where there are fewer than 32; "" is passed over."""
    parts, chunk, start = [], [], 1
    for line, value in enumerate(values, 1):
        chunk.append("" if value is None else value)
        if len(chunk) == BLOCK_ROWS:
            parts.append(_chunk(chunk, path, start))
            chunk, start = [], line + 1
    parts.append(_chunk(chunk, path, start))
    return np.concatenate(parts)


def _chunk(values: list[str], path: str, start: int) -> np.ndarray:
    """The same of a few, the first of which is line `start`."""
    padded = [value.zfill(UID_DIGITS) for value in values if value]
    try:
        if max(map(len, padded), default=0) > UID_DIGITS:
            raise ValueError
        raw = binascii.unhexlify("".join(padded))
    except ValueError:  # binascii.Error is one
        for line, value in enumerate(values, start):
            if len(value) > UID_DIGITS or value.strip("0123456789abcdefABCDEF"):
                raise ConfigError(
                    explain(f"{path}, line {line}", expected="a uid of at most 32 hex digits", found=repr(value[:60]),
                            do="write one uid a line")
                ) from None  # fmt: skip
        raise
    return np.frombuffer(raw, ">u8").reshape(-1, 2).astype(np.uint64)


def _sorted(words: np.ndarray) -> np.ndarray:
    """The rows in order."""
    return words[np.lexsort((words[:, 1], words[:, 0]))]


def _refused(path: str, found: str) -> ConfigError:
    """The error for a file that is no uid list."""
    forms = "an array of dtype u8,u8 (.npy or without header), a parquet file with a text column uid, or hex digits"
    return ConfigError(explain(path, expected=forms, found=found, do="write it in one of these forms"))
