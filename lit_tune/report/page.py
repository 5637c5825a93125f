"""eval/report.html: what a run was, what it scored beside its floors, and what it finds. One file, no script."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from lit_tune.evals.aggregate import main
from lit_tune.evals.results import Result
from lit_tune.files import write_atomically
from lit_tune.report import confusion, curves, embedding_map, grids, mistakes
from lit_tune.report.details_style import CSS as DETAILS_CSS
from lit_tune.report.examples import Examples
from lit_tune.report.notes import notes
from lit_tune.report.retrieval import retrieval
from lit_tune.report.scores import scores
from lit_tune.report.style import CSS
from lit_tune.report.tabs import CSS as TABS_CSS, Tab, blocks, frame
from lit_tune.report.task_settings import seconds_table, settings, variants_table
from lit_tune.report.tasks_table import tasks_table, title_of

# The page says itself that nothing may be loaded from anywhere.
_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title><style>{css}</style></head><body><main>
"""
_FOOT = """<footer class="soft">Everything on this page is inside this file; nothing is loaded from elsewhere.</footer>
</main></body></html>
"""


def write_report(
    path: Path,
    title: str,
    facts: Mapping[str, object],
    lines: Iterable[Mapping[str, Any]],
    metrics: Mapping[str, float],
    examples: Sequence[Examples] = (),
    *,
    results: Sequence[Result] = (),
    details: Sequence[Mapping[str, Any]] = (),
    published: Mapping[str, Mapping[str, float]] | None = None,
    sources: Mapping[str, str] | None = None,
    aggregates: Mapping[str, float] | None = None,
) -> None:
    """Write the page; its folder is made if missing, and an old page is replaced in one rename.

    Args:
        path: of the HTML file.
        title: heading.
        facts: short facts in the order to show them (steps, pairs seen, time, parameters, data).
        lines: the objects of metrics.jsonl; what they hold over steps becomes charts.
        metrics: as from `evaluate_set`, of all sets.
        examples: as from `examples.choose`, one a set.
        results: of named tasks, in the order to show them.
        details: of the tasks that have some: mistakes, confusions, grids and maps, as JSON values.
        published: system title -> task name -> fraction that was published for it.
        sources: system title -> a line that says where its figures were read.
        aggregates: as from `aggregate.aggregate`, of these results.
    """
    lines = list(lines)
    tasks = [tasks_table(results, published, sources, aggregates), variants_table(results), settings(results),
             seconds_table(results)]  # fmt: skip
    mains = {result.task: found.metric for result in results if (found := main(result))}
    names = {result.task: title_of(result) for result in results}
    overview = [_facts(facts), scores(metrics, [result.task for result in results]), curves.overview(lines)]
    tabs = frame([
        Tab("overview", "Overview", "".join(overview)),
        Tab("training", "Training", curves.time_spent(lines) + curves.small_multiples(lines, mains)),
        Tab("tasks", "Tasks", "".join(tasks)),
        Tab("mistakes", "Mistakes", blocks("mistakes", _panels(mistakes.panel, details, names))),
        Tab("retrieval", "Retrieval", blocks("retrieval", _found(examples, details, names))),
        Tab("confusion", "Confusion", blocks("confusion", _panels(confusion.panel, details, names))),
        Tab("map", "Map", blocks("map", _panels(embedding_map.panel, details, names))),
        Tab("notes", "Reading the numbers", notes(metrics, bool(results), bool(published))),
    ])  # fmt: skip
    page = f"{_HEAD.format(title=escape(title), css=CSS + DETAILS_CSS + TABS_CSS)}<h1>{escape(title)}</h1>{tabs}{_FOOT}"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page)  # a browser that reloads during an evaluation never sees half a page


def _panels(
    panel: Callable[[Mapping[str, Any]], str], details: Sequence[Mapping[str, Any]], names: Mapping[str, str]
) -> dict[str, str]:
    """{title of a task: its panel of one kind}, "" where it has none."""
    return {names.get(one["task"], one["task"]): panel(one) for one in details}


def _found(
    examples: Sequence[Examples], details: Sequence[Mapping[str, Any]], names: Mapping[str, str]
) -> dict[str, str]:
    """{title: what random queries find}: a set whose details hold such queries is shown once."""
    shown = {one["task"] for one in details if one.get("grid")}
    own = {one.set_name: retrieval(one) for one in examples if one.set_name not in shown}
    return own | _panels(grids.panel, details, names)


def _facts(facts: Mapping[str, object]) -> str:
    """The run in a few small cards."""
    cards = [f"<div><dt>{escape(str(k))}</dt><dd>{escape(_plain(v))}</dd></div>" for k, v in facts.items()]
    return f'<dl class="facts">{"".join(cards)}</dl>' if cards else ""


def _plain(value: object) -> str:
    """A fact as text, whole numbers with separators."""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
