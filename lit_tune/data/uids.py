"""uid lists, as DataComp and DFN publish subsets: which pairs of a shard are in one, and how often.

A uid is 128 bits: 32 hex digits in the .json members, two uint64 (high, low) in a list. The published form is a sorted
array of 16 bytes a row, 30 GB for DFN-2B: it is mapped, searched, and never read whole.

Source: mlfoundations/datacomp, README ("Filtering") and resharder.py; the dataset card apf1/datafilteringnetworks_2b.
"""

from collections.abc import Callable

import numpy as np

from lit_tune.errors import ConfigError, explain

FENCES = 16_384  # rows read at the start, evenly spaced: a check of the order, and the first levels of every search
FULL_CHECK = 1 << 22  # rows up to which the whole order is checked at the start, 64 MiB
BLOCK_ROWS = 1 << 16  # rows at a time where all are looked at


class UidList:
    """A sorted list of uids.

    Args:
        path: what messages name.
        words: uint64 (n, 2), high and low word of each row; may be a map of a file.

    Raises:
        ConfigError: the rows that are looked at are not sorted.
    """

    def __init__(self, path: str, words: np.ndarray) -> None:
        self.path = path
        self._words = words
        self._fences = np.unique(np.linspace(0, max(len(words) - 1, 0), FENCES).astype(np.int64))[: len(words)]
        self._fence_words = np.array(words[self._fences])
        self._check_order()

    def __len__(self) -> int:
        return len(self._words)

    def counts(self, high: np.ndarray, low: np.ndarray) -> np.ndarray:
        """How many rows hold each uid.

        Args:
            high: uint64 (q,).
            low: uint64 (q,). (0, 0) stands for a pair without uid and is never found.

        Returns:
            int64 (q,).

        Raises:
            ConfigError: a row that was looked at breaks the order.
        """
        wanted = np.stack([high, low], 1).astype(np.uint64)
        counts = np.zeros(len(wanted), np.int64)
        if not len(self):
            return counts
        first = self._search(wanted, after_equal=False)
        found = (first < len(self)) & wanted.any(1)
        found[found] = (self._words[first[found]] == wanted[found]).all(1)
        counts[found] = 1
        # Few lists hold a uid twice: only where the next row is equal too, the end of the run is looked for.
        more = found & (first < len(self) - 1)
        more[more] = (self._words[first[more] + 1] == wanted[more]).all(1)
        counts[more] = self._search(wanted[more], after_equal=True) - first[more]
        return counts

    def _search(self, wanted: np.ndarray, after_equal: bool) -> np.ndarray:
        """Rows before which each of `wanted` would be put: before its equals or after them; int64 (q,)."""
        # Fences by the high word alone: up to `low` they are less, from `high` on more; bisection does the rest.
        low = np.searchsorted(self._fence_words[:, 0], wanted[:, 0], "left") - 1
        high = np.searchsorted(self._fence_words[:, 0], wanted[:, 0], "right")
        fences, rows = len(self._fences), np.concatenate([[-1], self._fences, [len(self)]])
        # All searches go on together: a step is one look at one row for each, and numpy is called ten times, not q.
        bounds = _Bounds(self._words, wanted, after_equal, rows[low + 1], rows[high + 1], self._unsorted)
        # uids are hashes: between two fences a uid lies, by its value, within a few hundred rows of its place.
        start, width = rows[low + 1], rows[high + 1] - rows[low + 1]
        below = np.where(low >= 0, self._fence_words[low, 0], 0).astype(np.float64)
        above = np.where(high < fences, self._fence_words[np.minimum(high, fences - 1), 0], 2.0**64 - 1)
        share = (wanted[:, 0] - below) / np.maximum(above.astype(np.float64) - below, 1)
        guess = start + (np.clip(share, 0, 1) * width).astype(np.int64)
        margin = 4 * np.sqrt(width).astype(np.int64)
        bounds.look(guess - margin)
        bounds.look(guess + margin)
        return bounds.close()

    def _check_order(self) -> None:
        """Every row of a short list, the fences and their followers of a long one."""
        falls = np.flatnonzero(_less(self._fence_words[1:], self._fence_words[:-1]))
        if len(falls):
            self._unsorted(int(self._fences[falls[0]]), int(self._fences[falls[0] + 1]))
        if len(self) > FULL_CHECK:
            falls = np.flatnonzero(_less(self._words[self._fences[:-1] + 1], self._fence_words[:-1]))
            if len(falls):
                self._unsorted(int(self._fences[falls[0]]), int(self._fences[falls[0]]) + 1)
            return
        for start in range(0, len(self) - 1, BLOCK_ROWS):
            block = self._words[start : start + BLOCK_ROWS + 1]
            falls = np.flatnonzero(_less(block[1:], block[:-1]))
            if len(falls):
                self._unsorted(start + int(falls[0]), start + int(falls[0]) + 1)

    def _unsorted(self, first: int, second: int) -> None:
        """Raise for a row `second` that is less than the row `first` before it: two neighbours between them are named.

        Raises:
            ConfigError: always.
        """
        while second - first > 1:
            middle = (first + second) // 2
            fell = bool(_less(self._words[middle : middle + 1], self._words[first : first + 1])[0])
            first, second = (first, middle) if fell else (middle, second)
        raise ConfigError(
            explain(self.path, expected="rows sorted by (high, low)",
                    found=f"row {second} (from 0) less than the one before it",
                    do="sort it: a = np.load(FILE); a.sort(); np.save(FILE, a)")
        )  # fmt: skip


