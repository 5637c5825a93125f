"""The panel of random queries and what they find, from a task's stored details."""

from collections.abc import Mapping
from html import escape
from typing import Any

from lit_tune.report.mistakes import found, image, score


def panel(details: Mapping[str, Any]) -> str:
    """A section with texts that look for pictures and pictures that look for texts; "" where none are stored.

    Args:
        details: as from `details.collect`.
    """
    stored = details.get("grid")
    if stored is None:
        return ""
    texts = "".join(_text(e) for e in stored["texts"])
    pictures = "".join(_picture(e) for e in stored["pictures"])
    return (
        '<section class="grids"><h3>What it finds</h3>'
        '<p class="soft">Queries drawn at random, by seed, whether they worked or not. Best answer first, with its '
        "cosine; right answers have a green border and a check mark.</p>"
        f'<h4>Text to image</h4><div class="examples">{texts}</div>'
        f'<h4>Image to text</h4><div class="examples">{pictures}</div></section>'
    )


def _text(example: Mapping[str, Any]) -> str:
    """One text and the pictures it found."""
    return f'<div class="example"><p class="query">{escape(example["text"])}</p>{found(example["found"])}</div>'


def _picture(example: Mapping[str, Any]) -> str:
    """One picture and the captions it found, with its own caption where none of them is right."""
    items = "".join(_caption(answer) for answer in example["found"])
    hit = any(answer["right"] for answer in example["found"])
    missed = "" if hit else f'<p class="soft">is: {escape(example["text"])}</p>'
    shown = image(example["picture"], example["text"])
    return f'<div class="example pair"><div>{shown}</div><div><ol>{items}</ol>{missed}</div></div>'


def _caption(answer: Mapping[str, Any]) -> str:
    """One caption of a list."""
    state, check = ("right", " &#10003;") if answer["right"] else ("wrong", "")
    return f'<li class="{state}">{escape(answer["caption"])}{check} <small>{score(answer["score"])}</small></li>'
