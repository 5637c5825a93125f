"""Pairs from a plain folder: pictures beside a captions.csv, captions.tsv or captions.jsonl."""

import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lit_tune.data import captions as text
from lit_tune.data.sample import BadSample, Sample
from lit_tune.data.tar_source import captions_of, keep_usable
from lit_tune.errors import ConfigError, explain

TABLES = ("captions.csv", "captions.tsv", "captions.jsonl")
SEPARATED: dict[str, tuple[str, dict[str, Any]]] = {  # how a table is split into values, and what csv calls that
    ".csv": ("a comma-separated UTF-8 file", {"delimiter": ","}),
    # IANA's text/tab-separated-values has no quoting: a quotation mark is a part of the caption.
    ".tsv": ("a tab-separated UTF-8 file", {"delimiter": "\t", "quoting": csv.QUOTE_NONE}),
}
PLACES = ("", "images")  # subfolders where a named picture is looked for


@dataclass
class _Row:
    """One picture of the table: its path, its size in bytes, all its captions and the other fields of its first row."""

    path: Path
    size: int
    captions: list[str]
    meta: dict[str, Any] = field(default_factory=dict)


class FolderSource:
    """The pictures that a folder's caption table names, in the table's order; several rows of one picture are joined.

    Args:
        folder: holds the table and the pictures, these directly or under images/.
        caption_field: "txt" takes the columns that start with "caption"; else the column or field of that name.
        spec: what the user wrote.
        max_samples: use only the first so many pictures; None for all.

    Raises:
        ConfigError: no table or several, a missing column, a wrong row (the first one is named) or a missing picture.
    """

    def __init__(self, folder: Path, caption_field: str, spec: str, max_samples: int | None = None) -> None:
        self.spec = spec
        self.folder = folder
        table = _find_table(folder)
        read = _read_separated if table.suffix in SEPARATED else _read_jsonl
        rows: dict[str, _Row] = {}
        for where, image, captions, meta in read(table, caption_field):
            if image not in rows:
                path = _picture(folder, image, where)
                rows[image] = _Row(path, path.stat().st_size, [], meta)
            rows[image].captions += captions
        if not rows:
            raise _wrong(str(table), "a row for each picture", "no rows", "add them")
        # A row with no usable caption is bad data, not a wrong table: it is replaced when its turn comes.
        names = list(rows)[:max_samples]
        self._names, self._rows = names, [rows[name] for name in names]
        bad = sum(not any(map(text.usable, row.captions)) for row in self._rows)
        self.counts = {"short_caption": bad}
        digest = hashlib.sha256()
        for name, row in zip(names, self._rows, strict=True):
            digest.update(json.dumps([name, row.size, row.captions]).encode())
        self.fingerprint = digest.hexdigest()

    def __repr__(self) -> str:
        return f"FolderSource({self.spec!r}, {len(self)} pairs)"

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> Sample:
        image, captions = self.pair(i, self._rows[i].size)
        return Sample(self._names[i], image, captions, dict(self._rows[i].meta))

    def pair(self, i: int, max_image_bytes: int) -> tuple[bytes, tuple[str, ...]]:
        """Encoded picture and captions of picture `i`. Raises BadSample."""
        row = self._rows[i]
        if row.size > max_image_bytes:
            raise BadSample("too_many_bytes")
        try:
            return row.path.read_bytes(), keep_usable(row.captions)
        except OSError as error:
            raise BadSample("unreadable") from error

    def captions(self, i: int) -> tuple[str, ...]:
        """The usable captions of picture `i`. Raises BadSample."""
        return keep_usable(self._rows[i].captions)

    def caption_sets(self) -> Iterator[tuple[str, ...]]:
        """The usable captions of every picture in table order, () for a bad one."""
        for row in self._rows:
            yield tuple(caption for caption in row.captions if text.usable(caption))

    def paths(self) -> list[Path]:
        """The picture files, in table order."""
        return [row.path for row in self._rows]

    def describe(self, i: int) -> tuple[str, str]:
        """(folder name, picture name) of picture `i`."""
        return self.folder.name, self._names[i]


def _find_table(folder: Path) -> Path:
    """The one caption table of a folder."""
    found = [folder / name for name in TABLES if (folder / name).is_file()]
    if len(found) != 1:
        names = " and ".join(path.name for path in found) or "none of them"
        raise _wrong(str(folder), f"one of {' or '.join(TABLES)}", names, "keep or write one of them")
    return found[0]


def _read_separated(table: Path, caption_field: str) -> Iterator[tuple[str, str, list[str], dict[str, Any]]]:
    """(place, picture, captions, other columns) of every row of a captions.csv or captions.tsv."""
    kind, form = SEPARATED[table.suffix]
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, **form)
            columns = [name for name in reader.fieldnames or [] if _holds_captions(name, caption_field)]
            if "image" not in (reader.fieldnames or []) or not columns:
                wanted = "caption" if caption_field == "txt" else caption_field
                found = ", ".join(reader.fieldnames or []) or "no header"
                raise _wrong(str(table), f"columns image and {wanted}", found, "name the columns in the first line")
            for row in reader:
                where = f"{table} line {reader.line_num}"
                if not row["image"] or None in row:
                    raise _wrong(where, "as many values as columns, a picture among them", row, "correct the row")
                captions = captions_of([row.pop(name) or "" for name in columns])
                image = row.pop("image")
                yield where, image, [caption for caption in captions if caption], row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _wrong(str(table), kind, error, "save it as such") from error


def _holds_captions(column: str, caption_field: str) -> bool:
    """Whether a column is one of the caption columns."""
    return column.startswith("caption") if caption_field == "txt" else column == caption_field


def _read_jsonl(table: Path, caption_field: str) -> Iterator[tuple[str, str, list[str], dict[str, Any]]]:
    """(place, picture, captions, other fields) of every line of a captions.jsonl."""
    wanted = ("caption", "captions") if caption_field == "txt" else (caption_field,)
    try:
        lines = table.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _wrong(str(table), "a UTF-8 file of JSON lines", error, "save it as such") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where, row = f"{table} line {number}", _object(line)
        name = next((name for name in wanted if name in row), "")
        image = row.pop("image", None)
        if not isinstance(image, str) or not name:
            raise _wrong(where, f"an object with image and {' or '.join(wanted)}", line[:80], "correct the line")
        try:
            yield where, image, captions_of(row.pop(name)), row
        except BadSample as error:
            raise _wrong(where, f"text or a list of texts in {name}", line[:80], "correct the line") from error


def _object(line: str) -> dict[str, Any]:
    """A JSON object, {} for anything else."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}


def _picture(folder: Path, image: str, where: str) -> Path:
    """The file of a picture that a row names; it must lie inside the folder."""
    if Path(image).is_absolute() or ".." in Path(image).parts:
        raise _wrong(where, "a picture inside the folder", image, "use a path relative to the folder")
    for place in PLACES:
        if (folder / place / image).is_file():
            return folder / place / image
    raise _wrong(where, f"the picture {image} in {folder}", "no such file", "add the picture or remove the row")


def _wrong(what: str, expected: str, found: object, do: str) -> ConfigError:
    """The error for a folder that is not as it should be."""
    return ConfigError(explain(what, expected=expected, found=found, do=do))
