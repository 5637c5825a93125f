"""Frozen text vectors on disk: each distinct caption encoded once, read back by sample and caption number. No jax.

A cache is a folder:

    vectors.npy      float32 (u, d)    one unit row a distinct caption (its token ids, prefix and truncation included)
    rows.npy         int64 (captions,) row of each caption of each sample, samples one after the other
    offsets.npy      int64 (n + 1,)    captions of sample i are rows[offsets[i] : offsets[i + 1]]
    caption_ids.npy  uint32 (n, 2)     what tells two samples' caption sets apart (decides which pairs are no negatives)
    cache.json       format, what the vectors were made with and from, counts, digests of the files above

It is written beside its place and renamed, so it is whole or absent; it is used again only where tower and data are the
ones it was made with.
"""

import array
import hashlib
import itertools
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from lit_tune import __version__, fetch, paths
from lit_tune.data.captions import token_caption_id
from lit_tune.errors import ConfigError, explain
from lit_tune.text.weights import sha256_of

FORMAT = 1
ARRAYS = {"vectors": ("<f4", 2), "rows": ("<i8", 1), "offsets": ("<i8", 1), "caption_ids": ("<u4", 2)}
SLAB = 16_384  # captions encoded between two writes
CHUNK = 1_024  # samples whose captions are tokenised together
PROBE = 64  # samples whose captions are part of the data's identity


@runtime_checkable
class CaptionSource(Protocol):
    """What a cache is made from; a `lit_tune.data.sources.Source` is one."""

    fingerprint: str

    def __len__(self) -> int: ...

    def caption_sets(self) -> Iterator[tuple[str, ...]]:
        """The captions of every sample, in index order."""
        ...


@runtime_checkable
class Encoder(Protocol):
    """What makes the vectors; `lit_tune.text.encode.TextEncoder` is one."""

    fingerprint: dict[str, Any]  # JSON values; equal exactly if the vectors are
    dim: int
    tokenizer: Callable[[Sequence[str]], list[np.ndarray]]

    def encode_ids(self, ids: Sequence[np.ndarray], done: Callable[[int], None] | None = None) -> np.ndarray:
        """float32 (n, d) unit rows of token id arrays; `done` is told how many are ready."""
        ...


@dataclass(frozen=True)
class TextCache:
    """An open cache; its arrays are memory-mapped, so that processes on one machine share them.

    Attributes:
        folder: where it is.
        vectors: (u, d) float32, as stored; read rows through `vector` or `take`, which renormalise.
        rows, offsets, caption_ids: as in the module's description.
        info: cache.json.
    """

    folder: Path
    vectors: np.ndarray
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
        info = _read_info(folder)
        fault = info if isinstance(info, str) else ""
        arrays = {}
        for name, (dtype, ndim) in ARRAYS.items() if not fault else ():
            found = _open_array(folder / f"{name}.npy", dtype, ndim)
            fault = fault or (found if isinstance(found, str) else "")
            arrays[name] = found
        fault = fault or _misfit(arrays)
        if fault:
            do = "delete the folder and run `lit-tune cache-text` again"
            raise ConfigError(explain(f"text cache {folder}", expected="a whole cache", found=fault, do=do))
        return cls(folder, info=info, **arrays)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.offsets) - 1

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by name: a worker process maps the files itself instead of being sent their content."""
        return TextCache.open, (self.folder,)

    @property
    def unique(self) -> int:
        """Number of distinct captions, that is rows of `vectors`."""
        return self.vectors.shape[0]

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return self.vectors.shape[1]

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

        Renormalised in float32: what is stored may be rounded (float16 from outside), the loss wants exact unit rows.
        """
        vectors = np.asarray(self.vectors[rows], np.float32)
        return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)

    def caption_id(self, i: int) -> np.ndarray:
        """(2,) uint32 identity of sample i's set of captions."""
        return np.asarray(self.caption_ids[i], np.uint32)


