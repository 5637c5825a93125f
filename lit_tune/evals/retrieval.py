"""Retrieval recall between pictures and captions: exact, in bounded memory, with ties counted against the model."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from lit_tune.errors import explain

KS = (1, 5, 10)
TILE = (2048, 4096)  # queries x candidates compared at a time: 64 MiB of float64 scores
SLICE = 16_384  # candidates of a handful of queries: 100 MB of float64 rows at a width of 768


@dataclass(frozen=True)
class Found:
    """Where the best right answer of each of q queries stands among its candidates.

    Attributes:
        above: int64 (q,), wrong answers that score higher.
        tied: int64 (q,), wrong answers with exactly the same score (or a score that is not a number).
        tied_right: int64 (q,), right answers with that score, the best one included.
        right: int64 (q,), right answers in all.
        candidates: number of answers to choose from.
    """

    above: Int[np.ndarray, " q"]
    tied: Int[np.ndarray, " q"]
    tied_right: Int[np.ndarray, " q"]
    right: Int[np.ndarray, " q"]
    candidates: int

    @property
    def ranks(self) -> Int[np.ndarray, " q"]:
        """Wrong answers before the best right one, ties counted against us; 0 is a perfect answer."""
        return self.above + self.tied

    def hits(self, k: int) -> Bool[np.ndarray, " q"]:
        """Whether a right answer is among the first k, ties counted against us."""
        return self.ranks < k

    def expected(self, k: int) -> Float[np.ndarray, " q"]:
        """Probability that a right answer is among the first k when tied answers come in random order."""
        return hit_probability(self.above, self.tied, self.tied_right, k)

    def chance(self, k: int) -> Float[np.ndarray, " q"]:
        """Probability that a right answer is among the first k when all candidates come in random order."""
        return hit_probability(np.zeros_like(self.right), self.candidates - self.right, self.right, k)

    def only(self, keep: Bool[np.ndarray, " all"]) -> "Found":
        """The same for the queries that `keep` marks; their candidates stay all candidates."""
        return Found(self.above[keep], self.tied[keep], self.tied_right[keep], self.right[keep], self.candidates)


def hit_probability(
    above: Int[np.ndarray, " q"], wrong: Int[np.ndarray, " q"], right: Int[np.ndarray, " q"], k: int
) -> Float[np.ndarray, " q"]:
    """Chance that the first k answers hold a right one, if `above` wrong ones come first and the rest is shuffled.

    Exact (hypergeometric): 1 - C(wrong, k') / C(wrong + right, k') with k' = k - above.

    Args:
        above: (q,) wrong answers that come first for certain.
        wrong: (q,) wrong answers in the shuffled part.
        right: (q,) right answers in the shuffled part, at least 1.
        k: how many answers are looked at.
    """
    draws = k - above
    miss = np.ones(above.shape)
    for i in range(k):
        left = np.maximum(wrong + right - i, 1)
        miss *= np.where(i < draws, np.maximum(wrong - i, 0) / left, 1.0)
    return 1.0 - miss


def retrieval(
    zimg: Float[np.ndarray, "n d"],
    ztxt: Float[np.ndarray, "m d"],
    owner: Integer[np.ndarray, " m"],
    caption_group: Integer[np.ndarray, " m"],
) -> dict[str, float]:
    """{"image_retrieval_recall@K": text to image, "text_retrieval_recall@K": image to text, each + "_chance"}.

    Arguments as for `find`, which also tells the rank of every query. All values are fractions in [0, 1].
    """
    found = find(zimg, ztxt, owner, caption_group)
    metrics = {}
    for name, direction in zip(("image_retrieval", "text_retrieval"), found, strict=True):
        for k in KS:
            metrics[f"{name}_recall@{k}"] = float(direction.hits(k).mean())
            metrics[f"{name}_recall@{k}_chance"] = float(direction.chance(k).mean())
    return metrics


def find(
    zimg: Float[np.ndarray, "n d"],
    ztxt: Float[np.ndarray, "m d"],
    owner: Integer[np.ndarray, " m"],
    caption_group: Integer[np.ndarray, " m"],
    tile: tuple[int, int] = TILE,
) -> tuple[Found, Found]:
    """(captions looking for pictures (m,), pictures looking for captions (n,)).

    A caption is right for a picture if the picture owns it or owns one of the same group, so equal captions never
    count as mistakes. Several captions a picture: any right one is a hit.

    Args:
        zimg: (n, d) unit rows.
        ztxt: (m, d) unit rows.
        owner: (m,) picture of each caption, in [0, n); every picture owns at least one.
        caption_group: (m,) any integers, equal for equal captions.
        tile: queries and candidates compared at a time; changes memory, not the result.

    Raises:
        ValueError: shapes do not fit, an owner is out of range, or a picture has no caption.
    """
    _check(zimg, ztxt, owner, caption_group)
    group = np.unique(caption_group, return_inverse=True)[1].reshape(-1)
    size = int(group.max()) + 1
    # right pairs go through the groups and are listed for a tile at a time: all of them could be n x m
    images_of = _ragged(group, owner, size)
    texts_of = _ragged(group, np.arange(len(ztxt)), size)
    groups_of_image = _ragged(owner, group, len(zimg))
    group_of_text = _ragged(np.arange(len(ztxt)), group, len(ztxt))
    to_image = _compare(ztxt, zimg, group_of_text, images_of, tile)
    to_text = _compare(zimg, ztxt, groups_of_image, texts_of, tile)
    return to_image, to_text


def find_labels(
    queries: Float[np.ndarray, "q d"], answers: Float[np.ndarray, "c d"], labels: Integer[np.ndarray, " q"]
) -> Found:
    """The same for queries with one right answer each: row `labels[i]` of `answers`, in [0, c)."""
    itself = np.arange(len(answers))
    right = _ragged(np.arange(len(queries)), labels, len(queries))
    return _compare(queries, answers, right, _ragged(itself, itself, len(answers)), TILE)


def nearest(
    queries: Float[np.ndarray, "q d"], candidates: Float[np.ndarray, "c d"], k: int
) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
    """(indices, scores) of the k best candidates of each query, best first; equal scores keep their order.

    For a handful of queries: a slice of the candidates at a time. k is cut to the number of candidates.
    """
    items, scores = np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0), np.float32)
    for start in range(0, len(candidates), SLICE):
        block = _products(queries, candidates[start : start + SLICE])
        scores = np.concatenate([scores, block], axis=1)
        items = np.concatenate([items, np.broadcast_to(np.arange(block.shape[1]) + start, block.shape)], axis=1)
        # a stable sort, so that a page written twice is the same page
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        items, scores = np.take_along_axis(items, order, axis=1), np.take_along_axis(scores, order, axis=1)  # (q, k)
    return items, scores


def _check(zimg: np.ndarray, ztxt: np.ndarray, owner: np.ndarray, caption_group: np.ndarray) -> None:
    """Refuse arrays that do not belong together, naming both sides."""
    if zimg.ndim != 2 or ztxt.ndim != 2 or zimg.shape[1] != ztxt.shape[1]:
        expected = f"(m, {zimg.shape[-1]}), as wide as zimg {zimg.shape}"
        raise ValueError(explain("ztxt", expected=expected, found=ztxt.shape, do="embed both with one model"))
    if not len(ztxt) == len(owner) == len(caption_group):
        found = f"{len(owner)} and {len(caption_group)}"
        raise ValueError(explain("owner, caption_group", expected=f"{len(ztxt)} each", found=found, do="one a caption"))
    if len(owner) == 0 or owner.min() < 0 or owner.max() >= len(zimg):
        found = f"{owner.min()} to {owner.max()}" if len(owner) else "no caption at all"
        raise ValueError(explain("owner", expected=f"0 to {len(zimg) - 1}", found=found, do="use picture numbers"))
    missing = np.flatnonzero(np.bincount(owner, minlength=len(zimg)) == 0)
    if len(missing):
        found = f"none for {len(missing)} (first: picture {missing[0]})"
        raise ValueError(explain("captions", expected="one or more a picture", found=found, do="leave those out"))


@dataclass(frozen=True)
class _Ragged:
    """Lists of different lengths: list i is items[offsets[i]:offsets[i + 1]]."""

    offsets: np.ndarray
    items: np.ndarray

    def rows(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(position in `keys`, item) of every item of the lists named by `keys`, in order."""
        counts = self.offsets[keys + 1] - self.offsets[keys]
        position = np.repeat(np.arange(len(keys)), counts)
        start = np.cumsum(counts) - counts  # where each list begins in the answer
        return position, self.items[np.arange(counts.sum()) + (self.offsets[keys] - start)[position]]


