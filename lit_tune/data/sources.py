"""From the text a user writes for a data set to a source of pairs."""

import glob
import itertools
import re
from pathlib import Path
from typing import Any

from lit_tune.data import array_record_source, storage
from lit_tune.data.address import is_address
from lit_tune.data.folder_source import TABLES, FolderSource
from lit_tune.data.sample import BadSample, Sample, Source
from lit_tune.data.storage import Location, location
from lit_tune.data.subset import Subset
from lit_tune.data.tar_source import TarSource, open_shards
from lit_tune.data.tfds_split import PREFIX
from lit_tune.errors import ConfigError, DataError, explain
from lit_tune.paths import cache_dir

__all__ = ["BadSample", "FolderSource", "Sample", "Source", "TarSource", "expand", "open_source"]

PARQUET = ".parquet"
EMOJI_SPLITS = {"": "final", "dev/": "dev"}
EMOJI_FOLDERS = ("train", "unseen_set", "unseen_concept")
EMOJI = {f"{prefix}{name}": (split, name) for prefix, split in EMOJI_SPLITS.items() for name in EMOJI_FOLDERS}


def _open_parquet(*arguments: Any) -> Source:
    """`open_parquet`; it is imported only where it is needed, as pyarrow alone takes a third of a second."""
    from lit_tune.data.parquet_source import open_parquet

    return open_parquet(*arguments)


OPENERS = {  # by the end of a file's name
    ".tar": open_shards,
    array_record_source.SUFFIX: array_record_source.open_array_records,
    PARQUET: _open_parquet,
}


def open_source(
    spec: str,
    data: Any,
    *,
    caption_field: str | None = None,
    allow_missing: float = 0.0,
    max_samples: int | None = None,
    subset: Subset | None = None,
) -> Source:
    """The source of pairs that `spec` names.

    Args:
        spec: tar shards, ArrayRecord or Parquet files ("a/{00000..00099}.tar", "a/*.parquet", a folder of them), a
            folder with captions.csv, .tsv or .jsonl, or "emoji:train", "emoji:unseen_set", "emoji:unseen_concept",
            "emoji:dev/...", or a split that tensorflow-datasets prepared, "tfds:FOLDER_OR_NAME:SPLIT".
        data: `config.data`; only `caption_field` is read.
        caption_field: stands in for `data.caption_field` (evaluation sets have their own).
        allow_missing: share of the shards that may be missing or damaged.
        max_samples: use only the first so many pairs.
        subset: the uid list whose pairs alone are used (`subset.of_config` for the training data).

    Raises:
        ConfigError: the spec, a folder's table or the uid list is wrong.
        DataError: shards are missing or damaged, or hold no pair.
    """
    caption_field = data.caption_field if caption_field is None else caption_field
    if subset is not None:
        return _open_listed(spec, caption_field, allow_missing, max_samples, subset)
    if spec.startswith(PREFIX):
        from lit_tune.data.tfds_source import TfdsSource  # only here: the package takes a second or more

        return TfdsSource(spec, caption_field, max_samples)
    kind, paths = located(spec)
    if kind == "folder":
        return FolderSource(paths[0], caption_field, spec, max_samples)
    return OPENERS[kind](paths, spec, caption_field, allow_missing, max_samples)


def _open_listed(
    spec: str, caption_field: str, allow_missing: float, max_samples: int | None, subset: Subset
) -> TarSource:
    """The source over the listed pairs of tar shards; other kinds of data know no uid lists."""
    paths = shard_paths(spec)
    if paths is None:
        raise ConfigError(explain(spec, expected="tar shards beside a uid list", found="data of another kind",
                                  do="leave the uid list out"))  # fmt: skip
    return open_shards(paths, spec, caption_field, allow_missing, max_samples, subset)


def shard_paths(spec: str) -> list[Location] | None:
    """The tar shards that a spec names, in order; None for data of another kind.

    Raises:
        ConfigError: the spec is wrong.
        DataError: a pattern that no file matches.
    """
    if spec.startswith(PREFIX):
        return None
    kind, paths = located(spec)
    return paths if kind == ".tar" else None


