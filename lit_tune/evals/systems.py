"""Systems to compare: their results read from a run, a model folder, a results file or the recorded figures."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lit_tune.errors import ConfigError, DataError, explain
from lit_tune.evals.aggregate import SUITE
from lit_tune.evals.catalog import TASKS
from lit_tune.evals.published import AVERAGE_NAME, MTEB_NAME, published
from lit_tune.evals.results import FILE, OURS, Result, read_results
from lit_tune.files import as_path

FLAG = "--compare"
PREFIX = "published:"
ACCEPTED = (f"a run folder (or FOLDER@STEP), a model folder with eval/{FILE}, an {FILE}, an eval/N.json, or "
            f"{PREFIX}NAME")  # fmt: skip
_OUTSIDE = {ours: outside for outside, ours in OURS.items()}
_COMPANION = re.compile(r"_(chance|low|high)$")
# which of a user's own task counts, where eval/N.json does not say
_MAIN = ("mean_recall@1", "mean_average_precision", "acc1")


@dataclass(frozen=True)
class System:
    """One column of a comparison.

    Attributes:
        name: short, no two systems of a comparison have the same.
        results: {task: its result}.
        given: averages that were stated without being worked out here: "datacomp38", "mteb".
        unknown: why settings are unknown where a result has none: "published figure".
        origin: what was given on the command line.
        sources: where published figures were read.
    """

    name: str
    results: dict[str, Result]
    given: dict[str, float] = field(default_factory=dict)
    unknown: str = "results without settings"
    origin: str = ""
    sources: tuple[str, ...] = ()


def read_systems(names: Sequence[str]) -> list[System]:
    """The systems that the names stand for, in their order.

    Raises:
        ConfigError: a name is nothing that is accepted, holds no results, or is there twice.
        DataError: a file of results is damaged.
    """
    systems = [_read(name) for name in names]
    short = [system.name for system in systems]
    systems = [s if short.count(s.name) == 1 else replace(s, name=s.origin) for s in systems]
    for system in systems:
        if [s.name for s in systems].count(system.name) > 1:
            raise ConfigError(explain(FLAG, expected="different systems", found=f"{system.origin} twice",
                                      do="name each one once"))  # fmt: skip
    return systems


def _read(name: str) -> System:
    """One system."""
    if name.startswith(PREFIX):
        return _published(name)
    path = as_path(name)
    folder, _, step = name.rpartition("@")
    if not path.exists() and folder and step.isdigit():
        return _run_step(name, as_path(folder), int(step))
    if path.is_file() and path.suffix == ".jsonl":
        return _system(name, _file_name(path), _lines(path))
    if path.is_file() and path.suffix == ".json":
        return _system(name, f"{path.absolute().parent.parent.name}@{path.stem}", _flat(path), "eval/N.json")
    if path.is_dir():
        return _folder(name, path)
    raise ConfigError(explain(FLAG, expected=ACCEPTED, found=_what(name, path), do="correct the name"))


def _what(name: str, path: Any) -> str:
    """What a name turned out to be, for a message."""
    return f"{name!r}, a file of another kind" if path.exists() else f"{name!r}, which does not exist"


def _folder(name: str, path: Any) -> System:
    """A run at its newest step with results, or a folder with a file of results."""
    steps = _steps(path)
    if steps:
        return _run_step(name, path, steps[-1])
    for file in (path / "eval" / FILE, path / FILE):
        if file.is_file():
            return _system(name, path.name, _lines(file))
    raise ConfigError(explain(FLAG, expected=ACCEPTED, found=f"{name!r} without results",
                              do="evaluate it first (lit-tune eval), or name its file of results"))  # fmt: skip


def _steps(path: Any) -> list[int]:
    """Steps of a run that have results, in rising order."""
    folder = path / "eval"
    every = list(folder.iterdir()) if folder.is_dir() else []
    numbers = {int(one.stem) for one in every if one.stem.isdigit() and (one.suffix == ".json" or one.is_dir())}
    return sorted(number for number in numbers if _step_results(path, number))


def _step_results(path: Any, step: int) -> dict[str, Result]:
    """What eval/N/eval_results.jsonl holds, and of eval/N.json the tasks that are not there."""
    flat = path / "eval" / f"{step}.json"
    return (_flat(flat) if flat.is_file() else {}) | _lines(path / "eval" / str(step) / FILE)


def _run_step(name: str, path: Any, step: int) -> System:
    """A run at a step."""
    results = _step_results(path, step)
    if not results:
        steps = ", ".join(map(str, _steps(path))) or "no step"
        raise ConfigError(explain(FLAG, expected="a step with results", found=f"{name!r}; results are there of {steps}",
                                  do="choose such a step or evaluate it first"))  # fmt: skip
    return _system(name, f"{path.name}@{step}", results, "eval/N.json")


def _system(origin: str, name: str, results: dict[str, Result], where: str = FILE) -> System:
    """A measured system."""
    if not results:
        raise ConfigError(explain(FLAG, expected="a file with results", found=f"{origin!r} without any",
                                  do="evaluate the model first"))  # fmt: skip
    return System(name, results, unknown=f"{where} states none", origin=origin)


def _published(origin: str) -> System:
    """A system whose figures are recorded; of its settings nothing is known."""
    system = published(origin.removeprefix(PREFIX))
    results = {name: Result(name, TASKS[name].key, TASKS[name].title, {"main_metric": figure.value})
               for name, figure in system.figures.items() if name in TASKS}  # fmt: skip
    given = {name: figure.value for name, figure in system.figures.items() if name not in TASKS}
    sources = tuple(f"{s.title} ({s.table}), {s.address}, read {s.read}" for s in system.sources)
    return System(system.name, results, given, "published figure", origin, sources)


def _file_name(path: Any) -> str:
    """A short name for a file of results: of the model or run that it lies in."""
    folder = path.absolute().parent
    if path.name != FILE:
        return path.stem
    if folder.name.isdigit() and folder.parent.name == "eval":
        return f"{folder.parent.parent.name}@{folder.name}"
    return folder.parent.name if folder.name == "eval" else folder.name


def _lines(file: Any) -> dict[str, Result]:
    """The results of an eval_results.jsonl; {} where there is none."""
    try:
        return read_results(file)
    except UnicodeDecodeError as error:
        raise DataError(explain(str(file), expected="lines of JSON", found=error, do="write the file anew")) from error


def _flat(file: Path) -> dict[str, Result]:
    """The tasks of an eval/N.json as results without settings.

    Raises:
        DataError: the file is no JSON object.
    """
    try:
        content = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        do = "evaluate the step anew"
        raise DataError(explain(str(file), expected="a JSON object", found=error, do=do)) from error
    tasks: dict[str, dict[str, float | None]] = {}
    for key, value in content.items() if isinstance(content, dict) else ():
        parts = key.split("/", 2)
        # a key that ends in ] is a variant: the same task under another setting
        if len(parts) == 3 and parts[0] == "val" and parts[1] != SUITE and not key.endswith("]"):
            tasks.setdefault(parts[1], {})[_outside(parts[2])] = value
    return {name: _from_flat(name, metrics) for name, metrics in tasks.items()}


def _outside(name: str) -> str:
    """A metric of ours under the name it has in eval_results.jsonl."""
    companion = _COMPANION.search(name)
    base = name[: companion.start()] if companion else name
    return (_OUTSIDE[base] if base in _OUTSIDE else base) + (companion[0] if companion else "")


def _from_flat(name: str, metrics: Mapping[str, float | None]) -> Result:
    """A result whose main metric is the catalog's, or the first of `_MAIN` that is there."""
    both = [metrics.get(f"{way}_retrieval_recall@1") for way in ("image", "text")]
    full = dict(metrics)
    if None not in both:
        full.setdefault("mean_recall@1", sum(both) / 2)  # DataComp's definition
    if name in TASKS:
        full["main_metric"] = full.get(TASKS[name].main_metric)
    else:
        full["main_metric"] = next((full[metric] for metric in _MAIN if metric in full), None)
    task = TASKS.get(name)
    return Result(name, task.key if task else name, task.title if task else name, full)


__all__ = ["ACCEPTED", "AVERAGE_NAME", "FLAG", "MTEB_NAME", "PREFIX", "System", "read_systems"]
