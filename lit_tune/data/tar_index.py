"""Where every picture-caption pair of a tar shard lies: fixed-width records, made in one pass, kept in the cache.

File layout, little-endian: one HEADER, `samples` RECORDs, then all keys, deflated. A record is 50 bytes, a key 2 to 3
(img2dataset's numbers, or DataComp's UID-J, whose uid is in the record). Keys serve messages and copies, never
training, so they are unpacked when one is asked for.

Grouping follows what readers of such shards do (webdataset's `group_by_keys`): the key is the name up to the first dot
of its last part, the rest is the suffix, lower-cased; another key, or a suffix that repeats, starts a new sample. Only
neighbours are ever joined, so a picture never meets another sample's caption. A group without a picture or without a
caption member is counted and left out. Of two pictures the webp wins: DataComp's resharding
adds one with faces blurred.
"""

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lit_tune import files
from lit_tune.data import captions, packed_keys, storage
from lit_tune.data.announced import expected_samples
from lit_tune.data.storage import Location
from lit_tune.data.tar_walk import BLOCK, CHUNK, USUAL_PADDING, Damage, HashedReader, Member, Walk
from lit_tune.errors import DataError, explain
from lit_tune.paths import cache_dir

MAGIC = b"LTINDEX\0"
VERSION = 3
SUFFIXES = ("webp", "jpg", "jpeg", "png")  # of pictures, the winning one first
COUNTS = (  # why something is not in the index, or is in it but odd; the order is part of the format
    "no_image",  # groups without a picture
    "no_caption",  # groups with a picture but without the caption member
    "not_a_file",  # links, devices, sparse files
    "odd_name",  # members without key or suffix, with an absolute name or with ".."
    "bad_json",  # .json members that are no JSON object (the pair stays, without uid)
    "not_utf8",  # captions with bytes that became U+FFFD (the pair stays)
    "short_caption",  # captions under 2 bytes (in the index; replaced when their turn comes)
    "long_caption",  # captions cut at 64 KiB (the pair stays)
    "repeated_key",  # pairs whose key an earlier pair of the shard has (each stays a pair of its own)
    "no_end_marker",  # 1: the two closing blocks of zeros are missing
)
MAX_JSON = 16 << 20  # bytes; a longer .json member is not parsed
U32_MAX = 0xFFFFFFFF
LARGEST_SHARD = U32_MAX * BLOCK  # bytes, 2 TiB

RECORD = np.dtype(
    # Where data starts, in blocks of 512 bytes, as everything in a tar does; 0: no such member.
    [("image_block", "<u4"), ("text_block", "<u4"), ("json_block", "<u4")]
    + [("image_size", "<u4"), ("text_size", "<u4"), ("json_size", "<u4")]
    + [("uid_high", "<u8"), ("uid_low", "<u8"), ("digest", "<u8")]  # both 0: no uid; digest: of all three members
    + [("suffix", "u1"), ("format", "u1")]  # format: index in FORMATS, told by content
)
HEADER = np.dtype(
    [("magic", "S8"), ("version", "<u4"), ("record_size", "<u4"), ("samples", "<u8"), ("key_bytes", "<u8")]
    + [("shard_size", "<u8"), ("shard_sha256", "V32"), ("groups", "<u8"), ("expected", "<i8"), ("zero_tail", "<u8")]
    + [("counts", "<u8", (len(COUNTS),)), ("damage", "S256")]
)
FORMATS = ("unknown", "JPEG", "PNG", "WEBP", "BMP", "GIF")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Index:
    """One shard's pairs.

    Attributes:
        path: the shard.
        shard_size: bytes of the shard when it was read.
        sha256: of the whole shard, hex.
        groups: samples of any kind that were seen, complete or not.
        expected: samples that `sizes.json` or `_stats.json` announce; -1 where there is neither.
        zero_tail: bytes of zeros after the last member.
        counts: how often each entry of COUNTS was met.
        damage: why reading stopped early, one line; "" where it did not.
        records: RECORD array, one entry a pair, in file order.
        keys: all keys as `packed_keys.pack` makes them.
    """

    path: Location
    shard_size: int
    sha256: str
    groups: int
    expected: int
    zero_tail: int
    counts: dict[str, int]
    damage: str
    records: np.ndarray
    keys: np.ndarray

    def __len__(self) -> int:
        return len(self.records)

    def key(self, i: int) -> str:
        """Key of pair `i`; bytes that are not UTF-8 show as U+FFFD."""
        key = self._keys.key(i, int(self.records["uid_high"][i]), int(self.records["uid_low"][i]))
        return key.decode("utf-8", "replace")

    @cached_property
    def _keys(self) -> packed_keys.Keys:
        return packed_keys.unpack(self.keys, len(self.records))

    def problem(self) -> str:
        """Why this shard cannot be trusted, one line; "" for a whole one."""
        if self.damage:
            return f"{self.damage}, {self.groups} samples before it{self._announced()}"
        # Odd members make groups that nobody announced, so more groups than announced are fine, more pairs are not.
        if self.groups < self.expected or 0 <= self.expected < len(self):
            return f"{max(self.groups, len(self))} samples{self._announced()}"
        # Where a count is announced and met, a long tail of zeros is only generous padding.
        if self.zero_tail > USUAL_PADDING and self.expected < 0:
            return f"a tail of {self.zero_tail} bytes of zeros after {self.groups} samples (and no _stats.json to tell)"
        return ""

    def _announced(self) -> str:
        return f" where sizes.json or _stats.json announce {self.expected}" if self.expected >= 0 else ""


