"""Line charts as inline SVG: axes, ticks and a legend, nothing that needs a script."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, HEIGHT = 480, 280  # view box; small, so that text stays readable where the page is narrow
LEFT, RIGHT, TOP, BOTTOM = 52, 24, 14, 42  # room for the labels, half of the last one included
MAX_POINTS = 300  # a longer line is averaged down: a page is not an archive


@dataclass(frozen=True)
class Line:
    """One line of a chart: (x, y) points, and its colour as one of the style sheet's `s0` to `s5`."""

    name: str
    points: Sequence[tuple[float, float]]


def line_chart(lines: Sequence[Line], x_label: str, y_label: str, from_zero: bool = False) -> str:
    """An `<svg>` of the lines, or "" if no line has two finite points.

    Args:
        lines: at most six; points that are not finite are left out.
        x_label: under the axis.
        y_label: beside the axis.
        from_zero: whether the vertical axis has to begin at 0.
    """
    drawn = [(i, line.name, _thin(line.points)) for i, line in enumerate(lines)]
    drawn = [item for item in drawn if len(item[2]) >= 2]
    if not drawn:
        return ""
    every = np.concatenate([points for _, _, points in drawn])  # (p, 2)
    (x0, y0), (x1, y1) = every.min(0), every.max(0)
    x_ticks, y_ticks = ticks(x0, x1), ticks(0.0 if from_zero else y0, y1)
    # the outer ticks enclose the data, so no line leaves the frame
    y_low, y_high = min(y_ticks[0], y0), max(y_ticks[-1], y1)

    def place(x: float, y: float) -> tuple[float, float]:
        """Where a point lies in the view box; y grows downwards there."""
        across = LEFT + (x - x0) / max(x1 - x0, 1e-12) * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - (y - y_low) / max(y_high - y_low, 1e-12) * (HEIGHT - BOTTOM - TOP)

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">']
    parts.append(f"<title>{escape(y_label)} over {escape(x_label)}</title>")
    for x in [t for t in x_ticks if x0 <= t <= x1]:
        parts.append(_text(place(x, 0)[0], HEIGHT - BOTTOM + 17, _number(x), "middle"))
    for y in y_ticks:
        height = place(x0, y)[1]
        parts.append(f'<path class="grid" d="M{LEFT} {height:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(_text(LEFT - 6, height + 4, _number(y), "end"))
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 7, x_label, "middle"))
    parts.append(_text(0, 0, y_label, "middle", f"translate(13 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)"))
    for i, name, points in drawn:
        path = "L".join("{:.1f} {:.1f}".format(*place(x, y)) for x, y in points)
        parts.append(f'<path class="line s{i}" d="M{path}"><title>{escape(name)}</title></path>')
    return "".join(parts) + "</svg>" + _legend(drawn)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from at or below `low` to at or above `high`."""
    span = high - low if high > low else max(abs(high), 1.0)
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next(m * power for m in (1, 2, 5, 10) if m * power * about >= span * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def _thin(points: Sequence[tuple[float, float]]) -> np.ndarray:
    """(p, 2) finite points, averaged over equal stretches where there are more than `MAX_POINTS`."""
    array = np.asarray(points, np.float64).reshape(-1, 2)
    array = array[np.isfinite(array).all(1)]
    if len(array) <= MAX_POINTS:
        return array
    return np.stack([part.mean(0) for part in np.array_split(array, MAX_POINTS)])


def _number(x: float) -> str:
    """A tick as short as it can be: 20k, 0.25, 3."""
    return f"{x / 1000:g}k" if abs(x) >= 10_000 else f"{round(x, 10):g}"


def _text(x: float, y: float, text: str, anchor: str, transform: str = "") -> str:
    """One piece of text; anchor is start, middle or end."""
    turned = f' transform="{transform}"' if transform else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turned}>{escape(text)}</text>'


def _legend(drawn: Sequence[tuple[int, str, np.ndarray]]) -> str:
    """The names under the chart, as text of the page; none for a single line, which the axis names."""
    if len(drawn) < 2:
        return ""
    items = "".join(f'<span class="key s{i}">{escape(name)}</span>' for i, name, _ in drawn)
    return f'<div class="legend">{items}</div>'
