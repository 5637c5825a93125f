"""DataComp's averages over tasks: ImageNet, its distribution shifts, VTAB, retrieval, and all 38.

A group counts only when every task of it was measured: an average over fewer tasks is another number.
Source: the groups and means of `aggregate_scores.py` in github.com/mlfoundations/datacomp (MIT).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lit_tune.evals.catalog import GROUPS, SUITES, TASKS
from lit_tune.evals.results import Result

SUITE = "datacomp38"
AVERAGE = "Average"
MEMBERS: dict[str, tuple[str, ...]] = {
    group: tuple(name for name in SUITES[SUITE] if TASKS[name].group == group) for group in GROUPS
} | {AVERAGE: SUITES[SUITE]}
# the last part of their names in metrics.jsonl
_KEYS = {group: group.lower().replace(".", "").replace(" ", "_") for group in MEMBERS}


@dataclass(frozen=True)
class Main:
    """The figure of a task that counts: its metric's name ("" where unknown), value, and 95 % interval where known."""

    metric: str
    value: float
    low: float | None = None
    high: float | None = None


def main(result: Result) -> Main | None:
    """The main metric of a result with its interval; None where it has none."""
    metric = TASKS[result.task].main_metric if result.task in TASKS else ""
    value = result.metrics.get("main_metric")
    if value is None:
        value = result.metrics.get(metric)
    if value is None or not math.isfinite(value):
        return None
    if not metric:  # a task of the user's: `main_metric` repeats one of the others
        same = [name for name, other in result.metrics.items() if other == value and name != "main_metric"]
        metric = same[0] if same else ""
    return Main(metric, value, result.metrics.get(f"{metric}_low"), result.metrics.get(f"{metric}_high"))


def aggregate(results: Mapping[str, Result]) -> dict[str, float]:
    """{group: mean of its tasks' main metrics, a fraction}, in DataComp's order; only groups that are whole.

    Args:
        results: {task: its result}, as from `read_results`; other tasks are passed over.
    """
    values = {name: found.value for name, result in results.items() if (found := main(result)) is not None}
    lacking = missing(results)
    return {group: math.fsum(values[name] for name in names) / len(names)
            for group, names in MEMBERS.items() if group not in lacking}  # fmt: skip


def missing(results: Mapping[str, Result]) -> dict[str, tuple[str, ...]]:
    """{group: its tasks without a main metric} of every group that is not whole; {} where all 38 are there."""
    lacking = {group: tuple(name for name in names if name not in results or main(results[name]) is None)
               for group, names in MEMBERS.items()}  # fmt: skip
    return {group: names for group, names in lacking.items() if names}


def val_aggregates(results: Mapping[str, Result]) -> dict[str, float]:
    """`aggregate` under the names of metrics.jsonl and eval/N.json: `val/datacomp38/average`, `.../vtab`, ..."""
    return {f"val/{SUITE}/{_KEYS[group]}": value for group, value in aggregate(results).items()}
