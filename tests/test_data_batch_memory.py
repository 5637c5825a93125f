"""Memory that batches use again: never while anyone holds a part of one, and no result depends on what it held."""

import gc
import io
import pickle
import threading
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from lit_tune import device_resize
from lit_tune.data import sources
from lit_tune.data.batch_memory import BatchMemory
from lit_tune.data.decoding import LIMITS
from lit_tune.data.examples import TRIES, HostBatches, Recipe
from lit_tune.data.order import PlainOrder
from lit_tune.data.transforms import Augment

B, CANVAS, PICTURES = 8, 64, 12
BAD = (3, 7)


class Words:
    """A text side."""

    def row(self, index: int, choice: int) -> dict[str, np.ndarray]:
        return {"caption_id": np.array([index, choice], np.uint32)}


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_memory_comes_back_with_the_last_view_and_not_before() -> None:
    memory = BatchMemory()
    one = memory.take((4, 5, 3))
    at, part = address(one), one[2:, 1]
    del one
    other = memory.take((4, 5, 3))
    assert address(other) != at and part.base is not None
    del part
    assert address(memory.take((20, 3))) == at  # of equal size
    assert memory.take((7,)).shape == (7,)
    assert pickle.loads(pickle.dumps(memory))._free == {}


def test_two_arrays_in_use_never_share_memory_in_any_thread() -> None:
    memory, wrong, together = BatchMemory(), [], threading.Barrier(6)

    def use(number: int) -> None:
        for _ in range(300):
            array = memory.take((1000,))
            array[:] = number
            together.wait(60)  # all have written before any looks
            if not (array == number).all():
                wrong.append(number)
            del array

    threads = [threading.Thread(target=use, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and sum(map(len, memory._free.values())) <= 6


def test_an_array_on_a_device_keeps_what_it_was_given() -> None:
    memory, kept = BatchMemory(), []
    for number in range(20):
        array = memory.take((64, 1024))
        array[:] = number
        kept.append(jax.device_put(array[32:]))  # on the CPU it may be the same memory
        del array
        if number % 3 == 0:
            kept[number] = np.asarray(kept[number]).copy()
        gc.collect()
    assert all((np.asarray(one) == number).all() for number, one in enumerate(kept))


@pytest.fixture
def batches(tmp_path: Path):
    """(canvas, cache in bytes, share of grey ones) -> batches of JPEGs of the canvas' width and others; two are cut."""
    rng = np.random.default_rng(0)
    lines = ["image,caption"]
    for n in range(PICTURES):
        size = ((48, 64), (64, 48), (30, 64), (90, 64))[n % 4]
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(out, "JPEG")
        (tmp_path / f"{n}.jpg").write_bytes(out.getvalue()[: -len(out.getvalue()) // 3 if n in BAD else None])
        lines.append(f"{n}.jpg,picture {n}")
    (tmp_path / "captions.csv").write_text("\n".join(lines))
    source = sources.open_source(str(tmp_path), SimpleNamespace(caption_field="txt"))

    def make(canvas: int, cache: int, grey: float = 0.0) -> HostBatches:
        recipe = Recipe(seed=0, image_size=(32, 32), policy="clean", limits=LIMITS,
                        augment=Augment((0.5, 1.0), flip=0.5, grayscale=grey), cache_bytes=cache, canvas=canvas,
                        captions="random")
        return HostBatches(source, Words(), PlainOrder(len(source), 0, B), recipe, np.arange(B))

    return make


@pytest.mark.parametrize("grey", [0.0, 0.3])
def test_pictures_decoded_in_their_place_are_those_that_were_copied_there_bad_ones_included(batches, grey) -> None:
    resize = jax.jit(device_resize.resize, static_argnums=2)
    placed, copied, host = (batches(*how, grey) for how in ((CANVAS, 0), (CANVAS, 1 << 20), (0, 0)))
    corners, faults = set(), 0
    for step in range(6):  # the memory of a step is that of the one before
        one, two, three = placed(step), copied(step), host(step)
        assert all(np.array_equal(one[name], two[name]) for name in one if name not in ("image", "crop"))
        assert np.array_equal(one["crop"][:, 2:], two["crop"][:, 2:]) and not two["crop"][:, :2].any()
        corners |= {tuple(crop) for crop in one["crop"][:, :2].tolist()}
        pictures = np.asarray(resize(one["image"], one["crop"], (32, 32)))
        assert np.array_equal(pictures, resize(two["image"], two["crop"], (32, 32)))
        small = np.maximum(one["crop"][:, 2], one["crop"][:, 3]) < CANVAS  # longer ones were reduced twice
        gap = np.abs(pictures.astype(int) - three["image"])
        assert grey or gap[small].max() <= 1  # the host takes the colour away after the resize
        faults += int(np.sum(one["fault"] > 0))
    assert len(corners) > 5 and faults > 0, "bad pictures were among them"


def test_a_batch_without_a_good_sample_is_empty_whatever_its_memory_held(batches, monkeypatch) -> None:
    made = batches(CANVAS, 0)
    made(0)["image"][:] = 200
    monkeypatch.setattr(made.source.__class__, "pair", lambda self, i, most: (b"no picture", ("a caption",)))
    batch = made(1)
    assert (batch["fault"][0] > 0).sum() == TRIES and not batch["image"].any()
    assert batch["crop"].tolist() == [[0, 0, 1, 1, 0]] * B
