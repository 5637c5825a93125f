"""Retrieval recall between pictures and captions: exact, in bounded memory, with ties counted against the model."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from lit_tune.errors import explain
from lit_tune.evals import tiles
from lit_tune.evals.tiles import HOST, TILE, Products

KS = (1, 5, 10)
SLICE = 16_384  # candidates of a handful of queries: 100 MB of float64 rows at a width of 768
MOST_PAIRS = 2**20  # right pairs listed at a time, about 40 MB; more only where one query has more


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


def find(
    zimg: Float[np.ndarray, "n d"],
    ztxt: Float[np.ndarray, "m d"],
    owner: Integer[np.ndarray, " m"],
    caption_group: Integer[np.ndarray, " m"],
    tile: tuple[int, int] = TILE,
    products: Products | None = None,
    done: Callable[[int], None] | None = None,
) -> tuple[Found, Found]:
    """(captions looking for pictures (m,), pictures looking for captions (n,)).

    A caption is right for a picture if the picture owns it or owns one of the same group, so equal captions never
    count as mistakes. Several captions a picture: any right one is a hit. Every pair is multiplied once and serves both
    directions. Exact, in the memory of `tiles.count` and about 200 bytes a picture and a caption; vectors may be
    memory-mapped and are read in blocks.

    Args:
        zimg: (n, d) unit rows (other lengths are right too, and slower).
        ztxt: (m, d) unit rows.
        owner: (m,) picture of each caption, in [0, n); every picture owns at least one.
        caption_group: (m,) any integers, equal for equal captions.
        tile: captions and pictures compared at a time; changes memory, not the result.
        products: how float32 blocks are multiplied, NumPy if None; changes speed, not the result.
        done: called now and then with the number of pictures that are through since the last call.

    Raises:
        ValueError: shapes do not fit, an owner is out of range, or a picture has no caption.
    """
    _check(zimg, ztxt, owner, caption_group)
    group = np.unique(caption_group, return_inverse=True)[1].reshape(-1)
    size = int(group.max()) + 1
    # right pairs go through the groups and are listed for a few queries at a time: all of them could be n x m
    images_of = _ragged(group, owner, size)
    texts_of = _ragged(group, np.arange(len(ztxt)), size)
    groups_of_image = _ragged(owner, group, len(zimg))
    group_of_text = _ragged(np.arange(len(ztxt)), group, len(ztxt))
    right_images = _best_right(ztxt, zimg, group_of_text, images_of)
    right_texts = _best_right(zimg, ztxt, groups_of_image, texts_of)
    to_image, to_text = tiles.Side(ztxt, right_images[0]), tiles.Side(zimg, right_texts[0])
    tiles.count(to_image, to_text, True, tile, products or HOST, done)
    return _found(to_image, right_images, len(zimg)), _found(to_text, right_texts, len(ztxt))


def find_labels(
    queries: Float[np.ndarray, "q d"],
    answers: Float[np.ndarray, "c d"],
    labels: Integer[np.ndarray, " q"],
    tile: tuple[int, int] = TILE,
    products: Products | None = None,
    done: Callable[[int], None] | None = None,
) -> Found:
    """The same for queries with one right answer each: row `labels[i]` of `answers`, in [0, c).

    `done` hears the number of answers that are through.
    """
    itself = np.arange(len(answers))
    own = _ragged(np.arange(len(queries)), labels, len(queries))
    right = _best_right(queries, answers, own, _ragged(itself, itself, len(answers)))
    asking = tiles.Side(queries, right[0])
    answering = tiles.Side(answers, np.zeros(len(answers), np.float32))  # which look for nothing
    tiles.count(asking, answering, False, tile, products or HOST, done)
    return _found(asking, right, len(answers))


def nearest(
    queries: Float[np.ndarray, "q d"], candidates: Float[np.ndarray, "c d"], k: int
) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
    """(indices, scores) of the k best candidates of each query, best first; equal scores keep their order.

    For a handful of queries: a slice of the candidates at a time. k is cut to the number of candidates.
    """
    items, scores = np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0), np.float32)
    for start in range(0, len(candidates), SLICE):
        block = products(queries, candidates[start : start + SLICE])
        scores = np.concatenate([scores, block], axis=1)
        items = np.concatenate([items, np.broadcast_to(np.arange(block.shape[1]) + start, block.shape)], axis=1)
        # a stable sort, so that a page written twice is the same page
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        items, scores = np.take_along_axis(items, order, axis=1), np.take_along_axis(scores, order, axis=1)  # (q, k)
    return items, scores


def products(a: Float[np.ndarray, "q d"], b: Float[np.ndarray, "c d"]) -> Float[np.ndarray, "q c"]:
    """float32 products of a few rows, computed in float64 and rounded once: equal vectors score equal.

    A float32 matrix product sums in another order at the edges of a block, so a tie could turn into a hit.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        return (a.astype(np.float64) @ b.astype(np.float64).T).astype(np.float32)


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

    def sizes(self) -> np.ndarray:
        """Length of each list."""
        return np.diff(self.offsets)

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


def _best_right(
    queries: np.ndarray, candidates: np.ndarray, groups_of: _Ragged, members: _Ragged
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(best score of a right candidate, how many right ones have it, how many right ones there are) of each query."""
    queries, candidates = np.asarray(queries), np.asarray(candidates)
    groups, right = groups_of.sizes(), np.zeros(len(queries), np.int64)
    np.add.at(right, np.repeat(np.arange(len(queries)), groups), members.sizes()[groups_of.items])
    best, tied = np.empty(len(queries), np.float32), np.empty(len(queries), np.int64)
    for here in _portions(right):
        position, group = groups_of.rows(np.arange(here.start, here.stop))
        pair, item = members.rows(group)
        row = position[pair]  # ascending
        scores = tiles.pair_products(queries, candidates, row + here.start, item)
        starts = np.cumsum(right[here]) - right[here]
        best[here] = np.maximum.reduceat(scores, starts)  # a NaN stays: its query loses to everything
        tied[here] = np.bincount(row[~(scores < best[here][row])], minlength=len(starts))
    return best, tied, right


def _portions(counts: np.ndarray) -> Iterator[slice]:
    """Consecutive slices of one query, or of several with MOST_PAIRS counts in all."""
    ends, start = np.cumsum(counts), 0
    while start < len(counts):
        most = MOST_PAIRS + ends[start] - counts[start]
        stop = max(start + 1, int(np.searchsorted(ends, most, side="right")))
        yield slice(start, stop)
        start = stop


def _found(side: tiles.Side, right: tuple[np.ndarray, np.ndarray, np.ndarray], candidates: int) -> Found:
    """What was counted among all candidates, without the right ones: none is above the best of them."""
    _, tied, number = right
    return Found(side.above, side.level - tied, tied, number, candidates)
