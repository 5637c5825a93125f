"""Batches: the same rows whoever computes them, wherever they start, on however many devices, hosts and workers."""

import io
import multiprocessing
import tarfile
import time
from pathlib import Path

import grain
import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from PIL import Image

from lit_tune import device_resize
from lit_tune.configs import common
from lit_tune.data import captions, order, sources, transforms
from lit_tune.data.examples import TRIES, HostBatches, PictureCache, Recipe
from lit_tune.data.loader import Batches, own_rows
from lit_tune.data.order import PlainOrder
from lit_tune.data.order_open import open_order
from lit_tune.data.quarantine import Quarantine
from lit_tune.data.sample import KINDS
from lit_tune.data.text_rows import CachedText, TokenText
from lit_tune.errors import ConfigError, DataError

N, B = 37, 16
BAD = {5: b"", 11: b"<html>", 20: None, 30: "short"}  # picture bytes; None: a cut picture; "short": the caption


class Words:
    """A text provider that shows what it was asked for."""

    def row(self, index: int, choice: int) -> dict[str, np.ndarray]:
        return {"ztxt": np.full(4, index, np.float32), "caption_id": np.array([index, choice], np.uint32)}


class FewTexts:
    """What CachedText needs of a text cache: three distinct captions, samples 0 and 2 share one."""

    vectors = np.eye(3, dtype=np.float32)
    rows = np.array([0, 1, 0, 2])
    offsets = np.array([0, 1, 2, 4])
    caption_ids = np.array([[7, 7], [8, 8], [9, 9]], np.uint32)
    unique = 3

    def vector(self, i: int, j: int) -> np.ndarray:
        return self.vectors[self.rows[self.offsets[i] + j]]

    def take(self, rows: np.ndarray) -> np.ndarray:
        return self.vectors[rows]

    def caption_id(self, i: int) -> np.ndarray:
        return self.caption_ids[i]


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    """37 pairs, four of them bad, in one tar."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("shards") / "pairs.tar"
    with tarfile.open(path, "w") as tar:
        for n in range(N):
            out = io.BytesIO()
            Image.fromarray(rng.integers(0, 255, (24, 20, 3), dtype=np.uint8)).save(out, "PNG")
            picture, caption = out.getvalue(), f"caption {n}".encode()
            if n in BAD:
                kind = BAD[n]
                picture = kind if isinstance(kind, bytes) else picture[:-300] if kind is None else picture
                caption = b"x" if kind == "short" else caption
            for name, data in ((f"{n:04d}.png", picture), (f"{n:04d}.txt", caption)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def config(shard, tmp_path, monkeypatch):
    """A tiny run over that shard."""
    monkeypatch.setenv("LIT_TUNE_CACHE", str(tmp_path / "cache"))
    c = common.get_config()
    c.total_steps, c.global_batch, c.seed = 9, B, 4
    c.vision.image_size = (16, 16)
    c.data.train = str(shard)
    c.data.crop_scale, c.data.flip, c.data.color_jitter, c.data.rotate = (0.5, 1.0), 0.5, 0.3, 10.0
    c.data.max_bad_fraction = 0.2
    return c


def make_mesh(devices: int, fsdp: int = 1, tensor: int = 1):
    """A mesh over the first devices."""
    shape = (devices // fsdp // tensor, fsdp, tensor)
    axes = (AxisType.Auto,) * 3
    return jax.make_mesh(shape, ("data", "fsdp", "tensor"), axis_types=axes, devices=jax.devices()[:devices])


def run(config, mesh, start=0, steps=None, text=None):
    """(batches as numpy, quarantine lines, counts) of a run's loader."""
    source = sources.open_source(config.data.train, config.data)
    with Batches(source, text or Words(), open_order(config, source), config, mesh, start) as batches:
        got = []
        for batch in batches:
            got.append({name: np.asarray(array) for name, array in batch.items()})
            if len(got) == steps:
                break
        return got, batches.quarantine.drain(), dict(batches.quarantine.counts)


