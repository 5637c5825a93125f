"""Data that tensorflow-datasets prepared as array_record, read without TensorFlow; the rest is refused in one line."""

import io
import json
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from evaldata_folders import captions_of, picture

from lit_tune.data.sample import BadSample
from lit_tune.errors import ConfigError, DataError
from lit_tune.evaldata import tfds
from lit_tune.evaldata.reading import read


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with `tiny_labels`, `tiny_captions` and `tiny_neither`, prepared without TensorFlow."""
    import tensorflow_datasets as real

    root = tmp_path_factory.mktemp("tfds")
    image, features = real.features.Image(encoding_format="png"), real.features
    build(root, "tiny_labels", {"image": image, "label": features.ClassLabel(names=["a cat", "a dog"])},
          lambda i: {"label": i % 2})
    build(root, "tiny_captions", {"picture": image, "captions": features.Sequence(features.Text())},
          lambda i: {"captions": captions_of(i)}, key="picture")
    build(root, "tiny_neither", {"image": image, "size": features.Scalar(np.int64)}, lambda i: {"size": i})
    return root


def build(root: Path, name: str, features: dict, more: object, key: str = "image") -> None:
    """Prepare one data set of 7 test and 3 train pictures."""
    import tensorflow_datasets as real

    def _info(self: object) -> object:
        return real.core.DatasetInfo(builder=self, features=real.features.FeaturesDict(features))

    def _split_generators(self: object, manager: object) -> dict:
        return {"test": rows(7), "train": rows(3)}

    def rows(n: int) -> list:
        return [(f"{i:03}", {key: io.BytesIO(picture(i)), **more(i)}) for i in range(n)]

    body = {"VERSION": real.core.Version("1.0.0"), "_info": _info, "_split_generators": _split_generators,
            "_generate_examples": lambda self: iter(())}
    # not registered: what is read must come from the files alone
    made = types.new_class("".join(word.title() for word in name.split("_")), (real.core.GeneratorBasedBuilder,),
                           {"skip_registration": True}, lambda namespace: namespace.update(body))  # fmt: skip
    made(data_dir=str(root), file_format="array_record").download_and_prepare()


def refused(spec: str, *words: str, data_root: Path | None = None, split: str = "test") -> None:
    """The spec is refused with exit code 2 and one line that holds these words."""
    with pytest.raises(ConfigError) as caught:
        tfds.read(spec, split, data_root=data_root)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_pictures_with_labels_keep_their_encoding_and_their_names(prepared: Path) -> None:
    data = tfds.read("tfds:tiny_labels:test", data_root=prepared)
    assert data.kind == "classification" and len(data) == 7 and data.classnames == ("a cat", "a dog")
    found = {data.pictures[i]: label for i, label in enumerate(data.labels.tolist())}
    assert found == {picture(i): i % 2 for i in range(7)}  # in tfds's own shuffled order
    assert data.pictures.describe(3) == "tiny_labels:test[3]" and data.templates == ()
    assert "tensorflow" not in sys.modules


def test_the_order_is_the_same_at_every_reading_and_the_digest_with_it(prepared: Path, tmp_path: Path) -> None:
    first = tfds.read("tfds:tiny_labels:test", data_root=prepared)
    shutil.copytree(prepared / "tiny_labels", tmp_path / "tiny_labels")
    again = tfds.read("tfds:tiny_labels:1.0.0:test", data_root=tmp_path)
    assert [first.pictures[i] for i in range(7)] == [again.pictures[i] for i in range(7)]
    assert first.sha256 == again.sha256 != tfds.read("tfds:tiny_labels:train", data_root=prepared).sha256


def test_pictures_with_captions_are_for_retrieval(prepared: Path) -> None:
    data = tfds.read("tfds:tiny_captions:test", data_root=prepared)
    assert data.kind == "retrieval" and data.classnames == () and data.labels is None
    found = {data.pictures[i]: data.captions[i] for i in range(7)}
    assert found == {picture(i): tuple(captions_of(i)) for i in range(7)}


def test_a_split_may_be_named_beside_the_spec_or_cut_in_it(prepared: Path) -> None:
    assert len(tfds.read("tfds:tiny_labels", "train", data_root=prepared)) == 3
    whole, part = (tfds.read(f"tfds:tiny_labels:{split}", data_root=prepared) for split in ("test", "test[:4]"))
    assert [part.pictures[i] for i in range(len(part))] == [whole.pictures[i] for i in range(4)]


def test_the_general_reader_passes_names_and_split_on(prepared: Path, monkeypatch: pytest.MonkeyPatch,
                                                      tmp_path: Path) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    (tmp_path / "classes.txt").write_text("one\ntwo\n")
    (tmp_path / "templates.txt").write_text("a {c}\n")
    data = read("tfds:tiny_labels", split="train", classnames=tmp_path / "classes.txt",
                templates=str(tmp_path / "templates.txt"), kind="classification")  # fmt: skip
    assert len(data) == 3 and data.classnames == ("one", "two") and data.templates == ("a {}",)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert len(read("tfds:tiny_labels:test", data_root=prepared)) == 7
    with pytest.raises(ConfigError, match="Dataset tiny_labels not found"):
        read("tfds:tiny_labels:test")
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    with pytest.raises(ConfigError, match="expected data for retrieval, found data for classification"):
        read("tfds:tiny_labels:test", kind="retrieval")


def test_what_cannot_be_read_is_refused_in_one_line(prepared: Path, tmp_path: Path) -> None:
    refused("tfds:", "tfds:NAME[/CONFIG][:VERSION]:SPLIT", data_root=prepared)
    refused("tfds:no_such_set:test", "Dataset no_such_set not found", "TFDS_DATA_DIR", data_root=prepared)
    refused("tfds:tiny_labels:2.0.0:test", "not found", data_root=prepared)
    refused("tfds:tiny_labels:val", "one of the splits test, train", "'val'", data_root=prepared)
    refused("tfds:mnist:test", "prepared data", "array_record", data_root=prepared)
    refused("tfds:tiny_neither:test", "one Image feature", "size (Scalar)", data_root=prepared)
    shutil.copytree(prepared / "tiny_labels", tmp_path / "tiny_labels")
    info = tmp_path / "tiny_labels" / "1.0.0" / "dataset_info.json"
    info.write_text(json.dumps({**json.loads(info.read_text()), "fileFormat": "tfrecord"}))
    refused("tfds:tiny_labels:test", "data prepared as array_record", "TensorFlow", data_root=tmp_path)


def test_a_missing_shard_is_an_error_and_not_a_shorter_split(prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared / "tiny_labels", tmp_path / "tiny_labels")
    next((tmp_path / "tiny_labels" / "1.0.0").glob("*test.array_record*")).unlink()
    with pytest.raises((ConfigError, DataError)) as caught:
        tfds.read("tfds:tiny_labels:test", data_root=tmp_path)
    assert caught.value.exit_code == 4, str(caught.value)


def test_labels_outside_given_names_and_rows_that_break_are_refused(prepared: Path) -> None:
    with pytest.raises(ConfigError, match="a class from 0 to 0, as there are 1 class names, found 1"):
        tfds.read("tfds:tiny_labels:test", classnames=("only",), data_root=prepared)

    class Broken:
        def __len__(self) -> int:
            return 1

        def __getitem__(self, i: int) -> dict:
            raise RuntimeError("cut")

    with pytest.raises(BadSample, match="unreadable"):
        tfds.TfdsPictures(Broken(), "image", "x")[0]
    with pytest.raises(DataError, match=r"x\[0\]: expected a readable record, found cut"):
        tfds._read_all(Broken(), "image", "label", tfds.TfdsPictures(Broken(), "image", "x"))


def test_without_the_package_the_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    refused("tfds:mnist:test", "pip install tensorflow-datasets")


