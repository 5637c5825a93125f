"""eval/report.html: what a run was, what it scored beside its floors, and what it finds. One file, no script."""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from lit_tune.evals.tables import Row, column_title, companions, rows, sizes
from lit_tune.report.chart import Line, line_chart
from lit_tune.report.examples import Answer, Example, Examples, data_uri
from lit_tune.report.style import CSS

# The page says itself that nothing may be loaded from anywhere.
_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title><style>{css}</style></head><body><main>
"""
_MARKS = {
    "chance": "chance",
    "floor_group_oracle": "oracle",
    "floor_majority": "majority",
}  # companion -> class of its mark; others by first word
_EXPLAIN = {
    "chance": "<b>chance</b>: the answers in random order.",
    "floor_pixels": "<b>pixels</b>: no learning. The training pictures that look most alike at 8x8 pixels lend their "
    "caption vectors. A score below it is no better than comparing thumbnails.",
    "floor_group_oracle": "<b>group</b>: someone who knows only the group of every picture (animals, food, flags...) "
    "and guesses within it.",
    "floor_majority": "<b>majority</b>: always the class with the most pictures.",
    "ceiling_text": "<b>text</b>: every picture replaced by the vector of another wording of its caption, so about "
    "what the frozen text model allows.",
}


def write_report(
    path: Path,
    title: str,
    facts: Mapping[str, object],
    lines: Iterable[Mapping[str, Any]],
    metrics: Mapping[str, float],
    examples: Sequence[Examples] = (),
) -> None:
    """Write the page; its folder is made if missing, and an old page is replaced in one rename.

    Args:
        path: of the HTML file.
        title: heading.
        facts: short facts in the order to show them (steps, pairs seen, time, parameters, data).
        lines: the objects of metrics.jsonl; those with `train/loss` and `val/...recall@5` make the charts.
        metrics: as from `evaluate_set`, of all sets.
        examples: as from `examples.choose`, one a set.
    """
    page = _HEAD.format(title=escape(title), css=CSS) + "".join(
        [f"<h1>{escape(title)}</h1>", _facts(facts), _scores(metrics), _charts(list(lines))]
        + [_examples(e) for e in examples]
        + [_notes(metrics), "</main></body></html>\n"]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    # written beside and renamed: a browser that reloads during an evaluation never sees half a page
    part = path.with_name(path.name + ".part")
    part.write_text(page, encoding="utf-8")
    part.replace(path)


def _facts(facts: Mapping[str, object]) -> str:
    """The run in a few small cards."""
    cards = [f"<div><dt>{escape(str(k))}</dt><dd>{escape(_plain(v))}</dd></div>" for k, v in facts.items()]
    return f'<dl class="facts">{"".join(cards)}</dl>'


def _plain(value: object) -> str:
    """A fact as text, whole numbers with separators."""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _scores(metrics: Mapping[str, float]) -> str:
    """One table a set: score, interval, bar with its marks, chance, floors."""
    every = rows(metrics)
    if not every:
        return ""
    keys = dict.fromkeys(c for row in every for c in row.beside if c not in ("low", "high"))
    legend = "".join(f'<span class="key {_mark(c)}">{escape(column_title(c))}</span>' for c in keys)
    parts = ['<h2>Scores</h2><p class="soft">Per cent, with a 95 % interval over the test pictures (the thin line). '
             f'Further down the page says what the marks stand for.</p><div class="legend">{legend}</div>']  # fmt: skip
    for name in dict.fromkeys(row.set_name for row in every):
        block = [row for row in every if row.set_name == name]
        columns = companions(block)
        heads = "".join(f"<th>{escape(column_title(c))}</th>" for c in columns)
        parts.append(f'<h3>{escape(name)} <span class="soft">{sizes(metrics, name)}</span></h3><div class="wide">')
        parts.append(f'<table><thead><tr><th></th><th>score [interval]</th><th class="bar"></th>{heads}</tr></thead>')
        parts.append(f"<tbody>{''.join(_score_row(row, columns) for row in block)}</tbody></table></div>")
    return "".join(parts)


def _mark(companion: str) -> str:
    """The style sheet's class of a companion's mark."""
    return _MARKS.get(companion, companion.split("_")[0])


def _score_row(row: Row, columns: Sequence[str]) -> str:
    """One row of the table of scores."""
    low, high = (row.beside.get(end, math.nan) for end in ("low", "high"))
    span = f" <small>[{100 * low:.1f}, {100 * high:.1f}]</small>" if math.isfinite(low + high) else ""
    cells = "".join(f"<td>{100 * row.beside[c]:.1f}</td>" if c in row.beside else "<td>-</td>" for c in columns)
    score = f'<td class="score">{100 * row.score:.1f}{span}</td>'
    return f'<tr><td>{escape(row.title)}</td>{score}<td class="bar">{_bar(row)}</td>{cells}</tr>'


def _bar(row: Row) -> str:
    """The score on a track from 0 to 100 %, its interval as a thin line, companions as upright marks."""
    parts = ['<svg class="scorebar" aria-hidden="true"><rect class="track" y="4" width="100%" height="12" rx="3"/>']
    parts.append(f'<rect class="fill" y="4" width="{100 * row.score:.2f}%" height="12" rx="3"/>')
    if "low" in row.beside and "high" in row.beside:
        ends = f'x1="{100 * row.beside["low"]:.2f}%" x2="{100 * row.beside["high"]:.2f}%"'
        parts.append(f'<line class="span" {ends} y1="10" y2="10"/>')
    for name, value in row.beside.items():  # after the bar, so that marks lie on top of it
        if name not in ("low", "high"):
            at = f"{100 * value:.2f}%"
            parts.append(f'<line class="mark {_mark(name)}" x1="{at}" x2="{at}" y1="1" y2="19"/>')
    return "".join(parts) + "</svg>"


def _charts(lines: list[Mapping[str, Any]]) -> str:
    """Loss and recall at 5 over steps, as far as the lines hold them."""
    loss = [(line["step"], line["train/loss"]) for line in lines if _is_number(line.get("train/loss"))]
    names = dict.fromkeys(k for line in lines for k in line if k.startswith("val/") and k.endswith("recall@5"))
    recall = [
        Line(_recall_title(key), [(line["step"], 100 * line[key]) for line in lines if _is_number(line.get(key))])
        for key in names
        if "_strict/" not in key  # six lines are what a reader can tell apart
    ]
    charts = {
        "Training loss": line_chart([Line("loss", loss)], "step", "loss"),
        "Recall at 5": line_chart(recall[:6], "step", "per cent", from_zero=True),
    }
    figures = [f"<figure><figcaption>{name}</figcaption>{svg}</figure>" for name, svg in charts.items() if svg]
    return f'<h2>Training</h2><div class="charts">{"".join(figures)}</div>' if figures else ""


def _is_number(value: object) -> bool:
    """Whether a logged value can be drawn."""
    return isinstance(value, int | float) and math.isfinite(value)


def _recall_title(key: str) -> str:
    """ "unseen_set, text to image" for val/unseen_set/image_retrieval_recall@5."""
    _, name, metric = key.split("/", 2)
    return f"{name}, {Row(name, metric, 0.0, {}).title.removesuffix(' R@5')}"


def _examples(examples: Examples) -> str:
    """Texts with the pictures they found, then pictures with the captions they found."""
    name = escape(examples.set_name)
    texts = "".join(_text_example(e) for e in examples.texts)
    pictures = "".join(_picture_example(e) for e in examples.pictures)
    return (
        f"<h2>What it finds: {name}</h2>"
        '<p class="soft">Queries drawn at random, whether they worked or not. Best answer first; right answers have '
        "a green border and a check mark. Point at a picture to read its caption and cosine.</p>"
        f'<h3>Text to image</h3><div class="examples">{texts}</div>'
        f'<h3>Image to text</h3><div class="examples">{pictures}</div>'
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


def _notes(metrics: Mapping[str, float]) -> str:
    """What the numbers mean and what they do not say, for the columns that are there."""
    every = rows(metrics)
    if not every:
        return ""
    present = dict.fromkeys(c for row in every for c in row.beside)
    items = [f"<li>{text}</li>" for name, text in _EXPLAIN.items() if name in present]
    if any(row.set_name.endswith("_strict") for row in every):
        items.append(
            "<li><b>_strict</b>: asks only for the pictures marked as strict (no near twin in training), among all "
            "candidates of the set.</li>"
        )
    return (
        "<h2>Reading the numbers</h2><p>R@K is the share of queries with a right answer among the first K. Equal "
        "captions count as right for each other's pictures. Ties are counted against the model (for chance, floors "
        "and the text column: as if in random order), so a model that gives everything one vector never scores above "
        "chance.</p>"
        f"<ul>{''.join(items)}<li>Intervals come from resampling the test pictures. They say nothing about other "
        "seeds, other data or photographs of another kind; a difference within them is no finding.</li></ul>"
        '<footer class="soft">Everything on this page is inside this file; nothing is loaded from elsewhere.</footer>'
    )
