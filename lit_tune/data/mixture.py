"""Several data sets as one source: `config.data.mix`. Shares are order_mix.py's; here the pairs only stand in a row.

    --config.data.train='' --config.data.mix="('0.7=a/{00..99}.tar', '0.3=b/')"
"""

import bisect
import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

from lit_tune.data import subset
from lit_tune.data.sample import Sample, Source, shard_digests, uid_of
from lit_tune.data.sources import open_source
from lit_tune.errors import ConfigError, explain


class MixedSource:
    """The pairs of several sources, one source after the other.

    Args:
        parts: at least one; no two with the same pairs.

    Attributes:
        parts: as given.
        spec, fingerprint, counts: see Source; the counts are sums, the fingerprint knows nothing of shares.

    Raises:
        ConfigError: two parts hold the same pairs.
    """

    def __init__(self, parts: Sequence[Source]) -> None:
        self.parts = tuple(parts)
        self.spec = " + ".join(part.spec for part in parts)
        self.counts = dict(sum((Counter(part.counts) for part in parts), Counter()))
        known: dict[str, Source] = {}
        for part in parts:
            if part.fingerprint in known:
                raise ConfigError(explain("config.data.mix", expected="parts that differ",
                                          found=f"the same pairs in {known[part.fingerprint].spec} and {part.spec}",
                                          do="name them once, with the sum of their weights"))
            known[part.fingerprint] = part
        self.fingerprint = hashlib.sha256("|".join(["mix", *known]).encode()).hexdigest()
        self._ends = list(itertools.accumulate(len(part) for part in parts))

    def __repr__(self) -> str:
        return f"MixedSource({list(self.parts)!r})"

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, i: int) -> Sample:
        part, place = self._find(i)
        return part[place]

    def pair(self, i: int, max_image_bytes: int) -> tuple[bytes, tuple[str, ...]]:
        """Encoded picture and captions of pair `i`. Raises BadSample."""
        part, place = self._find(i)
        return part.pair(place, max_image_bytes)

    def captions(self, i: int) -> tuple[str, ...]:
        """The usable captions of pair `i`. Raises BadSample."""
        part, place = self._find(i)
        return part.captions(place)

    def caption_sets(self) -> Iterator[tuple[str, ...]]:
        """The usable captions of every pair in index order, () for a bad one."""
        return itertools.chain.from_iterable(part.caption_sets() for part in self.parts)

    def uid(self, i: int) -> str:
        """The uid of pair `i`, "" where it has none."""
        return uid_of(*self._find(i))

    def describe(self, i: int) -> tuple[str, str]:
        """(part and shard or file, key) of pair `i`."""
        part, place = self._find(i)
        shard, key = part.describe(place)
        return f"{part.spec}: {shard}", key

    def shard_digests(self) -> list[tuple[str, str]]:
        """(name, sha256) of the shards of all parts, in order."""
        return [pair for part in self.parts for pair in shard_digests(part)]

    def _find(self, i: int) -> tuple[Source, int]:
        """The part that holds pair `i` and the pair's number there."""
        i = int(i)
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        number = bisect.bisect_right(self._ends, i)
        return self.parts[number], i - (self._ends[number - 1] if number else 0)


def parse(mix: Sequence[str]) -> list[tuple[Fraction, str]]:
    """(weight, spec) of each entry of a checked `config.data.mix`."""
    entries = [entry.partition("=") for entry in mix]
    return [(Fraction(weight), spec) for weight, _, spec in entries]


def open_train(
    data: Any, *, caption_field: str | None = None, max_samples: int | None = None, allow_missing: float = 0.0
) -> Source:
    """The training pairs of a config: one source, or the parts of a mixture.

    Args:
        data: `config.data`.
        caption_field: stands in for `data.caption_field`.
        max_samples: use only the first so many pairs, of a mixture so many of each part.
        allow_missing: share of the shards, of a mixture of each part's, that may be missing or damaged.

    Raises:
        ConfigError, DataError: as `open_source`; also two parts with the same pairs.
    """
    specs = [spec for _, spec in parse(data.mix)] or [data.train]
    listed = subset.of_config(data)
    opened = [open_source(spec, data, caption_field=caption_field, max_samples=max_samples, subset=listed,
                          allow_missing=allow_missing) for spec in specs]
    return MixedSource(opened) if data.mix else opened[0]
