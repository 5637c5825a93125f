"""Systems side by side: one row a task or average, one column a system, and a mark where they were not measured alike.

Each system is taken with its own preprocessing, prompts and prefix; those are shown, not equalised.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from lit_tune.errors import ConfigError, explain
from lit_tune.evals.aggregate import AVERAGE, MEMBERS, Main, aggregate, main, missing
from lit_tune.evals.catalog import GROUPS, IMAGENET, TASKS
from lit_tune.evals.compare_text import table
from lit_tune.evals.comparison import UNKNOWN, Cell, Comparison, Row
from lit_tune.evals.marks import OWN_TEXT, Footnotes, Reasons, average_reasons, row_reasons
from lit_tune.evals.systems import AVERAGE_NAME, FLAG, MTEB_NAME, System, read_systems

__all__ = ["Cell", "Comparison", "Row", "compare", "read_systems", "table"]

MOST = 6  # systems: as many colours as a reader can tell apart
SUMMARY = "Averages"
OTHER_38, OWN = "Other tasks of DataComp", "Other tasks"
_SECTIONS = (*GROUPS, OTHER_38, OWN)
_SHORT = {"acc1": "top-1", "mean_per_class_recall": "class mean", "mean_recall@1": "mean R@1",
          "F1-macro_all": "F1 macro", "acc_worst_region": "worst region", "acc_top5_wg": "top-5, worst",
          "acc_wg": "worst group", "jaccard_score_10-12": "Jaccard", "mean_average_precision": "mAP"}  # fmt: skip
# settings of a system that are part of it, in the order to show them
_SETTINGS = ("prompt", "own_prompt", "clean", "resize", "interpolation", "crop_pct", "image_size", "policy", "dtype",
             "max_length", "dim")  # fmt: skip
_WEIGHTS = ("step", "vision_sha256", "text_sha256")
VARIES = "varies by task"


@dataclass(frozen=True)
class _Value:
    """A figure of one system before it has its mark."""

    main: Main | None
    reasons: Reasons


def compare(systems: Sequence[System]) -> Comparison:
    """The table of the systems: averages first, then each task that at least one of them has.

    Raises:
        ConfigError: no system, or more than `MOST`.
    """
    if not 1 <= len(systems) <= MOST:
        raise ConfigError(explain(FLAG, expected=f"1 to {MOST} systems", found=len(systems), do="name fewer at a time"))
    tasks = _task_values(systems)
    footnotes = Footnotes()
    rows = [_row(name, title, metric, SUMMARY, values, footnotes)
            for name, title, metric, values in _summary(systems, tasks)]  # fmt: skip
    rows += [_row(name, _title(name, systems), _metric(values), _section(name), values, footnotes)
             for name, values in tasks.items() if name not in ("imagenet", MTEB_NAME)]  # fmt: skip
    return Comparison(tuple(s.name for s in systems), tuple(rows), footnotes.texts(), tuple(_notes(systems)),
                      _settings(systems), _sources(systems))  # fmt: skip


def _task_values(systems: Sequence[System]) -> dict[str, list[_Value]]:
    """{task: its value by system} of every task with a main metric, by section, then in the catalog's order."""
    present = dict.fromkeys(name for s in systems for name, result in s.results.items() if main(result) is not None)
    order = [name for name in TASKS if name in present] + [name for name in present if name not in TASKS]
    order.sort(key=lambda name: _SECTIONS.index(_section(name)))  # stable
    values = {}
    for name in order:
        results = [s.results.get(name) for s in systems]
        results = [result if result is not None and main(result) is not None else None for result in results]
        reasons = row_reasons(results, [s.unknown for s in systems])
        values[name] = [_Value(main(result) if result else None, why)
                        for result, why in zip(results, reasons, strict=True)]  # fmt: skip
    return values


def _section(name: str) -> str:
    """The heading that a task stands under."""
    return (TASKS[name].group or OTHER_38) if name in TASKS else OWN


def _summary(
    systems: Sequence[System], tasks: dict[str, list[_Value]]
) -> list[tuple[str, str, str, list[_Value]]]:  # fmt: skip
    """(name, title, metric, values) of ImageNet, the averages and MTEB, as far as any system has them."""
    rows = []
    if "imagenet" in tasks:
        rows.append(("imagenet", "ImageNet zero-shot", _metric(tasks["imagenet"]), tasks["imagenet"]))
    averages = [aggregate(s.results) for s in systems]
    for group, names in MEMBERS.items():
        values = [_average(s, found.get(group), group, [tasks[n][i].reasons for n in names if n in tasks])
                  for i, (s, found) in enumerate(zip(systems, averages, strict=True))]  # fmt: skip
        if group != IMAGENET and any(value.main for value in values):
            rows.append((group, f"{'DataComp average' if group == AVERAGE else group} ({len(names)})", "mean", values))
    measured = tasks.get(MTEB_NAME, [_Value(None, {})] * len(systems))
    mteb = [_given(s, MTEB_NAME) if MTEB_NAME in s.given else value
            for s, value in zip(systems, measured, strict=True)]  # fmt: skip
    if any(value.main for value in mteb):
        rows.append((MTEB_NAME, "MTEB (text only)", "mean", mteb))
    return rows


