"""Numbers about numbers: a summary, a histogram with round edges, what repeats."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

BINS = 24  # about so many bars
TAIL = 99.5  # percentile; what lies far above it shares the last bar
PERCENTILES = {"p5": 5, "median": 50, "p95": 95}
SHAPES = 2.0 ** ((np.arange(26) - 12.5) / 4)  # edges of the aspect ratios: four bars a doubling, one of them around 1


def summary(values: Sequence[float] | np.ndarray) -> dict[str, Any]:
    """`count`, `min`, `p5`, `median`, `p95`, `max` and `mean`; of no values `count` alone.

    Percentiles are values that occur (the lower one of two), as a length of 7.5 tokens is none.
    """
    array = np.asarray(values)
    if not len(array):
        return {"count": 0}
    found = np.percentile(array, list(PERCENTILES.values()), method="lower")
    middle = dict(zip(PERCENTILES, found.tolist(), strict=True))
    return {"count": len(array), "min": array.min().item(), **middle, "max": array.max().item(),
            "mean": float(array.mean())}  # fmt: skip


def histogram(values: Sequence[float] | np.ndarray, edges: np.ndarray | None = None) -> dict[str, list[float]]:
    """`edges` (n + 1) and `counts` (n,); bars are half-open [low, high), the last one closed.

    Args:
        values: finite numbers.
        edges: rising; round ones that suit the values if absent. Those beyond the values are left out, and the outer
            ones moved outwards where values lie beyond, so that every value is counted.
    """
    array = np.asarray(values)
    if not len(array):
        return {"edges": [], "counts": []}
    edges = round_edges(array) if edges is None else edges
    last = np.clip(np.searchsorted(edges, array.max(), "right"), 1, len(edges) - 1)
    first = np.clip(np.searchsorted(edges, array.min(), "right") - 1, 0, last - 1)
    edges = np.array(edges[first : last + 1], np.float64)
    edges[0], edges[-1] = min(edges[0], array.min()), max(edges[-1], array.max())
    return {"edges": edges.tolist(), "counts": np.histogram(array, edges)[0].tolist()}


def round_edges(values: np.ndarray) -> np.ndarray:
    """About BINS edges a round step (1, 2 or 5 times a power of ten, at least 1) apart, up to the TAIL percentile."""
    low, high = float(values.min()), float(np.percentile(values, TAIL, method="higher"))
    power = 10.0 ** math.floor(math.log10(max((high - low) / BINS, 1)))
    step = next(m * power for m in (1, 2, 5, 10) if m * power * BINS >= high - low)
    first, last = math.floor(low / step), math.floor(high / step) + 1
    return np.arange(first, last + 1) * step


def repeats(digests: Sequence[int] | np.ndarray, top: int) -> dict[str, Any]:
    """What occurs more than once.

    Args:
        digests: one number below 2**64 an item; equal for equal items.
        top: how many of the most frequent ones to name.

    Returns:
        `count`, `distinct`, `repeated` (items equal to an earlier one), `share` of those, and `most`: [(times, place of
        the first one)], most frequent first, of equal ones the earlier first.
    """
    array = np.asarray(digests, np.uint64)
    _, first, times = np.unique(array, return_index=True, return_counts=True)
    order = np.lexsort((first, -times))[:top]
    most = [(int(times[i]), int(first[i])) for i in order if times[i] > 1]
    repeated = len(array) - len(times)
    return {"count": len(array), "distinct": len(times), "repeated": repeated,
            "share": repeated / max(len(array), 1), "most": most}  # fmt: skip
