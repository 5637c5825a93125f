"""Counts of candidates above and level with a score: float32 speed, float64 answers, bounded memory.

The score of a pair is its product computed in float64, one pair at a time, and rounded once to float32. Equal vectors
then score exactly equal, wherever they stand; a float32 matrix product sums in another order at the edges of a block
and would turn such ties into hits. Almost no pair needs that care: a float32 product is off by less than a known
bound, and a candidate further than this bound from the score it is compared with is counted at once. The others are
looked at again: a few of a row pair by pair, many of a row by a float64 product with a bound of its own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer

TILE = (2048, 4096)  # queries x candidates multiplied at a time: 32 MiB of float32 scores
UNIT32, UNIT64 = 2.0**-24, 2.0**-53  # unit roundoffs
USUAL = 2.0**-30, 2.0**30  # lengths whose products cannot overflow float32, nor underflow by as much as the bound
SHARE = 64  # a pair by itself costs as much as so many pairs of a float64 tile (measured: 1.5 us and 23 ns)
WIDE_ROWS = 256  # rows of a float64 tile
PAIR_NUMBERS = 2**18  # numbers a side in a chunk of pairs: it stays in the cache


@dataclass(frozen=True)
class Products:
    """A way to multiply float32 blocks, with how far off it may be.

    Attributes:
        multiply: (q, d), (c, d) -> float32 (q, c), the products of all rows.
        error: d -> f, such that a product of finite rows x, y of usual length is off by at most f |x| |y|.
    """

    multiply: Callable[[np.ndarray, np.ndarray], np.ndarray]
    error: Callable[[int], float]


def gamma(terms: int, unit: float = UNIT32) -> float:
    """n u / (1 - n u): the error of a sum of n products, relative to |x| |y|, whatever the order; inf if n u >= 1.

    Source: Higham, Accuracy and Stability of Numerical Algorithms (2002), section 3.1; the norms by Cauchy-Schwarz.
    """
    return terms * unit / (1 - terms * unit) if terms * unit < 1 else np.inf


def _multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float32 (q, c) products by NumPy."""
    with np.errstate(all="ignore"):
        return a @ b.T


HOST = Products(_multiply, gamma)


class Side:
    """Vectors that look for others, and how many they have found so far.

    Attributes:
        vectors: (n, d) rows, possibly memory-mapped; read in blocks.
        best: float32 (n,), the score that candidates are compared with.
        length: float64 (n,), Euclidean.
        above: int64 (n,), candidates seen with a higher score.
        level: int64 (n,), candidates seen with the same score, or where one of the scores is not a number.
    """

    def __init__(self, vectors: Float[np.ndarray, "n d"], best: Float[np.ndarray, " n"]) -> None:
        """Nothing seen yet."""
        self.vectors, self.best = np.asarray(vectors), best
        self.length = lengths(self.vectors)
        self.above, self.level = np.zeros(len(best), np.int64), np.zeros(len(best), np.int64)


