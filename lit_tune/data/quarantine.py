"""Bad samples: counted by kind and shard, each named once, and the end of a run that meets too many of them."""

from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from lit_tune.data.sample import KINDS, Source
from lit_tune.errors import DataError, explain

WINDOW = 10_000  # samples over which config.data.max_bad_fraction is taken
SHOWN = 3  # samples or shards named in a line


class Quarantine:
    """Counts refused samples, remembers each of them once, and ends the run when there are too many.

    Args:
        source: names the samples.
        max_bad_fraction: of a window of WINDOW samples.

    Attributes:
        counts: `samples` and `bad` tried so far, and how many of each of KINDS.
        shards: how many bad ones in each shard.
    """

    def __init__(self, source: Source, max_bad_fraction: float) -> None:
        self.counts: Counter[str] = Counter(samples=0, bad=0)
        self.shards: Counter[str] = Counter()
        self._source = source
        self._max_fraction = max_bad_fraction
        self._window: deque[tuple[int, int]] = deque()
        self._known: dict[int, str] = {}  # index -> shard
        self._lines: list[dict[str, Any]] = []

    def take(self, tried: np.ndarray, fault: np.ndarray) -> None:
        """Count a batch's tries (see HostBatches).

        Args:
            tried: int64 (h, tries), the indices tried for each row, -1 after the last.
            fault: uint8 (h, tries), 0 or 1 + place in KINDS.

        Raises:
            DataError: a row had no usable sample in all its tries, or the window holds too many bad ones.
        """
        for row, attempt in np.argwhere(fault):
            self._add(int(tried[row, attempt]), KINDS[fault[row, attempt] - 1])
        samples, bad = int((tried >= 0).sum()), int((fault > 0).sum())
        self.counts["samples"] += samples
        self.counts["bad"] += bad
        self._window.append((samples, bad))
        # Whole batches leave the window, and never so many that it covers less than WINDOW samples.
        while sum(n for n, _ in self._window) - self._window[0][0] >= WINDOW:
            self._window.popleft()
        if fault.all(axis=1).any():  # at the first row already, where nothing is good
            alone = ", not one good one before" if self.counts["bad"] == self.counts["samples"] else ""
            raise self._too_many(f"{fault.shape[1]} bad ones in a row for one place{alone}")
        seen, recent = (sum(column) for column in zip(*self._window, strict=True))
        if recent > self._max_fraction * max(seen, WINDOW):  # a short start is not yet a rate
            raise self._too_many(f"{recent} bad ones among the last {seen}")

    def drain(self) -> list[dict[str, Any]]:
        """Lines for quarantine.jsonl since the last call: index, shard, key, kind; each sample once in a run."""
        lines, self._lines = self._lines, []
        return lines

    def summary(self, totals: Mapping[str, int]) -> str:
        """All of it in one line for people, "" where nothing was bad.

        Args:
            totals: counts like `counts`, of the whole run; the shards are those of this process.
        """
        if not totals["bad"]:
            return ""
        worst = ", ".join(f"{shard} {count:,}" for shard, count in self.shards.most_common(SHOWN))
        return (f"{totals['bad']:,} of {totals['samples']:,} samples replaced: {_kinds(totals)}; most of this process "
                f"in {worst or 'no shard'}; each is in quarantine.jsonl")

    def _add(self, index: int, kind: str) -> None:
        self.counts[kind] += 1
        if index not in self._known:
            shard, key = self._source.describe(index)
            self._known[index] = shard
            self._lines.append({"shard": shard, "key": key, "kind": kind, "index": index})
        self.shards[self._known[index]] += 1

    def _too_many(self, found: str) -> DataError:
        first = ", ".join("/".join(self._source.describe(index)) for index in sorted(self._known)[:SHOWN])
        return DataError(
            explain(self._source.spec, expected=f"at most {self._max_fraction:.3%} bad samples",
                    found=f"{found} ({_kinds(self.counts)}; such as {first})",
                    do="look at them with `lit-tune data inspect`, or raise config.data.max_bad_fraction")
        )  # fmt: skip


def _kinds(counts: Mapping[str, int]) -> str:
    """The kinds that were met, with how often."""
    return ", ".join(f"{kind} {counts[kind]:,}" for kind in KINDS if counts[kind])
