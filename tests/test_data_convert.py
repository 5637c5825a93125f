"""`lit-tune data convert`: pictures as PIL makes them, everything else as it was, every sample accounted for."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from shards_on_disk import encoded, picture, read, shard, write

from lit_tune.data import convert, records, sources
from lit_tune.data.__main__ import main
from lit_tune.data.sample import BadSample
from lit_tune.errors import ConfigError

SHARED = Path(os.environ["LIT_TUNE_DATA"]) if "LIT_TUNE_DATA" in os.environ else None
TXT = SimpleNamespace(caption_field="txt")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own for every test."""
    monkeypatch.setenv("LIT_TUNE_CACHE", str(tmp_path / "cache"))


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """A picture in which every pixel tells where it came from."""
    channels = {"RGB": 3, "RGBA": 4, "L": 1, "CMYK": 4}[mode]
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, channels), np.uint8)
    if mode == "CMYK":
        return Image.frombytes(mode, (width, height), pixels.tobytes())
    return Image.fromarray(pixels[:, :, 0] if mode == "L" else pixels)


def run(spec: Path, out: Path, *words: str) -> int:
    """The exit code of `data convert --to=tar` in this process."""
    return main(["convert", str(spec), f"--out={out}", "--to=tar", "--workers=1", *words])


@pytest.mark.parametrize("width, height, wanted", [
    (300, 200, (96, 64)), (200, 300, (64, 96)), (301, 200, (96, 64)), (64, 500, (64, 500)), (65, 500, (64, 492)),
    (1, 3, (1, 3)), (640, 64, (640, 64)),
])  # fmt: skip
def test_the_shorter_side_is_brought_down_and_never_up(width, height, wanted):
    image = noise(width, height)
    data, size = convert.smaller(encoded(image, "PNG"), convert.Encoding(size=64))
    made = Image.open(io.BytesIO(data))
    assert made.format == "JPEG" and made.mode == "RGB" and made.size == size == wanted
    expected = encoded(image.resize(wanted, Image.Resampling.BICUBIC), quality=90)
    assert data == expected  # antialiased, quality 90: PIL's own bytes


@pytest.mark.parametrize("policy, color", [("clean", (227, 127, 127)), ("reference", (200, 0, 0))])
def test_odd_pictures_become_rgb_by_the_policy(policy, color):
    clear = Image.new("RGBA", (100, 100), (200, 0, 0, 128))
    data, _ = convert.smaller(encoded(clear, "PNG"), convert.Encoding(size=50, policy=policy))
    assert np.abs(np.asarray(Image.open(io.BytesIO(data))).astype(int) - color).max() <= 2


def test_a_small_plain_jpeg_is_kept_and_others_are_made_plain():
    encoding = convert.Encoding(size=64)
    plain = encoded(noise(64, 80), quality=97)
    assert convert.smaller(plain, encoding) == (plain, (64, 80))
    for image in (noise(40, 30, "L"), noise(40, 30, "CMYK")):
        data, _ = convert.smaller(encoded(image), encoding)
        assert Image.open(io.BytesIO(data)).mode == "RGB"
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    data, size = convert.smaller(encoded(noise(40, 30), exif=exif), encoding)
    assert size == (30, 40) and not Image.open(io.BytesIO(data)).getexif()
    with pytest.raises(BadSample, match="too_many_pixels"):
        convert.smaller(encoded(Image.new("L", (65_501, 1)), "PNG"), encoding)


def test_captions_json_and_uid_stay_and_the_size_is_told(tmp_path, capsys):
    meta = {"uid": "0" * 31 + "7", "width": 512, "height": 384, "original_width": 900, "extra": ["\u00e9", None]}
    write(tmp_path / "in0.tar", [
        ("a/b.png", encoded(noise(96, 64), "PNG")), ("a/b.txt", b" two words\n"),
        ("a/b.json", json.dumps(meta).encode()),
        ("c.jpg", encoded(noise(70, 70))), ("c.txt", b"third"), ("c.json", b"[broken"),
        ("d.jpg", encoded(noise(70, 70))), ("d.txt", "caf\u00e9".encode())])  # fmt: skip
    shard(tmp_path / "in1.tar", [1, 2])
    assert run(tmp_path / "in*.tar", tmp_path / "out", "--size=32", "--json") == 0
    first, second, third = read(tmp_path / "out" / "00000000.tar")
    assert [first[0], second[0], third[0]] == ["a/b", "c", "d"]
    assert first[1]["txt"] == b" two words\n" and third[1]["txt"] == "caf\u00e9".encode()
    assert json.loads(first[1]["json"]) == meta | {"width": 48, "height": 32}
    assert second[1]["json"] == b"[broken" and set(third[1]) == {"jpg", "txt"}
    again = read(tmp_path / "out" / "00000001.tar")
    before = read(tmp_path / "in1.tar")
    assert [(key, members["jpg"], members["txt"]) for key, members in again] == [
        (key, members["jpg"], members["txt"]) for key, members in before]  # fmt: skip
    fields = json.loads(again[0][1]["json"])
    assert (fields["width"], fields["height"], fields["original_width"]) == (16, 12, 640)
    result = json.loads(capsys.readouterr().out)
    assert result["samples_in"] == result["samples_out"] == result["groups_in"] == 5 and result["lost"] == {}
    source = sources.open_source(str(tmp_path / "out"), TXT)
    assert len(source) == 5 and source[0].meta["uid"] == meta["uid"]


