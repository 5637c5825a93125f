"""Where data lies, on a local path or at an address: the one place that opens, sizes, lists and reads parts of it.

Local files are read by `os.pread`, addresses through fsspec, whose file systems for gs:// and s3:// are packages of
their own. Credentials are those that the cloud's own tools find (application-default for Google, boto's chain for AWS).
Whatever goes wrong comes out as an OSError whose text names no secret.
"""

import contextlib
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from lit_tune.data.address import SCHEMES, Address, is_address
from lit_tune.data.sample import READ_TRIES, BadSample, read_at
from lit_tune.data.tar_walk import Readable
from lit_tune.errors import ConfigError, explain
from lit_tune.redaction import redact

Location = Path | Address
BLOCK = 8 << 20  # bytes that one request of a sequential read asks for
PASSED_OVER = 64 << 10  # bytes between wanted parts that are read with them rather than asking twice
FIRST_PAUSE = 0.2  # seconds before the second try; four times as long before each next one, jittered
VERSIONS = ("etag", "generation", "md5hash", "content-md5", "digest", "last-modified", "lastmodified", "created")
Result = TypeVar("Result")
Part = tuple[int, int]  # size and offset in bytes


class _NoRangesError(OSError):
    """The server sends whole objects, whatever part is asked for."""


class State(NamedTuple):
    """Size in bytes, and a text that changes where the content does."""

    size: int
    version: str


def location(text: str) -> Location:
    """The place that a path or an address names.

    Raises:
        ConfigError: an address of a kind that is not known, or whose package is not installed.
    """
    if not is_address(text):
        return Path(text)
    address = Address(text)
    require(address)  # a missing package is told before anything starts
    return address


def identity(place: Location) -> str:
    """What tells places apart: the absolute path, or the address without its query."""
    return str(place) if isinstance(place, Address) else os.path.abspath(place)


def state(place: Location) -> State:
    """Size and version of a file.

    Raises:
        OSError: it is not there or cannot be asked.
    """
    if not isinstance(place, Address):
        found = os.stat(place)
        return State(found.st_size, str(found.st_mtime_ns))
    info = _tried(place, lambda system: system.info(place.url))
    if info.get("size") is None or info.get("type") == "directory":
        raise OSError("no object with a size")
    named = {name.lower(): str(value) for name, value in info.items()}
    return State(int(info["size"]), "|".join(named.get(name, "") for name in VERSIONS))


@contextlib.contextmanager
def reading(place: Location, size: int) -> Iterator[Readable]:
    """A file of `size` bytes to read from start to end with `.read(size)`.

    Raises:
        OSError: it is not there or cannot be read.
    """
    if isinstance(place, Address):
        if size > 1:
            _part(place, 1, 1)  # a server without ranges is told now, not at every pair
        yield _Sequential(place, size)
    else:
        with open(place, "rb") as file:
            yield file


def read_beside(place: Location) -> bytes:
    """All of a small file that may well be absent.

    Raises:
        FileNotFoundError: it is absent.
        OSError: it cannot be read.
    """
    if not isinstance(place, Address):
        return place.read_bytes()
    try:
        return _tried(place, lambda system: system.cat_file(place.url))
    except PermissionError as error:
        # S3's answer to those who may read objects but not list them, where an object is absent.
        raise FileNotFoundError(str(place)) from error


def matches(pattern: str) -> list[str]:
    """Addresses that a pattern with * or [] stands for, sorted.

    Raises:
        ConfigError: the kind of address knows no lists.
        OSError: the list cannot be had.
    """
    address = Address(pattern)
    if address.scheme in ("http", "https"):
        found = "a pattern or a folder at an http address, where nothing can be listed"
        do = "write the shards out, as https://host/{00000..00099}.tar"
        raise ConfigError(explain(str(address), expected="addresses of shards", found=found, do=do))
    return sorted(f"{address.scheme}://{name.lstrip('/')}" for name in _tried(address, lambda s: s.glob(pattern)))


