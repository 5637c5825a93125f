"""The members of a tar file, one sequential pass over its 512-byte blocks, with every kind of damage named.

Python's `tarfile` ends without an error at a flipped header bit, at a cut between members and at a tail of zeros, so
a shard can lose half its pairs in silence. This reader verifies each header's checksum and says why it stopped.
It never extracts anything, and names are only ever names.

Source: POSIX.1-2017 pax format; GNU tar manual, "Basic Tar Format" (long names are type L, sparse files type S).
"""

import hashlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, Protocol, runtime_checkable

BLOCK = 512  # bytes; everything in a tar starts at a multiple of it
USUAL_PADDING = 20 * BLOCK + 2 * BLOCK  # end marker, then up to a record of 20 blocks: GNU tar's and Python's habit
CHUNK = 1 << 20  # bytes read at a time where data is only hashed
LONGEST_NAME_HEADER = 1 << 20  # bytes; a longer pax or long-name member is damage, not a name

REGULAR = (b"0", b"\0", b"7")
WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders, pipes: their size field means nothing


class Damage(Exception):
    """The tar cannot be read on from here; the text says what was found at which byte."""


class Member(NamedTuple):
    """One entry: its name as bytes, where its data starts, how long it is and whether it is a plain file."""

    name: bytes
    offset: int
    size: int
    regular: bool


@runtime_checkable
class Readable(Protocol):
    """What can be read from start to end."""

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer only at the end."""
        ...


class HashedReader:
    """Sequential reads of a file that keep the sha256 and the position of all that went by."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._sha = hashlib.sha256()
        self.position = 0

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer only at the end of the file."""
        data = self._file.read(size)
        self._sha.update(data)
        self.position += len(data)
        return data

    def skip_to(self, position: int) -> None:
        """Read up to `position` or the end of the file, in chunks."""
        while self.position < position and self.read(min(CHUNK, position - self.position)):
            continue

    def digest(self) -> bytes:
        """sha256 of the whole file; reads what is left of it."""
        while self.read(CHUNK):
            continue
        return self._sha.digest()


class SeekingReader:
    """A `HashedReader` without the digest, for who wants a few members: other data is passed over, not read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    @property
    def position(self) -> int:
        """Bytes from the start."""
        return self._file.tell()

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer only at the end of the file."""
        return self._file.read(size)

    def skip_to(self, position: int) -> None:
        """Go there."""
        self._file.seek(position)


class Walk:
    """The members of one tar, as an iterator, and how the file ended.

    Attributes:
        end_marker: whether two blocks of zeros closed the archive (valid after the iteration).
        zero_tail: bytes of zeros from the end of the last member to the end of the file.
    """

    def __init__(self, reader: HashedReader | SeekingReader, file_size: int) -> None:
        self._reader = reader
        self._file_size = file_size
        self.end_marker = False
        self.zero_tail = 0

    def __iter__(self) -> Iterator[Member]:
        """Members in file order; the caller may read a member's data from the reader before asking for the next.

        Raises:
            Damage: a header or a member cannot be right.
        """
        long_name: bytes | None = None
        pax: dict[bytes, bytes] = {}
        while (header := self._next_header()) is not None:
            kind = header[156:157]
            size = _number(header[124:136], self._reader.position - BLOCK)
            if kind in (b"x", b"L"):  # a name too long for the header, told ahead of the member it belongs to
                data = self._extension(size)
                long_name = data.rstrip(b"\0") if kind == b"L" else long_name
                pax = _pax_fields(data) if kind == b"x" else pax
                continue
            # Global pax headers (g) and long link names (K) come through here as members that are no plain files.
            member = self._member(header, kind, size, long_name, pax)
            long_name, pax = None, {}
            yield member
            # The data is read even where nobody wants it: the sha256 is over the whole file.
            self._reader.skip_to(member.offset + _padded(member.size))

    def _next_header(self) -> bytes | None:
        """The next header block with a right checksum, or None at the end of the archive."""
        at = self._reader.position
        header = self._reader.read(BLOCK)
        if not header:
            return None  # no end marker: some writers leave it out, but a cut between members looks the same
        if len(header) < BLOCK:
            raise Damage(_not_a_tar(header) if at == 0 else f"cut inside the header at byte {at}")
        if header.count(0) == BLOCK:  # one such block ends it for Python and GNU tar alike; two are written
            self._read_tail(at)
            return None
        if not _checksum_holds(header):
            raise Damage(_not_a_tar(header) if at == 0 else f"bad header checksum at byte {at}")
        return header

    def _read_tail(self, start: int) -> None:
        """Check that only zeros follow the first block of zeros at byte `start`."""
        while chunk := self._reader.read(CHUNK):
            if chunk.count(0) != len(chunk):
                raise Damage(f"a block of zeros at byte {start} with more data after it")
        self.zero_tail = self._reader.position - start
        self.end_marker = self.zero_tail >= 2 * BLOCK

    def _extension(self, size: int) -> bytes:
        """Data of a pax or long-name member."""
        start = self._reader.position
        if size > LONGEST_NAME_HEADER:
            raise Damage(f"a name header of {size} bytes at byte {start}")
        data = self._reader.read(size)
        if len(data) < size:
            raise Damage(f"cut inside the name header at byte {start}")
        self._reader.skip_to(start + _padded(size))
        return data

    def _member(
        self, header: bytes, kind: bytes, size: int, long_name: bytes | None, pax: dict[bytes, bytes]
    ) -> Member:
        """The member that `header` and the extensions before it describe."""
        sparse = kind == b"S" or any(field.startswith(b"GNU.sparse.") for field in pax)
        if kind == b"S" and header[482]:  # its map goes on in more blocks
            while self._reader.read(BLOCK)[504:505] == b"\1":
                continue
        name = pax.get(b"path", long_name) or _plain_name(header)
        if b"size" in pax and pax[b"size"].isdigit():
            size = int(pax[b"size"])
        if kind in WITHOUT_DATA:
            size = 0
        start = self._reader.position
        # Against the size of the file, before anything is read: a wrong size must not look like a long member.
        if start + size > self._file_size:
            text = name.decode("utf-8", "replace")
            raise Damage(f"cut inside {text!r}: {size} bytes announced, {self._file_size - start} there")
        regular = kind in REGULAR and not sparse and not name.endswith(b"/")
        return Member(name, start, size, regular)


def _padded(size: int) -> int:
    """`size` rounded up to whole blocks."""
    return -(-size // BLOCK) * BLOCK


def _plain_name(header: bytes) -> bytes:
    """The name in the header itself; ustar splits long ones in two, GNU uses that place for other fields."""
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0]
    return prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name


def _number(field: bytes, at: int) -> int:
    """A number of a header: octal text, or base 256 where the first bit is set (GNU, for sizes from 8 GiB)."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    text = field.split(b"\0", 1)[0].strip()
    if text and (not text.isdigit() or text.strip(b"01234567")):
        raise Damage(f"a size that is no number in the header at byte {at}")
    return int(text or b"0", 8)