def _average(system: System, value: float | None, group: str, members: Sequence[Reasons]) -> _Value:
    """A system's average over a group: as it was stated, or worked out from whole groups."""
    if group == AVERAGE and AVERAGE_NAME in system.given:
        return _given(system, AVERAGE_NAME)
    return _Value(None, {}) if value is None else _Value(Main("", value), average_reasons(members))


def _given(system: System, name: str) -> _Value:
    """A figure that was stated as it is."""
    return _Value(Main("", system.given[name]), {"unknown": f"settings unknown ({system.unknown})"})


def _row(
    name: str, title: str, metric: str, section: str, values: Sequence[_Value], footnotes: Footnotes
) -> Row:  # fmt: skip
    """A row with its marks, the best figure told where it is certain."""
    best = _best(values)
    cells = [Cell(v.main.value, v.main.low, v.main.high, footnotes.letter(title, v.reasons), i == best) if v.main
             else Cell() for i, v in enumerate(values)]  # fmt: skip
    return Row(name, title, metric, section, tuple(cells))


def _best(values: Sequence[_Value]) -> int | None:
    """The system whose interval lies above the second's figure, both measured alike; None where there is none."""
    there = sorted((i for i, v in enumerate(values) if v.main), key=lambda i: -values[i].main.value)
    if len(there) < 2:
        return None
    first, second = values[there[0]], values[there[1]]
    if (set(first.reasons) | set(second.reasons)) - OWN_TEXT or first.main.low is None:
        return None
    return there[0] if first.main.low > second.main.value else None


def _metric(values: Sequence[_Value]) -> str:
    """The name of a row's metric in words; "" where nobody knows it."""
    names = [v.main.metric for v in values if v.main and v.main.metric]
    return (_SHORT.get(names[0], names[0])) if names else ""


def _title(name: str, systems: Sequence[System]) -> str:
    """A task's name as it is shown: the catalog's or the user's."""
    return TASKS[name].title if name in TASKS else next(s.results[name].dataset for s in systems if name in s.results)


def _notes(systems: Sequence[System]) -> list[str]:
    """What is not averaged because a group is not whole, a line a system."""
    notes = []
    for system in systems:
        lacking = {group: len(names) for group, names in missing(system.results).items()
                   if group != AVERAGE or AVERAGE_NAME not in system.given}  # fmt: skip
        parts = [f"{group} ({len(MEMBERS[group]) - count} of {len(MEMBERS[group])} tasks)"
                 for group, count in lacking.items() if count < len(MEMBERS[group])]  # fmt: skip
        if parts:
            notes.append(f"{system.name}: not averaged, because tasks are missing: {', '.join(parts)}")
    return notes


def _sources(systems: Sequence[System]) -> dict[str, tuple[str, ...]]:
    """{source of published figures: the systems with figures from there}."""
    every = dict.fromkeys(source for system in systems for source in system.sources)
    return {source: tuple(system.name for system in systems if source in system.sources) for source in every}


def _settings(systems: Sequence[System]) -> dict[str, tuple[str, ...]]:
    """{setting: its value by system} of what belongs to a system, as far as anyone states it."""
    stated = [[result.settings | _flat_versions(result.settings) | result.system for result in s.results.values()]
              for s in systems]  # fmt: skip
    versions = dict.fromkeys(key for every in stated for one in every for key in one if key.startswith("version "))
    rows = {name: tuple(_one_value(every, name) for every in stated) for name in (*_SETTINGS, *_WEIGHTS, *versions)}
    shown = {name: values for name, values in rows.items() if set(values) != {UNKNOWN}}
    return {name if name in versions else name.replace("_", " "): values for name, values in shown.items()}


def _flat_versions(settings: dict[str, object]) -> dict[str, object]:
    """The versions among the settings as settings of their own."""
    versions = settings.get("versions")
    return {f"version {name}": value for name, value in versions.items()} if isinstance(versions, dict) else {}


def _one_value(stated: Sequence[dict[str, object]], name: str) -> str:
    """The value that a system has of a setting in all its tasks that state it."""
    values = {json.dumps(one[name], sort_keys=True) for one in stated if name in one}
    if len(values) != 1:
        return VARIES if values else UNKNOWN
    value = values.pop()
    if name.endswith("sha256"):
        return value.strip('"')[:12]
    return value if name in ("prompt", "own_prompt") else value.strip('"')
