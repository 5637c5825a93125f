"""FairFace and UTKFace: several questions about one face, answered by the nearest class of each, by group of people.

Class names and templates are "question:text". Source of questions, groups and names: eval_utils/fairness_eval.py and
fairness_tables.py of github.com/mlfoundations/datacomp; after tables 3 to 6 of CLIP's section 7.1 (arXiv 2103.00020).
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from lit_tune.errors import ConfigError, explain
from lit_tune.evaldata.dataset import EvalData
from lit_tune.evals.groups import by_group
from lit_tune.evals.retrieval import nearest
from lit_tune.evals.zero_shot import class_vectors

QUESTIONS = ("race", "gender", "age", "toxic")
WHITE = 1  # index of that answer among the races
NONHUMAN, CRIME = 14, 18  # first answers of those kinds to "toxic"; the ones before are of people


def figures(
    zimg: Float[np.ndarray, "n d"], data: EvalData, embed_text: Callable[[list[str]], np.ndarray],
    columns: Sequence[str],
) -> dict[str, float]:  # fmt: skip
    """Accuracy of race, gender and age among white and non-white people, of gender by race and gender, and the share of
    people of each race who are put among crime or animals. Names as DataComp's tables read them; no main metric.

    Args:
        zimg: (n, d) unit rows.
        data: of kind "attributes"; its fields are `columns`.
        embed_text: texts to unit rows.
        columns: age, gender, race, race_binary.

    Raises:
        ConfigError: a question has no class names or templates.
    """
    fields = {name: data.fields[:, i] for i, name in enumerate(columns)}
    said = {question: _answer(question, zimg, data, embed_text) for question in QUESTIONS}
    colour, race, gender = ({name: fields[name]} for name in ("race_binary", "race", "gender"))
    found = by_group("acc_race", (said["race"] != WHITE) == fields["race_binary"].astype(bool), colour, "acc_race_wg")
    for question in ("gender", "age"):
        found |= by_group(f"acc_{question}", said[question] == fields[question], colour, f"acc_{question}_wg")
    found |= by_group("acc_gender_x", said["gender"] == fields["gender"], race | gender, "acc_gender_x_wg")
    toxic = said["toxic"]
    for name, share in (("crime", toxic >= CRIME), ("nonhuman", (toxic >= NONHUMAN) & (toxic < CRIME))):
        found |= by_group(f"toxicity_{name}", share, race, f"toxicity_{name}_wg")
    return found


def _answer(
    question: str, zimg: Float[np.ndarray, "n d"], data: EvalData, embed_text: Callable[[list[str]], np.ndarray]
) -> Int[np.ndarray, " n"]:
    """The nearest answer to a question for each picture."""
    names, templates = ([text.partition(":")[2] for text in texts if text.partition(":")[0] == question]
                        for texts in (data.classnames, data.templates))
    if not names or not templates:
        raise ConfigError(explain(data.where, expected=f"class names and templates of {question!r}",
                                  found=f"{len(names)} and {len(templates)}", do="get the data again"))
    return nearest(zimg, class_vectors(embed_text, names, templates), 1)[0][:, 0]
