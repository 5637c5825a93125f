"""`lit-tune data reshard`: what a few lines with a set would write, byte for byte, whenever it was interrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from shards_on_disk import read, shard, write

from lit_tune.data import reshard, sources, storage, tar_source
from lit_tune.data.__main__ import main
from lit_tune.errors import ConfigError, DataError

SHARED = Path(os.environ["LIT_TUNE_DATA"]) if "LIT_TUNE_DATA" in os.environ else None


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own for every test."""
    monkeypatch.setenv("LIT_TUNE_CACHE", str(tmp_path / "cache"))


def run(spec: Path | str, listed: Path, out: Path, *words: str) -> int:
    """The exit code of `data reshard` in this process."""
    return main(["reshard", str(spec), f"--uid-list={listed}", f"--out={out}", "--workers=1", *words])


def plainly(paths: list[Path], times: Counter, once: bool = False) -> list[tuple[str, dict[str, bytes]]]:
    """The samples that should come out, in order: tarfile, json and a counter."""
    samples = []
    for path in paths:
        for _, members in read(path):
            uid = json.loads(members.get("json", b"{}")).get("uid", "")
            count = times[uid.zfill(32)] if uid and {"jpg", "txt"} <= set(members) else 0
            samples += [(f"{uid}-{copy}", members) for copy in range(min(count, 1) if once else count)]
    return samples


def written(folder: Path) -> list[tuple[str, dict[str, bytes]]]:
    """The samples of all shards of a folder, in order."""
    return [sample for path in sorted(folder.glob("*.tar")) for sample in read(path)]


