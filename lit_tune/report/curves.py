"""Curves over the steps of a run: the loss, recall at 5, and one small chart a task."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lit_tune import goodput
from lit_tune.evals.aggregate import SUITE
from lit_tune.evals.catalog import TASKS
from lit_tune.evals.results import inside_name
from lit_tune.evals.tables import Row
from lit_tune.report.chart import Line, line_chart

MOST = 24  # small charts of one page
_BESIDE = ("zeroshot/top1", "mean_recall@1", "mean_recall@5", "mean_recall@10")


def overview(lines: Sequence[Mapping[str, Any]]) -> str:
    """Charts of loss and recall at 5 over steps, as far as the lines hold them."""
    loss = [(line["step"], line["train/loss"]) for line in lines if _is_number(line.get("train/loss"))]
    names = dict.fromkeys(k for line in lines for k in line if k.startswith("val/") and k.endswith("recall@5"))
    recall = [
        Line(_recall_title(key), [(line["step"], 100 * line[key]) for line in lines if _is_number(line.get(key))])
        for key in names
        if "_strict/" not in key and "[" not in key  # six lines are what a reader can tell apart
    ]
    charts = {
        "Training loss": line_chart([Line("loss", loss)], "step", "loss"),
        "Recall at 5": line_chart(recall[:6], "step", "per cent", from_zero=True),
    }
    figures = [f"<figure><figcaption>{escape(name)}</figcaption>{svg}</figure>" for name, svg in charts.items() if svg]
    return f'<h3>Over the steps</h3><div class="charts">{"".join(figures)}</div>' if figures else ""


def time_spent(lines: Sequence[Mapping[str, Any]]) -> str:
    """A chart of the share of the run's time that was training, and of the largest causes of the rest, over steps."""
    logged = [line for line in lines if _is_number(line.get("perf/goodput"))]
    if not logged:
        return ""
    largest = list(goodput.causes(logged[-1]))[:5]  # six lines are what a reader can tell apart
    keys = {"training": "perf/goodput"} | {cause: f"perf/lost_{cause.replace(' ', '_')}" for cause in largest}
    svg = line_chart([Line(name, [(line["step"], 100 * line[key]) for line in logged if key in line])
                      for name, key in keys.items()], "step", "per cent of the time", from_zero=True)  # fmt: skip
    said = f"Where the time went: {escape(goodput.told(logged[-1]))}"
    return f'<div class="charts"><figure><figcaption>{said}</figcaption>{svg}</figure></div>' if svg else ""


def small_multiples(lines: Sequence[Mapping[str, Any]], mains: Mapping[str, str]) -> str:
    """One small chart a task over steps, at most `MOST`; "" where nothing was measured twice.

    Variants (`name[dim 64]`) and the strict part of a set are left out: they stand in the tables.

    Args:
        lines: the objects of metrics.jsonl.
        mains: {task: outside name of its main metric} where known; else the catalog's, top1 or mean recall.
    """
    charts = [figure for key in _keys(lines, mains) if (figure := _small(lines, key))]
    more = f'<p class="soft">{len(charts) - MOST} more are in metrics.jsonl.</p>' if len(charts) > MOST else ""
    return f'<div class="charts small">{"".join(charts[:MOST])}</div>{more}' if charts else ""


def _keys(lines: Sequence[Mapping[str, Any]], mains: Mapping[str, str]) -> list[str]:
    """The keys to draw: of each set its main metric, then what else a reader looks for."""
    logged = dict.fromkeys(key for line in lines for key in line if key.startswith("val/") and key.count("/") >= 2)
    found = dict.fromkeys(key for key in logged if key.startswith(f"val/{SUITE}/"))
    others: dict[str, None] = {}
    for name in dict.fromkeys(key.split("/", 2)[1] for key in logged):
        if "[" in name or name.endswith("_strict"):
            continue
        main = mains.get(name) or (TASKS[name].main_metric if name in TASKS else "")
        there = [key for key in (f"val/{name}/{metric}" for metric in (inside_name(main), *_BESIDE)) if key in logged]
        recalls = [key for key in there if "mean_recall@" in key]  # one of them says what three do
        kept = [key for key in there if key not in recalls[1:]]
        found |= dict.fromkeys(kept[:1])
        others |= dict.fromkeys(kept[1:])
    return list(found | others)


def _small(lines: Sequence[Mapping[str, Any]], key: str) -> str:
    """A small chart of one metric with its last figure and its chance level in words; "" without two points."""
    points = [(line["step"], 100 * line[key]) for line in lines if _is_number(line.get(key))]
    svg = line_chart([Line(key, points)], "step", "per cent", from_zero=True)
    if not svg:
        return ""
    _, name, metric = key.split("/", 2)
    chance = [line[f"{key}_chance"] for line in lines if _is_number(line.get(f"{key}_chance"))]
    said = f"{points[-1][1]:.1f} at step {points[-1][0]:,}" + (f", chance {100 * chance[-1]:.1f}" if chance else "")
    title = TASKS[name].title if name in TASKS else name
    words = Row(name, metric, 0.0, {}).title
    return (f'<figure><figcaption>{escape(title)} <span class="soft">{escape(words)}: {said}</span></figcaption>'
            f"{svg}</figure>")  # fmt: skip


def _is_number(value: object) -> bool:
    """Whether a logged value can be drawn."""
    return isinstance(value, int | float) and math.isfinite(value)


def _recall_title(key: str) -> str:
    """ "unseen_set, text to image" for val/unseen_set/image_retrieval_recall@5."""
    _, name, metric = key.split("/", 2)
    return f"{name}, {Row(name, metric, 0.0, {}).title.removesuffix(' R@5')}"
