"""Where pictures and texts lie beside each other: the two directions of largest spread, as JSON values."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from lit_tune.evaldata.dataset import EvalData
from lit_tune.evals.plane import principal
from lit_tune.report.details_pairs import numbered
from lit_tune.report.details_parts import number, right_of, short

POINTS, PAIRS = 1500, 40  # of each modality, joined by a line
ROWS = 16_384  # vectors that are summed at a time


def collect(
    data: EvalData, zimg: Float[np.ndarray, "n d"], ztxt: Float[np.ndarray, "m d"], seed: int
) -> dict[str, Any]:
    """{"raw", "centred", "pairs", "pictures", "texts"}: both modalities together in two dimensions.

    "raw" and "centred" (each modality's mean taken off) hold "pictures" and "texts" (x, y), "centres" of the two,
    "gap" and "explained": the share of the spread along each of the two directions. "gap" is the distance of the
    centroids of all pictures and all texts in the whole space. "pairs" are (point of a picture, point of a text of
    its own, that text); "pictures" and "texts" count all there are, of which at most 1,500 each are drawn.
    """
    rng = np.random.default_rng(seed)
    images = np.sort(rng.permutation(len(zimg))[:POINTS])
    own, names = _own_texts(data, images, rng)
    # many texts: those of the pictures that are drawn, so that there are pairs
    texts = np.arange(len(ztxt)) if len(ztxt) <= POINTS else np.unique(own[own >= 0])
    pairs = _pairs(own, texts, names, rng)
    shown = [np.asarray(zimg[images], np.float64), np.asarray(ztxt[texts], np.float64)]
    means = [_mean(zimg), _mean(ztxt)]
    centred = [_centred(part) for part in shown]
    return {
        "raw": _flat(shown) | {"gap": number(np.linalg.norm(means[0] - means[1]))},
        "centred": _flat(centred) | {"gap": 0.0},
        "pairs": pairs,
        "pictures": len(zimg),
        "texts": len(ztxt),
    }


def _own_texts(
    data: EvalData, images: Int[np.ndarray, " p"], rng: np.random.Generator
) -> tuple[Int[np.ndarray, " p"], tuple[str, ...]]:
    """(a text of each picture's own drawn by seed, -1 where it has none; what all texts say)."""
    if data.kind == "retrieval":
        names, owner, _ = numbered(data.captions)
        first, last = (np.searchsorted(owner, images, side=side) for side in ("left", "right"))
        return first + rng.integers(0, last - first), names
    rights = [right_of(data.labels, int(i)) for i in images]
    return np.array([rng.choice(right) if len(right) else -1 for right in rights], np.int64), data.classnames


def _pairs(own: np.ndarray, texts: np.ndarray, names: tuple[str, ...], rng: np.random.Generator) -> list[list[Any]]:
    """(point of a picture, point of its text, the text) of at most 40 pictures drawn by seed."""
    drawn = rng.permutation(np.flatnonzero(own >= 0))[:PAIRS]
    return [[int(i), int(np.searchsorted(texts, own[i])), short(names[own[i]])] for i in drawn]


def _mean(z: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " d"]:
    """The centroid, a slice at a time."""
    total = sum(np.sum(z[start : start + ROWS], 0, dtype=np.float64) for start in range(0, len(z), ROWS))
    return total / len(z)


def _centred(part: Float[np.ndarray, "p d"]) -> Float[np.ndarray, "p d"]:
    """The vectors without the mean of the finite ones: one that is no number must not move the rest."""
    finite = np.isfinite(part).all(1)
    return part - part[finite].mean(0) if finite.any() else part


def _flat(parts: list[np.ndarray]) -> dict[str, Any]:
    """{"pictures", "texts", "centres", "explained"} in the two directions of largest spread of both together."""
    plane = principal(parts)
    flat = [np.where(np.abs(part) < 5e-5, 0.0, part) for part in plane.points]
    return {
        "pictures": flat[0].round(4).tolist(),
        "texts": flat[1].round(4).tolist(),
        "centres": [part.mean(0).round(4).tolist() for part in flat],
        "explained": [number(share) for share in plane.explained],
    }
