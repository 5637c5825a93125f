"""What an evaluation leaves behind: one record a task, with everything that its figures depend on.

`eval_results.jsonl` is DataComp's file: one object a line with `key`, `dataset` and `metrics` (its `main_metric`
included), so that `aggregate_scores.py` of github.com/mlfoundations/datacomp reads it; the other fields are ours.
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lit_tune.errors import DataError, explain
from lit_tune.evals.catalog import TASKS
from lit_tune.files import write_atomically

FILE = "eval_results.jsonl"
OURS = {"acc1": "zeroshot/top1", "acc5": "zeroshot/top5", "mean_per_class_recall": "zeroshot/mean_per_class"}
# What has to be equal before two results of a task may stand in one column without a mark. How a model prepares
# pictures, its prompt and its own precision are part of the model and are only shown.
SAME = ("data_sha256", "samples", "classes_sha256", "templates_sha256", "clean")


@dataclass(frozen=True)
class Result:
    """One task's figures.

    Attributes:
        task: name in the catalog, or the NAME of NAME=DATA.
        key, dataset: DataComp's key and name of it; the task's name where it has none.
        metrics: rates as fractions in [0, 1] under clip_benchmark's and DataComp's names, with `<name>_chance`,
            `<name>_low`, `<name>_high` where known; `main_metric` is the value of the one that counts, None where
            there is none.
        settings: all that decides the figures, JSON values; `SAME` among them.
        variants: the same metrics under another setting, by what differs: "prompt none", "dim 256".
        seconds: where the time went: pictures (of which waiting: for pictures to be decoded), texts, scoring.
        system: whose figures these are: name, vision_sha256, text_sha256, step of a run.
    """

    task: str
    key: str
    dataset: str
    metrics: dict[str, float | None]
    settings: dict[str, Any] = field(default_factory=dict)
    variants: dict[str, dict[str, float | None]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    system: dict[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """The record as one line of `eval_results.jsonl`."""
        return json.dumps(dataclasses.asdict(self), sort_keys=False, allow_nan=False)


def finite(metrics: Mapping[str, float | None]) -> dict[str, float | None]:
    """The metrics with None for what is not a number: JSON has no word for it, and a broken model is no score."""
    return {name: value if value is not None and math.isfinite(value) else None for name, value in metrics.items()}


def read_results(file: Path) -> dict[str, Result]:
    """{task: its last record} of an `eval_results.jsonl`, ours or DataComp's; {} where there is none.

    Raises:
        DataError: a line is no such record.
    """
    found: dict[str, Result] = {}
    names = {task.title: task.name for task in TASKS.values()}
    for number, line in enumerate(file.read_bytes().splitlines() if file.is_file() else (), 1):
        try:
            one = json.loads(line)
            known = {f.name: one[f.name] for f in dataclasses.fields(Result) if f.name in one}
            dataset = known["dataset"]
            known.setdefault("task", names[dataset] if dataset in names else dataset)
            result = Result(**known)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(explain(f"{file}, line {number}", expected="a result with key, dataset and metrics",
                                    found=error, do="remove the line or write the file anew")) from error
        found[result.task] = result
    return found


def write_results(file: Path, results: Iterable[Result]) -> None:
    """Write the file whole, by rename."""
    write_atomically(file, "".join(result.line() + "\n" for result in results))


def val_metrics(result: Result) -> dict[str, float]:
    """The figures under the names of metrics.jsonl and eval/N.json: `val/<task>/zeroshot/top1`, ..."""
    flat: dict[str, float] = {}
    if result.key.startswith("mteb/"):  # hundreds of figures, which mteb keeps itself
        main = result.metrics["main_metric"]
        return {} if main is None else {f"val/{result.task}/main_score": main}
    for name, value in result.metrics.items():
        if value is not None and name != "main_metric":  # the main one stands there under its own name
            flat[f"val/{result.task}/{inside_name(name)}"] = value
    for count in ("samples", "captions"):
        if result.settings.get(count):
            flat[f"val/{result.task}/{'images' if count == 'samples' else count}"] = float(result.settings[count])
    for variant, metrics in result.variants.items():
        flat |= {f"val/{result.task}[{variant}]/{inside_name(name)}": value for name, value in metrics.items()
                 if value is not None}
    return flat


def outside_name(name: str) -> str:
    """A metric's name in `Result.metrics` for one of our files': "acc1_low" for "zeroshot/top1_low"."""
    for outside, ours in OURS.items():
        if name == ours or name.startswith(ours + "_"):
            return outside + name.removeprefix(ours)
    return name


def inside_name(name: str) -> str:
    """A metric's name in our files for one of `Result.metrics`': "zeroshot/top1_low" for "acc1_low"."""
    for outside, ours in OURS.items():
        if name == outside or name.startswith(outside + "_"):
            return ours + name.removeprefix(outside)
    return name
