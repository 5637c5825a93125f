"""Small things about files that hold for local folders and object stores (gs://...) alike. No jax."""

import errno
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def as_path(name: Path | str) -> Any:
    """An absolute pathlib.Path (Orbax refuses others), or for a name with `://` etils' path of the same methods."""
    if not is_remote(name):
        return Path(name).expanduser().absolute()
    from etils import epath  # its object stores are optional

    return epath.Path(name)


def is_remote(name: Path | str) -> bool:
    """Whether a name is of an object store."""
    return "://" in str(name)


def remove_tree(path: Any, tries: int = 20) -> None:
    """Remove a folder and all below it, or a file. Something may still be writing in it: tried for two seconds."""
    if is_remote(path):
        path.rmtree()
        return
    for left in reversed(range(tries)):
        try:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            return
        except OSError:  # a file came or went while the folder was being emptied
            if left == 0:
                raise
            time.sleep(0.1)


def write_atomically(path: Any, text: str) -> None:
    """`path` holds `text`, on disk; a crash leaves the old content or the new one, never a part."""
    if is_remote(path):  # object stores write an object whole or not at all
        path.write_text(text)
        return
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)


def write_whole(path: Path, data: bytes) -> None:
    """Put a local file into its folder, made if absent, so that readers see all of it or nothing; several may write it.

    A crash of the machine can leave it empty: this is for what can be made again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(data)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def append_lines(path: Any, lines: list[str]) -> None:
    """Append lines with one write, so that a crash can cut only the last; a file that has gone is made anew.

    Raises:
        OSError: they could not be written (a full disk); of what was written of them nothing stays.
    """
    text = "".join(line + "\n" for line in lines)
    if not text:
        return
    if is_remote(path):  # object stores cannot append
        path.write_text((path.read_text() if path.exists() else "") + text)
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    before, data = os.fstat(descriptor).st_size, text.encode()
    try:
        written = os.write(descriptor, data)
        if written < len(data):  # no error yet: the disk has become full on the way
            os.ftruncate(descriptor, before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(descriptor)


def read_lines(path: Any) -> list[dict[str, Any]]:
    """The objects of a .jsonl file; lines that are no whole JSON object (cut by a crash) are left out."""
    if not path.exists():
        return []
    objects = []
    for line in path.read_bytes().decode(errors="replace").splitlines():
        try:
            one = json.loads(line)
        except ValueError:
            continue
        if isinstance(one, dict):
            objects.append(one)
    return objects


class Tolerated:
    """Writes to line files that must not end a training when they fail: each is told of once.

    Args:
        folder: that the files lie in.
    """

    def __init__(self, folder: Any) -> None:
        self._folder = folder
        self._told: set[tuple[str, str]] = set()

    def attempt(self, name: str, write: Callable[[], None]) -> bool:
        """Write to the file `name`; whether that worked."""
        try:
            write()
        except OSError as error:
            self.tell(name, "unwritable", f"cannot be written ({error})")
            return False
        return True

    def tell(self, name: str, kind: str, what: str) -> None:
        """A line on stderr about the file `name`, once for each kind of trouble."""
        if (name, kind) not in self._told:
            print(f"lit_tune: warning: {self._folder / name} {what}; training goes on", file=sys.stderr, flush=True)
        self._told.add((name, kind))


def sync(path: Any) -> None:
    """Force a local file to disk, if it is there."""
    if not is_remote(path) and path.exists():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