class RandomReader:
    """A place opened for reads of any part, from any thread; closed when the last reference to it goes."""

    def __init__(self, place: Location) -> None:
        self._place = place
        if not isinstance(place, Address):
            self._descriptor = os.open(place, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def read(self, parts: Sequence[Part]) -> list[bytes]:
        """Each part; at an address by one request where they lie close together.

        Raises:
            BadSample: "unreadable", after the last try.
        """
        if not isinstance(self._place, Address):
            return [read_at(self._descriptor, size, offset) for size, offset in parts]
        start, stop = min(offset for _, offset in parts), max(size + offset for size, offset in parts)
        try:
            if stop - start - sum(size for size, _ in parts) > PASSED_OVER:
                return [_part(self._place, size, offset) for size, offset in parts]
            whole = _part(self._place, stop - start, start)
        except OSError as error:
            raise BadSample("unreadable") from error
        return [whole[offset - start : offset - start + size] for size, offset in parts]

    def __del__(self) -> None:
        # at the interpreter's end modules may be gone already, and the system closes the file
        if hasattr(self, "_descriptor") and os is not None and os.close is not None:
            os.close(self._descriptor)


class _Sequential:
    """One pass over an object, a block a request, so that a broken connection costs a block and not the pass."""

    def __init__(self, address: Address, size: int) -> None:
        self._address, self._size, self._next = address, size, 0
        self._block, self._used = b"", 0

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer only at the end."""
        out = self._block[self._used : self._used + size]
        self._used += len(out)
        while len(out) < size and self._next < self._size:
            self._block = _part(self._address, min(BLOCK, self._size - self._next), self._next)
            self._next += len(self._block)
            self._used = min(size - len(out), len(self._block))
            out += self._block[: self._used]
        return out


def _part(address: Address, size: int, offset: int) -> bytes:
    """`size` bytes of an object from `offset`."""

    def ask(system: Any) -> bytes:
        data = system.cat_file(address.url, start=offset, end=offset + size)
        if len(data) > size:
            raise _NoRangesError(f"{len(data)} bytes where {size} were asked for: a server without range requests")
        if len(data) < size:
            raise OSError(f"{len(data)} bytes where {size} were asked for")
        return data

    return _tried(address, ask) if size else b""


def _tried(address: Address, ask: Callable[[Any], Result]) -> Result:
    """The answer of a file system; READ_TRIES tries with growing, jittered pauses for what may pass.

    Raises:
        FileNotFoundError, PermissionError: what no second try can mend.
        OSError: the last try failed too.
    """
    for attempt in range(READ_TRIES):
        try:
            return ask(_file_system(address))
        except Exception as error:  # every file system raises errors of its own kind
            told = _told(error, address)
        final = _final(told)
        if final is not None:
            raise final
        if attempt + 1 < READ_TRIES:
            time.sleep(FIRST_PAUSE * 4**attempt * random.uniform(0.5, 1.5))
    raise OSError(f"{_reason(told)} ({READ_TRIES} tries)")


def _told(error: Exception, address: Address) -> BaseException:
    """The error that says what happened: fsspec's http calls every failed question for a size "not found"."""
    hidden = isinstance(error, FileNotFoundError) and address.scheme in ("http", "https") and error.__cause__
    return hidden or error


def _final(error: BaseException) -> Exception | None:
    """The error to raise at once, None for one that may pass."""
    status = getattr(error, "status", None)  # of an http answer
    if isinstance(error, ConfigError | _NoRangesError):
        return error
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return FileNotFoundError("no such file")
    if isinstance(error, PermissionError) or status in (401, 403):
        return PermissionError(_reason(error))
    return None


def _reason(error: BaseException) -> str:
    """What an error says, without secrets of addresses."""
    return redact(f"{type(error).__name__}: {error}")


def _file_system(address: Address) -> Any:
    """fsspec's file system for an address. Asked for each time: fsspec keeps one for each process and thread."""
    require(address)
    import fsspec  # only here: local data needs none of it

    # Lists are not kept: a shard that changes must be noticed.
    return fsspec.filesystem(address.scheme, use_listings_cache=False)


def require(address: Address) -> None:
    """Nothing comes back where this kind of address can be read; no server is asked.

    Raises:
        ConfigError: a kind that is not known, or whose package is not installed.
    """
    if address.scheme not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        do = "use one of these, or mount the store and give the path"
        raise ConfigError(explain(str(address), expected=f"a path, or an address with {known}",
                                  found=f"{address.scheme}://", do=do))  # fmt: skip
    import fsspec

    try:
        fsspec.get_filesystem_class(address.scheme)
    except ImportError as error:
        extra = SCHEMES[address.scheme]
        do = f"pip install 'lit_tune[{extra}]'" if extra else "pip install 'fsspec[http]'"
        raise ConfigError(explain(str(address), expected=f"a package that reads {address.scheme}://", found=error,
                                  do=do)) from error  # fmt: skip
