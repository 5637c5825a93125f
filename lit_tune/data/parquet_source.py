"""Pairs by number from Parquet files that hold the pictures themselves, as Hugging Face data sets do.

A row group is the least that can be read, so the groups of the last few reads are kept. In shuffled order that is
seldom the right group: for training on much data, shards in tar or ArrayRecord files are the better form.
"""

import bisect
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lit_tune.data.file_digest import file_sha256
from lit_tune.data.pair_files import PairFile, PairFiles, finished, look_at
from lit_tune.data.sample import BadSample, Sample
from lit_tune.data.tar_source import captions_of, keep_usable
from lit_tune.errors import ConfigError, DataError, explain

IMAGE = "image"
KEYS = ("key", "uid")  # columns that name a pair, the winning one first; the row number without either
CAPTIONS = ("caption", "text", "captions")  # what "txt" stands for, the winning one first
LARGEST_GROUP = 1 << 30  # bytes of a row group, unpacked; it lies in memory as a whole
KEPT_BYTES = 256 << 20  # of row groups that a process keeps; one is always kept


@dataclass(frozen=True)
class _File:
    """An open file: its footer and which columns are what."""

    path: Path
    footer: pq.FileMetaData
    starts: tuple[int, ...]  # first row of every row group
    captions: str
    key: str  # "" for the row number
    meta: tuple[str, ...]

    def group(self, place: int) -> int:
        """Number of the row group that holds row `place`."""
        return bisect.bisect_right(self.starts, place) - 1

    def read(self, group: int, columns: tuple[str, ...]) -> pa.Table:
        """Some columns of a row group; a handle of its own for each read, as threads must not share one."""
        with pq.ParquetFile(self.path, metadata=self.footer) as file:
            return file.read_row_group(group, columns=list(columns))


class ParquetSource(PairFiles[_File]):
    """The rows of Parquet files with an `image` column (bytes, or a struct with `bytes`) and captions.

    `caption_field` "txt" takes the column caption, text or captions, else the column of that name; a list column gives
    several captions. Other columns of texts, numbers and booleans are the sample's meta.
    """

    def _forget(self) -> None:
        super()._forget()
        self._groups: OrderedDict[tuple[int, int, tuple[str, ...]], pa.Table] = OrderedDict()
        self._groups_lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if not name.startswith("_groups")}

    def __getitem__(self, i: int) -> Sample:
        file, place = self._find(i)
        row = self._row(i, (IMAGE, file.captions, *([file.key] if file.key else []), *file.meta))
        meta = {name: row[name] for name in file.meta}
        return Sample(_key(file, place, row), _image(row), _captions(file, row), meta)

    def pair(self, i: int, max_image_bytes: int) -> tuple[bytes, tuple[str, ...]]:
        """Encoded picture and captions of pair `i`. Raises BadSample."""
        file, _ = self._find(i)
        row = self._row(i, (IMAGE, file.captions))
        image = _image(row)
        if len(image) > max_image_bytes:
            raise BadSample("too_many_bytes")
        return image, _captions(file, row)

    def captions(self, i: int) -> tuple[str, ...]:
        """The usable captions of pair `i`. Raises BadSample."""
        file, _ = self._find(i)
        return _captions(file, self._row(i, (file.captions,)))

    def describe(self, i: int) -> tuple[str, str]:
        """(file name, key) of pair `i`; where it cannot be read its row number stands for the key."""
        file, place = self._find(i)
        try:
            return file.path.name, _key(file, place, self._row(i, (file.key,)) if file.key else {})
        except BadSample:
            return file.path.name, str(place)

    def _open(self, file: PairFile) -> _File:
        return _opened(file.path, self.caption_field)

    def _row(self, i: int, columns: tuple[str, ...]) -> dict[str, Any]:
        """Some columns of pair `i`."""
        file, place = self._find(i)
        group = file.group(place)
        table = self._table(self._place(i)[0], file, group, columns)
        return table.slice(place - file.starts[group], 1).to_pylist()[0]

    def _table(self, number: int, file: _File, group: int, columns: tuple[str, ...]) -> pa.Table:
        """Some columns of a row group, from the last few that were read or from the file."""
        name = (number, group, columns)
        with self._groups_lock:
            table = self._groups.get(name)
            if table is not None:
                self._groups.move_to_end(name)
                return table
        try:
            table = file.read(group, columns)  # outside the lock: other threads may go on with what is there
        except (OSError, pa.ArrowException) as error:
            raise BadSample("unreadable") from error
        with self._groups_lock:
            self._groups[name] = table
            while len(self._groups) > 1 and sum(kept.nbytes for kept in self._groups.values()) > KEPT_BYTES:
                self._groups.popitem(last=False)
        return table


