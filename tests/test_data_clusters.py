"""Groups of captions and the batches drawn from them: found, kept, the same everywhere, visited as often as said."""

import json
import multiprocessing
import pickle
from types import SimpleNamespace

import numpy as np
import pytest

from lit_tune import config as config_lib
from lit_tune.data import clusters, kmeans
from lit_tune.data.order import PlainOrder
from lit_tune.data.order_hard import POOL, HardOrder
from lit_tune.data.order_open import open_order
from lit_tune.data.text_rows import CachedText
from lit_tune.errors import ConfigError

TOPICS, N, D = 6, 252, 16
TOPIC = np.searchsorted([1, 3, 6, 10, 15], np.arange(N) % 21, side="right")  # of each sample: sizes 12, 24, ..., 72
B = 20


class Vectors:
    """A text cache of TOPICS bundles of directions: uneven ones; every ninth sample has no caption."""

    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        vectors = np.eye(TOPICS, D)[TOPIC] * 4 + rng.normal(size=(N, D)) * 0.3
        self._vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        captions = np.where(np.arange(N) % 9 == 8, 0, 1 + np.arange(N) % 2)  # one or two, the second of another topic
        self.offsets = np.concatenate([[0], np.cumsum(captions)])
        self.rows = np.concatenate([[i, (i + 1) % N][:count] for i, count in enumerate(captions)]).astype(np.int64)
        self.unique = N
        self.info = {"files": {"vectors.npy": {"sha256": "ab", "bytes": 1}}}

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, rows: np.ndarray) -> np.ndarray:
        return self._vectors[rows]


class Pairs:
    """A source that is only asked for its length."""

    spec, fingerprint, counts = "pairs", "", {}
    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    __getitem__ = pair = captions = caption_sets = describe = __len__  # never called


def asked(share: float, count: int = TOPICS, batch: int = B) -> SimpleNamespace:
    """What open_order reads of a config."""
    data = SimpleNamespace(shard_window=0, mix=(), hard_share=share, hard_clusters=count)
    return SimpleNamespace(seed=3, global_batch=batch, data=data)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Vectors:
    monkeypatch.setenv("LIT_TUNE_CACHE", str(tmp_path))
    return Vectors()


def hard(cache: Vectors, share: float = 0.4, count: int = TOPICS) -> HardOrder:
    return open_order(asked(share, count), Pairs(len(cache)), CachedText(cache))


def test_kmeans_finds_bundles_and_stops_at_a_fixed_point():
    x = Vectors().take(np.arange(N))
    centroids = kmeans.fit(x, TOPICS, np.random.default_rng(0))
    labels, cosines = kmeans.assign(x, centroids)
    assert np.array_equal(labels, (x.astype(np.float64) @ centroids.T.astype(np.float64)).argmax(axis=1))
    for topic in range(TOPICS):
        own = labels[topic == TOPIC]
        assert len(set(own.tolist())) == 1
        mean = x[labels == own[0]].astype(np.float64).mean(axis=0)
        assert np.allclose(centroids[own[0]], mean / np.linalg.norm(mean), atol=1e-6)
    assert len(set(labels.tolist())) == TOPICS and cosines.min() > 0.8


def test_kmeans_fills_every_group_and_survives_equal_rows():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(3_000, 8)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    labels, cosines = kmeans.assign(x, kmeans.fit(x, 50, np.random.default_rng(0)))
    start = kmeans.assign(x, x[np.random.default_rng(0).choice(3_000, 50, replace=False)])[1]
    assert len(set(labels.tolist())) == 50 and cosines.mean() > start.mean() + 0.02
    same = np.repeat(x[:3], 4, axis=0)
    centroids = kmeans.fit(same, 5, np.random.default_rng(0))
    assert np.isfinite(centroids).all() and np.allclose(kmeans.assign(same, centroids)[1], 1, atol=1e-6)


