"""Trees of class folders: order, names, and every line that refuses one."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from evaldata_folders import image_folder as write, picture

from lit_tune.errors import ConfigError, DataError
from lit_tune.evaldata import image_folder


def refused(folder: Path, *words: str, **more: object) -> None:
    """The folder is refused with exit code 2 and a line that holds these words."""
    with pytest.raises(ConfigError) as caught:
        image_folder.read(folder, **more)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def put(folder: Path, *names: str) -> None:
    """Pictures that hold their own name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def test_classes_are_the_sorted_folders_and_pictures_come_sorted_in_each(tmp_path: Path) -> None:
    made = write(tmp_path)
    data = image_folder.read(tmp_path)
    assert data.kind == "classification" and [data.pictures[i] for i in range(7)] == made.pictures
    np.testing.assert_array_equal(data.labels, made.labels)
    assert data.classnames == ("owl", "red fox", "tabby cat") and data.templates == ()
    assert data.notes == ("Class names: the names of the folders, with blanks for _ and -.",)
    assert data.pictures.describe(6) == "tabby_cat/0005.png"


def test_the_order_is_torchvision_s_for_nested_folders_cases_and_suffixes(tmp_path: Path) -> None:
    put(tmp_path, "b/10.png", "b/2.JPG", "b/sub/1.webp", "b/sub.x/0.bmp", "B/1.jpeg", "b/note.txt", "loose.png")
    data = image_folder.read(tmp_path, ("upper", "lower"))
    # worked out by hand: "B" < "b", os.walk's folders by path ("b/sub" < "b/sub.x"), names as texts
    wanted = ["B/1.jpeg", "b/10.png", "b/2.JPG", "b/sub/1.webp", "b/sub.x/0.bmp"]
    assert [data.pictures[i].decode() for i in range(len(data))] == wanted
    assert data.labels.tolist() == [0, 1, 1, 1, 1] and data.classnames == ("upper", "lower")
    assert data.notes == ("1 files are no pictures by their names and were left out.",)


def test_folders_called_by_number_are_classes_by_number(tmp_path: Path) -> None:
    put(tmp_path, *(f"{i}/{i}.png" for i in range(11)))
    data = image_folder.read(tmp_path, tuple(f"name {i}" for i in range(11)))
    assert [data.pictures[i] for i in range(11)] == [f"{i}/{i}.png".encode() for i in range(11)]
    assert data.labels.tolist() == list(range(11)) and "by number" in data.notes[0]
    assert image_folder.is_numbered(tmp_path)
    (tmp_path / "0").rename(tmp_path / "zero")
    assert not image_folder.is_numbered(tmp_path)
    assert image_folder.read(tmp_path).classnames[:3] == ("1", "10", "2")


def test_imagenet_s_ids_get_its_names_and_others_need_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "n01440764/a.JPEG", "n01443537/b.JPEG")
    refused(tmp_path, "2 WordNet ids", "--classnames=FILE")
    assert image_folder.read(tmp_path, ("tench", "goldfish")).classnames == ("tench", "goldfish")
    monkeypatch.setattr(image_folder, "IMAGENET_IDS", hashlib.sha256(b"n01440764\nn01443537").hexdigest())
    monkeypatch.setattr(image_folder, "named_classes", lambda name: {"imagenet1k": ("tench", "goldfish")}[name])
    monkeypatch.setattr(image_folder, "named_templates", lambda name: {"imagenet1k": ("a {}.",)}[name])
    data = image_folder.read(tmp_path)
    assert data.classnames == ("tench", "goldfish") and data.templates == ("a {}.",)
    assert "WordNet" in data.notes[0]


def test_wrong_trees_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, "a folder for each class", "none")
    write(tmp_path / "a")
    refused(tmp_path / "a", "3 class names", "2 names", classnames=("x", "y"))
    (tmp_path / "a" / "zebra").mkdir()
    refused(tmp_path / "a", "zebra", "pictures of a class")
    put(tmp_path / "a", "zebra/x.png", "zebra/y.tif")
    refused(tmp_path / "a", "y.tif", "convert it")
    put(tmp_path / "b", "red_fox/x.png", "red-fox/x.png")
    refused(tmp_path / "b", "distinct names", "'red fox'")
    put(tmp_path / "c", "_/x.png", "b/x.png")
    refused(tmp_path / "c", "distinct names", "''")


def test_a_picture_that_cannot_be_read_is_damage(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "owl" / "zz.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match=r"owl/zz.png: expected a readable picture, found No such file"):
        image_folder.read(tmp_path)


def test_the_digest_is_of_pictures_and_classes_by_number(tmp_path: Path) -> None:
    write(tmp_path / "a")
    first = image_folder.read(tmp_path / "a").sha256
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert image_folder.read(tmp_path / "b").sha256 == first
    assert image_folder.read(tmp_path / "b", ("x", "y", "z")).sha256 == first
    (tmp_path / "b" / "owl" / "0000.png").write_bytes(picture(0, 3) + b"x")
    assert image_folder.read(tmp_path / "b").sha256 != first
    (tmp_path / "b" / "owl" / "0000.png").write_bytes(picture(0, 3))
    assert image_folder.read(tmp_path / "b").sha256 == first
    (tmp_path / "b" / "owl" / "0000.png").rename(tmp_path / "b" / "owl" / "0009.png")  # now the last of its class
    assert image_folder.read(tmp_path / "b").sha256 != first
