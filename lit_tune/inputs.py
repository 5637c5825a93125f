"""What a command line means by pictures or by texts: streamed in a fixed order, never held, and known by a digest.

Both kinds have `count` (None where only reading would tell), `size` (bytes or lines, what `place` counts up to),
`digest` and `stream(start)`. The same files in the same order have the same digest.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from lit_tune.data.sources import expand
from lit_tune.data.tar_walk import Damage, SeekingReader, Walk
from lit_tune.errors import ConfigError, DataError, explain

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")


class Input(NamedTuple):
    """One picture or text.

    Attributes:
        name: its id: the text itself, a path, or a tar's path with the member's name behind it.
        place: how much of the whole collection is behind it, of `size`.
        read: gives the encoded picture; b"" for a text.
    """

    name: str
    place: int
    read: Callable[[], bytes]


class Texts:
    """The lines of a UTF-8 file, stripped, empty ones left out.

    Raises:
        ConfigError: no such file, not UTF-8, or no text in it.
    """

    kind = "texts"

    def __init__(self, path: Path) -> None:
        self._path = path
        sha, self.count = hashlib.sha256(), 0
        try:
            for line in self._lines():
                sha.update(line.encode() + b"\n")
                self.count += 1
        except (OSError, UnicodeDecodeError) as error:
            found = error.strerror if isinstance(error, OSError) else "other bytes"
            raise ConfigError(explain(f"--texts {path}", expected="a UTF-8 file with one text on each line",
                                      found=found, do="check the file")) from error
        if not self.count:
            raise ConfigError(explain(f"--texts {path}", expected="one text on each line", found="an empty file",
                                      do="write some"))
        self.size, self.digest = self.count, sha.hexdigest()

    def stream(self, start: int) -> Iterator[Input]:
        """The texts from number `start` on."""
        for number, line in enumerate(self._lines()):
            if number >= start:
                yield Input(line, number + 1, bytes)

    def _lines(self) -> Iterator[str]:
        """The texts."""
        with self._path.open(encoding="utf-8-sig") as file:
            yield from (text for line in file if (text := line.strip()))


class Pictures:
    """Every picture that `--images` names, in order: files, folders and what is in tars.

    Args:
        spec: files, folders or tars, with {a,b}, {00..99}, *, ? and [].

    Raises:
        ConfigError: nothing there.
    """

    kind = "pictures"

    def __init__(self, spec: str) -> None:
        try:
            self._paths = [Path(path) for path in expand(spec)]
        except DataError as error:
            raise ConfigError(str(error).replace(spec, f"--images {spec}", 1)) from error
        sha, count, tars, self.size = hashlib.sha256(), 0, 0, 0
        for file in self._files():
            about = file.stat()
            sha.update(f"{file}\0{about.st_size}\0{about.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
            count, tars, self.size = count + 1, tars + (file.suffix == ".tar"), self.size + about.st_size
        if not count:
            raise ConfigError(explain(f"--images {spec}", expected=f"*.tar or *{', *'.join(SUFFIXES)}", found="none",
                                      do="check the path"))
        self.count, self.digest = None if tars else count, sha.hexdigest()

    def stream(self, start: int) -> Iterator[Input]:
        """The pictures from number `start` on; those before are passed over, not read.

        Raises:
            DataError: a tar is none, or damaged.
        """
        number = before = 0
        for file in self._files():
            for one in _members(file, before) if file.suffix == ".tar" else _single(file, before):
                if number >= start:
                    yield one
                number += 1
            before += file.stat().st_size

    def _files(self) -> Iterator[Path]:
        """Tars and pictures, in order."""
        for path in self._paths:
            if not path.exists():
                raise ConfigError(explain("--images", expected="a file or folder", found=f"no {path}",
                                          do="check the path"))
            yield from _below(path) if path.is_dir() else (path,)


def _below(folder: Path) -> Iterator[Path]:
    """The tars and pictures in a folder and its folders, sorted, one folder's names held at a time."""
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry.name, entry.is_dir(follow_symlinks=False), entry.is_file()) for entry in entries)
    except OSError as error:
        raise ConfigError(explain(f"--images {folder}", expected="a folder that can be read", found=error.strerror,
                                  do="change its permissions")) from error
    for name, is_folder, is_file in found:
        if is_folder:
            yield from _below(folder / name)
        elif is_file and Path(name).suffix.lower() in (*SUFFIXES, ".tar"):
            yield folder / name


def _single(file: Path, before: int) -> Iterator[Input]:
    """One picture on disk."""
    yield Input(str(file), before + file.stat().st_size, file.read_bytes)


def _members(file: Path, before: int) -> Iterator[Input]:
    """The pictures in a tar; each is read only if it is asked for, also after the next one has been given."""
    try:
        with file.open("rb") as opened:
            for member in Walk(SeekingReader(opened), file.stat().st_size):
                name = member.name.decode("utf-8", "replace")
                if member.regular and Path(name).suffix.lower() in SUFFIXES:
                    yield Input(f"{file}/{name}", before + member.offset + member.size, _Span(file, member.offset,
                                                                                             member.size).read)
    except (Damage, OSError) as error:
        raise DataError(explain(str(file), expected="a whole tar", found=error, do="fetch it again")) from error


class _Span(NamedTuple):
    """Bytes of a file."""

    file: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """They themselves."""
        with self.file.open("rb") as opened:
            opened.seek(self.offset)
            return opened.read(self.size)
