"""What is exported, and what the writer of a format says it wrote.

A format is a module with `write(source, out) -> list[Written]`: it fills the new folder `out` and names each weight
file with the layout that it is in. Whoever calls it writes the descriptions, reads every file back and proves it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lit_tune.model import VisionEncoder
from lit_tune.text.encode import TextEncoder


@dataclass(frozen=True)
class Source:
    """The towers to export and what is known about them.

    Attributes:
        vision: the image side.
        text: the frozen text side; None for an image tower alone, such as one whose texts were vectors from outside.
        name: for people, such as the name of the run.
        facts: for the card and the proof: `kind` (run | import), of a run its config, data, step and scores, of an
            import where its towers came from; see `lit_tune.exports.source`.
    """

    vision: VisionEncoder
    text: TextEncoder | None
    name: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Written:
    """One weight file of an export.

    Attributes:
        what: in words, "timm image tower".
        kind: vision | text.
        file: its path below the folder.
        layout: whose names its arrays have, as `lit_tune.description.weights_of`.
        tokenizer: of a text tower, the path of its tokenizer.json below the folder.
    """

    what: str
    kind: str
    file: str
    layout: str
    tokenizer: str = ""
