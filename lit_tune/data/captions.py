"""Captions as text and as identities: clean strings from bytes, and the id that tells equal caption sets apart."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

MIN_BYTES = 2  # after stripping; shorter ones are no captions (nomic-ai/contrastors drops them too)
MAX_BYTES = 65_536  # longer ones are cut: no text tower here reads past 8,192 tokens


def clean(raw: bytes) -> str:
    """The caption in `raw`: UTF-8 with U+FFFD for what is not, at most MAX_BYTES, no byte-order mark, stripped."""
    return raw[:MAX_BYTES].decode("utf-8", "replace").removeprefix("\ufeff").strip()


def usable(caption: str) -> bool:
    """Whether the stripped caption has at least MIN_BYTES bytes."""
    return len(caption) >= MIN_BYTES or len(caption.encode("utf-8", "replace")) >= MIN_BYTES


def caption_id(captions: Iterable[str]) -> np.ndarray:
    """Two uint32 words (2,) that stand for a *set* of captions: order and repeats do not matter.

    Sampling one of several captions must not hide that two pictures are described alike, so the whole set is hashed.

    Args:
        captions: all captions of one sample, as text.
    """
    return _words(sorted({caption.encode("utf-8", "replace") for caption in captions}))


def token_caption_id(token_ids: Iterable[Sequence[int] | np.ndarray]) -> np.ndarray:
    """The same for captions as token ids, after prefix and truncation: what the text tower cannot tell apart is equal.

    Args:
        token_ids: one sequence of non-negative ids below 2**32 for each caption of one sample.
    """
    return _words(sorted({np.asarray(ids, "<u4").tobytes() for ids in token_ids}))


def _words(parts: list[bytes]) -> np.ndarray:
    """First 64 bits of a blake2b over length-prefixed parts, as uint32 (2,)."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))  # a length keeps ("ab", "c") and ("a", "bc") apart
        digest.update(part)
    return np.frombuffer(digest.digest(), "<u4").astype(np.uint32)
