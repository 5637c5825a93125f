"""Arrow shards as `datasets` leaves them, and Parquet: captions, puzzles, and every line that refuses a table."""

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evaldata_folders import IMAGE, arrow_retrieval, arrow_winogavil, image_column, picture, write_arrow

from lit_tune.data.sample import BadSample
from lit_tune.errors import ConfigError, DataError
from lit_tune.evaldata import arrow, arrow_blocks


def refused(where: Path, code: int, *words: str, split: str = "test") -> None:
    """The table is refused with this exit code and one line that holds these words."""
    with pytest.raises((ConfigError, DataError)) as caught:
        arrow.read(where, split)
    assert caught.value.exit_code == code and "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def columns(n: int = 3, **more: pa.Array) -> dict[str, pa.Array]:
    """Pictures with a list of captions each, and other columns instead of or beside these."""
    return {"image": image_column([picture(i) for i in range(n)]),
            "caption": pa.array([[f"c{i}"] for i in range(n)]), **more}  # fmt: skip


@pytest.mark.parametrize("shards", [1, 3])
def test_a_cache_of_datasets_gives_its_captions_in_order(tmp_path: Path, shards: int) -> None:
    made = arrow_retrieval(tmp_path, n=8, shards=shards)
    data = arrow.read(made.folder)
    assert data.kind == "retrieval" and data.captions == made.captions and data.notes == ()
    assert [data.pictures[i] for i in range(8)] == made.pictures and len(data) == 8
    assert data.pictures.describe(7).endswith(".arrow row 7" if shards == 1 else "00002-of-00003.arrow row 1")


@pytest.mark.parametrize("kind", ["stream", "file", "parquet"])
def test_every_container_gives_the_same_data(tmp_path: Path, kind: str) -> None:
    table = pa.table(columns(7))
    path = tmp_path / f"x-test.{'parquet' if kind == 'parquet' else 'arrow'}"
    if kind == "stream":
        write_arrow(path, columns(7), rows_a_batch=2)
    elif kind == "file":
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    else:
        pq.write_table(table, path, row_group_size=1)  # more groups than are kept
    data = arrow.read(tmp_path)
    made = arrow_retrieval(tmp_path / "other", n=7)
    assert [data.pictures[i] for i in (6, 0, 3, 5, 1, 2, 4, 6)] == [made.pictures[i] for i in (6, 0, 3, 5, 1, 2, 4, 6)]
    same = arrow.read(tmp_path / "other")
    assert data.captions != same.captions and data.sha256 != same.sha256
    write_arrow(tmp_path / "again" / "test.arrow", columns(7))
    assert arrow.read(tmp_path / "again").sha256 == data.sha256


def test_parquet_is_read_by_several_threads_and_keeps_few_row_groups(tmp_path: Path) -> None:
    pq.write_table(pa.table(columns(24)), tmp_path / "test.parquet", row_group_size=2)
    data = arrow.read(tmp_path)
    found: dict[int, bytes] = {}
    threads = [threading.Thread(target=lambda k=k: found.update({i: data.pictures[i] for i in range(k, 24, 4)}))
               for k in range(4)]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: picture(i) for i in range(24)}
    assert len(data.pictures._kept) == arrow_blocks.KEPT < 12


def test_pictures_may_be_bare_bytes_and_captions_one_text(tmp_path: Path) -> None:
    write_arrow(tmp_path / "test.arrow", {"image": pa.array([picture(0), picture(1)], pa.large_binary()),
                                          "text": pa.array(["one", " two "])})  # fmt: skip
    data = arrow.read(tmp_path)
    assert data.captions == (("one",), (" two ",)) and data.pictures[1] == picture(1)


def test_puzzles_keep_each_distinct_picture_once(tmp_path: Path) -> None:
    made = arrow_winogavil(tmp_path, puzzles=9)
    data = arrow.read(made.folder)
    assert data.kind == "association" and data.captions == () and data.labels is None
    used = {name for one in made.candidates for name in one}
    assert len(data) == len(used) == len({data.pictures[i] for i in range(len(data))})
    assert [p.cue for p in data.puzzles] == made.cues
    for puzzle, candidates, associations in zip(data.puzzles, made.candidates, made.associations, strict=True):
        chosen = [data.pictures[row] for row in puzzle.candidates.tolist()]
        assert chosen == [made.pictures[name] for name in candidates]
        assert puzzle.right.tolist() == [name in associations for name in candidates]
        assert puzzle.right.dtype == bool and puzzle.candidates.dtype == np.int64
    assert data.notes == ("9 puzzles by number of candidates: 3 of 5, 2 of 6, 2 of 10, 2 of 12.",)


