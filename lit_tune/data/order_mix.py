"""An order over several data sets with fixed shares, a pure function of the position.

With weights a_i / c (whole numbers, c their common denominator) the run is one period of c positions, repeated; each
period has part i exactly a_i times. The arrangement inside is such that every prefix of the run, of any length q, holds
each part within 1 - 1 / (2 m - 2) of its share a_i * q / c, m the number of parts: less than one sample, however many
parts there are and however unequal. (Rounding one part after the other would be off by more from five parts on.)

Source: Tijdeman, "The chairman assignment problem" (Discrete Mathematics 32, 1980): the next turn goes, among the parts
that may have one more without passing the bound, to the one that must have it first.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

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
        part, turn = self._period
        block, place = np.divmod(np.asarray(positions, np.uint64), np.uint64(len(part)))
        number = part[place]
        turns = np.bincount(part, minlength=len(self.weights)).astype(np.uint64)  # of each part in a period
        return number, block * turns[number] + turn[place]

    @cached_property
    def _period(self) -> tuple[np.ndarray, np.ndarray]:
        """(part int64, how many turns the part had before uint64) of each position of a period, both (c,)."""
        part = np.array(arrange(self.weights), np.int64)
        turn = np.empty(len(part), np.uint64)
        for number in range(len(self.weights)):
            own = part == number
            turn[own] = np.arange(own.sum())
        return part, turn

    def substitute(self, position: int, attempt: int) -> int:
        """A sample of the same part, so that bad samples do not shift the shares."""
        number = int(self.visits(np.array([position], np.uint64))[0][0])
        return self._starts()[number] + self.parts[number].substitute(position, attempt)

    def _starts(self) -> Sequence[int]:
        """Index of the first sample of each part."""
        return [sum(part.n for part in self.parts[:number]) for number in range(len(self.parts))]


def arrange(weights: Sequence[Fraction]) -> list[int]:
    """The part of each position of a period, as many positions as the weights' common denominator."""
    length = math.lcm(*(weight.denominator for weight in weights))
    shares = [int(weight * length) for weight in weights]
    bound = max(2 * len(weights) - 2, 1)  # 1 / bound short of a whole sample

    def last(number: int, had: int) -> int:
        """The last length of a prefix that the part bears with `had` turns."""
        return length * (bound * (had + 1) - 1) // (bound * shares[number])

    had = [0] * len(weights)
    deadline = [last(number, 0) for number in range(len(weights))]
    out = []
    for position in range(1, length + 1):
        may = [number for number, share in enumerate(shares)
               if bound * (share * position - length * had[number]) >= length]
        number = min(may, key=deadline.__getitem__)
        had[number] += 1
        deadline[number] = last(number, had[number])
        out.append(number)
    return out