class _Bounds:
    """Bisections that go on together: for each wanted uid a row before its place and one that is not.

    Args:
        words: uint64 (n, 2), the rows.
        wanted: uint64 (q, 2).
        after_equal: rows equal to the wanted uid count as before its place.
        low: int64 (q,), rows known to be before, -1 for none.
        high: int64 (q,), rows known not to be, n for none.
        unsorted: called with two rows whose high words are out of order.
    """

    def __init__(self, words: np.ndarray, wanted: np.ndarray, after_equal: bool, low: np.ndarray, high: np.ndarray,
                 unsorted: Callable[[int, int], None]) -> None:
        # The words apart: equal high words are rare in hashes, so nearly every look reads and compares one number.
        self._words, self._highs = words, words[:, 0]
        self._wanted, self._wanted_high = wanted, np.ascontiguousarray(wanted[:, 0])
        self._after_equal, self._unsorted = after_equal, unsorted
        self._low, self._high = low, high
        top = np.uint64(2**64 - 1)
        self._low_high = np.where(low >= 0, self._highs[np.maximum(low, 0)], np.uint64(0))
        self._high_high = np.where(high < len(words), self._highs[np.minimum(high, len(words) - 1)], top)

    def look(self, rows: np.ndarray) -> None:
        """Look at one row for each search; those that lie outside of its bounds are passed over."""
        inside = (self._low < rows) & (rows < self._high)
        rows = np.where(inside, rows, np.maximum(self._low, 0))
        seen = self._highs[rows]
        self._check(inside & (seen < self._low_high), self._low, rows)
        self._check(inside & (self._high_high < seen), rows, self._high)
        before = seen < self._wanted_high
        equal = np.flatnonzero(seen == self._wanted_high)
        if len(equal):
            row_low, low = self._words[rows[equal], 1], self._wanted[equal, 1]
            before[equal] = row_low <= low if self._after_equal else row_low < low
        up, down = inside & before, inside & ~before
        self._low, self._low_high = np.where(up, rows, self._low), np.where(up, seen, self._low_high)
        self._high, self._high_high = np.where(down, rows, self._high), np.where(down, seen, self._high_high)

    def close(self) -> np.ndarray:
        """`high` when it and `low` are neighbours everywhere."""
        while (self._high - self._low > 1).any():
            self.look((self._low + self._high) // 2)
        return self._high

    def _check(self, wrong: np.ndarray, first: np.ndarray, second: np.ndarray) -> None:
        """Report the first search, if any, in which row `second` is less than row `first` before it."""
        if wrong.any():
            place = int(wrong.argmax())
            self._unsorted(int(first[place]), int(second[place]))


def _less(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether uids `a` come before uids `b`; bool (q,) of two uint64 (q, 2)."""
    return (a[:, 0] < b[:, 0]) | ((a[:, 0] == b[:, 0]) & (a[:, 1] < b[:, 1]))