def test_puzzles_of_parquet_and_of_arrow_are_the_same(tmp_path: Path) -> None:
    made = arrow_winogavil(tmp_path, puzzles=6)
    with pa.memory_map(str(made.place / "winogavil-test.arrow")) as file:
        table = pa.ipc.open_stream(file).read_all()
    pq.write_table(table, tmp_path / "test.parquet", row_group_size=4)
    first, second = arrow.read(made.folder), arrow.read(tmp_path / "test.parquet")
    assert first.sha256 == second.sha256
    assert [first.pictures[i] for i in range(len(first))] == [second.pictures[i] for i in range(len(second))]
    moved = table.set_column(table.schema.get_field_index("cue"), "cue", pa.array([f"cue {i + 1}" for i in range(6)]))
    pq.write_table(moved, tmp_path / "test.parquet")
    assert arrow.read(tmp_path / "test.parquet").sha256 != first.sha256


def test_pictures_that_a_loading_script_unpacked_are_read_by_their_paths_also_after_a_move(tmp_path: Path) -> None:
    cache = tmp_path / "hf_cache"
    unpacked = cache / "downloads" / "extracted" / "0123"
    unpacked.mkdir(parents=True)
    for i in range(3):
        (unpacked / f"{i}.jpg").write_bytes(picture(i))
    pictures = pa.array([{"bytes": None, "path": str(unpacked / f"{i}.jpg")} for i in range(3)], IMAGE)
    write_arrow(cache / "toy" / "TEST" / "x-test.arrow", columns(image=pictures))
    data = arrow.read(cache / "toy")
    assert [data.pictures[i] for i in range(3)] == [picture(i) for i in range(3)]
    assert data.notes == ("3 pictures are not in the table but in files that it names.",)
    write_arrow(tmp_path / "embedded" / "test.arrow", columns())
    assert arrow.read(tmp_path / "embedded").sha256 == data.sha256
    shutil.move(cache, tmp_path / "moved")
    moved = arrow.read(tmp_path / "moved" / "toy")
    assert [moved.pictures[i] for i in range(3)] == [picture(i) for i in range(3)] and moved.sha256 == data.sha256
    (tmp_path / "moved" / "downloads" / "extracted" / "0123" / "1.jpg").unlink()
    refused(tmp_path / "moved" / "toy", 4, "x-test.arrow row 1", "1.jpg, where no file is")
    with pytest.raises(BadSample, match="unreadable"):
        moved.pictures[1]


def test_a_picture_by_path_alone_is_refused_by_name(tmp_path: Path) -> None:
    pictures = pa.array([{"bytes": picture(0), "path": None}, {"bytes": None, "path": "COCO_1.jpg"}, None], IMAGE)
    write_arrow(tmp_path / "test.arrow", columns(image=pictures), rows_a_batch=1)
    refused(tmp_path, 4, "test.arrow row 1", "only the path COCO_1.jpg")
    write_arrow(tmp_path / "test.arrow", columns(1, image=pictures[2:]))
    refused(tmp_path, 4, "test.arrow row 0", "found nothing")


@pytest.mark.parametrize("captions", [pa.array([["a"], None, ["c"]]), pa.array([["a"], [], ["c"]]),
                                      pa.array([["a"], [" "], ["c"]]), pa.array(["a", None, "c"]),
                                      pa.array([1, 2, 3])])
def test_a_row_without_captions_is_damage(tmp_path: Path, captions: pa.Array) -> None:
    write_arrow(tmp_path / "test.arrow", columns(caption=captions))
    refused(tmp_path, 4, "test.arrow row", "a caption")


@pytest.mark.parametrize("change", [
    {"associations": [["x"], ["b"]]}, {"candidates": [["a"], ["a", "b"]]}, {"cue": ["", "cue"]}, {"cue": [None, "cue"]},
])
def test_a_puzzle_that_does_not_add_up_is_damage(tmp_path: Path, change: dict[str, list]) -> None:
    images = [[{"bytes": picture(i), "path": None} for i in range(2)]] * 2
    table = {"candidates": [["a", "b"]] * 2, "associations": [["a"], ["b"]], "cue": ["one", "two"], **change}
    write_arrow(tmp_path / "test.arrow", {
        **{name: pa.array(values) for name, values in table.items()},
        "candidate_images": pa.array(images, pa.list_(IMAGE))})  # fmt: skip
    refused(tmp_path, 4, "test.arrow row 0", "a cue, as many candidates as pictures")


