"""Grouped bar charts as inline SVG: one group a metric, one bar a system, nothing that needs a script."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 400  # of the view box: text keeps its size on a telephone
LEFT, RIGHT = 0, 52  # room for the figure at the end of a full bar
BAR, GAP, HEAD = 13, 4, 20  # height of a bar, between bars, of a group's title
BETWEEN = 14  # groups

CSS = """
.bars text { fill: var(--ink); font-size: 12px; }
.bars text.head { font-weight: 600; font-size: 12.5px; }
.bars text.none { fill: var(--soft); }
.bars .bar { fill: var(--c); }
.bars .span { stroke: var(--ink); stroke-width: 1.4; }
.bars .rest { fill: var(--card); }
"""


@dataclass(frozen=True)
class Bar:
    """One system's figure in a group: a fraction (None where it has none), its interval, a mark of a footnote."""

    value: float | None
    low: float | None = None
    high: float | None = None
    mark: str = ""


@dataclass(frozen=True)
class Group:
    """One metric: its title and a bar a system."""

    title: str
    bars: Sequence[Bar]


def bar_chart(groups: Sequence[Group], names: Sequence[str], title: str) -> str:
    """An `<svg>` of the groups with a legend below, or "" if there is nothing to draw.

    Lengths are shares of 100 %, so that bars of different groups may be compared.

    Args:
        groups: each with one bar a name.
        names: of the systems, in the order of their colours `s0` to `s5`.
        title: of the chart, for screen readers.
    """
    drawn = [group for group in groups if any(bar.value is not None for bar in group.bars)]
    if not drawn:
        return ""
    height = sum(_height(group) for group in drawn) - BETWEEN
    parts = [f'<svg class="chart bars" viewBox="0 0 {WIDTH} {height}" role="img">', f"<title>{escape(title)}</title>"]
    parts.append(f"<desc>{escape(_description(drawn, names))}</desc>")
    top = 0
    for group in drawn:
        parts.append(f'<text class="head" x="{LEFT}" y="{top + 13}">{escape(group.title)}</text>')
        parts += [_bar(bar, i, names[i], top + HEAD + i * (BAR + GAP)) for i, bar in enumerate(group.bars)]
        top += _height(group)
    return "".join(parts) + "</svg>" + _legend(names)


def _height(group: Group) -> int:
    """How much of the chart a group takes."""
    return HEAD + len(group.bars) * (BAR + GAP) + BETWEEN


def _description(groups: Sequence[Group], names: Sequence[str]) -> str:
    """The chart in words: every figure."""
    said = []
    for group in groups:
        figures = [f"{name} {_figure(bar)}" for name, bar in zip(names, group.bars, strict=True)]
        said.append(f"{group.title}: {', '.join(figures)}")
    return ". ".join(said) + "."


def _figure(bar: Bar) -> str:
    """A figure in words."""
    if bar.value is None:
        return "not measured"
    return f"{100 * bar.value:.1f} per cent" + (f" (note {bar.mark})" if bar.mark else "")


def _bar(bar: Bar, number: int, name: str, top: float) -> str:
    """One bar on its track, its interval as a thin line, the figure and its mark at the end."""
    full = WIDTH - LEFT - RIGHT
    middle = top + BAR / 2
    if bar.value is None:
        return f'<text class="none" x="{LEFT}" y="{middle + 4}">- <title>{escape(name)}: not measured</title></text>'
    length = full * bar.value
    parts = [f'<rect class="rest" x="{LEFT}" y="{top}" width="{full}" height="{BAR}" rx="2"/>',
             f'<rect class="bar s{number}" x="{LEFT}" y="{top}" width="{length:.1f}" height="{BAR}" rx="2">'
             f"<title>{escape(name)}: {escape(_figure(bar))}</title></rect>"]  # fmt: skip
    end = bar.value
    if bar.low is not None and bar.high is not None:
        ends = f'x1="{LEFT + full * bar.low:.1f}" x2="{LEFT + full * bar.high:.1f}"'
        parts.append(f'<line class="span" {ends} y1="{middle}" y2="{middle}"/>')
        end = bar.high
    mark = f'<tspan dy="-3" font-size="9">{escape(bar.mark)}</tspan>' if bar.mark else ""
    parts.append(f'<text x="{LEFT + full * end + 5:.1f}" y="{middle + 4}">{100 * bar.value:.1f}{mark}</text>')
    return "".join(parts)


def _legend(names: Sequence[str]) -> str:
    """The systems under the chart, as text of the page."""
    items = "".join(f'<span class="key s{i}">{escape(name)}</span>' for i, name in enumerate(names))
    return f'<div class="legend">{items}</div>'
