"""Bootstrap intervals: they cover, they repeat with the seed, they respect clusters."""

import math

import numpy as np
import pytest

from lit_tune.evals.intervals import interval, seeds_interval


def test_interval_covers_the_true_rate_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    rate, n, trials = 0.35, 150, 200
    hits = rng.random((trials, n)) < rate
    low, high = interval(hits, np.arange(n), seed=1).T
    covered = np.mean((low <= rate) & (rate <= high))
    assert 0.90 <= covered <= 0.99  # 95 % less the bootstrap's own optimism, 200 trials: +- 0.03


def test_interval_is_as_wide_as_the_binomial_one():
    hits = (np.arange(400) < 160)[None]
    low, high = interval(hits, np.arange(400))[0]
    expected = 2 * 1.96 * math.sqrt(0.4 * 0.6 / 400)
    assert high - low == pytest.approx(expected, rel=0.12)  # 1,000 resamples
    assert low < 0.4 < high


def test_interval_repeats_with_its_seed_and_changes_with_another():
    hits = (np.random.default_rng(0).random((3, 90)) < 0.5).astype(np.float32)
    np.testing.assert_array_equal(interval(hits, np.arange(90), 5), interval(hits, np.arange(90), 5))
    assert not np.array_equal(interval(hits, np.arange(90), 5), interval(hits, np.arange(90), 6))


def test_captions_of_one_picture_count_as_one_draw():
    pictures = np.random.default_rng(0).random(100) < 0.4
    one = interval(pictures[None], np.arange(100))[0]
    five = interval(np.repeat(pictures, 5)[None], np.repeat(np.arange(100), 5))[0]
    np.testing.assert_allclose(one, five)  # five equal answers tell no more than one
    naive = interval(np.repeat(pictures, 5)[None], np.arange(500))[0]
    assert naive[1] - naive[0] < 0.6 * (five[1] - five[0])


def test_clusters_of_different_sizes_are_weighted_by_their_queries():
    hits = np.array([[1, 1, 1, 0]])
    low, high = interval(hits, np.array([7, 7, 7, 3]))[0]
    assert low == 0 and high == 1  # either picture may be drawn twice


def test_no_hit_and_all_hits_get_the_exact_binomial_end():
    ends = interval(np.array([np.zeros(20), np.ones(20)]), np.arange(20))
    reach = 1 - 0.025 ** (1 / 20)  # Clopper-Pearson for 0 of 20
    np.testing.assert_allclose(ends, [[0, reach], [1 - reach, 1]])


def test_interval_over_runs_is_wider_where_runs_differ():
    rng = np.random.default_rng(0)
    same = np.repeat(rng.random((1, 1, 300)) < 0.5, 4, 0)
    differ = np.stack([rng.random((1, 300)) < rate for rate in (0.2, 0.4, 0.6, 0.8)])
    narrow, wide = (np.diff(seeds_interval(v, np.arange(300)))[0, 0] for v in (same, differ))
    assert wide > 1.5 * narrow
    np.testing.assert_allclose(seeds_interval(same[:1], np.arange(300)), interval(same[0], np.arange(300)))


def test_many_hits_that_stand_alone_have_the_interval_of_drawing_each():
    hits = np.random.default_rng(0).random((2, 12_000)) < np.array([[0.7], [0.02]])
    np.testing.assert_allclose(interval(hits, np.arange(12_000)), interval(hits.astype(float), np.arange(12_000)),
                               atol=1.5e-3)  # three standard errors of ends that rest on 25 resamples each
