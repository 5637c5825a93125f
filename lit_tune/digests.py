"""sha256 and size of every file of a directory, kept in its `digests.json`; what makes a checkpoint count. No jax."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lit_tune.files import write_atomically

NAME = "digests.json"
CHUNK = 4 << 20  # bytes read at a time


def write_digests(directory: Any, **facts: Any) -> dict[str, Any]:
    """What was written as `directory/digests.json`: {"files": {name: {"size", "sha256"}}, "bytes": total, **facts}.

    Written under another name and renamed: the file is there whole or not at all.
    """
    files = {_name(path, directory): _digest(path) for path in sorted(_files(directory))}
    content = {"files": files, "bytes": sum(f["size"] for f in files.values()), **facts}
    write_atomically(directory / NAME, json.dumps(content, indent=1))
    return content


def read_digests(directory: Any) -> dict[str, Any] | None:
    """The content of `digests.json`; None if there is none or it cannot be read."""
    try:
        content = json.loads((directory / NAME).read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and isinstance(content.get("files"), dict) else None


def find_damage(directory: Any) -> list[str]:
    """One line a damaged file (`name: what is wrong`), empty if every file is as it was written.

    Files that the list does not know are not looked at: Orbax reads what its own manifests name.
    """
    digests = read_digests(directory)
    if digests is None:
        return [f"{NAME}: missing or unreadable"]
    lines = [_damage(directory / name, name, recorded) for name, recorded in digests["files"].items()]
    return [line for line in lines if line]


def code_digest() -> str:
    """sha256 over the package's own code, first 16 hex digits: a version number does not tell two checkouts apart."""
    package = Path(__file__).parent
    sha = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        sha.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return sha.hexdigest()[:16]


def _files(directory: Any) -> Iterator[Any]:
    """All files below, without the list itself. (Paths of object stores refuse a recursive glob.)"""
    for path in directory.iterdir():
        if path.is_dir():
            yield from _files(path)
        elif path.name not in (NAME, f".{NAME}.tmp"):
            yield path


def _name(path: Any, directory: Any) -> str:
    """The path as it is written in the list: relative, with slashes."""
    return path.relative_to(directory).as_posix()


def _digest(path: Any) -> dict[str, Any]:
    """Size and sha256 of one file, read in pieces."""
    sha, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            sha.update(chunk)
            size += len(chunk)
    return {"size": size, "sha256": sha.hexdigest()}


def _damage(path: Any, name: str, recorded: dict[str, Any]) -> str:
    """What is wrong with one file, or ""."""
    if not path.is_file():
        return f"{name}: missing"
    found = _digest(path)
    if found["size"] != recorded.get("size"):
        return f"{name}: expected {recorded.get('size')} bytes, found {found['size']}"
    return "" if found["sha256"] == recorded.get("sha256") else f"{name}: content differs from its sha256"
