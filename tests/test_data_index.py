"""`lit-tune data index`: one pass, in processes, resumable; every bad shard named; what an index costs."""

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from shards_on_disk import picture, shard, write

from lit_tune.data import indexing, parallel, sources, tar_index
from lit_tune.data.__main__ import main
from lit_tune.errors import ConfigError, DataError, LitTuneError

SHARED = Path(os.environ["LIT_TUNE_DATA"]) if "LIT_TUNE_DATA" in os.environ else None


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own for every test."""
    monkeypatch.setenv("LIT_TUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "index"


def reported(capsys, *words: str | Path) -> dict:
    """What `data index ... --json` prints."""
    assert main(["index", *map(str, words), "--json", "--workers=1"]) == 0
    return json.loads(capsys.readouterr().out)


def test_counts_are_those_of_tarfile(tmp_path, capsys):
    shard(tmp_path / "0.tar", [1, 2, None])
    extra = [("a.jpg", picture(1)), ("b.txt", b"words"), ("c.jpg", picture(2)), ("c.txt", b"x"), ("readme", b"")]
    write(tmp_path / "1.tar", extra)
    report = reported(capsys, tmp_path)
    names = []
    for path in sorted(tmp_path.glob("*.tar")):
        with tarfile.open(path) as tar:
            names += [path.stem + member.name for member in tar]
    both = {name[:-4] for name in names if name.endswith(".jpg")} & {n[:-4] for n in names if n.endswith(".txt")}
    assert report["pairs"] == len(both) == 4 and report["shards"] == report["read"] == 2
    assert report["counts"] == {"no_image": 1, "no_caption": 1, "odd_name": 1, "short_caption": 1}
    assert report["shard_bytes"] == report["read_bytes"] == sum(p.stat().st_size for p in tmp_path.glob("*.tar"))
    again = reported(capsys, tmp_path)
    assert again["read"] == again["read_bytes"] == 0
    assert {k: v for k, v in again.items() if k not in ("read", "read_bytes", "seconds")} == {
        k: v for k, v in report.items() if k not in ("read", "read_bytes", "seconds")}  # fmt: skip


def test_only_new_and_changed_shards_are_read_again(tmp_path, capsys, monkeypatch):
    for number in range(3):
        shard(tmp_path / f"{number}.tar", [number + 1])
    assert reported(capsys, tmp_path)["read"] == 3
    shard(tmp_path / "1.tar", [7, 8])
    shard(tmp_path / "3.tar", [9])
    seen = []
    scan = tar_index.scan
    monkeypatch.setattr(indexing, "scan", lambda path, member: seen.append(path.name) or scan(path, member))
    report = reported(capsys, tmp_path)
    assert sorted(seen) == ["1.tar", "3.tar"] and report["read"] == 2 and report["pairs"] == 5


def test_processes_find_what_one_finds(tmp_path, capsys, monkeypatch):
    for number in range(5):
        shard(tmp_path / f"{number}.tar", list(range(number, 2 * number + 1)))
    assert main(["index", str(tmp_path), "--json", "--workers=2"]) == 0
    many = json.loads(capsys.readouterr().out)
    monkeypatch.setenv("LIT_TUNE_CACHE", str(tmp_path / "other"))
    one = reported(capsys, tmp_path)
    assert many.pop("seconds") and one.pop("seconds") and many == one and one["pairs"] == 15


def test_every_bad_shard_has_its_line_and_the_exit_code_is_4(tmp_path, capsys):
    whole = shard(tmp_path / "good.tar", list(range(1, 41))).read_bytes()
    third = int(tar_index.scan(tmp_path / "good.tar").records["image_block"][20]) * 512 - 512
    flipped = bytearray(whole)
    flipped[third + 130] ^= 4
    damaged = {"cut.tar": whole[: third + 700], "flip.tar": bytes(flipped),
               "zeros.tar": whole[:third] + bytes(len(whole) - third), "short.tar": whole, "long.tar": whole}
    for name, data in damaged.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "short_stats.json").write_text('{"successes": 41}')
    (tmp_path / "long_stats.json").write_text('{"successes": 39}')
    (tmp_path / "html_stats.json").write_text("<html>")
    (tmp_path / "html.tar").write_bytes(whole)
    spec = "{" + ",".join(str(tmp_path / name) for name in ("good.tar", *damaged, "html.tar", "gone.tar")) + "}"
    for _ in range(2):  # made, then from the cache
        with pytest.raises(DataError, match="7 of 8 shards are bad") as caught:
            main(["index", spec, "--workers=1"])
        assert caught.value.exit_code == 4
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  bad: ")]
        for line, name, word in zip(lines, [*damaged, "html_stats.json", "gone.tar"], [
            "cut inside", "bad header checksum", "zeros after 20 samples", "40 samples where .* announce 41",
            "40 samples where .* announce 39", "sample counts", "no such file"], strict=True):  # fmt: skip
            assert name in line and re.search(word, line), line


@pytest.mark.parametrize("announced", ['"12"', "12.5", "null", "true", "-1"])
def test_an_announced_count_that_is_none_is_told(tmp_path, announced):
    shard(tmp_path / "0.tar", [1])
    for name, field in (("0_stats.json", "successes"), ("sizes.json", "0.tar")):
        (tmp_path / name).write_text(f'{{"{field}": {announced}}}')
        with pytest.raises(DataError, match=f"{name}: expected a count of samples in {field}, found "):
            main(["index", str(tmp_path / "0.tar"), "--workers=1"])
        (tmp_path / name).unlink()


def test_a_shard_without_samples_is_sound(tmp_path, capsys):
    write(tmp_path / "0.tar", [])
    assert main(["index", str(tmp_path / "0.tar"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"] == 0


def test_where_no_index_can_be_kept_a_shard_is_read_once_more_and_not_at_every_opening(tmp_path, monkeypatch):
    shard(tmp_path / "0.tar", [1, 2])
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LIT_TUNE_CACHE", str(tmp_path / "file"))
    scanned, scan = [], tar_index.scan
    monkeypatch.setattr(tar_index, "scan", lambda *words: scanned.append(words) or scan(*words))
    source = sources.open_source(str(tmp_path / "0.tar"), SimpleNamespace(caption_field="txt"))
    for _ in range(5):
        assert source.captions(1) == ("text 1",)
        source._opened.clear()
    assert len(scanned) == 2


def test_a_key_and_a_uid_take_few_bytes(tmp_path):
    rng = np.random.default_rng(0)
    uids = [int.from_bytes(rng.bytes(16)) for _ in range(400)]
    counted = tar_index.scan(shard(tmp_path / "0.tar", uids, start=70_000))
    members = []
    for number, uid in enumerate(uids):
        key = f"{uid:032x}-{number % 3}"
        members += [(f"{key}.jpg", b"x"), (f"{key}.txt", b"text"),
                    (f"{key}.json", json.dumps({"uid": f"{uid:032x}"}).encode())]  # fmt: skip
    named = tar_index.scan(write(tmp_path / "1.tar", members))
    assert tar_index.RECORD.itemsize == 50
    assert [counted.key(i) for i in range(400)] == [f"{n:09d}" for n in range(70_000, 70_400)]
    assert [named.key(i) for i in range(400)] == [f"{uid:032x}-{i % 3}" for i, uid in enumerate(uids)]
    assert len(counted.keys) < 4 * 400 and len(named.keys) < 4 * 400
    tar_index.save(named, tmp_path / "1.idx")
    assert tar_index.load(tmp_path / "1.tar", tmp_path / "1.idx").key(399) == named.key(399)


def test_a_uid_list_is_searched_while_indexing(tmp_path, capsys):
    shard(tmp_path / "0.tar", [1, 2, None, 2])
    shard(tmp_path / "1.tar", [5])
    (tmp_path / "list.txt").write_text("2\n5\n5\n9\na\n")
    report = reported(capsys, tmp_path, f"--uid-list={tmp_path / 'list.txt'}")
    assert report["uid_list"] == {
        "path": str(tmp_path / "list.txt"), "repeats": "multiplicity", "rows": 5, "hits": 3, "misses": 2,
        "without_uid": 1, "samples": 4, "list_rows": 4, "rows_without_pair": 1}  # fmt: skip
    once = reported(capsys, tmp_path, f"--uid-list={tmp_path / 'list.txt'}", "--uid-repeats=once")
    assert once["uid_list"]["samples"] == 3 and once["fingerprint"] != report["fingerprint"] and once["read"] == 0


def test_shared_shards_are_counted_as_their_stats_say(capsys):
    if SHARED is None:
        pytest.skip("LIT_TUNE_DATA is not set: the shared shards were not read")
    train, lists = SHARED / "emoji" / "train", SHARED / "emoji" / "uids"
    report = reported(capsys, train, f"--uid-list={lists / 'subset_with_50_duplicates.npy'}")
    announced = [json.loads(path.read_text())["successes"] for path in train.glob("*_stats.json")]
    assert report["pairs"] == sum(announced) == 2700 and report["index_bytes_a_pair"] < 54
    assert (report["uid_list"]["hits"], report["uid_list"]["samples"], report["uid_list"]["misses"]) == (900, 950, 1800)


SHARDS = 80  # more than can be read while the signal is on its way


def test_ctrl_c_keeps_what_is_finished(tmp_path):
    content = shard(tmp_path / "one", list(range(1, 200))).read_bytes()
    for number in range(SHARDS):
        (tmp_path / f"{number:02d}.tar").write_bytes(content)
    command = [sys.executable, "-m", "lit_tune.data", "index", str(tmp_path / "*.tar"), "--workers=2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    cache = tmp_path / "cache" / "index"
    while process.poll() is None and len(list(cache.glob("*.idx"))) < 3:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    finished = len(list(cache.glob("*.idx")))
    assert process.returncode == 130 and "goes on" in err and "Traceback" not in err, err
    assert 3 <= finished < SHARDS
    again = subprocess.run([*command[:-1], "--json", "--workers=1"], capture_output=True, text=True, check=True)
    report = json.loads(again.stdout)
    assert report["read"] == SHARDS - finished and report["pairs"] == SHARDS * 199


def test_a_cache_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    shard(tmp_path / "0.tar", [1])
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LIT_TUNE_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="writable cache"):
        main(["index", str(tmp_path / "0.tar")])


@pytest.mark.parametrize("words, wanted", [
    (["index", "X", "--out=Y"], "--out"), (["inspect", "X", "--workers=2"], "--workers"),
    (["index", "X", "--uid-repeats=twice"], "once or multiplicity"), (["index", "X", "--workers=0"], "workers"),
    (["index"], "both words"), (["look", "X"], "index | inspect"), (["reshard", "X"], "--uid_list"),
    (["reshard", "X", "--uid-list=L"], "--out"), (["convert", "X", "--out=Y"], "--to"),
    (["convert", "X", "--out=Y", "--to=zip"], "tar or array_record"),
    (["convert", "X", "--out=Y", "--to=tar", "--quality=101"], "1 to 100"),
    (["convert", "X", "--out=Y", "--to=tar", "--policy=odd"], "clean or reference"),
    (["convert", "X", "--out=Y", "--to=array_record", "--size=9"], "--size"),
    (["index", "X", "--uid_repeats=once"], "--uid_list=FILE beside it"),
    (["convert", "X", "--to=tar"], "--out"), (["convert", "X", "--out=Y"], "found none"),
    (["reshard", "X", "--allow-missing=2"], "FRACTION"),
])  # fmt: skip
def test_wrong_command_lines_are_one_clear_line(words, wanted, tmp_path):
    words = [word.replace("X", str(shard(tmp_path / "0.tar", [1]))) for word in words]
    with pytest.raises(ConfigError) as caught:
        main(words)
    assert wanted in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_that_may_not_be_read_is_one_line(tmp_path, monkeypatch):
    def refused(self: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_dir", refused)  # root may read everything
    with pytest.raises(DataError, match="expected a folder that can be read, found Permission denied"):
        main(["index", str(tmp_path)])


def killed(number: int) -> int:
    """Ends its process where the number is 3."""
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def test_work_is_shared_out_and_a_dead_worker_is_told():
    found = []
    with pytest.raises(LitTuneError, match="died"):
        found.extend(pair for pair in parallel.each(killed, [1, 2, 4, 5, 6, 3], 2))
    assert set(found) <= {(n, n * n) for n in (1, 2, 4, 5, 6)}
    assert list(parallel.each(killed, [4, 5], 1)) == [(4, 16), (5, 25)]


def test_progress_is_said_at_most_once_in_a_while(monkeypatch, capsys):
    now = iter([0.0, *(n / 2 for n in range(1, 200))])
    monkeypatch.setattr(parallel.time, "monotonic", lambda: next(now))
    progress = parallel.Progress("index", 40, 40_000_000)
    for _ in range(40):
        progress.add(100, 1_000_000)
    lines = capsys.readouterr().err.splitlines()
    assert 1 < len(lines) < 20 and "40 shards" in lines[0] and "MB/s" in lines[0] and lines[0].endswith(" left")
