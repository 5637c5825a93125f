"""search as a command: what is found, the page of it, and what is no index."""

import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from collections_on_disk import refused, write_collection

import lit_tune
from lit_tune import cli, search, vector_files
from lit_tune.vector_files import Index


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run, three pictures beside each other and in a tar, and an index of them."""
    return write_collection(tmp_path_factory.mktemp("trained"))


def test_search_by_words_and_by_picture_finds_the_nearest_first(
    trained: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["search", f"--model={trained.run}", f"--index={trained.index}"]
    assert cli.main([*argv, str(trained.pictures / "1.png"), "--top=2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[0].split() == ["1", "+1.0000", str(trained.pictures / "1.png")]
    assert cli.main([*argv, str(trained.pictures / "mistyped.png")]) == 2  # not searched for as words
    assert "no file" in capsys.readouterr().err
    assert cli.main([*argv, "a", "red", "cat"]) == 0  # unquoted words are one query
    lines = capsys.readouterr().out.splitlines()
    with np.load(trained.index) as file:
        ids, vectors = file["ids"], file["embeddings"]
    scores = vectors @ lit_tune.load(trained.run).embed_texts(["a red cat"])[0]
    assert [line.split()[2] for line in lines] == [ids[row] for row in np.argsort(-scores)]


@pytest.mark.parametrize("suffix", vector_files.SUFFIXES)
@pytest.mark.parametrize("block", [8, 24, 1 << 20])  # bytes: one row, three rows, all rows at a time
def test_an_index_read_in_blocks_finds_what_one_product_finds_equal_ones_in_the_order_of_the_file(
    suffix: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = np.float32([[0, 1], [1, 0], [0, 1], [1, 0], [0.6, 0.8], [-1, 0], [1, 0]])
    ids = ["a", "bb", "", "bb", "ü", "x y", "last"]
    vector_files.write(tmp_path / f"x{suffix}", suffix, lambda: iter(ids), vectors)
    monkeypatch.setattr(vector_files, "BLOCK", block)
    monkeypatch.setattr(vector_files, "IDS_AT_ONCE", 2)
    index = Index(tmp_path / f"x{suffix}")
    assert (index.count, index.dim) == (7, 2) and list(index.ids()) == ids
    for top in (1, 3, 5, 99):
        found = search.nearest(np.float32([1, 0]), index, top)
        assert [row for row, _ in found] == np.argsort(-vectors[:, 0], kind="stable")[:top].tolist()
        assert [score for _, score in found] == [float(vectors[row, 0]) for row, _ in found]
        assert vector_files.names(index, [row for row, _ in found]) == [ids[row] for row, _ in found]


def test_an_index_is_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, dim = 40_000, 64  # 10 MB
    vectors = np.random.default_rng(0).standard_normal((rows, dim), np.float32)
    for suffix in vector_files.SUFFIXES:
        monkeypatch.setattr(vector_files, "BLOCK", 1 << 18)
        tracemalloc.start()
        vector_files.write(tmp_path / f"x{suffix}", suffix, lambda: map(str, range(rows)), vectors)
        search.nearest(vectors[7], Index(tmp_path / f"x{suffix}"), 5)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < vectors.nbytes / 3, f"{suffix}: {peak:,} bytes"


def test_numpy_s_own_files_are_read_and_ours_are_numpy_s(tmp_path: Path) -> None:
    vectors, ids = np.float32([[0, 1], [1, 0], [0.6, 0.8]]), ["a", "", "long one"]
    np.savez_compressed(tmp_path / "theirs.npz", ids=np.array(ids), embeddings=vectors)
    assert list(Index(tmp_path / "theirs.npz").ids()) == ids
    np.testing.assert_array_equal(next(Index(tmp_path / "theirs.npz").blocks())[1], vectors)
    vector_files.write(tmp_path / "ours.npz", ".npz", lambda: iter(ids), vectors)
    with np.load(tmp_path / "ours.npz", allow_pickle=False) as file:
        assert file["ids"].tolist() == ids and file["ids"].dtype == np.array(ids).dtype
        np.testing.assert_array_equal(file["embeddings"], vectors)
    assert vector_files.npz_ids_bytes(iter(ids)) == np.array(ids).nbytes


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
    (tmp_path / "text.parquet").write_text("hello")
    whole = trained.index.read_bytes()
    at = whole.index(b"\x93NUMPY", whole.index(b"embeddings.npy")) + 200
    (tmp_path / "flipped.npz").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    for name, message in [
        ("none.npz", "found no such file"), ("other.npz", "found another file"), ("text.npz", "found another file"),
        ("text.parquet", "found another file"), ("flipped.npz", "found another file"),
        ("pickled.npz", "found another file"), ("plain.npy", "found another file"),
        ("uneven.npz", "found ids (1,) and float32 embeddings (2, 16)"),
        ("narrow.npz", "expected vectors of 16 numbers"),
    ]:  # fmt: skip
        argv = ["search", f"--model={trained.run}", f"--index={tmp_path / name}", "cat"]
        assert message in refused(capsys, *argv)
    argv = ["search", f"--model={trained.run}", f"--index={trained.index}"]
    assert 'expected "words" or a picture' in refused(capsys, *argv)
    assert "--top of at least 1" in refused(capsys, *argv, "--top=0", "cat")
