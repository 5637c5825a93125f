"""clip_benchmark's and DataComp's folders: what is read, in which order, and every line that refuses one."""

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from evaldata_folders import npy, picture, wds as write, write_tar

from lit_tune.data.sample import BadSample
from lit_tune.errors import ConfigError, DataError
from lit_tune.evaldata import wds


def refused(folder: Path, code: int, *words: str, **more: object) -> str:
    """The one line with which a folder is refused: it says where, what was expected and found, and what to do."""
    with pytest.raises((ConfigError, DataError)) as caught:
        wds.read(folder, **more)
    line = str(caught.value)
    assert caught.value.exit_code == code, line
    assert "\n" not in line and ": expected " in line and ", found " in line and "; " in line, line
    for word in words:
        assert word in line, f"{word!r} is not in {line!r}"
    return line


def first_tar(folder: Path, split: str = "test") -> tuple[Path, list[tuple[str, bytes]]]:
    """The first shard and its members."""
    path = folder / split / "0.tar"
    with tarfile.open(path) as tar:
        return path, [(member.name, tar.extractfile(member).read()) for member in tar]


def change(folder: Path, name: str, data: bytes | None) -> None:
    """Write the first shard again with other data in one member; None leaves it out."""
    path, members = first_tar(folder)
    assert name in dict(members)
    write_tar(path, [(n, data if n == name else d) for n, d in members if n != name or data is not None])


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_classification_comes_in_shard_order_whatever_the_sizes_of_the_shards(tmp_path: Path, shards: int) -> None:
    made = write(tmp_path, shards=shards, n=13)
    data = wds.read(tmp_path)
    assert data.kind == "classification" and len(data) == 13
    assert [data.pictures[i] for i in range(13)] == made.pictures
    np.testing.assert_array_equal(data.labels, made.labels)
    assert data.labels.dtype == np.int64
    assert data.classnames == made.classnames and data.templates == ("a photo of a {}.", "{}, drawn")
    assert data.fields is None and data.captions == () and data.notes == () and data.where == str(tmp_path)


def test_more_than_ten_shards_are_read_by_number_and_not_by_name(tmp_path: Path) -> None:
    made = write(tmp_path, shards=12, n=12)
    assert [wds.read(tmp_path).pictures[i] for i in range(12)] == made.pictures


def test_where_a_picture_lies_is_told_by_shard_and_member(tmp_path: Path) -> None:
    write(tmp_path, n=4, shards=2)
    data = wds.read(tmp_path)
    assert data.pictures.describe(0) == "test/0.tar/s0000000.webp"
    assert data.pictures.describe(3) == "test/1.tar/s0000003.webp"


def test_multilabel_reads_one_mark_a_class(tmp_path: Path) -> None:
    made = write(tmp_path, "multilabel", n=9, classes=5)
    data = wds.read(tmp_path)
    assert data.kind == "multilabel" and data.labels.dtype == bool and data.labels.shape == (9, 5)
    np.testing.assert_array_equal(data.labels, made.labels)
    assert data.fields is None


def test_retrieval_takes_a_caption_a_line_as_it_stands_there(tmp_path: Path) -> None:
    captions = [["one"], [" two ", "", "drei  vier"], ["fünf", "six"]]
    write(tmp_path, "retrieval", n=3, labels=captions)
    data = wds.read(tmp_path)
    assert data.captions == (("one",), (" two ", "", "drei  vier"), ("fünf", "six"))
    assert data.kind == "retrieval" and data.classnames == () and data.templates == () and data.labels is None
    assert data.notes == ("1 captions are empty and count, as in clip_benchmark.",)


def test_numbers_beside_a_class_are_its_fields(tmp_path: Path) -> None:
    fields = np.arange(26).reshape(13, 2) - 5
    made = write(tmp_path, fields=fields)
    data = wds.read(tmp_path)
    np.testing.assert_array_equal(data.fields, fields)
    np.testing.assert_array_equal(data.labels, made.labels)
    assert data.fields.dtype == np.int64


def test_whole_numbers_that_are_stored_as_floats_are_taken_and_others_refused(tmp_path: Path) -> None:
    write(tmp_path, fields=np.array([[1, 2]] * 13))
    change(tmp_path, "s0000001.npy", npy([3.0, 4.0]))
    assert wds.read(tmp_path).fields[1].tolist() == [3, 4]
    for values in ([3.5, 4.0], [np.nan, 1.0], [[1, 2]], [1, 2, 3]):
        change(tmp_path, "s0000001.npy", npy(values))
        refused(tmp_path, 4, "test/0.tar/s0000001", "2 whole numbers in .npy")


