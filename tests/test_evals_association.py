"""WinoGAViL's puzzles where pictures are equal or vectors are broken, and chance against shuffling."""

import numpy as np
import pytest

from lit_tune.evaldata.dataset import Puzzle
from lit_tune.evals import association


def puzzle(cue: str, size: int, right: list[int]) -> Puzzle:
    """A puzzle over the first pictures."""
    return Puzzle(cue, np.arange(size), np.isin(np.arange(size), right))


def test_equal_pictures_score_0() -> None:
    z = np.random.default_rng(0).normal(size=384)
    same = np.repeat((z / np.linalg.norm(z))[None].astype(np.float32), 12, 0)
    puzzles = [puzzle("x", 10, [3, 4, 5]), puzzle("y", 5, [0, 1]), puzzle("z", 12, [2, 11])]
    figures = association.figures(puzzles, same, lambda texts: same[: len(texts)])
    assert figures["avg_jaccard_score"] == figures["jaccard_score_10-12"] == 0 < figures["avg_jaccard_score_chance"]
    assert figures["avg_jaccard_score_low"] == 0 < figures["avg_jaccard_score_high"]


def test_scores_that_are_not_numbers_count_against_the_model() -> None:
    right = np.array([True, True, False, False])
    for scores, both in (([np.nan, 1, 0, 0], 1), ([3, 2, np.nan, 0], 1), ([3, 2, 1, 0], 2)):
        picked = association.chosen(np.float32(scores), right)
        assert (picked & right).sum() == both


def test_chance_is_what_shuffled_pictures_score() -> None:
    rng = np.random.default_rng(0)
    right = np.arange(12) < 3
    drawn = [association.jaccard(association.chosen(rng.random(12).astype(np.float32), right), right)
             for _ in range(20_000)]  # fmt: skip
    error = np.std(drawn) / np.sqrt(len(drawn))
    assert abs(np.mean(drawn) - association.chance(12, 3)) < 4 * error
    assert association.chance(5, 5) == pytest.approx(1)
