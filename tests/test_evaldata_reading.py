"""One call for every layout: what lies there is told by content, and what is none of them is refused."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from evaldata_folders import (
    arrow_retrieval,
    arrow_winogavil,
    captions_folder,
    image_folder,
    picture,
    wds,
    write_tar,
)

from lit_tune.data.sample import BadSample
from lit_tune.data.tar_index import image_format
from lit_tune.errors import ConfigError, DataError
from lit_tune.evaldata import names as named
from lit_tune.evaldata.pieces import sha256
from lit_tune.evaldata.reading import find_folder, read
from lit_tune.evals.catalog import TASKS


@pytest.fixture(autouse=True)
def _no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names come from a table here, as if clip-benchmark held just these."""
    classes = {"imagenetv2": tuple(f"name {i}" for i in range(11)), "toy": ("p", "q", "r", "s")}
    templates = {"imagenetv2": ("a {}.",), "toy": ("the {}",)}
    monkeypatch.setattr(named, "named_classes", classes.__getitem__)
    monkeypatch.setattr(named, "named_templates", templates.__getitem__)


def refused(code: int, where: object, *words: str, **more: object) -> None:
    """The place is refused with this exit code and one line that holds these words."""
    with pytest.raises((ConfigError, DataError)) as caught:
        read(where, **more)
    assert caught.value.exit_code == code and "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value), str(caught.value)


@pytest.mark.parametrize("make, kind, count", [
    (lambda root: wds(root / "x").folder, "classification", 13),
    (lambda root: wds(root / "x", "retrieval").folder, "retrieval", 13),
    (lambda root: wds(root / "x", "multilabel").folder, "multilabel", 13),
    (lambda root: wds(root / "x", "attributes").folder, "attributes", 13),
    (lambda root: wds(root / "x").folder / "test", "classification", 13),
    (lambda root: image_folder(root / "x").folder, "classification", 7),
    (lambda root: arrow_retrieval(root).folder, "retrieval", 7),
    (lambda root: arrow_retrieval(root).place.parent, "retrieval", 7),
    (lambda root: next(arrow_retrieval(root).place.glob("*.arrow")), "retrieval", 7),
    (lambda root: arrow_winogavil(root).folder, "association", 16),
    (lambda root: captions_folder(root / "x").folder, "retrieval", 7),
])
def test_every_layout_is_told_by_what_lies_there(
    tmp_path: Path, make: Callable[[Path], Path], kind: str, count: int
) -> None:
    where = make(tmp_path)
    for data in (read(where), read(str(where), kind=kind)):
        assert data.kind == kind and len(data) == count
        assert all(image_format(data.pictures[i][:12]) in ("PNG", "WEBP", "JPEG") for i in range(count))
    other = "retrieval" if kind != "retrieval" else "classification"
    refused(2, where, f"expected data for {other}, found data for {kind}", kind=other)


def test_the_same_pictures_and_captions_have_one_digest_in_every_layout(tmp_path: Path) -> None:
    places = [arrow_retrieval(tmp_path, n=7).folder, captions_folder(tmp_path / "own", n=7).folder]
    places.append(wds(tmp_path / "w", "retrieval", n=7, pictures=[picture(i) for i in range(7)]).folder)
    assert len({read(place).sha256 for place in places}) == 1


def test_the_digest_tells_kinds_shapes_and_edges_of_texts_apart() -> None:
    one = [b"x" * 32]
    found = [
        sha256("retrieval", one, captions=[["ab", "c"]]), sha256("retrieval", one, captions=[["a", "bc"]]),
        sha256("retrieval", one, captions=[["ab"], ["c"]]), sha256("retrieval", one, captions=[["abc"]]),
        sha256("classification", one, labels=np.array([1])), sha256("classification", one, fields=np.array([[1]])),
        sha256("multilabel", one, labels=np.array([[True]])), sha256("attributes", one, fields=np.array([[1]])),
        sha256("attributes", one), sha256("attributes", one * 2), sha256("retrieval", one, captions=[["\ud800"]]),
    ]  # fmt: skip
    assert len(set(found)) == len(found)


def test_shards_patterns_and_a_tar_are_our_own_sources(tmp_path: Path) -> None:
    for shard in range(3):
        keys = [f"{shard}{i}" for i in range(2)]
        members = [[(f"{key}.png", picture(shard * 2 + i)), (f"{key}.txt", f"c {key}".encode())]
                   for i, key in enumerate(keys)]  # fmt: skip
        write_tar(tmp_path / f"0000{shard}.tar", sum(members, []))
    for where, count in ((tmp_path, 6), (f"{tmp_path}/{{00000..00001}}.tar", 4), (f"{tmp_path}/*.tar", 6),
                         (tmp_path / "00002.tar", 2)):  # fmt: skip
        data = read(where)
        assert data.kind == "retrieval" and len(data) == count
    assert data.captions == (("c 20",), ("c 21",)) and data.pictures[1] == picture(5)
    assert data.pictures.describe(1) == "00002.tar/21"
    refused(4, f"{tmp_path}/{{00000..00007}}.tar", "00003.tar")
    refused(4, f"{tmp_path}/x*.tar", "files like")


def test_a_field_of_our_own_source_names_the_classes(tmp_path: Path) -> None:
    captions_folder(tmp_path / "x")
    data = read(tmp_path / "x", class_field="kind", kind="classification")
    assert data.classnames == ("round", "square") and data.labels.tolist() == [0, 1, 0, 1, 0, 1, 0]
    (tmp_path / "classes.txt").write_text("square\nround\noval\n")
    (tmp_path / "templates.txt").write_text("{c}!\n")
    data = read(tmp_path / "x", class_field="kind", classnames=tmp_path / "classes.txt",
                templates=tmp_path / "templates.txt")  # fmt: skip
    assert data.classnames == ("square", "round", "oval") and data.labels.tolist() == [1, 0, 1, 0, 1, 0, 1]
    assert data.templates == ("{}!",)
    (tmp_path / "classes.txt").write_text("square\n")
    refused(2, tmp_path / "x", "x/0.png", "'round'", class_field="kind", classnames=tmp_path / "classes.txt")
    refused(2, tmp_path / "x", "x/0.png", "a field 'colour'", "kind", class_field="colour")


