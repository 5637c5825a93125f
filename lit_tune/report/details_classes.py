"""Mistakes and confusions of a task that asks for a picture's class, as JSON values."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from lit_tune.evaldata.dataset import EvalData
from lit_tune.evals.scoring import Answers
from lit_tune.report.details_parts import drawn, number, right_of, short

WORST, RANDOM = 24, 12  # mistakes shown of each kind
PAIRS, CLASSES, MATRIX = 30, 20, 30  # confusions listed, worst classes listed, classes up to which all are counted
OWN = 8  # classes of one picture that are named
ROWS = 4096  # pictures whose scores over all classes are held at a time


def wrong(data: EvalData, answers: Answers) -> Bool[np.ndarray, " n"]:
    """Which pictures are mistakes: no class of their own scores higher than every other one.

    A tie counts against the model, and so does a score that is not a number. A picture without any class asks
    nothing and is no mistake.
    """
    asked = data.labels.any(1) if data.labels.ndim == 2 else np.ones(len(data), bool)
    return ~(answers.margin > 0) & asked


def mistakes(
    data: EvalData, zimg: Float[np.ndarray, "n d"], answers: Answers, thumbnail: Callable[[int], str], seed: int
) -> dict[str, Any]:
    """{"count", "worst": those with the most negative margin, "random": those drawn by seed from all mistakes}."""
    rows = np.flatnonzero(wrong(data, answers))
    # a margin that is not a number comes first: nothing is worse
    worst = rows[np.argsort(np.nan_to_num(answers.margin[rows], nan=-np.inf), kind="stable")[:WORST]]
    random = drawn(rows, RANDOM, np.random.default_rng(seed))
    chosen = {"worst": [int(i) for i in worst], "random": random}
    return {"count": len(rows)} | {
        name: [_mistake(data, zimg[i], answers.ztxt, right_of(data.labels, i), thumbnail(i)) for i in items]
        for name, items in chosen.items()
    }


def _mistake(data: EvalData, zimg: np.ndarray, ztxt: np.ndarray, own: np.ndarray, picture: str) -> dict[str, Any]:
    """One mistake: the picture, its own classes, the best wrong class, and both scores."""
    scores = (ztxt.astype(np.float64) @ zimg.astype(np.float64)).astype(np.float32)  # (c,)
    other = scores.copy()
    other[own] = -np.inf
    predicted = int(other.argmax())
    return {
        "picture": picture,
        "own": [short(data.classnames[c]) for c in own[:OWN]],
        "predicted": short(data.classnames[predicted]),
        "own_score": number(scores[own].max()),
        "predicted_score": number(scores[predicted]),
    }


def confusion(data: EvalData, zimg: Float[np.ndarray, "n d"], answers: Answers) -> dict[str, Any]:
    """{"pairs", "matrix", "recall"} of a task with one class a picture.

    "pairs": the most frequent (true name, predicted name, count, share of the true class's pictures).
    "matrix": {"names", "counts": a row for each true class} up to 30 classes, None above.
    "recall": the worst classes that occur as (name, recall, pictures).
    """
    names, labels, missed = [short(name) for name in data.classnames], data.labels, wrong(data, answers)
    predicted = _answered(zimg, answers, labels, missed)
    sizes = np.bincount(labels, minlength=len(names))
    both, counts = np.unique(labels[missed] * len(names) + predicted[missed], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:PAIRS]
    pairs = [(int(both[k]) // len(names), int(both[k]) % len(names), int(counts[k])) for k in order]
    hits = np.bincount(labels[~missed], minlength=len(names))
    present = np.flatnonzero(sizes)
    recall = hits[present] / sizes[present]
    worst = present[np.lexsort((-sizes[present], recall))[:CLASSES]]  # of equal ones the larger class first
    return {
        "pairs": [[names[a], names[b], count, number(count / sizes[a])] for a, b, count in pairs],
        "matrix": _matrix(names, labels, predicted) if len(names) <= MATRIX else None,
        "recall": [[names[c], number(hits[c] / sizes[c]), int(sizes[c])] for c in worst],
    }


def _answered(zimg: np.ndarray, answers: Answers, labels: np.ndarray, missed: np.ndarray) -> Int[np.ndarray, " n"]:
    """The class that each picture was given; where its own one only ties, the other one."""
    predicted = np.where(missed, answers.predicted, labels)
    tied = np.flatnonzero(missed & (predicted == labels))
    for start in range(0, len(tied), ROWS):
        rows = tied[start : start + ROWS]
        scores = np.asarray(zimg[rows], np.float32) @ answers.ztxt.T  # (rows, c)
        scores[np.arange(len(rows)), labels[rows]] = -np.inf
        predicted[rows] = scores.argmax(1)
    return predicted


def _matrix(names: list[str], labels: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    """All counts, a row for each true class."""
    size = len(names)
    counts = np.bincount(labels * size + predicted, minlength=size * size).reshape(size, size)
    return {"names": names, "counts": counts.tolist()}
