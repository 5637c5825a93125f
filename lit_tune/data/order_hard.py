"""An order with hard batches: a share of each step's rows has captions that are alike.

The other rows follow the plain order among themselves, so every sample still comes once in n of their positions. The
hard rows of a step are drawn around an anchor: step s takes place s of a keyed permutation of all samples, and the
sample there names the anchor group. Its nearest groups, itself first, are taken until they hold POOL times the rows
wanted, and that many different samples are drawn from them.
"""

from dataclasses import dataclass

import numpy as np

from lit_tune.data.clusters import Clusters
from lit_tune.data.order import Order, PlainOrder, fold, permutation

POOL = 2  # samples to draw from for each hard row, so that batches around one anchor differ
_ANCHOR = 8  # purposes, see order.py
_DRAW = 9


@dataclass(frozen=True)
class HardOrder(Order):
    """The last `hard` rows of each global batch come from neighbouring groups of captions.

    Attributes:
        hard: such rows a step, 1 to global_batch - 1, at most as many as any pool holds (see `smallest_pool`).
        clusters: the groups.
    """

    hard: int
    clusters: Clusters

    @property
    def fingerprint(self) -> str:
        """See Order: the groups were computed, and another machine may have rounded otherwise."""
        return self.clusters.fingerprint

    def locate(self, positions: np.ndarray) -> np.ndarray:
        """See Order."""
        positions = np.asarray(positions, np.uint64)
        step, row = np.divmod(positions.reshape(-1), np.uint64(self.global_batch))
        plain = self.global_batch - self.hard
        out = PlainOrder(self.n, self.seed, plain).locate(step * np.uint64(plain) + np.minimum(row, plain - 1))
        drawn = row >= plain
        for one in np.unique(step[drawn]).tolist():
            own = drawn & (step == one)
            out[own] = self._draw(one, row[own] - np.uint64(plain))
        return out.reshape(positions.shape)

    def smallest_pool(self) -> int:
        """Samples in the smallest pool of any anchor."""
        return min(int(self.clusters.sizes[self._pool(group)].sum()) for group in self._anchors())

    def rates(self) -> np.ndarray:
        """How often a step visits a sample of each group in the long run, float64 (k,), plain rows included.

        A group is the anchor in proportion to its size; each sample of a pool is drawn equally often.
        """
        sizes = self.clusters.sizes
        out = np.full(len(sizes), (self.global_batch - self.hard) / self.n)
        for group in self._anchors():
            pool = self._pool(group)
            out[pool] += sizes[group] / sizes.sum() * self.hard / sizes[pool].sum()
        return out

    def _anchors(self) -> list[int]:
        """The groups that have samples."""
        return np.flatnonzero(self.clusters.sizes).tolist()

    def _pool(self, anchor: int) -> np.ndarray:
        """The anchor and its nearest groups, as many as hold POOL * hard samples, all there are if none do."""
        nearest = self.clusters.nearest[anchor]
        held = np.cumsum(self.clusters.sizes[nearest])
        return nearest[: int(np.searchsorted(held, POOL * self.hard)) + 1]

    def _draw(self, step: int, numbers: np.ndarray) -> np.ndarray:
        """The samples of hard rows of a step, int64, the shape of `numbers` (each below `hard`)."""
        starts, members = self.clusters.starts, self.clusters.members
        turn, place = divmod(step, len(members))
        anchor = permutation(np.array([place], np.uint64), len(members), fold(self.seed, _ANCHOR, turn))
        pool = self._pool(int(np.searchsorted(starts, anchor.astype(np.int64), side="right")[0]) - 1)
        ends = np.cumsum(self.clusters.sizes[pool])
        drawn = permutation(numbers, int(ends[-1]), fold(self.seed, _DRAW, step)).astype(np.int64)
        group = np.searchsorted(ends, drawn, side="right")
        inside = drawn - (ends[group] - self.clusters.sizes[pool[group]])
        return members[starts[pool[group]] + inside].astype(np.int64)
