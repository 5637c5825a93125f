"""Parquet files, and the Arrow shards that Hugging Face `datasets` leaves in its cache.

Two kinds of table: pictures with captions (`image`, `caption`: Flickr, COCO) and WinoGAViL's puzzles
(`candidate_images`, `candidates`, `associations`, `cue`).
Source of the columns: retr_eval.py and wino_eval.py in DataComp's eval_utils/.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from lit_tune.evaldata.arrow_blocks import Block, BlockPictures, encoded, is_list, is_pictures, locate, read_blocks
from lit_tune.evaldata.dataset import EvalData, Puzzle
from lit_tune.evaldata.pieces import damaged, sha256, wrong

SUFFIXES = (".arrow", ".parquet")
CAPTIONS = ("caption", "captions", "text")
IMAGE = "image"
PUZZLE = ("candidate_images", "candidates", "associations", "cue")
OF = re.compile(r"-(\d{5})-of-(\d{5})$")  # how `datasets` numbers the shards of a split


def tables(where: Path) -> list[Path]:
    """The Arrow and Parquet files below a folder, sorted, without the caches of `datasets`' own operations."""
    if where.is_file():
        return [where] if where.suffix in SUFFIXES else []
    found = (path for path in where.rglob("*") if path.suffix in SUFFIXES and not path.name.startswith("cache-"))
    return sorted(path for path in found if path.is_file())


def read(where: Path, split: str = "test") -> EvalData:
    """The table in a file, or of a split below a folder. Every picture is read once, to hash it.

    Pictures of Arrow files are mapped, not held; of Parquet files the last few row groups are kept.

    Args:
        where: a .arrow or .parquet file, or a folder that holds some anywhere below.
        split: the split whose files are read, by their names.

    Raises:
        ConfigError: no file of this split, several data sets in one folder, or columns that are none of these.
        DataError: a shard is missing or damaged, or a row lacks its picture or captions.
    """
    files, notes = _files(where, split)
    blocks = [block for file in files for block in read_blocks(file) if block.rows]
    if not blocks:
        raise wrong(where, "rows", "an empty table", "name another file or split")
    _announced(files[0].parent, split, sum(block.rows for block in blocks))
    names = blocks[0].schema.names
    if all(column in names for column in PUZZLE) and is_list(blocks[0].schema.field(PUZZLE[0]).type):
        return _association(where, blocks, notes)
    captions = next((column for column in CAPTIONS if column in names), None)
    if captions is None or IMAGE not in names or not is_pictures(blocks[0].schema.field(IMAGE).type):
        expected = f"columns {IMAGE} (bytes) and {CAPTIONS[0]}, or {', '.join(PUZZLE)}"
        raise wrong(files[0], expected, ", ".join(names), "name a table of one of these forms")
    return _retrieval(where, blocks, captions, notes)


def _files(where: Path, split: str) -> tuple[list[Path], list[str]]:
    """The files of a split in order, all there, and a note where their names tell no split."""
    there = tables(where)
    if where.is_file() and there:
        return there, []
    named = re.compile(rf"(.*[-_])?{re.escape(split)}(-\d{{5}}-of-\d{{5}})?")
    # save_to_disk() names the folder after the split and its files data-00000-of-00001.arrow
    found = [path for path in there if named.fullmatch(path.stem) or path.parent.name == split]
    notes = []
    if not found and len({_group(path) for path in there}) == 1:
        found, notes = there, [f"No name tells the split: the one table there, {_group(there[0]).name}, was read."]
    if not found:
        listed = ", ".join(path.name for path in there[:5]) or "none"
        raise wrong(where, f"*.arrow or *.parquet files of the split {split}", listed, "name another split or folder")
    groups = sorted({_group(path) for path in found})
    if len(groups) > 1:
        listed = ", ".join(str(group.relative_to(where)) for group in groups)
        raise wrong(where, f"one data set with a split {split}", listed, "name the folder of one of them")
    _all_shards(found)
    return found, notes


def _group(path: Path) -> Path:
    """A shard's path without its number."""
    return path.with_name(OF.sub("", path.stem) + path.suffix)


def _all_shards(files: Sequence[Path]) -> None:
    """Refuse a split of which a shard is missing."""
    numbers = [OF.search(path.stem) for path in files]
    counts = {int(one[2]) for one in numbers if one}
    if not counts:
        return
    missing = sorted(set(range(max(counts))) - {int(one[1]) for one in numbers if one})
    if missing:
        raise damaged(files[0].parent, f"{max(counts)} shards", f"no number {missing[0]:05}", "fetch it again")


