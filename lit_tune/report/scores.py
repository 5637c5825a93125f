"""The table of scores of the sets that a run measures itself by: each beside its interval, chance, floors, ceiling."""

import math
from collections.abc import Mapping, Sequence
from html import escape

from lit_tune.evals.tables import Row, column_title, companions, rows, sizes

_MARKS = {
    "chance": "chance",
    "floor_group_oracle": "oracle",
    "floor_majority": "majority",
}  # companion -> class of its mark; others by first word


def scores(metrics: Mapping[str, float]) -> str:
    """One table a set: score, interval, bar with its marks, chance, floors."""
    every = rows(metrics)
    if not every:
        return ""
    keys = dict.fromkeys(c for row in every for c in row.beside if c not in ("low", "high"))
    legend = "".join(f'<span class="key {mark(c)}">{escape(column_title(c))}</span>' for c in keys)
    parts = ['<h3>Scores</h3><p class="soft">Per cent, with a 95 % interval over the test pictures (the thin line). '
             f'Further down the page says what the marks stand for.</p><div class="legend">{legend}</div>']  # fmt: skip
    for name in dict.fromkeys(row.set_name for row in every):
        block = [row for row in every if row.set_name == name]
        columns = companions(block)
        heads = "".join(f"<th>{escape(column_title(c))}</th>" for c in columns)
        parts.append(f'<h4>{escape(name)} <span class="soft">{sizes(metrics, name)}</span></h4><div class="wide">')
        parts.append(f'<table><thead><tr><th></th><th>score [interval]</th><th class="bar"></th>{heads}</tr></thead>')
        parts.append(f"<tbody>{''.join(_score_row(row, columns) for row in block)}</tbody></table></div>")
    return "".join(parts)


def mark(companion: str) -> str:
    """The style sheet's class of a companion's mark."""
    return _MARKS.get(companion, companion.split("_")[0])


def _score_row(row: Row, columns: Sequence[str]) -> str:
    """One row of the table of scores."""
    low, high = (row.beside.get(end, math.nan) for end in ("low", "high"))
    span = f" <small>[{100 * low:.1f}, {100 * high:.1f}]</small>" if math.isfinite(low + high) else ""
    cells = "".join(f"<td>{100 * row.beside[c]:.1f}</td>" if c in row.beside else "<td>-</td>" for c in columns)
    score = f'<td class="score">{100 * row.score:.1f}{span}</td>'
    return f'<tr><td>{escape(row.title)}</td>{score}<td class="bar">{bar(row)}</td>{cells}</tr>'


def bar(row: Row) -> str:
    """The score on a track from 0 to 100 %, its interval as a thin line, companions as upright marks."""
    parts = ['<svg class="scorebar" aria-hidden="true"><rect class="track" y="4" width="100%" height="12" rx="3"/>']
    parts.append(f'<rect class="fill" y="4" width="{100 * row.score:.2f}%" height="12" rx="3"/>')
    if "low" in row.beside and "high" in row.beside:
        ends = f'x1="{100 * row.beside["low"]:.2f}%" x2="{100 * row.beside["high"]:.2f}%"'
        parts.append(f'<line class="span" {ends} y1="10" y2="10"/>')
    for name, value in row.beside.items():  # after the bar, so that marks lie on top of it
        if name not in ("low", "high"):
            at = f"{100 * value:.2f}%"
            parts.append(f'<line class="mark {mark(name)}" x1="{at}" x2="{at}" y1="1" y2="19"/>')
    return "".join(parts) + "</svg>"
