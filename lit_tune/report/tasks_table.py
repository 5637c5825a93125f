"""The tasks of a report: each main figure beside its chance level and what others have published for it."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from lit_tune.evals.aggregate import AVERAGE, MEMBERS, Main, main
from lit_tune.evals.catalog import TASKS
from lit_tune.evals.published import AVERAGE_NAME
from lit_tune.evals.results import Result
from lit_tune.evals.tables import Row
from lit_tune.report.scores import bar

COLUMNS = 6  # of published figures, as many as a screen holds beside the scores
OTHER_SPLIT = "another split: no published figure compares"
_BESIDE = re.compile(r"^(chance|low|high|floor_\w+)$")
_SIGN = '<sup title="settings unknown">?</sup>'


@dataclass(frozen=True)
class Others:
    """Published figures that may be shown: {system: {task: fraction}}, and where each system's were read."""

    figures: Mapping[str, Mapping[str, float]]
    sources: Mapping[str, str]


def tasks_table(
    results: Sequence[Result],
    published: Mapping[str, Mapping[str, float]] | None = None,
    sources: Mapping[str, str] | None = None,
    aggregates: Mapping[str, float] | None = None,
) -> str:
    """One table, averages first, with the sources of published figures below; "" without results.

    Args:
        results: one row each, in their order.
        published: system title -> task name ("datacomp38" for the average) -> fraction.
        sources: system title -> where its figures were read.
        aggregates: as from `aggregate.aggregate`.
    """
    if not results:
        return ""
    means = aggregates or {}
    others = _shown(published or {}, sources or {}, results, means)
    heads = "".join(f'<th class="other">{escape(name)}</th>' for name in others.figures)
    lines = [_average(name, value, results, others) for name, value in means.items()]
    lines += [_line(result, others) for result in results]
    return (
        '<p class="soft">Main metric of each task in per cent, with the 95 % interval over its pictures where it is '
        'known (the thin line); the upright mark is chance.</p><div class="wide"><table class="tasks"><thead><tr><th>'
        '</th><th class="what">metric</th><th>score [interval]</th><th class="bar"></th><th>chance</th>'
        f"{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>{_sources(others)}"
    )


def _shown(
    published: Mapping[str, Mapping[str, float]], sources: Mapping[str, str], results: Sequence[Result],
    means: Mapping[str, float],
) -> Others:  # fmt: skip
    """The systems with a figure for a row that compares: the first `COLUMNS` in the order given."""
    names = {result.task for result in results if main(result) and not other_split(result)}
    if AVERAGE in means and not _mixed(AVERAGE, results):
        names.add(AVERAGE_NAME)
    fit = {system: {task: value for task, value in figures.items() if task in names}
           for system, figures in published.items()}  # fmt: skip
    kept = [system for system, figures in fit.items() if figures][:COLUMNS]
    return Others({system: fit[system] for system in kept},
                  {system: sources[system] for system in kept if system in sources})  # fmt: skip


def title_of(result: Result) -> str:
    """The task's name for readers."""
    return TASKS[result.task].title if result.task in TASKS else result.dataset or result.task


def other_split(result: Result) -> bool:
    """Whether a named task was measured on another number of pictures than its published split holds."""
    samples = result.settings.get("samples")
    return result.task in TASKS and samples is not None and samples != TASKS[result.task].size


def _mixed(group: str, results: Iterable[Result]) -> bool:
    """Whether an average holds a task that was measured on another split."""
    return any(other_split(result) for result in results if result.task in MEMBERS.get(group, ()))


def beside(metrics: Mapping[str, float | None], name: str) -> dict[str, float]:
    """{companion: value} of a metric: chance, low, high, floor_<name> as far as they are known."""
    starts = {key: key.removeprefix(f"{name}_") for key in metrics if key.startswith(f"{name}_")}
    return {rest: value for key, rest in starts.items()
            if _BESIDE.match(rest) and (value := metrics[key]) is not None and math.isfinite(value)}  # fmt: skip


def score(value: float, low: float | None, high: float | None) -> str:
    """A fraction in per cent with its interval."""
    span = f" <small>[{100 * low:.1f}, {100 * high:.1f}]</small>" if low is not None and high is not None else ""
    return f"{100 * value:.1f}{span}"


def _average(name: str, value: float, results: Sequence[Result], others: Others) -> str:
    """The row of a group or of the average."""
    count = len(MEMBERS.get(name, ()))
    title = f"{name} ({count} task{'s' if count > 1 else ''})" if count else name
    known = name == AVERAGE  # of the groups nothing is recorded
    cells = _cells(AVERAGE_NAME if known else "", known and _mixed(name, results), others)
    return _row(title, Main("mean", value), {}, cells, "mean")


def _line(result: Result, others: Others) -> str:
    """The row of a task."""
    found = main(result)
    near = beside(result.metrics, found.metric) if found else {}
    return _row(title_of(result), found, near, _cells(result.task, other_split(result), others))


def _row(title: str, found: Main | None, near: Mapping[str, float], cells: str, kind: str = "") -> str:
    """One row; without a main metric it says so."""
    head = f'<tr class="{kind}"><td>{escape(title)}</td>' if kind else f"<tr><td>{escape(title)}</td>"
    if found is None:
        return f'{head}<td class="what">no main metric</td><td>-</td><td class="bar"></td><td>-</td>{cells}</tr>'
    drawn = bar(Row("", found.metric, found.value, dict(near)))
    chance = f"{100 * near['chance']:.1f}" if "chance" in near else "-"
    return (f'{head}<td class="what">{escape(found.metric)}</td>'
            f'<td class="score">{score(found.value, found.low, found.high)}</td><td class="bar">{drawn}</td>'
            f"<td>{chance}</td>{cells}</tr>")  # fmt: skip


def _cells(task: str, other: bool, others: Others) -> str:
    """The published figures of a row, each with its mark."""
    if other and others.figures:
        return f'<td class="what" colspan="{len(others.figures)}">{OTHER_SPLIT}</td>'
    return "".join(f"<td>{100 * figures[task]:.1f}{_SIGN}</td>" if task in figures else "<td>-</td>"
                   for figures in others.figures.values())  # fmt: skip


def _sources(others: Others) -> str:
    """What the mark of published figures says, and where they were read."""
    if not others.figures:
        return ""
    items = "".join(f"<li><b>{escape(name)}</b>: {linked(text)}</li>" for name, text in others.sources.items())
    return (f'<p class="soft">{_SIGN} published figure, settings unknown: its prompts, its preprocessing and its '
            f'precision may be others than here.</p><ul class="sources soft">{items}</ul>')  # fmt: skip


def linked(text: str) -> str:
    """A text with its https addresses as links, which nothing follows by itself."""
    parts = re.split(r"(https://[^\s,;()]+)", text)
    return "".join(f'<a href="{escape(part)}" rel="noreferrer">{escape(part)}</a>' if i % 2 else escape(part)
                   for i, part in enumerate(parts))  # fmt: skip