def _checksum_holds(header: bytes) -> bool:
    """Whether the header's bytes add up to its checksum field, counted as unsigned or (old writers) signed bytes."""
    field = header[148:156].split(b"\0", 1)[0].strip()
    if not field or field.strip(b"01234567"):
        return False
    rest = header[:148] + b" " * 8 + header[156:]
    total = sum(rest)
    if int(field, 8) == total:
        return True
    return int(field, 8) == total - 256 * sum(byte > 127 for byte in rest)


def _pax_fields(data: bytes) -> dict[bytes, bytes]:
    """`key=value` of the records of a pax header; a malformed record ends it."""
    fields: dict[bytes, bytes] = {}
    while data:
        length, space, _ = data.partition(b" ")
        # "27 path=some/name\n": the number counts itself, the blank and the line feed.
        if not space or not length.isdigit() or not len(length) + 1 < int(length) <= len(data):
            break
        key, _, value = data[len(length) + 1 : int(length) - 1].partition(b"=")
        fields[key] = value
        data = data[int(length) :]
    return fields


def _not_a_tar(head: bytes) -> str:
    """What the first bytes of a file are that is no tar."""
    if head.startswith(b"\x1f\x8b"):
        return "a gzip stream (decompress it: shards are read at random places)"
    if head.startswith((b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ")):
        return "a compressed stream (decompress it: shards are read at random places)"
    return f"no tar header, the file starts with {head[:24]!r}"
