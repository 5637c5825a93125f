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
_TASKS = [
    "<b>acc1, acc5</b>: the right class is the first answer, or among the first five. <b>mean_per_class_recall</b>: "
    "acc1 of each class, averaged over classes, so that a rare class counts as much as a common one. "
    "<b>mean_recall@K</b>: the mean of text to image and image to text.",
    "A group's average is shown only where each of its tasks was measured: an average over fewer tasks is another "
    "number.",
    "Mistakes, grids and maps show a sample of the pictures; the figures count all of them.",
]
_OTHERS = (
    "Published figures were read, not measured here. Other templates, another resize or another split move a figure "
    "by more than many models differ; so each is marked, and none stands beside a score of another split."
)


def notes(metrics: Mapping[str, float], has_tasks: bool = False, has_others: bool = False) -> str:
    """What the numbers mean and what they do not say, for the columns that are there; "" without any.

    Args:
        metrics: as from `evaluate_set`, of all sets.
        has_tasks: whether there is a table of tasks.
        has_others: whether published figures were given.
    """
    every = rows(metrics)
    if not every and not has_tasks:
        return ""
    present = dict.fromkeys(c for row in every for c in row.beside)
    items = [text for name, text in _EXPLAIN.items() if name in present]
    if any(row.set_name.endswith("_strict") for row in every):
        items.append("<b>_strict</b>: asks only for the pictures marked as strict (no near twin in training), among "
                     "all candidates of the set.")  # fmt: skip
    items.append("Intervals come from resampling the test pictures. They say nothing about other seeds, other data or "
                 "photographs of another kind; a difference within them is no finding.")  # fmt: skip
    items += _TASKS if has_tasks else []
    items += [_OTHERS] if has_others else []
    return (
        "<p>R@K is the share of queries with a right answer among the first K. Equal captions count as right for each "
        "other's pictures. Ties are counted against the model (for chance, floors and the text column: as if in "
        "random order), so a model that gives everything one vector never scores above chance.</p>"
        f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"
    )
