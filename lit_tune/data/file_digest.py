"""sha256 of a whole file, remembered in the cache for as long as the file stays as it is."""

import hashlib
import json
import logging
import os
import tempfile
from pathlib import Path

from lit_tune.errors import DataError, explain
from lit_tune.paths import cache_dir

log = logging.getLogger(__name__)


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's content, from the cache or from one pass over the file.

    Raises:
        DataError: the file is missing or cannot be read.
    """
    try:
        state = os.stat(path)
        # Size and time of change stand in for the content, as they do for the index of a tar shard.
        name = f"{os.path.abspath(path)}|{state.st_size}|{state.st_mtime_ns}"
        place = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:32] + ".json"
        kept = cache_dir() / "digests" / place
        found = _kept(kept)
        if not found:
            with open(path, "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            _keep(kept, found)
    except OSError as error:
        found = "no such file" if isinstance(error, FileNotFoundError) else error.strerror or error
        do = "restore the file or correct the spec"
        raise DataError(explain(str(path), expected="a readable file", found=found, do=do)) from error
    return found


def _kept(file: Path) -> str:
    """The digest that the cache holds; "" for none."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return ""
    return found if isinstance(found, str) and len(found) == 64 else ""


def _keep(file: Path, digest: str) -> None:
    """Put a digest into the cache, all of it or nothing."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=file.name)
        with os.fdopen(descriptor, "w") as out:
            json.dump(digest, out)
        os.replace(temporary, file)
    except OSError as error:  # a full or read-only cache costs time at the next start, nothing else
        log.warning("%s", explain(str(file), expected="a writable cache", found=error, do="set LIT_TUNE_CACHE"))
