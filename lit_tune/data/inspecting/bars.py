"""A histogram as inline SVG in the report's style: bars of equal width, labels at the edges, no script."""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT = 480, 190  # view box; small, so that text stays readable where the page is narrow
LEFT, RIGHT, TOP, BOTTOM = 8, 8, 18, 26
GAP = 1.5  # between bars
LABELS = 6  # about so many below the axis

CSS = """
.histogram .bar { fill: var(--bar); }
.histogram .limit { stroke: var(--s4); stroke-width: 1.5; stroke-dasharray: 5 3; }
"""


def svg(found: Mapping[str, Any], title: str, label: Callable[[float], str], limit: float | None = None) -> str:
    """An `<svg>` of a histogram of `figures.histogram`, "" if it is empty.

    Args:
        found: `edges` (n + 1) and `counts` (n,). Bars are drawn equally wide, whatever their edges.
        title: for screen readers.
        label: an edge as text.
        limit: where a dashed line stands, if it lies within the edges.
    """
    edges, counts = found["edges"], found["counts"]
    if not counts:
        return ""
    parts = [f'<svg class="chart histogram" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{escape(title)}</title>']
    each, tall, foot = (WIDTH - LEFT - RIGHT) / len(counts), HEIGHT - TOP - BOTTOM, HEIGHT - BOTTOM
    for i, count in enumerate(counts):
        height = tall * count / max(counts)
        said = f"{label(edges[i])} to {label(edges[i + 1])}: {count:,}"
        parts.append(f'<rect class="bar" x="{LEFT + i * each + GAP / 2:.1f}" y="{foot - height:.1f}" '
                     f'width="{max(each - GAP, 0.5):.1f}" height="{height:.1f}"><title>{escape(said)}</title></rect>')
    parts.append(f'<path class="axis" d="M{LEFT} {foot}H{WIDTH - RIGHT}"/>')
    # The last edge may be moved out to the largest value: the one before it says where the last bar begins.
    every = math.ceil((len(edges) - 1) / LABELS)
    for i in range(0, len(edges) - 1, every):
        parts.append(_text(LEFT + i * each, foot + 17, label(edges[i]), "start" if i == 0 else "middle"))
    if limit is not None and edges[0] <= limit <= edges[-1]:
        across = LEFT + each * _place(edges, limit)
        parts.append(f'<line class="limit" x1="{across:.1f}" x2="{across:.1f}" y1="{TOP - 4}" y2="{foot}"/>')
        parts.append(_text(min(max(across, 60), WIDTH - 60), TOP - 7, f"cut at {label(limit)}", "middle"))
    return "".join(parts) + "</svg>"


def _place(edges: Sequence[float], value: float) -> float:
    """Where a value lies, in bars from the left."""
    bar = max(i for i in range(len(edges) - 1) if edges[i] <= value)
    return bar + (value - edges[bar]) / max(edges[bar + 1] - edges[bar], 1e-12)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
