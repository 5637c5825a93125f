"""The keys of a shard's samples in 2 to 3 bytes each: deflated, and without the uid that the index holds anyway."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MARK = b"\0"  # at the start of a packed key: the sample's uid stands here


@dataclass(frozen=True)
class Keys:
    """Unpacked: where each key ends, and all of them joined."""

    ends: np.ndarray
    joined: bytes

    def key(self, i: int, uid_high: int, uid_low: int) -> bytes:
        """Key `i`, given the uid of its sample."""
        key = self.joined[int(self.ends[i - 1]) if i else 0 : int(self.ends[i])]
        return uid_digits(uid_high, uid_low) + key.removeprefix(MARK) if key.startswith(MARK) else key


def pack(keys: Sequence[bytes], uid_high: Sequence[int], uid_low: Sequence[int]) -> np.ndarray:
    """Lengths of the keys as u4, then the keys, deflated together: uint8."""
    packed = []
    for key, high, low in zip(keys, uid_high, uid_low, strict=True):
        key = key.replace(MARK, "\ufffd".encode())  # a zero byte in a name: pax alone can hold one
        digits = uid_digits(high, low)
        packed.append(MARK + key.removeprefix(digits) if key.startswith(digits) else key)
    lengths = np.array([len(key) for key in packed], "<u4")
    return np.frombuffer(zlib.compress(lengths.tobytes() + b"".join(packed)), np.uint8)


def unpack(packed: np.ndarray, count: int) -> Keys:
    """The `count` keys that `pack` packed."""
    raw = zlib.decompress(packed.tobytes())
    lengths = np.frombuffer(raw, "<u4", count)
    return Keys(np.cumsum(lengths, dtype=np.int64), raw[lengths.nbytes :])


def uid_digits(high: int, low: int) -> bytes:
    """The 32 hex digits of a uid."""
    return b"%016x%016x" % (high, low)
