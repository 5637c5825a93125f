"""Read the shipped pack: the drawings of each set and the facts about each concept."""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

from lit_tune.errors import DataError, explain

PACK_FOLDER = Path(__file__).with_name("pack")
SPLITS = ("final", "dev")
REBUILD = "reinstall lit_tune or rebuild the pack with python -m lit_tune.emoji.build"


def read_rows(folder: Path = PACK_FOLDER) -> dict[str, dict[str, Any]]:
    """Return {hexcode: {label, keywords, group, subgroup, split, strict}}; DataError if there is no pack."""
    path = folder / "concepts.json"
    if not path.is_file():
        raise DataError(explain("emoji pack", expected=path, found="no such file", do=REBUILD))
    return json.loads(path.read_text(encoding="utf-8"))


def read_images(name: str, folder: Path = PACK_FOLDER) -> dict[str, bytes]:
    """Return {hexcode: WebP bytes, 64 x 64} of one set; DataError if the pack has no such set."""
    path = folder / f"{name}.zip"
    if not path.is_file():
        raise DataError(explain(f"emoji drawing set {name}", expected=path, found="no such file", do=REBUILD))
    with zipfile.ZipFile(path) as archive:
        return {member.removesuffix(".webp"): archive.read(member) for member in archive.namelist()}


def pack_digest(folder: Path = PACK_FOLDER) -> str:
    """Return the SHA-256 (hex) of all files of the pack: equal digests mean equal shards."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def caption_of(row: dict[str, Any]) -> str:
    """Return the main caption, `label: keyword, keyword`, or the label alone if there are no keywords."""
    return f"{row['label']}: {', '.join(row['keywords'])}" if row["keywords"] else str(row["label"])


def captions_of(row: dict[str, Any]) -> list[str]:
    """Return the wordings of a concept without repeats, the main caption first."""
    keywords = ", ".join(row["keywords"])
    wordings = [caption_of(row), row["label"], f"an emoji of {row['label']}", keywords]
    return list(dict.fromkeys(text for text in wordings if text))
