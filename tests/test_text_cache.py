"""A text cache is whole, made once, used again only for the same tower and data, and gives exact unit rows."""

import hashlib
import json
import multiprocessing
import pickle
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_tune.data.captions import token_caption_id
from lit_tune.errors import ConfigError, DataError
from lit_tune.text import cache_part
from lit_tune.text.cache import TextCache
from lit_tune.text.cache_build import open_or_build

SETS = [("a cat",), ("a dog", "dog"), ("a cat",), ("dog", "a dog"), ("dog",), ("a cat", "a cat")]


class Source:
    """Caption sets in memory."""

    def __init__(self, sets: list[tuple[str, ...]], fingerprint: str = "f0") -> None:
        self.sets, self.fingerprint, self.spec = sets, fingerprint, "shards/*.tar"

    def __len__(self) -> int:
        return len(self.sets)

    def caption_sets(self) -> Iterator[tuple[str, ...]]:
        return iter(self.sets)

    def captions(self, i: int) -> tuple[str, ...]:
        return self.sets[i]


class Encoder:
    """Vectors from a hash of the bytes of a text; counts what it is asked for."""

    dim = 4

    def __init__(self, weights: str = "w0") -> None:
        self.fingerprint: dict[str, Any] = {"weights_sha256": weights, "prefix": "", "max_length": 8}
        self.encoded = 0

    def tokenizer(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode()[:8], np.uint8).astype(np.int32) for text in texts]

    def encode_ids(self, ids: Sequence[np.ndarray], done: Any = None) -> np.ndarray:
        self.encoded += len(ids)
        seeds = [int(hashlib.sha256(one.tobytes()).hexdigest()[:8], 16) for one in ids]
        rows = np.stack([np.random.default_rng(seed).normal(size=4) for seed in seeds])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def direct(text: str) -> np.ndarray:
    """The vector of a text, straight from the encoder."""
    encoder = Encoder()
    return encoder.encode_ids(encoder.tokenizer([text]))[0]


def test_every_caption_reads_back_its_own_vector_and_equal_captions_are_stored_once(tmp_path: Path) -> None:
    encoder = Encoder()
    made = open_or_build(Source(SETS), encoder, tmp_path / "cache")
    assert len(made) == 6 and made.unique == encoder.encoded == 3 and made.dim == 4
    for i, captions in enumerate(SETS):
        assert made.captions(i) == len(captions)
        for j, caption in enumerate(captions):
            np.testing.assert_allclose(made.vector(i, j), direct(caption), atol=1e-7)
    assert made.info["counts"] == {"samples": 6, "captions": 9, "unique": 3, "dim": 4, "missing": 0}


def test_captions_equal_after_truncation_share_a_row(tmp_path: Path) -> None:
    made = open_or_build(Source([("a long caption",), ("a long cat",)]), Encoder(), tmp_path / "cache")
    assert made.unique == 1
    assert made.caption_id(0).tolist() == made.caption_id(1).tolist()


def test_caption_ids_are_equal_exactly_for_equal_sets_of_token_ids(tmp_path: Path) -> None:
    made = open_or_build(Source(SETS), Encoder(), tmp_path / "cache")
    ids = [tuple(made.caption_id(i).tolist()) for i in range(6)]
    assert ids[0] == ids[2] == ids[5]  # order and repeats do not matter
    assert ids[1] == ids[3]
    assert len({ids[0], ids[1], ids[4]}) == 3  # a shared caption does not make two sets equal
    assert ids[4] == tuple(token_caption_id(one.tolist() for one in Encoder().tokenizer(["dog"])).tolist())
    assert made.caption_id(0).dtype == np.uint32


def test_rows_are_renormalised_in_float32_on_reading(tmp_path: Path) -> None:
    made = open_or_build(Source(SETS), Encoder(), tmp_path / "cache")
    double = made.vectors[0] * np.float32(2)
    rough = TextCache(made.folder, (double,), made.rows, made.offsets, made.caption_ids, made.info)
    norms = np.linalg.norm(rough.take(np.arange(3)).astype(np.float64), axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-7)
    assert rough.vector(0, 0).dtype == np.float32


def test_a_second_start_encodes_nothing_and_another_tower_or_data_is_refused(tmp_path: Path) -> None:
    open_or_build(Source(SETS), Encoder(), tmp_path / "cache")
    again = Encoder()
    open_or_build(Source(SETS), again, tmp_path / "cache")
    assert again.encoded == 0
    with pytest.raises(ConfigError, match="expected tower weights_sha256 'w1', found 'w0'"):
        open_or_build(Source(SETS), Encoder("w1"), tmp_path / "cache")
    with pytest.raises(ConfigError, match="expected data fingerprint 'f1', found 'f0'"):
        open_or_build(Source(SETS, "f1"), Encoder(), tmp_path / "cache")
    with pytest.raises(ConfigError, match="expected data first_captions_sha256"):
        open_or_build(Source([("x",), *SETS[1:]]), Encoder(), tmp_path / "cache")


