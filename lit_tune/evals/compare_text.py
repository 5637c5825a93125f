"""A comparison as aligned plain text for the console."""

import re
import textwrap
from collections.abc import Sequence

from lit_tune.evals.comparison import UNKNOWN, Cell, Comparison, Row

WIDTH = 119  # columns at most; systems that do not fit stand in a second block below
_NAME = 13  # least width of a column, for the system's name above it
_LABEL = 28  # most width of a row's title


def table(comparison: Comparison) -> str:
    """All figures in per cent with one decimal, marks and footnotes, then the settings; under 120 columns wide."""
    blocks = [_block(comparison, columns) for columns in _columns(comparison)]
    below = [*_reading(comparison), *_footnotes(comparison)]
    return "\n".join(["\n\n".join("\n".join(block) for block in blocks), "", *below, *_settings(comparison),
                      *_sources(comparison)])  # fmt: skip


def cell_text(cell: Cell) -> str:
    """ " 71.0 ±0.4* a": the figure, the larger side of its interval, a star for the best, its mark."""
    if cell.value is None:
        return "    -"
    text = f"{100 * cell.value:5.1f}"
    if cell.low is not None and cell.high is not None:
        text += f" ±{100 * max(cell.high - cell.value, cell.value - cell.low):.1f}"
    return text + ("*" if cell.best else "") + (f" {cell.mark}" if cell.mark else "")


def _label_width(rows: Sequence[Row]) -> tuple[int, int]:
    """(width of the titles, width of the metrics)."""
    return min(_LABEL, max(len(row.title) + 2 for row in rows)), max(len(row.metric) for row in rows)


def _columns(comparison: Comparison) -> list[range]:
    """The systems that stand in each block, as many as fit."""
    title, metric = _label_width(comparison.rows)
    fit = max(1, (WIDTH - title - metric - 1) // (_cell_width(comparison) + 2))
    return [range(start, min(start + fit, len(comparison.systems))) for start in range(0, len(comparison.systems), fit)]


def _cell_width(comparison: Comparison) -> int:
    """Width of a column."""
    return max(_NAME, *(len(cell_text(cell)) for row in comparison.rows for cell in row.cells))


def _block(comparison: Comparison, columns: range) -> list[str]:
    """The lines of some of the systems."""
    title, metric = _label_width(comparison.rows)
    width = _cell_width(comparison)
    names = [textwrap.wrap(comparison.systems[i], width) for i in columns]
    lines = []
    for line in range(max(map(len, names))):
        heads = [name[line] if line < len(name) else "" for name in names]
        lines.append(_line("per cent" if line == 0 else "", "", heads, title, metric, width))
    section = ""
    for row in comparison.rows:
        if row.section != section:
            section = row.section
            lines.append(section)
        texts = [cell_text(row.cells[i]) for i in columns]
        lines.append(_line(f"  {row.title}", row.metric, texts, title, metric, width))
    return lines


def _line(label: str, metric: str, cells: Sequence[str], title_width: int, metric_width: int, width: int) -> str:
    """One line, its columns aligned."""
    short = label if len(label) <= title_width else label[: title_width - 2] + ".."
    return f"{short:<{title_width}} {metric:<{metric_width}}{''.join(f'  {c:<{width}}' for c in cells)}".rstrip()


def _reading(comparison: Comparison) -> list[str]:
    """What the signs stand for, as far as they are there."""
    cells = [cell for row in comparison.rows for cell in row.cells]
    signs = []
    if any(cell.low is not None for cell in cells):
        signs.append("± larger side of the 95 % interval")
    if any(cell.best for cell in cells):
        signs.append("* best, and its interval lies above the second")
    if any(cell.value is None for cell in cells):
        signs.append("- not measured")
    return _wrapped("; ".join([*signs, *filter(None, [comparison.legend])])) if signs or comparison.legend else []


def _footnotes(comparison: Comparison) -> list[str]:
    """The footnotes and further notes."""
    lines = [line for letter, text in comparison.footnotes.items() for line in _wrapped(f"{letter}  {text}", "   ")]
    return lines + [line for note in comparison.notes for line in _wrapped(note)]


def _wrapped(text: str, indent: str = "  ") -> list[str]:
    """A text in lines of the table's width, broken neither at hyphens nor within quotes: a prompt's spaces count."""
    held = re.sub(r'"[^"]*"', lambda quoted: quoted[0].replace(" ", "\0"), text)
    lines = textwrap.wrap(held, WIDTH, subsequent_indent=indent, break_on_hyphens=False)
    return [line.replace("\0", " ") for line in lines]


def _settings(comparison: Comparison) -> list[str]:
    """The settings of each system: a line a system, because they are long."""
    lines = []
    for i, name in enumerate(comparison.systems):
        stated = [f"{setting} {values[i]}" for setting, values in comparison.settings.items() if values[i] != UNKNOWN]
        lines += _wrapped(f"{name}: {', '.join(stated) or UNKNOWN}")
    return ["", "Settings: each system by its own preprocessing and prompt", *lines] if comparison.settings else []


def _sources(comparison: Comparison) -> list[str]:
    """Where published figures were read."""
    lines = [line for source, names in comparison.sources.items() for line in _wrapped(f"{', '.join(names)}: {source}")]
    return ["", "Sources of published figures", *lines] if lines else []
