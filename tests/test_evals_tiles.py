"""Counts by bounded float32 tiles against plain float64 products of all pairs, at ties, near ties and odd numbers."""

import tracemalloc

import numpy as np
import pytest

from lit_tune.evals import retrieval as r, tiles

FIELDS = ("above", "tied", "tied_right", "right")


def unit(x):
    x = np.asarray(x, np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)


def brute(queries, candidates, right):
    """The four counts from all float64 products, each rounded to float32; `right` (q, c) marks the right answers."""
    with np.errstate(over="ignore", invalid="ignore"):
        scores = np.stack([(candidates.astype(np.float64) * q.astype(np.float64)).sum(1) for q in queries])
        scores = scores.astype(np.float32)
    best = np.array([row[mask].max() for row, mask in zip(scores, right, strict=True)])[:, None]  # a NaN stays
    lower, higher = scores < best, scores > best
    return {"above": (higher & ~right).sum(1), "tied": (~lower & ~higher & ~right).sum(1),
            "tied_right": (~lower & right).sum(1), "right": right.sum(1)}


def right_pairs(n, owner, group):
    """(n, m) whether a caption is right for a picture."""
    return np.stack([np.isin(group, group[owner == i]) for i in range(n)])


def assert_equal(found, want):
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(found, name), want[name], err_msg=name)


def random(rng, n, d):
    return unit(rng.normal(size=(n, d)))


def near_ties(rng, n, d):
    """Rows of four clusters that are a few float32 roundings wide, so that most scores are within the bound."""
    return unit(unit(rng.normal(size=(4, d)))[rng.integers(4, size=n)] + rng.normal(size=(n, d)) * 1e-7)


def duplicates(rng, n, d):
    return random(rng, 9, d)[rng.integers(9, size=n)]


def constant(rng, n, d):
    return np.repeat(random(rng, 1, d), n, 0)


def not_numbers(rng, n, d):
    z = random(rng, n, d)
    z[rng.integers(n, size=4), rng.integers(d, size=4)] = (np.nan, np.inf, -np.inf, np.nan)
    z[rng.integers(n, size=2)] = np.nan
    return z


def lengths(rng, n, d):
    """Rows from 1e-30 to 1e30 long, zeros and products that overflow float32 included."""
    z = random(rng, n, d) * np.float32(10) ** rng.integers(-3, 4, size=(n, 1))
    z[rng.integers(n, size=6)] *= np.float32([[0], [1e30], [1e-30], [1e25], [1e-20], [1e10]])
    return z.astype(np.float32)


def one_hot(rng, n, d):
    return np.eye(d, dtype=np.float32)[rng.integers(d, size=n)]


KINDS = (random, near_ties, duplicates, constant, not_numbers, lengths, one_hot)


