"""What a comparison of systems holds, ready to be shown: as text (`compare_text`) or as a page (`report`)."""

import re
from dataclasses import dataclass

UNKNOWN = "unknown"  # a setting that a system does not state


@dataclass(frozen=True)
class Cell:
    """One figure: a fraction with its 95 % interval, as far as known.

    Attributes:
        value: None where the system lacks the task.
        low, high: None where unknown.
        mark: letter of the footnote that says what is different here; "" where nothing is.
        best: whether it lies above all others by more than its interval.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    mark: str = ""
    best: bool = False


@dataclass(frozen=True)
class Row:
    """One task or average: name, title, the metric in words ("" where unknown), its heading, a cell a system."""

    name: str
    title: str
    metric: str
    section: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Comparison:
    """Several systems side by side.

    Attributes:
        systems: their names, in the order of the columns.
        rows: in the order to show them, those of one section together.
        footnotes: {letter: text}.
        notes: further lines, of what is not there.
        settings: {setting: its value by system}.
        sources: {where published figures were read: the systems with figures from there}.
    """

    systems: tuple[str, ...]
    rows: tuple[Row, ...]
    footnotes: dict[str, str]
    notes: tuple[str, ...]
    settings: dict[str, tuple[str, ...]]
    sources: dict[str, tuple[str, ...]]

    @property
    def legend(self) -> str:
        """How the footnotes are to be read; "" where no footnote needs it."""
        if not any(re.search(r"\b(here|there)\b", text) for text in self.footnotes.values()):
            return ""
        return "here: the marked figure; there: the first figure of its row whose settings are known"
