"""One picture with its captions, why one may be refused, and what every source of them offers."""

import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

KINDS = (  # of refused samples, as they stand in quarantine.jsonl; code = place + 1, 0 means fine
    "short_caption",  # under 2 bytes after stripping
    "no_caption",  # the json member lacks the field, or it holds no text
    "bad_json",  # the json member is no JSON object
    "empty_image",  # 0 bytes
    "too_many_bytes",  # over config.data.max_image_mib
    "too_many_pixels",  # over config.data.max_pixels
    "extreme_aspect",  # over config.data.max_aspect
    "unknown_format",  # not JPEG, PNG, WEBP, BMP or GIF by content
    "undecodable",  # cut, damaged or refused by the decoder
    "unreadable",  # the file or shard could not be read there
    "no_vector",  # config.text.vectors has none for it
    "too_small",  # under config.data.min_side
)
READ_TRIES = 3


class BadSample(Exception):
    """This sample cannot be used; `kind` is one of KINDS."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


@dataclass(frozen=True)
class Sample:
    """A picture as encoded bytes, its usable captions (at least one) and the other fields that came with it."""

    key: str
    image: bytes
    captions: tuple[str, ...]
    meta: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class Source(Protocol):
    """Samples by index, 0 to len - 1, always the same ones; safe to read from several threads and to pickle.

    Attributes:
        spec: what the user wrote to name it.
        fingerprint: hex sha256; equal for equal pictures and captions in equal order, wherever they lie.
        counts: how often each reason for leaving something out (or noting it) was met when it was opened.
    """

    spec: str
    fingerprint: str
    counts: dict[str, int]

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Sample:
        """Everything about sample `i`. Raises BadSample."""
        ...

    def pair(self, i: int, max_image_bytes: int) -> tuple[bytes, tuple[str, ...]]:
        """Only what training needs: encoded picture and captions. Raises BadSample."""
        ...

    def captions(self, i: int) -> tuple[str, ...]:
        """The usable captions of sample `i`, in file order. Raises BadSample where there is none."""
        ...

    def caption_sets(self) -> Iterator[tuple[str, ...]]:
        """`captions` of every sample in index order, () for a bad one."""
        ...

    def describe(self, i: int) -> tuple[str, str]:
        """(shard or file, key) of sample `i`, for messages and quarantine.jsonl."""
        ...


@runtime_checkable
class Indexed(Protocol):
    """A source that knows uids without reading samples."""

    def uid(self, i: int) -> str:
        """The uid of sample `i`, 32 hex digits; "" where the index has none."""
        ...


@runtime_checkable
class Sharded(Protocol):
    """A source over several files."""

    def shard_digests(self) -> list[tuple[str, str]]:
        """(name, hex sha256) of each file, in order."""
        ...


def shard_digests(source: Source) -> list[tuple[str, str]]:
    """(name, hex sha256) of the files of a source, in order; [] where it is not made of such."""
    return source.shard_digests() if isinstance(source, Sharded) else []


def uid_of(source: Source, i: int) -> str:
    """The uid of sample `i`: of the index, else of its other fields; "" where it has none."""
    known = source.uid(i) if isinstance(source, Indexed) else ""
    if known:
        return known
    try:
        return str(source[i].meta.get("uid", ""))
    except BadSample:
        return ""


def read_at(descriptor: int, size: int, offset: int) -> bytes:
    """`size` bytes of an open file from `offset`; never moves a file position, so threads may share the descriptor.

    A flaky file system gets READ_TRIES tries with a growing, jittered pause.

    Raises:
        BadSample: "unreadable", after the last try or where the file ends too early.
    """
    for attempt in range(READ_TRIES):
        try:
            return _read_all(descriptor, size, offset)
        except OSError:
            if attempt + 1 < READ_TRIES:
                time.sleep(0.1 * 4**attempt * random.uniform(0.5, 1.5))
    raise BadSample("unreadable")


def _read_all(descriptor: int, size: int, offset: int) -> bytes:
    """One try of `read_at`; a single pread may return less than asked for (Linux stops at 2 GiB)."""
    data = os.pread(descriptor, size, offset)
    while len(data) < size:
        more = os.pread(descriptor, size - len(data), offset + len(data))
        if not more:
            raise BadSample("unreadable")
        data += more
    return data
