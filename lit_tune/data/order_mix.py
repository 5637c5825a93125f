"""An order over several data sets with fixed shares, a pure function of the position.

Which part stands at a position is decided by whole-number arithmetic alone: part 1 against the rest, then part 2
against the rest of the rest, and so on. Of the first q positions of such a choice with the share a / c, the first has

    count(q) = floor((a * q + c // 2) / c)

which is a * q / c rounded, so it has position q exactly if count(q + 1) > count(q), and count(q) is how many it had
before. With m parts every prefix of the run holds each part within (m - 1) / 2 of its share times the length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from lit_tune.data.order import Order, fold

_PART = 5  # purpose, see order.py


def part_seed(seed: int, number: int) -> int:
    """The seed of a part's own order: parts of equal length are permuted differently."""
    return int(fold(seed, _PART, number))


@dataclass(frozen=True)
class MixedOrder(Order):
    """Each part in an order of its own, with epochs of its own; n is the sum of their lengths.

    Attributes:
        parts: the orders of the parts, indices counted from 0 in each; in the mixture one part follows the other.
        weights: share of the positions of each part; positive, their sum is 1.
    """

    parts: tuple[Order, ...]
    weights: tuple[Fraction, ...]

    def __post_init__(self) -> None:
        assert sum(part.n for part in self.parts) == self.n and sum(self.weights) == 1, (self.n, self.weights)

    def locate(self, positions: np.ndarray) -> np.ndarray:
        """See Order."""
        part, visit = self.visits(positions)
        out = np.empty(part.shape, np.int64)
        for number, (order, start) in enumerate(zip(self.parts, self._starts(), strict=True)):
            own = part == number
            out[own] = start + order.locate(visit[own])
        return out

    def visits(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(part, which visit of that part, from 0) of each position: int64 and uint64, the shape of `positions`."""
        left = np.array(positions, np.uint64)  # the position among those of this part and the ones after it
        part = np.full(left.shape, len(self.weights) - 1, np.int64)
        open_ = np.ones(left.shape, bool)
        rest = Fraction(1)
        for number, weight in enumerate(self.weights[:-1]):
            before, after = (_count(left + np.uint64(more), weight / rest) for more in (0, 1))
            taken = open_ & (after > before)
            part[taken] = number
            left = np.where(taken, before, np.where(open_, left - before, left))
            open_ &= ~taken
            rest -= weight
        return part, left

    def substitute(self, position: int, attempt: int) -> int:
        """A sample of the same part, so that bad samples do not shift the shares."""
        number = int(self.visits(np.array([position], np.uint64))[0][0])
        return self._starts()[number] + self.parts[number].substitute(position, attempt)

    def _starts(self) -> Sequence[int]:
        """Index of the first sample of each part."""
        return [sum(part.n for part in self.parts[:number]) for number in range(len(self.parts))]


def _count(q: np.ndarray, share: Fraction) -> np.ndarray:
    """How many of the first q positions a share of them has, uint64; denominators end at 2**30 (config_check)."""
    a, c = np.uint64(share.numerator), np.uint64(share.denominator)
    whole, more = np.divmod(q, c)
    return a * whole + (a * more + c // np.uint64(2)) // c
