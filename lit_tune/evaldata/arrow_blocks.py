"""Columns of Arrow and Parquet files block by block: Arrow's are mapped into memory, of Parquet a few are kept."""

import bisect
import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int

from lit_tune.data.sample import BadSample
from lit_tune.evaldata.pieces import damaged

KEPT = 4  # blocks at a time; a Parquet row group of pictures has some 100 MB
STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"  # a writer that was closed ends an Arrow stream so


@dataclass(frozen=True)
class Block:
    """A record batch or row group.

    Attributes:
        file: where it lies.
        first: its first row, counted in the file.
        rows: how many it has.
        schema: of the file.
        column: name -> its column as one array.
    """

    file: Path
    first: int
    rows: int
    schema: pa.Schema
    column: Callable[[str], pa.Array]


def read_blocks(file: Path) -> list[Block]:
    """The blocks of an Arrow stream, an Arrow file or a Parquet file, told by content.

    Raises:
        DataError: the file cannot be read, or is cut.
    """
    try:
        with open(file, "rb") as opened:
            head = opened.read(6)
        if head.startswith(b"PAR1"):
            return _parquet(file)
        return _arrow(file, head == b"ARROW1")
    except (pa.ArrowException, OSError) as error:
        raise damaged(file, "an Arrow or Parquet file", str(error)[:200]) from error


def _parquet(file: Path) -> list[Block]:
    """The row groups of a Parquet file."""
    opened = pq.ParquetFile(file, memory_map=True, page_checksum_verification=True)
    counts = [opened.metadata.row_group(group).num_rows for group in range(opened.metadata.num_row_groups)]
    firsts = [0, *itertools.accumulate(counts)]
    lock = threading.Lock()  # one reader, several threads

    def column(group: int) -> Callable[[str], pa.Array]:
        def read(name: str) -> pa.Array:
            with lock:
                found = opened.read_row_group(group, columns=[name]).column(name).combine_chunks()
            return found if isinstance(found, pa.Array) else pa.concat_arrays(found.chunks)

        return read

    schema = opened.schema_arrow
    return [Block(file, firsts[group], rows, schema, column(group)) for group, rows in enumerate(counts)]


def _arrow(file: Path, is_file: bool) -> list[Block]:
    """The record batches of an Arrow stream or file."""
    mapped = pa.memory_map(str(file))
    if not is_file and (mapped.size() < 8 or mapped.read_at(8, mapped.size() - 8) != STREAM_END):
        # read_all() would take a stream that breaks off between two batches for a whole one
        raise damaged(file, "an Arrow stream with its end marker", "none: the file is cut or still being written")
    mapped.seek(0)
    table = (pa.ipc.open_file(mapped) if is_file else pa.ipc.open_stream(mapped)).read_all()
    batches = table.to_batches()
    firsts = [0, *itertools.accumulate(batch.num_rows for batch in batches)]
    return [Block(file, firsts[i], one.num_rows, table.schema, one.column) for i, one in enumerate(batches)]


class BlockPictures:
    """Pictures in a column of blocks.

    Args:
        blocks: the blocks.
        column: name of the column.
        counts: pictures in each block.
        rows: int64 (n,), places of the pictures among all of them.
        names: what each is called in messages.
    """

    def __init__(
        self, blocks: Sequence[Block], column: str, counts: Sequence[int], rows: Int[np.ndarray, " n"],
        names: Sequence[str],
    ) -> None:  # fmt: skip
        self._blocks, self._column, self._rows, self._names = list(blocks), column, rows, list(names)
        self._ends = list(itertools.accumulate(counts))
        self._kept: OrderedDict[int, tuple[pa.Array, pa.Array | None]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> bytes:
        row = int(self._rows[i])
        number = bisect.bisect_right(self._ends, row)
        place = row - (self._ends[number - 1] if number else 0)
        try:
            data, paths = self._encoded(number)
            if data[place].is_valid:
                return data[place].as_py()
            return locate(paths[place].as_py(), self._blocks[number].file).read_bytes()
        except (pa.ArrowException, OSError) as error:
            raise BadSample("unreadable") from error

    def describe(self, i: int) -> str:
        """File and row of picture `i`."""
        return self._names[i]

    def _encoded(self, number: int) -> tuple[pa.Array, pa.Array | None]:
        """Bytes and paths of a block; the block unused for longest makes room."""
        with self._lock:  # held while a block is read: two threads that want the same one read it once
            if number not in self._kept:
                self._kept[number] = encoded(self._blocks[number].column(self._column))
            self._kept.move_to_end(number)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return self._kept[number]


def encoded(column: pa.Array) -> tuple[pa.Array, pa.Array | None]:
    """(bytes, paths) of a column of encoded pictures: binary, structs of bytes and path, or lists of these, flat."""
    if is_list(column.type):
        column = column.flatten()
    if not pa.types.is_struct(column.type):
        return column, None
    index = {column.type.field(i).name: i for i in range(column.type.num_fields)}
    parts = column.flatten()  # unlike field(), it minds rows that are null as a whole
    return parts[index["bytes"]], parts[index["path"]] if "path" in index else None


def locate(path: str, table: Path) -> Path:
    """The file that a row names instead of holding the picture.

    `datasets` leaves such rows where a loading script unpacked an archive: absolute paths below
    hf_cache/downloads/extracted. That cache may have moved since; then the part from downloads/ on is looked for above
    the table.

    Args:
        path: what the row says.
        table: the file the row is in.

    Raises:
        FileNotFoundError: there is no such file.
    """
    wanted = Path(path)
    if wanted.is_absolute() and wanted.is_file():
        return wanted
    if "downloads" in wanted.parts and ".." not in wanted.parts:
        tail = Path(*wanted.parts[wanted.parts.index("downloads") :])
        found = next((folder / tail for folder in table.absolute().parents if (folder / tail).is_file()), None)
        if found is not None:
            return found
    raise FileNotFoundError(path)


def is_pictures(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold an encoded picture a row."""
    if pa.types.is_struct(kind):
        names = [kind.field(i).name for i in range(kind.num_fields)]
        return "bytes" in names and _is_binary(kind.field("bytes").type)
    return _is_binary(kind)


def is_list(kind: pa.DataType) -> bool:
    """Whether a type is lists of another."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
