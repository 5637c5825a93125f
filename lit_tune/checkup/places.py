"""Folders that a run writes: is there room, may we?"""

import shutil
import tempfile
from pathlib import Path

from lit_tune import fetch, paths
from lit_tune.checkup.finding import Finding, refused, warning

ROOM = 2 << 30  # bytes: text weights (0.1 to 0.6 GB), indexes, vectors of a small data set


def check_cache() -> list[Finding]:
    """The cache folder can be written, and has some room."""
    folder = paths.cache_dir()
    found = refused("cache", lambda: _write(folder))
    if found:
        return found
    free = shutil.disk_usage(_existing(folder)).free
    if free >= ROOM:
        return []
    return [warning("cache", f"cache folder {folder}", expected=f"{ROOM / 2**30:.0f} GiB free",
                    found=f"{free / 2**30:.2f} GiB",
                    do="free space there or name another folder in LIT_TUNE_CACHE")]


def _write(folder: Path) -> None:
    """Write a file where the folder is, or would be made, and remove it again. Raises ConfigError."""
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)) as file:
            file.write(bytes(1 << 16))
            file.flush()
    except OSError as error:
        raise fetch.cache_error(folder, error) from error


def _existing(folder: Path) -> Path:
    """The folder, or the first above it that is there."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
