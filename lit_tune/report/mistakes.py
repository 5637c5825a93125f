"""The panel of a task's mistakes, from its stored details."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any


def panel(details: Mapping[str, Any]) -> str:
    """A section with the worst mistakes and some drawn at random; "" where the task stores none.

    Args:
        details: as from `details.collect`.
    """
    stored = details.get("mistakes")
    if stored is None:
        return ""
    head = '<section class="mistakes"><h3>Mistakes</h3>'
    body = _captions(stored) if details["kind"] == "retrieval" else _classes(stored, details["samples"])
    return f"{head}{body}</section>"


def score(x: float | None) -> str:
    """A cosine as text."""
    return "not a number" if x is None else f"{x:.3f}"


def image(uri: str, alt: str) -> str:
    """An `<img>` that holds its own bytes; an address of anything else is left out."""
    held = uri if uri.startswith("data:image/jpeg;base64,") else ""
    return f'<img alt="{escape(alt)}" title="{escape(alt)}" src="{escape(held)}">'


def found(answers: Sequence[Mapping[str, Any]]) -> str:
    """A row of found pictures, right ones marked, each with its caption and cosine."""
    items = []
    for answer in answers:
        state = "right" if answer["right"] else "wrong"
        tick = '<span class="tick" title="right">&#10003;</span>' if answer["right"] else ""
        words = f"{answer['caption']} ({score(answer['score'])})"
        cosine = f"<small>{score(answer['score'])}</small>"
        items.append(f'<li class="{state}">{image(answer["picture"], words)}{tick}{cosine}</li>')
    return f'<ol class="found">{"".join(items)}</ol>'


def _classes(stored: Mapping[str, Any], samples: int) -> str:
    """Pictures with their own class and the one that was answered."""
    if not stored["count"]:
        return f'<p class="soft">No mistakes among {samples:,} pictures.</p>'
    return (
        f'<p class="soft">{stored["count"]:,} of {samples:,} pictures. Beside each name stands its cosine; a tie is a '
        "mistake too.</p>"
        '<h4>Chosen as the worst</h4><p class="soft">Pictures that score furthest below the wrong class, worst '
        f"first.</p>{_cards(stored['worst'])}"
        '<h4>Drawn at random</h4><p class="soft">From all mistakes, by seed: what a typical mistake looks like.</p>'
        f"{_cards(stored['random'])}"
    )


def _cards(mistakes: Sequence[Mapping[str, Any]]) -> str:
    """A grid of mistakes."""
    return f'<ul class="cards">{"".join(_card(m) for m in mistakes)}</ul>'


def _card(mistake: Mapping[str, Any]) -> str:
    """One mistake."""
    own = ", ".join(mistake["own"])
    lines = (("is", own, mistake["own_score"]), ("taken for", mistake["predicted"], mistake["predicted_score"]))
    words = "".join(
        f'<p><span class="soft">{label}</span> <b>{escape(name)}</b> <small>{score(x)}</small></p>'
        for label, name, x in lines
    )
    return f"<li>{image(mistake['picture'], own)}{words}</li>"


def _captions(stored: Mapping[str, Any]) -> str:
    """Captions with their own picture and what they found instead."""
    if not stored["count"]:
        return f'<p class="soft">Each of the {stored["texts"]:,} captions finds its picture first.</p>'
    cards = "".join(_caption(m) for m in stored["worst"])
    return (
        f'<p class="soft">{stored["count"]:,} of {stored["texts"]:,} different captions do not find their picture '
        "first.</p><h4>Chosen as the worst</h4>"
        '<p class="soft">Captions whose picture comes last, worst first: the own picture, then the five that '
        f'were found, with their cosines.</p><div class="examples">{cards}</div>'
    )


def _caption(mistake: Mapping[str, Any]) -> str:
    """One caption."""
    place = f"place {mistake['rank']:,} of {mistake['of']:,}"
    return (
        f'<div class="example"><p class="query">{escape(mistake["caption"])} <small class="soft">{place}</small></p>'
        f'<div class="beside"><div class="own">{image(mistake["picture"], mistake["caption"])}<small>own</small></div>'
        f"{found(mistake['found'])}</div></div>"
    )
