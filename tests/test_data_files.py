"""ArrayRecord and Parquet hold the same pairs as the tar shards that they were made from, or say why not."""

import hashlib
import io
import json
import multiprocessing
import pickle
import tarfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from lit_tune.data import parquet_source, records, sources
from lit_tune.data.parquet_source import IMAGE
from lit_tune.data.sample import BadSample, Sample, Source
from lit_tune.errors import ConfigError, DataError

TXT = SimpleNamespace(caption_field="txt")
SIZES = (5, 0, 8)  # pairs of the shards
LIMIT = 1 << 20  # bytes a picture


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A cache of its own for this file, known to other processes too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIT_TUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def picture(number: int) -> bytes:
    """A small PNG, another for each number."""
    out = io.BytesIO()
    Image.new("RGB", (20, 16), (number * 37 % 256, number * 91 % 256, 50)).save(out, "PNG")
    return out.getvalue()


def contents(number: int) -> tuple[str, bytes, str, dict]:
    """Key, picture, caption and other fields of a pair."""
    meta = {"uid": f"{number:032x}", "width": 20, "more": [f"caf\u00e9 {number}", f"view {number}"]}
    return f"{number:06d}", picture(number), f" caption {number} \u72ac\n", meta


@pytest.fixture(scope="module")
def tars(tmp_path_factory) -> Source:
    """Three tar shards made by Python's own writer, one of them empty."""
    folder, first = tmp_path_factory.mktemp("tars"), 0
    for shard, size in enumerate(SIZES):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for number in range(first, first + size):
                key, image, caption, meta = contents(number)
                for suffix, data in (("png", image), ("txt", caption.encode()), ("json", json.dumps(meta).encode())):
                    info = tarfile.TarInfo(f"{key}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        first += size
    return sources.open_source(str(folder), TXT)


def write_records(path: Path, data: list[bytes], compression: str = "zstd:3") -> Path:
    """An ArrayRecord file."""
    writer = ArrayRecordWriter(str(path), f"group_size:1,{compression}")
    for one in data:
        writer.write(one)
    writer.close()
    return path


@pytest.fixture(scope="module")
def array_records(tars, tmp_path_factory) -> Path:
    """A folder of ArrayRecord files with the pairs of the tars."""
    folder, first = tmp_path_factory.mktemp("records"), 0
    for shard, size in enumerate(SIZES):
        packed = [records.pack(tars[i]) for i in range(first, first + size)]
        write_records(folder / f"{shard}.array_record", packed)
        first += size
    return folder


def fields(source: Source, i: int) -> tuple[tuple, Sample, tuple[str, str]]:
    """Everything a source says about pair i (for other processes: picklable by name)."""
    return source.pair(i, LIMIT), source[i], source.describe(i)


def is_same_everywhere(source: Source, tars: Source, fields_kept: tuple[str, ...] = ("uid", "width", "more")) -> None:
    """The source gives what the tars give, from this thread, from many, and in another process."""
    assert len(source) == len(tars) == sum(SIZES) and list(source.caption_sets()) == list(tars.caption_sets())
    assert isinstance(source, Source)
    wanted = []
    for i in range(len(tars)):
        meta = {name: tars[i].meta[name] for name in fields_kept}
        wanted.append((tars.pair(i, LIMIT), replace(tars[i], meta=meta)))
    order = [i * 7 % len(tars) for i in range(20 * len(tars))]
    with ThreadPoolExecutor(8) as pool:
        for i, got in zip(order, pool.map(lambda i: fields(source, i)[:2], order), strict=True):
            assert got == wanted[i], i
    assert len(pickle.dumps(source)) < 3000
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(fields, source, 9).result() == (*wanted[9], source.describe(9))
    assert source.describe(9)[1] == tars.describe(9)[1] == "000009"
    with pytest.raises(BadSample, match="too_many_bytes"):
        source.pair(0, 10)
    with pytest.raises(IndexError):
        source[len(tars)]


def test_array_records_hold_the_pairs_of_the_tars(array_records, tars):
    is_same_everywhere(sources.open_source(str(array_records), TXT), tars)
    few = sources.open_source(str(array_records / "{2,0}.array_record"), TXT, caption_field="more", max_samples=9)
    assert len(few) == 9 and few.captions(8) == ("caf\u00e9 0", "view 0") and few[0].key == "000005"


def test_records_compressed_in_groups_are_read_and_told_of(tars, tmp_path, capsys):
    for group in (1, 4):
        writer = ArrayRecordWriter(str(tmp_path / f"{group}.array_record"), f"group_size:{group}")
        for i in range(6):
            writer.write(records.pack(tars[i]))
        writer.close()
        source = sources.open_source(str(tmp_path / f"{group}.array_record"), TXT)
        assert [source[i].key for i in range(6)] == [tars[i].key for i in range(6)]
        assert ("has groups of 4 records" in capsys.readouterr().err) == (group == 4)


def test_a_record_is_laid_out_as_documented():
    sample = Sample("k\u00e9y", b"\xff\xd8\xff picture", ("one", "two \u72ac"), {"uid": "00", "n": [1, 2.5, None]})
    data = records.pack(sample)
    assert records.unpack(data) == sample
    key, captions, meta = "k\u00e9y".encode(), '["one", "two \u72ac"]'.encode(), b'{"uid": "00", "n": [1, 2.5, null]}'
    sizes = [(len(key), 4), (len(captions), 4), (len(meta), 4), (len(sample.image), 8)]
    head = b"LTPAIR\x01\x00" + b"".join(size.to_bytes(width, "little") for size, width in sizes)
    assert data == head + key + captions + meta + sample.image
    for wrong in (b"", data[:20], data[:-1], data + b"x", b"X" + data[1:], data[:6] + b"\x02" + data[7:],
                  head + key + b"?" * len(captions) + meta + sample.image):  # fmt: skip
        with pytest.raises(ValueError):
            records.unpack(wrong)
    with pytest.raises(TypeError):
        records.pack(Sample("k", b"", ("one",), {"raw": b"bytes"}))


def test_the_fingerprint_follows_content_and_order_not_place(array_records, tmp_path):
    names = [f"{n}.array_record" for n in range(len(SIZES))]
    for name in names:
        (tmp_path / name).write_bytes((array_records / name).read_bytes())

    def fingerprint(folder: Path, order: str, field: str = "txt") -> str:
        return sources.open_source(str(folder / f"{{{order}}}.array_record"), TXT, caption_field=field).fingerprint

    assert fingerprint(tmp_path, "0,1,2") == fingerprint(array_records, "0,1,2")
    others = {fingerprint(tmp_path, "0,1,2"), fingerprint(tmp_path, "2,1,0"), fingerprint(tmp_path, "0,2"),
              fingerprint(tmp_path, "0,1,2", "more")}  # fmt: skip
    assert len(others) == 4


def test_the_digest_is_sha256_and_taken_once(array_records, tmp_path, monkeypatch):
    monkeypatch.setenv("LIT_TUNE_CACHE", str(tmp_path / "cache"))
    source = sources.open_source(str(array_records / "0.array_record"), TXT)
    assert source.files[0].sha256 == hashlib.sha256((array_records / "0.array_record").read_bytes()).hexdigest()
    (kept,) = (tmp_path / "cache" / "digests").iterdir()
    kept.write_text(json.dumps("0" * 64))
    assert sources.open_source(str(array_records / "0.array_record"), TXT).files[0].sha256 == "0" * 64
    kept.write_text("{broken")
    assert sources.open_source(str(array_records / "0.array_record"), TXT).files == source.files


def test_a_damaged_or_foreign_array_record_is_named(array_records, tmp_path):
    whole = (array_records / "2.array_record").read_bytes()
    cases = {"cut": whole[:-1000], "empty": b"", "html": b"<html>", "noise": bytes(range(256)) * 400}
    for name, data in cases.items():
        (tmp_path / f"{name}.array_record").write_bytes(data)
    write_records(tmp_path / "foreign.array_record", [b"tf.train.Example"])
    for name in [*cases, "foreign", "absent"]:
        with pytest.raises(DataError, match=rf"{name}\.array_record: expected") as caught:
            sources.open_source(str(tmp_path / f"{name}.array_record"), TXT)
        assert "\n" not in str(caught.value)
    (tmp_path / "good.array_record").write_bytes(whole)
    spec = str(tmp_path / "{cut,good}.array_record")
    assert len(sources.open_source(spec, TXT, allow_missing=0.5)) == 8
    assert sources.open_source(spec, TXT, allow_missing=0.5).counts == {"bad_shards": 1}
    with pytest.raises(DataError, match=r"cut\.array_record"):
        sources.open_source(spec, TXT, allow_missing=0.4)
    with pytest.raises(DataError, match=r"cut\.array_record"):
        sources.open_source(str(tmp_path / "cut.array_record"), TXT, allow_missing=1.0)


def test_a_flipped_bit_spoils_one_pair_and_no_other(tars, tmp_path):
    path = write_records(tmp_path / "x.array_record", [records.pack(tars[i]) for i in range(8)], "uncompressed")
    data = bytearray(path.read_bytes())
    assert data.count(tars[3].image) == 1
    data[data.index(tars[3].image) + 50] ^= 0x40
    path.write_bytes(data)
    damaged = sources.open_source(str(path), TXT)
    assert [i for i, captions in enumerate(damaged.caption_sets()) if not captions] == [3]
    with pytest.raises(BadSample, match="unreadable"):
        damaged[3]
    assert damaged.describe(3) == ("x.array_record", "3") and damaged[4] == tars[4]


def test_bad_captions_and_a_changed_file_are_told(array_records, tmp_path):
    path = write_records(tmp_path / "x.array_record", [records.pack(Sample("a", b"x", ("ok",), {"n": 3})),
                                                       records.pack(Sample("b", b"x", (" y ",)))])  # fmt: skip
    source = sources.open_source(str(path), TXT)
    with pytest.raises(BadSample, match="short_caption"):
        source[1]
    with pytest.raises(BadSample, match="no_caption"):
        sources.open_source(str(path), TXT, caption_field="n").captions(0)
    copy = pickle.loads(pickle.dumps(source))
    path.write_bytes((array_records / "0.array_record").read_bytes())
    with pytest.raises(DataError, match="another content"):
        copy[0]


def test_files_of_several_kinds_are_refused(array_records, tmp_path):
    for name in ("a.tar", "b.array_record"):
        (tmp_path / name).touch()
    for spec in (tmp_path, tmp_path / "{a.tar,b.array_record}", tmp_path / "*"):
        with pytest.raises(ConfigError, match=r"expected files of one kind, found .*tar and .*b?\.array_record"):
            sources.open_source(str(spec), TXT)


def write_parquet(path: Path, columns: dict[str, list], rows_a_group: int = 3, **types: pa.DataType) -> Path:
    """A Parquet file, written by pyarrow."""
    table = pa.table({name: pa.array(values, types.get(name)) for name, values in columns.items()})
    pq.write_table(table, path, row_group_size=rows_a_group)
    return path


@pytest.fixture(scope="module")
def parquets(tars, tmp_path_factory) -> Path:
    """A folder of Parquet files with the pairs of the tars, pictures in Hugging Face's way in one of them."""
    folder, first = tmp_path_factory.mktemp("parquet"), 0
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for shard, size in enumerate(SIZES):
        rows = [contents(number) for number in range(first, first + size)]
        images = [{"bytes": image, "path": "x.png"} if shard == 0 else image for _, image, _, _ in rows]
        columns = {"key": [row[0] for row in rows], "text": [row[2] for row in rows], IMAGE: images,
                   "uid": [row[3]["uid"] for row in rows], "width": [20] * size,
                   "more": [row[3]["more"] for row in rows]}  # fmt: skip
        write_parquet(folder / f"{shard}.parquet", columns, image=struct if shard == 0 else pa.large_binary())
        first += size
    return folder


def test_parquet_holds_the_pairs_of_the_tars(parquets, tars):
    source = sources.open_source(str(parquets), TXT)
    is_same_everywhere(source, tars, fields_kept=("uid", "width"))  # a list is no scalar
    assert sources.open_source(str(parquets), TXT, caption_field="more").captions(12) == ("caf\u00e9 12", "view 12")


def test_only_the_last_row_groups_are_kept(parquets, monkeypatch):
    source = sources.open_source(str(parquets / "2.parquet"), TXT)  # 8 rows in groups of 3
    read, real = [], parquet_source._File.read
    monkeypatch.setattr(parquet_source._File, "read", lambda *args: read.append(args[1]) or real(*args))
    for i in (0, 1, 2, 7, 6, 0, 3):
        source.pair(i, LIMIT)
    assert read == [0, 2, 1]
    monkeypatch.setattr(parquet_source, "KEPT_BYTES", 1)
    read.clear()
    small = pickle.loads(pickle.dumps(source))
    for i in (0, 7, 6, 0):
        small.pair(i, LIMIT)
    assert read == [0, 2, 0] and len(small._groups) == 1


def test_keys_fall_back_and_empty_cells_are_bad_pairs(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", {"captions": [["one", "x"], None, [], ["four"]], "flag": [True] * 4,
                                                  IMAGE: [b"a", b"b", b"c", None]})  # fmt: skip
    source = sources.open_source(str(path), TXT)
    assert source[0] == Sample("0", b"a", ("one",), {"flag": True})
    assert source.describe(3) == ("x.parquet", "3")
    for i, kind in ((1, "no_caption"), (2, "no_caption"), (3, "empty_image")):
        with pytest.raises(BadSample, match=kind):
            source.pair(i, LIMIT)
    path = write_parquet(tmp_path / "y.parquet", {"caption": ["one"], "text": ["two"], "uid": ["ab"], IMAGE: [b"a"]})
    assert sources.open_source(str(path), TXT)[0] == Sample("ab", b"a", ("one",), {"text": "two"})