def files(folder: Path) -> dict[str, bytes]:
    """{name: content} of a folder, hidden files aside."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


@pytest.mark.parametrize("once", [False, True])
def test_small_shards_come_out_as_a_plain_loop_says(tmp_path, once, capsys):
    paths = [shard(tmp_path / "in0.tar", [5, 3, None, 9, 3]), shard(tmp_path / "in1.tar", [1]),
             shard(tmp_path / "in2.tar", [9, 7, 12])]
    write(tmp_path / "in3.tar", [("a.jpg", b"x"), ("a.json", b'{"uid": "9"}'), ("b.txt", b"text")])
    (tmp_path / "list.txt").write_text("3\n3\n9\n7\n9\n9\n")
    times = Counter(f"{number:032x}" for number in (3, 3, 9, 7, 9, 9))
    words = ["--uid-repeats=once"] if once else []
    assert run(tmp_path / "in*.tar", tmp_path / "list.txt", tmp_path / "out", "--per-shard=4", "--json", *words) == 0
    result, wanted = json.loads(capsys.readouterr().out), plainly(paths, times, once)
    assert written(tmp_path / "out") == wanted and len(wanted) == (5 if once else 11)
    sizes = json.loads((tmp_path / "out" / "sizes.json").read_text())
    assert sizes == {f"{n:08d}.tar": len(read(tmp_path / "out" / f"{n:08d}.tar")) for n in range(len(sizes))}
    assert set(sizes.values()) <= {4, len(wanted) % 4}
    for name, count in sizes.items():
        stats = (tmp_path / "out" / name.replace(".tar", "_stats.json")).read_text()
        assert json.loads(stats) == {"successes": count}
    assert result["groups_in"] == 11 == sum(result["left_out"].values()) + result["pairs_in_list"]
    assert result["left_out"] == {"no_image": 1, "no_caption": 1, "not_in_list": 3, "without_uid": 1}
    assert result["samples_in"] == result["samples_out"] == len(wanted) and result["lost"] == {}
    assert json.loads((tmp_path / "out" / "reshard.json").read_text())["result"] == result


def test_a_second_run_writes_only_what_is_missing_and_the_same_bytes(tmp_path, monkeypatch):
    for number in range(3):
        shard(tmp_path / f"in{number}.tar", list(range(10 * number + 1, 10 * number + 8)))
    np.save(tmp_path / "list.npy", np.array([(0, n) for n in range(1, 30, 2)], "u8,u8"))
    arguments = (tmp_path / "in*.tar", tmp_path / "list.npy")
    assert run(*arguments, tmp_path / "out", "--per-shard=3") == 0
    before = files(tmp_path / "out")
    kept = (tmp_path / "out" / "00000000.tar").stat().st_mtime_ns
    (tmp_path / "out" / "00000002.tar").unlink()
    (tmp_path / "out" / "sizes.json").unlink()
    (tmp_path / "out" / ".00000002.tar.1.tmp").write_bytes(b"half")
    assert run(*arguments, tmp_path / "out", "--per-shard=3") == 0
    assert files(tmp_path / "out") == before and (tmp_path / "out" / "00000000.tar").stat().st_mtime_ns == kept
    assert not list((tmp_path / "out").glob(".*.tmp"))
    assert main(["reshard", str(arguments[0]), f"--uid-list={arguments[1]}", f"--out={tmp_path / 'two'}",
                 "--per-shard=3", "--workers=2"]) == 0  # fmt: skip
    assert files(tmp_path / "two") == before
    assert len(sources.open_source(str(tmp_path / "out"), SimpleNamespace(caption_field="txt"))) > 5


def test_a_folder_of_another_command_is_refused(tmp_path):
    shard(tmp_path / "0.tar", [1, 2, 3])
    (tmp_path / "list.txt").write_text("1\n2\n")
    arguments = (tmp_path / "0.tar", tmp_path / "list.txt", tmp_path / "out")
    assert run(*arguments, "--per-shard=2") == 0
    with pytest.raises(ConfigError, match="same per_shard"):
        run(*arguments, "--per-shard=1")
    (tmp_path / "list.txt").write_text("1\n2\n3\n")
    with pytest.raises(ConfigError, match="same pairs"):
        run(*arguments, "--per-shard=2")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("x")
    with pytest.raises(ConfigError, match="other files"):
        run(*arguments[:2], tmp_path / "mine")
    for place in ("list.txt", "list.txt/deeper"):
        with pytest.raises(ConfigError, match="a folder that can be made"):
            run(*arguments[:2], tmp_path / place)
    with pytest.raises(ConfigError, match="folder of pictures"):
        (tmp_path / "mine" / "captions.csv").write_text("")
        run(tmp_path / "mine", arguments[1], tmp_path / "new")


def test_damaged_shards_end_it_unless_allowed_and_lost_pairs_are_counted(tmp_path, capsys, monkeypatch):
    whole = shard(tmp_path / "0.tar", [1, 2, 3, 4]).read_bytes()
    shard(tmp_path / "1.tar", [5, 6])
    third = whole.index(b"000000002.jpg")
    (tmp_path / "0.tar").write_bytes(whole[: third + 600])
    (tmp_path / "list.txt").write_text("\n".join("123456"))
    arguments = (tmp_path / "[01].tar", tmp_path / "list.txt", tmp_path / "out")
    with pytest.raises(DataError, match=r"0\.tar.*cut inside"):
        run(*arguments)
    assert not (tmp_path / "out").exists()
    read_at = storage.read_at

    def flaky(descriptor: int, size: int, offset: int) -> bytes:
        """Storage that cannot read the caption of pair 5."""
        data = read_at(descriptor, size, offset)
        if data == b"text 0" and os.path.samefile(f"/proc/self/fd/{descriptor}", tmp_path / "1.tar"):
            raise tar_source.BadSample("unreadable")
        return data

    monkeypatch.setattr(storage, "read_at", flaky)
    assert run(*arguments, "--allow-missing=0.5", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["samples_in"] == 4 == result["samples_out"] + 1 and result["lost"] == {"unreadable": 1}
    assert "0.tar" in result["bad_shards"][0]
    (line,) = (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(line) == {"shard": "1.tar", "key": "000000000", "kind": "unreadable"}
    assert [key[-3:] for key, _ in written(tmp_path / "out")] == ["1-0", "2-0", "6-0"]


def test_killed_in_the_middle_it_goes_on(tmp_path):
    for number in range(4):
        shard(tmp_path / f"in{number}.tar", list(range(100 * number + 1, 100 * number + 100)))
    (tmp_path / "list.txt").write_text("\n".join(f"{n:x}" for n in range(1, 400)))
    spec, listed, out = tmp_path / "in*.tar", tmp_path / "list.txt", tmp_path / "out"
    command = [sys.executable, "-m", "lit_tune.data", "reshard", str(spec), f"--uid-list={listed}", f"--out={out}",
               "--per-shard=20", "--workers=1"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None and len(list(out.glob("*.tar"))) < 3:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 3 <= len(list(out.glob("*.tar"))) < 20
    assert run(spec, listed, out, "--per-shard=20") == 0
    assert run(spec, listed, tmp_path / "fresh", "--per-shard=20") == 0
    assert files(out) == files(tmp_path / "fresh") and len(written(out)) == 396


def test_shared_shards_come_out_as_a_plain_loop_says(tmp_path):
    if SHARED is None:
        pytest.skip("LIT_TUNE_DATA is not set: the shared shards were not resharded")
    folder = SHARED / "emoji"
    listed = folder / "uids" / "subset_with_50_duplicates.npy"
    times = Counter(f"{high:016x}{low:016x}" for high, low in np.load(listed).tolist())
    shards = folder / "train" / "0000000[02].tar"
    assert run(shards, listed, tmp_path / "out", "--per-shard=200") == 0
    wanted = plainly([folder / "train" / "00000000.tar", folder / "train" / "00000002.tar"], times)
    assert written(tmp_path / "out") == wanted and 400 < len(wanted) < sum(times.values()) == 950


def test_pieces_cover_a_source_shard_by_shard(tmp_path):
    shard(tmp_path / "0.tar", [1, 2, 3])
    write(tmp_path / "1.tar", [("x.txt", b"no picture")])
    shard(tmp_path / "2.tar", [4, 5])
    source = sources.open_source(str(tmp_path), SimpleNamespace(caption_field="txt"))
    assert [path.name for path, _ in source.shard_pairs()] == ["0.tar", "1.tar", "2.tar"]
    for start in range(6):
        for stop in range(start, 6):
            places = [(piece.path.name, i) for piece in source.pieces(start, stop)
                      for i in range(piece.start, piece.stop)]  # fmt: skip
            assert places == [("0.tar", 0), ("0.tar", 1), ("0.tar", 2), ("2.tar", 0), ("2.tar", 1)][start:stop]
    assert reshard.lines({"spec": "s", "groups_in": 1, "samples_out": 1, "shards_out": 1, "left_out": {"no_image": 0},
                          "pairs_in_list": 1, "samples_in": 1, "lost": {}, "bad_shards": []})[1].endswith("none")
