"""From what is typed after --tasks to tasks with their data: everything that can be refused is refused here."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_tune import console
from lit_tune.data.sources import open_source
from lit_tune.errors import ConfigError, explain
from lit_tune.evaldata import names as texts, pairs as pair_data, reading
from lit_tune.evals import catalog, frozen
from lit_tune.evals.catalog import Task
from lit_tune.evaluation import pairs
from lit_tune.evaluation.tasks import Prepared

PROMPT = "a photo of a {}."  # where neither the data nor --templates has one: CLIP's (arXiv 2103.00020, section 3.1.4)
MAIN = {"classification": "acc1", "multilabel": "mean_average_precision", "retrieval": "mean_recall@1",
        "association": "avg_jaccard_score", "attributes": ""}  # of data of one's own, by its kind  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Asked:
    """Where the data is and how it is read.

    Attributes:
        root: folder that the named tasks' folders and relative paths lie in; None: the current one.
        classnames, templates: files that stand in for the data's own.
        class_field: field of the json members of one's own pairs that names the class.
        probes: names of the probes that need the training split too.
        data: `config.data`, for one's own pairs.
        caption_field: of one's own pairs.
    """

    root: Path | None
    data: Any
    classnames: Path | None = None
    templates: Path | None = None
    class_field: str = ""
    caption_field: str = "txt"
    probes: tuple[str, ...] = ()


def prepare(names: Sequence[str], asked: Asked) -> list[Prepared]:
    """The tasks with their data, each once, in the order given.

    Args:
        names: of the catalog ("imagenet", "datacomp38") or NAME=DATA.

    Raises:
        ConfigError: an unknown name; folders that are not there, all of them named; data of another kind.
        DataError: damaged data.
    """
    places = _places(names, asked)
    prepared = []
    for name, (task, where) in places.items():
        one = _read(name, task, where, asked)
        console.say(_line(one, where))
        prepared.append(one)
    return prepared


def _places(names: Sequence[str], asked: Asked) -> dict[str, tuple[Task | None, str]]:
    """{name: (its task in the catalog, where its data is)}, each folder found before any is read."""
    places: dict[str, tuple[Task | None, str]] = {}
    lacking = []
    for typed in names:
        name, equals, where = typed.partition("=")
        if equals:
            places[name] = (catalog.TASKS[name] if name in catalog.TASKS else None, _rooted(where, asked.root))
            continue
        for task in catalog.expand(typed):
            folder = _folder(task, asked.root)
            lacking += [f"{task.name} ({task.folders[0]})"] if folder is None else []
            places[task.name] = (task, str(folder))
    if lacking:
        root = asked.root or Path.cwd()
        expected = f"the data of {', '.join(lacking)}"
        raise ConfigError(explain(f"--data_root {root}", expected=expected, found="no such folder",
                                  do="get it (docs/evaluation.md), name the right --data_root, or leave the task out"))
    return places


def _folder(task: Task, root: Path | None) -> Path | None:
    """The task's folder below the data root; None where there is none."""
    with contextlib.suppress(ConfigError):
        return reading.find_folder(root or Path.cwd(), task.folders)
    return None


def _rooted(where: str, root: Path | None) -> str:
    """A path below the data root; addresses and absolute paths as they are."""
    named = where.startswith(("emoji:", "tfds:")) or "://" in where
    return where if root is None or named or Path(where).expanduser().is_absolute() else str(root / where)


def _read(name: str, task: Task | None, where: str, asked: Asked) -> Prepared:
    """One task's data."""
    if reading.is_source(where):
        return _own_pairs(name, task, where, asked)
    given = {"classnames": asked.classnames, "templates": asked.templates, "data_root": asked.root}
    names = task.names if task is not None else ""
    data = reading.read(where, kind=task.kind if task is not None else "", names=names, **given)
    if data.kind in ("classification", "multilabel") and not data.templates:
        note = f"No prompts came with the data: {PROMPT!r} is used."
        data = dataclasses.replace(data, templates=(PROMPT,), notes=(*data.notes, note))
    frozen.check(asked.probes, data.kind)
    train = reading.read(where, kind=data.kind, names=names, split="train", **given) if asked.probes else None
    return Prepared(task or _task(name, data.kind, len(data)), data, train)


def _own_pairs(name: str, task: Task | None, where: str, asked: Asked) -> Prepared:
    """Pairs of one's own."""
    if asked.probes:
        raise ConfigError(explain("--probes", expected="data with a training split", found=f"pairs in {where}",
                                  do="leave it out, or use a webdataset folder with train/ and test/"))
    source = open_source(where, asked.data, caption_field=asked.caption_field)
    templates = texts.read_templates(asked.templates) if asked.templates else ("{}",)
    data = pair_data.read(source)
    beside = pairs.read_pairs(source, asked.class_field, templates)
    return Prepared(task or _task(name, data.kind, len(data)), data, pairs=beside)


def _task(name: str, kind: str, size: int) -> Task:
    """A task that the catalog does not have."""
    return Task(name, "", name, kind, size, MAIN[kind])


def _line(one: Prepared, where: str) -> str:
    """What was found, with a word where it is not the published split."""
    classes = f", {len(one.data.classnames):,} classes" if one.data.classnames else ""
    prompts = f", {len(one.data.templates):,} prompts each" if one.data.templates else ""
    captions = f", {sum(map(len, one.data.captions)):,} captions" if one.data.captions else ""
    line = f"{one.task.name:<12} {len(one.data):,} pictures{classes}{prompts}{captions} from {where}"
    if len(one.data) != one.task.size:
        line += f" (the published split has {one.task.size:,}: no published figure compares)"
    return line