def test_a_parquet_without_pictures_or_captions_or_whole_bytes_is_refused(parquets, tmp_path, monkeypatch):
    lists = write_parquet(tmp_path / "0.parquet", {"url": ["http://x"], "key": ["0"], "status": ["success"],
                                                   "caption": ["one"]})  # fmt: skip
    with pytest.raises(ConfigError, match=r"0\.parquet: expected a column image.*found url.*img2dataset"):
        sources.open_source(str(lists), TXT)
    paths = write_parquet(tmp_path / "1.parquet", {IMAGE: ["a.png"], "caption": ["one"]})
    with pytest.raises(ConfigError, match=r"image \(string\)"):
        sources.open_source(str(paths), TXT)
    with pytest.raises(ConfigError, match=r"expected a column nope, found key, text, image"):
        sources.open_source(str(parquets), TXT, caption_field="nope")
    (tmp_path / "2.parquet").write_bytes((parquets / "2.parquet").read_bytes()[:-30])
    for name in ("2.parquet", "absent.parquet"):
        with pytest.raises(DataError, match=f"{name}: expected"):
            sources.open_source(str(tmp_path / name), TXT)
    monkeypatch.setattr(parquet_source, "LARGEST_GROUP", 100)
    with pytest.raises(DataError, match="row groups up to 100 bytes"):
        sources.open_source(str(parquets), TXT)


def test_a_damaged_column_chunk_spoils_its_row_group_only(parquets, tmp_path):
    data = bytearray((parquets / "2.parquet").read_bytes())
    column = pq.ParquetFile(parquets / "2.parquet").metadata.row_group(1).column(2)
    assert column.path_in_schema == IMAGE
    at = column.dictionary_page_offset or column.data_page_offset
    data[at : at + 12] = b"\xff" * 12
    (tmp_path / "x.parquet").write_bytes(data)
    source = sources.open_source(str(tmp_path / "x.parquet"), TXT)
    assert source.pair(2, LIMIT)[0] == picture(7) and source.pair(6, LIMIT)[0] == picture(11)
    with pytest.raises(BadSample, match="unreadable"):
        source.pair(4, LIMIT)


def test_img2datasets_lists_beside_the_shards_are_passed_over(tars, tmp_path):
    for path in tars.shards:
        (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / path.name).with_suffix(".parquet").touch()
    assert sources.open_source(str(tmp_path), TXT).fingerprint == tars.fingerprint