def open_or_build(source: CaptionSource, encoder: Encoder, folder: Path | str | None = None) -> TextCache:
    """The cache of a source's captions, encoded now unless the folder has it already.

    Several processes may call this at once: one builds, the others wait and read.

    Args:
        source: whose captions.
        encoder: the frozen text tower.
        folder: where; None takes a folder of our cache named after tower and data.

    Raises:
        ConfigError: the folder holds a cache made with another tower or other data, or something else altogether.
    """
    want = identity(source, encoder)
    target = Path(folder).expanduser() if folder else default_folder(want)
    if _usable(target, want):
        return TextCache.open(target)
    with fetch.lock(target):
        if not _usable(target, want):  # nobody made it while this process waited for the lock
            _build(source, encoder, want, target)
    return TextCache.open(target)


def identity(source: CaptionSource, encoder: Encoder) -> dict[str, Any]:
    """What a cache has to agree with to be used again: {"tower": ..., "data": ...}, JSON values.

    The first captions are part of it, because a source's own fingerprint may not know which field captions come from.
    """
    probe = hashlib.sha256()
    for captions in itertools.islice(source.caption_sets(), PROBE):
        probe.update(json.dumps(captions).encode())
    data = {"fingerprint": source.fingerprint, "samples": len(source), "first_captions_sha256": probe.hexdigest()}
    return {"tower": encoder.fingerprint, "data": data}


def default_folder(want: dict[str, Any]) -> Path:
    """The folder of our cache for this identity."""
    digest = hashlib.sha256(json.dumps([FORMAT, want], sort_keys=True).encode()).hexdigest()
    return paths.cache_dir() / "text-vectors" / digest[:16]


def _usable(folder: Path, want: dict[str, Any]) -> bool:
    """Whether the folder holds this very cache, whole. A damaged one is named and counts as absent.

    Raises:
        ConfigError: it holds something that must not be overwritten.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not (folder / "cache.json").is_file():
        raise ConfigError(
            explain(f"text cache {folder}", expected="no folder, an empty one or a cache", found="other files",
                    do="name another folder")
        )
    info = _read_info(folder)
    fault = info if isinstance(info, str) else ""
    if not fault:
        _refuse_other(folder, info, want)
        fault = _damage(folder, info)
    if fault:
        print(f"text cache {folder} is damaged ({fault}): made again", file=sys.stderr, flush=True)
    return not fault


def _refuse_other(folder: Path, info: dict[str, Any], want: dict[str, Any]) -> None:
    """ConfigError if the cache was made with another tower or from other data, naming the first difference."""
    for part in ("tower", "data"):
        for key, value in want[part].items():
            if info[part].get(key) != value:
                raise ConfigError(
                    explain(f"text cache {folder}", expected=f"{part} {key} {value!r}", found=repr(info[part].get(key)),
                            do="name another folder, or delete this one to have it made again")
                )


def _damage(folder: Path, info: dict[str, Any]) -> str:
    """What is wrong with the files that cache.json lists; "" if nothing."""
    for name, facts in info["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != facts["bytes"]:
            return f"{name} has {path.stat().st_size:,} bytes of {facts['bytes']:,}"
        if sha256_of(path) != facts["sha256"]:
            return f"{name} has changed"
    return ""


def _read_info(folder: Path) -> dict[str, Any] | str:
    """cache.json, or what is wrong with it."""
    try:
        info = json.loads((folder / "cache.json").read_text())
        if info["format"] != FORMAT:
            return f"format {info['format']}, this version reads {FORMAT}"
        return info if {"tower", "data", "files"} <= set(info) else "an incomplete cache.json"
    except FileNotFoundError:
        return "no cache.json"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"an unreadable cache.json ({type(error).__name__})"


def _open_array(path: Path, dtype: str, ndim: int) -> np.ndarray | str:
    """The memory-mapped array, or what is wrong with it."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        return f"{path.name} unreadable ({type(error).__name__})"
    right = found.dtype == np.dtype(dtype) and found.ndim == ndim
    return found if right else f"{path.name} is {found.dtype} with {found.ndim} axes"


def _misfit(arrays: dict[str, np.ndarray]) -> str:
    """How the four arrays disagree; "" if they do not."""
    offsets, rows = arrays["offsets"], arrays["rows"]
    if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != len(rows) or np.any(np.diff(offsets) < 0):
        return "offsets.npy does not divide rows.npy"
    if arrays["caption_ids"].shape != (len(offsets) - 1, 2):
        return f"caption_ids.npy has shape {arrays['caption_ids'].shape} for {len(offsets) - 1} samples"
    if len(rows) and not 0 <= rows.min() <= rows.max() < len(arrays["vectors"]):
        return "rows.npy points outside vectors.npy"
    return ""