def test_names_and_templates_that_ask_questions_make_attributes(tmp_path: Path) -> None:
    made = write(tmp_path, "attributes")
    data = wds.read(tmp_path)
    assert data.kind == "attributes" and data.labels is None
    np.testing.assert_array_equal(data.fields, made.fields)
    assert data.classnames[0] == "race:race 0" and len(data.classnames) == 7 + 2 + 9 + 19
    assert data.templates[0] == "race:a photo of a {} person"
    change(tmp_path, "s0000002.npy", None)
    refused(tmp_path, 4, "s0000002", "a .npy member")


def test_a_colon_in_every_class_name_alone_asks_no_question(tmp_path: Path) -> None:
    write(tmp_path, classes=2, labels=[0, 1] * 6 + [0])
    (tmp_path / "classnames.txt").write_text("year: 1990\nyear: 2000\n")
    assert wds.read(tmp_path).kind == "classification"


def test_another_split_lies_beside_the_test_split(tmp_path: Path) -> None:
    write(tmp_path, n=5)
    made = write(tmp_path, n=8, split="train", labels=[3, 2, 1, 0] * 2)
    assert len(wds.read(tmp_path)) == 5
    assert wds.read(tmp_path, "train").labels.tolist() == made.labels.tolist()
    assert wds.splits(tmp_path) == ["test", "train"]
    refused(tmp_path, 2, "a folder val/", "test, train", split="val")


def test_upper_case_suffixes_other_members_and_skipped_names_do_not_disturb(tmp_path: Path) -> None:
    write(tmp_path, n=2, classes=2, shards=1)
    write_tar(tmp_path / "test" / "0.tar", [
        ("__meta__/x.json", b"{}"), ("README", b"no suffix"), ("a/x.b/s0.JPG", b"one"), ("a/x.b/s0.json", b"{"),
        ("a/x.b/s0.CLS", b" 1\n"), ("s1.cls", b"0"), ("s1.jpeg", b"last"), ("s1.webp", b"first"),
        ("s1.v1.png", b"other"),
    ])  # fmt: skip
    data = wds.read(tmp_path)
    assert [data.pictures[0], data.pictures[1]] == [b"one", b"first"] and data.labels.tolist() == [1, 0]


def test_given_names_and_templates_stand_in_for_the_folder_s(tmp_path: Path) -> None:
    write(tmp_path)
    names = ("w", "x", "y", "z")
    data = wds.read(tmp_path, classnames=names, templates=("a {}",))
    assert data.classnames == names and data.templates == ("a {}",)
    (tmp_path / "classnames.txt").unlink()
    assert wds.read(tmp_path, classnames=names).templates == ("a photo of a {}.", "{}, drawn")
    refused(tmp_path, 2, "classnames.txt", "no such file")
    (tmp_path / "zeroshot_classification_templates.txt").unlink()
    assert wds.read(tmp_path, classnames=names).templates == ()


def test_the_digest_is_of_the_data_and_not_of_its_place(tmp_path: Path) -> None:
    write(tmp_path / "a", n=6, shards=2)
    first = wds.read(tmp_path / "a").sha256
    shutil.move(tmp_path / "a", tmp_path / "elsewhere")
    assert wds.read(tmp_path / "elsewhere").sha256 == first
    write(tmp_path / "b", n=6, shards=4)
    assert wds.read(tmp_path / "b").sha256 == first, "the same pictures over more shards"
    (tmp_path / "b" / "classnames.txt").write_text("one\ntwo\nthree\nfour\n")
    assert wds.read(tmp_path / "b").sha256 == first, "names are stated apart"


@pytest.mark.parametrize("kind", ["classification", "multilabel", "retrieval", "attributes"])
def test_one_other_byte_label_or_place_gives_another_digest(tmp_path: Path, kind: str) -> None:
    base = [picture(i) for i in range(4)]
    labels = {"classification": [0, 1, 2, 3], "multilabel": np.eye(4, dtype=int).tolist(),
              "retrieval": [["a"], ["b", "c"], ["d"], ["e"]], "attributes": None}[kind]  # fmt: skip
    fields = np.arange(16).reshape(4, 4) if kind == "attributes" else None
    folder = iter(range(100))

    def digest(pictures: list[bytes] = base, labels: object = labels, fields: object = fields) -> str:
        here = tmp_path / str(next(folder))
        write(here, kind, n=4, pictures=pictures, labels=labels, fields=fields)
        return wds.read(here).sha256

    found = {digest(), digest(pictures=[base[0][:-1] + b"\x83", *base[1:]])}
    found.add(digest(pictures=[base[1], base[0], *base[2:]]))
    if kind == "attributes":
        found |= {digest(fields=fields[::-1]), digest(fields=fields + 1)}
    else:
        changed = {"classification": [0, 1, 2, 2], "multilabel": [[1, 1, 0, 0], *labels[1:]],
                   "retrieval": [["a"], ["b"], ["c", "d"], ["e"]]}[kind]  # fmt: skip
        found |= {digest(labels=changed), digest(labels=[labels[1], labels[0], *labels[2:]])}
    assert len(found) == 5
    assert digest() in found


