"""Retrieval recall against a full matrix, its ties, and its chance levels against shuffling."""

import itertools
import math

import numpy as np
import pytest
from recall_of_ranks import retrieval

from lit_tune.evals import retrieval as r


def unit_rows(rng, n, d):
    x = rng.normal(size=(n, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def uneven_set(seed, n=37, d=16, names=25):
    """Pictures with one to four captions out of a few names, so that captions repeat within and across pictures."""
    rng = np.random.default_rng(seed)
    owner = np.concatenate([np.arange(n), rng.integers(n, size=2 * n)])
    rng.shuffle(owner)
    group = rng.integers(names, size=len(owner)) * 7 - 3
    names_z = {g: v for g, v in zip(np.unique(group), unit_rows(rng, names, d), strict=False)}
    ztxt = np.stack([names_z[g] for g in group])  # equal captions have equal vectors: real ties
    zimg = unit_rows(rng, n, d) * 0.7 + np.stack([ztxt[np.flatnonzero(owner == i)[0]] for i in range(n)])
    zimg /= np.linalg.norm(zimg, axis=1, keepdims=True)
    zimg[5] = zimg[11]  # and two equal pictures
    return zimg.astype(np.float32), ztxt.astype(np.float32), owner, group


def full_matrix_ranks(zimg, ztxt, owner, group):
    """Pessimistic ranks by the definition, one query at a time, in Python sets."""
    groups_of = [{int(g) for g in group[owner == i]} for i in range(len(zimg))]
    right = np.array([[int(g) in groups for g in group] for groups in groups_of])  # (n, m)
    scores = np.array([[np.float32(math.fsum(np.float64(a) * np.float64(b))) for b in ztxt] for a in zimg])
    to_text = [sum(~right[i] & (scores[i] >= scores[i][right[i]].max())) for i in range(len(zimg))]
    to_image = [sum(~right[:, j] & (scores[:, j] >= scores[:, j][right[:, j]].max())) for j in range(len(ztxt))]
    return np.array(to_image), np.array(to_text), right


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ranks_equal_a_full_matrix_with_several_and_equal_captions(seed):
    args = uneven_set(seed)
    to_image, to_text, right = full_matrix_ranks(*args)
    found = r.find(*args)
    np.testing.assert_array_equal(found[0].ranks, to_image)
    np.testing.assert_array_equal(found[1].ranks, to_text)
    np.testing.assert_array_equal(found[0].right, right.sum(0))
    np.testing.assert_array_equal(found[1].right, right.sum(1))
    metrics = retrieval(*args)
    for k in (1, 5, 10):
        assert metrics[f"image_retrieval_recall@{k}"] == np.mean(to_image < k)
        assert metrics[f"text_retrieval_recall@{k}"] == np.mean(to_text < k)


@pytest.mark.parametrize("tile", [(1, 1), (5, 7), (37, 64), (1000, 3)])
def test_blocks_of_any_size_give_the_same_counts(tile):
    args = uneven_set(3)
    for whole, blocked in zip(r.find(*args), r.find(*args, tile=tile), strict=True):
        for name in ("above", "tied", "tied_right", "right"):
            np.testing.assert_array_equal(getattr(whole, name), getattr(blocked, name), err_msg=name)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("dim", [1, 3, 384])
def test_constant_embeddings_score_zero(seed, dim):
    rng = np.random.default_rng(seed)
    n = 61
    zimg = np.repeat(unit_rows(rng, 1, dim), n, 0)
    ztxt = np.repeat(unit_rows(rng, 1, dim), n, 0)
    metrics = retrieval(zimg, ztxt, np.arange(n), np.arange(n))
    for k, direction in itertools.product((1, 5, 10), ("image", "text")):
        assert metrics[f"{direction}_retrieval_recall@{k}"] == 0
        assert metrics[f"{direction}_retrieval_recall@{k}_chance"] == pytest.approx(k / n)


def test_constant_pictures_with_real_texts_are_not_above_chance():
    rng = np.random.default_rng(0)
    n = 50
    zimg = np.repeat(unit_rows(rng, 1, 32), n, 0)
    metrics = retrieval(zimg, unit_rows(rng, n, 32), np.arange(n), np.arange(n))
    for k in (1, 5, 10):
        assert metrics[f"image_retrieval_recall@{k}"] == 0  # every picture ties
        assert metrics[f"text_retrieval_recall@{k}"] == k / n  # one fixed order of texts, k pictures profit


def test_scores_that_are_not_numbers_count_against_the_model():
    args = list(uneven_set(0))
    args[0] = args[0].copy()
    args[0][4] = np.nan
    to_image, to_text = r.find(*args)
    assert to_text.ranks[4] == to_text.candidates - to_text.right[4]
    assert retrieval(np.full_like(args[0], np.nan), *args[1:])["text_retrieval_recall@1"] == 0
    clean = r.find(*uneven_set(0))[0]
    assert np.all(to_image.ranks >= clean.ranks)


def test_perfect_embeddings_score_one():
    z = unit_rows(np.random.default_rng(0), 40, 16)
    metrics = retrieval(z, z, np.arange(40), np.arange(40))
    assert all(value == 1 for key, value in metrics.items() if not key.endswith("_chance"))


def test_equal_captions_are_right_for_each_others_pictures():
    z = unit_rows(np.random.default_rng(1), 6, 8)
    swapped = z[[1, 0, 2, 3, 4, 5]]  # the first two pictures look like each other's caption
    apart = retrieval(swapped, z, np.arange(6), np.arange(6))
    equal = retrieval(swapped, z, np.arange(6), np.array([0, 0, 2, 3, 4, 5]))
    assert apart["image_retrieval_recall@1"] == pytest.approx(4 / 6)
    assert equal["image_retrieval_recall@1"] == equal["text_retrieval_recall@1"] == 1


@pytest.mark.parametrize("wrong, right", [(9, 1), (7, 3), (2, 4), (0, 2), (90, 10)])
def test_chance_is_the_hypergeometric_probability(wrong, right):
    total = wrong + right
    for k in (1, 5, 10):
        draws = min(k, total)
        exact = 1 - math.comb(wrong, draws) / math.comb(total, draws)
        got = r.hit_probability(np.array([0]), np.array([wrong]), np.array([right]), k)
        assert got == pytest.approx(exact, abs=1e-12)


def test_expected_recall_with_ties_equals_shuffling():
    rng = np.random.default_rng(0)
    above, wrong, right, k, trials = 2, 6, 3, 5, 40_000
    order = rng.permuted(np.tile(np.arange(wrong + right), (trials, 1)), axis=1)
    hit = (order[:, : k - above] >= wrong).any(1).mean()
    exact = r.hit_probability(np.array([above]), np.array([wrong]), np.array([right]), k)[0]
    assert abs(hit - exact) < 4 * math.sqrt(exact * (1 - exact) / trials)  # four standard errors
    assert r.hit_probability(np.array([5]), np.array([0]), np.array([9]), 5)[0] == 0


def test_random_embeddings_are_at_chance_on_average():
    args = uneven_set(0)
    rng = np.random.default_rng(7)
    got = []
    for _ in range(60):
        zimg, names = unit_rows(rng, len(args[0]), 16), unit_rows(rng, 200, 16)
        got.append(retrieval(zimg, names[args[3] + 3], *args[2:]))
    for key in ("image_retrieval_recall@5",):
        rates = [m[key] for m in got]
        assert abs(np.mean(rates) - got[0][key + "_chance"]) < 4 * np.std(rates) / math.sqrt(len(rates))


def test_nearest_returns_the_best_first_and_keeps_order_in_ties():
    queries = np.eye(3, dtype=np.float32)[:1]
    candidates = np.array([[0.1, 0, 0], [0.9, 0, 0], [0.1, 0, 0]], np.float32)
    order, scores = r.nearest(queries, candidates, 5)
    assert order.tolist() == [[1, 0, 2]]
    np.testing.assert_allclose(scores, [[0.9, 0.1, 0.1]])


@pytest.mark.parametrize(
    "change, what",
    [
        ({"ztxt": np.ones((3, 5), np.float32)}, "ztxt"),
        ({"owner": np.array([0, 1])}, "owner, caption_group"),
        ({"owner": np.array([0, 1, 3])}, "owner"),
        ({"owner": np.array([0, 1, 1])}, "picture 2"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_with_one_line(change, what):
    eye = np.eye(3, dtype=np.float32)
    args = {"zimg": eye, "ztxt": eye, "owner": np.arange(3), "caption_group": np.arange(3)} | change
    with pytest.raises(ValueError, match=what) as error:
        r._check(**args)  # directly: the test run also checks shapes, which a user does not
    assert "\n" not in str(error.value) and "expected" in str(error.value)


def test_nearest_in_slices_equals_a_stable_sort_of_all_scores(monkeypatch):
    rng = np.random.default_rng(0)
    queries, candidates = (rng.integers(-2, 3, (n, 3)).astype(np.float32) for n in (4, 20))
    scores = queries @ candidates.T  # whole numbers: many ties
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :7]
    monkeypatch.setattr(r, "SLICE", 3)
    items, found = r.nearest(queries, candidates, 7)
    np.testing.assert_array_equal(items, expected)
    np.testing.assert_array_equal(found, np.take_along_axis(scores, expected, 1))
