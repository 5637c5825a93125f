"""Pictures and texts in one index, as one would search them: does a query find the other modality at all?

A shared space where every text lies nearer to every text than to any picture still scores well when only pictures are
looked at. Here a query looks among both. Centred: each modality's mean is taken away and rows are made unit again.
"""

import numpy as np
from jaxtyping import Float, Integer
from scipy import sparse

from lit_tune.evals.retrieval import KS, hit_probability, products
from lit_tune.evals.zero_shot import unit

SCORES, COLUMNS = 1 << 25, 8192  # float32 scores held at a time, and candidates multiplied at a time
MOST = 2_500  # queries of each modality, a sample by seed where there are more: an interval of 2 points, seconds
LOOK = 10  # answers whose modality is counted


def metrics(
    zimg: Float[np.ndarray, "n d"], ztxt: Float[np.ndarray, "m d"], owner: Integer[np.ndarray, " m"],
    group: Integer[np.ndarray, " m"],
) -> dict[str, float]:  # fmt: skip
    """Figures of the one index, and of the centred one with `_centred`.

    `mixed_image_retrieval_recall@K`: a caption finds its picture among all pictures and all captions of other pictures.
    `mixed_text_retrieval_recall@K`: a picture finds a caption of its own among all captions and all other pictures.
    `mixed_same_modality@10`: share of the first ten answers that are of the query's own modality, both directions'
    mean, with the share of that modality in the index as `_chance`. `modality_gap`: distance of the two centroids, its
    `_chance` that of groups of the same sizes drawn from all vectors.

    Args: as for `recall.metrics`. Ties count against the model.
    """
    zimg, ztxt = np.asarray(zimg, np.float32), np.asarray(ztxt, np.float32)
    figures = _figures(zimg, ztxt, owner, group)
    centred = _figures(unit(zimg - zimg.mean(0)), unit(ztxt - ztxt.mean(0)), owner, group)
    return figures | {f"{name}_centred": value for name, value in centred.items() if not name.endswith("_chance")}


def gap(zimg: Float[np.ndarray, "n d"], ztxt: Float[np.ndarray, "m d"]) -> float:
    """The distance of the two centroids, from 0 to 2.

    Source: Liang et al. 2022, "Mind the gap" (arXiv 2203.02053), section 2.
    """
    return float(np.linalg.norm(np.mean(zimg, 0, dtype=np.float64) - np.mean(ztxt, 0, dtype=np.float64)))


def gap_chance(zimg: Float[np.ndarray, "n d"], ztxt: Float[np.ndarray, "m d"]) -> float:
    """What `gap` would be if nothing told the modalities apart: the root of the mean square over all ways to cut the
    same vectors into groups of these sizes, by formula.
    """
    n, m = len(zimg), len(ztxt)
    squares = sum(np.einsum("nd,nd->", z, z, dtype=np.float64) for z in (zimg, ztxt))
    mean = (zimg.sum(0, dtype=np.float64) + ztxt.sum(0, dtype=np.float64)) / (n + m)
    variance = max(squares - (n + m) * mean @ mean, 0.0) / (n + m - 1)  # of all directions together
    return float(np.sqrt(variance * (1 / n + 1 / m)))


def gap_figures(zimg: Float[np.ndarray, "n d"], ztxt: Float[np.ndarray, "m d"]) -> dict[str, float]:
    """`modality_gap` with its chance."""
    return {"modality_gap": gap(zimg, ztxt), "modality_gap_chance": gap_chance(zimg, ztxt)}


