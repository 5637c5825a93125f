"""A source some of whose samples have no text vector: these are bad samples, replaced when their turn comes."""

from collections.abc import Iterator
from typing import Any

from lit_tune.data.sample import BadSample, Sample, Source


class MatchedSource:
    """A source beside a text cache; what has no vector there raises BadSample("no_vector").

    Args:
        source: the pairs.
        cache: has `captions(i)`, 0 for a sample without a vector.
    """

    def __init__(self, source: Source, cache: Any) -> None:
        self.source, self.cache = source, cache
        self.spec, self.fingerprint, self.counts = source.spec, source.fingerprint, source.counts

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> Sample:
        return self.source[i]

    def pair(self, i: int, max_image_bytes: int) -> tuple[bytes, tuple[str, ...]]:
        """Encoded picture and captions of sample `i`. Raises BadSample."""
        found = self.source.pair(i, max_image_bytes)  # what is wrong with the sample itself comes first
        if not self.cache.captions(i):
            raise BadSample("no_vector")
        return found

    def captions(self, i: int) -> tuple[str, ...]:
        """The usable captions of sample `i`. Raises BadSample."""
        return self.source.captions(i)

    def caption_sets(self) -> Iterator[tuple[str, ...]]:
        """The usable captions of every sample in index order, () for a bad one."""
        return self.source.caption_sets()

    def describe(self, i: int) -> tuple[str, str]:
        """(shard or file, key) of sample `i`."""
        return self.source.describe(i)