def _announced(folder: Path, split: str, rows: int) -> None:
    """Hold the number of rows against dataset_info.json, where `datasets` left one."""
    file = folder / "dataset_info.json"
    try:
        count = json.loads(file.read_text("utf-8"))["splits"][split]["num_examples"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # written for people: it may be absent or of any form
    if count != rows:
        raise damaged(folder, f"{count} rows (dataset_info.json)", rows)


def _retrieval(where: Path, blocks: list[Block], column: str, notes: list[str]) -> EvalData:
    """Pictures with captions."""
    captions: list[tuple[str, ...]] = []
    for block in blocks:
        for row, value in enumerate(_values(block, column)):
            captions.append(_captions(value, f"{block.file.name} row {block.first + row}"))
    digests, names, counts = _hashed(blocks, IMAGE, notes)
    pictures = BlockPictures(blocks, IMAGE, counts, np.arange(len(digests)), names)
    found = sha256("retrieval", digests, captions=captions)
    return EvalData("retrieval", pictures, found, str(where), captions=tuple(captions), notes=tuple(notes))


def _captions(value: Any, where: str) -> tuple[str, ...]:
    """One caption or a list of them; at least one that is not empty."""
    found = tuple(value) if isinstance(value, list) else (value,)
    if not all(isinstance(one, str) for one in found) or not any(one.strip() for one in found):
        raise damaged(where, "a caption, or a list of them", repr(value)[:80], "mend the table")
    return found


def _association(where: Path, blocks: list[Block], notes: list[str]) -> EvalData:
    """WinoGAViL's puzzles, each distinct picture kept once."""
    digests, names, counts = _hashed(blocks, PUZZLE[0], notes)
    first: dict[bytes, int] = {}
    place = np.array([first.setdefault(digest, len(first)) for digest in digests], np.int64)
    rows = np.unique(place, return_index=True)[1]  # where each distinct picture is met first
    puzzles: list[Puzzle] = []
    at = 0
    for block in blocks:
        columns = [_values(block, column) for column in PUZZLE[1:]]
        widths = block.column(PUZZLE[0]).value_lengths().fill_null(0).to_pylist()
        for row, (width, *texts) in enumerate(zip(widths, *columns, strict=True)):
            name = f"{block.file.name} row {block.first + row}"
            puzzles.append(_puzzle(name, place[at : at + width], *texts))
            at += width
    pictures = BlockPictures(blocks, PUZZLE[0], counts, rows, [names[row] for row in rows])
    found = sha256("association", [digests[row] for row in rows], puzzles=puzzles)
    sizes = ", ".join(f"{count} of {size}" for size, count in sorted(Counter(len(p.right) for p in puzzles).items()))
    notes = [*notes, f"{len(puzzles)} puzzles by number of candidates: {sizes}."]
    return EvalData("association", pictures, found, str(where), puzzles=tuple(puzzles), notes=tuple(notes))


def _puzzle(where: str, pictures: Int[np.ndarray, " k"], candidates: Any, associations: Any, cue: Any) -> Puzzle:
    """One puzzle, checked."""
    right = np.isin(np.array(candidates or [], object).astype(str), np.array(associations or [], object).astype(str))
    if len(right) != len(pictures) or not right.any() or not isinstance(cue, str) or not cue.strip():
        expected = "a cue, as many candidates as pictures and some that go with it"
        found = f"cue {cue!r}, {len(pictures)} pictures, {len(right)} candidates, {int(right.sum())} of them associated"
        raise damaged(where, expected, found, "mend the table")
    return Puzzle(cue, pictures, right)


def _values(block: Block, column: str) -> list[Any]:
    """A column as Python values."""
    try:
        return block.column(column).to_pylist()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise damaged(block.file, f"a readable column {column}", str(error)[:200]) from error


def _hashed(blocks: Sequence[Block], column: str, notes: list[str]) -> tuple[list[bytes], list[str], list[int]]:
    """(sha256, name) of every picture in a column, and their number in each block; notes what lies elsewhere."""
    digests: list[bytes] = []
    names: list[str] = []
    counts, elsewhere = [], 0
    for block in blocks:
        before = len(digests)
        for row, data, path in _pictures(block, column):
            names.append(f"{block.file.name} row {row}")
            elsewhere += data is None
            digests.append(hashlib.sha256(_beside(names[-1], path, block) if data is None else data).digest())
        counts.append(len(digests) - before)
    if elsewhere:
        notes.append(f"{elsewhere} pictures are not in the table but in files that it names.")
    return digests, names, counts


def _beside(name: str, path: str, block: Block) -> bytes:
    """The picture in the file that a row names."""
    try:
        return locate(path, block.file).read_bytes()
    except OSError as error:
        found = f"only the path {path}, where no file is" if path else "nothing"
        do = "embed the pictures in the table, or fetch the data with the folder hf_cache/downloads"
        raise damaged(name, "the bytes of the picture", found, do) from error


def _pictures(block: Block, column: str) -> Iterator[tuple[int, Any, str]]:
    """(row of the file, bytes or None, path) of every picture of a block."""
    try:
        whole = block.column(column)
        data, paths = encoded(whole)
        rows = whole.value_parent_indices().to_pylist() if is_list(whole.type) else range(len(data))
    except (pa.ArrowException, OSError, KeyError) as error:
        raise damaged(block.file, f"a readable column {column}", str(error)[:200]) from error
    for i, row in enumerate(rows):
        value = data[i]
        path = paths[i].as_py() if paths is not None else ""
        yield block.first + row, value.as_buffer() if value.is_valid else None, path or ""
