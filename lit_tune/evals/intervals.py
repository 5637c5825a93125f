"""How far a score could move with other test pictures (and other seeds): bootstrap intervals."""

import numpy as np
from jaxtyping import Float, Integer, Num, Shaped

LEVEL = 0.95
MANY = 10_000  # queries from which drawing each of them takes seconds
REPEATS = 1000  # resamples; the ends of a 95 % interval rest on 25 of them each


def interval(
    values: Shaped[np.ndarray, "rates q"], clusters: Integer[np.ndarray, " q"], seed: int = 0
) -> Float[np.ndarray, "rates 2"]:
    """The 95 % interval (low, high) of the mean of each row of `values`.

    Whole clusters are drawn with replacement, because captions of one picture stand or fall together.

    Args:
        values: (rates, q) numbers in [0, 1], hits as a rule; several rates of the same queries share the draws.
        clusters: (q,) integers: queries of one picture have one number.
        seed: of the draws; the same seed gives the same interval.
    """
    count = values.shape[1]
    if count < MANY or values.dtype != bool or len(np.unique(clusters)) < count:
        return seeds_interval(values[None], clusters, seed)
    # hits of queries that stand alone: how many a resample holds is a binomial draw, no query is drawn one by one
    means = values.mean(1)
    drawn = np.random.default_rng(seed).binomial(count, means, size=(REPEATS, len(means))) / count
    tail = (1 - LEVEL) / 2
    return _widen_certain(np.quantile(drawn, (tail, 1 - tail), axis=0).T, means, count, tail)


def seeds_interval(
    values: Shaped[np.ndarray, "seeds rates q"], clusters: Integer[np.ndarray, " q"], seed: int = 0
) -> Float[np.ndarray, "rates 2"]:
    """The 95 % interval (low, high) of the mean over runs and queries, both drawn with replacement.

    With few runs the spread between runs is understated: three draws of three runs often repeat one of them.

    Args:
        values: (seeds, rates, q) numbers in [0, 1]; every run answers the same queries.
        clusters: (q,) as in `interval`.
        seed: of the draws.
    """
    sums, sizes = _per_cluster(values, clusters)
    runs, _, count = sums.shape
    rng = np.random.default_rng(seed)
    # one resample at a time: all of them at once would be 1,000 x clusters
    means = np.empty((REPEATS, sums.shape[1]))
    for r in range(REPEATS):
        weights = np.bincount(rng.integers(count, size=count), minlength=count)  # times each cluster was drawn
        drawn = sums[rng.integers(runs, size=runs)] if runs > 1 else sums
        means[r] = (drawn @ weights).mean(0) / (sizes @ weights)
    tail = (1 - LEVEL) / 2
    ends = np.quantile(means, (tail, 1 - tail), axis=0).T  # (rates, 2)
    return _widen_certain(ends, values.mean(axis=(0, 2)), count, tail)


def _per_cluster(
    values: Shaped[np.ndarray, "seeds rates q"], clusters: Integer[np.ndarray, " q"]
) -> tuple[Float[np.ndarray, "seeds rates c"], Float[np.ndarray, " c"]]:
    """(sum of the values of each cluster, queries in each cluster)."""
    index = np.unique(clusters, return_inverse=True)[1].reshape(-1)
    order = np.argsort(index, kind="stable")
    sizes = np.bincount(index)
    starts = np.cumsum(sizes) - sizes
    return np.add.reduceat(values[..., order].astype(np.float64), starts, axis=-1), sizes.astype(np.float64)


def _widen_certain(
    ends: Float[np.ndarray, "rates 2"], means: Num[np.ndarray, " rates"], count: int, tail: float
) -> Float[np.ndarray, "rates 2"]:
    """Give rates of exactly 0 or 1 the exact binomial end: resampling equal values shows no spread at all.

    Source: Clopper and Pearson 1934, for 0 or `count` successes of `count`.
    """
    reach = 1 - tail ** (1 / count)
    ends = np.where((means == 0)[:, None], (0.0, reach), ends)
    return np.where((means == 1)[:, None], (1 - reach, 1.0), ends)
