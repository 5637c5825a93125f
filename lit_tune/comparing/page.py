"""The page of a comparison: bars for the main figures, the whole table with its marks, the settings. No script."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from lit_tune.comparing.comparison import Cell, Comparison, Row
from lit_tune.files import write_atomically
from lit_tune.report import bars
from lit_tune.report.style import CSS
from lit_tune.report.tasks_table import linked

# The page says itself that nothing may be loaded from anywhere.
_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title><style>{css}</style></head><body><main>
"""
_CSS = """
table.compare { width: auto; min-width: min(100%, 560px); }
.compare th { overflow-wrap: anywhere; min-width: 92px; max-width: 190px; }
.compare th:first-child { min-width: 150px; } .compare th:nth-child(2) { min-width: 0; }
.compare td, .compare th { padding-left: 14px; }
.compare th:first-child, .compare td:first-child { padding-left: 0; }
.compare td:first-child, .compare thead th:first-child { position: sticky; left: 0; background: var(--paper); }
.compare td.what { text-align: left; color: var(--soft); }
.compare th.section { text-align: left; font-weight: 650; color: var(--ink); padding: 18px 0 4px; }
.compare td small { color: var(--soft); font-weight: 400; }
.compare td b { font-weight: 750; }
.compare sup { line-height: 0; }
.compare sup a, ul.notes a { color: var(--s0); text-decoration: none; }
table.settings td, table.settings th { text-align: left; white-space: normal; overflow-wrap: anywhere;
  min-width: 104px; }
ul.notes { list-style: none; padding: 0; }
ul.notes li { overflow-wrap: anywhere; margin: 2px 0; }
.letter { display: inline-block; min-width: 1.4em; font-weight: 650; }
figure.summary { max-width: 560px; }
@media (max-width: 640px) { .compare td, .compare th { padding-left: 10px; }
  .compare th:first-child, .compare td:first-child { min-width: 104px; max-width: 128px; white-space: normal; }
  .compare td small { display: block; } .compare td.what { white-space: normal; font-size: .78rem; max-width: 62px; }
  .compare th { min-width: 78px; max-width: 110px; } .compare th:nth-child(2) { min-width: 0; } }
"""
_BARS = ("imagenet", "Average", "Retrieval", "mteb")  # the rows that the chart shows, those of the paper's figure 1


def write_comparison(path: Path, comparison: Comparison) -> None:
    """Write the page; its folder is made if missing, and an old page is replaced in one rename.

    Args:
        path: of the HTML file.
        comparison: as from `rows.compare`.
    """
    title = f"Compared: {', '.join(comparison.systems)}"
    parts = ["<h1>Systems side by side</h1>", _chart(comparison), _table(comparison), _footnotes(comparison),
             _settings(comparison), _sources(comparison),
             '<footer class="soft">Everything on this page is inside this file; nothing is loaded from elsewhere.'
             "</footer></main></body></html>\n"]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    head = _HEAD.format(title=escape(title), css=CSS + bars.CSS + _CSS)
    write_atomically(path, head + "".join(parts))


def _chart(comparison: Comparison) -> str:
    """The main figures as bars."""
    by_name = {row.name: row for row in comparison.rows}
    groups = [bars.Group(by_name[name].title, [bars.Bar(c.value, c.low, c.high, c.mark) for c in by_name[name].cells])
              for name in _BARS if name in by_name]  # fmt: skip
    chart = bars.bar_chart(groups, comparison.systems, "The main figures of each system")
    if not chart:
        return ""
    return (f'<figure class="summary">{chart}</figure><p class="soft">Per cent. The thin line is the 95 % interval, '
            "where it is known; letters are the footnotes below the table.</p>")  # fmt: skip


def _table(comparison: Comparison) -> str:
    """Every row, under the heading of its section."""
    heads = "".join(f'<th scope="col"><span class="key s{i}"></span>{escape(name)}</th>'
                    for i, name in enumerate(comparison.systems))  # fmt: skip
    lines, section = [], ""
    for row in comparison.rows:
        if row.section != section:
            section = row.section
            lines.append(f'<tr><th class="section" colspan="{len(row.cells) + 2}">{escape(section)}</th></tr>')
        lines.append(_row(row))
    return ('<h2>All figures</h2><p class="soft">Per cent, with the 95 % interval where it is known. '
            f'{_bold(comparison)}</p><div class="wide"><table class="compare">'
            f"<thead><tr><th></th><th></th>{heads}</tr></thead>"
            f"<tbody>{''.join(lines)}</tbody></table></div>")  # fmt: skip


def _bold(comparison: Comparison) -> str:
    """What bold stands for."""
    if any(cell.best for row in comparison.rows for cell in row.cells):
        return "Bold: its interval lies above the second best figure, and both were measured alike."
    return "Nothing is bold: no figure's interval lies above another one that was measured alike."


def _row(row: Row) -> str:
    """One row of the table."""
    cells = "".join(f"<td>{_cell(cell)}</td>" for cell in row.cells)
    return f'<tr><td>{escape(row.title)}</td><td class="what">{escape(row.metric)}</td>{cells}</tr>'


def _cell(cell: Cell) -> str:
    """A figure with its interval and its mark; "-" where there is none."""
    if cell.value is None:
        return "-"
    figure = f"{100 * cell.value:.1f}"
    figure = f"<b>{figure}</b>" if cell.best else figure
    if cell.mark:
        figure += f'<sup><a href="#note-{cell.mark}">{cell.mark}</a></sup>'
    if cell.low is not None and cell.high is not None:
        figure += f" <small>[{100 * cell.low:.1f}, {100 * cell.high:.1f}]</small>"
    return figure


def _footnotes(comparison: Comparison) -> str:
    """What the marks say, and what is not there."""
    items = [f'<li id="note-{letter}"><span class="letter">{letter}</span>{escape(text)}</li>' for letter, text in
             comparison.footnotes.items()]  # fmt: skip
    items += [f"<li>{escape(note)}</li>" for note in comparison.notes]
    legend = f'<p class="soft">{escape(comparison.legend)}.</p>' if comparison.legend else ""
    return f'<h3>Notes</h3>{legend}<ul class="notes">{"".join(items)}</ul>' if items else ""


def _settings(comparison: Comparison) -> str:
    """The settings of each system."""
    if not comparison.settings:
        return ""
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in comparison.systems)
    lines = [f"<tr><td>{escape(name)}</td>{_plain_cells(values)}</tr>" for name, values in comparison.settings.items()]
    return ('<h2>Settings</h2><p class="soft">Each system is measured with its own preprocessing, prompt and '
            f'prefix.</p><div class="wide"><table class="settings"><thead><tr><th></th>{heads}</tr></thead>'
            f"<tbody>{''.join(lines)}</tbody></table></div>")  # fmt: skip


def _plain_cells(values: Sequence[str]) -> str:
    """Cells of text."""
    return "".join(f"<td>{escape(value)}</td>" for value in values)


def _sources(comparison: Comparison) -> str:
    """Where published figures were read, the address as a link that is followed only when clicked."""
    items = [f"<li><b>{escape(', '.join(names))}</b>: {linked(source)}</li>"
             for source, names in comparison.sources.items()]  # fmt: skip
    return f'<h2>Sources of published figures</h2><ul class="notes">{"".join(items)}</ul>' if items else ""
