"""Tar shards: every kind of damage is named, nothing is lost in silence, no picture meets another's caption."""

import io
import json
import os
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lit_tune.data import decoding, sources, tar_index, transforms
from lit_tune.data.sample import BadSample
from lit_tune.errors import DataError

GOLDEN = Path(__file__).parent / "golden" / "broken" / "tars"
SHARED = Path(os.environ["LIT_TUNE_DATA"]) if "LIT_TUNE_DATA" in os.environ else None
BROKEN = [GOLDEN] + ([SHARED / "broken" / "tars"] if SHARED else [])
CASES = [(folder, name) for folder in BROKEN for name in json.loads((folder / "manifest.json").read_text())]
TXT = SimpleNamespace(caption_field="txt")

# What the manifest's words mean here: pairs in the index, counts that are not 0, a word of the problem ("" for none).
WANTED = {
    "good.tar": (12, {}, ""),
    "truncated.tar": (6, {}, "cut inside '000000006.jpg'"),
    "no_eof_blocks.tar": (12, {"no_end_marker": 1}, ""),
    "bad_header_checksum.tar": (4, {}, "bad header checksum"),
    "zero_byte.tar": (0, {"no_end_marker": 1}, "0 bytes"),
    "empty.tar": (0, {}, ""),
    "html_error.tar": (0, {}, "no tar header"),
    "gzipped_as.tar": (0, {}, "gzip"),
    "missing_txt.tar": (10, {"no_caption": 2}, ""),
    "missing_image.tar": (11, {"no_image": 1}, ""),
    "missing_json.tar": (12, {}, ""),
    "bad_json.tar": (12, {"bad_json": 2}, ""),
    "captions.tar": (12, {"not_utf8": 2, "short_caption": 4, "long_caption": 1}, ""),
    "duplicate_key_same_tar.tar": (4, {"repeated_key": 1}, ""),
    "duplicate_key_a.tar": (2, {}, ""),
    "duplicate_key_b.tar": (2, {}, ""),
    "images_then_texts.tar": (0, {"no_caption": 12, "no_image": 24}, ""),
    "dirs_and_dots.tar": (0, {"no_image": 4}, ""),  # suffix "v1.jpg", as webdataset splits names: no picture
    "upper_ext.tar": (4, {}, ""),
    "pax_long_names.tar": (3, {}, ""),
    "extra_members.tar": (2, {"not_a_file": 1, "odd_name": 3}, ""),
    "two_images.tar": (3, {}, ""),  # the webp wins
    "mixed_bad_images.tar": (12, {}, ""),  # 4 of them refused when their turn comes
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own for every test."""
    monkeypatch.setenv("LIT_TUNE_CACHE", str(tmp_path / "cache"))


def picture(number: int) -> bytes:
    """A small JPEG, another for each number."""
    out = io.BytesIO()
    transforms.Image.new("RGB", (16, 16), (number * 37 % 256, number * 91 % 256, 50)).save(out, "JPEG")
    return out.getvalue()


def members(count: int, start: int = 0) -> list[tuple[str, bytes]]:
    """Names and contents of `count` whole samples."""
    out = []
    for n in range(start, start + count):
        meta = json.dumps({"uid": f"{n:032x}", "caption": f"caption {n}", "captions": [f"caption {n}", f"picture {n}"]})
        out += [(f"{n:09d}.jpg", picture(n)), (f"{n:09d}.txt", f"caption {n}".encode())]
        out += [(f"{n:09d}.json", meta.encode())]
    return out


def write(path: Path, content: list[tuple[str, bytes]], **options) -> Path:
    """A tar made by Python's own writer."""
    with tarfile.open(path, "w", **options) as tar:
        for name, data in content:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def open_tars(*paths: Path, **options):
    """The source over some shards."""
    spec = "{" + ",".join(map(str, paths)) + "}" if len(paths) > 1 else str(paths[0])
    return sources.open_source(spec, options.pop("data", TXT), **options)


@pytest.mark.parametrize("folder, name", CASES, ids=lambda v: v.parts[-4] if isinstance(v, Path) else v)
def test_broken_shards_are_read_as_their_manifest_says(folder, name):
    pairs, counts, problem = WANTED[name]
    index = tar_index.scan(folder / name)
    assert len(index) == pairs
    assert {key: count for key, count in index.counts.items() if count} == counts
    assert problem in index.problem() and bool(problem) == bool(index.problem())
    if problem:
        with pytest.raises(DataError) as caught:
            open_tars(folder / name)
        assert name in str(caught.value) and "\n" not in str(caught.value) and caught.value.exit_code == 4


@pytest.mark.parametrize("folder, name", CASES, ids=lambda v: v.parts[-4] if isinstance(v, Path) else v)
def test_pairs_are_those_that_tarfile_shows_side_by_side(folder, name):
    index = tar_index.scan(folder / name)
    if not len(index) or name in ("truncated.tar", "bad_header_checksum.tar"):
        return  # tarfile stops or fails there, in other places than we do
    with tarfile.open(folder / name) as tar:
        whole = [(m.name.lower(), m.offset_data, m.size) for m in tar if m.isreg()]
    by_offset = {offset: (name, size) for name, offset, size in whole}
    for record in index.records:
        picture_name, picture_size = by_offset[int(record["image_block"]) * 512]
        caption_name, caption_size = by_offset[int(record["text_block"]) * 512]
        assert caption_name == picture_name.rpartition(".")[0] + ".txt"
        assert (picture_size, caption_size) == (int(record["image_size"]), int(record["text_size"]))
        first, last = sorted(int(record[f"{member}_block"]) * 512 for member in ("image", "text"))
        between = [o for _, o, _ in whole if first < o < last]
        assert all(by_offset[o][0].startswith(picture_name.rpartition(".")[0]) for o in between)


def test_the_last_shared_folders_are_named_when_they_are_absent():
    if SHARED is None:
        pytest.skip("LIT_TUNE_DATA is not set: the larger broken shards and the real pairs were not read")
    source = sources.open_source(str(SHARED / "emoji" / "train" / "{00000000..00000003}.tar"), TXT)
    assert len(source) == 2700 and source[7].captions and source.counts["no_caption"] == 0
    folder = sources.open_source(str(SHARED / "tfds_source"), TXT)
    assert len(folder) == 150 and len(folder[0].captions) == 2
    caught = []
    mixed = open_tars(SHARED / "broken" / "tars" / "mixed_bad_images.tar")
    for i in range(len(mixed)):
        try:
            decoding.decode(mixed[i].image, "clean")
        except BadSample:
            caught.append(i)
    assert caught == [0, 3, 5, 8]
    texts = list(open_tars(SHARED / "broken" / "tars" / "captions.tar").caption_sets())
    assert [len(t) for t in texts] == [0] * 4 + [1] * 8 and len(texts[7][0]) <= 65_536
    assert texts[4] == ("caf\ufffd cr\ufffdme",) and texts[9] == ("with a UTF-8 BOM",)
    two = open_tars(SHARED / "broken" / "tars" / "two_images.tar")
    with tarfile.open(SHARED / "broken" / "tars" / "two_images.tar") as tar:
        assert two[0].image == tar.extractfile("000000000.webp").read()


@pytest.mark.faults(row=30, fault="a shard cut at every place", expected="named, or whole pairs and a note")
def test_every_cut_is_noticed_or_leaves_whole_pairs_and_a_note(tmp_path):
    whole = write(tmp_path / "whole.tar", members(6)).read_bytes()
    index = tar_index.scan(tmp_path / "whole.tar")
    assert len(index) == 6 and not index.problem()
    for size in range(0, len(whole) - 10_240, 256):
        path = tmp_path / "cut.tar"
        path.write_bytes(whole[:size])
        found = tar_index.scan(path)
        assert found.problem() or found.counts["no_end_marker"], size
        assert [found.key(i) for i in range(len(found))] == [index.key(i) for i in range(len(found))]
        assert (found.records["text_block"] == index.records["text_block"][: len(found)]).all()


def test_a_cut_between_members_shows_against_the_announced_count(tmp_path):
    whole = write(tmp_path / "00000.tar", members(6)).read_bytes()
    third = int(tar_index.scan(tmp_path / "00000.tar").records["image_block"][3]) * 512 - 512
    (tmp_path / "00000.tar").write_bytes(whole[:third])
    assert len(open_tars(tmp_path / "00000.tar")) == 3  # nothing announces more: a note, no error
    (tmp_path / "00000_stats.json").write_text('{"successes": 6}')
    with pytest.raises(DataError, match="3 samples.*announce 6"):
        open_tars(tmp_path / "00000.tar")
    (tmp_path / "sizes.json").write_text('{"00000.tar": 3}')  # DataComp's file comes first
    assert len(open_tars(tmp_path / "00000.tar")) == 3
    (tmp_path / "sizes.json").write_text("[]")
    with pytest.raises(DataError, match=r"sizes\.json"):
        open_tars(tmp_path / "00000.tar")


def test_a_tail_and_a_hole_of_zeros_are_named(tmp_path):
    whole = write(tmp_path / "a.tar", members(40)).read_bytes()
    middle = int(tar_index.scan(tmp_path / "a.tar").records["image_block"][20]) * 512 - 512
    (tmp_path / "a.tar").write_bytes(whole[:middle] + bytes(len(whole) - middle))
    with pytest.raises(DataError, match="tail of .* bytes of zeros after 20 samples"):
        open_tars(tmp_path / "a.tar")
    (tmp_path / "a.tar").write_bytes(whole[:middle] + bytes(512) + whole[middle + 512 :])
    with pytest.raises(DataError, match="a block of zeros at byte"):
        open_tars(tmp_path / "a.tar")


@pytest.mark.faults(row=31, fault="a flipped bit in a member's header", expected="named with the samples before it")
def test_every_flipped_bit_in_a_header_that_matters_is_noticed(tmp_path):
    whole = write(tmp_path / "a.tar", members(4)).read_bytes()
    header = int(tar_index.scan(tmp_path / "a.tar").records["text_block"][2]) * 512 - 512
    for byte in (0, 9, 10, 124, 130, 148, 150, 156, 257, 300, 500):
        damaged = bytearray(whole)
        damaged[header + byte] ^= 0x04
        (tmp_path / "a.tar").write_bytes(damaged)
        found = tar_index.scan(tmp_path / "a.tar")
        assert found.problem() and len(found) == 2, byte


def test_missing_shards_end_the_start_unless_allowed(tmp_path):
    for n in range(3):
        write(tmp_path / f"{n:05d}.tar", members(4, start=10 * n))
    (tmp_path / "00001.tar").unlink()
    spec = str(tmp_path / "{00000..00002}.tar")
    with pytest.raises(DataError, match=r"00001\.tar.*no such file") as caught:
        sources.open_source(spec, TXT)
    assert caught.value.exit_code == 4
    source = sources.open_source(spec, TXT, allow_missing=0.34)
    assert len(source) == 8 and source.counts["bad_shards"] == 1 and "00001.tar" in source.problems[0]
    with pytest.raises(DataError):
        sources.open_source(spec, TXT, allow_missing=0.33)


def test_index_is_kept_and_made_anew_when_the_shard_or_the_format_changes(tmp_path):
    path = write(tmp_path / "a.tar", members(5))
    first = tar_index.index_shard(path)
    file = tar_index.index_file(path, "txt")
    written = file.stat().st_mtime_ns
    again = tar_index.index_shard(path)
    assert file.stat().st_mtime_ns == written and again.sha256 == first.sha256
    assert np.array_equal(again.records, first.records) and again.counts == first.counts
    assert [again.key(i) for i in range(5)] == [f"{n:09d}" for n in range(5)]
    raw = bytearray(file.read_bytes())
    for spoilt in (bytes(raw[:-1]), b"", b"x" * 100, bytes(raw[:8]) + b"\xff" + bytes(raw[9:])):
        file.write_bytes(spoilt)
        assert len(tar_index.index_shard(path)) == 5 and file.read_bytes() == bytes(raw)
    write(path, members(6))
    assert len(tar_index.index_shard(path)) == 6 and tar_index.index_file(path, "txt") != file


def test_records_hold_uid_digest_and_announced_numbers(tmp_path):
    content = members(3)
    content[5] = (content[5][0], b'{"uid": "00ff000000000001ffffffffffffffff"}')
    content[8] = (content[8][0], b"not json")
    index = tar_index.scan(write(tmp_path / "a.tar", content + members(1)))
    assert index.records["uid_high"].tolist() == [0, 0x00FF000000000001, 0, 0]
    assert index.records["uid_low"].tolist() == [0, 0xFFFFFFFFFFFFFFFF, 0, 0]
    digests = index.records["digest"].tolist()
    assert digests[0] == digests[3] and len(set(digests)) == 3  # the same content again, under a repeated key
    assert index.counts["bad_json"] == 1 and index.sha256 == __import__("hashlib").sha256(
        (tmp_path / "a.tar").read_bytes()).hexdigest()  # fmt: skip


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_of_all_three_formats_are_joined(tmp_path, form):
    folder = "d" * 60 + "/" + "e" * 60
    content = [(f"{folder}/{name}", data) for name, data in members(2)]
    index = tar_index.scan(write(tmp_path / "a.tar", content, format=form))
    assert [index.key(i) for i in range(len(index))] == [f"{folder}/{n:09d}" for n in range(2)]


def test_two_pictures_of_one_sample_the_webp_wins(tmp_path):
    out = io.BytesIO()
    transforms.Image.new("RGB", (8, 8)).save(out, "WEBP")
    name, data = members(1)[0]
    content = [(name, data), (name.replace("jpg", "webp"), out.getvalue()), *members(1)[1:]]
    assert open_tars(write(tmp_path / "a.tar", content))[0].image == out.getvalue()


def test_pairs_come_back_by_number_from_threads_and_after_pickling(tmp_path):
    paths = [write(tmp_path / f"{n}.tar", members(7, start=100 * n)) for n in range(3)]
    source = open_tars(*paths)
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(source.__getitem__, [i % 21 for i in range(210)]))
    for i, sample in enumerate(got):
        number = 100 * (i % 21 // 7) + i % 7
        assert sample.key == f"{number:09d}" and sample.image == picture(number)
        assert sample.captions == (f"caption {number}",) and sample.meta["uid"] == f"{number:032x}"
    copy = pickle.loads(pickle.dumps(source))
    assert copy.pair(20, 1 << 20) == source.pair(20, 1 << 20) and len(pickle.dumps(source)) < 5000
    assert source.describe(8) == ("1.tar", "000000101")
    with pytest.raises(IndexError):
        source[21]
    with pytest.raises(BadSample, match="too_many_bytes"):
        source.pair(0, 10)


def test_more_shards_than_are_held_open_still_work(tmp_path, monkeypatch):
    from lit_tune.data import tar_source

    monkeypatch.setattr(tar_source, "OPEN_SHARDS", 2)
    paths = [write(tmp_path / f"{n}.tar", members(1, start=n)) for n in range(6)]
    source = open_tars(*paths)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    with ThreadPoolExecutor(4) as pool:
        keys = list(pool.map(lambda i: source[i % 6].key, range(120)))
    assert keys == [f"{i % 6:09d}" for i in range(120)]
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 4  # the shard and its mapped index


def test_captions_come_from_a_json_field_as_text_or_list(tmp_path):
    content = [(n, d) for n, d in members(4) if not n.endswith(".txt")]
    content[5] = (content[5][0], b'{"captions": []}')
    content[7] = (content[7][0], b'{"captions": ["  ok  ", "", 3]}')
    path = write(tmp_path / "a.tar", content)
    source = open_tars(path, data=SimpleNamespace(caption_field="captions"))
    assert source.captions(0) == ("caption 0", "picture 0") and len(source) == 4
    assert list(source.caption_sets()) == [("caption 0", "picture 0"), ("caption 1", "picture 1"), (), ()]
    with pytest.raises(BadSample, match="no_caption"):
        source.captions(2)
    with pytest.raises(DataError, match="no_caption 4"):
        open_tars(path)
    assert open_tars(path, data=TXT, caption_field="caption").captions(0) == ("caption 0",)


def test_fingerprint_follows_content_and_order_not_place(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    a, b = write(tmp_path / "a.tar", members(2)), write(tmp_path / "b.tar", members(2, start=5))
    moved = tmp_path / "elsewhere" / "c.tar"
    moved.write_bytes(a.read_bytes())
    prints = [open_tars(*paths).fingerprint for paths in ((a, b), (moved, b), (b, a), (a,))]
    assert prints[0] == prints[1] and len(set(prints)) == 3
    assert open_tars(a, b, max_samples=3).fingerprint != prints[0] and len(open_tars(a, b, max_samples=3)) == 3


def test_a_shard_changed_under_a_run_is_an_error(tmp_path):
    path = write(tmp_path / "a.tar", members(2))
    source = open_tars(path)
    write(path, members(3))
    with pytest.raises(DataError, match="another content"):
        source[0]


def test_members_outside_the_folder_and_links_are_ignored(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        link = tarfile.TarInfo("000000000.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        for name, data in [("../../e.jpg", b"x"), ("../../e.txt", b"yy"), ("/abs.jpg", b"x"), *members(1, start=4)]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    index = tar_index.scan(path)
    assert len(index) == 1 and index.counts["not_a_file"] == 1 and index.counts["odd_name"] == 3


def test_reading_a_huge_member_keeps_memory_flat(tmp_path):
    import tracemalloc

    name, _ = members(1)[0]
    path = write(tmp_path / "a.tar", [(name, bytes(60 << 20)), *members(1)[1:], *members(1, start=1)])
    tracemalloc.start()
    index = tar_index.scan(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(index) == 2 and peak < 8 << 20
