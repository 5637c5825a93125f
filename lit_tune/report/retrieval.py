"""What random queries of a set found, as pictures and captions."""

from html import escape
from typing import Any

from lit_tune.report.examples import Answer, Example, Examples, data_uri


def retrieval(examples: Examples) -> str:
    """Texts with the pictures they found, then pictures with the captions they found."""
    texts = "".join(_text_example(e) for e in examples.texts)
    pictures = "".join(_picture_example(e) for e in examples.pictures)
    return (
        '<p class="soft">Queries drawn at random, whether they worked or not. Best answer first; right answers have '
        "a green border and a check mark. Point at a picture to read its caption and cosine.</p>"
        f'<h4>Text to image</h4><div class="examples">{texts}</div>'
        f'<h4>Image to text</h4><div class="examples">{pictures}</div>'
    )


def _text_example(example: Example) -> str:
    """One text and the pictures it found."""
    items = "".join(
        f'<li class="{"right" if a.right else "wrong"}">{_picture(a.picture, a.text, f"{a.text} ({a.score:.3f})")}'
        + ('<span class="tick" title="right">&#10003;</span></li>' if a.right else "</li>")
        for a in example.answers
        if a.picture is not None
    )
    return f'<div class="example"><p class="query">{escape(example.text)}</p><ol class="found">{items}</ol></div>'


def _picture_example(example: Example) -> str:
    """One picture and the captions it found, with its own caption where none of them is right."""
    items = "".join(_caption_item(a) for a in example.answers)
    missed = "" if any(a.right for a in example.answers) else f'<p class="soft">is: {escape(example.text)}</p>'
    shown = _picture(example.picture, example.text, example.text) if example.picture is not None else ""
    return f'<div class="example pair"><div>{shown}</div><div><ol>{items}</ol>{missed}</div></div>'


def _caption_item(answer: Answer) -> str:
    """One caption of a list."""
    check = " &#10003;" if answer.right else ""
    state = "right" if answer.right else "wrong"
    return f'<li class="{state}" title="{answer.score:.3f}">{escape(answer.text)}{check}</li>'


def _picture(picture: Any, alt: str, title: str) -> str:
    """An `<img>` that holds its own bytes."""
    return f'<img alt="{escape(alt)}" title="{escape(title)}" src="{data_uri(picture)}">'
