"""Text vectors of any model, brought in a file: matched, normalised, refused where they do not fit, trained with."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
from outside_vectors import DIM, command, names_of, parquet, picture_folder, train, vectors
from shards_on_disk import shard

from lit_tune import cli
from lit_tune.data.captions import caption_id
from lit_tune.data.folder_source import FolderSource
from lit_tune.text.cache import TextCache

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 drawings whose table has uids."""
    return picture_folder(tmp_path_factory.mktemp("data") / "pictures")


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("match", ["uid", "key", "caption"])
def test_each_caption_reads_back_the_vector_of_its_name_in_any_order(
    match: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, order = vectors(), np.random.default_rng(1).permutation(24)
    names = names_of(pictures, match)
    file = parquet(tmp_path / "v.parquet", match, [names[i] for i in order] + ["another"], vectors(25)[[*order, 24]])
    assert cli.main(command(pictures, file, tmp_path / "cache")) == 0
    assert "24 captions of 24 samples, 24 distinct, 24 numbers each (float32)" in capsys.readouterr().out
    cache = TextCache.open(tmp_path / "cache")
    rows = vectors(25)[:24]
    found = np.stack([cache.vector(i, 0) for i in range(24)])
    np.testing.assert_allclose(found, unit(rows), atol=1e-6)
    captions = names_of(pictures, "caption")
    assert all((cache.caption_id(i) == caption_id([captions[i]])).all() for i in range(24))
    assert cli.main(command(pictures, file, tmp_path / "cache")) == 0  # again: read, not made


def test_an_npz_of_lit_tune_embed_goes_by_caption_and_any_dtype(pictures: Path, tmp_path: Path) -> None:
    captions = names_of(pictures, "caption")
    np.savez(tmp_path / "v.npz", ids=np.asarray(captions[::-1]), embeddings=unit(vectors())[::-1])
    file = tmp_path / "v.npz"
    assert cli.main(command(pictures, file, tmp_path / "cache", "--config.text.cache_dtype=int8")) == 0
    cache = TextCache.open(tmp_path / "cache")
    assert cache.vectors[0].dtype == np.int8
    cosines = np.sum(np.stack([cache.vector(i, 0) for i in range(24)]) * unit(vectors()), axis=1)
    assert cosines.min() > 0.9998


def test_a_sample_with_several_captions_has_its_vector_for_each(tmp_path: Path) -> None:
    folder = tiny.picture_folder(tmp_path / "pictures")
    image = (folder / "captions.csv").read_text().splitlines()[1].split(",")[0]
    (folder / "captions.csv").write_text(f"image,caption\n{image},one\n{image},two\n")
    file = parquet(tmp_path / "v.parquet", "key", [image], vectors(1))
    assert cli.main(command(folder, file, tmp_path / "cache")) == 0
    cache = TextCache.open(tmp_path / "cache")
    assert cache.captions(0) == 2 and cache.unique == 1
    np.testing.assert_array_equal(cache.vector(0, 0), cache.vector(0, 1))


def test_samples_without_a_vector_are_counted_named_and_refused(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = parquet(tmp_path / "v.parquet", "key", names_of(pictures, "key")[2:], vectors(22))
    assert cli.main(command(pictures, file, tmp_path / "cache")) == 4
    said = capsys.readouterr().err
    assert "found 2 samples without (such as pictures/red-circle.png, pictures/red-square.png)" in said
    assert not (tmp_path / "cache").exists()
    assert cli.main(command(pictures, file, tmp_path / "cache", "--allow_missing=0.08")) == 4
    capsys.readouterr()
    assert cli.main(command(pictures, file, tmp_path / "cache", "--allow_missing=0.09")) == 0
    assert "24 samples (2 without a vector)" in capsys.readouterr().out
    cache = TextCache.open(tmp_path / "cache")
    assert [cache.captions(i) for i in range(4)] == [0, 0, 1, 1]


def test_missing_shards_and_the_first_pairs_only_are_left_out_as_in_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lit_tune.data import mixture

    shard(tmp_path / "0.tar", [1, 2])
    shard(tmp_path / "2.tar", [3, 4, 5])
    file = parquet(tmp_path / "v.parquet", "uid", [f"{i:032x}" for i in range(1, 6)], rows := vectors(5))
    words = [f"--config.data.train={tmp_path}/{{0..2}}.tar", "--max_samples=4"]
    assert cli.main(command(tmp_path, file, tmp_path / "cache", *words)) == 4
    assert "1.tar" in capsys.readouterr().err
    assert cli.main(command(tmp_path, file, tmp_path / "cache", *words, "--allow_missing=0.34")) == 0
    cache = TextCache.open(tmp_path / "cache")
    np.testing.assert_allclose([cache.vector(i, 0) for i in range(len(cache))], unit(rows[:4]), atol=1e-6)
    data = SimpleNamespace(train=words[0].partition("=")[2], mix=(), caption_field="txt", uid_list="")
    trained_on = mixture.open_train(data, max_samples=4, allow_missing=0.34)
    assert cache.info["data"]["fingerprint"] == trained_on.fingerprint
    assert cache.info["made_from"] == data.train


def ragged(path: Path) -> None:
    table = pa.table({"key": ["a", "b"], "vector": pa.array([[1.0, 2.0], [1.0]], pa.list_(pa.float32()))})
    pq.write_table(table, path)


@pytest.mark.parametrize("fault, code, says", [
    ("nothing", 2, "found no such file"), ("text", 2, "found another file"), ("columns", 2, "columns uid, key or"),
    ("ragged", 4, "row 1: expected a vector of 2 numbers"), ("zeros", 4, "row 3: expected a finite vector"),
    ("nan", 4, "row 3: expected a finite vector"), ("suffix", 2, "a .parquet or .npz file"),
])  # fmt: skip
def test_a_file_that_will_not_do_is_one_line(
    fault: str, code: int, says: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, rows = tmp_path / ("v.csv" if fault == "suffix" else "v.parquet"), vectors()
    rows[3] = {"zeros": 0, "nan": np.nan}.get(fault, 1)
    if fault in ("zeros", "nan", "columns"):
        parquet(file, "name" if fault == "columns" else "key", names_of(pictures, "key"), rows)
    elif fault == "ragged":
        ragged(file)
    elif fault != "nothing":
        file.write_text("no table")
    more = ["--allow_missing=1"] if fault == "ragged" else []
    names = tmp_path / "pictures"
    if fault == "ragged":  # its rows have to be of samples that are there
        tiny.picture_folder(names)
        pair = names_of(pictures, "key")[:2]
        pq.write_table(pq.read_table(file).set_column(0, "key", [pair]), file)
    assert cli.main(command(pictures, file, tmp_path / "cache", *more)) == code
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


@pytest.mark.parametrize("more, says", [
    (["--match=name"], "uid | key | caption"), (["--match=uid"], "expected a column uid"),
    (["--allow_missing=2"], "not in [0, 1]"), (["--out={}/v.parquet/x"], "v.parquet: expected room to write, found"),
])  # fmt: skip
def test_flags_that_make_no_sense(
    more: list[str], says: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = parquet(tmp_path / "v.parquet", "key", names_of(pictures, "key"), vectors())
    assert cli.main(command(pictures, file, tmp_path / "cache", *(word.format(tmp_path) for word in more))) == 2
    error = capsys.readouterr().err
    assert says in error and "LIT_TUNE_CACHE" not in error


def test_training_with_vectors_only_replaces_samples_without_one(pictures: Path, tmp_path: Path) -> None:
    file = parquet(tmp_path / "v.parquet", "uid", names_of(pictures, "uid")[1:], vectors(23))
    assert cli.main(command(pictures, file, tmp_path / "cache", "--allow_missing=0.1")) == 0
    code, output = train(pictures, tmp_path / "cache", tmp_path / "run", data__max_bad_fraction=1.0)
    assert code == 0, output
    assert [line["step"] for line in tiny.lines(tmp_path / "run") if line["kind"] == "train"] == [1, 2, 3, 4]
    bad = [json.loads(line) for line in (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()]
    assert [(line["index"], line["kind"]) for line in bad] == [(0, "no_vector")]


def test_training_refuses_vectors_of_other_pairs_width_or_with_evaluations(pictures: Path, tmp_path: Path) -> None:
    from lit_tune import config as config_lib
    from lit_tune.errors import ConfigError
    from lit_tune.text.provider import open_text

    file = parquet(tmp_path / "v.parquet", "key", names_of(pictures, "key"), vectors())
    cli.main(command(pictures, file, tmp_path / "cache"))
    changes = [("text.source", "vectors"), ("text.vectors", str(tmp_path / "cache")), ("data.train", str(pictures)),
               ("eval.sets", "()"), ("data.caption_field", "txt")]  # fmt: skip
    source = FolderSource(pictures, "txt", str(pictures))
    with pytest.raises(ConfigError, match="vision.embed_dim: expected 24, the width of"):
        open_text(config_lib.load("quickstart", changes), source)
    config = config_lib.load("quickstart", [*changes, ("vision.embed_dim", str(DIM))])
    assert open_text(config, source).source is source
    with pytest.raises(ConfigError, match="expected data samples 20, found 24; it was made from"):
        open_text(config, FolderSource(pictures, "txt", str(pictures), max_samples=20))
    with pytest.raises(ConfigError, match="config.eval.sets: expected ..*there is no text tower"):
        config_lib.check(config_lib.load("quickstart", [*changes[:3], ("eval.sets", f"a={pictures}")]))
    with pytest.raises(ConfigError, match="config.text.vectors: expected a folder"):
        config_lib.check(config_lib.load("quickstart", [changes[0], *changes[2:]]))
    with pytest.raises(ConfigError, match="config.text.vectors: expected '' unless text.source is vectors"):
        config_lib.check(config_lib.load("quickstart", changes[1:]))


def test_making_a_cache_from_a_file_imports_no_jax(pictures: Path, tmp_path: Path) -> None:
    file = parquet(tmp_path / "v.parquet", "key", names_of(pictures, "key"), vectors())
    code = f"import sys; from lit_tune import cli; cli.main({command(pictures, file, tmp_path / 'cache')!r}); " \
           "sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"LIT_TUNE_CACHE": str(tmp_path)}
                          ).returncode == 0  # fmt: skip
