"""What every source of pairs keeps to; a new kind adds a function to WRITERS and passes (docs/adding.md)."""

import io
import json
import multiprocessing
import pickle
import shutil
import types
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shards_on_disk
from array_record.python.array_record_module import ArrayRecordWriter
from test_data_loader import Words

from lit_tune.configs import common
from lit_tune.data import records, sources
from lit_tune.data.examples import HostBatches, Recipe
from lit_tune.data.order_open import open_order
from lit_tune.data.sample import KINDS, BadSample, Sample, Source

Pairs = list[tuple[str, bytes, str]]  # key, encoded picture, caption
LIMIT = 1 << 20  # bytes a picture
PAIRS: Pairs = [(f"{i:03}", shards_on_disk.picture(i), f"caption {i} 犬") for i in range(9)]
BAD = "004"  # its caption is too short
PAIRS[4] = (BAD, PAIRS[4][1], "x")


def tar(folder: Path, pairs: Pairs) -> str:
    """Two tar shards."""
    for number, part in enumerate((pairs[:5], pairs[5:])):
        members = [(f"{key}.{end}", data) for key, image, caption in part
                   for end, data in (("jpg", image), ("txt", caption.encode()))]
        shards_on_disk.write(folder / f"{number}.tar", members)
    return f"{folder}/*.tar"


def table(folder: Path, pairs: Pairs) -> str:
    """A folder of pictures with captions.jsonl."""
    for key, image, _ in pairs:
        (folder / f"{key}.jpg").write_bytes(image)
    rows = [json.dumps({"image": f"{key}.jpg", "caption": caption}) for key, _, caption in pairs]
    (folder / "captions.jsonl").write_text("\n".join(rows) + "\n")
    return str(folder)


def array_record(folder: Path, pairs: Pairs) -> str:
    """One ArrayRecord file."""
    writer = ArrayRecordWriter(str(folder / "a.array_record"), "group_size:1")
    for key, image, caption in pairs:
        writer.write(records.pack(Sample(key, image, (caption,))))
    writer.close()
    return f"{folder}/a.array_record"


def parquet(folder: Path, pairs: Pairs) -> str:
    """One Parquet file in groups of four rows."""
    keys, images, captions = zip(*pairs, strict=True)
    pq.write_table(pa.table({"key": keys, "image": images, "text": captions}), folder / "a.parquet", row_group_size=4)
    return f"{folder}/a.parquet"


def tfds(folder: Path, pairs: Pairs) -> str:
    """A split prepared by tensorflow-datasets; it stands in an order of its own."""
    import tensorflow_datasets as real

    features = real.features.FeaturesDict({"image": real.features.Image(encoding_format="jpeg"),
                                           "caption": real.features.Text()})  # fmt: skip
    rows = [(key, {"image": io.BytesIO(image), "caption": caption}) for key, image, caption in pairs]
    body = {"VERSION": real.core.Version("1.0.0"), "_split_generators": lambda self, manager: {"train": rows},
            "_info": lambda self: real.core.DatasetInfo(builder=self, features=features),
            "_generate_examples": lambda self: iter(())}  # fmt: skip
    made = types.new_class("Pairs", (real.core.GeneratorBasedBuilder,), {"skip_registration": True},
                           lambda namespace: namespace.update(body))  # fmt: skip
    made(data_dir=str(folder), file_format="array_record").download_and_prepare()
    return f"tfds:{folder}/pairs:train"


WRITERS = {writer.__name__: writer for writer in (tar, table, array_record, parquet, tfds)}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A cache of its own for this file, known to other processes too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIT_TUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def opened(spec: str, kind: str) -> Source:
    """The source of a spec."""
    return sources.open_source(spec, types.SimpleNamespace(caption_field="caption" if kind == "tfds" else "txt"))


def written(folder: Path, kind: str, pairs: Pairs) -> Source:
    """The source of pairs that are written into a new folder."""
    folder.mkdir()
    return opened(WRITERS[kind](folder, pairs), kind)


@pytest.fixture(scope="module", params=sorted(WRITERS))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Source]:
    """(kind, source of PAIRS)."""
    return request.param, written(tmp_path_factory.mktemp(request.param) / "data", request.param, PAIRS)