def test_what_training_would_refuse_is_counted_by_kind(tmp_path, capsys):
    members = [("a.jpg", b""), ("a.txt", b"empty"), ("b.jpg", b"<html>"), ("b.txt", b"page"),
               ("c.jpg", encoded(noise(40, 40))[:400]), ("c.txt", b"cut"), ("d.jpg", encoded(noise(40, 40))),
               ("d.txt", b"x"), ("e.jpg", encoded(noise(40, 40))), ("e.txt", b"good"), ("f.txt", b"alone"),
               ("g.jpg", encoded(noise(9, 9)))]
    write(tmp_path / "0.tar", members)
    assert run(tmp_path / "0.tar", tmp_path / "out", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["lost"] == {"empty_image": 1, "short_caption": 1, "undecodable": 1, "unknown_format": 1}
    assert result["groups_in"] == 7 == result["samples_in"] + sum(result["left_out"].values())
    assert result["samples_in"] == 5 == result["samples_out"] + sum(result["lost"].values())
    lines = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert [(line["key"], line["kind"]) for line in lines] == [
        ("a", "empty_image"), ("b", "unknown_format"), ("c", "undecodable"), ("d", "short_caption")]  # fmt: skip
    assert read(tmp_path / "out" / "00000000.tar") == [("e", {"jpg": members[8][1], "txt": b"good"})]


def test_a_second_run_goes_on_and_another_size_is_refused(tmp_path):
    for number in range(3):
        shard(tmp_path / f"in{number}.tar", [number + 1, number + 5])
    assert run(tmp_path / "in*.tar", tmp_path / "out", "--size=8") == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("[!.]*")}
    kept = (tmp_path / "out" / "00000000.tar").stat().st_mtime_ns
    (tmp_path / "out" / "00000001.tar").unlink()
    assert run(tmp_path / "in*.tar", tmp_path / "out", "--size=8") == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("[!.]*")} == before
    assert (tmp_path / "out" / "00000000.tar").stat().st_mtime_ns == kept
    with pytest.raises(ConfigError, match="same size"):
        run(tmp_path / "in*.tar", tmp_path / "out", "--size=9")
    assert main(["convert", str(tmp_path / "in*.tar"), f"--out={tmp_path / 'two'}", "--to=tar", "--size=8",
                 "--workers=2"]) == 0  # fmt: skip
    assert {path.name: path.read_bytes() for path in (tmp_path / "two").glob("[!.]*")} == before


