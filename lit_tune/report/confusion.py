"""The panel of classes that are taken for each other, from a task's stored details."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any


def panel(details: Mapping[str, Any]) -> str:
    """A section with the heat map (few classes), the most frequent confusions and the worst classes; "" without.

    Args:
        details: as from `details.collect`.
    """
    stored = details.get("confusion")
    if stored is None:
        return ""
    tables = f'<div class="two">{_pairs(stored["pairs"])}{_recall(stored["recall"])}</div>'
    return f'<section class="confusion"><h3>Confusions</h3>{_matrix(stored["matrix"])}{tables}</section>'


def _matrix(matrix: Mapping[str, Any] | None) -> str:
    """All counts as a table whose background is the share of the row; "" with too many classes."""
    if matrix is None:
        return ""
    heads = "".join(f'<th scope="col" title="{escape(name)}"><span>{escape(name)}</span></th>'
                    for name in matrix["names"])  # fmt: skip
    rows = "".join(_row(i, name, matrix["counts"][i], matrix["names"]) for i, name in enumerate(matrix["names"]))
    return (
        '<p class="soft">Rows: the class of the pictures. Columns: the class they were given. Printed is the number of '
        "pictures, the stronger the background the larger its share of the row; framed: right.</p>"
        f'<div class="wide"><table class="heat"><thead><tr><th></th>{heads}</tr></thead><tbody>{rows}</tbody></table>'
        "</div>"
    )


def _row(i: int, name: str, counts: Sequence[int], names: Sequence[str]) -> str:
    """One class of the heat map."""
    total = max(sum(counts), 1)
    cells = []
    for j, count in enumerate(counts):
        words = f"{name} taken for {names[j]}" if i != j else f"{name}, right"
        kind = ' class="own"' if i == j else ""
        # a single picture can be seen; up to 60 per cent of the colour the ink of either theme stays readable
        share = f' style="--share:{8 + 52 * count / total:.0f}%"' if count else ""
        cells.append(f'<td{kind}{share} title="{escape(words)}">{f"{count:,}" if count else ""}</td>')
    return f'<tr><th scope="row" title="{escape(name)}"><span>{escape(name)}</span></th>{"".join(cells)}</tr>'


def _pairs(pairs: Sequence[Sequence[Any]]) -> str:
    """The most frequent confusions."""
    if not pairs:
        return '<div><h4>Most frequent confusions</h4><p class="soft">None.</p></div>'
    rows = "".join(
        f"<tr><td>{escape(own)}</td><td>{escape(given)}</td><td>{count:,}</td><td>{100 * share:.1f}</td></tr>"
        for own, given, count, share in pairs
    )
    return (
        '<div><h4>Most frequent confusions</h4><div class="wide"><table class="words"><thead><tr><th>class</th>'
        '<th>taken for</th><th>pictures</th><th title="of the class\'s pictures">% of class</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></div>"
    )


def _recall(recall: Sequence[Sequence[Any]]) -> str:
    """The classes with the smallest share of right answers."""
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{100 * value:.1f}</td><td>{pictures:,}</td></tr>"
        for name, value, pictures in recall
    )
    return (
        '<div><h4>Worst classes</h4><div class="wide"><table class="words"><thead><tr><th>class</th><th>% right</th>'
        f"<th>pictures</th></tr></thead><tbody>{rows}</tbody></table></div></div>"
    )
