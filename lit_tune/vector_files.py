"""Files of ids and unit vectors, .npz or .parquet: written and read in blocks, so that none has to fit into memory.

An .npz holds `ids` (n,) and `embeddings` float32 (n, d), as `numpy.savez` writes them; a .parquet has columns of these
names. Equal content gives equal bytes.
"""

import io
import itertools
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from lit_tune.errors import ConfigError, explain

BLOCK = 64 << 20  # bytes of vectors held at a time
IDS_AT_ONCE = 4096
SUFFIXES = (".npz", ".parquet")
LARGE_IDS = 1 << 30  # bytes; numpy gives every id the room of the longest


def write(file: Path, suffix: str, ids: Callable[[], Iterator[str]], vectors: Float[np.ndarray, "n d"]) -> None:
    """Write a whole file.

    Args:
        suffix: .npz | .parquet.
        ids: gives all n of them, each time anew.
        vectors: may be memory-mapped.
    """
    (_write_parquet if suffix == ".parquet" else _write_npz)(file, ids, vectors)


def npz_ids_bytes(ids: Iterator[str]) -> int:
    """How many bytes the ids take in memory when an .npz is read: numpy pads them all to the longest."""
    lengths = [0, 0]
    for one in ids:
        lengths = [lengths[0] + 1, max(lengths[1], len(one))]
    return 4 * lengths[0] * lengths[1]


