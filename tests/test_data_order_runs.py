"""Every order in the loader and in whole runs: equal batches on any hosts and workers, from any step."""

import multiprocessing
import tarfile
from pathlib import Path

import interrupted
import jax
import numpy as np
import pytest
import tiny
from interrupted import Home
from jax.sharding import AxisType

from lit_tune import config as config_lib
from lit_tune.configs import common
from lit_tune.data import clusters, mixture
from lit_tune.data.examples import HostBatches, Recipe
from lit_tune.data.loader import Batches
from lit_tune.data.order_hard import HardOrder
from lit_tune.data.order_open import open_order
from lit_tune.data.text_rows import CachedText

B, FAR = 16, 10**7
ORDERS = ("plain", "window", "mixed", "mixed windows", "hard")


class Vectors:
    """A text cache of random directions, one caption a sample."""

    def __init__(self, count: int) -> None:
        vectors = np.random.default_rng(0).normal(size=(count, 8)).astype(np.float32)
        self._vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        self.rows, self.offsets, self.unique = np.arange(count), np.arange(count + 1), count
        self.info = {"files": {"vectors.npy": {"sha256": "ab", "bytes": 1}}}

    def __len__(self) -> int:
        return self.unique

    def take(self, rows: np.ndarray) -> np.ndarray:
        return self._vectors[rows]

    def vector(self, i: int, j: int) -> np.ndarray:
        return self._vectors[i]

    def caption_id(self, i: int) -> np.ndarray:
        return np.array([i, 0], np.uint32)

    def captions(self, i: int) -> int:
        return 1


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """24 drawings, as a folder and in three uneven shards."""
    home = tmp_path_factory.mktemp("pairs")
    folder = tiny.picture_folder(home / "pictures")
    rows = (folder / "captions.csv").read_text().splitlines()[1:]
    for shard, own in enumerate((rows[:11], rows[11:14], rows[14:])):
        with tarfile.open(home / f"{shard}.tar", "w") as tar:
            for name, caption in (row.split(",") for row in own):
                tar.add(folder / name, name)
                (home / "caption.txt").write_text(caption)
                tar.add(home / "caption.txt", name.replace(".png", ".txt"))
    return home


@pytest.fixture
def opened(data, tmp_path, monkeypatch):
    """order's name -> (config, source, text, order)."""
    monkeypatch.setenv("LIT_TUNE_CACHE", str(tmp_path))

    def make(name: str) -> tuple:
        c = common.get_config()
        c.total_steps, c.global_batch, c.seed = FAR + 3, B, 4
        c.vision.image_size = (16, 16)
        if "mixed" in name:
            c.data.mix = (f"0.7={data}/0.tar", f"0.3={data}/{{1,2}}.tar")
        else:
            c.data.train = f"{data}/*.tar"
        c.data.shard_window = int("window" in name)
        c.data.hard_share = 0.5 * (name == "hard")
        source = mixture.open_train(c.data)
        text = CachedText(Vectors(len(source)))
        return c, source, text, open_order(c, source, text)

    return make


@pytest.mark.parametrize("name", ORDERS)
def test_hosts_that_make_a_part_each_make_the_whole_together_at_a_far_step(opened, name):
    config, source, text, order = opened(name)
    assert len(source) == 24
    whole = HostBatches(source, text, order, Recipe.of(config), np.arange(B))(FAR)
    planned = order.planned_ids(FAR)
    assert np.array_equal(whole["tried"][:, 0], planned) and np.array_equal(whole["caption_id"][:, 0], planned)
    for hosts in (2, 4):
        parts = [HostBatches(source, text, order, Recipe.of(config), rows)(FAR)
                 for rows in np.split(np.arange(B), hosts)]
        assert all(np.array_equal(whole[key], np.concatenate([part[key] for part in parts])) for key in whole)


def test_the_orders_differ(opened):
    digests = {opened(name)[3].batch_digest(FAR) for name in ORDERS}
    assert len(digests) == len(ORDERS)


