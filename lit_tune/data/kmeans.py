"""Spherical k-means: unit vectors into groups by cosine. numpy only.

Source: Dhillon and Modha, "Concept Decompositions for Large Sparse Text Data Using Clustering" (Machine Learning 42,
2001); the start is k-means++ (Arthur and Vassilvitskii, SODA 2007) with 1 - cosine as distance.
"""

import numpy as np

ROUNDS = 25  # at most; ends sooner where nothing moves any more
BLOCK = 8_192  # vectors compared with all centroids at a time


def fit(x: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Centroids of unit vectors.

    Args:
        x: float32 (s, d), unit rows.
        k: groups, at most s.
        rng: draws the start.

    Returns:
        float32 (k, d), unit rows.
    """
    centroids = _start(x, k, rng)
    labels = np.full(len(x), -1)
    for _ in range(ROUNDS):
        found, cosines = assign(x, centroids)
        if np.array_equal(found, labels):
            break
        labels = found
        centroids = _means(x, labels, cosines, k)
    return centroids


def assign(x: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(number of the nearest centroid int64 (s,), cosine to it float32 (s,)) of unit vectors (s, d)."""
    labels, cosines = np.empty(len(x), np.int64), np.empty(len(x), np.float32)
    for start in range(0, len(x), BLOCK):
        own = slice(start, start + BLOCK)
        products = x[own] @ centroids.T
        labels[own], cosines[own] = products.argmax(axis=1), products.max(axis=1)
    return labels, cosines


def _start(x: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """k rows of x: of a few drawn in proportion to their distance to the chosen ones, the one that helps most is next.

    Source: the greedy form of k-means++, which Arthur and Vassilvitskii's section 7 recommends in practice.
    """
    tries = 2 + int(np.log(k))
    chosen = [int(rng.integers(len(x)))]
    distance = _distance(x, chosen)[:, 0]
    while len(chosen) < k:
        total = np.cumsum(distance)
        if total[-1] <= 0:  # fewer different rows than groups: the rest starts on copies
            return x[[*chosen, *np.setdiff1d(np.arange(len(x)), chosen)[: k - len(chosen)]]]
        drawn = np.searchsorted(total, rng.random(tries) * total[-1], side="right")
        after = np.minimum(distance[:, None], _distance(x, drawn))  # (s, tries)
        best = int(after.sum(axis=0).argmin())
        distance = after[:, best]
        chosen.append(int(drawn[best]))
        distance[chosen] = 0.0  # rounding must not draw a row twice
    return x[chosen]


def _distance(x: np.ndarray, chosen: np.ndarray | list[int]) -> np.ndarray:
    """1 - cosine of every row to the chosen ones, float64 (s, c), not below 0."""
    return np.maximum(1.0 - (x @ x[chosen].T).astype(np.float64), 0.0)


def _means(x: np.ndarray, labels: np.ndarray, cosines: np.ndarray, k: int) -> np.ndarray:
    """Directions of the groups' sums; an empty group moves to one of the rows that fit worst where they are."""
    order = np.argsort(labels, kind="stable")
    present, first = np.unique(labels[order], return_index=True)
    sums = np.zeros((k, x.shape[1]), np.float32)
    sums[present] = np.add.reduceat(x[order], first, axis=0)
    empty = np.setdiff1d(np.arange(k), present)
    sums[empty] = x[np.argsort(cosines, kind="stable")[: len(empty)]]
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    return sums / np.maximum(length, np.finfo(np.float32).tiny)
