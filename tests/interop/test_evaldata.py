"""What we read is what others read: clip_benchmark's webdataset folders, `datasets`' Arrow files, packaged names."""

import html
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import clip_benchmark
import ftfy
import numpy as np
import pytest
import timm
from clip_benchmark.datasets import builder
from evaldata_folders import captions_of, picture, wds as write
from PIL import Image

from lit_tune.evaldata import image_folder, names, wds
from lit_tune.evaldata.clean import clean
from lit_tune.evaldata.reading import read
from lit_tune.evals.catalog import TASKS

pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("ignore::UserWarning")]  # webdataset's and torch's


def pixels(data: bytes) -> np.ndarray:
    """A picture as clip_benchmark's loader hands it to a transform."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("kind", ["classification", "multilabel", "retrieval"])
@pytest.mark.parametrize("shards", [1, 3])
def test_clip_benchmark_reads_the_same_samples_in_the_same_order(tmp_path: Path, kind: str, shards: int) -> None:
    write(tmp_path, kind, n=13, shards=shards)
    if kind == "retrieval":
        write(tmp_path, kind, n=13, shards=shards, labels=[[" a ", "", "b\x0bc"] + captions_of(i) for i in range(13)])
    theirs = builder.build_wds_dataset("toy", np.asarray, data_dir=str(tmp_path))
    ours = wds.read(tmp_path)
    answers = ours.captions if kind == "retrieval" else ours.labels
    count = 0
    for i, (image, answer) in enumerate(theirs):
        np.testing.assert_array_equal(image, pixels(ours.pictures[i]))
        assert tuple(answer) == answers[i] if kind == "retrieval" else np.array_equal(answer, answers[i])
        count += 1
    assert count == len(ours) == 13
    if kind != "retrieval":
        assert tuple(theirs.classes) == ours.classnames
        assert tuple(template.replace("{c}", "{}") for template in theirs.templates) == ours.templates


def test_clip_benchmark_s_own_writer_makes_folders_that_we_read(tmp_path: Path) -> None:
    from clip_benchmark import webdataset_builder

    class Toy(list):
        classes = ["cat", "dog"]
        templates = ["a photo of a {c}."]

    pictures = [picture(i) for i in range(7)]
    webdataset_builder.convert_dataset(
        Toy([(data, i % 2) for i, data in enumerate(pictures)]), "test", str(tmp_path / "c"), image_format="png",
        max_count=3, verbose=False,
    )  # fmt: skip
    data = read(tmp_path / "c")
    assert [data.pictures[i] for i in range(7)] == pictures and data.labels.tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert data.classnames == ("cat", "dog") and data.templates == ("a photo of a {}.",)
    pairs = Toy([(data, captions_of(i)) for i, data in enumerate(pictures)])
    webdataset_builder.convert_retrieval_dataset(pairs, "test", str(tmp_path / "r"), image_format="png", verbose=False)
    data = read(tmp_path / "r", kind="retrieval")
    assert data.captions == tuple(tuple(captions_of(i)) for i in range(7))


def test_packaged_names_and_templates_are_those_of_the_package() -> None:
    folder = Path(clip_benchmark.__file__).parent / "datasets"
    classes = json.loads((folder / "en_classnames.json").read_text())
    templates = json.loads((folder / "en_zeroshot_classification_templates.json").read_text())
    assert names.named_classes("imagenet1k") == tuple(classes["imagenet1k"])
    assert names.named_templates("imagenet1k") == tuple(t.replace("{c}", "{}") for t in templates["imagenet1k"])
    assert len(names.named_templates("imagenet1k")) == 80 and len(names.named_classes("imagenet1k")) == 1000
    assert names.named_classes("vtab/caltech101") == tuple(classes["caltech101_vtab"])
    assert names.named_classes("caltech101") == tuple(classes["caltech101"])
    assert names.named_classes("imagenetv2") == tuple(classes["imagenet1k"])
    for task in TASKS.values():
        if task.names.rpartition("/")[2] in templates:
            assert len(names.named_templates(task.names)) == len(templates[task.names.rpartition("/")[2]])
    for name in ("imagenet-a", "imagenet-r", "objectnet", "imagenet_sketch"):
        assert names.named_templates(name) == names.named_templates("imagenet1k")


def test_imagenet_s_ids_are_those_that_clip_benchmark_and_timm_list() -> None:
    import hashlib

    listed = (Path(timm.__file__).parent / "data" / "_info" / "imagenet_synsets.txt").read_text().split()
    assert sorted(builder.all_imagenet_wordnet_ids) == listed == sorted(listed)
    assert hashlib.sha256("\n".join(listed).encode()).hexdigest() == image_folder.IMAGENET_IDS


def test_a_tree_of_imagenet_s_folders_gets_its_names_and_templates(tmp_path: Path) -> None:
    for i, name in enumerate(builder.all_imagenet_wordnet_ids):
        (tmp_path / "val" / name).mkdir(parents=True)
        (tmp_path / "val" / name / "x.JPEG").write_bytes(b"%d" % i)
    data = read(tmp_path, names="imagenet1k")
    assert data.classnames == names.named_classes("imagenet1k") and len(data.templates) == 80
    assert [data.pictures[i] for i in (0, 500, 999)] == [b"0", b"500", b"999"]
    assert data.labels.tolist() == list(range(1000))


def test_class_trees_are_read_in_torchvision_s_order(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    files = "b/10.png b/2.png B/x/1.PNG B/0.jpg a+b/z.webp a-b/y.bmp b/x.d/1.jpeg b/notes.txt"
    for name in files.split():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture(len(name)))
    theirs = ImageFolder(str(tmp_path))
    ours = image_folder.read(tmp_path, classnames=("1", "2", "3", "4"))
    assert [ours.pictures.describe(i) for i in range(len(ours))] == [
        Path(file).relative_to(tmp_path).as_posix() for file, _ in theirs.samples]
    assert ours.labels.tolist() == theirs.targets


def test_the_cache_of_datasets_is_read_as_datasets_reads_it(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Sequence(datasets.Value("string"))})
    pictures = [{"bytes": picture(i), "path": None} for i in range(7)]
    captions = [captions_of(i) for i in range(7)]
    table = datasets.Dataset.from_dict({"image": pictures, "caption": captions}, features=features)
    saved = tmp_path / "saved" / "test"
    table.save_to_disk(str(saved), num_shards=2)
    table.to_parquet(str(tmp_path / "parquet" / "test-00000-of-00001.parquet"))
    files = {"test": str(tmp_path / "parquet" / "*.parquet")}
    source = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"), split="test")
    places = ("parquet", "cache", "saved", "saved/test")
    found = {where: read(tmp_path / where, kind="retrieval") for where in places}
    for data in found.values():
        assert data.captions == tuple(tuple(row["caption"]) for row in source)
        for i, row in enumerate(source):
            np.testing.assert_array_equal(np.asarray(row["image"].convert("RGB")), pixels(data.pictures[i]))
    assert len({data.sha256 for data in found.values()}) == 1


def test_what_a_loading_script_of_datasets_leaves_is_read_by_path(tmp_path: Path) -> None:
    import datasets

    unpacked = tmp_path / "hf" / "downloads" / "extracted" / "ab"
    unpacked.mkdir(parents=True)
    for i in range(5):
        (unpacked / f"{i}.png").write_bytes(picture(i))
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Sequence(datasets.Value("string"))})

    def rows() -> Iterator[dict[str, object]]:
        for i in range(5):
            yield {"image": str(unpacked / f"{i}.png"), "caption": captions_of(i)}

    theirs = datasets.Dataset.from_generator(rows, features=features, cache_dir=str(tmp_path / "hf"), split="test")
    ours = read(tmp_path / "hf", kind="retrieval")
    assert ours.captions == tuple(tuple(row["caption"]) for row in theirs)
    assert ours.notes[0].startswith("5 pictures are not in the table"), ours.notes
    for i, row in enumerate(theirs):
        np.testing.assert_array_equal(np.asarray(row["image"].convert("RGB")), pixels(ours.pictures[i]))


@pytest.mark.parametrize("text", [
    "plain", "  a \n b\t c  ", "&amp;lt;b&amp;gt;", "AT&amp;T", "schÃ¶n", "“quoted” — dash", "x\u00a0y", "",
])
def test_texts_are_cleaned_as_openai_s_clip_does(text: str) -> None:
    from open_clip.tokenizer import basic_clean, whitespace_clean

    assert clean(text) == whitespace_clean(basic_clean(text))
    plain = re.sub(r"\s+", " ", html.unescape(html.unescape(ftfy.fix_text(text)))).strip()
    assert clean(text) == plain
