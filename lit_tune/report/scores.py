"""The table of scores of the sets that a run measures itself by: each beside its interval, chance, floors, ceiling."""

import math
from collections.abc import Collection, Mapping, Sequence
from html import escape

from lit_tune.evals.tables import Row, column_title, companions, rows, sizes

MOST = 6  # sets of the overview that the table of tasks holds too
_MARKS = {
    "chance": "chance",
    "floor_group_oracle": "oracle",
    "floor_majority": "majority",
}  # companion -> class of its mark; others by first word


def scores(metrics: Mapping[str, float], tasks: Collection[str] = ()) -> str:
    """One table a set: score, interval, bar with its marks, chance, floors; "" without rates.

    Args:
        metrics: as from `evaluate_set`, of all sets.
        tasks: names of those that the table of tasks holds as well: here only the first `MOST` sets in all are shown.
    """
    every = rows(metrics)
    names = dict.fromkeys(row.set_name for row in every if "[" not in row.set_name)  # variants have their own table
    own = [name for name in names if name not in tasks]
    shown = own + [name for name in names if name in tasks][: max(0, MOST - len(own))]
    if not shown:
        return ""
    keys = dict.fromkeys(c for row in every if row.set_name in shown for c in row.beside if c not in ("low", "high"))
    legend = "".join(f'<span class="key {mark(c)}">{escape(column_title(c))}</span>' for c in keys)
    more = len(names) - len(shown)
    rest = f'<p class="soft">{more} more under <label class="link" for="tab-tasks">Tasks</label>.</p>' if more else ""
    return ('<h3>Scores</h3><p class="soft">Per cent, with a 95 % interval over the test pictures (the thin line). '
            f'What the marks stand for is said under Reading the numbers.</p><div class="legend">{legend}</div>'
            + "".join(_block(metrics, name, [row for row in every if row.set_name == name]) for name in shown)
            + rest)  # fmt: skip


def _block(metrics: Mapping[str, float], name: str, block: list[Row]) -> str:
    """The table of one set."""
    columns = companions(block)
    heads = "".join(f"<th>{escape(column_title(c))}</th>" for c in columns)
    return (f'<h4>{escape(name)} <span class="soft">{sizes(metrics, name)}</span></h4><div class="wide"><table>'
            f'<thead><tr><th></th><th>score [interval]</th><th class="bar"></th>{heads}</tr></thead>'
            f"<tbody>{''.join(_score_row(row, columns) for row in block)}</tbody></table></div>")  # fmt: skip


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
