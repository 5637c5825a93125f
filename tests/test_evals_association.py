"""WinoGAViL's scores against hand-worked puzzles and shuffled guesses."""

import numpy as np
import pytest

from lit_tune.evaldata.dataset import Puzzle
from lit_tune.evals import association

PICTURES = np.eye(12, dtype=np.float32)


def puzzle(cue, candidates, right):
    return Puzzle(cue, np.array(candidates), np.isin(candidates, right))


def liking(*order):
    """A cue's vector that likes these pictures in this order, and the others not at all."""
    z = np.zeros(12)
    z[list(order)] = np.arange(len(order), 0, -1)
    return z / np.linalg.norm(z)


def test_scores_are_hand_worked_jaccard_indices_by_number_of_candidates():
    vectors = {"An apple": liking(0, 1), "A moon": liking(4, 0), "A year": liking(7, 8, 9)}
    asked = []

    def embed_text(texts):
        asked.extend(texts)
        return np.stack([vectors[text] for text in texts]).astype(np.float32)

    puzzles = [puzzle("Apple", [0, 1, 2, 3, 4], [0, 1]),  # both chosen: 1
               puzzle("moon", [4, 3, 2, 1, 0], [4, 1]),  # 4 and 0 chosen: 1 of 3
               puzzle("Year", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [0, 1, 7]),  # 7, 8, 9 chosen: 1 of 5
               puzzle("apple", list(range(12)), [2])]  # 0 chosen: nothing  # fmt: skip
    got = association.figures(puzzles, PICTURES, embed_text)
    assert asked == ["An apple", "A moon", "A year"]
    expected = {"avg_jaccard_score": (1 + 1 / 3 + 1 / 5) / 4, "jaccard_score_5": 2 / 3, "jaccard_score_10": 1 / 5,
                "jaccard_score_12": 0, "jaccard_score_5-6": 2 / 3, "jaccard_score_10-12": 1 / 10}  # fmt: skip
    assert {name: got[name] for name in expected} == pytest.approx(expected)
    assert not any(name.startswith("jaccard_score_6") for name in got)  # no such puzzle
    assert got["jaccard_score_12_low"] == 0 < got["jaccard_score_12_high"]
    assert got["avg_jaccard_score_low"] <= got["avg_jaccard_score"] <= got["avg_jaccard_score_high"]


@pytest.mark.parametrize("cue, text", [("Owl", "An owl"), ("hour", "A hour"), ("UNIT", "An unit"), ("y", "A y")])
def test_article_goes_by_the_first_letter_alone(cue, text):
    assert association.prompt(cue) == text


def test_equal_pictures_count_against_the_model():
    right = np.array([True, True, False, False, False])
    assert association.jaccard(np.ones(5, np.float32), right) == 0
    assert association.jaccard(np.array([2, 1, 1, 0, 0], np.float32), right) == pytest.approx(1 / 3)
    assert association.jaccard(np.array([np.nan, 1, 0, 0, 0], np.float32), right) == pytest.approx(1 / 3)
    assert association.jaccard(np.array([3, 2, np.nan, 0, 0], np.float32), right) == pytest.approx(1 / 3)
    same = np.repeat(PICTURES[:1], 12, 0)
    puzzles = [puzzle("x", list(range(10)), [3, 4, 5]), puzzle("y", list(range(5)), [0, 1])]
    got = association.figures(puzzles, same, lambda texts: same[: len(texts)])
    assert got["avg_jaccard_score"] == 0 and got["avg_jaccard_score_chance"] > 0


def test_chance_is_the_mean_of_all_choices():
    # 4 candidates, 2 right: of 6 choices 1 has both (1), 4 one (1/3), 1 none
    assert association.expected_jaccard(4, 2) == pytest.approx((1 + 4 / 3) / 6)
    assert association.expected_jaccard(5, 5) == 1
    rng = np.random.default_rng(0)
    right = np.arange(12) < 3
    drawn = [association.jaccard(rng.random(12).astype(np.float32), right) for _ in range(20_000)]
    error = np.std(drawn) / np.sqrt(len(drawn))
    assert abs(np.mean(drawn) - association.expected_jaccard(12, 3)) < 4 * error