def batches_of(opened, name: str, workers: int) -> list[dict[str, np.ndarray]]:
    """Two global batches from a far step on."""
    config, source, text, order = opened(name)
    config.data.workers = workers
    mesh = jax.make_mesh((1, 1), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:1])
    with Batches(source, TellsVectors(len(source)), order, config, mesh, FAR) as batches:
        return [jax.device_get(next(batches)) for _ in range(2)]


class TellsVectors(CachedText):
    """Text rows that a worker process can be sent."""

    def __init__(self, count: int) -> None:
        super().__init__(Vectors(count))


@pytest.mark.multiprocess
@pytest.mark.parametrize("name, workers", [
    ("hard", 1), pytest.param("mixed windows", 1, marks=pytest.mark.slow),
    pytest.param("hard", 3, marks=pytest.mark.slow), pytest.param("mixed windows", 3, marks=pytest.mark.slow)])
def test_worker_processes_give_the_same(opened, name, workers):
    plain, other = batches_of(opened, name, 0), batches_of(opened, name, workers)
    for one, two in zip(plain, other, strict=True):
        assert sorted(one) == sorted(two) and all(np.array_equal(one[key], two[key]) for key in one)
    assert not multiprocessing.active_children()


def run(home: Path, data: Path, name: str, **changes: object) -> tuple[list[str], str]:
    """(batch digests, output) of a run of three steps through the command line."""
    text = home / "text"
    if not text.exists():
        tiny.text_folder(text)
    settings = {"total_steps": 3, "optim__warmup_steps": 1, "eval__sets": (), "checkpoint__every": 3, **changes}
    words = tiny.arguments(text, data / "pictures", home / name, **settings)
    code, output = tiny.finish(tiny.start(words, home / "cache"))
    assert code == 0, output
    return [line["data/batch_digest"] for line in tiny.lines(home / name) if line["kind"] == "train"], output


@pytest.mark.slow  # test_data_clusters.py says the same without a run, and the next test that runs take the order
def test_a_run_with_hard_batches_trains_on_the_groups_that_it_kept(data, tmp_path):
    digests, output = run(tmp_path, data, "hard", data__hard_share=0.5, data__hard_clusters=4)
    assert "clusters: 24 samples into 4" in output
    [folder] = (tmp_path / "cache" / "text-clusters").iterdir()
    order = HardOrder(24, 0, 8, 4, clusters.read(folder))
    assert digests == [order.batch_digest(step) for step in range(3)]


def test_a_run_on_a_mixture_trains_on_its_order_and_says_the_epochs_of_each_part(data, tmp_path, monkeypatch):
    mix = (f"3/4={data}/{{0,1}}.tar", f"1/4={data}/2.tar")
    digests, output = run(tmp_path, data, "mixed", data__train="", data__mix=mix)
    monkeypatch.setenv("LIT_TUNE_CACHE", str(tmp_path / "cache"))
    config = config_lib.load("quickstart", [("data.mix", str(mix)), ("data.train", ""), ("global_batch", "8"),
                                            ("data.caption_field", "txt")])
    order = open_order(config, mixture.open_train(config.data))
    assert digests == [order.batch_digest(step) for step in range(3)]
    assert f"0.75 from {data}/{{0,1}}.tar: 14 pairs, 1.286 epochs" in output


@pytest.mark.parametrize("name", ["mixed windows", "hard"])
def test_a_killed_run_goes_on_with_the_order_it_had(data, tmp_path, name):
    orders = {"mixed windows": {"data__train": "", "data__mix": (f"3/4={data}/{{0,1}}.tar", f"1/4={data}/2.tar"),
                                "data__shard_window": 1},
              "hard": {"data__hard_share": 0.5, "data__hard_clusters": 4}}  # fmt: skip
    home = Home.make(tmp_path, total_steps=18, checkpoint__every=5, eval__sets=(), **orders[name]).straight()
    process = home.run("stopped")
    tiny.wait_for_step(tmp_path / "stopped", 8, process, saved=5)
    interrupted.kill(process)
    process, _ = home.go_on("stopped", data__workers=1)
    assert "resumed" in home.check_end("stopped", process)
