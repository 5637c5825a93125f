"""Retrieval between pictures and captions: recall at 1, 5 and 10 both ways, and their means, as clip_benchmark names
them. A query is a hit at K if any right answer is among its first K.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Integer

from lit_tune.evals.intervals import interval
from lit_tune.evals.retrieval import KS, Found, find
from lit_tune.evals.tiles import Products

DIRECTIONS = ("image_retrieval", "text_retrieval")  # text to image, image to text


def owners(captions: Sequence[Sequence[str]]) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    """(picture of each caption, number of each caption's text): captions in the order of their pictures."""
    owner = np.repeat(np.arange(len(captions)), [len(own) for own in captions])
    texts = np.array([text for own in captions for text in own], dtype=object)
    return owner, np.unique(texts, return_inverse=True)[1].reshape(-1)


def metrics(
    zimg: Float[np.ndarray, "n d"], ztxt: Float[np.ndarray, "m d"], owner: Integer[np.ndarray, " m"],
    group: Integer[np.ndarray, " m"], products: Products | None = None,
) -> dict[str, float]:  # fmt: skip
    """{"image_retrieval_recall@K", "text_retrieval_recall@K", "mean_recall@K"}, each with _chance, _low, _high.

    Equal captions are right for each other's pictures. Where pictures share one, clip_benchmark's figures, which count
    that as a mistake, stand beside with `_unmerged`, and `equal_captions` says how many captions are concerned.

    Args:
        zimg: (n, d) unit rows.
        ztxt: (m, d) unit rows.
        owner: (m,) picture of each caption.
        group: (m,) equal for equal captions.
        products: as for `retrieval.find`.
    """
    figures = _figures(find(zimg, ztxt, owner, group, products=products), owner)
    pairs = np.unique(np.stack([owner, group]), axis=1)
    shared = np.bincount(pairs[1]) > 1  # texts that several pictures have
    if shared.any():
        apart = _figures(find(zimg, ztxt, owner, np.arange(len(owner)), products=products), owner)
        figures |= {f"{name}_unmerged": value for name, value in apart.items() if name.rpartition("@")[2].isdigit()}
        figures["equal_captions"] = float(shared[group].sum())
    return figures


def _figures(found: tuple[Found, Found], owner: Integer[np.ndarray, " m"]) -> dict[str, float]:
    """All rates of the two directions, with what belongs beside them."""
    figures: dict[str, float] = {}
    for direction, part, clusters in zip(DIRECTIONS, found, (owner, np.arange(owner.max() + 1)), strict=True):
        figures |= rates(f"{direction}_recall@", part, KS, clusters)
    return figures | _means(found, owner)


def rates(prefix: str, found: Found, ks: Sequence[int], clusters: Integer[np.ndarray, " q"]) -> dict[str, float]:
    """{prefix + K: share of queries with a right answer among the first K}, each with _chance, _low, _high.

    Args:
        prefix: of the names.
        found: ranks of q queries.
        ks: each K.
        clusters: (q,) as for `intervals.interval`.
    """
    hits = np.stack([found.hits(k) for k in ks])
    figures: dict[str, float] = {}
    for k, row, (low, high) in zip(ks, hits, interval(hits, clusters), strict=True):
        figures |= {f"{prefix}{k}": float(row.mean()), f"{prefix}{k}_chance": float(found.chance(k).mean()),
                    f"{prefix}{k}_low": float(low), f"{prefix}{k}_high": float(high)}  # fmt: skip
    return figures


def _means(found: tuple[Found, Found], owner: Integer[np.ndarray, " m"]) -> dict[str, float]:
    """The mean of both directions, its interval over pictures: each stands with its captions."""
    to_image, to_text = found
    counts = np.bincount(owner)
    figures: dict[str, float] = {}
    for k in KS:
        # each picture's share of the mean: its own hit, and its captions' by their part of all captions
        captions = np.bincount(owner, weights=to_image.hits(k)) * len(counts) / len(owner)
        each = (captions + to_text.hits(k)) / 2
        name = f"mean_recall@{k}"
        chance = (to_image.chance(k).mean() + to_text.chance(k).mean()) / 2
        low, high = _spread(each)
        mean = (to_image.hits(k).mean() + to_text.hits(k).mean()) / 2
        figures |= {name: float(mean), f"{name}_chance": float(chance), f"{name}_low": low, f"{name}_high": high}
    return figures


def _spread(each: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """95 % interval of a mean over pictures; never beyond 0 and 1."""
    low, high = interval(each[None], np.arange(len(each)))[0]
    return max(float(low), 0.0), min(float(high), 1.0)