def _build(source: CaptionSource, encoder: Encoder, want: dict[str, Any], target: Path) -> None:
    """Encode all captions into a neighbour of `target`, then rename it into place."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".partial-") as scratch:
            work = Path(scratch) / "cache"
            work.mkdir()
            keys, rows, offsets, ids = _collect(source, encoder)
            _encode(keys, encoder, work / "vectors.npy")
            np.save(work / "rows.npy", rows)
            np.save(work / "offsets.npy", offsets)
            np.save(work / "caption_ids.npy", ids)
            files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in work.iterdir()}
            counts = {"samples": len(ids), "captions": len(rows), "unique": len(keys), "dim": encoder.dim}
            info = {"format": FORMAT, "version": __version__, **want, "counts": counts, "files": files}
            (work / "cache.json").write_text(json.dumps(info, indent=2) + "\n")
            fetch.place(work, target)
    except OSError as error:
        raise fetch.cache_error(target.parent, error) from error


def _collect(source: CaptionSource, encoder: Encoder) -> tuple[list[bytes], np.ndarray, np.ndarray, np.ndarray]:
    """(distinct captions as token id bytes, rows, offsets, caption_ids) of all samples."""
    seen: dict[bytes, int] = {}
    rows, offsets, ids = array.array("q"), array.array("q", [0]), []
    for sets in _chunks(source):
        tokens = iter(encoder.tokenizer([caption for captions in sets for caption in captions]))
        for captions in sets:
            own = list(itertools.islice(tokens, len(captions)))
            rows.extend(seen.setdefault(one.astype("<u4").tobytes(), len(seen)) for one in own)
            offsets.append(len(rows))
            ids.append(token_caption_id(one.tolist() for one in own))
    if not seen:
        raise ConfigError(explain("text cache", expected="captions", found="none", do="check config.data.train"))
    if len(ids) != len(source):
        raise ConfigError(explain("text cache", expected=f"captions of {len(source)} samples", found=len(ids),
                                  do="index the data again with `lit-tune data index`"))
    return list(seen), np.asarray(rows, "<i8"), np.asarray(offsets, "<i8"), np.asarray(ids, "<u4")


def _chunks(source: CaptionSource) -> Iterator[tuple[tuple[str, ...], ...]]:
    """CHUNK caption sets at a time."""
    sets = source.caption_sets()
    while chunk := tuple(itertools.islice(sets, CHUNK)):
        yield chunk


def _encode(keys: list[bytes], encoder: Encoder, path: Path) -> None:
    """Write the vectors of all distinct captions, shortest first, with a line of progress now and then."""
    if shutil.disk_usage(path.parent).free < len(keys) * encoder.dim * 4:
        raise OSError(28, f"no room for {len(keys) * encoder.dim * 4 / 1e9:.1f} GB of text vectors")
    vectors = np.lib.format.open_memmap(path, mode="w+", dtype="<f4", shape=(len(keys), encoder.dim))
    # neighbours in length share a bucket, so slabs in this order waste almost no padding
    order = sorted(range(len(keys)), key=lambda row: len(keys[row]))
    progress = Progress(len(keys))
    for start in range(0, len(order), SLAB):
        slab = order[start : start + SLAB]
        ids = [np.frombuffer(keys[row], "<u4").astype(np.int32) for row in slab]
        vectors[slab] = encoder.encode_ids(ids, lambda ready, start=start: progress.show(start + ready))
    vectors.flush()


class Progress:
    """Lines like `text vectors: 4,096 of 5,826 captions, 210 a second`, at most one in five seconds, to stderr."""

    def __init__(self, total: int) -> None:
        self._total, self._start = total, time.monotonic()
        self._shown = self._start

    def show(self, ready: int) -> None:
        """Say that `ready` captions are done, if it is time to."""
        now = time.monotonic()
        if now - self._shown > 5:
            self._shown = now
            rate = ready / (now - self._start)
            print(f"text vectors: {ready:,} of {self._total:,} captions, {rate:.0f} a second", file=sys.stderr,
                  flush=True)
