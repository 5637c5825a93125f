"""The order of the run: a permutation at every size, undone by its inverse, independent of everything but the seed."""

import dataclasses
import hashlib
import pickle
import time

import numpy as np
import pytest

from lit_tune.data import order
from lit_tune.data.order import PlainOrder

SIZES = (1, 2, 3, 5, 17, 64, 100, 257, 1000, 4096, 10_007, 65_537)  # powers of two, one beside them, primes


def inverse(y: int, n: int, key: int) -> int:
    """The network run backwards in plain Python integers, walking back through what lay outside range(n)."""
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    mask, m64 = (1 << half) - 1, (1 << 64) - 1

    def mix(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & m64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB & m64
        return x ^ (x >> 31)

    while True:
        left, right = y >> half, y & mask
        for number in reversed(range(order.ROUNDS)):
            round_key = mix((key + 0x9E3779B97F4A7C15 * (number + 1)) & m64)
            left, right = right ^ (mix((left + round_key) & m64) & mask), left
        y = (left << half) | right
        if y < n:
            return y


@pytest.mark.parametrize("n", SIZES)
def test_every_size_is_permuted_without_loss(n):
    for key in (0, 1, 2**64 - 1):
        got = order.permutation(np.arange(n, dtype=np.uint64), n, key)
        assert np.array_equal(np.sort(got), np.arange(n))


@pytest.mark.parametrize("n", [7, 1000, 1_547_277_668, 2**40 + 15])
def test_inverse_undoes_the_permutation(n):
    i = np.random.default_rng(0).integers(0, n, 200).astype(np.uint64)
    for key in (3, 12345678901234567890):
        for before, after in zip(i.tolist(), order.permutation(i, n, key).tolist(), strict=True):
            assert inverse(after, n, key) == before


def test_65536_positions_of_the_full_data_set_take_well_under_100_ms():
    positions = np.arange(65_536, dtype=np.uint64) + np.uint64(65_536 * 30_000)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        PlainOrder(1_547_277_668, 0, 65_536).locate(positions)
        seconds.append(time.perf_counter() - start)
    print(f"{min(seconds) * 1e3:.1f} ms")
    assert min(seconds) < 0.1


def test_each_epoch_holds_every_sample_once_in_another_order():
    n = 1009
    first, second, third = PlainOrder(n, 5, 8).locate(np.arange(3 * n, dtype=np.uint64)).reshape(3, n)
    for one in (first, second, third):
        assert np.array_equal(np.sort(one), np.arange(n))
    assert (first == second).sum() < 12 and (second == third).sum() < 12  # a random pair agrees in about 1 place
    assert (first == PlainOrder(n, 6, 8).locate(np.arange(n, dtype=np.uint64))).sum() < 12


def test_a_position_is_located_alone_as_in_company():
    plain = PlainOrder(777, 9, 8)
    positions = np.arange(5000, dtype=np.uint64)
    whole = plain.locate(positions)
    assert whole.dtype == np.int64
    assert all(int(plain.locate(positions[p : p + 1])[0]) == whole[p] for p in range(0, 5000, 123))
    assert plain.locate(positions.reshape(50, 100)).shape == (50, 100)


def test_the_plain_order_is_the_one_that_runs_were_trained_with():
    full = PlainOrder(1_547_277_668, 0, 4)
    assert full.planned_ids(0).tolist() == [196224292, 613066896, 109670267, 214563374]
    assert full.planned_ids(70_847).tolist() == [597050593, 326431545, 928959448, 155911585]
    assert full.planned_ids(10**7).tolist() == [582210415, 1509283079, 631270638, 1440281478]
    paper = PlainOrder(1_547_277_668, 0, 65_536)
    assert [paper.batch_digest(step) for step in (0, 70_847, 10**7)] == [
        "14dda3c31392350d", "0140d11b6b381082", "d167d9ed721e5f81"]
    assert [PlainOrder(1_547_277_668, 3, 4).substitute(7, attempt) for attempt in (1, 2)] == [1215670895, 303495378]
    assert PlainOrder(10, 3, 4).past_positions(1, np.arange(8)).tolist() == [0, 1, 2, 3, 6, 7, 8, 9]


def test_an_order_cannot_be_changed_and_survives_a_pickle():
    plain = PlainOrder(100, 1, 8)
    with pytest.raises(dataclasses.FrozenInstanceError):
        plain.seed = 2
    assert pickle.loads(pickle.dumps(plain)) == plain


def test_order_looks_random():
    n = 100_000
    got = order.permutation(np.arange(n, dtype=np.uint64), n, 1).astype(np.float64)
    assert abs(np.corrcoef(np.arange(n), got)[0, 1]) < 5 / np.sqrt(n)
    assert abs(np.corrcoef(got[:-1], got[1:])[0, 1]) < 5 / np.sqrt(n)
    table = np.histogram2d(np.arange(n), got, bins=20)[0]  # where each 20th of the input goes
    chi2 = ((table - n / 400) ** 2 / (n / 400)).sum()
    assert abs(chi2 - 361) < 6 * np.sqrt(2 * 361)  # 19 * 19 degrees of freedom
    fixed = sum(int((order.permutation(np.arange(500, dtype=np.uint64), 500, k) == np.arange(500)).sum())
                for k in range(200))  # fmt: skip
    assert 120 < fixed < 280  # one fixed point a permutation, standard deviation 14 in 200


def test_substitutes_are_spread_and_do_not_follow_the_plan():
    n = 50
    picks = np.array([PlainOrder(n, 0, 8).substitute(p, 1) for p in range(5000)])
    counts = np.bincount(picks, minlength=n)
    assert len(counts) == n and abs(((counts - 100) ** 2 / 100).sum() - 49) < 6 * np.sqrt(98)
    million = PlainOrder(10**6, 0, 8)
    assert len({million.substitute(7, attempt) for attempt in range(1, 17)}) == 16
    assert million.substitute(7, 1) != PlainOrder(10**6, 1, 8).substitute(7, 1)


def test_extra_rows_are_distinct_all_of_them_when_there_are_few():
    rows = order.extra_rows(3, 64, 1000, seed=0)
    assert rows.dtype == np.int64 and len(set(rows.tolist())) == 64 and 0 <= rows.min() and rows.max() < 1000
    assert not np.array_equal(rows, order.extra_rows(4, 64, 1000, seed=0))
    assert np.array_equal(rows, order.extra_rows(3, 64, 1000, seed=0))
    assert np.array_equal(order.extra_rows(3, 64, 64, seed=0), np.arange(64))
    assert np.array_equal(order.extra_rows(3, 64, 10, seed=0), np.arange(10))


def test_batch_digest_hashes_the_planned_ids_in_row_order():
    plain = PlainOrder(20, 1, 8)
    ids = plain.planned_ids(2)
    everything = np.concatenate([plain.planned_ids(step) for step in range(5)])
    assert np.array_equal(np.sort(everything[:20]), np.arange(20))  # steps follow each other through the epochs
    assert plain.batch_digest(2) == hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest()[:16]
    assert plain.batch_digest(2) != plain.batch_digest(3)


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1, 2**32, 2**63 + 5, -1])
def test_generators_are_those_of_numpy_s_own_cut_into_words(seed):
    for position in (0, 1, 2**32 - 1, 2**32, 2**32 + 1, 2**40 + 7, 2**64 - 1):
        expected = np.random.default_rng((seed % 2**64, position))
        assert order.generator(seed, position).random(3).tolist() == expected.random(3).tolist()


def test_generators_of_neighbours_differ_and_repeat():
    draws = [order.generator(seed, p).random(4).tolist() for seed in (0, -1, 2**63 + 5) for p in range(4)]
    assert len({tuple(d) for d in draws}) == 12
    assert draws[1] == order.generator(0, 1).random(4).tolist()