def test_a_picture_that_is_gone_or_cut_after_the_reading_is_a_bad_sample(tmp_path: Path) -> None:
    write(tmp_path, n=4, shards=2)
    data = wds.read(tmp_path)
    (tmp_path / "test" / "0.tar").unlink()
    (tmp_path / "test" / "1.tar").write_bytes(b"")
    for i in (0, 3):
        with pytest.raises(BadSample, match="unreadable"):
            data.pictures[i]


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "no", 2, "no such folder")
    refused(tmp_path, 2, "classnames.txt", "no such file")
    (tmp_path / "classnames.txt").write_text("a")
    refused(tmp_path, 2, "a folder test/ with shards", "no split")
    (tmp_path / "test").mkdir()
    refused(tmp_path, 2, "no .tar file")


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    write(tmp_path, n=0, shards=1)
    refused(tmp_path, 2, "samples in its shards", "none")


@pytest.mark.parametrize("text, words", [
    ("", "an empty file"), ("\n\n", "an empty file"), ("a\n\nb\n", "classnames.txt line 2"),
    ("a\nb\n", "2 class names"),
])
def test_a_class_file_that_cannot_be_right_is_refused(tmp_path: Path, text: str, words: str) -> None:
    write(tmp_path, classes=4)
    (tmp_path / "classnames.txt").write_text(text)
    refused(tmp_path, 2, words)


def test_empty_lines_at_the_end_of_a_class_file_do_not_count(tmp_path: Path) -> None:
    write(tmp_path, classes=2)
    (tmp_path / "classnames.txt").write_bytes(b"\xef\xbb\xbf one \r\ntwo\r\n\r\n")
    assert wds.read(tmp_path).classnames == ("one", "two")


def test_a_class_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    write(tmp_path, classes=2)
    (tmp_path / "classnames.txt").write_bytes("größe\nb".encode("latin-1"))
    refused(tmp_path, 2, "UTF-8")


def test_a_template_without_a_place_for_the_class_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "zeroshot_classification_templates.txt").write_text("a photo of {c}\na photo\n")
    refused(tmp_path, 2, "templates.txt line 2", "'a photo'", "{c}")


def test_labels_outside_the_class_names_are_refused(tmp_path: Path) -> None:
    write(tmp_path, n=4, shards=1)
    change(tmp_path, "s0000002.cls", b"4")
    refused(tmp_path, 2, "test/0.tar/s0000002", "a class from 0 to 3", "found 4")
    change(tmp_path, "s0000002.cls", b"-1")
    refused(tmp_path, 2, "found -1")


@pytest.mark.parametrize("text", [b"", b"one", b"1.0", b"\xff"])
def test_a_class_that_is_no_number_is_damage(tmp_path: Path, text: bytes) -> None:
    write(tmp_path, n=4, shards=1)
    change(tmp_path, "s0000002.cls", text)
    refused(tmp_path, 4, "test/0.tar/s0000002", "a whole number in .cls")


def test_another_number_of_label_columns_than_classes_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "multilabel", classes=4, n=3)
    (tmp_path / "classnames.txt").write_text("a\nb\nc\n")
    refused(tmp_path, 2, "3 numbers in .npy", "an array (4,)")


@pytest.mark.parametrize("raw", [b"", b"no array", npy([1, 0, 0, 1])[:-3], npy(["a", "b", "c", "d"])])
def test_an_array_that_cannot_be_read_is_damage(tmp_path: Path, raw: bytes) -> None:
    write(tmp_path, "multilabel", n=3, classes=4, shards=1)
    change(tmp_path, "s0000001.npy", raw)
    refused(tmp_path, 4, "test/0.tar/s0000001", "an array of numbers in .npy")


def test_an_array_of_objects_is_refused_without_running_anything(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "went off",)

    write(tmp_path, "multilabel", n=3, classes=4, shards=1)
    change(tmp_path, "s0000001.npy", npy(np.array([Bomb()] * 4, object)))
    refused(tmp_path, 4, "an array of numbers in .npy")
    assert not (tmp_path / "went off").exists()


