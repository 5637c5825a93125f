"""An order for object stores: a few shards at a time, each epoch still every sample once.

The shards of an epoch are permuted, cut into windows of `window` shards, and the windows walked one after another; the
samples of a window are permuted among each other. What is read lies in few shards at a time: one can be fetched whole
and dropped after its window. The price: samples of one shard meet each other more often than in the plain order.
"""

from dataclasses import dataclass

import numpy as np

from lit_tune.data.order import Order, fold, permutation

_SHARDS = 3  # purposes, see order.py
_INSIDE = 4


@dataclass(frozen=True)
class WindowOrder(Order):
    """Shards permuted, then samples permuted inside each window of shards; a table a shard, none a sample.

    Attributes:
        sizes: samples of each shard in index order, 0 allowed; their sum is n.
        window: shards of a window, at least 1; the last window of an epoch may have fewer.
    """

    sizes: tuple[int, ...]
    window: int

    def __post_init__(self) -> None:
        assert sum(self.sizes) == self.n and self.window >= 1, (sum(self.sizes), self.n, self.window)

    def locate(self, positions: np.ndarray) -> np.ndarray:
        """See Order."""
        positions = np.asarray(positions, np.uint64)
        epoch, offset = np.divmod(positions.reshape(-1), np.uint64(self.n))
        out = np.empty(positions.size, np.int64)
        for one in np.unique(epoch):
            own = epoch == one
            out[own] = self._in_epoch(int(one), offset[own].astype(np.int64))
        return out.reshape(positions.shape)

    def shard(self, indices: np.ndarray) -> np.ndarray:
        """Number of the shard that holds each sample, int64, the shape of `indices`."""
        return np.searchsorted(np.cumsum(self.sizes), indices, side="right")

    def _in_epoch(self, epoch: int, offset: np.ndarray) -> np.ndarray:
        """Index of the sample at each place of an epoch, int64 (k,)."""
        sizes = np.asarray(self.sizes, np.int64)
        shards = np.arange(len(sizes), dtype=np.uint64)
        shards = permutation(shards, len(sizes), fold(self.seed, _SHARDS, epoch)).astype(np.int64)
        ends = np.cumsum(sizes[shards])  # of the shards in this epoch's order
        stops = np.append(ends[self.window - 1 : -1 : self.window], self.n)  # of the windows
        # Empty shards and windows share their end with the one before; "right" steps over them.
        number = np.searchsorted(stops, offset, side="right")
        place = np.empty(len(offset), np.int64)
        for one in np.unique(number).tolist():  # neighbouring positions lie in few windows
            own, start = number == one, int(stops[one - 1]) if one else 0
            key = fold(self.seed, _INSIDE, epoch, one)
            inside = (offset[own] - start).astype(np.uint64)
            place[own] = start + permutation(inside, int(stops[one]) - start, key).astype(np.int64)
        found = np.searchsorted(ends, place, side="right")
        shard = shards[found]
        return (np.cumsum(sizes) - sizes)[shard] + place - (ends[found] - sizes[shard])