def test_another_caption_field_is_that_of_the_data_config(tmp_path: Path) -> None:
    made = captions_folder(tmp_path / "x", field="words")
    assert read(tmp_path / "x", data_config=SimpleNamespace(caption_field="words")).captions == made.captions


def test_a_sample_of_our_own_without_a_usable_caption_is_damage(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(0))
    (tmp_path / "captions.csv").write_text("image,caption\na.png,x\n")
    refused(4, tmp_path, "a.png: expected a picture with a caption, found short caption")


def test_the_shipped_pairs_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data = read("emoji:unseen_concept", kind="retrieval")
    assert len(data) > 100 and data.where == "emoji:unseen_concept"
    refused(2, "emoji:nothing", "emoji:train")


def test_given_files_come_before_the_folder_s_own_and_those_before_packaged_ones(tmp_path: Path) -> None:
    own = wds(tmp_path / "w")
    (tmp_path / "classes.txt").write_text("1\n2\n3\n4\n")
    data = read(own.folder, names="toy")
    assert data.classnames == own.classnames and data.templates == own.templates
    assert read(own.folder, names="toy", classnames=tmp_path / "classes.txt").classnames == ("1", "2", "3", "4")
    (own.folder / "classnames.txt").unlink()
    (own.folder / "zeroshot_classification_templates.txt").unlink()
    data = read(own.folder, names="toy")
    assert data.classnames == ("p", "q", "r", "s") and data.templates == ("the {}",)
    refused(2, own.folder, "classnames.txt", "no such file")
    wds(tmp_path / "r", "retrieval")
    assert read(tmp_path / "r", names="nobody asks for these").classnames == ()


def test_packaged_names_are_for_folders_called_by_number_only(tmp_path: Path) -> None:
    for i in range(11):
        (tmp_path / "v2" / str(i)).mkdir(parents=True)
        (tmp_path / "v2" / str(i) / "x.png").write_bytes(picture(i))
    data = read(tmp_path / "v2", names="imagenetv2")
    assert data.classnames[10] == "name 10" and data.templates == ("a {}.",) and data.pictures[10] == picture(10)
    image_folder(tmp_path / "named")
    assert read(tmp_path / "named", names="imagenetv2").classnames == ("owl", "red fox", "tabby cat")


def test_class_folders_may_lie_in_a_folder_of_their_split(tmp_path: Path) -> None:
    image_folder(tmp_path / "val", n=5)
    image_folder(tmp_path / "train", n=9)
    assert len(read(tmp_path)) == 5 and len(read(tmp_path, split="train")) == 9
    refused(2, tmp_path, "train, val", split="dev")


def test_what_is_none_of_the_layouts_is_refused_with_a_list_of_them(tmp_path: Path) -> None:
    refused(2, tmp_path / "nowhere", "no such path")
    refused(2, tmp_path, "test/0.tar", "*.arrow", "captions.csv", "tfds:NAME:SPLIT", "an empty folder")
    (tmp_path / "notes.txt").write_text("x")
    refused(2, tmp_path, "found notes.txt")
    refused(2, tmp_path / "notes.txt", "found notes.txt")
    refused(2, tmp_path, "one of classification, multilabel", kind="clasification")
    refused(2, "", "found")


def test_a_class_file_that_does_not_match_the_labels_is_a_wrong_file(tmp_path: Path) -> None:
    wds(tmp_path / "w")
    (tmp_path / "classes.txt").write_text("1\n2\n3\n")
    refused(2, tmp_path / "w", "a class from 0 to 2", "found 3", classnames=tmp_path / "classes.txt")
    refused(2, tmp_path / "w", "no such file", templates=tmp_path / "none.txt")


def test_the_folder_of_a_task_is_found_below_the_root_or_is_the_root(tmp_path: Path) -> None:
    folders = TASKS["imagenet"].folders
    with pytest.raises(ConfigError, match="expected one of the folders wds_imagenet1k_test, .*found none of them"):
        find_folder(tmp_path, folders)
    with pytest.raises(ConfigError, match="no such folder"):
        find_folder(tmp_path / "no", folders)
    (tmp_path / "imagenet").mkdir()
    assert find_folder(tmp_path, folders) == tmp_path / "imagenet"
    (tmp_path / "wds_imagenet1k_test").mkdir()
    assert find_folder(tmp_path, folders) == tmp_path / "wds_imagenet1k_test"
    assert find_folder(tmp_path / "wds_imagenet1k_test", folders) == tmp_path / "wds_imagenet1k_test"
    made = arrow_winogavil(tmp_path)
    for root in (tmp_path, made.folder):
        assert find_folder(root, TASKS["winogavil"].folders) == made.folder


@pytest.mark.parametrize("make", [
    lambda root: wds(root / "x", n=6, shards=3).folder, lambda root: image_folder(root / "x").folder,
])
def test_pictures_may_be_read_in_another_process_and_fail_one_by_one(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    data = read(make(tmp_path))
    again = pickle.loads(pickle.dumps(data.pictures))
    assert [again[i] for i in range(len(again))] == [data.pictures[i] for i in range(len(data))]
    shutil.rmtree(tmp_path / "x")
    with pytest.raises(BadSample, match="unreadable"):
        data.pictures[0]