def lengths(vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """float64 Euclidean length of each row, read in blocks."""
    out = np.empty(len(vectors))
    step = max(1, PAIR_NUMBERS // max(1, vectors.shape[1]))
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, len(vectors), step):
            rows = vectors[start : start + step].astype(np.float64)
            out[start : start + step] = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    return out


def pair_products(
    queries: Float[np.ndarray, "q d"],
    candidates: Float[np.ndarray, "c d"],
    row: Integer[np.ndarray, " p"],
    item: Integer[np.ndarray, " p"],
) -> Float[np.ndarray, " p"]:
    """float32 (p,) scores of the listed pairs: products in float64, each rounded once."""
    out = np.empty(len(row), np.float32)
    step = max(1, PAIR_NUMBERS // max(1, queries.shape[1]))
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, len(row), step):
            here = slice(start, start + step)
            q, c = queries[row[here]].astype(np.float64), candidates[item[here]].astype(np.float64)
            out[here] = np.einsum("pd,pd->p", q, c)
    return out


def count(
    queries: Side,
    candidates: Side,
    both: bool,
    tile: tuple[int, int] = TILE,
    products: Products = HOST,
    done: Callable[[int], None] | None = None,
) -> None:
    """Adds to `queries.above` and `.level` what all candidates contribute; with `both` also the other way round.

    Exact: as if every pair had its own float64 product. For a tile of r x c pairs of width d it takes, beside the
    vectors, at most these bytes: 8 r c (products and masks) + 8 (r + c) d (blocks in float32, or one in float64)
    + 80 r c / SHARE + 80 WIDE_ROWS c (float64 products, lists of pairs) + 32 PAIR_NUMBERS. That is 205 MB for the
    default tile at d = 768, for any number of vectors.

    Args:
        queries: rows of tiles.
        candidates: columns of tiles; a block of them is kept while all queries pass by.
        both: whether candidates look for queries too; the products are the same.
        tile: queries and candidates multiplied at a time; changes memory, not the result.
        products: how to multiply; changes speed, not the result.
        done: called with the number of candidates that are through since the last call.
    """
    rows, columns = tile
    for there in _slices(len(candidates.vectors), columns):
        block = _block(candidates.vectors, there)
        for here in _slices(len(queries.vectors), rows):
            scores = products.multiply(_block(queries.vectors, here), block)
            _add(queries, here, candidates, there, scores, products.error)
            if both:
                _add(candidates, there, queries, here, scores.T, products.error)
        if done is not None:
            done(len(block))


def _slices(size: int, step: int) -> Iterator[slice]:
    """Consecutive slices of at most `step`."""
    return (slice(start, min(start + step, size)) for start in range(0, size, step))


def _block(vectors: np.ndarray, part: slice) -> np.ndarray:
    """A float32 block, without a copy where it is one already."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(vectors[part], np.float32)


def _add(
    side: Side, here: slice, other: Side, there: slice, scores: np.ndarray, error: Callable[[int], float]
) -> None:
    """Add what the candidates `there` contribute for the queries `here`, given their products to within an error."""
    usual = (other.length[there] >= USUAL[0]) & (other.length[there] <= USUAL[1])
    if not usual.all():
        scores = np.where(usual, scores, np.nan)  # no bound holds: never certain
    longest = other.length[there].max(initial=0, where=usual)
    low, high = _limits(side.best[here], side.length[here], longest, error(side.vectors.shape[1]))
    higher = scores > high[:, None]
    unsure = higher | (scores < low[:, None])
    np.logical_not(unsure, out=unsure)
    side.level[here] += _drop_not_numbers(side.best[here], other.length[there], unsure)
    above, many = _per_row(higher), _per_row(unsure) > scores.shape[1] // SHARE
    above[many], unsure[many] = 0, False
    side.above[here] += above
    _add_pairs(side, other, *_places(unsure), here.start, there.start)
    if many.any():
        _add_wide(side, here.start + np.flatnonzero(many), other, there)


def _drop_not_numbers(best: np.ndarray, length: np.ndarray, unsure: np.ndarray) -> np.ndarray:
    """How many candidates count as level with each `best` because a NaN is known; they are `unsure` no longer."""
    lost, absent = np.isnan(best), np.isnan(length)
    unsure[lost] = False
    if absent.any():
        unsure[:, absent] = False
    return np.where(lost, len(absent), absent.sum())


def _limits(best: np.ndarray, length: np.ndarray, longest: float, error: float) -> tuple[np.ndarray, np.ndarray]:
    """float32 (low, high): where a product is outside them, the score is certainly lower or higher than `best`.

    Four more roundings of float32 than `error` counts: two of the vectors, if they are not float32, one of the score
    itself, and one to spare for what is rounded in float64, here and in the score.
    """
    usual = (length >= USUAL[0]) & (length <= USUAL[1])
    with np.errstate(invalid="ignore", over="ignore"):
        reach = np.where(usual, (error + 4 * UNIT32) * 1.001 * length * longest, np.inf)
        low, high = (best - reach).astype(np.float32), (best + reach).astype(np.float32)
        return np.nextafter(low, np.float32(-np.inf)), np.nextafter(high, np.float32(np.inf))


def _per_row(mask: np.ndarray) -> np.ndarray:
    """How many are true in each row."""
    return np.add.reduce(mask.view(np.uint8), axis=1, dtype=np.uint32)


def _places(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(row, column) of what is true; the mask may be transposed."""
    if mask.flags.c_contiguous:
        return np.divmod(np.flatnonzero(mask.reshape(-1)), mask.shape[1])
    column, row = np.divmod(np.flatnonzero(mask.T.reshape(-1)), mask.shape[0])
    return row, column


def _add_pairs(side: Side, other: Side, row: np.ndarray, item: np.ndarray, first: int, first_item: int) -> None:
    """Add what single pairs contribute; their numbers count from `first` and `first_item`."""
    row, item = row + first, item + first_item
    scores, best = pair_products(side.vectors, other.vectors, row, item), side.best[row]
    higher = scores > best
    # "not lower" instead of "equal": scores that are not numbers count against the model
    level = ~(scores < best) & ~higher
    np.add.at(side.above, row[higher], 1)
    np.add.at(side.level, row[level], 1)


def _add_wide(side: Side, rows: np.ndarray, other: Side, there: slice) -> None:
    """Add what all candidates `there` contribute for the queries `rows`, by float64 products.

    These may differ from the scores of single pairs before rounding, by the bound on both; where the rounding could
    then differ too, the pair is multiplied by itself.
    """
    block = other.vectors[there].astype(np.float64).T  # (d, c)
    length = other.length[there]
    longest = length.max(initial=0, where=np.isfinite(length))
    for part in _slices(len(rows), WIDE_ROWS):
        row = rows[part]
        with np.errstate(invalid="ignore", over="ignore"):
            reach = 2.002 * gamma(len(block), UNIT64) * longest * side.length[row][:, None]
            down, up = _turns(side.best[row][:, None])
            scores = side.vectors[row].astype(np.float64) @ block  # (rows, c)
            higher = scores > up + reach
            level = (scores > down + reach) & (scores < up - reach)
            unsure = ~(higher | level | (scores < down - reach))
        _drop_not_numbers(side.best[row], length, unsure)
        side.above[row] += _per_row(higher)
        side.level[row] += _per_row(level)
        index, item = _places(unsure)
        _add_pairs(side, other, row[index], item, 0, there.start)


def _turns(best: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 (down, up): numbers between them round to the float32 `best`, numbers outside to others.

    NaN, which leaves everything unsure, where `best` is at the end of float32 or beyond.
    """
    best = np.where(np.abs(best) < np.finfo(np.float32).max, best, np.float32(np.nan))
    down, up = (np.nextafter(best, np.float32(way)).astype(np.float64) for way in (-np.inf, np.inf))
    return (best + down) / 2, (best + up) / 2
