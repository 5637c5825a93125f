"""Which samples' captions are alike: groups of the frozen text vectors, computed once for a run. No jax.

The text tower is frozen, so the groups of the first day hold on the last. They are a folder of the cache:

    members.npy    uint32 or int64 (m,)  the samples with a caption, one group after the other, rising inside a group
    starts.npy     int64 (k + 1,)        group c is members[starts[c] : starts[c + 1]]
    nearest.npy    int32 (k, t)          each group's nearest groups by the cosine of their centroids, itself first
    clusters.json  format, what they were made from, counts, digests of the files above

A sample counts with its first caption. It is written beside its place and renamed, so it is whole or absent.
"""

import hashlib
import json
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from lit_tune import fetch, paths
from lit_tune.data import kmeans, order

FORMAT = 1
ARRAYS = ("members", "starts", "nearest")
MOST = 1_024  # groups where config.data.hard_clusters leaves their number open, and neighbours kept of each
SAMPLE = 64  # captions a group that the centroids are fitted on
BLOCK = 65_536  # samples assigned at a time
_FIT = 7  # purpose, see order.py


@runtime_checkable
class TextVectors(Protocol):
    """What is read of a `lit_tune.text.cache.TextCache`."""

    rows: np.ndarray
    offsets: np.ndarray
    unique: int
    info: dict[str, Any]

    def __len__(self) -> int: ...

    def take(self, rows: np.ndarray) -> np.ndarray:
        """(..., d) float32 unit vectors."""
        ...


@dataclass(frozen=True)
class Clusters:
    """Open groups; the arrays are memory-mapped. Equal fingerprints mean equal arrays."""

    fingerprint: str
    folder: Path = field(compare=False)
    members: np.ndarray = field(compare=False)
    starts: np.ndarray = field(compare=False)
    nearest: np.ndarray = field(compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by name: a worker process maps the files itself."""
        return read, (self.folder,)

    @property
    def sizes(self) -> np.ndarray:
        """Samples of each group, int64 (k,)."""
        return np.diff(self.starts)


def read(folder: Path) -> Clusters:
    """The groups in a folder that `open_or_build` has looked at."""
    facts = json.loads((folder / "clusters.json").read_text())
    arrays = [np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS]
    return Clusters(_digest(facts["files"]), folder, *arrays)


def open_or_build(cache: TextVectors, count: int, seed: int) -> Clusters:
    """The groups of a text cache, computed now unless they are there. One process builds, the others wait and read.

    Args:
        cache: the frozen text vectors of the training data.
        count: groups; 0: the square root of the number of samples, at most MOST.
        seed: of the run.

    Raises:
        ConfigError: the cache folder cannot be written.
    """
    count = min(count or min(MOST, round(len(cache) ** 0.5)), cache.unique)
    # the digests of the cache's files say which vectors they are, whatever tower and data they come from
    want = {"format": FORMAT, "text": _digest(cache.info["files"]), "clusters": count, "seed": seed}
    folder = paths.cache_dir() / "text-clusters" / _digest(want)[:16]
    if not _usable(folder):
        with fetch.lock(folder):
            if not _usable(folder):  # nobody made it while this process waited for the lock
                _build(cache, want, folder)
    return read(folder)


def _digest(facts: dict[str, Any]) -> str:
    """sha256 of JSON values."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _usable(folder: Path) -> bool:
    """Whether the folder holds whole groups; damaged ones are named and count as absent."""
    if not folder.exists():
        return False
    try:
        files = json.loads((folder / "clusters.json").read_text())["files"]
        bad = [name for name, sha256 in files.items() if _sha256(folder / name) != sha256]
    except (OSError, ValueError, KeyError, TypeError) as error:
        bad = [type(error).__name__]
    if bad:
        print(f"clusters {folder} are damaged ({', '.join(bad)}): made again", file=sys.stderr, flush=True)
    return not bad


def _build(cache: TextVectors, want: dict[str, Any], folder: Path) -> None:
    """Fit, assign and sort into a neighbour of `folder`, then rename it into place."""
    count = want["clusters"]
    print(f"clusters: {len(cache):,} samples into {count:,}, once for this data and text tower", file=sys.stderr,
          flush=True)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as scratch:
            work = Path(scratch) / "clusters"
            work.mkdir()
            drawn = np.arange(min(SAMPLE * count, cache.unique), dtype=np.uint64)
            drawn = order.permutation(drawn, cache.unique, order.fold(want["seed"], _FIT)).astype(np.int64)
            rng = np.random.default_rng((want["seed"], _FIT))
            centroids = kmeans.fit(cache.take(np.sort(drawn)), count, rng)
            labels = _assign(cache, centroids, Path(scratch) / "labels")
            starts = _sort(labels, count, work / "members.npy")
            np.save(work / "starts.npy", starts)
            np.save(work / "nearest.npy", _nearest(centroids))
            files = {path.name: _sha256(path) for path in sorted(work.iterdir())}
            facts = {**want, "samples": int(starts[-1]), "files": files}
            (work / "clusters.json").write_text(json.dumps(facts, indent=2) + "\n")
            fetch.place(work, folder)
    except OSError as error:
        raise fetch.cache_error(folder.parent, error) from error


def _assign(cache: TextVectors, centroids: np.ndarray, path: Path) -> np.ndarray:
    """int32 (n,) on disk: the group of each sample's first caption, -1 for a sample without any."""
    labels = np.memmap(path, np.int32, "w+", shape=(len(cache),))
    for start in range(0, len(cache), BLOCK):
        offsets = np.asarray(cache.offsets[start : start + BLOCK + 1])
        first, has = offsets[:-1], np.diff(offsets) > 0
        own = np.full(len(first), -1, np.int32)
        if has.any():
            own[has] = kmeans.assign(cache.take(np.asarray(cache.rows[first[has]])), centroids)[0]
        labels[start : start + len(own)] = own
    return labels


def _sort(labels: np.ndarray, count: int, path: Path) -> np.ndarray:
    """Write the samples group by group, a block at a time; returns the groups' starts, int64 (count + 1,)."""
    blocks = range(0, len(labels), BLOCK)
    sizes = sum(np.bincount(labels[s : s + BLOCK] + 1, minlength=count + 1)[1:] for s in blocks)
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    dtype = "<u4" if len(labels) <= 2**32 else "<i8"
    members = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(int(starts[-1]),))
    free = starts[:-1].copy()
    for start in blocks:
        own = np.asarray(labels[start : start + BLOCK])
        rows = np.argsort(own, kind="stable")[int((own < 0).sum()) :]
        groups, first, many = np.unique(own[rows], return_index=True, return_counts=True)
        for group, begin, length in zip(groups.tolist(), first.tolist(), many.tolist(), strict=True):
            members[free[group] : free[group] + length] = start + rows[begin : begin + length]
            free[group] += length
    members.flush()
    return starts


def _nearest(centroids: np.ndarray) -> np.ndarray:
    """int32 (k, min(k, MOST)): each group's nearest groups, itself first."""
    out = np.empty((len(centroids), min(len(centroids), MOST)), np.int32)
    for start in range(0, len(centroids), kmeans.BLOCK):
        cosines = centroids[start : start + kmeans.BLOCK] @ centroids.T
        cosines[np.arange(len(cosines)), start + np.arange(len(cosines))] = np.inf
        out[start : start + len(cosines)] = np.argsort(-cosines, axis=1, kind="stable")[:, : out.shape[1]]
    return out
