"""WinoGAViL's puzzles and FairFace's questions against figures worked out by hand."""

from itertools import combinations

import numpy as np
import pytest

from lit_tune.errors import ConfigError
from lit_tune.evaldata.dataset import EvalData, Puzzle
from lit_tune.evals import association, attributes


def test_the_prompt_has_the_article_of_its_first_letter() -> None:
    assert [association.prompt(cue) for cue in ("Owl", "werewolf", "ICE", "hour")] == [
        "An owl", "A werewolf", "An ice", "A hour"]  # fmt: skip


def test_as_many_are_chosen_as_are_right_and_ties_count_against_the_model() -> None:
    right = np.array([True, False, True, False, False])
    assert association.chosen(np.float32([0.9, 0.8, 0.1, 0.2, 0.3]), right).tolist() == [True, True, *[False] * 3]
    tied = association.chosen(np.float32([0.5, 0.5, 0.5, 0.5, 0.1]), right)
    assert tied.tolist() == [False, True, False, True, False] and association.jaccard(tied, right) == 0
    assert association.jaccard(np.array([True, True, False, False, False]), right) == pytest.approx(1 / 3)


def test_chance_is_the_mean_over_all_choices() -> None:
    for candidates, right in ((5, 2), (6, 3), (10, 4), (3, 1)):
        truth = set(range(right))
        each = [len(truth & set(c)) / len(truth | set(c)) for c in combinations(range(candidates), right)]
        assert association.chance(candidates, right) == pytest.approx(np.mean(each))


def test_scores_are_means_by_number_of_candidates() -> None:
    zimg = np.eye(12, dtype=np.float32)
    ztxt = {"A five": np.float32([0.9, 0.3, 0.2] + [0] * 9), "A ten": np.float32([0.1] * 2 + [0.5] + [0.3] * 9)}
    ztxt = {text: row / np.linalg.norm(row) for text, row in ztxt.items()}
    puzzles = (Puzzle("five", np.arange(5), np.array([True, False, True, False, False])),
               Puzzle("Ten", np.arange(10), np.array([False, True, True] + [False] * 7)))  # fmt: skip
    figures = association.figures(puzzles, zimg, lambda texts: np.stack([ztxt[text] for text in texts]))
    # five: chosen 0 and 1, right 0 and 2; ten: chosen 2 and one of the others, which outrank candidate 1
    assert figures["jaccard_score_5"] == figures["jaccard_score_5-6"] == pytest.approx(1 / 3)
    assert figures["jaccard_score_10"] == figures["jaccard_score_10-12"] == pytest.approx(1 / 3)
    assert "jaccard_score_12" not in figures and "jaccard_score_6" not in figures
    assert figures["avg_jaccard_score"] == pytest.approx(1 / 3)
    assert figures["jaccard_score_5_chance"] == pytest.approx(association.chance(5, 2))


class Closed(list):
    """Pictures that nobody opens."""

    def describe(self, i: int) -> str:
        """A name."""
        return str(i)


NAMES = ("race:black", "race:white", "race:other", "gender:male", "gender:female", "age:young", "age:old",
         *(f"toxic:{i}" for i in range(20)))  # fmt: skip
COLUMNS = ("age", "gender", "race", "race_binary")


def faces(fields: np.ndarray, names: tuple[str, ...] = NAMES) -> EvalData:
    """Faces with their age, gender, race and race_binary."""
    templates = tuple(f"{question}:a {{}} one" for question in attributes.QUESTIONS)
    return EvalData("attributes", Closed([b""] * len(fields)), "0" * 64, "here", names, templates, fields=fields)


def test_questions_are_answered_by_themselves_and_counted_by_group() -> None:
    axes = {f"a {name.partition(':')[2]} one": row for name, row in zip(NAMES, np.eye(len(NAMES)), strict=True)}
    said = [("black", "male", "old", "3"), ("white", "female", "old", "15"), ("other", "male", "young", "19")]
    zimg = np.stack([sum(axes[f"a {word} one"] for word in words) / 2 for words in said]).astype(np.float32)
    fields = np.array([[1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 1, 0]])  # the third is white and female
    known = {text: row.astype(np.float32) for text, row in axes.items()}
    figures = attributes.figures(zimg, faces(fields), lambda texts: np.stack([known[t] for t in texts]), COLUMNS)
    assert figures["acc_race_avg"] == pytest.approx(2 / 3)  # the third is called non-white
    assert figures["acc_race_race_binary:0"] == 0.5 and figures["acc_race_race_binary:1"] == 1
    assert figures["acc_gender_avg"] == pytest.approx(2 / 3) and figures["acc_age_avg"] == pytest.approx(2 / 3)
    assert figures["acc_gender_x_race:1_gender:1"] == 0.5 and figures["acc_gender_x_race:0_gender:0"] == 1
    assert figures["toxicity_crime_race:1"] == 0.5 and figures["toxicity_nonhuman_race:1"] == 0.5
    assert figures["toxicity_crime_avg"] == pytest.approx(1 / 3) and figures["toxicity_crime_race:0"] == 0


def test_a_question_without_answers_is_refused() -> None:
    few = tuple(name for name in NAMES if not name.startswith("toxic"))
    with pytest.raises(ConfigError, match="class names and templates of 'toxic'"):
        attributes.figures(np.eye(4, dtype=np.float32), faces(np.zeros((4, 4), np.int64), few),
                           lambda texts: np.ones((len(texts), 4), np.float32), COLUMNS)