def _ragged(keys: np.ndarray, values: np.ndarray, size: int) -> _Ragged:
    """The distinct values of each key in [0, size), ascending."""
    width = int(values.max()) + 1
    pairs = np.unique(keys.astype(np.int64) * width + values)
    # one sorted integer a pair: equal captions of one picture fall together here
    return _Ragged(np.searchsorted(pairs // width, np.arange(size + 1)), pairs % width)


def _compare(
    queries: np.ndarray, candidates: np.ndarray, groups_of: _Ragged, members: _Ragged, tile: tuple[int, int]
) -> Found:
    """Count the wrong candidates above and level with each query's best right one, tile by tile."""
    rows, columns = tile
    parts = []
    for start in range(0, len(queries), rows):
        keys = np.arange(start, min(start + rows, len(queries)))
        position, groups = groups_of.rows(keys)
        pair, item = members.rows(groups)
        parts.append(_compare_rows(queries[keys], candidates, position[pair], item, columns))
    above, tied, tied_right, right = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Found(above, tied, tied_right, right, len(candidates))


def _compare_rows(
    queries: np.ndarray, candidates: np.ndarray, row: np.ndarray, item: np.ndarray, columns: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The four counts of `Found` for a few queries; (row, item) are the right pairs, rows ascending."""
    scores = _pair_products(queries, candidates, row, item)
    right = np.bincount(row, minlength=len(queries))
    best = np.maximum.reduceat(scores, np.cumsum(right) - right)  # a NaN stays: its query loses to everything
    tied_right = np.bincount(row[~(scores < best[row])], minlength=len(queries))
    above = np.zeros(len(queries), np.int64)
    level = np.zeros(len(queries), np.int64)
    for block, wrong in _wrong_blocks(queries, candidates, row, item, columns):
        higher = (block > best[:, None]) & wrong
        # "not lower" instead of "higher or equal": scores that are not numbers count against the model
        above += higher.sum(1)
        level += (~(block < best[:, None]) & wrong).sum(1) - higher.sum(1)
    return above, level, tied_right, right


def _wrong_blocks(
    queries: np.ndarray, candidates: np.ndarray, row: np.ndarray, item: np.ndarray, columns: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(scores (q, c), which of them belong to wrong answers (q, c)) for slices of candidates."""
    by_item = np.argsort(item, kind="stable")
    row, item = row[by_item], item[by_item]
    for start in range(0, len(candidates), columns):
        block = _products(queries, candidates[start : start + columns])
        wrong = np.ones(block.shape, bool)
        here = slice(*np.searchsorted(item, (start, start + columns)))
        wrong[row[here], item[here] - start] = False
        yield block, wrong


def _products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float32 (q, c) products, computed in float64 and rounded once.

    A float32 matrix product sums in another order at the edges of a block, so equal vectors would get scores one
    bit apart and a tie would turn into a hit; rounding from float64 makes equal vectors score equal.
    """
    with np.errstate(invalid="ignore"):
        return (a.astype(np.float64) @ b.astype(np.float64).T).astype(np.float32)


def _pair_products(queries: np.ndarray, candidates: np.ndarray, row: np.ndarray, item: np.ndarray) -> np.ndarray:
    """float32 (p,) products of the listed pairs alone, rounded as in `_products`."""
    parts = [np.zeros(0, np.float32)]
    for start in range(0, len(row), 16_384):  # 100 MB of float64 rows at a width of 768
        here = slice(start, start + 16_384)
        q, c = queries[row[here]].astype(np.float64), candidates[item[here]].astype(np.float64)
        parts.append(np.einsum("pd,pd->p", q, c).astype(np.float32))
    return np.concatenate(parts)
