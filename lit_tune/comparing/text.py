"""A comparison as aligned plain text for the console."""

import re
import textwrap
from collections.abc import Sequence

from lit_tune.comparing.comparison import UNKNOWN, Cell, Comparison, Row

WIDTH = 119  # columns at most; systems that do not fit stand in a second block below
_COLUMN = 13  # least width of a column
# Most widths of a system's name above its column, of which the first is taken that needs no more blocks than the last.
# Longer names are broken behind a sign, and within a word only where it is wider than all of these.
_NAMES = (32, 26, 20, 16, _COLUMN)
_LABEL = 28  # most width of a row's title


def table(comparison: Comparison) -> str:
    """All figures in per cent with one decimal, marks and footnotes, then the settings; under 120 columns wide."""
    fewest = len(_columns(comparison, _COLUMN))
    most = next(most for most in _NAMES if len(_columns(comparison, most)) <= fewest)
    blocks = [_block(comparison, columns, most) for columns in _columns(comparison, most)]
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


def _columns(comparison: Comparison, most: int) -> list[list[int]]:
    """The systems that stand in each block, as many as fit."""
    title, metric = _label_width(comparison.rows)
    blocks: list[list[int]] = []
    for i in range(len(comparison.systems)):
        together = [*(blocks[-1] if blocks else []), i]
        if blocks and title + metric + 1 + sum(_width(comparison, j, most) + 2 for j in together) <= WIDTH:
            blocks[-1] = together
        else:
            blocks.append([i])
    return blocks


def _width(comparison: Comparison, i: int, most: int) -> int:
    """Width of the column of system i."""
    cells = [cell_text(row.cells[i]) for row in comparison.rows]
    return max(_COLUMN, *map(len, [*_name(comparison.systems[i], most), *cells]))


def _name(system: str, most: int) -> list[str]:
    """The lines of a system's name: one if it is no longer than `most`, else broken behind one of "/-_@"."""
    lines = [""]
    for part in re.findall(r"[^/_@-]*[/_@-]+|[^/_@-]+", system) if len(system) > most else [system]:
        for piece in (part[start : start + max(_NAMES)] for start in range(0, len(part), max(_NAMES))):
            if lines[-1] and len(lines[-1] + piece) > most:
                lines.append(piece)
            else:
                lines[-1] += piece
    return lines


def _block(comparison: Comparison, columns: Sequence[int], most: int) -> list[str]:
    """The lines of some of the systems."""
    title, metric = _label_width(comparison.rows)
    widths = [_width(comparison, i, most) for i in columns]
    names = [_name(comparison.systems[i], most) for i in columns]
    lines = []
    for line in range(max(map(len, names))):
        heads = [name[line] if line < len(name) else "" for name in names]
        lines.append(_line("per cent" if line == 0 else "", "", heads, title, metric, widths))
    section = ""
    for row in comparison.rows:
        if row.section != section:
            section = row.section
            lines.append(section)
        texts = [cell_text(row.cells[i]) for i in columns]
        lines.append(_line(f"  {row.title}", row.metric, texts, title, metric, widths))
    return lines


def _line(label: str, metric: str, cells: Sequence[str], title_width: int, metric_width: int,
          widths: Sequence[int]) -> str:
    """One line, its columns aligned."""
    short = label if len(label) <= title_width else label[: title_width - 2] + ".."
    columns = "".join(f"  {cell:<{width}}" for cell, width in zip(cells, widths, strict=True))
    return f"{short:<{title_width}} {metric:<{metric_width}}{columns}".rstrip()


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
