"""Making a text cache with a frozen text tower: each distinct caption is encoded once. No jax."""

import array
import itertools
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lit_tune import fetch
from lit_tune.data.captions import token_caption_id
from lit_tune.errors import ConfigError, explain
from lit_tune.text import cache_storage
from lit_tune.text.cache import VECTORS, TextCache
from lit_tune.text.cache_identity import CaptionSource, Encoder, default_folder, identity, usable
from lit_tune.text.cache_writing import save_arrays, write_info

SLAB = 16_384  # captions encoded between two writes
CHUNK = 1_024  # samples whose captions are tokenised together


def open_or_build(
    source: CaptionSource, encoder: Encoder, folder: Path | str | None = None, dtype: str = "float32"
) -> TextCache:
    """The cache of a source's captions, encoded now unless the folder has it already.

    Several processes may call this at once: one builds, the others wait and read.

    Args:
        source: whose captions.
        encoder: the frozen text tower.
        folder: where; None takes a folder of our cache named after tower and data.
        dtype: how vectors are stored, one of `cache_storage.DTYPES`.

    Raises:
        ConfigError: the folder holds a cache made with another tower or other data, or something else altogether.
    """
    want = identity(source, encoder, dtype)
    target = Path(folder).expanduser() if folder else default_folder(want)
    if usable(target, want):
        return TextCache.open(target)
    with fetch.lock(target):
        if not usable(target, want):  # nobody made it while this process waited for the lock
            _build(source, encoder, want, target)
    return TextCache.open(target)


def _build(source: CaptionSource, encoder: Encoder, want: dict[str, Any], target: Path) -> None:
    """Encode all captions into a neighbour of `target`, then rename it into place."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".partial-") as scratch:
            work = Path(scratch) / "cache"
            work.mkdir()
            keys, rows, offsets, ids = _collect(source, encoder)
            _encode(keys, encoder, work / VECTORS, want["dtype"])
            save_arrays(work, rows, offsets, ids)
            write_info(work, want, [VECTORS])
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


def _encode(keys: list[bytes], encoder: Encoder, path: Path, dtype: str) -> None:
    """Write the vectors of all distinct captions, shortest first, with a line of progress now and then."""
    needed, shape = len(keys) * cache_storage.row_bytes(encoder.dim, dtype), (len(keys), encoder.dim)
    if shutil.disk_usage(path.parent).free < needed:
        raise OSError(28, f"no room for {needed / 1e9:.1f} GB of text vectors")
    vectors = np.lib.format.open_memmap(path, mode="w+", dtype=cache_storage.DTYPES[dtype], shape=shape)
    # neighbours in length share a bucket, so slabs in this order waste almost no padding
    order = sorted(range(len(keys)), key=lambda row: len(keys[row]))
    progress = Progress(len(keys))
    for start in range(0, len(order), SLAB):
        slab = order[start : start + SLAB]
        ids = [np.frombuffer(keys[row], "<u4").astype(np.int32) for row in slab]
        made = encoder.encode_ids(ids, lambda ready, start=start: progress.show(start + ready))
        vectors[slab] = cache_storage.pack(made, dtype)
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
