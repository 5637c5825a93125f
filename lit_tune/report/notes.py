"""What the numbers of the report mean and what they do not say."""

from collections.abc import Mapping

from lit_tune.evals.tables import rows

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


def notes(metrics: Mapping[str, float]) -> str:
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
        "<p>R@K is the share of queries with a right answer among the first K. Equal "
        "captions count as right for each other's pictures. Ties are counted against the model (for chance, floors "
        "and the text column: as if in random order), so a model that gives everything one vector never scores above "
        "chance.</p>"
        f"<ul>{''.join(items)}<li>Intervals come from resampling the test pictures. They say nothing about other "
        "seeds, other data or photographs of another kind; a difference within them is no finding.</li></ul>"
        '<footer class="soft">Everything on this page is inside this file; nothing is loaded from elsewhere.</footer>'
    )
