"""Tabs of a page that has no script: radio buttons, labels, and `:checked` in the style sheet.

The buttons stand before the panels, as their siblings, so that the arrow keys walk through the tabs. Paper shows every
panel, and so does a browser that ignores style sheets.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape

NAMES = ("overview", "training", "tasks", "mistakes", "retrieval", "confusion", "map", "notes")
_SHOW = ", ".join(f"#tab-{name}:checked ~ #{name}" for name in NAMES)
CSS = f"""
main {{ max-width: 1180px; }}
.tabs {{ display: flex; flex-wrap: wrap; gap: 0; position: relative; }}
.tabs > input {{ position: absolute; opacity: 0; width: 1px; height: 1px; margin: 0; pointer-events: none; }}
.tabs > label {{ padding: 8px 12px; color: var(--soft); cursor: pointer; border-bottom: 3px solid var(--rule); }}
.tabs > label:hover {{ color: var(--ink); }}
.tabs > input:checked + label {{ color: var(--ink); font-weight: 650; border-bottom-color: var(--s0); }}
.tabs > input:focus-visible + label {{ outline: 3px solid var(--s0); outline-offset: -3px; border-radius: 6px; }}
.panel {{ display: none; flex: 0 0 100%; min-width: 0; }}
.panel > h2 {{ margin-top: 28px; }}
{_SHOW} {{ display: block; }}
.within {{ columns: 9.5em; column-gap: 18px; margin: 8px 0 4px; padding: 0; list-style: none; font-size: .92rem; }}
.within li {{ overflow-wrap: anywhere; }}
.within a, .sources a {{ color: var(--s0); overflow-wrap: anywhere; }}
.block {{ border-top: 1px solid var(--rule); margin-top: 26px; padding-top: 2px; scroll-margin-top: 8px; }}
.block > h3 {{ margin: 16px 0 8px; overflow-wrap: anywhere; }}
.block > section > h3 {{ display: none; }}
@media (max-width: 640px) {{ .tabs > label {{ padding: 7px 8px; font-size: .92rem; }} }}
@media print {{ .panel {{ display: block; }} .tabs > label {{ display: none; }} details::details-content {{
  content-visibility: visible; }} }}
"""


@dataclass(frozen=True)
class Tab:
    """One tab: its name (of NAMES), the title on the label and above the panel, and the panel's HTML."""

    name: str
    title: str
    content: str


def frame(tabs: Iterable[Tab]) -> str:
    """The tabs that have content, the first one open; "" if none has."""
    there = [tab for tab in tabs if tab.content]
    buttons = "".join(_button(tab, checked=tab is there[0]) for tab in there)
    panels = "".join(f'<section class="panel" id="{tab.name}"><h2>{escape(tab.title)}</h2>{tab.content}</section>'
                     for tab in there)  # fmt: skip
    return f'<div class="tabs">{buttons}{panels}</div>' if there else ""


def _button(tab: Tab, checked: bool) -> str:
    """A radio button with its label."""
    state = ' checked=""' if checked else ""
    return (f'<input type="radio" name="tab" id="tab-{tab.name}"{state}>'
            f'<label for="tab-{tab.name}">{escape(tab.title)}</label>')  # fmt: skip


def blocks(tab: str, parts: Mapping[str, str]) -> str:
    """The parts of a tab under headings, with a list of links to them where there are many; "" without any.

    Args:
        tab: name of the tab, for the targets of the links.
        parts: {heading: HTML}; a heading without content is left out.
    """
    there = [(title, content) for title, content in parts.items() if content]
    links = "".join(f'<li><a href="#{tab}-{i}">{escape(title)}</a></li>' for i, (title, _) in enumerate(there))
    within = f'<ul class="within">{links}</ul>' if len(there) > 2 else ""
    return within + "".join(
        f'<div class="block" id="{tab}-{i}"><h3>{escape(title)}</h3>{content}</div>'
        for i, (title, content) in enumerate(there)
    )