def test_a_table_of_other_columns_is_refused(tmp_path: Path) -> None:
    write_arrow(tmp_path / "test.arrow", {"image": pa.array(["a.png"]), "caption": pa.array(["a"])})
    refused(tmp_path, 2, "columns image (bytes) and caption", "candidate_images")
    write_arrow(tmp_path / "test.arrow", {"image": pa.array([b"x"]), "label": pa.array([1])})
    refused(tmp_path, 2, "image, label")
    write_arrow(tmp_path / "test.arrow", columns(0))
    refused(tmp_path, 2, "an empty table")


def test_the_split_is_told_by_names_and_only_one_set_is_read(tmp_path: Path) -> None:
    write_arrow(tmp_path / "a" / "x-train.arrow", columns(2))
    write_arrow(tmp_path / "a" / "x-test.arrow", columns(3))
    write_arrow(tmp_path / "a" / "cache-test.arrow", columns(1))
    assert len(arrow.read(tmp_path)) == 3 and len(arrow.read(tmp_path, "train")) == 2
    refused(tmp_path, 2, "the split val", "x-test.arrow", split="val")
    assert len(arrow.read(tmp_path / "a" / "x-train.arrow")) == 2, "a file that is named is read whatever its name"
    write_arrow(tmp_path / "b" / "x-test.arrow", columns(3))
    refused(tmp_path, 2, "one data set with a split test", "a/x-test.arrow, b/x-test.arrow")


def test_one_table_whose_name_tells_no_split_is_read_with_a_note(tmp_path: Path) -> None:
    for number in range(2):
        write_arrow(tmp_path / f"data-0000{number}-of-00002.arrow", columns(2))
    data = arrow.read(tmp_path)
    assert len(data) == 4 and data.notes == ("No name tells the split: the one table there, data.arrow, was read.",)


def test_missing_shards_and_rows_are_damage(tmp_path: Path) -> None:
    made = arrow_retrieval(tmp_path, n=6, shards=3)
    info = made.place / "dataset_info.json"
    info.write_text(json.dumps({"splits": {"test": {"num_examples": 6}}}))
    assert len(arrow.read(made.folder)) == 6
    info.write_text(json.dumps({"splits": {"test": {"num_examples": 7}}}))
    refused(made.folder, 4, "7 rows (dataset_info.json), found 6")
    info.unlink()
    next(made.place.glob("*-00001-of-00003.arrow")).unlink()
    refused(made.folder, 4, "3 shards, found no number 00001")


def test_a_stream_that_is_cut_anywhere_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "test.arrow"
    write_arrow(path, columns(4), rows_a_batch=2)
    whole = path.read_bytes()
    assert len(arrow.read(tmp_path)) == 4
    with pa.memory_map(str(path)) as file:
        reader = pa.ipc.open_stream(file)
        reader.read_next_batch()
        between = file.tell()
    path.write_bytes(whole[:between])
    with pa.memory_map(str(path)) as file:
        assert pa.ipc.open_stream(file).read_all().num_rows == 2, "pyarrow takes it for a whole one"
    for size in (between, len(whole) - 8, len(whole) // 3, 4, 0):
        path.write_bytes(whole[:size])
        refused(tmp_path, 4, "test.arrow")
    path.write_bytes(b"no table" * 20)
    refused(tmp_path, 4, "test.arrow")
    (tmp_path / "test.arrow").unlink()
    (tmp_path / "test.parquet").write_bytes(b"PAR1" + b"no table" * 20)
    refused(tmp_path, 4, "test.parquet")


def test_damage_inside_a_parquet_file_is_found_before_anything_is_embedded(tmp_path: Path) -> None:
    path = tmp_path / "test.parquet"
    pq.write_table(pa.table(columns(6)), path, row_group_size=3, compression="zstd", write_page_checksum=True)
    raw = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    raw[column.dictionary_page_offset + column.total_compressed_size // 2] ^= 1  # a bit of a picture
    path.write_bytes(bytes(raw))
    refused(tmp_path, 4, "test.parquet", "a readable column image")


def test_a_parquet_file_that_breaks_later_is_a_bad_sample(tmp_path: Path) -> None:
    path = tmp_path / "test.parquet"
    pq.write_table(pa.table(columns(6)), path, row_group_size=1, compression="zstd")
    data = arrow.read(path)
    with open(path, "r+b") as file:
        file.seek(4)
        file.write(b"\xff" * 400)
    with pytest.raises(BadSample, match="unreadable"):
        data.pictures[0]


def test_the_digest_does_not_depend_on_place_shards_or_batches(tmp_path: Path) -> None:
    first = arrow.read(arrow_retrieval(tmp_path / "a", n=7).folder).sha256
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert arrow.read(tmp_path / "b").sha256 == first
    assert arrow.read(arrow_retrieval(tmp_path / "c", n=7, shards=3).folder).sha256 == first
    assert arrow.read(arrow_retrieval(tmp_path / "d", n=6).folder).sha256 != first