@pytest.mark.parametrize("kind, suffix", [("classification", "cls"), ("multilabel", "npy"), ("retrieval", "txt")])
def test_a_sample_without_picture_or_label_is_named(tmp_path: Path, kind: str, suffix: str) -> None:
    write(tmp_path, kind, n=4, shards=1)
    kept = (tmp_path / "test" / "0.tar").read_bytes()
    change(tmp_path, f"s0000001.{suffix}", None)
    refused(tmp_path, 4, "test/0.tar/s0000001", f"a .{suffix} member")
    (tmp_path / "test" / "0.tar").write_bytes(kept)
    change(tmp_path, "s0000001.png", None)
    refused(tmp_path, 4, "test/0.tar/s0000001", "a picture (.webp, .png, .jpg, .jpeg)", f".{suffix}")


def test_captions_without_text_or_not_in_utf8_are_damage(tmp_path: Path) -> None:
    write(tmp_path, "retrieval", n=4, shards=1)
    change(tmp_path, "s0000001.txt", b"\n  \n")
    refused(tmp_path, 4, "test/0.tar/s0000001", "no text")
    change(tmp_path, "s0000001.txt", b"caf\xe9")
    refused(tmp_path, 4, "test/0.tar/s0000001", "UTF-8")


def test_fields_of_some_samples_only_are_damage(tmp_path: Path) -> None:
    write(tmp_path, n=4, shards=1, fields=np.ones((4, 2), int))
    kept = (tmp_path / "test" / "0.tar").read_bytes()
    for gone in ("s0000000.npy", "s0000003.npy"):
        (tmp_path / "test" / "0.tar").write_bytes(kept)
        change(tmp_path, gone, None)
        refused(tmp_path, 4, "of every sample or of none")


def test_the_same_member_twice_is_damage(tmp_path: Path) -> None:
    write(tmp_path, n=2, shards=1)
    path, members = first_tar(tmp_path)
    write_tar(path, [members[0], members[0], *members[1:]])
    refused(tmp_path, 4, "test/0.tar/s0000000", "twice")


def test_an_unknown_type_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "dataset_type.txt").write_text("regression\n")
    refused(tmp_path, 2, "dataset_type.txt", "'regression'")
    (tmp_path / "dataset_type.txt").write_text(" Classification \n")
    assert wds.read(tmp_path).kind == "classification"


def test_missing_shards_are_damage_and_too_many_a_wrong_folder(tmp_path: Path) -> None:
    write(tmp_path, n=9, shards=3)
    (tmp_path / "test" / "1.tar").rename(tmp_path / "kept")
    refused(tmp_path, 4, "3 shards, 0.tar to 2.tar", "no 1.tar")
    (tmp_path / "test" / "nshards.txt").unlink()
    refused(tmp_path, 4, "no 1.tar")
    (tmp_path / "kept").rename(tmp_path / "test" / "1.tar")
    assert wds.read(tmp_path).notes == ("No nshards.txt in test/: the 3 shards there were read.",)
    for text in ("none", "0", "-1", ""):
        (tmp_path / "test" / "nshards.txt").write_text(text)
        refused(tmp_path, 2, "the number of shards", repr(text))
    (tmp_path / "test" / "nshards.txt").write_text("2\n")
    refused(tmp_path, 2, "2.tar among them")
    (tmp_path / "test" / "nshards.txt").write_text("999999999999\n")
    refused(tmp_path, 4, "no 3.tar")


def test_every_kind_of_damage_to_a_tar_ends_the_reading(tmp_path: Path) -> None:
    write(tmp_path, n=4, shards=1)
    path = tmp_path / "test" / "0.tar"
    whole = path.read_bytes()
    assert len(whole) == 10240, "8 members of 1,024 bytes and the padding"
    flipped = bytearray(whole)
    flipped[3 * 1024 + 5] ^= 1  # in a header: tarfile ends there without an error
    for broken, words in (
        (whole[: 1024 * 3], "no blocks of zeros at the end"),  # between two members: tarfile sees nothing
        (whole[: 1024 * 2 + 516], "cut inside"),
        (bytes(flipped), "bad header checksum"),
        (whole[:4096] + bytes(30_000), "30000 bytes of zeros"),
        (whole[:2048] + bytes(1024) + whole[2048:], "more data after it"),
        (b"", "no blocks of zeros"), (b"no tar at all" * 100, "no tar header"), (b"\x1f\x8b" + whole, "gzip"),
    ):  # fmt: skip
        path.write_bytes(broken)
        refused(tmp_path, 4, "test/0.tar", words)
    path.write_bytes(whole)
    assert len(wds.read(tmp_path)) == 4
