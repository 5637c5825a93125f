"""WinoGAViL's puzzles: which of a handful of pictures go with a cue? As many are chosen as go with it.

Names, prompt and rule are those of eval_utils/wino_eval.py of github.com/mlfoundations/datacomp (MIT). A puzzle's score
is the Jaccard index of the chosen and the right pictures. Among equal cosines the wrong pictures are chosen first.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from lit_tune.evaldata.dataset import Puzzle
from lit_tune.evals.intervals import interval
from lit_tune.evals.zero_shot import EmbedText

VOWELS = "aeiou"
# name -> which numbers of candidates count
READINGS: dict[str, Callable[[int], bool]] = {
    "avg_jaccard_score": lambda size: True,
    **{f"jaccard_score_{only}": lambda size, only=only: size == only for only in (5, 6, 10, 12)},
    "jaccard_score_5-6": lambda size: size <= 6,
    "jaccard_score_10-12": lambda size: size >= 10,
}


def figures(puzzles: Sequence[Puzzle], zimg: Float[np.ndarray, "n d"], embed_text: EmbedText) -> dict[str, float]:
    """{"avg_jaccard_score", "jaccard_score_5", ..., "jaccard_score_10-12"} as far as there are such puzzles, each with
    _chance (the exact expectation of a random choice) and _low, _high over puzzles.

    Args:
        puzzles: one or more.
        zimg: (n, d) unit rows.
        embed_text: texts to unit rows; asked once with the distinct prompts.
    """
    prompts = list(dict.fromkeys(prompt(puzzle.cue) for puzzle in puzzles))
    cues = dict(zip(prompts, np.asarray(embed_text(prompts), np.float64), strict=True))
    scores = np.array([_puzzle(puzzle, zimg, cues[prompt(puzzle.cue)]) for puzzle in puzzles])
    guesses = np.array([expected_jaccard(len(p.right), int(p.right.sum())) for p in puzzles])
    sizes = [len(p.right) for p in puzzles]
    found: dict[str, float] = {}
    for name, counts in READINGS.items():
        mine = np.array([counts(size) for size in sizes])
        if mine.any():
            low, high = interval(scores[None, mine], np.arange(mine.sum()))[0]
            found |= {name: float(scores[mine].mean()), f"{name}_chance": float(guesses[mine].mean()),
                      f"{name}_low": float(low), f"{name}_high": float(high)}  # fmt: skip
    return found


def prompt(cue: str) -> str:
    """ "An apple", "A werewolf": the cue in lower case after its article, by its first letter alone."""
    word = cue.lower()
    return f"{'An' if word[0] in VOWELS else 'A'} {word}"


def _puzzle(puzzle: Puzzle, zimg: np.ndarray, cue: Float[np.ndarray, " d"]) -> float:
    """The score of one puzzle; cosines are rounded once from float64, so that equal pictures score equal."""
    return jaccard((zimg[puzzle.candidates].astype(np.float64) @ cue).astype(np.float32), puzzle.right)


def jaccard(scores: Float[np.ndarray, " k"], right: np.ndarray) -> float:
    """Jaccard index of the right pictures and as many with the highest scores; NaN is the lowest for a right one."""
    count = int(right.sum())
    worth = np.where(np.isnan(scores), np.where(right, -np.inf, np.inf), scores)
    chosen = np.lexsort((right, -worth))[:count]  # of equal ones the wrong ones first
    both = int(right[chosen].sum())
    return both / (2 * count - both)


def expected_jaccard(size: int, count: int) -> float:
    """Mean Jaccard index of `count` right pictures among `size` and as many chosen at random (hypergeometric)."""
    ways = [math.comb(count, both) * math.comb(size - count, count - both) for both in range(count + 1)]
    return sum(way * both / (2 * count - both) for both, way in enumerate(ways)) / math.comb(size, count)