def _write_npz(file: Path, ids: Callable[[], Iterator[str]], vectors: Float[np.ndarray, "n d"]) -> None:
    """`numpy.savez` in blocks."""
    longest = max(1, max(map(len, ids()), default=1))
    with zipfile.ZipFile(file, "w") as archive:
        # the padding of ids to the longest goes away in compression; a ZipInfo of its own has no time of writing
        info = zipfile.ZipInfo("ids.npy")
        info.compress_type = zipfile.ZIP_DEFLATED
        with archive.open(info, "w", force_zip64=True) as member:
            _write_header(member, f"<U{longest}", (len(vectors),))
            for some in _chunks(ids(), max(1, min(IDS_AT_ONCE, BLOCK // (4 * longest)))):
                member.write(np.asarray(some, f"<U{longest}").tobytes())
        with archive.open(zipfile.ZipInfo("embeddings.npy"), "w", force_zip64=True) as member:
            _write_header(member, "<f4", vectors.shape)
            for start in range(0, len(vectors), _rows(vectors.shape[1])):
                member.write(np.ascontiguousarray(vectors[start : start + _rows(vectors.shape[1])], "<f4").tobytes())


def _write_header(member: io.BufferedIOBase, dtype: str, shape: tuple[int, ...]) -> None:
    """The header of an .npy file."""
    np.lib.format.write_array_header_1_0(member, {"descr": dtype, "fortran_order": False, "shape": shape})


def _chunks(ids: Iterator[str], size: int) -> Iterator[list[str]]:
    """Lists of `size` ids, the last one shorter."""
    while some := list(itertools.islice(ids, size)):
        yield some


def _rows(dim: int) -> int:
    """Vectors in a block."""
    return max(1, BLOCK // (4 * dim))


def _write_parquet(file: Path, ids: Callable[[], Iterator[str]], vectors: Float[np.ndarray, "n d"]) -> None:
    """One row group a block."""
    pyarrow, rows, names = require_pyarrow(), _rows(vectors.shape[1]), ids()
    kind = pyarrow.list_(pyarrow.float32(), vectors.shape[1])
    schema = pyarrow.schema([("ids", pyarrow.string()), ("embeddings", kind)])
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        for start in range(0, len(vectors), rows):
            block = np.ascontiguousarray(vectors[start : start + rows])
            column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(block.ravel()), vectors.shape[1])
            table = pyarrow.table([pyarrow.array(list(itertools.islice(names, len(block)))), column], schema=schema)
            writer.write_table(table, row_group_size=rows)


def require_pyarrow() -> Any:
    """pyarrow with its parquet part.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(explain("X.parquet", expected="the package pyarrow", found="none",
                                  do="pip install pyarrow, or use X.npz")) from error
    return pyarrow


class Index:
    """A file of ids and unit vectors, read in blocks.

    Args:
        path: .npz or .parquet.

    Attributes:
        count, dim: rows and numbers of a row.

    Raises:
        ConfigError: no such file, or not such a file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = _guarded(path, lambda: (_Parquet if path.suffix == ".parquet" else _Npz)(path))
        self.count, self.dim = self._reader.shape

    def blocks(self) -> Iterator[tuple[int, Float[np.ndarray, "b d"]]]:
        """(number of its first row, vectors) of one block after the other."""
        start, stream = 0, self._reader.blocks()
        while (block := _guarded(self.path, lambda: next(stream, None))) is not None:
            yield start, block
            start += len(block)

    def ids(self) -> Iterator[str]:
        """All ids, in their order."""
        stream = self._reader.ids()
        while (some := _guarded(self.path, lambda: next(stream, None))) is not None:
            yield from some


def _guarded(path: Path, read: Callable[[], Any]) -> Any:
    """What `read` gives; anything that is wrong with the file as one line."""
    try:
        return read()
    except ConfigError:
        raise
    # zipfile, numpy and pyarrow each have errors of their own for broken files; pyarrow's are ValueErrors and OSErrors
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        found = "no such file" if isinstance(error, FileNotFoundError) else "another file"
        raise _wrong(path, found) from error


def _wrong(path: Path, found: str) -> ConfigError:
    """The error of an index that is none."""
    return ConfigError(explain(f"--index {path}", expected="ids (n,) and float32 embeddings (n, d)", found=found,
                               do="make it with `lit-tune embed --out=X.npz`"))


class _Npz:
    """What `Index` needs of an .npz."""

    def __init__(self, path: Path) -> None:
        self._archive = zipfile.ZipFile(path)
        shapes = {}
        for name in ("ids", "embeddings"):
            with self._archive.open(f"{name}.npy") as member:
                shapes[name] = _read_header(member)
        (ids, id_type), (self.shape, kind) = shapes["ids"], shapes["embeddings"]
        if id_type.kind != "U":
            raise ValueError(f"ids of {id_type}")
        if len(ids) != 1 or len(self.shape) != 2 or ids[0] != self.shape[0] or kind != np.float32:
            raise _wrong(path, f"ids {ids} and {kind} embeddings {self.shape}")

    def blocks(self) -> Iterator[np.ndarray]:
        """Vectors, one block after the other."""
        for data in self._records("embeddings", _rows(self.shape[1])):
            yield np.frombuffer(data, "<f4").reshape(-1, self.shape[1])

    def ids(self) -> Iterator[list[str]]:
        """Some ids at a time."""
        with self._archive.open("ids.npy") as member:
            kind = _read_header(member)[1]
        for data in self._records("ids", IDS_AT_ONCE):
            yield np.frombuffer(data, kind).tolist()

    def _records(self, name: str, rows: int) -> Iterator[bytes]:
        """The bytes of `rows` rows at a time."""
        with self._archive.open(f"{name}.npy") as member:
            shape, kind = _read_header(member)
            size = kind.itemsize * math.prod(shape[1:])
            for start in range(0, shape[0], rows):
                wanted = size * min(rows, shape[0] - start)
                data = member.read(wanted)
                if len(data) != wanted:
                    raise EOFError(name)
                yield data


def _read_header(member: io.BufferedIOBase) -> tuple[tuple[int, ...], np.dtype]:
    """(shape, dtype) of an .npy file that numpy.savez wrote; the file stands at its data then."""
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, kind = read(member)
    if fortran and len(shape) > 1:
        raise ValueError("stored by columns")
    return shape, kind


class _Parquet:
    """What `Index` needs of a .parquet."""

    def __init__(self, path: Path) -> None:
        self._file = require_pyarrow().parquet.ParquetFile(path)
        kind = self._file.schema_arrow.field("embeddings").type
        self._file.schema_arrow.field("ids")
        if not (hasattr(kind, "list_size") and str(kind.value_type) == "float"):  # rows of one size, float32
            raise ValueError(f"embeddings of {kind}")
        self.shape = self._file.metadata.num_rows, kind.list_size

    def blocks(self) -> Iterator[np.ndarray]:
        """Vectors, one block after the other."""
        for batch in self._file.iter_batches(_rows(self.shape[1]), columns=["embeddings"]):
            yield batch.column(0).flatten().to_numpy(zero_copy_only=False).reshape(-1, self.shape[1])

    def ids(self) -> Iterator[list[str]]:
        """Some ids at a time."""
        for batch in self._file.iter_batches(IDS_AT_ONCE, columns=["ids"]):
            yield [str(one) for one in batch.column(0).to_pylist()]


def names(index: Index, rows: Sequence[int]) -> list[str]:
    """The ids of some rows, in the order asked for."""
    wanted = set(rows)
    last = max(wanted, default=-1)
    found = {row: one for row, one in enumerate(itertools.islice(index.ids(), last + 1)) if row in wanted}
    return [found[row] for row in rows]