def test_a_folder_of_pictures_becomes_shards(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    rows = []
    for number in range(5):
        (folder / f"{number}.png").write_bytes(encoded(noise(40 + number, 30), "PNG"))
        rows.append({"image": f"{number}.png", "captions": [f"one {number}", f"two {number}"], "label": number})
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert run(folder, tmp_path / "out", "--per-shard=2", "--size=20") == 0
    assert json.loads((tmp_path / "out" / "sizes.json").read_text()) == {
        "00000000.tar": 2, "00000001.tar": 2, "00000002.tar": 1}  # fmt: skip
    source = sources.open_source(str(tmp_path / "out"), SimpleNamespace(caption_field="captions"))
    assert [source.captions(i) for i in range(5)] == [(f"one {n}", f"two {n}") for n in range(5)]
    assert source[4].meta["label"] == 4 and source[4].meta["width"] == 29 and source[4].meta["key"] == "4.png"


@pytest.mark.parametrize("kind", ["tar", "folder"])
def test_records_hold_the_samples_as_they_are(tmp_path, kind):
    from array_record.python.array_record_module import ArrayRecordReader

    spec = tmp_path / "0.tar"
    if kind == "folder":
        spec = tmp_path / "set"
        spec.mkdir()
        (spec / "a.png").write_bytes(encoded(noise(9, 9), "PNG"))
        (spec / "captions.csv").write_text("image,caption,label\na.png,a thing,7\n")
    else:
        shard(spec, [1, 2, None])
    assert main(["convert", str(spec), f"--out={tmp_path / 'out'}", "--to=array_record", "--workers=1"]) == 0
    source = sources.open_source(str(spec), TXT)
    reader = ArrayRecordReader(str(tmp_path / "out" / "00000000.array_record"))
    assert reader.num_records() == len(source)
    for i, raw in enumerate(reader.read_all()):
        back, sample = records.unpack(raw), source[i]
        assert (back.key, back.image, back.captions, back.meta) == (
            sample.key, sample.image, sample.captions, sample.meta)  # fmt: skip


@pytest.mark.parametrize("form", convert.FORMS)
def test_a_shard_without_a_pair_becomes_none_and_its_samples_are_counted(tmp_path, form, capsys):
    shard(tmp_path / "0.tar", [1, 2])
    write(tmp_path / "1.tar", [])
    write(tmp_path / "2.tar", [("a.jpg", picture(1)), ("b.txt", b"text b")])  # no picture, no caption
    shard(tmp_path / "3.tar", [3])
    words = ["convert", f"{tmp_path}/*.tar", f"--out={tmp_path / 'out'}", f"--to={form}", "--workers=1", "--json"]
    for _ in range(2):  # the second call finds everything done
        assert main(words) == 0
        result = json.loads(capsys.readouterr().out)
        assert (result["groups_in"], result["samples_in"], result["samples_out"], result["shards_out"]) == (5, 3, 3, 2)
        assert result["left_out"] == {"no_image": 1, "no_caption": 1} and result["bad_shards"] == []
    source = sources.open_source(str(tmp_path / "out"), TXT)
    assert [source.captions(i) for i in range(len(source))] == [("text 0",), ("text 1",), ("text 0",)]


def test_records_leave_out_what_training_would_refuse(tmp_path, capsys):
    from array_record.python.array_record_module import ArrayRecordReader

    whole = encoded(noise(40, 30))
    write(tmp_path / "0.tar", [
        ("a.jpg", whole), ("a.txt", b"text a"), ("b.jpg", whole[: len(whole) // 2]), ("b.txt", b"text b"),
        ("c.jpg", b"no picture"), ("c.txt", b"text c"), ("d.jpg", whole), ("d.txt", b"d"),
    ])  # fmt: skip
    assert main(["convert", str(tmp_path / "0.tar"), f"--out={tmp_path / 'out'}", "--to=array_record", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["lost"] == {"undecodable": 1, "unknown_format": 1, "short_caption": 1}
    assert result["samples_in"] == 4 and result["samples_out"] == 1
    reader = ArrayRecordReader(str(tmp_path / "out" / "00000000.array_record"))
    assert [records.unpack(raw).image for raw in reader.read_all()] == [whole]


def test_shared_broken_shards_lose_what_their_manifest_says(tmp_path, capsys):
    if SHARED is None:
        pytest.skip("LIT_TUNE_DATA is not set: the shared broken shards were not converted")
    assert run(SHARED / "broken" / "tars" / "mixed_bad_images.tar", tmp_path / "out", "--json", "--size=48") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["samples_in"] == 12 and result["samples_out"] == 8 and sum(result["lost"].values()) == 4
    lines = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert [int(line["key"]) for line in lines] == [0, 3, 5, 8]
    sizes = {Image.open(io.BytesIO(members["jpg"])).size for _, members in read(tmp_path / "out" / "00000000.tar")}
    assert all(min(size) == 48 for size in sizes)


@pytest.mark.parametrize("form", convert.FORMS)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(tmp_path, form, workers):
    for number in range(3):
        shard(tmp_path / f"{number}.tar", list(range(40)))
    out, environment = tmp_path / "out", os.environ | {"LIT_TUNE_CACHE": str(tmp_path / "cache")}
    assert main(["index", f"{tmp_path}/*.tar"]) == 0
    words = [sys.executable, "-m", "lit_tune.data", "convert", f"{tmp_path}/*.tar", f"--out={out}", f"--to={form}",
             f"--workers={workers}"]
    code = ("import resource, signal, sys, runpy; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
            "resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000)); sys.argv = sys.argv[1:]; "
            "runpy.run_module('lit_tune.data', run_name='__main__')")
    full = subprocess.run([sys.executable, "-c", code, *words[2:]], env=environment, capture_output=True, text=True)
    errors = [line for line in full.stderr.splitlines() if not line.startswith("convert:")]
    assert full.returncode == 2 and len(errors) == 1 and "expected room and the right to write" in errors[0], full
    assert not list(out.glob(".*.tmp"))
    assert subprocess.run(words, env=environment, capture_output=True).returncode == 0
    assert len(sources.open_source(str(out), TXT)) == 120


@pytest.mark.parametrize("content", ['{"plan"', "[]", '{"plan": 3}'])
def test_a_damaged_record_of_the_folder_is_one_line(tmp_path, content):
    shard(tmp_path / "0.tar", [1])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "convert.json").write_text(content)
    with pytest.raises(ConfigError, match="expected a whole convert.json, found a damaged one"):
        run(tmp_path / "0.tar", tmp_path / "out")


def test_a_shard_whose_counts_are_gone_is_made_again(tmp_path):
    shard(tmp_path / "0.tar", [1, 2])
    assert run(tmp_path / "0.tar", tmp_path / "out") == 0
    before = (tmp_path / "out" / "00000000.tar").read_bytes()
    (tmp_path / "out" / "00000000_stats.json").unlink()
    assert run(tmp_path / "0.tar", tmp_path / "out") == 0
    assert json.loads((tmp_path / "out" / "00000000_stats.json").read_text()) == {"successes": 2}
    assert (tmp_path / "out" / "00000000.tar").read_bytes() == before
