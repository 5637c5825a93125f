"""Which sample stands at which position of the run: a pure function of (seed, position), 64-bit.

position = step * global_batch + row. Nothing is remembered and nothing depends on hosts, workers or restarts, so a run
continues anywhere from its step alone. `PlainOrder` is here; the other orders are in order_window.py, order_mix.py and
order_hard.py, and order_open.py picks the one that a config asks for.

Source: Black and Rogaway, "Ciphers with Arbitrary Finite Domains" (CT-RSA 2002): a Feistel network with cycle walking;
the mixing function is the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
Generators", OOPSLA 2014).
"""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from lit_tune.errors import ConfigError, explain

ROUNDS = 6
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, the step of SplitMix64
MASK64 = (1 << 64) - 1

Words = np.ndarray | np.uint64  # one uint64 or an array of them

_SUBSTITUTE = 1  # purposes that must not share random numbers, folded in after the seed
_EXTRA = 2


def mix(x: Words) -> Words:
    """uint64 -> uint64, a bijection that changes half of the bits for any changed bit."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is meant
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def fold(seed: int, *values: int | Words) -> Words:
    """One uint64 (or an array of them) that depends on the seed and on every value in turn."""
    state = mix(np.asarray(seed & MASK64, np.uint64) + GOLDEN)
    with np.errstate(over="ignore"):
        for value in values:
            state = mix(state * np.uint64(3) + GOLDEN + np.asarray(value).astype(np.uint64))
    return state


def permutation(i: np.ndarray, n: int, key: Words | int) -> np.ndarray:
    """Where a keyed permutation of range(n) puts each `i`.

    A Feistel network permutes the smallest range of 2**(2h) numbers that holds n; a result outside range(n) goes
    through it again until it falls inside, which keeps the whole a permutation of range(n).

    Args:
        i: uint64, any shape, each below n.
        n: length of the permutation, 1 to 2**62.
        key: uint64, one or as many as `i`; another key is another permutation.

    Returns:
        uint64, the shape of `i`.
    """
    i = np.asarray(i, np.uint64)
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    out = i.reshape(-1).copy()
    keys = np.broadcast_to(np.asarray(key, np.uint64), i.shape).reshape(-1)
    inside = np.uint64(n)
    todo = np.arange(out.size)
    while todo.size:
        moved = _feistel(out[todo], half, keys[todo])
        out[todo] = moved
        todo = todo[moved >= inside]
    return out.reshape(i.shape)


def _feistel(x: np.ndarray, half: int, keys: np.ndarray) -> np.ndarray:
    """ROUNDS rounds on two halves of `half` bits each."""
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = x >> shift, x & mask
    with np.errstate(over="ignore"):
        for number in range(ROUNDS):
            round_keys = keys + GOLDEN * np.uint64(number + 1)
            left, right = right, left ^ (mix(right + mix(round_keys)) & mask)
    return (left << shift) | right


def generator(seed: int, position: int) -> np.random.Generator:
    """The random numbers of one position of the run: caption choice first, then the view of the picture.

    Those of `np.random.default_rng((seed, position))`, which takes a quarter longer to cut the two into words.
    """
    words = np.array([*_words(seed & MASK64), *_words(int(position))], np.uint32)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


def _words(number: int) -> tuple[int, ...]:
    """A number below 2**64 in words of 32 bits, the low one first; the high one only where it is not 0."""
    high, low = divmod(number, 1 << 32)
    return (low, high) if high else (low,)


def extra_rows(step: int, k: int, n_unique: int, seed: int) -> np.ndarray:
    """Rows of the unique captions that join step `step` as negatives only.

    Args:
        step: of the run.
        k: rows wanted.
        n_unique: unique captions there are.

    Returns:
        int64 (min(k, n_unique),), no row twice; all of them in order where k >= n_unique.
    """
    if k >= n_unique:
        return np.arange(n_unique, dtype=np.int64)
    return permutation(np.arange(k, dtype=np.uint64), n_unique, fold(seed, _EXTRA, step)).astype(np.int64)


@dataclass(frozen=True)
class Order(ABC):
    """The order of a run; immutable, small to pickle, and equal in every process.

    Attributes:
        n: number of samples in the index.
        seed: of the run.
        global_batch: positions a step.
    """

    n: int
    seed: int
    global_batch: int

    @abstractmethod
    def locate(self, positions: np.ndarray) -> np.ndarray:
        """Index of the sample planned for each position.

        Args:
            positions: uint64, any shape.

        Returns:
            int64 of the same shape, each in [0, n).
        """

    @property
    def fingerprint(self) -> str:
        """What decides the order beside the config and the data: "" unless something that was computed once."""
        return ""

    def check_same(self, saved: dict[str, Any]) -> None:
        """Refuse a checkpoint of another order.

        Args:
            saved: the checkpoint's meta; "order" is the fingerprint.

        Raises:
            ConfigError: what was computed once for the order was computed again, with another result.
        """
        found = saved.get("order", "")
        if found != self.fingerprint:
            raise ConfigError(explain("groups of captions", expected=f"{found[:16]}, those of the checkpoint",
                                      found=self.fingerprint[:16],
                                      do="bring LIT_TUNE_CACHE/text-clusters from the machine that began the run"))

    def substitute(self, position: int, attempt: int) -> int:
        """Index of the sample that stands in at `position` after `attempt` (1, 2, ...) samples there were bad."""
        return int(fold(self.seed, _SUBSTITUTE, position, attempt)) % self.n

    def past_positions(self, step: int, rows: np.ndarray) -> np.ndarray:
        """Positions of rows of the bank of past texts, uint64, the shape of `rows`.

        Row r of the bank of step s is row r % global_batch of step s - 1 - r // global_batch. Before the first step
        lie, in place of a past, positions of the first n: any text of a frozen tower is as good a negative.

        Args:
            step: of the run.
            rows: int64, of the bank.
        """
        back, row = np.divmod(np.asarray(rows, np.int64), self.global_batch)
        positions = (step - 1 - back) * self.global_batch + row
        return np.where(positions < 0, positions % self.n, positions).astype(np.uint64)

    def planned_ids(self, step: int) -> np.ndarray:
        """Index of the sample planned for each row of a step's batch, int64 (global_batch,), bad ones included."""
        return self.locate(self.positions(step, np.arange(self.global_batch)))

    def positions(self, step: int, rows: np.ndarray) -> np.ndarray:
        """Positions of rows of a step's global batch, uint64, the shape of `rows`."""
        return np.uint64(step) * np.uint64(self.global_batch) + np.asarray(rows).astype(np.uint64)

    def batch_digest(self, step: int) -> str:
        """16 hex digits: hash of the planned ids of the global batch in row order (little-endian int64)."""
        return hashlib.sha256(self.planned_ids(step).astype("<i8").tobytes()).hexdigest()[:16]


@dataclass(frozen=True)
class PlainOrder(Order):
    """Epoch e holds all samples in the order of a keyed permutation of its own; no table of any size."""

    def locate(self, positions: np.ndarray) -> np.ndarray:
        """See Order."""
        epoch, offset = np.divmod(np.asarray(positions, np.uint64), np.uint64(self.n))
        return permutation(offset, self.n, fold(self.seed, epoch)).astype(np.int64)
