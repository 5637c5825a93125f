"""Mixtures: exact shares in every prefix, each part in its own epochs, one source for everything else."""

import pickle
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import shards_on_disk
from PIL import Image

from lit_tune import config as config_lib
from lit_tune.data import mixture
from lit_tune.data.order import PlainOrder
from lit_tune.data.order_mix import MixedOrder, part_seed
from lit_tune.data.order_open import open_order
from lit_tune.data.order_window import WindowOrder
from lit_tune.data.sample import uid_of
from lit_tune.errors import ConfigError

WEIGHTS = (
    (Fraction(7, 10), Fraction(3, 10)),
    (Fraction(1),),
    (Fraction(1, 3), Fraction(1, 3), Fraction(1, 3)),
    (Fraction(1, 1000), Fraction(999, 1000)),
    (Fraction(1, 2), Fraction(1, 4), Fraction(1, 8), Fraction(1, 16), Fraction(1, 16)),
    (Fraction(12_345, 100_000), Fraction(87_654, 100_000), Fraction(1, 100_000)),
    tuple(Fraction(share, 1000) for share in (11, 13, 17, 19, 23, 917)),
    tuple(Fraction(1, 7) for _ in range(7)),
)


def mixed(weights: tuple[Fraction, ...], sizes: tuple[int, ...], seed: int = 2) -> MixedOrder:
    """Plain parts of these sizes."""
    parts = tuple(PlainOrder(n, part_seed(seed, number), 8) for number, n in enumerate(sizes))
    return MixedOrder(sum(sizes), seed, 8, parts, weights)


def folder(path, count: int, word: str):
    """A folder of `count` pictures of one colour, each with a caption of its own."""
    path.mkdir()
    for i in range(count):
        Image.new("RGB", (8, 8), (i, 0, len(word))).save(path / f"{i}.png")
    lines = [f"{i}.png,{word} {i}" for i in range(count)]
    (path / "captions.csv").write_text("\n".join(["image,caption", *lines]) + "\n")
    return path


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_every_prefix_holds_each_part_within_a_sample(weights):
    order = mixed(weights, tuple(range(5, 5 + len(weights))))
    part, visit = order.visits(np.arange(250_000, dtype=np.uint64))  # two periods of the longest and more
    length = np.arange(1, 250_001)
    for number, weight in enumerate(weights):
        own = part == number
        assert np.array_equal(visit[own], np.arange(own.sum()))  # the visits of a part are counted without a gap
        off = np.abs(np.cumsum(own) * weight.denominator - length * weight.numerator).max()  # exact
        assert Fraction(int(off), weight.denominator) <= 1 - Fraction(1, max(2 * len(weights) - 2, 1))


def test_far_positions_continue_the_count_of_visits():
    for weights in WEIGHTS:
        order = mixed(weights, tuple(range(10, 10 + len(weights))))
        for position in (65_536 * 10**7, 2**61 + 12_345, 2**62 - 1):
            part, visit = order.visits(np.array([position], np.uint64))
            assert abs(int(visit[0]) - position * weights[int(part[0])]) < 1
        start = 65_536 * 10**7
        part, visit = order.visits(start + np.arange(5000, dtype=np.uint64))
        for number in range(len(weights)):
            own = visit[part == number].astype(np.int64)
            assert (np.diff(own) == 1).all()