class _Content(NamedTuple):
    """What is remembered of one member's data."""

    member: Member
    digest: bytes
    head: bytes


class _Builder:
    """Collects members into groups and groups into records."""

    def __init__(self, caption_member: str) -> None:
        self.caption_member = caption_member
        self.counts = dict.fromkeys(COUNTS, 0)
        self.groups = 0
        self.rows: list[tuple] = []
        self.keys: list[bytes] = []
        self._key = b""
        self._suffixes: set[str] = set()
        self._parts: dict[str, _Content] = {}

    def start(self, key: bytes, suffix: str) -> None:
        """Note that a member with this key and suffix comes; ends the open group where it does not belong to it."""
        # The same key again with a suffix already seen is another sample: two shards may have been joined.
        if self._suffixes and (key != self._key or suffix in self._suffixes):
            self.finish_group()
        self._key = key
        self._suffixes.add(suffix)

    def add(self, suffix: str, content: _Content) -> None:
        """Put a picture, caption or json member into the open group."""
        self._parts[suffix] = content

    def finish_group(self) -> None:
        """Turn the open group into a record, or count why not."""
        parts, self._parts = self._parts, {}
        if not self._suffixes:
            return
        self._suffixes = set()
        self.groups += 1
        # In the order of SUFFIXES, whatever the order in the tar.
        picture = next((s for s in SUFFIXES if s in parts), None)
        if picture is None:
            self.counts["no_image"] += 1
        elif self.caption_member not in parts:
            self.counts["no_caption"] += 1
        else:
            self._add_row(picture, parts)

    def _add_row(self, picture: str, parts: dict[str, _Content]) -> None:
        """Append the record of a complete pair."""
        self.keys.append(self._key)
        absent = _Content(Member(b"", 0, 0, True), b"", b"")
        image, text, meta = parts[picture], parts.get("txt", absent), parts.get("json", absent)
        high, low = self._uid(meta.head) if meta is not absent else (0, 0)
        if self.caption_member == "txt":
            self._count_caption(text)
        digest = hashlib.blake2b(image.digest + text.digest + meta.digest, digest_size=8).digest()
        blocks = tuple(part.member.offset // BLOCK for part in (image, text, meta))
        sizes = tuple(min(part.member.size, U32_MAX) for part in (image, text, meta))
        kinds = (SUFFIXES.index(picture), FORMATS.index(image_format(image.head)))
        self.rows.append((*blocks, *sizes, high, low, int.from_bytes(digest, "little"), *kinds))

    def _uid(self, raw: bytes) -> tuple[int, int]:
        """The two halves of a DataComp uid (32 hex digits, left-padded), (0, 0) where there is none."""
        try:
            fields = json.loads(raw)
        except (ValueError, RecursionError):
            fields = None
        if not isinstance(fields, dict):
            self.counts["bad_json"] += 1
            return 0, 0
        uid = str(fields.get("uid", "")).zfill(32)
        if len(uid) != 32 or uid.strip("0123456789abcdefABCDEF"):
            return 0, 0
        return int(uid[:16], 16), int(uid[16:], 16)

    def _count_caption(self, text: _Content) -> None:
        caption = captions.clean(text.head)
        self.counts["long_caption"] += text.member.size > captions.MAX_BYTES
        self.counts["not_utf8"] += "\ufffd" in caption and "\ufffd".encode() not in text.head
        self.counts["short_caption"] += not captions.usable(caption)


def image_format(head: bytes) -> str:
    """JPEG, PNG, WEBP, BMP or GIF by a picture's first 12 bytes, whatever its name says; "unknown" for others."""
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith(b"BM"):
        return "BMP"
    return "GIF" if head.startswith((b"GIF87a", b"GIF89a")) else "unknown"


def split_name(name: bytes) -> tuple[bytes, str] | None:
    """(key, lower-cased suffix) of a member, or None for a name that belongs to no sample.

    "a.b/c.v1.JPG" -> (b"a.b/c", "v1.jpg"): like webdataset, the suffix starts at the first dot of the last part, so
    such a member is no picture (its suffix is "v1.jpg", not "jpg").
    """
    folder, slash, base = name.rpartition(b"/")
    stem, dot, suffix = base.partition(b".")
    if not stem or not dot or name.startswith(b"/") or b".." in folder.split(b"/"):
        return None
    return folder + slash + stem, suffix.decode("utf-8", "replace").lower()


def scan(path: Location, caption_member: str = "txt") -> Index:
    """The index of one shard, from one sequential read of it; damage is recorded, not raised.

    Args:
        path: the tar file.
        caption_member: "txt" or "json", the member a pair must have beside its picture.

    Raises:
        DataError: the file cannot be read at all.
    """
    builder, damage = _Builder(caption_member), ""
    try:
        size = storage.state(path).size
        with storage.reading(path, size) as file:
            reader = HashedReader(file)
            walk = Walk(reader, size)
            try:
                if size > LARGEST_SHARD:
                    raise Damage(f"{size} bytes, more than an index can number ({LARGEST_SHARD})")
                _collect(walk, reader, builder)
                builder.counts["no_end_marker"] = int(not walk.end_marker)
                damage = "" if size else "the file is empty (0 bytes)"
            except Damage as found:
                damage = str(found)
            # What was complete when the tar broke off is still a pair; `problem` tells the caller about the rest.
            builder.finish_group()
            builder.counts["repeated_key"] = len(builder.keys) - len(set(builder.keys))
            sha256 = reader.digest().hex()
    except OSError as error:
        raise _unreadable(path, error) from error
    records = np.array(builder.rows, RECORD)
    return Index(
        path, size, sha256, builder.groups, expected_samples(path), walk.zero_tail, builder.counts, damage,
        records, packed_keys.pack(builder.keys, records["uid_high"].tolist(), records["uid_low"].tolist()),
    )  # fmt: skip


def _collect(walk: Iterable[Member], reader: HashedReader, builder: _Builder) -> None:
    """Hand every member of the walk to the builder."""
    for member in walk:
        split = split_name(member.name)
        if member.regular and split is not None:
            key, suffix = split
            builder.start(key, suffix)
            if suffix in SUFFIXES or suffix in ("txt", "json"):
                builder.add(suffix, _read_content(reader, member, MAX_JSON if suffix == "json" else captions.MAX_BYTES))
        elif member.regular:
            builder.counts["odd_name"] += 1
        elif not member.name.endswith(b"/"):  # folders are nothing to report
            builder.counts["not_a_file"] += 1


def _read_content(reader: HashedReader, member: Member, keep: int) -> _Content:
    """Hash a member's data; at most `keep` bytes of it stay in memory."""
    digest, head, left = hashlib.blake2b(digest_size=8), b"", member.size
    while left and (chunk := reader.read(min(left, CHUNK))):
        digest.update(chunk)
        head += chunk[: keep - len(head)]
        left -= len(chunk)
    if left:  # the file shrank while it was read
        raise Damage(f"cut inside {member.name.decode('utf-8', 'replace')!r}")
    return _Content(member, digest.digest(), head)


def save(index: Index, file: Path) -> None:
    """Write an index so that readers see all of it or nothing."""
    header = np.zeros((), HEADER)
    header["magic"], header["version"], header["record_size"] = MAGIC, VERSION, RECORD.itemsize
    header["samples"], header["key_bytes"], header["shard_size"] = len(index), len(index.keys), index.shard_size
    header["shard_sha256"] = np.void(bytes.fromhex(index.sha256))
    header["groups"], header["expected"], header["zero_tail"] = index.groups, index.expected, index.zero_tail
    header["counts"] = [index.counts[name] for name in COUNTS]
    header["damage"] = index.damage.encode("utf-8", "replace")[:256]
    files.write_whole(file, header.tobytes() + index.records.tobytes() + index.keys.tobytes())


def load(path: Location, file: Path) -> Index | None:
    """The index of shard `path` that `save` wrote to `file`, memory-mapped; None where it is absent or not ours."""
    try:
        raw = np.memmap(file, np.uint8, "r").view(np.ndarray)  # plain views of the map are cheaper to slice
    except (OSError, ValueError):  # ValueError: an empty file cannot be mapped
        return None
    if len(raw) < HEADER.itemsize:
        return None
    header = raw[: HEADER.itemsize].view(HEADER)[0]
    written_as = (bytes(header["magic"]).ljust(8, b"\0"), int(header["version"]), int(header["record_size"]))
    keys_at = HEADER.itemsize + int(header["samples"]) * RECORD.itemsize
    # A half-written or older file is made again, never repaired.
    if written_as != (MAGIC, VERSION, RECORD.itemsize) or len(raw) != keys_at + int(header["key_bytes"]):
        return None
    counts = dict(zip(COUNTS, header["counts"].tolist(), strict=True))
    return Index(
        path, int(header["shard_size"]), header["shard_sha256"].tobytes().hex(), int(header["groups"]),
        int(header["expected"]), int(header["zero_tail"]), counts, bytes(header["damage"]).decode("utf-8", "replace"),
        raw[HEADER.itemsize : keys_at].view(RECORD), raw[keys_at:],
    )  # fmt: skip


def index_file(path: Location, caption_member: str) -> Path:
    """Where the cache keeps the index of a shard in its present state (path, size and time of change or version).

    Raises:
        DataError: the shard is missing or cannot be asked for its size.
    """
    try:
        state = storage.state(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    # Size and time of change stand in for the content: hashing every shard at each start would read them all.
    name = f"{VERSION}|{storage.identity(path)}|{state.size}|{state.version}|{caption_member}"
    return cache_dir() / "index" / (hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:32] + ".idx")


def index_shard(path: Location, caption_member: str = "txt") -> Index:
    """The index of one shard, from the cache or made now and put there; the announced count is read afresh.

    Raises:
        DataError: the shard is missing or unreadable. A damaged shard is no error here: ask `problem()`.
    """
    file = index_file(path, caption_member)
    index = load(path, file)
    if index is None:
        index = scan(path, caption_member)
        try:
            save(index, file)
        except OSError as error:  # a full or read-only cache costs time and memory, nothing else
            log.warning("%s", explain(str(file), expected="a writable cache", found=error, do="set LIT_TUNE_CACHE"))
    return replace(index, expected=expected_samples(path))


def _unreadable(path: Location, error: OSError) -> DataError:
    """The error for a shard that is not there or not readable."""
    found = "no such file" if isinstance(error, FileNotFoundError) else error.strerror or error
    return DataError(
        explain(str(path), expected="a readable tar shard", found=found, do="restore the file or correct the spec")
    )
