"""Any number of classes a picture: average precision of each class over all pictures, and their mean.

Source: average_precision_per_class of clip_benchmark 1.6 (after torchnet): precision at each positive, summed and
divided by the number of positives; a class without positives counts 0. Ties count against the model here: among equal
scores the negatives come first.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from lit_tune.evals.intervals import LEVEL

RESAMPLES = 200  # each sorts nothing: the order of the pictures is known


def metrics(
    zimg: Float[np.ndarray, "n d"], classes: Float[np.ndarray, "c d"], labels: Bool[np.ndarray, "n c"]
) -> dict[str, float]:
    """{"mean_average_precision", "..._chance", "..._low", "..._high"}.

    Chance is the mean share of positives: what a random order gives to within about 1/n.

    Args:
        zimg: (n, d) unit rows.
        classes: (c, d) unit rows.
        labels: (n, c) the classes of each picture.
    """
    z, wide = np.asarray(zimg, np.float64), classes.astype(np.float64)
    order = [ranking((z @ wide[c]).astype(np.float32), labels[:, c]) for c in range(len(classes))]
    ones = np.ones(len(labels))
    drawn = np.random.default_rng(0).multinomial(len(labels), ones / len(labels), size=RESAMPLES)
    means = [mean_precision(order, labels, weights) for weights in drawn]
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    return {"mean_average_precision": mean_precision(order, labels, ones),
            "mean_average_precision_chance": float(labels.mean()),
            "mean_average_precision_low": float(low), "mean_average_precision_high": float(high)}  # fmt: skip


def ranking(scores: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Pictures in the order of their score, best first; of equal ones those without the class first.

    NaN is the lowest score of a picture with the class and the highest of one without.
    """
    worth = np.where(np.isnan(scores), np.where(right, -np.inf, np.inf), scores)
    return np.lexsort((right, -worth))


def mean_precision(
    order: list[np.ndarray], labels: Bool[np.ndarray, "n c"], weights: Float[np.ndarray, " n"] | Int[np.ndarray, " n"]
) -> float:
    """The mean over classes of the average precision, each picture counted `weights` times."""
    return float(np.mean([_precision(labels[ranked, c], weights[ranked]) for c, ranked in enumerate(order)]))


def _precision(right: Bool[np.ndarray, " n"], weights: np.ndarray) -> float:
    """Average precision of one class; `right` and `weights` in the order of the scores."""
    found, seen = np.cumsum(right * weights), np.cumsum(weights)
    precision = np.divide(found, seen, out=np.zeros(len(right)), where=seen > 0)
    return float((precision * right * weights).sum() / max((right * weights).sum(), 1))
