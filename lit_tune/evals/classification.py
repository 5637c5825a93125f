"""Zero-shot classification: the class of a picture is the one whose class vector is nearest.

Names and definitions are clip_benchmark's: `acc1`, `acc5`, `mean_per_class_recall`.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from lit_tune.evals.intervals import LEVEL, REPEATS
from lit_tune.evals.recall import rates
from lit_tune.evals.retrieval import Found
from lit_tune.evals.zero_shot import classify

ROWS = 4096  # pictures whose scores over all classes are held at a time


def metrics(found: Found, labels: Integer[np.ndarray, " n"]) -> dict[str, float]:
    """{"acc1", "acc5" with 5 or more classes, "mean_per_class_recall"}, each with _chance, _low, _high; acc1 with the
    floor of always answering the most frequent class.

    `mean_per_class_recall` is the mean over the classes that occur (scikit-learn's balanced_accuracy_score).

    Args:
        found: as from `zero_shot.classify`.
        labels: (n,) class of each picture.
    """
    hits = found.hits(1)
    figures = rates("acc", found, (1, 5) if found.candidates >= 5 else (1,), np.arange(len(labels)))
    counts = np.bincount(labels)
    figures["acc1_floor_majority"] = float(counts.max() / counts.sum())
    low, high = _recall_interval(hits, labels)
    return figures | {"mean_per_class_recall": per_class_recall(hits, labels),
                      "mean_per_class_recall_chance": figures["acc1_chance"],
                      "mean_per_class_recall_low": low, "mean_per_class_recall_high": high}  # fmt: skip


def per_class_recall(hits: Bool[np.ndarray, " n"], labels: Integer[np.ndarray, " n"]) -> float:
    """The share of hits averaged over the classes that occur."""
    counts = np.bincount(labels)
    present = counts > 0
    return float((np.bincount(labels, weights=hits)[present] / counts[present]).mean())


def _recall_interval(
    hits: Bool[np.ndarray, " n"], labels: Integer[np.ndarray, " n"], seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval of `per_class_recall`: pictures are drawn anew within each class.

    The hits of a class in a resample are binomial, so no picture is drawn one by one.
    """
    counts = np.bincount(labels)
    present = counts > 0
    rates = np.bincount(labels, weights=hits)[present] / counts[present]
    drawn = np.random.default_rng(seed).binomial(counts[present], rates, size=(REPEATS, present.sum()))
    tail = (1 - LEVEL) / 2
    low, high = np.quantile((drawn / counts[present]).mean(1), (tail, 1 - tail))
    return float(low), float(high)


def answers(
    zimg: Float[np.ndarray, "n d"], classes: Float[np.ndarray, "c d"], right: Bool[np.ndarray, "n c"] | None,
    labels: Integer[np.ndarray, " n"] | None = None,
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:  # fmt: skip
    """(best class of each picture, its best right score minus its best wrong one).

    Args:
        zimg: (n, d) unit rows.
        classes: (c, d) unit rows.
        right: (n, c) the right classes; None where `labels` names one each.
        labels: (n,) the right class.
    """
    predicted, margin = np.empty(len(zimg), np.int64), np.empty(len(zimg), np.float32)
    for start in range(0, len(zimg), ROWS):
        here = slice(start, start + ROWS)
        scores = np.asarray(zimg[here], np.float32) @ classes.T  # (rows, c)
        good = np.eye(len(classes), dtype=bool)[labels[here]] if right is None else right[here]
        predicted[here] = scores.argmax(1)
        margin[here] = np.where(good, scores, -np.inf).max(1) - np.where(good, -np.inf, scores).max(1, initial=-2)
    return predicted, margin


def classified(
    zimg: Float[np.ndarray, "n d"], classes: Float[np.ndarray, "c d"], labels: Integer[np.ndarray, " n"]
) -> tuple[Found, Mapping[str, float]]:
    """(the ranks, the figures) of pictures among class vectors."""
    found = classify(zimg, classes, labels)
    return found, metrics(found, labels)
