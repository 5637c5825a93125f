"""The order for object stores: every sample once an epoch, few shards at a time."""

import io
import pickle
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lit_tune.data import sources
from lit_tune.data.order import PlainOrder
from lit_tune.data.order_open import open_order, shard_sizes
from lit_tune.data.order_window import WindowOrder
from lit_tune.errors import ConfigError

UNEVEN = (7, 0, 31, 1, 12, 0, 0, 50, 3, 19, 8, 0)  # 131 samples
PAPER = tuple(np.random.default_rng(0).multinomial(1_547_277_668, np.full(15_445, 1 / 15_445)).tolist())


def asked(window: int, batch: int = 8) -> SimpleNamespace:
    """What open_order reads of a config."""
    data = SimpleNamespace(shard_window=window, mix=(), hard_share=0.0)
    return SimpleNamespace(seed=3, global_batch=batch, data=data)


def owners(sizes: tuple[int, ...]) -> np.ndarray:
    """The shard of each sample."""
    return np.repeat(np.arange(len(sizes)), sizes)


@pytest.mark.parametrize("sizes", [UNEVEN, (5,), (0, 0, 4, 0), tuple(range(40))])
@pytest.mark.parametrize("window", [1, 3, 100])
def test_each_epoch_visits_every_sample_once_in_another_order(sizes, window):
    n = sum(sizes)
    epochs = WindowOrder(n, 5, 8, sizes, window).locate(np.arange(3 * n, dtype=np.uint64)).reshape(3, n)
    for epoch in epochs:
        assert np.array_equal(np.sort(epoch), np.arange(n))
    assert n < 6 or not np.array_equal(epochs[0], epochs[1])


@pytest.mark.parametrize("window", [1, 2, 4])
def test_a_window_of_positions_touches_no_more_shards_than_it_holds(window):
    n, order = sum(UNEVEN), WindowOrder(sum(UNEVEN), 5, 8, UNEVEN, window)
    owner = owners(UNEVEN)
    for epoch in range(4):
        ids = order.locate(np.arange(epoch * n, (epoch + 1) * n, dtype=np.uint64))
        touched = owner[ids]
        assert np.array_equal(touched, order.shard(ids))
        # a shard's samples lie in one stretch, and at no place are more than `window` shards begun and not finished
        first = {shard: int(np.flatnonzero(touched == shard)[0]) for shard in set(touched.tolist())}
        last = {shard: int(np.flatnonzero(touched == shard)[-1]) for shard in first}
        begun = [sum(first[shard] <= place <= last[shard] for shard in first) for place in range(n)]
        assert max(begun) <= window


def test_steps_of_the_full_data_set_read_few_shards_at_any_step():
    order = WindowOrder(sum(PAPER), 0, 65_536, PAPER, 32)
    for step in (0, 70_847, 10**7):
        ids = order.planned_ids(step)
        assert len(set(ids.tolist())) == 65_536  # no epoch ends in these steps
        assert len(set(order.shard(ids).tolist())) <= 2 * 32  # a batch is shorter than a window, so it lies in two
    assert len(set(order.shard(PlainOrder(sum(PAPER), 0, 65_536).planned_ids(0)).tolist())) > 15_000


def test_positions_alone_in_any_shape_and_in_another_process_are_the_same():
    order = WindowOrder(sum(UNEVEN), 5, 8, UNEVEN, 3)
    whole = order.locate(np.arange(600, dtype=np.uint64))
    assert np.array_equal(order.locate(np.arange(600, dtype=np.uint64).reshape(20, 30)), whole.reshape(20, 30))
    again = pickle.loads(pickle.dumps(order))
    assert again == order
    assert [int(again.locate(np.array([p], np.uint64))[0]) for p in range(0, 600, 17)] == whole[::17].tolist()
    assert not np.array_equal(WindowOrder(sum(UNEVEN), 6, 8, UNEVEN, 3).locate(np.arange(600)), whole)


def tar_of(path: Path, pairs: int) -> None:
    """A shard of so many pairs; their pictures are never decoded here."""
    with tarfile.open(path, "w") as tar:
        for number in range(pairs):
            for suffix, data in (("jpg", b"\xff\xd8\xff picture"), ("txt", b"a caption")):
                member = tarfile.TarInfo(f"{path.stem}-{number}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def test_open_order_takes_shards_as_long_as_the_source_and_refuses_a_source_without(tmp_path, monkeypatch):
    monkeypatch.setenv("LIT_TUNE_CACHE", str(tmp_path / "cache"))
    for number, pairs in enumerate((4, 1, 6)):
        tar_of(tmp_path / f"{number}.tar", pairs)
    spec, data = str(tmp_path / "*.tar"), SimpleNamespace(caption_field="txt")
    source = sources.open_source(spec, data)
    opened = open_order(asked(2), source)
    assert opened == WindowOrder(11, 3, 8, (4, 1, 6), 2)
    assert [source.describe(i)[0] for i in range(11)] == [f"{shard}.tar" for shard in owners(opened.sizes)]
    assert open_order(asked(0), source) == PlainOrder(11, 3, 8)
    assert shard_sizes(sources.open_source(spec, data, max_samples=5)) == (4, 1, 0)
    assert shard_sizes(sources.open_source(spec, data, max_samples=2)) == (2, 0, 0)

    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "captions.csv").write_text("image,caption\na.png,a word\n")
    with pytest.raises(ConfigError, match="shard_window.*no shards"):
        open_order(asked(2), sources.open_source(str(tmp_path), data))
