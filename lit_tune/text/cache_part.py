"""One part of a text cache: the captions of a range of samples, each distinct one encoded once. No jax."""

import array
import itertools
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lit_tune.data.captions import token_caption_id
from lit_tune.data.sample import BadSample
from lit_tune.errors import ConfigError, explain
from lit_tune.text import cache_storage
from lit_tune.text.cache import VECTORS
from lit_tune.text.cache_identity import CaptionSource, Encoder
from lit_tune.text.cache_writing import save_arrays

SLAB = 16_384  # captions encoded between two writes
CHUNK = 1_024  # samples whose captions are tokenised together


def encode_part(
    source: CaptionSource, samples: range, encoder: Encoder, dtype: str, folder: Path, progress: "Progress"
) -> None:  # fmt: skip
    """Write vectors.npy, rows.npy, offsets.npy and caption_ids.npy of some samples; rows count from 0.

    Args:
        source: whose captions.
        samples: which of its samples.
        encoder: the frozen text tower.
        dtype: how vectors are stored, one of `cache_storage.DTYPES`.
        folder: where.
        progress: told how far it is.
    """
    keys, rows, offsets, ids = _collect(source, samples, encoder)
    _encode(keys, encoder, folder / VECTORS, dtype, progress)
    save_arrays(folder, rows, offsets, ids)


def _collect(
    source: CaptionSource, samples: range, encoder: Encoder
) -> tuple[list[bytes], np.ndarray, np.ndarray, np.ndarray]:
    """(distinct captions as token id bytes, rows, offsets, caption_ids) of some samples."""
    seen: dict[bytes, int] = {}
    rows, offsets, ids = array.array("q"), array.array("q", [0]), []
    for sets in _chunks(source, samples):
        tokens = iter(encoder.tokenizer([caption for captions in sets for caption in captions]))
        for captions in sets:
            own = list(itertools.islice(tokens, len(captions)))
            rows.extend(seen.setdefault(one.astype("<u4").tobytes(), len(seen)) for one in own)
            offsets.append(len(rows))
            ids.append(token_caption_id(one.tolist() for one in own))
    if len(ids) != len(samples):
        raise ConfigError(explain("text cache", expected=f"captions of {len(samples)} samples", found=len(ids),
                                  do="index the data again with `lit-tune data index`"))
    return list(seen), np.asarray(rows, "<i8"), np.asarray(offsets, "<i8"), np.asarray(ids, "<u4").reshape(-1, 2)


def _chunks(source: CaptionSource, samples: range) -> Iterator[tuple[tuple[str, ...], ...]]:
    """CHUNK caption sets at a time."""
    sets = source.caption_sets() if len(samples) == len(source) else (_captions(source, i) for i in samples)
    while chunk := tuple(itertools.islice(sets, CHUNK)):
        yield chunk


def _captions(source: CaptionSource, i: int) -> tuple[str, ...]:
    """The captions of sample i, () for a bad one."""
    try:
        return source.captions(i)
    except BadSample:
        return ()


def _encode(keys: list[bytes], encoder: Encoder, path: Path, dtype: str, progress: "Progress") -> None:
    """Write the vectors of all distinct captions, shortest first, with a line of progress now and then."""
    needed, shape = len(keys) * cache_storage.row_bytes(encoder.dim, dtype), (len(keys), encoder.dim)
    if shutil.disk_usage(path.parent).free < needed:
        raise OSError(28, f"no room for {needed / 1e9:.1f} GB of text vectors")
    vectors = np.lib.format.open_memmap(path, mode="w+", dtype=cache_storage.DTYPES[dtype], shape=shape)
    # neighbours in length share a bucket, so slabs in this order waste almost no padding
    order = sorted(range(len(keys)), key=lambda row: len(keys[row]))
    progress.start(len(keys))
    for start in range(0, len(order), SLAB):
        slab = order[start : start + SLAB]
        ids = [np.frombuffer(keys[row], "<u4").astype(np.int32) for row in slab]
        made = encoder.encode_ids(ids, lambda ready, start=start: progress.show(start + ready))
        vectors[slab] = cache_storage.pack(made, dtype)
    vectors.flush()


class Progress:
    """Lines like `text vectors: 4,096 of 5,826 captions, 210 a second`, at most one in five seconds, to stderr.

    Args:
        name: of the part, "" where there is one only.
    """

    def __init__(self, name: str = "") -> None:
        self._name = f" {name}" if name else ""
        self.start(0)

    def start(self, total: int) -> None:
        """So many captions have to be encoded, from now on."""
        self._total, self._start = total, time.monotonic()
        self._shown = self._start

    def show(self, ready: int) -> None:
        """Say that `ready` captions are done, if it is time to."""
        now = time.monotonic()
        if now - self._shown > 5:
            self._shown = now
            rate = ready / (now - self._start)
            print(f"text vectors{self._name}: {ready:,} of {self._total:,} captions, {rate:.0f} a second",
                  file=sys.stderr, flush=True)  # fmt: skip