def data(kind, seed=0, n=83, m=131, d=37):
    """(zimg, ztxt, owner, group), with texts that repeat pictures so that there are best answers among many."""
    rng = np.random.default_rng(seed)
    zimg = kind(rng, n, d)
    owner = np.concatenate([np.arange(n), rng.integers(n, size=m - n)])
    ztxt = kind(rng, m, d)
    ztxt[::3] = zimg[rng.integers(n, size=len(ztxt[::3]))]
    return zimg, ztxt, owner, rng.integers(m // 2, size=m)


@pytest.mark.parametrize("tile", [tiles.TILE, (1, 131), (17, 29)])
@pytest.mark.parametrize("kind", KINDS)
def test_counts_equal_float64_products_of_all_pairs(kind, tile):
    for seed in range(3):
        zimg, ztxt, owner, group = data(kind, seed)
        right = right_pairs(len(zimg), owner, group)
        to_image, to_text = r.find(zimg, ztxt, owner, group, tile)
        assert_equal(to_image, brute(ztxt, zimg, right.T))
        assert_equal(to_text, brute(zimg, ztxt, right))


@pytest.mark.parametrize("kind", KINDS)
def test_counts_of_labels_equal_float64_products_of_all_pairs(kind):
    queries, answers, _, _ = data(kind, 5, n=110, m=150, d=64)
    labels = np.random.default_rng(5).integers(len(answers), size=len(queries))
    want = brute(queries, answers, np.arange(len(answers)) == labels[:, None])
    for tile in (tiles.TILE, (64, 100)):
        assert_equal(r.find_labels(queries, answers, labels, tile), want)


def test_a_bare_float32_product_would_miscount_these_near_ties():
    zimg, ztxt, owner, group = data(near_ties, n=300, m=300, d=256)
    right = right_pairs(300, owner, group)
    want, scores = brute(zimg, ztxt, right), zimg @ ztxt.T
    best = np.where(right, scores, -2).max(1, keepdims=True)
    assert np.any(((scores > best) & ~right).sum(1) != want["above"])
    assert_equal(r.find(zimg, ztxt, owner, group)[1], want)


def shaken(error, said):
    """Products that are off by `error` |x| |y|, up or down, and say that it is at most `said`."""
    rng = np.random.default_rng(0)

    def multiply(a, b):
        lengths = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
        return (a @ b.T + error * lengths * rng.choice([-1, 1], size=lengths.shape)).astype(np.float32)

    return tiles.Products(multiply, lambda d: said)


@pytest.mark.parametrize("kind", [random, near_ties, duplicates, constant])
def test_products_may_be_off_by_as_much_as_they_say(kind):
    args = data(kind, 1)
    for whole, other in zip(r.find(*args), r.find(*args, products=shaken(1e-2, 1.01e-2)), strict=True):
        assert_equal(other, {name: getattr(whole, name) for name in FIELDS})
    trusted = r.find(*args, products=shaken(1e-2, 0))  # and the answer does rest on it
    assert any(np.any(a.above != b.above) for a, b in zip(r.find(*args), trusted, strict=True))


def test_error_of_a_float32_product_keeps_the_bound_of_higham():
    assert tiles.gamma(768) == pytest.approx(768 * 2**-24 / (1 - 768 * 2**-24), rel=1e-15)
    assert tiles.gamma(2**24) == np.inf
    rng = np.random.default_rng(0)
    for d in (1, 64, 1000):
        a, b = np.abs(random(rng, 200, d)), np.abs(random(rng, 200, d))  # one sign: errors do not cancel
        off = np.abs(tiles.HOST.multiply(a, b) - a.astype(np.float64) @ b.astype(np.float64).T)
        assert np.all(off <= tiles.gamma(d) * tiles.lengths(a)[:, None] * tiles.lengths(b))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_vectors_of_other_types_count_the_same_as_their_float64_products(dtype):
    zimg, ztxt, owner, group = data(random)
    zimg, ztxt = zimg.astype(dtype), ztxt.astype(dtype)
    right = right_pairs(len(zimg), owner, group)
    assert_equal(r.find(zimg, ztxt, owner, group)[1], brute(zimg, ztxt, right))


def test_sampled_queries_of_a_large_comparison_equal_brute_force():
    rng = np.random.default_rng(0)
    zimg = random(rng, 3000, 96)
    owner = np.concatenate([np.arange(3000), rng.integers(3000, size=17_000)])
    ztxt = unit(zimg[owner] * 0.6 + random(rng, 20_000, 96))
    group = np.where(rng.random(20_000) < 0.1, rng.integers(40, size=20_000), np.arange(20_000) + 40)
    to_image, to_text = r.find(zimg, ztxt, owner, group)
    images, texts = np.sort(rng.choice(3000, 25, replace=False)), np.sort(rng.choice(20_000, 100, replace=False))
    right = np.stack([np.isin(group, group[owner == i]) for i in images])
    assert_equal(to_text.only(np.isin(np.arange(3000), images)), brute(zimg[images], ztxt, right))
    right = np.stack([np.isin(np.arange(3000), owner[group == group[j]]) for j in texts])
    assert_equal(to_image.only(np.isin(np.arange(20_000), texts)), brute(ztxt[texts], zimg, right))


@pytest.mark.parametrize("kind", [random, constant])
def test_memory_stays_far_below_the_matrix_and_files_are_read_in_blocks(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(tiles, "WIDE_ROWS", 64)
    monkeypatch.setattr(tiles, "PAIR_NUMBERS", 2**14)
    n, d = 2500, 64 if kind is random else 8
    rng = np.random.default_rng(0)
    np.save(tmp_path / "zimg.npy", kind(rng, n, d))
    np.save(tmp_path / "ztxt.npy", kind(rng, n, d))
    zimg, ztxt = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("zimg", "ztxt"))
    rows, columns = tile = (128, 256)
    tracemalloc.start()
    found = r.find(zimg, ztxt, np.arange(n), np.arange(n), tile)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    formula = (8 * rows * columns + 8 * (rows + columns) * d + 80 * rows * columns / tiles.SHARE
               + 80 * tiles.WIDE_ROWS * columns + 32 * tiles.PAIR_NUMBERS)
    assert peak < formula + 200 * 2 * n < 0.2 * 4 * n * n  # a matrix of all scores
    if kind is constant:  # everything ties: the slowest way of counting, and no more memory
        assert np.all(found[0].tied == n - 1) and np.all(found[1].above == 0)


def test_right_pairs_are_listed_a_portion_at_a_time(monkeypatch):
    monkeypatch.setattr(r, "MOST_PAIRS", 7)
    assert [(p.start, p.stop) for p in r._portions(np.array([3, 4, 1, 9, 2, 5, 1]))] == [
        (0, 2), (2, 3), (3, 4), (4, 6), (6, 7)]
    zimg, ztxt, owner, group = data(duplicates)
    assert_equal(r.find(zimg, ztxt, owner, group)[1], brute(zimg, ztxt, right_pairs(len(zimg), owner, group)))


def test_progress_adds_up_to_the_candidates():
    zimg, ztxt, owner, group = data(random)
    told = []
    r.find(zimg, ztxt, owner, group, (10, 20), done=told.append)
    assert told == [20, 20, 20, 20, 3]
    told.clear()
    r.find_labels(zimg, ztxt, np.arange(len(zimg)), (10, 100), done=told.append)
    assert told == [100, 31]