def located(spec: str) -> tuple[str, list[Any]]:
    """What kind of data a spec names (a key of OPENERS, or "folder" for pictures with a table) and where it lies.

    Raises:
        ConfigError: the spec is wrong, or names files of several kinds.
        DataError: a pattern that no file matches.
    """
    if spec.startswith("emoji:"):
        return ".tar", _emoji_shards(spec)
    paths = [location(path) for path in expand(spec)]
    try:
        if len(paths) == 1 and isinstance(paths[0], Path) and paths[0].is_dir():
            return _in_folder(paths[0])
    except PermissionError as error:
        raise DataError(explain(spec, expected="a folder that can be read", found=error.strerror,
                                do="change its permissions")) from error
    kinds = {_kind(path): path for path in paths}
    if len(kinds) > 1:
        found = " and ".join(sorted(path.name for path in kinds.values()))
        do = "name one kind, as with *.tar (several kinds make several data sets)"
        raise ConfigError(explain(spec, expected="files of one kind", found=found, do=do))
    (kind,) = kinds
    if kind != ".tar" and is_address(spec):
        do = "copy the files here, or write tar shards"
        raise ConfigError(explain(spec, expected="tar shards at an address", found=f"*{kind}", do=do))
    return kind, paths


def _kind(path: Location) -> str:
    """The kind of a file by its name; what has no other kind's name is taken for a tar."""
    return path.suffix if path.suffix in OPENERS else ".tar"


def expand(spec: str) -> list[str]:
    """The paths or addresses that a spec with {00..99}, {a,b}, *, ? or [] stands for, braces in order, globs sorted.

    Raises:
        ConfigError: an empty spec, an address that cannot be read here or listed, or a range that makes no sense.
        DataError: a pattern that no file matches.
    """
    if not spec:
        raise ConfigError(explain("config.data.train", expected="shards or a folder", found="''", do="name them"))
    found: list[str] = []
    for pattern in _braces(spec if is_address(spec) else str(Path(spec).expanduser())):
        matches = _addresses(pattern) if is_address(spec) else _paths(pattern)
        if not matches:
            raise DataError(explain(spec, expected=f"files like {pattern}", found="none", do="check the path"))
        found += matches
    return found


def _paths(pattern: str) -> list[str]:
    """Local paths that a pattern stands for."""
    return sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]


def _addresses(pattern: str) -> list[str]:
    """Addresses that a pattern stands for; one that ends in / is a folder of tars. A ? is a part of an address."""
    pattern += "*.tar" if pattern.endswith("/") else ""
    address = location(pattern)
    if "*" not in pattern and "[" not in pattern:
        return [pattern]
    try:
        return storage.matches(pattern)
    except OSError as error:
        raise DataError(explain(str(address), expected="a list of shards", found=error, do="check the address and "
                                "your rights")) from error  # fmt: skip


def _braces(text: str) -> list[str]:
    """Every reading of {from..to} (zero-padded like `from`) and {a,b} in a text."""
    parts = re.split(r"\{([^{}]*)\}", text)
    choices = [_choices(part, text) if number % 2 else [part] for number, part in enumerate(parts)]
    return ["".join(reading) for reading in itertools.product(*choices)]


def _choices(inner: str, text: str) -> list[str]:
    """The words that the inside of one pair of braces stands for."""
    span = re.fullmatch(r"(\d+)\.\.(\d+)", inner)
    if span is None and "," in inner:
        return inner.split(",")
    if span is None or int(span[1]) > int(span[2]):
        raise ConfigError(
            explain(text, expected="{00000..00099} or {a,b}", found=f"{{{inner}}}", do="write the range low to high")
        )
    return [str(number).zfill(len(span[1])) for number in range(int(span[1]), int(span[2]) + 1)]


def _in_folder(folder: Path) -> tuple[str, list[Path]]:
    """Kind and files of a folder: pictures with a table, else the one kind of files in it, sorted."""
    if any((folder / name).exists() for name in TABLES):
        return "folder", [folder]
    found = {kind: sorted(folder.glob(f"*{kind}")) for kind in OPENERS}
    if found[".tar"]:
        del found[PARQUET]  # img2dataset's lists: one beside every shard
    found = {kind: paths for kind, paths in found.items() if paths}
    if not found:
        expected = f"{', '.join('*' + kind for kind in OPENERS)}, {' or '.join(TABLES)}"
        raise ConfigError(explain(str(folder), expected=expected, found="none of them", do="name another folder"))
    if len(found) > 1:
        names = " and ".join(f"*{kind}" for kind in found)
        raise ConfigError(explain(str(folder), expected="files of one kind", found=names, do="name one, as *.tar"))
    return found.popitem()


def _emoji_shards(spec: str) -> list[Path]:
    """The shards of the shipped pairs, written into the cache at the first use."""
    name = spec.removeprefix("emoji:")
    if name not in EMOJI:
        known = ", ".join(f"emoji:{one}" for one in EMOJI)
        raise ConfigError(explain(spec, expected=known, found="another name", do="use one of these"))
    from lit_tune.emoji import pack, shards  # only here: nobody else has to pay for reading the pack

    split, folder = EMOJI[name]
    written = shards.write_shards(cache_dir() / f"emoji-{pack.pack_digest()[:16]}-{shards.FORMAT}" / split, split)
    return [Path(path) for path in written[folder]]
