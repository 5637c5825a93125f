"""Tables of text vectors that another program wrote: .parquet or .npz, read in blocks, never whole. No jax.

    .parquet   a column `uid`, `key` or `caption` (text) and a column `vector` (a list of numbers, all rows as long)
    .npz       `ids` (n,) and `embeddings` (n, d), as `lit-tune embed` writes them; a .parquet with these columns too
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float

from lit_tune import vector_files
from lit_tune.errors import ConfigError, DataError, explain

NAMED_BY = ("uid", "key", "caption")  # what a row may be of
KEYS_AT_ONCE = 65_536
BLOCK = 64 << 20  # bytes of float32 vectors read at a time


class VectorTable:
    """One file of vectors and of what each is of.

    Args:
        path: .parquet or .npz.
        match: one of NAMED_BY; "" takes the column's name, and the caption for `ids`.

    Attributes:
        match: what the rows are of.
        count: rows.

    Raises:
        ConfigError: no such file, other columns, or a `match` that the columns contradict.
    """

    def __init__(self, path: Path, match: str = "") -> None:
        self.path = path
        if path.suffix not in vector_files.SUFFIXES:
            raise self._wrong("a .parquet or .npz file", path.name)
        columns = _columns(path) if path.suffix == ".parquet" else ["ids", "embeddings"]
        named = [name for name in NAMED_BY if name in columns]
        self._index = None
        if "vector" not in columns or not named:  # then only what `lit-tune embed` writes is left
            if not {"ids", "embeddings"} <= set(columns):
                raise self._wrong("columns uid, key or caption, and vector", ", ".join(columns) or "none")
            self._index = vector_files.Index(path)
            self.match, self.count = match or "caption", self._index.count
        else:
            if match and match not in named:
                raise self._wrong(f"a column {match}", ", ".join(columns))
            self.match = match or named[0]
            self.count = vector_files.require_pyarrow().parquet.ParquetFile(path).metadata.num_rows
        if not self.count:
            raise self._wrong("rows", "none")

    def names(self) -> Iterator[str]:
        """What each row is of, in file order."""
        if self._index is not None:
            yield from self._index.ids()
            return
        for batch in self._batches(self.match, KEYS_AT_ONCE):
            yield from map(str, batch.column(0).to_pylist())

    def blocks(self) -> Iterator[Float[np.ndarray, "b d"]]:
        """float32 vectors, one block after the other, in file order.

        Raises:
            DataError: a row of another length, or none where a vector should be.
        """
        if self._index is not None:
            for _, block in self._index.blocks():
                yield block
            return
        first = next(self._batches("vector", 1)).column(0)
        dim = len(first[0]) if first[0].is_valid else 0
        start = 0
        for batch in self._batches("vector", max(1, BLOCK // (4 * max(dim, 1)))):
            yield self._rows(batch.column(0), dim, start)
            start += len(batch)

    def _rows(self, column: object, dim: int, start: int) -> np.ndarray:
        """(b, dim) float32 of a column of lists, each of `dim` numbers."""
        lengths = np.asarray(column.value_lengths().fill_null(0)) if hasattr(column, "value_lengths") else None
        fits = column.null_count == 0 if lengths is None else column.null_count == 0 and bool((lengths == dim).all())
        if not fits or dim == 0:
            row = start if lengths is None else start + int(np.argmax(lengths != dim))
            raise DataError(explain(f"{self.path} row {row}", expected=f"a vector of {dim or 'some'} numbers",
                                    found="another length", do="write the file again"))
        values = column.flatten()
        if values.null_count:
            raise DataError(explain(f"{self.path} after row {start}", expected="numbers", found="an empty value in a "
                                    "vector", do="write the file again"))
        return np.asarray(values.to_numpy(zero_copy_only=False), np.float32).reshape(-1, dim)

    def _batches(self, column: str, rows: int) -> Iterator[object]:
        """Record batches of one column."""
        yield from vector_files.require_pyarrow().parquet.ParquetFile(self.path).iter_batches(rows, columns=[column])

    def _wrong(self, expected: str, found: str) -> ConfigError:
        return ConfigError(explain(f"--from {self.path}", expected=expected, found=found, do="see docs/text-cache.md"))


def _columns(path: Path) -> list[str]:
    """The columns of a .parquet."""
    pyarrow = vector_files.require_pyarrow()
    try:
        return pyarrow.parquet.ParquetFile(path).schema_arrow.names
    except (OSError, pyarrow.ArrowInvalid) as error:
        found = "no such file" if isinstance(error, FileNotFoundError) else "another file"
        raise ConfigError(explain(f"--from {path}", expected="a .parquet file", found=found, do="check it")) from error