def _figures(zimg: np.ndarray, ztxt: np.ndarray, owner: np.ndarray, group: np.ndarray) -> dict[str, float]:
    """The figures of one pair of sets of vectors."""
    n, m = len(zimg), len(ztxt)
    right = _right(owner, group, n)  # (m, n): pictures that a caption is right for
    texts, images = _sample(m), _sample(n)
    siblings = (right[texts] @ right.T).tocsr()  # captions of the same pictures, itself among them: not asked for
    found, same = _search(ztxt[texts], zimg, ztxt, right[texts], siblings)
    own = right.T.tocsr()
    back, alike = _search(zimg[images], ztxt, zimg, own[images], sparse.eye_array(n, format="csr")[images])
    figures = _recalls("mixed_image_retrieval_recall", found, right[texts].sum(1), n + m - siblings.astype(bool).sum(1))
    figures |= _recalls("mixed_text_retrieval_recall", back, own[images].sum(1), np.full(len(images), n + m - 1))
    chance = (len(texts) * m + len(images) * n) / (n + m)
    queries = len(texts) + len(images)
    return figures | gap_figures(zimg, ztxt) | {
        "mixed_queries": float(queries),
        f"mixed_same_modality@{LOOK}": float((same.sum() + alike.sum()) / queries),
        f"mixed_same_modality@{LOOK}_chance": float(chance / queries),
    }


def _recalls(name: str, ranks: np.ndarray, right: np.ndarray, candidates: np.ndarray) -> dict[str, float]:
    """{name@K, with its chance}: `right` of `candidates` answers are right for each query."""
    figures: dict[str, float] = {}
    for k in KS:
        chance = hit_probability(np.zeros_like(right), candidates - right, right, k)
        figures |= {f"{name}@{k}": float((ranks < k).mean()), f"{name}@{k}_chance": float(chance.mean())}
    return figures


def _right(owner: np.ndarray, group: np.ndarray, pictures: int) -> sparse.csr_array:
    """(m, n) which pictures each caption is right for: those that own it or one of the same text."""
    ones, texts = np.ones(len(owner), np.int32), int(group.max()) + 1
    of_text = sparse.csr_array((ones, (np.arange(len(owner)), group)), (len(owner), texts))
    owns = sparse.csr_array((ones, (group, owner)), (texts, pictures))
    return (of_text @ owns).tocsr()


def _sample(count: int) -> np.ndarray:
    """Numbers of the queries that are asked."""
    if count <= MOST:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, MOST, replace=False))


def _search(
    queries: np.ndarray, others: np.ndarray, same: np.ndarray, right: sparse.csr_array, left_out: sparse.csr_array
) -> tuple[np.ndarray, np.ndarray]:
    """(wrong answers at or above each query's best right one, share of its first ten that are of its own modality).

    Args:
        queries: (q, d).
        others: the other modality's vectors, among which the right answers are.
        same: the query's own modality's.
        right: (q, others).
        left_out: (q, same), not in the index for this query.
    """
    ranks, shares = np.empty(len(queries), np.int64), np.empty(len(queries))
    rows = max(1, SCORES // (len(others) + len(same)))
    for start in range(0, len(queries), rows):
        here = slice(start, start + rows)
        across, within = _scores(queries[here], others), _scores(queries[here], same)
        good, out = right[here].toarray() > 0, left_out[here].toarray() > 0
        best = np.where(good, across, -np.inf).max(1, keepdims=True)
        within[out] = -np.inf
        # "not lower": scores that are not numbers count against the model
        wrong = (~(across < best) & ~good).sum(1) + (~(within < best) & ~out).sum(1)
        ranks[here] = wrong
        shares[here] = _share(across, within)
    return ranks, shares


def _share(across: np.ndarray, within: np.ndarray) -> np.ndarray:
    """Share of the first answers that are of the query's own modality; of equal ones those come first."""
    look = min(LOOK, across.shape[1] + np.isfinite(within).sum(1).min())
    both = np.concatenate([within, across], 1)
    last = np.partition(both, both.shape[1] - look, axis=1)[:, -look, None]  # score of the tenth answer
    above = (within > last).sum(1)
    room = look - above - (across > last).sum(1)
    return (above + np.minimum((within == last).sum(1), room)) / look


def _scores(queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """float32 (q, c), a block of candidates in float64 at a time."""
    scores = np.empty((len(queries), len(candidates)), np.float32)
    for start in range(0, len(candidates), COLUMNS):
        scores[:, start : start + COLUMNS] = products(queries, candidates[start : start + COLUMNS])
    return scores
