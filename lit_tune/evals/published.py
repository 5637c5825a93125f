"""Recorded figures of named systems, each with the place it was read: what a measurement is held against.

The figures are data, in `published.json`. How they were measured (templates, resize, prompts) is mostly unknown.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lit_tune.errors import ConfigError, explain

FILE = Path(__file__).with_name("published.json")
AVERAGE_NAME, MTEB_NAME = "datacomp38", "mteb"  # figures that are no task of the catalog


@dataclass(frozen=True)
class Source:
    """Where figures were read: title, address, which table, and the day (ISO)."""

    title: str
    address: str
    table: str
    read: str


@dataclass(frozen=True)
class Figure:
    """A published figure, as a fraction in [0, 1], and its source."""

    value: float
    source: Source


@dataclass(frozen=True)
class Published:
    """A named system's figures.

    Attributes:
        name: what is typed after `published:`.
        title: the system in words.
        figures: by task name of the catalog (its main metric), "datacomp38" (the average of 38) and "mteb".
    """

    name: str
    title: str
    figures: dict[str, Figure]

    @property
    def sources(self) -> tuple[Source, ...]:
        """Every source of its figures, once."""
        return tuple(dict.fromkeys(figure.source for figure in self.figures.values()))


@cache
def _file() -> dict[str, Any]:
    """The content of published.json."""
    return json.loads(FILE.read_text("utf-8"))


def names() -> tuple[str, ...]:
    """The systems with recorded figures."""
    return tuple(_file()["systems"])


def published(name: str) -> Published:
    """The recorded figures of a system.

    Raises:
        ConfigError: none are recorded under that name.
    """
    if name not in names():
        raise ConfigError(explain("published:NAME", expected=", ".join(names()), found=repr(name),
                                  do="choose one of them"))  # fmt: skip
    entry, sources = _file()["systems"][name], _file()["sources"]
    figures = {task: Figure(value, Source(**sources[source]))
               for source, values in entry["figures"].items() for task, value in values.items()}  # fmt: skip
    return Published(name, entry["title"], figures)
