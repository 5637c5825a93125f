"""embed, search and cache-text as commands: what they write, what they print, how they refuse."""

import io
import json
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_models import picture, small_config, write_run, write_text_tower

import lit_tune
from lit_tune import cli, embed, search
from lit_tune.errors import ConfigError, DataError
from lit_tune.text.cache import TextCache


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run, three pictures beside each other and in a tar, and an index of them."""
    root = tmp_path_factory.mktemp("trained")
    config = small_config(write_text_tower(root / "text"))
    write_run(root / "run", config)
    pictures = root / "pictures"
    pictures.mkdir()
    for number in range(3):
        Image.fromarray(picture(number)).save(pictures / f"{number}.png")
    write_tar(root / "00000.tar", {f"{i:04}.png": (pictures / f"{i}.png").read_bytes() for i in range(3)})
    index = root / "index.npz"
    assert cli.main(["embed", f"--model={root / 'run'}", f"--images={pictures}/*.png", f"--out={index}"]) == 0
    return SimpleNamespace(root=root, run=root / "run", pictures=pictures, index=index, text=root / "text")


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    """A tar of these members and a caption each."""
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            for member, content in ((name, data), (Path(name).with_suffix(".txt").name, b"a cat")):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def refused(capsys: pytest.CaptureFixture[str], *argv: Any, code: int = 2) -> str:
    """The one line a command line is refused with."""
    capsys.readouterr()
    assert cli.main([str(word) for word in argv]) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("lit-tune: "), lines
    return lines[0]


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
    ids, vectors = search.read_index(out)
    np.testing.assert_allclose(vectors, search.read_index(trained.index)[1], atol=1e-6)
    if ".tar" in spec:
        assert ids == [f"{trained.root}/00000.tar/{i:04}.png" for i in range(3)]


def test_embedded_texts_have_the_tower_s_prefix_and_the_lines_as_ids(trained: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\ufeffa cat\n\n  the red dog \r\n", encoding="utf-8")
    argv = ["embed", f"--model={trained.run}", f"--texts={tmp_path / 'texts.txt'}", f"--out={tmp_path / 'x.npz'}"]
    assert cli.main(argv) == 0
    ids, vectors = search.read_index(tmp_path / "x.npz")
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
    assert search.read_index(tmp_path / "x.npz")[0] == [f"{tmp_path}/x.tar/{name}.png" for name in "ad"]


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


def test_search_by_words_and_by_picture_finds_the_nearest_first(
    trained: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["search", f"--model={trained.run}", f"--index={trained.index}"]
    assert cli.main([*argv, str(trained.pictures / "1.png"), "--top=2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[0].split() == ["1", "+1.0000", str(trained.pictures / "1.png")]
    assert cli.main([*argv, "a", "red", "cat"]) == 0  # unquoted words are one query
    lines = capsys.readouterr().out.splitlines()
    ids, vectors = search.read_index(trained.index)
    scores = vectors @ lit_tune.load(trained.run).embed_texts(["a red cat"])[0]
    assert [line.split()[2] for line in lines] == [ids[row] for row in np.argsort(-scores)]


def test_nearest_puts_equal_scores_in_the_order_of_the_file() -> None:
    vectors = np.float32([[0, 1], [1, 0], [0, 1], [1, 0]])
    assert [row for row, _ in search.nearest(np.float32([1, 0]), vectors, 9)] == [1, 3, 0, 2]


def test_the_page_is_self_contained_and_escapes_what_users_write(
    trained: SimpleNamespace, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    argv = ["search", f"--model={trained.run}", f"--index={trained.index}", f"--html={page}"]
    assert cli.main([*argv, "<script>cat</script>"]) == 0
    text = page.read_text()
    assert "<script>" not in text and "&lt;script&gt;" in text
    assert text.count("data:image/jpeg;base64,") == 3 and "http" not in text
    tar = trained.root / "00000.tar"
    search.write_page(page, "x", [(f"{tar}/0001.png", 0.5), ("gone.png", 0.1), (f"{tar}/none.png", 0.0)])
    assert page.read_text().count("data:image/jpeg;base64,") == 1  # the member of the tar; the others are gone


def test_search_refuses_what_is_no_index(
    trained: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    np.savez(tmp_path / "uneven.npz", ids=np.array(["a"]), embeddings=np.zeros((2, 16), np.float32))
    np.savez(tmp_path / "narrow.npz", ids=np.array(["a"]), embeddings=np.zeros((1, 8), np.float32))
    np.savez(tmp_path / "pickled.npz", ids=np.array([{}]), embeddings=np.zeros((1, 16), np.float32))
    np.save(tmp_path / "plain.npy", np.zeros((2, 2)))
    (tmp_path / "text.npz").write_text("hello")
    for name, message in [
        ("none.npz", "found no such file"), ("other.npz", "found another file"), ("text.npz", "found another file"),
        ("pickled.npz", "found another file"), ("plain.npy", "found another file"),
        ("uneven.npz", "found ids (1,) and float32 embeddings (2, 16)"),
        ("narrow.npz", "expected vectors of 16 numbers"),
    ]:  # fmt: skip
        argv = ["search", f"--model={trained.run}", f"--index={tmp_path / name}", "cat"]
        assert message in refused(capsys, *argv)
    argv = ["search", f"--model={trained.run}", f"--index={trained.index}"]
    assert 'expected "words" or a picture' in refused(capsys, *argv)
    assert "--top of at least 1" in refused(capsys, *argv, "--top=0", "cat")


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
    ids, vectors = search.read_index(trained.index)
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
    assert "3 captions of 3 samples, 1 distinct, 16 numbers each" in capsys.readouterr().out
    cache = TextCache.open(tmp_path / "cache")
    assert len(cache) == 3 and cache.unique == 1
    assert json.loads((tmp_path / "cache" / "cache.json").read_text())["tower"]["max_length"] == 12
    assert cli.main(argv) == 0  # again: read, not made
    assert "expected tower max_length 9, found 12" in refused(capsys, *argv, "--config.text.max_length=9")


def test_a_full_disk_while_writing_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(embed.np, "savez", full)
    with pytest.raises(ConfigError, match="expected room to write, found No space left on device"):
        embed.write(tmp_path / "x.npz", ["a"], np.zeros((1, 2), np.float32))
