"""How long captions are for a text tower: in tokens of a config's tokenizer, or in words where there is none."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lit_tune.errors import ConfigError

NO_LIMIT = 1 << 30  # tokens; a real limit would hide how much of a caption it cuts


@dataclass(frozen=True)
class Ruler:
    """How captions are measured.

    Attributes:
        unit: "tokens" or "words".
        note: whose tokens, or why words are counted.
        max_length: tokens that the text tower reads, prefix and special tokens included; 0 for words.
        measure: captions -> the length of each.
    """

    unit: str
    note: str
    max_length: int
    measure: Callable[[Sequence[str]], list[int]]


def ruler(config: Any | None) -> Ruler:
    """Tokens of the config's text tower where its files are on this machine, else words between white space.

    Args:
        config: of a run, or None.
    """
    if config is None:
        return _words("no --config names a tokenizer")
    from lit_tune.text import weights  # only here: the command answers fast without
    from lit_tune.text.tokenizer import Tokenizer

    text = config.text
    try:
        tokenizer = Tokenizer(weights.find(text, download=False).folder, text.prefix, NO_LIMIT)
    except ConfigError as error:
        return _words(f"the tokenizer of {text.model} is not at hand: {error}")
    note = f"{text.model}, prefix {text.prefix!r} and special tokens included"
    return Ruler("tokens", note, text.max_length, lambda captions: [len(ids) for ids in tokenizer(captions)])


def _words(why: str) -> Ruler:
    return Ruler("words", why, 0, lambda captions: [len(caption.split()) for caption in captions])
