"""From the text a user writes for a data set to a source of pairs."""

import glob
import itertools
import re
from pathlib import Path
from typing import Any

from lit_tune.data.folder_source import TABLES, FolderSource
from lit_tune.data.sample import BadSample, Sample, Source
from lit_tune.data.subset import Subset
from lit_tune.data.tar_source import TarSource, open_shards
from lit_tune.errors import ConfigError, DataError, explain
from lit_tune.paths import cache_dir

__all__ = ["BadSample", "FolderSource", "Sample", "Source", "TarSource", "expand", "open_source"]

EMOJI_SPLITS = {"": "final", "dev/": "dev"}
EMOJI_FOLDERS = ("train", "unseen_set", "unseen_concept")
EMOJI = {f"{prefix}{name}": (split, name) for prefix, split in EMOJI_SPLITS.items() for name in EMOJI_FOLDERS}


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
        spec: shards ("a/{00000..00099}.tar", "a/*.tar", a folder of tars), a folder with captions.csv or
            captions.jsonl, or "emoji:train", "emoji:unseen_set", "emoji:unseen_concept", "emoji:dev/...".
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
    paths = shard_paths(spec)
    if paths is not None:
        return open_shards(paths, spec, caption_field, allow_missing, max_samples, subset)
    if subset is not None:
        raise ConfigError(explain(spec, expected="tar shards beside a uid list", found="a folder of pictures",
                                  do="leave the uid list out"))  # fmt: skip
    return FolderSource(Path(expand(spec)[0]), caption_field, spec, max_samples)


def shard_paths(spec: str) -> list[Path] | None:
    """The tar shards that a spec names, in order; None for a folder of pictures with a caption table.

    Raises:
        ConfigError: the spec is wrong.
        DataError: a pattern that no file matches.
    """
    if spec.startswith("emoji:"):
        return _emoji_shards(spec)
    paths = [Path(path) for path in expand(spec)]
    if len(paths) == 1 and paths[0].is_dir():
        return None if any((paths[0] / name).exists() for name in TABLES) else _folder_of_tars(paths[0])
    return paths


def expand(spec: str) -> list[str]:
    """The paths that a spec with {00..99}, {a,b}, *, ? or [] stands for; braces in the given order, globs sorted.

    Raises:
        ConfigError: an empty spec, an address, or a range that makes no sense.
        DataError: a pattern that no file matches.
    """
    if not spec:
        raise ConfigError(explain("config.data.train", expected="shards or a folder", found="''", do="name them"))
    if "://" in spec:
        raise ConfigError(
            explain(spec, expected="a path", found="an address", do="mount the bucket (gcsfuse) and give the path")
        )
    found: list[str] = []
    for pattern in _braces(str(Path(spec).expanduser())):
        matches = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
        if not matches:
            raise DataError(explain(spec, expected=f"files like {pattern}", found="none", do="check the path"))
        found += matches
    return found


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


def _folder_of_tars(folder: Path) -> list[Path]:
    """The tar files of a folder, sorted."""
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        expected = f"*.tar shards, {' or '.join(TABLES)}"
        raise ConfigError(explain(str(folder), expected=expected, found="none of them", do="name another folder"))
    return tars


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