@pytest.mark.parametrize("block", [7, 100_000])
def test_groups_hold_every_sample_with_a_caption_once_by_its_first(cache, monkeypatch, block):
    monkeypatch.setattr(clusters, "BLOCK", block)
    groups = clusters.open_or_build(cache, TOPICS, seed=3)
    has = np.flatnonzero(np.diff(cache.offsets))
    assert np.array_equal(np.sort(groups.members), has) and groups.sizes.sum() == len(has)
    for start, stop in zip(groups.starts[:-1], groups.starts[1:], strict=True):
        own = np.asarray(groups.members[start:stop])
        assert len(set((TOPIC[own]).tolist())) == 1 and np.all(np.diff(own.astype(np.int64)) > 0)
    assert np.array_equal(groups.nearest[:, 0], np.arange(TOPICS))
    assert all(sorted(row.tolist()) == list(range(TOPICS)) for row in groups.nearest)


def test_groups_are_made_once_and_again_only_for_another_cache_count_or_seed_or_when_damaged(cache, capsys):
    first = clusters.open_or_build(cache, TOPICS, 3)
    assert capsys.readouterr().err.count("clusters:") == 1
    assert clusters.open_or_build(cache, TOPICS, 3).fingerprint == first.fingerprint and not capsys.readouterr().err
    again = pickle.loads(pickle.dumps(first))
    assert again == first and np.array_equal(again.members, first.members)
    folders = {first.folder, clusters.open_or_build(cache, TOPICS - 1, 3).folder,
               clusters.open_or_build(cache, TOPICS, 4).folder}
    assert len(clusters.open_or_build(cache, 0, 3).sizes) == round(len(cache) ** 0.5)
    cache.info["files"]["vectors.npy"]["sha256"] = "cd"
    folders.add(clusters.open_or_build(cache, TOPICS, 3).folder)
    assert len(folders) == 4
    cache.info["files"]["vectors.npy"]["sha256"] = "ab"
    capsys.readouterr()
    (first.folder / "members.npy").write_bytes(b"cut")
    assert clusters.open_or_build(cache, TOPICS, 3) == first
    said = capsys.readouterr().err
    assert "members.npy" in said and "made again" in said
    assert not list(first.folder.parent.glob(".partial-*"))
    assert json.loads((first.folder / "clusters.json").read_text())["samples"] == len(first.members)


def test_share_0_is_the_plain_order_and_the_other_rows_follow_it(cache):
    assert open_order(asked(0.0), Pairs(len(cache)), CachedText(cache)) == PlainOrder(len(cache), 3, B)
    order = hard(cache)
    assert order.hard == 8
    plain = np.concatenate([order.planned_ids(step)[:12] for step in range(21)])  # 21 x 12 rows: one epoch
    assert np.array_equal(plain, PlainOrder(N, 3, 12).locate(np.arange(N, dtype=np.uint64)))
    assert np.array_equal(np.sort(plain), np.arange(len(cache)))


def test_hard_rows_of_a_step_are_different_samples_of_the_nearest_groups(cache):
    order = hard(cache)
    vectors = cache.take(np.arange(len(cache))).astype(np.float64)
    alike, whole = [], []
    for step in [*range(60), 10**7]:
        ids = order.planned_ids(step)
        rows = ids[12:]
        topics = set(TOPIC[rows].tolist())
        assert len(set(rows.tolist())) == 8 and len(topics) <= (2 if 0 in topics else 1)  # only topic 0 has under 16
        alike.append((vectors[rows] @ vectors[rows].T).mean())
        whole.append((vectors[ids[:12]] @ vectors[ids[:12]].T).mean())
    assert np.mean(alike) > 0.8 > 0.4 > np.mean(whole)
    assert (TOPIC == 0).sum() < POOL * 8 < (np.flatnonzero(TOPIC == 1) % 9 != 8).sum()
    wide = hard(cache, share=0.95)  # POOL * 19 = 38: the two or three smallest topics are not enough alone
    joined = [len(set(TOPIC[wide.planned_ids(step)[1:]].tolist())) for step in range(40)]
    assert min(joined) == 1 and max(joined) in (2, 3)


