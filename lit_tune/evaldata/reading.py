"""From what a user writes for evaluation data to `EvalData`: the layout is told by what lies there."""

import glob
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lit_tune.data.folder_source import TABLES
from lit_tune.evaldata import image_folder, names as named, wds
from lit_tune.evaldata.dataset import KINDS, EvalData
from lit_tune.evaldata.pieces import wrong

LAYOUTS = (
    "webdataset shards as clip_benchmark's (test/0.tar), class folders of pictures, *.arrow or *.parquet, "
    f"{' or '.join(TABLES)} beside pictures, *.tar shards, tfds:NAME:SPLIT, emoji:..."
)
IMAGE_SPLITS = {"test": ("test", "val", "validation"), "train": ("train",)}


def find_folder(root: Path, folders: Sequence[str]) -> Path:
    """The first of the named folders below `root` that is there, or `root` itself where it is such a folder.

    Args:
        root: what holds the data sets.
        folders: names as in a task of the catalog, "hf_cache/..." among them.

    Raises:
        ConfigError: none is there; the line lists them.
    """
    for name in folders:
        if (root / name).is_dir():
            return root / name
    for name in folders:
        if root.is_dir() and root.resolve().parts[-len(Path(name).parts) :] == Path(name).parts:
            return root
    found = "none of them" if root.is_dir() else "no such folder"
    raise wrong(root, f"one of the folders {', '.join(folders)}", found, "correct --data_root or fetch the data")


def read(
    where: str | Path,
    *,
    kind: str = "",
    names: str = "",
    split: str = "test",
    classnames: Path | str | None = None,
    templates: Path | str | None = None,
    class_field: str = "",
    data_config: Any = None,
    data_root: Path | None = None,
) -> EvalData:
    """The evaluation data at a place, whatever its layout (`LAYOUTS`).

    Args:
        where: a folder, a file, shards, "tfds:...", "emoji:...".
        kind: one of `dataset.KINDS` that the data has to be; "" takes any.
        names: clip-benchmark's name of the data set: its class names and templates stand in for those that the data
            does not bring.
        split: "test", or "train" for probes.
        classnames, templates: text files, a line each, that stand in for the data's own.
        class_field: the field of our own sources that names the class; "" for retrieval.
        data_config: `config.data`, for its `caption_field`; "txt" where it is not given.
        data_root: where "tfds:..." is looked for before `TFDS_DATA_DIR`.

    Raises:
        ConfigError: nothing there that can be read, names that do not fit, or another kind.
        DataError: damaged data.
    """
    if kind and kind not in KINDS:
        raise wrong("kind", f"one of {', '.join(KINDS)}", repr(kind), "choose one")
    own_names = None if classnames is None else named.read_classnames(Path(classnames).expanduser())
    own_templates = None if templates is None else named.read_templates(Path(templates).expanduser())
    if str(where).startswith("tfds:"):
        from lit_tune.evaldata import tfds

        data = tfds.read(str(where), split, own_names, _or_named(own_templates, names), data_root)
    else:
        data = _read(str(where), names, split, own_names, own_templates, class_field, data_config)
    if kind and data.kind != kind:
        raise wrong(where, f"data for {kind}", f"data for {data.kind}", "name another folder or task")
    return data


def _read(
    where: str, names: str, split: str, classnames: tuple[str, ...] | None, templates: tuple[str, ...] | None,
    class_field: str, data_config: Any,
) -> EvalData:  # fmt: skip
    """What lies at a path, or one of our own sources."""
    path = Path(where).expanduser()
    if (path / "nshards.txt").is_file():  # the split itself was named
        path, split, where = path.parent, path.name, str(path.parent)
    if is_source(where):
        return _pairs(where, class_field, data_config, classnames, _or_named(templates, names))
    if not where or not path.exists():
        raise wrong(where or "''", "a folder or file of evaluation data", "no such path", "correct it")
    if wds.is_wds(path):
        if classnames is None and names and not (path / wds.CLASSNAMES).exists() and wds.has_classes(path):
            classnames = named.named_classes(names)
        if templates is None and not (path / wds.TEMPLATES).exists() and wds.has_classes(path):
            templates = _or_named(None, names)
        return wds.read(path, split, classnames, templates)
    tree = _class_tree(path, split)
    if tree is not None:
        # named folders keep their names: a packaged list may have another order
        if classnames is None and names and image_folder.is_numbered(tree):
            classnames = named.named_classes(names)
        return image_folder.read(tree, classnames, _or_named(templates, names))
    return _table(where, path, split)


def _or_named(templates: tuple[str, ...] | None, names: str) -> tuple[str, ...] | None:
    """Given templates, or those of the named data set."""
    return named.named_templates(names) if templates is None and names else templates


def _table(where: str, path: Path, split: str) -> EvalData:
    """Arrow or Parquet files; the last layout that is tried."""
    from lit_tune.evaldata import arrow  # pyarrow takes a moment to import

    if not arrow.tables(path):
        there = ", ".join(sorted(child.name for child in path.iterdir())[:5]) if path.is_dir() else path.name
        raise wrong(where, LAYOUTS, there or "an empty folder", "name a folder of one of these layouts")
    return arrow.read(path, split)


def is_source(where: str) -> bool:
    """Whether a place is one of our own sources: emoji:..., an address, shards, a folder of them or with a table."""
    path = Path(where).expanduser()
    if where.startswith("emoji:") or "://" in where or path.suffix in (".tar", ".array_record"):
        return True
    if not path.exists() and (glob.has_magic(where) or "{" in where):
        return True
    patterns = (*TABLES, "*.tar", "*.array_record")  # a folder of Parquet files is read as a table
    return path.is_dir() and any(any(path.glob(pattern)) for pattern in patterns)


def _pairs(
    where: str, class_field: str, data_config: Any, classnames: tuple[str, ...] | None,
    templates: tuple[str, ...] | None,
) -> EvalData:  # fmt: skip
    """One of our own sources."""
    from lit_tune.data.sources import open_source
    from lit_tune.evaldata import pairs

    source = open_source(where, SimpleNamespace(caption_field="txt") if data_config is None else data_config)
    return pairs.read(source, class_field, classnames, templates if class_field else None)


def _class_tree(path: Path, split: str) -> Path | None:
    """The tree of class folders at a place, or in the folder of the split there."""
    if image_folder.is_image_folder(path):
        return path
    return next((path / one for one in IMAGE_SPLITS.get(split, (split,))
                 if image_folder.is_image_folder(path / one)), None)  # fmt: skip