def same(one, other) -> bool:
    """Whether two lists of batches are equal bit for bit."""
    assert [sorted(b) for b in one] == [sorted(b) for b in other]
    return all(np.array_equal(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in a)


def test_batches_are_equal_on_one_and_on_eight_devices_however_the_mesh_is_cut(config):
    one, lines, counts = run(config, make_mesh(1))
    assert len(one) == 9 and one[0]["image"].shape == (B, 16, 16, 3) and one[0]["image"].dtype == np.uint8
    for mesh in (make_mesh(8), make_mesh(8, fsdp=4), make_mesh(8, fsdp=2, tensor=2)):
        other, other_lines, other_counts = run(config, mesh)
        assert same(one, other) and lines == other_lines and counts == other_counts


def test_arrays_are_cut_over_data_and_fsdp(config):
    mesh = make_mesh(8, fsdp=2, tensor=2)
    source = sources.open_source(config.data.train, config.data)
    with Batches(source, Words(), open_order(config, source), config, mesh) as batches:
        batch = next(batches)
        assert batches.step == 1 and batches.take_wait() > 0 and batches.take_wait() == 0
    for array in batch.values():
        assert array.sharding.is_equivalent_to(NamedSharding(mesh, PartitionSpec(("data", "fsdp"))), array.ndim)
        assert {shard.data.shape[0] for shard in array.addressable_shards} == {B // 4}


def test_any_start_step_continues_the_same_run(config):
    whole, _, _ = run(config, make_mesh(2))
    for start in (1, 7):
        assert same(run(config, make_mesh(2), start)[0], whole[start:])
    assert run(config, make_mesh(2), 9)[0] == [] and run(config, make_mesh(2), 12)[0] == []
    config.total_steps = 10**9
    begun = time.monotonic()
    run(config, make_mesh(1), 10**8, steps=1)
    assert time.monotonic() - begun < 20  # resuming walks through nothing


@pytest.mark.faults(row=33, fault="pictures that do not decode, a short caption",
                    expected="replaced by rule; all other rows as planned")
def test_rows_hold_the_planned_samples_and_substitutes_of_the_bad_ones(config):
    got, lines, counts = run(config, make_mesh(4))
    source = sources.open_source(config.data.train, config.data)
    plain, bad = PlainOrder(N, config.seed, B), 0
    for step, batch in enumerate(got):
        planned = plain.planned_ids(step)
        for row, index in enumerate(planned.tolist()):
            attempt = 0
            while index in BAD:
                attempt, bad = attempt + 1, bad + 1
                index = plain.substitute(step * B + row, attempt)
            assert batch["caption_id"][row, 0] == index == batch["ztxt"][row, 0]
    kinds = {5: "empty_image", 11: "unknown_format", 20: "undecodable", 30: "short_caption"}
    assert {line["index"]: line["kind"] for line in lines} == kinds and len(lines) == 4
    assert lines[0]["shard"] == "pairs.tar" and {line["key"] for line in lines} == {f"{n:04d}" for n in BAD}
    assert counts["bad"] == bad and counts["samples"] == 9 * B + bad
    assert sum(counts[kind] for kind in KINDS if kind in counts) == bad
    assert len(source) == N


def test_epochs_hold_every_sample_once(config):
    config.total_steps = 40
    planned = np.concatenate([PlainOrder(N, 4, B).planned_ids(step) for step in range(40)])
    for epoch in range(17):
        assert sorted(planned[epoch * N : (epoch + 1) * N].tolist()) == list(range(N))
    opened = open_order(config, sources.open_source(config.data.train, config.data))
    assert opened == PlainOrder(N, config.seed, B)
    assert np.array_equal(opened.planned_ids(3), planned[3 * B : 4 * B])


@pytest.mark.faults(row=15, fault="1, 2 and 4 hosts", expected="the same rows of the global batch")
def test_hosts_that_make_a_part_each_make_the_whole_together(config):
    source = sources.open_source(config.data.train, config.data)
    planned = open_order(config, source)
    whole = HostBatches(source, Words(), planned, Recipe.of(config), np.arange(B))(5)
    for hosts in (2, 4):
        parts = [
            HostBatches(source, Words(), planned, Recipe.of(config), rows)(5) for rows in np.split(np.arange(B), hosts)
        ]
        assert all(np.array_equal(whole[name], np.concatenate([part[name] for part in parts])) for name in whole)
    mesh = make_mesh(8, fsdp=2, tensor=2)
    sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    assert np.array_equal(own_rows(sharding, B), np.arange(B))  # replicas over "tensor" count once


def test_cached_pictures_change_nothing(config):
    plain, _, _ = run(config, make_mesh(1))
    config.data.cache_decoded_mib = 1
    assert same(plain, run(config, make_mesh(1))[0])
    cache = PictureCache(4 * 20 * 24 * 2)
    pictures = [transforms.Image.new("RGB", (20, 24)) for _ in range(3)]
    for n, one in enumerate(pictures):
        cache.put(n, one, 1)
    assert cache.get(1) == (pictures[1], 1) and cache.get(2) is None


@pytest.mark.multiprocess
def test_one_worker_process_gives_the_same_and_leaves_nothing_behind(config, recwarn):
    plain, lines, counts = run(config, make_mesh(8), 2)
    config.data.workers = 1
    other, other_lines, other_counts = run(config, make_mesh(8), 2)
    assert same(plain, other) and lines == other_lines and counts == other_counts
    run(config, make_mesh(1), 0, steps=1)  # closed early
    assert not multiprocessing.active_children() and not recwarn.list


@pytest.mark.faults(row=16, fault="0 and 3 worker processes", expected="the same batches")
@pytest.mark.slow
@pytest.mark.multiprocess
def test_three_worker_processes_give_the_same(config):
    plain = run(config, make_mesh(2), 1)
    config.data.workers = 3
    assert same(plain[0], run(config, make_mesh(2), 1)[0])


def test_bad_samples_are_counted_by_kind_and_shard(config):
    source = sources.open_source(config.data.train, config.data)
    quarantine = Quarantine(source, 1.0)
    assert quarantine.summary(quarantine.counts) == ""
    tried = np.array([[5, 11, 2], [5, 1, -1], [3, -1, -1]])
    fault = np.array([[4, 7, 0], [4, 0, 0], [0, 0, 0]], np.uint8)
    quarantine.take(tried, fault)
    one, two = KINDS[3], KINDS[6]
    assert quarantine.counts == {"samples": 6, "bad": 3, one: 2, two: 1}
    assert dict(quarantine.shards) == {"pairs.tar": 3} and len(quarantine.drain()) == 2 and not quarantine.drain()
    assert quarantine.summary(quarantine.counts) == (
        f"3 of 6 samples replaced: {one} 2, {two} 1; most of this process in pairs.tar 3; each is in quarantine.jsonl")


def test_crops_for_the_device_are_resized_to_what_the_host_makes(config):
    config.data.rotate, config.data.color_jitter = 0.0, 0.0
    host, lines, _ = run(config, make_mesh(1), steps=4)
    config.data.resize_on, config.data.canvas = "device", 24
    sent, other_lines, _ = run(config, make_mesh(4), steps=4)
    assert lines == other_lines
    resize = jax.jit(device_resize.resize, static_argnums=2)
    for ours, theirs in zip(sent, host, strict=True):
        assert ours["image"].shape == (B, 24, 24, 3) and ours["crop"].dtype == np.int32
        pictures = np.asarray(resize(ours["image"], ours["crop"], (16, 16))).astype(int)
        assert np.abs(pictures - theirs["image"]).max() <= 1
        assert all(np.array_equal(ours[name], theirs[name]) for name in theirs if name != "image")
    assert {crop[4] for batch in sent for crop in batch["crop"].tolist()} == {0, 1}


def test_captions_are_drawn_or_the_first_or_all_of_them(config, tmp_path):
    (tmp_path / "captions.jsonl").write_text('{"image": "a.png", "captions": ["red", "green apple", "blue"]}\n')
    Image.new("RGB", (20, 24)).save(tmp_path / "a.png")
    source = sources.open_source(str(tmp_path), config.data)

    def choices(rule: str) -> list[int]:
        config.data.captions = rule
        planned = open_order(config, source)
        return HostBatches(source, Words(), planned, Recipe.of(config), np.arange(B))(0)["caption_id"][:, 1].tolist()

    assert set(choices("random")) == {0, 1, 2} and set(choices("first")) == {0} == set(choices("joined"))

    def letters(texts):
        return [np.array([ord(letter) for letter in text]) for text in texts]

    joined, one = (TokenText(source, letters, 24, joined).row(0, 1) for joined in (True, False))
    assert bytes(joined["input_ids"].tolist()).rstrip(b"\0") == b"red green apple blue"
    assert joined["attention_mask"].sum() == len("red green apple blue")
    assert bytes(one["input_ids"].tolist()).rstrip(b"\0") == b"green apple"
    assert np.array_equal(joined["caption_id"], one["caption_id"])


def test_too_many_bad_samples_end_the_run_with_their_kinds_and_names(config):
    config.data.max_bad_fraction = 0.0005  # 5 in a window of 10,000
    with pytest.raises(DataError, match=r"at most 0\.050%.*undecodable.*pairs\.tar/0005") as caught:
        run(config, make_mesh(1))
    assert caught.value.exit_code == 4


def test_a_data_set_without_one_good_sample_ends_at_once(config, tmp_path):
    path = tmp_path / "bad.tar"
    with tarfile.open(path, "w") as tar:
        for n in range(50):
            for name, data in ((f"{n}.jpg", b"no picture"), (f"{n}.txt", b"caption")):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    config.data.train = str(path)
    config.data.max_bad_fraction = 1.0
    with pytest.raises(DataError, match=f"{TRIES} bad ones in a row.*not one good one before.*unknown_format"):
        run(config, make_mesh(1))


def test_the_bad_fraction_is_taken_over_the_last_10000(config):
    source = sources.open_source(config.data.train, config.data)

    def batch(good: int, bad: int):
        tried = np.full((good + bad, TRIES), -1)
        tried[:, 0] = 5
        fault = np.zeros((good + bad, TRIES), np.uint8)
        fault[:bad, 0] = 1
        return tried, fault

    quarantine = Quarantine(source, 0.01)
    for _ in range(100):
        quarantine.take(*batch(995, 5))  # 0.5 % for ever
    quarantine.take(*batch(950, 50))
    with pytest.raises(DataError):
        quarantine.take(*batch(950, 50))  # 145 of the last 10,000
    assert Quarantine(source, 0.01).take(*batch(0, 60)) is None  # a short start is no rate yet
    with pytest.raises(DataError):
        Quarantine(source, 0.01).take(*batch(1000, 120))
    big = Quarantine(source, 0.01)
    big.take(*batch(29_800, 200))  # a batch beyond the window counts whole
    with pytest.raises(DataError):
        big.take(*batch(29_600, 400))


def test_extra_negatives_join_as_many_as_there_are(config):
    source = sources.open_source(config.data.train, config.data)
    text = CachedText(FewTexts())
    rows = text.extra(0, 8, 0)
    assert np.array_equal(rows["extra_ztxt"], np.eye(3)) and rows["extra_caption_id"][:, 0].tolist() == [7, 8, 9]
    assert text.extra(0, 2, 0)["extra_ztxt"].shape == (2, 3)
    assert np.array_equal(text.row(2, 1)["ztxt"], FewTexts.vectors[2]) and text.row(2, 1)["caption_id"][0] == 9

    class Both(Words):
        extra = staticmethod(text.extra)

    config.loss.extra_negatives = 2
    got, _, _ = run(config, make_mesh(2), steps=2, text=Both())
    assert got[0]["extra_ztxt"].shape == (2, 3) and got[0]["extra_caption_id"].dtype == np.uint32
    config.loss.extra_negatives = 3
    with pytest.raises(ConfigError, match="extra_negatives.*multiple of 2"):
        Batches(source, Both(), open_order(config, source), config, make_mesh(2))


class Numbered(Words):
    """Texts whose vector and id say which sample and caption they are; three captions each."""

    def row(self, index: int, choice: int) -> dict[str, np.ndarray]:
        return {"ztxt": np.array([index, choice], np.float32), "caption_id": np.array([index, choice], np.uint32)}

    def captions(self, index: int) -> int:
        return 3


@pytest.mark.parametrize("devices", [1, 4])
def test_the_bank_of_a_step_holds_the_texts_planned_before_it(config, devices):
    config.loss.text_bank, config.loss.mask_equal_captions, config.total_steps = 2, True, 6
    source = sources.open_source(config.data.train, config.data)
    with Batches(source, Numbered(), open_order(config, source), config, make_mesh(devices), start_step=3) as batches:
        got = jax.device_get(next(batches))
    assert got["bank_ztxt"].shape == (2 * B, 2) and np.array_equal(got["bank_caption_id"], got["bank_ztxt"])
    plain = PlainOrder(N, config.seed, B)
    for back in (0, 1):
        rows = got["bank_ztxt"][back * B:(back + 1) * B]
        assert np.array_equal(rows[:, 0], plain.planned_ids(2 - back))
        positions = (2 - back) * B + np.arange(B)
        drawn = [int(order.generator(config.seed, p).random() * 3) for p in positions.tolist()]
        assert rows[:, 1].tolist() == drawn
    at_start = plain.past_positions(0, np.arange(2 * B))  # no past: the end of the first epoch
    assert len(set(at_start.tolist())) == 2 * B and at_start.max() < N
    assert np.array_equal(plain.past_positions(5, np.arange(2)), [4 * B, 4 * B + 1])


def test_a_planned_text_that_is_missing_is_replaced_in_the_bank_as_in_a_batch(config):
    class Gaps(Numbered):
        def captions(self, index: int) -> int:
            return 0 if index % 3 == 0 else 1

    config.loss.text_bank, config.loss.mask_equal_captions, config.total_steps = 1, True, 4
    source = sources.open_source(config.data.train, config.data)
    planned = open_order(config, source)
    with Batches(source, Gaps(), planned, config, make_mesh(1), start_step=3) as batches:
        got = jax.device_get(next(batches))["bank_ztxt"][:, 0].astype(int).tolist()
    wanted = []
    for position, index in zip(range(2 * B, 3 * B), planned.planned_ids(2).tolist(), strict=True):
        tried = [index, *(planned.substitute(position, attempt) for attempt in range(1, TRIES))]
        wanted.append(next(one for one in tried if one % 3))
    assert got == wanted and any(planned.planned_ids(2) % 3 == 0)


def test_a_bank_that_would_hold_the_batch_itself_is_refused_without_the_mask(config):
    config.loss.text_bank = 2
    source = sources.open_source(config.data.train, config.data)
    with pytest.raises(ConfigError, match="text_bank.*mask_equal_captions"):
        Batches(source, Numbered(), open_order(config, source), config, make_mesh(1))


def test_token_rows_are_padded_and_identified_by_all_captions(config):
    source = sources.open_source(config.data.train, config.data)

    def tokenizer(texts):
        return [np.array([101, *map(ord, text[-2:]), 102]) for text in texts]

    text = TokenText(source, tokenizer, 6)
    row = text.row(12, 0)
    assert row["input_ids"].tolist() == [101, ord("1"), ord("2"), 102, 0, 0] and row["input_ids"].dtype == np.int32
    assert row["attention_mask"].tolist() == [1, 1, 1, 1, 0, 0]
    assert np.array_equal(row["caption_id"], captions.token_caption_id(tokenizer(source.captions(12))))
    got, _, _ = run(config, make_mesh(2), steps=1, text=text)
    assert got[0]["input_ids"].shape == (B, 6) and got[0]["attention_mask"].shape == (B, 6)
    with pytest.raises(ConfigError, match="cached"):
        text.extra(0, 4, 0)


def test_a_batch_that_the_mesh_does_not_divide_is_refused(config):
    config.global_batch = 12
    source = sources.open_source(config.data.train, config.data)
    with pytest.raises(ConfigError, match="global_batch: expected a multiple of 8, found 12") as caught:
        Batches(source, Words(), open_order(config, source), config, make_mesh(8))
    assert caught.value.exit_code == 2


def test_buffers_are_set_and_not_grains_own(config, monkeypatch):
    seen = []
    read_options = grain.ReadOptions
    monkeypatch.setattr(grain, "ReadOptions", lambda **given: seen.append(given) or read_options(**given))
    run(config, make_mesh(1), steps=1)
    assert seen == [{"num_threads": 2, "prefetch_buffer_size": 4}]


def test_a_vanished_shard_ends_the_run(config, tmp_path):
    path = tmp_path / "pairs.tar"
    path.write_bytes(Path(config.data.train).read_bytes())
    source = sources.open_source(str(path), config.data)
    path.unlink()
    planned = open_order(config, source)
    with (Batches(source, Words(), planned, config, make_mesh(1)) as batches,
          pytest.raises(DataError, match="no such file")):
        next(batches)
