"""embed and cache-text as commands: what they write, what they print, how they refuse."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from collections_on_disk import refused, write_collection, write_tar
from small_models import picture

import lit_tune
from lit_tune import cli, embed, inputs, vector_files
from lit_tune.errors import DataError
from lit_tune.text.cache import TextCache
from lit_tune.unfinished import Unfinished


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run, three pictures beside each other and in a tar, and an index of them."""
    return write_collection(tmp_path_factory.mktemp("trained"))


def read(path: Path) -> tuple[list[str], np.ndarray]:
    """(ids, vectors) of an .npz, read by numpy."""
    with np.load(path) as file:
        return file["ids"].tolist(), file["embeddings"]


def test_embedded_pictures_are_unit_rows_with_their_paths_as_ids(trained: SimpleNamespace) -> None:
    with np.load(trained.index) as file:
        assert sorted(file.files) == ["embeddings", "ids"]
        ids, vectors = file["ids"], file["embeddings"]
    paths = [str(trained.pictures / f"{i}.png") for i in range(3)]
    assert ids.tolist() == paths and vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, lit_tune.load(trained.run).embed_images(paths), atol=1e-6)


SPECS = ["{root}/00000.tar", "{root}/0000{{0..0}}.tar", "{pictures}", "{pictures}/{{0,1,2}}.png"]


@pytest.mark.parametrize("spec", SPECS)
def test_tars_folders_and_braces_give_the_same_vectors(
    spec: str, trained: SimpleNamespace, tmp_path: Path
) -> None:
    images = spec.format(root=trained.root, pictures=trained.pictures)
    out = tmp_path / "x.npz"
    assert cli.main(["embed", f"--model={trained.run}", f"--images={images}", f"--out={out}"]) == 0
    ids, vectors = read(out)
    np.testing.assert_allclose(vectors, read(trained.index)[1], atol=1e-6)
    if ".tar" in spec:
        assert ids == [f"{trained.root}/00000.tar/{i:04}.png" for i in range(3)]


