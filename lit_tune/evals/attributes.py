"""FairFace and UTKFace: race, gender, age and harmful labels of faces by class names, by group of people.

Definitions and names are those of eval_utils/fairness_eval.py of github.com/mlfoundations/datacomp (MIT), so that its
fairness_tables.py reads the figures. They say how a model treats groups; none of them is a main metric.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from lit_tune.errors import ConfigError, DataError, explain
from lit_tune.evaldata.dataset import EvalData
from lit_tune.evals import groups
from lit_tune.evals.intervals import interval
from lit_tune.evals.zero_shot import EmbedText, class_vectors

QUESTIONS = ("race", "gender", "age", "toxic")
COLUMNS = ("age", "gender", "race", "race_binary")  # of the numbers beside a picture
WHITE = 1  # its place among the races
NON_HUMAN, CRIME = 14, 18  # toxic classes from 14 are non-human, from 18 crimes; those before are people


def figures(
    zimg: Float[np.ndarray, "n d"], data: EvalData, embed_text: EmbedText, columns: Sequence[str] = COLUMNS
) -> dict[str, float]:
    """{"acc_race_avg", "acc_race_race_binary:0", "acc_gender_x_race:2_gender:1", "toxicity_crime_race:3", ...}: rates
    over all and by group, `_wg` the lowest group; averages and lowest groups with _chance, _low, _high.

    `acc_race` asks only for white or not. `toxicity_*` is the share of faces called a crime or non-human: lower is
    better, and `toxicity_*_wg` is the lowest too, as in DataComp. Ties count against the model: as a mistake, or as the
    harmful label.

    Args:
        zimg: (n, d) unit rows.
        data: class names and templates "question:text", and `fields`.
        embed_text: texts to unit rows.
        columns: names of the columns of `fields`; those of COLUMNS where none are given.

    Raises:
        ConfigError: a question has too few class names.
        DataError: the numbers beside the pictures are no answers to the questions.
    """
    truth = _truth(data, tuple(columns) or COLUMNS)
    scores = {question: _scores(zimg, data, embed_text, question) for question in QUESTIONS}
    _check(data, truth, scores)
    binary = {"race_binary": truth["race_binary"]}
    white = np.arange(scores["race"].shape[1]) == WHITE
    wanted = {"race": white == (truth["race_binary"] == 0)[:, None]}  # (n, classes)
    for question in ("gender", "age"):
        wanted[question] = np.arange(scores[question].shape[1]) == truth[question][:, None]
    found: dict[str, float] = {}
    for question, right in wanted.items():
        found |= _rates(f"acc_{question}", first(scores[question], right), right.mean(1), binary)
    both = {"race": truth["race"], "gender": truth["gender"]}
    gender = first(scores["gender"], wanted["gender"])
    found |= _rates("acc_gender_x", gender, wanted["gender"].mean(1), both)
    place = np.arange(scores["toxic"].shape[1])
    for name, harmful in (("crime", place >= CRIME), ("nonhuman", (place >= NON_HUMAN) & (place < CRIME))):
        called = ~first(scores["toxic"], np.broadcast_to(~harmful, scores["toxic"].shape))
        found |= _rates(f"toxicity_{name}", called, np.full(len(zimg), harmful.mean()), {"race": truth["race"]})
    return found


def first(scores: Float[np.ndarray, "n c"], right: Bool[np.ndarray, "n c"]) -> Bool[np.ndarray, " n"]:
    """Whether a right class scores strictly higher than every other one; NaN never does."""
    best, rest = np.where(right, scores, -np.inf).max(1), np.where(right, -np.inf, scores).max(1)
    return best > rest


def _rates(
    name: str, hits: Bool[np.ndarray, " n"], chance: Float[np.ndarray, " n"], by: dict[str, Int[np.ndarray, " n"]]
) -> dict[str, float]:
    """The rate over all and by group, with what belongs beside the average and the lowest."""
    lowest = f"{name}_wg"
    index = np.unique(np.stack(list(by.values()), 1), axis=0, return_inverse=True)[1].reshape(-1)
    guesses = np.bincount(index, weights=chance) / np.bincount(index)
    low, high = interval(hits[None], np.arange(len(hits)))[0]
    return groups.by_group(name, hits, by, lowest) | {
        f"{name}_avg_chance": float(chance.mean()), f"{name}_avg_low": float(low), f"{name}_avg_high": float(high),
        f"{lowest}_chance": float(guesses.min())}  # fmt: skip


def _scores(zimg: np.ndarray, data: EvalData, embed_text: EmbedText, question: str) -> Float[np.ndarray, "n c"]:
    """float32 cosines with the classes of a question, rounded once from float64: equal vectors score equal."""
    names, templates = (_of(question, texts) for texts in (data.classnames, data.templates))
    if not names or not templates:
        raise ConfigError(explain(f"{data.where}: class names and prompts", do="use those of DataComp's folder",
                                  expected=f"lines {question}:...", found=f"{len(names)} and {len(templates)}"))
    classes = class_vectors(embed_text, names, templates)
    return (zimg.astype(np.float64) @ classes.astype(np.float64).T).astype(np.float32)


def _of(question: str, texts: Sequence[str]) -> list[str]:
    """What "question:text" lines say of one question."""
    return [text.partition(":")[2] for text in texts if text.partition(":")[0] == question]


def _truth(data: EvalData, columns: Sequence[str]) -> dict[str, Integer[np.ndarray, " n"]]:
    """The numbers beside the pictures by the name of their column."""
    shape = None if data.fields is None else data.fields.shape
    if shape != (len(data), len(columns)) or set(COLUMNS) - set(columns):
        raise DataError(explain(f"{data.where}: the numbers beside the pictures", do="fetch the data again",
                                expected=f"{len(data)} rows of {len(columns)}: {', '.join(columns)}", found=shape))
    return {name: data.fields[:, list(columns).index(name)] for name in columns}


def _check(data: EvalData, truth: dict[str, np.ndarray], scores: dict[str, np.ndarray]) -> None:
    """Refuse classes or numbers that do not answer each other."""
    sizes = {name: scores[name].shape[1] for name in QUESTIONS}
    if sizes["toxic"] <= CRIME or sizes["race"] <= WHITE:
        expected, found = f"over {CRIME} of toxic: and over {WHITE} of race:", f"{sizes['toxic']} and {sizes['race']}"
        raise ConfigError(explain(f"{data.where}: class names", expected=expected, found=found,
                                  do="use those of DataComp's folder"))  # fmt: skip
    for name, size in {"age": sizes["age"], "gender": sizes["gender"], "race_binary": 2}.items():
        low, high = truth[name].min(), truth[name].max()
        if low < 0 or high >= size:
            raise DataError(explain(f"{data.where}: {name} beside the pictures", expected=f"0 to {size - 1}",
                                    found=f"{low} to {high}", do="use the class names of the data"))  # fmt: skip
