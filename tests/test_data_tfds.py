"""A split prepared by tensorflow-datasets as a source of pairs: what went in comes out, without TensorFlow."""

import json
import multiprocessing
import pickle
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from evaldata_folders import captions_of, picture
from test_evaldata_tfds import build

from lit_tune.data import sources
from lit_tune.data.sample import BadSample, Source
from lit_tune.errors import ConfigError, DataError
from lit_tune.evaldata import tfds as evaldata_tfds

TXT = SimpleNamespace(caption_field="txt")
LIMIT = 1 << 20  # bytes a picture


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_pairs`: 7 test and 3 train pictures with captions, a class, a number and a name."""
    from tensorflow_datasets import features

    root = tmp_path_factory.mktemp("tfds")
    kinds = {"picture": features.Image(encoding_format="png"), "captions": features.Sequence(features.Text()),
             "label": features.ClassLabel(names=["a cat", "a dog"]), "name": features.Text(),
             "size": features.Scalar(np.int64)}  # fmt: skip
    build(root, "tiny_pairs", kinds, lambda i: {"captions": captions_of(i), "label": i % 2, "name": f"n\u00e4me {i}",
                                                "size": i}, key="picture")  # fmt: skip
    return root / "tiny_pairs"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own for every test."""
    monkeypatch.setenv("LIT_TUNE_CACHE", str(tmp_path / "cache"))


def everything(source: Source) -> list:
    """All pairs of a source (for other processes: picklable by name)."""
    return [(source[i], source.pair(i, LIMIT), source.describe(i)) for i in range(len(source))]


def test_pairs_are_those_that_were_prepared(prepared):
    source = sources.open_source(f"tfds:{prepared}:test", TXT)
    assert isinstance(source, Source) and len(source) == 7
    got = {sample.meta["size"]: sample for sample in (source[i] for i in range(7))}  # in tfds's own shuffled order
    for number in range(7):
        assert got[number].image == picture(number) and got[number].captions == tuple(captions_of(number))
        label = ("a cat", "a dog")[number % 2]
        assert got[number].meta == {"label": label, "name": f"n\u00e4me {number}", "size": number}
    for i in range(7):
        assert source.pair(i, LIMIT) == (source[i].image, source[i].captions) == (source[i].image, source.captions(i))
    assert list(source.caption_sets()) == [source[i].captions for i in range(7)]
    assert source.describe(3) == (f"{prepared}:test", "3") and "tensorflow" not in sys.modules
    with pytest.raises(BadSample, match="too_many_bytes"):
        source.pair(0, 10)
    with pytest.raises(IndexError):
        source[7]


def test_threads_and_other_processes_read_the_same(prepared):
    source = sources.open_source(f"tfds:{prepared}:test", TXT)
    wanted = everything(source)
    with ThreadPoolExecutor(8) as pool:
        assert all(got == wanted for got in pool.map(everything, [pickle.loads(pickle.dumps(source)), *[source] * 7]))
    assert len(pickle.dumps(source)) < 1000
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(everything, source).result() == wanted


def test_names_versions_parts_and_fields(prepared, monkeypatch):
    whole = sources.open_source(f"tfds:{prepared}:test", TXT)
    for spec in (f"tfds:{prepared}/1.0.0:test", "tfds:tiny_pairs:test", "tfds:tiny_pairs:1.0.0:test"):
        monkeypatch.setenv("TFDS_DATA_DIR", str(prepared.parent))
        same = sources.open_source(spec, TXT)
        assert same.fingerprint == whole.fingerprint and same.pair(2, LIMIT) == whole.pair(2, LIMIT)
    part = sources.open_source(f"tfds:{prepared}:test[2:5]", TXT)
    assert [part[i].image for i in range(len(part))] == [whole[i].image for i in (2, 3, 4)]
    few = sources.open_source(f"tfds:{prepared}:test", TXT, max_samples=3)
    named = sources.open_source(f"tfds:{prepared}:test", TXT, caption_field="name")
    classes = sources.open_source(f"tfds:{prepared}:test", TXT, caption_field="label")
    assert len(few) == 3 and named.captions(0) == (f"n\u00e4me {named[0].meta['size']}",)
    assert set(classes.caption_sets()) == {("a cat",), ("a dog",)}
    train = sources.open_source(f"tfds:{prepared}:train", TXT)
    assert len({one.fingerprint for one in (whole, part, few, named, classes, train)}) == 6


def test_captions_inside_another_feature_are_found_as_in_coco(prepared, tmp_path):
    from tensorflow_datasets import features

    one = {"id": np.int64, "text": features.Text()}
    kinds = {"image": features.Image(encoding_format="png"), "captions": features.Sequence(one),
             "objects": features.FeaturesDict({"title": features.Text()})}  # fmt: skip
    build(tmp_path, "tiny_coco", kinds, lambda i: {
        "captions": [{"id": 10 * i + j, "text": text} for j, text in enumerate(captions_of(i))],
        "objects": {"title": f"title {i}"}})  # fmt: skip
    spec = f"tfds:{tmp_path}/tiny_coco:test"
    flat = sources.open_source(f"tfds:{prepared}:test", TXT)
    wanted = {flat[i].image: flat[i].captions for i in range(7)}
    for field in (None, "captions/text"):
        source = sources.open_source(spec, TXT, caption_field=field)
        assert {source[i].image: source[i].captions for i in range(7)} == wanted
        assert [source[i].captions for i in range(7)] == list(source.caption_sets())
    titles = sources.open_source(spec, TXT, caption_field="objects/title")
    assert set(titles.caption_sets()) == {(f"title {i}",) for i in range(7)}
    with pytest.raises(ConfigError, match=r"captions in objects, found .*captions/text \(Text\)"):
        sources.open_source(spec, TXT, caption_field="objects")
    scored = evaldata_tfds.read(spec, "test")
    assert scored.kind == "retrieval" and {tuple(one) for one in scored.captions} == set(wanted.values())


def test_what_cannot_be_read_is_one_line(prepared, tmp_path):
    def refused(spec: str, error: type, words: str, **options) -> None:
        with pytest.raises(error, match=words) as caught:
            sources.open_source(spec, TXT, **options)
        assert "\n" not in str(caught.value)

    refused("tfds:tiny_pairs", ConfigError, "tfds:FOLDER:SPLIT")
    refused(f"tfds:{prepared}:val", ConfigError, "one of the splits test, train")
    refused(f"tfds:{prepared}:test", ConfigError, r"in size2, found .*picture \(Image\)", caption_field="size2")
    refused(f"tfds:{tmp_path}/absent:test", ConfigError, "one version with a features.json")
    copy = tmp_path / "copy"
    shutil.copytree(prepared, copy)
    info = copy / "1.0.0" / "dataset_info.json"
    info.write_text(json.dumps({**json.loads(info.read_text()), "fileFormat": "tfrecord"}))
    refused(f"tfds:{copy}:test", ConfigError, "needs TensorFlow")
    shutil.copy(prepared / "1.0.0" / "dataset_info.json", info)
    next((copy / "1.0.0").glob("*test.array_record*")).unlink()
    refused(f"tfds:{copy}:test", DataError, "test.array_record.*no such file")
    shutil.copytree(copy / "1.0.0", copy / "2.0.0")
    refused(f"tfds:{copy}:train", ConfigError, r"found 1\.0\.0, 2\.0\.0; name the version's own folder")