def test_each_part_walks_its_own_epochs():
    sizes, weights = (11, 40, 6), (Fraction(1, 2), Fraction(3, 10), Fraction(1, 5))
    order = mixed(weights, sizes)
    ids = order.locate(np.arange(1_000, dtype=np.uint64))
    starts = np.cumsum([0, *sizes])
    for number, n in enumerate(sizes):
        own = ids[(starts[number] <= ids) & (ids < starts[number + 1])] - starts[number]
        whole = own[: len(own) // n * n].reshape(-1, n)
        assert len(whole) >= 7 and all(np.array_equal(np.sort(epoch), np.arange(n)) for epoch in whole)
        assert not np.array_equal(whole[0], whole[1])


def test_positions_alone_give_the_same_and_substitutes_stay_in_their_part():
    order = mixed((Fraction(7, 10), Fraction(3, 10)), (50, 30))
    ids = order.locate(np.arange(400, dtype=np.uint64))
    again = pickle.loads(pickle.dumps(order))
    assert again == order and np.array_equal(again.locate(np.arange(400, dtype=np.uint64).reshape(8, 50)).ravel(), ids)
    for position in range(0, 400, 7):
        assert int(again.locate(np.array([position], np.uint64))[0]) == ids[position]
        stand_ins = {order.substitute(position, attempt) for attempt in range(1, 9)}
        assert len(stand_ins) > 4 and all((one < 50) == (ids[position] < 50) for one in stand_ins)


def test_a_mixture_is_a_source_that_shows_its_parts(tmp_path):
    a, b = folder(tmp_path / "a", 5, "red"), folder(tmp_path / "b", 3, "blue")
    data = SimpleNamespace(train="", mix=(f"0.75={a}", f"1/4={b}"), caption_field="txt", uid_list="", shard_window=0)
    source = mixture.open_train(data)
    assert len(source) == 8 and source.captions(4) == ("red 4",) and source[5].captions == ("blue 0",)
    assert list(source.caption_sets()) == [(f"red {i}",) for i in range(5)] + [(f"blue {i}",) for i in range(3)]
    assert source.pair(7, 10**6) == ((b / "2.png").read_bytes(), ("blue 2",))
    assert source.describe(6)[0].startswith(f"{b}: ") and source.describe(6)[1] == source.parts[1].describe(1)[1]
    with pytest.raises(IndexError):
        source.captions(8)
    turned = SimpleNamespace(**{**vars(data), "mix": data.mix[::-1]})
    assert mixture.open_train(turned).fingerprint != source.fingerprint
    assert pickle.loads(pickle.dumps(source)).captions(6) == source.captions(6)
    assert len(mixture.open_train(data, max_samples=2)) == 4

    order = open_order(SimpleNamespace(seed=1, global_batch=8, data=data), source)
    assert order.weights == (Fraction(3, 4), Fraction(1, 4)) and [part.n for part in order.parts] == [5, 3]
    twice = SimpleNamespace(**{**vars(data), "mix": (f"0.5={a}", f"0.5={a}/../a")})
    with pytest.raises(ConfigError, match=r"data\.mix.*the same pairs"):
        mixture.open_train(twice)


def test_parts_in_shards_can_be_read_by_windows():
    part = WindowOrder(9, 4, 8, (4, 5), 1)
    order = MixedOrder(15, 1, 8, (part, PlainOrder(6, 5, 8)), (Fraction(1, 2), Fraction(1, 2)))
    ids = order.locate(np.arange(18, dtype=np.uint64))
    assert sorted(ids[ids < 9].tolist()) == list(range(9))
    assert np.array_equal(ids[ids < 9], part.locate(np.arange(9, dtype=np.uint64)))


@pytest.mark.parametrize("mix, train, said", [
    (("0.5=emoji:train", "0.4=emoji:dev/train"), "", "add up to 1; found 0.9"),
    (("1=emoji:train", "0=emoji:dev/train"), "", "above 0"),
    (("0.5=emoji:train", "0.5=emoji:train"), "", "each part once"),
    (("emoji:train",), "", "weight=shards or folder"),
    (("1/0=emoji:train",), "", "weight=shards or folder"),
    (("1=",), "", "weight=shards or folder"),
    (("1=emoji:train",), "emoji:train", "config.data.train"),
    (("0.0000000001=emoji:train", "0.9999999999=emoji:dev/train"), "", "common denominator"),
    (("1=emoji:tain",), "", "choose one of them"),
])
def test_a_mixture_that_cannot_be_is_refused_in_one_line(mix, train, said):
    config = config_lib.load("quickstart", [("data.mix", str(mix)), ("data.train", train)])
    with pytest.raises(ConfigError) as caught:
        config_lib.check(config)
    assert said.split("; found ")[0] in str(caught.value) and "\n" not in str(caught.value)


def test_thirds_and_decimals_are_accepted():
    for mix in (("1/3=emoji:train", "2/3=emoji:dev/train"), ("0.70=emoji:train", ".3=emoji:dev/train")):
        config_lib.check(config_lib.load("quickstart", [("data.mix", str(mix)), ("data.train", "")]))


def test_a_mixture_of_listed_shards_knows_the_uid_of_every_pair(tmp_path):
    shards_on_disk.shard(tmp_path / "a.tar", [5, None, 7, 8])
    shards_on_disk.shard(tmp_path / "b.tar", [9, 10], start=4)
    (tmp_path / "list.txt").write_text("".join(f"{uid:032x}\n" for uid in (7, 10, 5)))
    data = config_lib.load("quickstart").data
    data.caption_field, data.train, data.uid_list = "txt", "", str(tmp_path / "list.txt")
    data.mix = (f"0.5={tmp_path}/a.tar", f"0.5={tmp_path}/b.tar")
    listed = mixture.open_train(data)
    assert [uid_of(listed, i) for i in range(len(listed))] == [f"{uid:032x}" for uid in (5, 7, 10)]
    data.uid_list = ""
    whole = mixture.open_train(data)
    assert [uid_of(whole, i) for i in range(6)] == [whole[i].meta.get("uid", "") for i in range(6)]
    assert uid_of(whole, 1) == "" and uid_of(whole, 5) == f"{10:032x}"