def everything(source: Source, i: int) -> tuple:
    """All that a source says of a pair, or the kind of its fault (for other processes: picklable by name)."""
    try:
        whole = source[i]
        pair, captions = source.pair(i, LIMIT), source.captions(i)
    except BadSample as fault:
        return fault.kind, source.describe(i)
    assert pair == (whole.image, whole.captions) and captions == whole.captions
    return pair, whole.key, source.describe(i)


def test_pairs_are_what_was_written_at_every_reading_from_anywhere(made: tuple[str, Source]) -> None:
    kind, source = made
    assert isinstance(source, Source) and len(source) == len(PAIRS) and source.spec and "\n" not in source.spec
    first = [everything(source, i) for i in range(len(source))]
    wanted = {(image, (caption,)) for key, image, caption in PAIRS if key != BAD}
    assert {one[0] for one in first if one[0] != "short_caption"} == wanted and len(wanted) == len(PAIRS) - 1
    assert [i for i, one in enumerate(first) if one[0] == "short_caption"] == [
        i for i, captions in enumerate(source.caption_sets()) if captions == ()]
    if kind != "tfds":  # which shuffles
        assert [one[0] for one in first] == [
            "short_caption" if key == BAD else (image, (caption,)) for key, image, caption in PAIRS]
    order = [i * 7 % len(source) for i in range(15 * len(source))]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: everything(source, i), order)) == [first[i] for i in order]
    again = pickle.loads(pickle.dumps(source))
    assert [everything(again, i) for i in range(len(again))] == first and again.fingerprint == source.fingerprint
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(everything, source, 8).result() == first[8]
    with pytest.raises(BadSample, match="too_many_bytes"):
        source.pair(0, 10)


def test_the_fingerprint_follows_pictures_captions_and_order_and_not_the_place(
        made: tuple[str, Source], tmp_path: Path) -> None:
    kind, source = made
    key, image, caption = PAIRS[7]
    swapped = [*PAIRS[:6], (PAIRS[6][0], *PAIRS[7][1:]), (PAIRS[7][0], *PAIRS[6][1:]), PAIRS[8]]
    other = shards_on_disk.picture(99, (64, 48))
    assert len(other) != len(image)  # a folder's pictures are told by names and sizes alone
    others = {"picture": [*PAIRS[:7], (key, other, caption), PAIRS[8]],
              "caption": [*PAIRS[:7], (key, image, f"{caption}!"), PAIRS[8]], "order": swapped, "fewer": PAIRS[:8]}
    found = {name: written(tmp_path / name, kind, pairs).fingerprint for name, pairs in others.items()}
    assert len({source.fingerprint, *found.values()}) == len(others) + 1, found
    assert written(tmp_path / "again", kind, PAIRS).fingerprint == source.fingerprint
    shutil.move(tmp_path / "again", tmp_path / "moved")
    spec = source.spec
    there = next(part for part in Path(spec.removeprefix("tfds:").partition(":")[0]).parents
                 if part.name == "data") if kind != "table" else Path(spec)
    moved = opened(spec.replace(str(there), str(tmp_path / "moved")), kind)
    assert moved.fingerprint == source.fingerprint and moved.spec != spec


def test_any_number_of_hosts_makes_the_same_batches_and_bad_samples_are_replaced_and_counted(
        made: tuple[str, Source]) -> None:
    kind, source = made
    config = common.get_config()
    config.total_steps, config.global_batch, config.vision.image_size = 6, 8, (16, 16)
    config.data.train, config.data.crop_scale = source.spec, (0.5, 1.0)
    planned, recipe = open_order(config, source), Recipe.of(config)
    bad = next(i for i in range(len(source)) if everything(source, i)[0] == "short_caption")
    met = 0
    for step in range(6):
        whole = HostBatches(source, Words(), planned, recipe, np.arange(8))(step)
        for hosts in (2, 4):
            parts = [HostBatches(source, Words(), planned, recipe, rows)(step)
                     for rows in np.split(np.arange(8), hosts)]
            assert all(np.array_equal(whole[name], np.concatenate([part[name] for part in parts])) for name in whole)
        assert bad not in whole["caption_id"][:, 0]
        faults = whole["fault"][whole["tried"] == bad]
        assert set(faults.tolist()) <= {KINDS.index("short_caption") + 1}
        assert len(faults) >= np.count_nonzero(planned.planned_ids(step) == bad)
        met += len(faults)
    assert met > 0
