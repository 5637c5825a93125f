"""What stands below the table of tasks: other settings, every figure, all that decides them, where the time went."""

import json
import math
from collections.abc import Mapping, Sequence
from html import escape

from lit_tune.evals.aggregate import main
from lit_tune.evals.results import Result
from lit_tune.evals.tables import is_rate
from lit_tune.report.tasks_table import beside, score, title_of

_COMPANION = ("_chance", "_low", "_high")
_SECONDS = ("pictures", "waiting", "texts", "scoring")


def variants_table(results: Sequence[Result]) -> str:
    """Each task's main metric under other settings, with the text model's own ceiling beside; "" without any."""
    kept = [result for result in results if result.variants and main(result) is not None]
    if not kept:
        return ""
    lines = "".join(_variants(result) for result in kept)
    return (
        '<h3>Under other settings</h3><p class="soft">The same vectors, asked with another prompt before the texts or '
        "cut to their first numbers (dim); strict: only the pictures that have no near twin in training. Text "
        "ceiling: what the text model's own vectors score on the same question, so about what it allows.</p>"
        '<div class="wide"><table class="tasks"><thead><tr><th></th><th class="what">setting'
        '</th><th class="what">metric</th><th>score [interval]</th><th>text ceiling</th></tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _variants(result: Result) -> str:
    """The rows of a task: as measured, then each variant."""
    metric = main(result).metric
    cases = {"as in the table above": result.metrics, **result.variants}
    lines = []
    for i, (name, metrics) in enumerate(cases.items()):
        title = escape(title_of(result)) if i == 0 else ""
        lines.append(f'<tr><td>{title}</td><td class="what">{escape(name)}</td><td class="what">{escape(metric)}</td>'
                     f'<td class="score">{_figure(metrics, metric)}</td><td>{_ceiling(metrics)}</td></tr>')  # fmt: skip
    return "".join(lines)


def _figure(metrics: Mapping[str, float | None], metric: str) -> str:
    """A metric in per cent with its interval; "-" where it was not measured."""
    value = metrics.get(metric)
    if value is None or not math.isfinite(value):
        return "-"
    near = beside(metrics, metric)
    return score(value, near.get("low"), near.get("high"))


def _ceiling(metrics: Mapping[str, float | None]) -> str:
    """The text model's own figures, each with its name; "-" where there are none."""
    found = {name.removeprefix("text_ceiling_"): value for name, value in metrics.items()
             if name.startswith("text_ceiling_") and value is not None and math.isfinite(value)}  # fmt: skip
    return ", ".join(f"{100 * value:.1f} <small>{escape(name)}</small>" for name, value in found.items()) or "-"


def settings(results: Sequence[Result]) -> str:
    """Every figure and all settings of each task, folded away; "" without results."""
    if not results:
        return ""
    folded = "".join(_folded(result) for result in results)
    return ('<h3>Every figure and its settings</h3><p class="soft">Two figures of a task compare only where data, '
            f"samples, classes and templates are the same.</p>{folded}")  # fmt: skip


def _folded(result: Result) -> str:
    """One task's figures and settings."""
    rest = {"settings": result.settings, "system": result.system}
    said = escape(json.dumps({key: value for key, value in rest.items() if value}, indent=1, ensure_ascii=False))
    return (f"<details><summary>{escape(title_of(result))}</summary>{_metrics(result.metrics)}"
            f'<pre tabindex="0">{said}</pre></details>')  # fmt: skip


def _metrics(metrics: Mapping[str, float | None]) -> str:
    """All metrics of a task, rates in per cent, each with its interval and chance."""
    lines = []
    for name, value in metrics.items():
        companion = any(name.endswith(end) and name.removesuffix(end) in metrics for end in _COMPANION)
        if name == "main_metric" or companion or value is None or not math.isfinite(value):
            continue
        near = beside(metrics, name)
        if is_rate(name):
            figure, chance = _figure(metrics, name), f"{100 * near['chance']:.1f}" if "chance" in near else "-"
        else:
            figure, chance = f"{value:.4g}", f"{near['chance']:.4g}" if "chance" in near else "-"
        lines.append(f"<tr><td>{escape(name)}</td><td>{figure}</td><td>{chance}</td></tr>")
    return ('<div class="wide"><table class="small"><thead><tr><th>metric</th><th>figure [interval], rates in %</th>'
            f"<th>chance</th></tr></thead><tbody>{''.join(lines)}</tbody></table></div>") if lines else ""  # fmt: skip


def seconds_table(results: Sequence[Result]) -> str:
    """Where the time of each task went; "" where it was not taken."""
    kept = [result for result in results if result.seconds]
    if not kept:
        return ""
    names = [*_SECONDS, *sorted({name for result in kept for name in result.seconds} - set(_SECONDS))]
    names = [name for name in names if any(name in result.seconds for result in kept)]
    heads = "".join(f"<th>{escape(name)}</th>" for name in names)
    lines = "".join(f"<tr><td>{escape(title_of(result))}</td>{_cells(result.seconds, names)}</tr>" for result in kept)
    return ('<h3>Where the time went</h3><p class="soft">Seconds. Waiting is the part of the pictures\' time in which '
            'none was decoded yet.</p><div class="wide"><table class="small"><thead><tr><th></th>'
            f"{heads}</tr></thead><tbody>{lines}</tbody></table></div>")  # fmt: skip


def _cells(seconds: Mapping[str, float], names: Sequence[str]) -> str:
    """Seconds with one decimal, "-" where there are none."""
    return "".join(f"<td>{seconds[name]:,.1f}</td>" if name in seconds else "<td>-</td>" for name in names)
