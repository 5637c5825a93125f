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

TINY = np.finfo(np.float32).tiny
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
    """95 % bootstrap interval of `per_class_recall` over pictures; a class that is not drawn does not count.

    A resample is a multinomial draw over (class, hit or miss), so no picture is drawn one by one.
    """
    cells, counts = np.unique(2 * labels.astype(np.int64) + hits, return_counts=True)
    starts = np.flatnonzero(np.diff(cells // 2, prepend=-1))  # the first cell of each class
    drawn = np.random.default_rng(seed).multinomial(len(labels), counts / len(labels), size=REPEATS)
    pictures = np.add.reduceat(drawn, starts, axis=1)  # (resamples, classes)
    right = np.add.reduceat(drawn * (cells % 2), starts, axis=1)
    means = (right / np.maximum(pictures, 1)).sum(1) / (pictures > 0).sum(1)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    if hits.all() or not hits.any():  # equal values show no spread: the exact binomial end, as in `intervals`
        reach = 1 - tail ** (1 / len(labels))
        return (float(1 - reach), 1.0) if hits.all() else (0.0, float(reach))
    return float(low), float(high)


def answers(
    zimg: Float[np.ndarray, "n d"], classes: Float[np.ndarray, "c d"], right: Bool[np.ndarray, "n c"] | None,
    labels: Integer[np.ndarray, " n"] | None = None, hits: Bool[np.ndarray, " n"] | None = None,
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:  # fmt: skip
    """(best class of each picture, its best right score minus its best wrong one).

    The best class is a wrong one where a right and a wrong one tie. A picture without a right class has a margin of 0.

    Args:
        zimg: (n, d) unit rows.
        classes: (c, d) unit rows.
        right: (n, c) the right classes; None where `labels` names one each.
        labels: (n,) the right class.
        hits: (n,) whether the right class is first, where that is known exactly: float32 products end ties by chance.
    """
    predicted, margin = np.empty(len(zimg), np.int64), np.empty(len(zimg), np.float32)
    for start in range(0, len(zimg), ROWS):
        here = slice(start, start + ROWS)
        scores = np.asarray(zimg[here], np.float32) @ classes.T  # (rows, c)
        good = np.arange(len(classes)) == labels[here, None] if right is None else right[here]
        own, other = np.where(good, scores, -np.inf), np.where(good, -np.inf, scores)
        margin[here] = np.where(good.any(1), own.max(1) - other.max(1, initial=-2), 0)
        won = margin[here] > 0 if hits is None else hits[here]
        predicted[here] = np.where(won, own.argmax(1), other.argmax(1))
        if hits is not None:
            # a tie that rounding made a win, or the other way round, has the sign of the exact answer
            margin[here] = np.where(won, np.maximum(margin[here], TINY), np.minimum(margin[here], 0))
    return predicted, margin


def classified(
    zimg: Float[np.ndarray, "n d"], classes: Float[np.ndarray, "c d"], labels: Integer[np.ndarray, " n"]
) -> tuple[Found, Mapping[str, float]]:
    """(the ranks, the figures) of pictures among class vectors."""
    found = classify(zimg, classes, labels)
    return found, metrics(found, labels)