def test_without_a_folder_each_tower_and_data_has_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_TUNE_CACHE", str(tmp_path))
    folders = {
        open_or_build(source, encoder).folder
        for source in (Source(SETS), Source(SETS, "f1"))
        for encoder in (Encoder(), Encoder("w1"))
    }
    assert len(folders) == 4 and all(tmp_path in folder.parents for folder in folders)


@pytest.mark.parametrize("harm", ["truncate", "flip", "remove", "info"])
def test_a_damaged_cache_is_named_and_made_again(
    harm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = open_or_build(Source(SETS), Encoder(), tmp_path / "cache").folder
    vectors = folder / "vectors.npy"
    content = bytearray(vectors.read_bytes())
    content[-1] ^= 1
    {
        "truncate": lambda: vectors.write_bytes(content[:-7]),
        "flip": lambda: vectors.write_bytes(bytes(content)),
        "remove": (folder / "rows.npy").unlink,
        "info": lambda: (folder / "cache.json").write_text('{"format": 2'),
    }[harm]()
    encoder = Encoder()
    made = open_or_build(Source(SETS), encoder, folder)
    assert encoder.encoded == 3
    assert f"text cache {folder} is damaged" in capsys.readouterr().err
    np.testing.assert_allclose(made.vector(4, 0), direct("dog"), atol=1e-7)


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="found other files; name another folder"):
        open_or_build(Source(SETS), Encoder(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_opening_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a whole cache, found no cache.json"):
        TextCache.open(tmp_path)
    folder = open_or_build(Source(SETS), Encoder(), tmp_path / "cache").folder
    np.save(folder / "offsets.npy", np.asarray([0, 99], "<i8"))
    with pytest.raises(ConfigError, match="offsets.npy does not divide rows.npy"):
        TextCache.open(folder)
    (folder / "cache.json").write_text(json.dumps({"format": 9}))
    with pytest.raises(ConfigError, match="format 9, this version reads 2"):
        TextCache.open(folder)


def test_a_caption_number_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    made = open_or_build(Source(SETS), Encoder(), tmp_path / "cache")
    with pytest.raises(IndexError, match="sample 0 has 1 captions, none is number 1"):
        made.vector(0, 1)


def test_a_pickled_cache_maps_the_files_again(tmp_path: Path) -> None:
    made = open_or_build(Source(SETS), Encoder(), tmp_path / "cache")
    pickled = pickle.dumps(made)
    assert len(pickled) < 1_000  # a name, no arrays
    copy = pickle.loads(pickled)
    np.testing.assert_array_equal(copy.vector(1, 1), made.vector(1, 1))
    assert isinstance(copy.vectors[0], np.memmap)


def test_no_captions_and_a_source_that_stops_early_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected captions, found not one"):
        open_or_build(Source([]), Encoder(), tmp_path / "cache")

    class Short(Source):
        def __len__(self) -> int:
            return 9

    with pytest.raises(ConfigError, match="expected captions of 9 samples, found 6"):
        open_or_build(Short(SETS), Encoder(), tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []  # nothing half-made is left


def test_an_interrupted_build_leaves_no_cache(tmp_path: Path) -> None:
    class Failing(Encoder):
        def encode_ids(self, ids: Sequence[np.ndarray], done: Any = None) -> np.ndarray:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        open_or_build(Source(SETS), Failing(), tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []
    assert open_or_build(Source(SETS), Encoder(), tmp_path / "cache").unique == 3


def _build_and_count(folder: str, barrier: Any, encoded: Any) -> None:
    """One of several processes that want the same cache at the same moment."""
    encoder = Encoder()
    barrier.wait()
    made = open_or_build(Source(SETS), encoder, folder)
    assert made.unique == 3
    encoded.put(encoder.encoded)


def test_of_several_processes_one_builds_and_all_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_TUNE_CACHE", str(tmp_path / "home"))
    context = multiprocessing.get_context("spawn")
    barrier, encoded = context.Barrier(3), context.Queue()
    arguments = (str(tmp_path / "cache"), barrier, encoded)
    processes = [context.Process(target=_build_and_count, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    assert sorted(encoded.get(timeout=60) for _ in processes) == [0, 0, 3]
    for process in processes:
        process.join()
        assert process.exitcode == 0


def test_progress_is_one_line_in_five_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(cache_part.time, "monotonic", lambda: now[0])
    progress = cache_part.Progress()
    progress.start(6_000)
    for second in range(1, 13):
        now[0] = float(second)
        progress.show(second * 100)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "text vectors: 600 of 6,000 captions, 100 a second",
        "text vectors: 1,200 of 6,000 captions, 100 a second",
    ]


def test_the_cache_module_imports_no_jax() -> None:
    import subprocess

    code = "import sys, lit_tune.text.cache_build, lit_tune.text.weights; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent).returncode == 0
