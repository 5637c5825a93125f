"""Frozen text vectors on disk: each distinct caption once, read back by sample and caption number. No jax.

A cache is a folder:

    vectors.npy      (u, d)            one unit row a distinct caption: float32, int8, or bfloat16 as uint16 words
    rows.npy         int64 (captions,) row of each caption of each sample, samples one after the other
    offsets.npy      int64 (n + 1,)    captions of sample i are rows[offsets[i] : offsets[i + 1]]
    caption_ids.npy  uint32 (n, 2)     what tells two samples' caption sets apart (decides which pairs are no negatives)
    cache.json       format, what the vectors were made with and from, counts, digests of the files above

A large one has its vectors in several files, parts/00000/vectors.npy and so on; rows are numbered through them all. A
cache is written beside its place and renamed, so it is whole or absent. `cache_build` makes it from a text tower,
`cache_outside` from vectors of any other model; `cache_identity` says whether it is the one that is wanted.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lit_tune.errors import ConfigError, explain
from lit_tune.text import cache_storage

FORMAT = 2
VECTORS = "vectors.npy"
ARRAYS = {"rows": ("<i8", 1), "offsets": ("<i8", 1), "caption_ids": ("<u4", 2)}
KEYS = {"tower", "data", "dtype", "counts", "vectors", "files"}  # of cache.json


@dataclass(frozen=True)
class TextCache:
    """An open cache; its arrays are memory-mapped, so that processes on one machine share them.

    Attributes:
        folder: where it is.
        vectors: (u, d) as stored, one array a file; read rows through `vector` or `take`, which give unit float32 rows.
        rows, offsets, caption_ids: as in the module's description.
        info: cache.json.
    """

    folder: Path
    vectors: tuple[np.ndarray, ...]
    rows: np.ndarray
    offsets: np.ndarray
    caption_ids: np.ndarray
    info: dict[str, Any]

    @classmethod
    def open(cls, folder: Path | str) -> "TextCache":
        """The cache in a folder.

        Raises:
            ConfigError: it is no cache, of another format, or its files do not fit each other.
        """
        folder = Path(folder)
        info = read_info(folder)
        try:
            if isinstance(info, str):
                raise ValueError(info)
            arrays = {name: _open_array(folder / f"{name}.npy", *kind) for name, kind in ARRAYS.items()}
            kind = cache_storage.DTYPES[info["dtype"]], 2
            vectors = tuple(_open_array(folder / name, *kind) for name in info["vectors"])
            _check_fit(vectors, **arrays)
        except ValueError as fault:
            do = "delete the folder and run `lit-tune cache-text` again"
            raise ConfigError(explain(f"text cache {folder}", expected="a whole cache", found=fault, do=do)) from fault
        return cls(folder, vectors, info=info, **arrays)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.offsets) - 1

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by name: a worker process maps the files itself instead of being sent their content."""
        return TextCache.open, (self.folder,)

    @cached_property
    def ends(self) -> np.ndarray:
        """int64, the number of the first row after each file of vectors."""
        return np.cumsum([len(part) for part in self.vectors])

    @property
    def unique(self) -> int:
        """Number of distinct captions, that is rows of `vectors`."""
        return int(self.ends[-1])

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return self.vectors[0].shape[1]

    def captions(self, i: int) -> int:
        """How many captions sample i has."""
        return int(self.offsets[i + 1] - self.offsets[i])

    def vector(self, i: int, j: int) -> np.ndarray:
        """(d,) float32 unit vector of caption j of sample i."""
        if not 0 <= j < self.captions(i):
            raise IndexError(f"sample {i} has {self.captions(i)} captions, none is number {j}")
        return self.take(int(self.rows[self.offsets[i] + j]))

    def take(self, rows: np.ndarray | int) -> np.ndarray:
        """(..., d) float32 unit vectors of rows of `vectors`.

        Renormalised in float32: what is stored may be rounded, the loss wants exact unit rows.
        """
        if len(self.vectors) == 1:
            return cache_storage.unpack(self.vectors[0][rows])
        wanted = np.asarray(rows)
        files = np.searchsorted(self.ends, wanted, side="right")
        found = np.empty((*wanted.shape, self.dim), self.vectors[0].dtype)
        for file in np.unique(files):
            here = files == file
            found[here] = self.vectors[file][wanted[here] - (self.ends[file] - len(self.vectors[file]))]
        return cache_storage.unpack(found)

    def caption_id(self, i: int) -> np.ndarray:
        """(2,) uint32 identity of sample i's set of captions."""
        return np.asarray(self.caption_ids[i], np.uint32)


def read_info(folder: Path) -> dict[str, Any] | str:
    """cache.json, or what is wrong with it."""
    try:
        info = json.loads((folder / "cache.json").read_text())
        if info["format"] != FORMAT:
            return f"format {info['format']}, this version reads {FORMAT}"
        return info if set(info) >= KEYS else "an incomplete cache.json"
    except FileNotFoundError:
        return "no cache.json"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"an unreadable cache.json ({type(error).__name__})"


def _open_array(path: Path, dtype: str, ndim: int) -> np.ndarray:
    """The memory-mapped array. Raises ValueError with what is wrong with it."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path.name} unreadable ({type(error).__name__})") from error
    if found.dtype != np.dtype(dtype) or found.ndim != ndim:
        raise ValueError(f"{path.name} is {found.dtype} with {found.ndim} axes")
    return found


def _check_fit(vectors: tuple[np.ndarray, ...], rows: np.ndarray, offsets: np.ndarray, caption_ids: np.ndarray) -> None:
    """ValueError with how the arrays disagree, if they do."""
    if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != len(rows) or np.any(np.diff(offsets) < 0):
        raise ValueError("offsets.npy does not divide rows.npy")
    if caption_ids.shape != (len(offsets) - 1, 2):
        raise ValueError(f"caption_ids.npy has shape {caption_ids.shape} for {len(offsets) - 1} samples")
    if len({part.shape[1] for part in vectors}) != 1:
        raise ValueError("vectors of different widths")
    if len(rows) and not 0 <= rows.min() <= rows.max() < sum(map(len, vectors)):
        raise ValueError("rows.npy points outside vectors.npy")
