"""The one form that every layout of evaluation data is read into: pictures by number, and what is asked about them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

KINDS = (
    "classification",  # one class a picture
    "multilabel",  # any number of classes a picture
    "retrieval",  # captions that look for their picture, and the other way round
    "association",  # WinoGAViL: a cue and a handful of pictures, some of which go with it
    "attributes",  # FairFace, UTKFace: several questions about one picture, answered by group
)


@runtime_checkable
class Pictures(Protocol):
    """Encoded pictures by number, always the same ones; safe to read from several threads."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> bytes:
        """The encoded picture. Raises BadSample."""
        ...

    def describe(self, i: int) -> str:
        """Where picture `i` lies, for messages: "test/0.tar/000017.webp"."""
        ...


@dataclass(frozen=True)
class Puzzle:
    """One question of an association test.

    Attributes:
        cue: the text.
        candidates: int64 (k,), rows of the pictures to choose from.
        right: bool (k,), those that go with the cue; at least one.
    """

    cue: str
    candidates: np.ndarray
    right: np.ndarray


@dataclass(frozen=True)
class EvalData:
    """A whole evaluation split of n pictures. Only the fields of its kind are filled.

    Attributes:
        kind: one of KINDS.
        pictures: n encoded pictures.
        sha256: hex; equal exactly where pictures, labels and captions are equal in equal order, wherever they lie.
            Class names and templates are not in it: a result states them apart.
        where: the folder or address it was read from, as the user would write it.
        classnames: c names, as they stand in the file. Attributes: "question:name", one question after the other.
        templates: prompts with {} where the name goes. Attributes: "question:prompt".
        labels: classification int64 (n,) in [0, c); multilabel bool (n, c).
        captions: n tuples of captions, each at least one.
        fields: int64 (n, f), the numbers beside a picture that group it (WILDS, fairness), columns as the catalog says.
        puzzles: of an association test.
        notes: what a reader has to know about how the data was read, a sentence each.
    """

    kind: str
    pictures: Pictures
    sha256: str
    where: str
    classnames: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    labels: np.ndarray | None = None
    captions: tuple[tuple[str, ...], ...] = ()
    fields: np.ndarray | None = None
    puzzles: Sequence[Puzzle] = field(default=())
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pictures)