def test_positions_alone_on_any_hosts_and_in_another_process_are_the_same(cache):
    order = hard(cache)
    again = pickle.loads(pickle.dumps(order))
    assert again == order
    for step in (0, 5, 10**7):
        ids = order.planned_ids(step)
        for hosts in (1, 2, 4):
            parts = [again.locate(again.positions(step, rows)) for rows in np.split(np.arange(B), hosts)]
            assert np.array_equal(np.concatenate(parts), ids)
    two = order.locate(order.past_positions(6, np.arange(2 * B)))  # as the bank of past texts asks
    assert np.array_equal(two, np.concatenate([order.planned_ids(5), order.planned_ids(4)]))
    assert (order.locate(order.past_positions(0, np.arange(B))) < len(cache)).all()


def test_samples_are_visited_as_often_as_rates_say(cache):
    order = hard(cache)
    rates = order.rates()
    sizes = order.clusters.sizes
    without = len(cache) - sizes.sum()  # samples without a caption: in plain rows only
    assert rates @ sizes + without * 12 / len(cache) == pytest.approx(B)
    assert rates.max() > 1.3 * rates.min()  # a real difference: some groups are neighbours of more anchors
    steps = int(np.lcm(len(order.clusters.members), N // 12))  # whole turns of anchors, whole epochs of plain rows
    visits = np.bincount(order.locate(np.arange(steps * B, dtype=np.uint64)), minlength=len(cache)) / steps
    for group, (start, stop) in enumerate(zip(order.clusters.starts[:-1], order.clusters.starts[1:], strict=True)):
        own = visits[np.asarray(order.clusters.members[start:stop])]
        assert own.mean() == pytest.approx(rates[group], rel=0.05)
        assert np.abs(own - rates[group]).max() < 5 * np.sqrt((rates[group] - 12 / N) / steps)  # 5 standard deviations
    assert visits[8] == pytest.approx(12 / len(cache), rel=0.01)


def test_what_cannot_be_drawn_is_refused(cache):
    with pytest.raises(ConfigError, match="hard_share.*at most 224 rows"):
        open_order(asked(0.9, batch=300), Pairs(len(cache)), CachedText(cache))
    with pytest.raises(ConfigError, match="cached"):
        open_order(asked(0.4), Pairs(len(cache)))
    order = hard(cache)
    order.check_same({"order": order.fingerprint})
    PlainOrder(5, 0, 2).check_same({})
    with pytest.raises(ConfigError, match="groups of captions.*text-clusters"):
        order.check_same({"order": "0123"})


@pytest.mark.parametrize("changes, said", [
    ({"data.hard_share": "0.5", "text.source": "live"}, "text.source=cached"),
    ({"data.hard_share": "0.5", "loss.mask_equal_captions": "False"}, "loss.mask_equal_captions"),
    ({"data.hard_share": "0.5", "data.shard_window": "2"}, "data.mix or data.shard_window"),
    ({"data.hard_share": "0.001"}, "at least one row of 64"),
    ({"data.hard_share": "1.0"}, "[0, 1)"),
    ({"data.hard_clusters": "5"}, "0 where data.hard_share is 0"),
])
def test_settings_that_exclude_each_other_are_refused_in_one_line(changes, said):
    with pytest.raises(ConfigError) as caught:
        config_lib.check(config_lib.load("quickstart", list(changes.items())), files=False)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def build(where: str) -> str:
    """In a process of its own: the fingerprint of the groups."""
    import os

    os.environ["LIT_TUNE_CACHE"] = where
    return clusters.open_or_build(Vectors(), TOPICS, 3).fingerprint


@pytest.mark.multiprocess
def test_processes_that_come_at_once_share_one_result(tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert len(set(pool.map(build, [str(tmp_path)] * 2))) == 1
    assert len(list((tmp_path / "text-clusters").iterdir())) == 1