def test_embedded_texts_have_the_tower_s_prefix_and_the_lines_as_ids(trained: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\ufeffa cat\n\n  the red dog \r\n", encoding="utf-8")
    argv = ["embed", f"--model={trained.run}", f"--texts={tmp_path / 'texts.txt'}", f"--out={tmp_path / 'x.npz'}"]
    assert cli.main(argv) == 0
    ids, vectors = read(tmp_path / "x.npz")
    assert ids == ["a cat", "the red dog"]
    np.testing.assert_allclose(vectors, lit_tune.load(trained.run).embed_texts(ids), atol=1e-6)


def test_unusable_pictures_are_named_left_out_and_told_by_the_exit_code(
    trained: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = (trained.pictures / "0.png").read_bytes()
    write_tar(tmp_path / "x.tar", {"a.png": good, "b.jpg": b"<html>", "c.png": good[:-200], "d.png": good})
    argv = ["embed", f"--model={trained.run}", f"--images={tmp_path}/x.tar", f"--out={tmp_path / 'x.npz'}"]
    assert cli.main(argv) == DataError.exit_code
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        f"lit-tune: {tmp_path}/x.tar/b.jpg: unknown_format, left out",
        f"lit-tune: {tmp_path}/x.tar/c.png: undecodable, left out",
        "lit-tune: 2 pictures were left out, named above",
    ]
    assert "2 vectors of 16 numbers" in captured.out
    assert read(tmp_path / "x.npz")[0] == [f"{tmp_path}/x.tar/{name}.png" for name in "ad"]


def test_embed_refuses_before_the_model_is_read(
    trained: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, pictures = f"--out={tmp_path / 'x.npz'}", f"--images={trained.pictures}"
    model = f"--model={tmp_path / 'no model'}"  # would be refused too, later
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    for argv, message in [
        ([out], "expected --images=GLOB_OR_TAR or --texts=FILE, found neither"),
        ([out, pictures, "--texts=x"], "found both"),
        ([pictures, f"--out={tmp_path / 'x.csv'}"], "--out: expected X.npz or X.parquet"),
        ([pictures, f"--out={tmp_path / 'none/x.npz'}"], "--out: expected an existing folder"),
        ([out, f"--images={tmp_path}/*.png"], "found none"),
        ([out, f"--images={tmp_path}/no.png"], "found no "),
        ([out, f"--images={tmp_path}"], "expected *.tar or *.jpg"),
        ([out, f"--texts={tmp_path}/no.txt"], "No such file"),
        ([out, f"--texts={tmp_path}/empty.txt"], "found an empty file"),
        ([out, f"--texts={tmp_path}/latin.txt"], "found other bytes"),
        ([out, pictures], "no model: expected a run"),
    ]:
        assert message in refused(capsys, "embed", model, *argv)


def test_pictures_that_all_fail_and_a_file_that_is_no_tar_exit_with_4(
    trained: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.tar").write_text("<html>" * 200)
    argv = ["embed", f"--model={trained.run}", f"--out={tmp_path / 'x.npz'}"]
    assert "bad.tar: expected a whole tar" in refused(capsys, *argv, f"--images={tmp_path}/bad.tar", code=4)
    (tmp_path / "bad.png").write_text("<html>")
    assert cli.main([*argv, f"--images={tmp_path}/bad.png"]) == 4
    assert not (tmp_path / "x.npz").exists()


def test_parquet_without_pyarrow_is_one_line_and_with_it_reads_back(
    trained: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["embed", f"--model={trained.run}", f"--images={trained.pictures}", f"--out={tmp_path / 'x.parquet'}"]
    with monkeypatch.context() as patch:
        patch.setitem(__import__("sys").modules, "pyarrow", None)
        assert "expected the package pyarrow, found none; pip install pyarrow" in refused(capsys, *argv)
    parquet = pytest.importorskip("pyarrow.parquet")
    assert cli.main(argv) == 0
    table = parquet.read_table(tmp_path / "x.parquet").to_pydict()
    ids, vectors = read(trained.index)
    assert sorted(table["ids"]) == sorted(ids)
    np.testing.assert_allclose(np.float32(table["embeddings"]), vectors, atol=1e-6)


def test_cache_text_writes_what_train_will_read(
    trained: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = tmp_path / "00000.tar"
    write_tar(shard, {f"{i}.png": picture(i, 4, 4).tobytes() for i in range(3)})
    argv = ["cache-text", "--config=quickstart", f"--config.text.model={trained.text}", "--config.vision.embed_dim=16",
            "--config.text.max_length=12", f"--config.data.train={shard}", "--config.data.caption_field=txt",
            f"--out={tmp_path / 'cache'}"]  # fmt: skip
    assert cli.main(argv) == 0
    assert "3 captions of 3 samples, 1 distinct, 16 numbers each (float32)" in capsys.readouterr().out
    cache = TextCache.open(tmp_path / "cache")
    assert len(cache) == 3 and cache.unique == 1
    assert json.loads((tmp_path / "cache" / "cache.json").read_text())["tower"]["max_length"] == 12
    assert cli.main(argv) == 0  # again: read, not made
    assert "expected tower max_length 9, found 12" in refused(capsys, *argv, "--config.text.max_length=9")


def test_a_prompt_takes_the_place_of_the_tower_s_prefix(trained: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("cat\ncat\n")
    argv = ["embed", f"--model={trained.run}", f"--texts={tmp_path / 'texts.txt'}", f"--out={tmp_path / 'x.npz'}"]
    assert cli.main([*argv, "--prompt=a red "]) == 0
    ids, vectors = read(tmp_path / "x.npz")
    assert ids == ["cat", "cat"]  # equal ones stay
    wanted = lit_tune.load(trained.run).embed_texts(["a red cat"], prompt="")
    np.testing.assert_allclose(vectors, np.repeat(wanted, 2, axis=0), atol=1e-6)


def test_a_full_disk_while_writing_is_one_line_and_the_same_command_goes_on(
    trained: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    argv = ["embed", f"--model={trained.run}", f"--images={trained.pictures}", f"--out={tmp_path / 'x.npz'}"]
    with monkeypatch.context() as patch:
        patch.setattr(vector_files, "write", full)
        assert "expected room to write, found No space left on device" in refused(capsys, *argv)
    monkeypatch.setattr(embed, "embed_pictures", full)  # nothing is left to embed
    assert cli.main(argv) == 0
    np.testing.assert_array_equal(read(tmp_path / "x.npz")[1], read(trained.index)[1])
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


def test_folders_are_walked_in_the_order_of_their_sorted_paths(tmp_path: Path) -> None:
    for name in ("b/1.png", "a/2.png", "a.png", "a-b/3.PNG", "b/c/d.tar", "z.gif", "no.txt", "b/.x.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = list(inputs._below(tmp_path))
    assert found == sorted(p for p in tmp_path.rglob("*") if p.suffix.lower() in (".png", ".tar", ".gif", ".jpg"))
    assert len(found) == 7


def test_what_is_asked_for_late_is_still_the_right_member_and_what_is_passed_over_is_not_read(
    trained: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = inputs.Pictures(f"{trained.root}/00000.tar")
    assert pictures.count is None
    stream = list(pictures.stream(1))
    assert [one.read() for one in stream] == [(trained.pictures / f"{i}.png").read_bytes() for i in (1, 2)]
    assert [one.name for one in stream] == [f"{trained.root}/00000.tar/000{i}.png" for i in (1, 2)]
    assert 0 < stream[0].place < stream[1].place <= pictures.size == (trained.root / "00000.tar").stat().st_size


def test_progress_says_count_rate_and_time_left(trained: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("a cat\n" * 4000)
    texts, tar = inputs.Texts(tmp_path / "texts.txt"), inputs.Pictures(f"{trained.root}/00000.tar")
    none = np.empty((0, 4), np.float32)
    work = Unfinished(tmp_path / "x.npz", {"dim": 4}, restart=False)
    work.add([], none, 1000, 1000)
    clock = embed.Progress(texts, work)
    work.add([], none, 2000, 3000)
    assert clock.line(10.0) == "embedded 3,000 of 4,000 texts, 200.0 a second, 5 s to go"
    work.close()
    work = Unfinished(tmp_path / "x.npz", {"dim": 4}, restart=True)
    clock = embed.Progress(tar, work)
    work.add([], none, 2, tar.size // 4)
    assert clock.line(1.0) == "embedded 2 pictures, 25%, 2.0 a second, 3 s to go"
    work.remove()


def test_an_onnx_file_of_other_weights_is_another_model(trained: SimpleNamespace) -> None:
    given = inputs.Pictures(str(trained.pictures))
    pages = []
    for digest in "ab":
        model = lit_tune.load(trained.run)
        model.vision.params = {}  # as of a tower that only runs
        model.vision.description = {**model.vision.description, "weights": {"layout": "onnx", "sha256": digest}}
        pages.append(embed.manifest(model, given, None))
    assert pages[0]["model_sha256"] != pages[1]["model_sha256"]
    assert {**pages[0], "model_sha256": ""} == {**pages[1], "model_sha256": ""}
