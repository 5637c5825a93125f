"""Which concepts are held out, which of them are strict, and which serve for tuning (the dev split)."""

import random
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from lit_tune.emoji.sources import Concept
from lit_tune.errors import DataError, explain

HELD_OUT_FILE = Path(__file__).with_name("heldout.txt")
HELD_OUT_COUNT = 191
DEV_SEED = 20240618
DEV_UNSEEN_SET = "noto-v1"

# Words that only vary a drawing: two labels that differ in nothing else name near twins.
_WORD_CLASSES: dict[str, str] = {
    "person": "man woman men women person people boy girl child adult older baby",
    "number": "one two three four five six seven eight nine ten eleven twelve thirty hundred o’clock first last "
    "1st 2nd 3rd 0 1 2 3 4 5 6 7 8 9 10",
    "colour": "red orange yellow green blue purple brown black white grey gray pink light dark medium beige blond "
    "curly bald",
    "direction": "up down left right facing upwards downwards leftwards rightwards vertically horizontally tilted "
    "pointing oncoming raised lowered back end",
    "state": "open opened closed waxing waning locked unlocked full new crescent quarter large small big "
    "smiling grinning heavy hump bald with without of the a an and or in on",
}
_CLASS_OF: dict[str, str] = {word: name for name, words in _WORD_CLASSES.items() for word in words.split()}
_SAME: dict[str, str] = {"merman": "merperson", "mermaid": "merperson", "trolleybus": "bus", "busts": "bust"}


def read_held_out() -> list[str]:
    """Return the 191 hexcodes that no training set may draw, sorted; DataError if the list was changed."""
    held_out = HELD_OUT_FILE.read_text().split()
    if len(set(held_out)) != HELD_OUT_COUNT:
        count = len(set(held_out))
        raise DataError(explain(str(HELD_OUT_FILE), expected=HELD_OUT_COUNT, found=count, do="restore the file"))
    return sorted(held_out)


def twin_key(label: str) -> frozenset[str]:
    """Return what is left of a CLDR label when the words that only vary a drawing are taken out.

    Quoted words, capital letters (“AB button”, "ON! arrow") and variant words (gender, number, colour, direction,
    state) go; if nothing else is there, the classes of the words that went stand for it, so that
    "three-thirty" and "one o’clock" share a key.
    """
    label = re.sub("“[^”]*”", " ", label)
    words = [word for word in re.split("[^\\w’]+", label) if word]
    plain = [word for word in words if not (word.isupper() and len(words) > 1)]
    lowered = [_SAME.get(word.lower(), word.lower()) for word in plain]
    content = frozenset(word for word in lowered if word not in _CLASS_OF)
    return content or frozenset(f"<{_CLASS_OF[word]}>" for word in lowered if _CLASS_OF[word] != "state")


def is_flag(concept: Concept) -> bool:
    """Say whether a concept is in the flags group."""
    return concept.group == "flags"


def strict_concepts(held_out: Collection[str], trained: Collection[str], concepts: Mapping[str, Concept]) -> set[str]:
    """Return the held-out hexcodes that are no flag and whose twin key no trained concept has."""
    taken = {twin_key(concepts[hexcode].label) for hexcode in trained}
    return {
        hexcode
        for hexcode in held_out
        if not is_flag(concepts[hexcode]) and twin_key(concepts[hexcode].label) not in taken
    }


def choose_dev_concepts(candidates: Collection[str]) -> set[str]:
    """Return 191 seeded hexcodes out of those that the dev unseen set draws.

    191 so that chance and difficulty match the final test; it is about a tenth of the trained concepts.
    """
    return set(random.Random(DEV_SEED).sample(sorted(candidates), HELD_OUT_COUNT))
