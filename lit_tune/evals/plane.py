"""Vectors of several kinds in the two directions in which all of them together spread most, to be drawn."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Plane(NamedTuple):
    """Groups of vectors in two dimensions.

    Attributes:
        points: (p, 2) of each group, about the mean of all vectors.
        explained: the share of the spread along each of the two directions; 0 where there is none.
    """

    points: list[Float[np.ndarray, "_ 2"]]
    explained: Float[np.ndarray, " 2"]


def principal(groups: Sequence[Float[np.ndarray, "_ d"]]) -> Plane:
    """The first two principal components of all groups together, each group by itself.

    A direction's sign is such that its largest part is positive, so the same vectors give the same picture. Vectors
    with a number that is not finite lie in the middle.
    """
    both = np.concatenate([np.asarray(group, np.float64) for group in groups])
    both = np.where(np.isfinite(both).all(1, keepdims=True), both, 0.0)
    both -= both.mean(0)
    spread, directions = np.linalg.eigh(both.T @ both)  # ascending
    axes = np.zeros((both.shape[1], 2))
    axes[:, : min(2, both.shape[1])] = directions[:, ::-1][:, :2]
    axes *= np.where(np.take_along_axis(axes, np.abs(axes).argmax(0)[None], 0) < 0, -1, 1)
    total = spread.sum()
    shares = np.append(spread[::-1], 0.0)[:2] / total if total > 1e-9 * len(both) else np.zeros(2)
    return Plane(np.split(both @ axes, np.cumsum([len(group) for group in groups])[:-1]), shares)