def open_parquet(
    paths: Sequence[Path], spec: str, caption_field: str, allow_missing: float = 0.0, max_samples: int | None = None
) -> ParquetSource:
    """The source over Parquet files; each is read once to hash it where the cache does not know it yet.

    Args:
        paths: the files, in order.
        spec: what the user wrote.
        caption_field: see ParquetSource.
        allow_missing: share of the files that may be missing or damaged.
        max_samples: use only the first so many pairs.

    Raises:
        ConfigError: a file without pictures or without that caption column.
        DataError: too many bad files (the first is named), or no pair at all.
    """

    def look(path: Path) -> PairFile:
        sha256 = file_sha256(path)  # first, as it says best what is wrong with a missing file
        return PairFile(path, _opened(path, caption_field).footer.num_rows, sha256)

    files, problems = look_at(paths, look, allow_missing)
    source = ParquetSource(files, caption_field, spec, max_samples)
    finished(source, problems)
    return source


def _opened(path: Path, caption_field: str) -> _File:
    """A file's footer and columns, checked."""
    try:
        with pq.ParquetFile(path) as file:
            footer, schema = file.metadata, file.schema_arrow
    except (OSError, pa.ArrowException) as error:
        found, do = str(error).splitlines()[0], "fetch the file again"
        raise DataError(explain(str(path), expected="a whole Parquet file", found=found, do=do)) from error
    _check_image(path, schema)
    captions = _caption_column(path, schema, caption_field)
    starts = [0]
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        if group.total_byte_size > LARGEST_GROUP:
            found = f"one of {group.total_byte_size} bytes"
            do = "write it again with fewer rows a group"
            raise DataError(explain(str(path), expected=f"row groups up to {LARGEST_GROUP} bytes", found=found, do=do))
        starts.append(starts[-1] + group.num_rows)
    key = next((name for name in KEYS if name in schema.names), "")
    meta = [field.name for field in schema if _is_scalar(field.type) and field.name not in (captions, key, IMAGE)]
    return _File(path, footer, tuple(starts[:-1]), captions, key, tuple(meta))


def _check_image(path: Path, schema: pa.Schema) -> None:
    """The file must hold encoded pictures, not their addresses."""
    kind = schema.field(IMAGE).type if IMAGE in schema.names else None
    if kind is not None and pa.types.is_struct(kind):
        kind = kind.field("bytes").type if kind.get_field_index("bytes") >= 0 else None
    if kind is not None and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        return
    found = ", ".join(f"{field.name} ({field.type})" for field in schema)
    do = "name files that hold pictures"
    if {"status", "url"} <= set(schema.names):
        do = "name the .tar shards: this is the list that img2dataset writes beside them"
    expected = "a column image with encoded pictures (binary, or a struct with bytes)"
    raise ConfigError(explain(str(path), expected=expected, found=found, do=do))


def _caption_column(path: Path, schema: pa.Schema, caption_field: str) -> str:
    """The column that holds the captions."""
    wanted = CAPTIONS if caption_field == "txt" else (caption_field,)
    for name in wanted:
        if name in schema.names and name != IMAGE:
            return name
    found = ", ".join(schema.names)
    do = "set config.data.caption_field to the column with the captions"
    raise ConfigError(explain(str(path), expected=f"a column {' or '.join(wanted)}", found=found, do=do))


def _is_scalar(kind: pa.DataType) -> bool:
    """Whether values of a column are plain texts, numbers or booleans."""
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_floating,
             pa.types.is_boolean)  # fmt: skip
    return any(test(kind) for test in tests)


def _key(file: _File, place: int, row: dict[str, Any]) -> str:
    """Name of a row."""
    value = row[file.key] if file.key else None
    return str(place) if value is None else str(value)


def _image(row: dict[str, Any]) -> bytes:
    """Encoded picture of a row."""
    value = row[IMAGE]
    image = value["bytes"] if isinstance(value, dict) else value
    if not image:
        raise BadSample("empty_image")
    return image


def _captions(file: _File, row: dict[str, Any]) -> tuple[str, ...]:
    """The usable captions of a row."""
    return keep_usable(captions_of(row[file.captions]))
