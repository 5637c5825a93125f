"""Which figures of a row were not measured alike, and the footnotes that say so."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from string import ascii_lowercase
from typing import Any

from lit_tune.evals.aggregate import main
from lit_tune.evals.catalog import TASKS
from lit_tune.evals.results import SAME, Result

Reasons = dict[str, str]  # {what differs: how}, in the order to tell them
WHOLE = ("unknown", "average", "prompt")  # reasons that are sentences of their own
OWN_TEXT = {"prompt"}  # of the system itself: no reason why two figures could not be compared
_LABELS = {"data_sha256": "data", "classes_sha256": "class names", "templates_sha256": "templates",
           "clean": "cleaning of texts"}  # fmt: skip
_COUNTS = {"classes_sha256": "classes", "templates_sha256": "templates"}
_ALWAYS = ("data_sha256", "samples")  # the others only where texts stand for classes
_CLASSES = ("classification", "multilabel", "attributes")
_SHOWN = 3  # tasks that a footnote names


def row_reasons(cells: Sequence[Result | None], unknown: Sequence[str]) -> list[Reasons]:
    """What is to be said of each figure of a row; {} where nothing is.

    Each result is held against the first one whose settings are known. A result with none of them is unknown, and so
    never equal, whether or not the others are.

    Args:
        cells: the results of one task by system, None where a system has none.
        unknown: by system, why its settings are unknown where they are.
    """
    keys = _keys([cell for cell in cells if cell is not None])
    known = [cell for cell in cells if cell is not None and any(key in cell.settings for key in keys)]
    found = []
    for cell, why in zip(cells, unknown, strict=True):
        if cell is None:
            found.append({})
        elif cell not in known:
            found.append({"unknown": f"settings unknown ({why})"})
        else:
            found.append(_differences(cell, known[0], keys) | _foreign_prompt(cell))
    return found


def average_reasons(members: Sequence[Reasons]) -> Reasons:
    """What is to be said of an average over tasks, from what is said of them."""
    said = [reasons for reasons in members if reasons]
    if not said:
        return {}
    if len(said) == len(members) and all(reasons == said[0] for reasons in said):
        return said[0]
    return {"average": "an average over tasks some of which are marked: see their rows"}


def _keys(cells: Sequence[Result]) -> list[str]:
    """The settings that have to be equal in a row: of retrieval only those that somebody states."""
    kinds = {TASKS[cell.task].kind for cell in cells if cell.task in TASKS}
    classes = bool(kinds & set(_CLASSES))
    return [key for key in SAME if classes or key in _ALWAYS or any(key in cell.settings for cell in cells)]


def _differences(cell: Result, reference: Result, keys: Sequence[str]) -> Reasons:
    """How a result differs from the reference of its row."""
    if cell is reference:
        return {}
    found = {key: _difference(key, cell.settings, reference.settings) for key in keys}
    here, there = (one.metric if (one := main(result)) else "" for result in (cell, reference))
    found["metric"] = f"{here or 'unknown'} here, {there or 'unknown'} there" if here != there else ""
    return {key: how for key, how in found.items() if how}


def _difference(key: str, here: Mapping[str, Any], there: Mapping[str, Any]) -> str:
    """How a setting differs, "" where it does not."""
    if key not in here or key not in there:
        places = [place for place, settings in (("here", here), ("there", there)) if key not in settings]
        return f"unknown {' and '.join(places)}"
    if json.dumps(here[key], sort_keys=True) == json.dumps(there[key], sort_keys=True):
        return ""
    if not key.endswith("sha256"):
        return f"{_plain(here[key])} here, {_plain(there[key])} there"
    counts = [_count(settings.get(_COUNTS.get(key, ""))) for settings in (here, there)]
    if None not in counts and counts[0] != counts[1]:
        return f"{counts[0]:,} here, {counts[1]:,} there"
    return "sha256 differ"


def _count(value: object) -> int | None:
    """A number of things, given as a number or as a list of them."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return len(value) if isinstance(value, list) else None


def _plain(value: object) -> str:
    """A setting's value as text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return json.dumps(value)


def _foreign_prompt(cell: Result) -> Reasons:
    """Whether a system was asked with another prompt than its text tower's own."""
    settings = cell.settings
    if "prompt" not in settings or "own_prompt" not in settings or settings["prompt"] == settings["own_prompt"]:
        return {}
    return {"prompt": f"prompt {json.dumps(settings['prompt'])}, the tower's own is "
                      f"{json.dumps(settings['own_prompt'])}"}  # fmt: skip


@dataclass
class Footnotes:
    """Letters by kind of difference, in the order in which they were first asked for."""

    letters: dict[tuple[str, ...], str] = field(default_factory=dict)
    places: dict[str, list[tuple[str, Reasons]]] = field(default_factory=dict)

    def letter(self, row: str, reasons: Reasons) -> str:
        """The letter that stands for the reasons; "" for none.

        Args:
            row: its title, for the footnote.
            reasons: as from `row_reasons`.
        """
        if not reasons:
            return ""
        kind = tuple(how if what in WHOLE else what for what, how in reasons.items())
        if kind not in self.letters:
            self.letters[kind] = _letter(len(self.letters))
        self.places.setdefault(self.letters[kind], []).append((row, reasons))
        return self.letters[kind]

    def texts(self) -> dict[str, str]:
        """{letter: what it says}."""
        return {letter: _text(places) for letter, places in self.places.items()}


def _letter(number: int) -> str:
    """a, b, ... z, aa, ab, ..."""
    two = ("".join(pair) for pair in product(ascii_lowercase, repeat=2))
    return ascii_lowercase[number] if number < 26 else list(two)[number - 26]


def _text(places: Sequence[tuple[str, Reasons]]) -> str:
    """A footnote: each difference once, by task where it is not the same in all."""
    parts = []
    for what in places[0][1]:
        by_how: dict[str, list[str]] = {}
        for row, reasons in places:
            by_how.setdefault(reasons[what], []).append(row)
        label = "" if what in WHOLE else f"{_LABELS.get(what, what)}: "
        if len(by_how) == 1:
            parts.append(label + next(iter(by_how)))
            continue
        told = [f"{how} ({rows[0]})" for how, rows in by_how.items()]
        more = f", {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
        parts.append(label + ", ".join(told[:_SHOWN]) + more)
    return "; ".join(parts)
