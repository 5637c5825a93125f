"""Curves over the steps of a run: the loss, recall at 5, and one small chart a task."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lit_tune.evals.tables import Row
from lit_tune.report.chart import Line, line_chart


def overview(lines: Sequence[Mapping[str, Any]]) -> str:
    """Loss and recall at 5 over steps, as far as the lines hold them."""
    loss = [(line["step"], line["train/loss"]) for line in lines if _is_number(line.get("train/loss"))]
    names = dict.fromkeys(k for line in lines for k in line if k.startswith("val/") and k.endswith("recall@5"))
    recall = [
        Line(_recall_title(key), [(line["step"], 100 * line[key]) for line in lines if _is_number(line.get(key))])
        for key in names
        if "_strict/" not in key  # six lines are what a reader can tell apart
    ]
    charts = {
        "Training loss": line_chart([Line("loss", loss)], "step", "loss"),
        "Recall at 5": line_chart(recall[:6], "step", "per cent", from_zero=True),
    }
    figures = [f"<figure><figcaption>{name}</figcaption>{svg}</figure>" for name, svg in charts.items() if svg]
    return f'<h3>Training</h3><div class="charts">{"".join(figures)}</div>' if figures else ""


def _is_number(value: object) -> bool:
    """Whether a logged value can be drawn."""
    return isinstance(value, int | float) and math.isfinite(value)


def _recall_title(key: str) -> str:
    """ "unseen_set, text to image" for val/unseen_set/image_retrieval_recall@5."""
    _, name, metric = key.split("/", 2)
    return f"{name}, {Row(name, metric, 0.0, {}).title.removesuffix(' R@5')}"
