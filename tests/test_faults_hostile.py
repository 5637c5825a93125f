"""A real run over hostile shards: bombs, members that point elsewhere, captions of every kind. Nothing gets out."""

import io
import json
import math
import os
import struct
import subprocess
import sys
import tarfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import shards_on_disk
import tiny

from lit_tune import cli
from lit_tune.data import sources
from lit_tune.text.tokenizer import Tokenizer

pytestmark = pytest.mark.slow
GOOD, LENGTH, MOST_MIB = 24, 16, 100  # pairs a shard; tokens a caption; MiB that refusing may take
TXT = SimpleNamespace(caption_field="txt")
SECRET = b"not in any shard 5ec7e7"
PEAK = ("import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); "
        "print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)")  # fmt: skip


def png(side: int) -> bytes:
    """A black square of one bit a pixel, written row by row: its pixels are nowhere in memory."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer, row = zlib.compressobj(9), bytes(1 + -(-side // 8))
    pixels = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
            + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))  # fmt: skip


def gif(side: int) -> bytes:
    """A GIF of 43 bytes whose first frame is to be replaced by the background: Pillow would make that at once."""
    return (b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + bytes(6) + b"\x21\xf9\x04\x08\0\0\0\0"
            + b"\x2c" + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x02\x02\x44\x01\0\x3b")  # fmt: skip


def bombs() -> dict[str, tuple[bytes, str]]:
    """{key: (picture, the kind it is refused as)}."""
    made = {f"bomb-{side}": (png(side), "too_many_pixels") for side in (9_000, 13_000, 14_000)}  # 81, 169, 196 Mpx
    made["bomb-gif"] = gif(13_000), "too_many_pixels"
    return made | {"heavy": (shards_on_disk.picture(1).ljust((32 << 20) + 1, b"\0"), "too_many_bytes")}


CAPTIONS = {  # key -> caption as it lies in the shard
    "latin": b"caf\xe9 cr\xe8me", "nul": b"a red\0circle", "long": b"a red circle " * 800_000, "empty": b"",
    "emoji": "\U0001f469\u200d\U0001f680 \U0001f1eb\U0001f1f7".encode(),
    "rtl": "\u202e\u05d7\u05ea\u05d5\u05dc \u0642\u0637\u0629".encode(),
}


def good(shard: int) -> list[tuple[str, bytes]]:
    """Members of whole pairs."""
    color = list(tiny.COLORS)[shard]
    return [member for n in range(GOOD) for member in (
        (f"{shard}-{n:03}.jpg", shards_on_disk.picture(shard * GOOD + n)),
        (f"{shard}-{n:03}.txt", f"a {color} {tiny.SHAPES[n % 6]}".encode()))]


def pointing_elsewhere(path: Path, secret: Path) -> None:
    """A shard of whole pairs, and of pairs whose members are links, a device, a pipe or lie outside."""
    shards_on_disk.write(path, good(1))
    with tarfile.open(path, "a") as tar:
        for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(f"odd{number}.jpg")
            member.type, member.linkname, member.devmajor, member.devminor = kind, str(secret), 1, 5  # /dev/zero
            tar.addfile(member)
            _add(tar, f"odd{number}.txt", b"a red dot")
        for folder in ("../../", f"{path.parent}/", "a/../../"):
            _add(tar, f"{folder}escaped.jpg", shards_on_disk.picture(7))
            _add(tar, f"{folder}escaped.txt", b"a red dot")


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Append a plain member."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


@dataclass(frozen=True)
class Ended:
    """A run over the three shards, and what lay on the disk before it."""

    root: Path
    output: str
    seconds: float
    before: set[Path]

    def quarantined(self) -> dict[str, str]:
        """{key: kind}."""
        lines = (self.root / "run" / "quarantine.jsonl").read_text().splitlines()
        return {line["key"]: line["kind"] for line in map(json.loads, lines)}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """Two epochs and a bit; the program has to end with 0."""
    root = tmp_path_factory.mktemp("hostile") / "deep" / "er"
    (root / "shards").mkdir(parents=True)
    tiny.text_folder(root / "text")
    (root / "secret").write_bytes(SECRET)
    refused = [m for key, (data, _) in bombs().items() for m in ((f"{key}.jpg", data), (f"{key}.txt", b"a red dot"))]
    shards_on_disk.write(root / "shards" / "0.tar", good(0) + refused)
    pointing_elsewhere(root / "shards" / "1.tar", root / "secret")
    words = [m for key, text in CAPTIONS.items()
             for m in ((f"{key}.jpg", shards_on_disk.picture(9)), (f"{key}.txt", text))]
    shards_on_disk.write(root / "shards" / "2.tar", good(2) + words)
    (root / "here").mkdir()  # where it runs: what a name led to would lie beside it
    before = set(root.parents[1].rglob("*"))
    started = time.monotonic()
    process = tiny.start(tiny.arguments(root / "text", root / "shards" / "{0..2}.tar", root / "run", eval__sets=(),
                                        total_steps=25, checkpoint__every=25), root / "cache", folder=root / "here")
    code, output = tiny.finish(process)
    assert code == 0, output
    return Ended(root, output, time.monotonic() - started, before)


@pytest.fixture(autouse=True)
def cache(ended: Ended, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read in this process has the run's cache."""
    monkeypatch.setenv("LIT_TUNE_CACHE", str(ended.root / "cache"))


def peak(shard: Path, cache: Path) -> float:
    """MiB that `lit-tune data inspect` held at most while it read and decoded a shard."""
    words = [sys.executable, "-c", PEAK, sys.executable, "-m", "lit_tune.data", "inspect", str(shard)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240,
                          env=os.environ | {"LIT_TUNE_CACHE": str(cache)})  # fmt: skip
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1]) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
@pytest.mark.faults(row=37, fault="bombs of 81, 169 and 196 Mpx, a GIF of 43 bytes and 169 Mpx, a file over 32 MiB",
                    expected="refused undecoded and counted; at most 100 MiB more memory; the run goes on")
def test_bombs_are_refused_undecoded(ended: Ended, tmp_path: Path, recovery: Callable[[float], None]) -> None:
    kinds = {key: kind for key, (_, kind) in bombs().items()}
    found = ended.quarantined()
    assert {key: found.get(key) for key in kinds} == kinds
    plain = peak(shards_on_disk.write(tmp_path / "plain.tar", good(0)), tmp_path / "cache")
    assert peak(ended.root / "shards" / "0.tar", tmp_path / "cache") < plain + MOST_MIB
    recovery(ended.seconds)


@pytest.mark.faults(row=38, fault="tar members that are links, devices or pipes, or whose names lead outside",
                    expected="never on the disk, never followed, counted; the other pairs are used")
def test_members_that_point_elsewhere_stay_in_the_shard(
    ended: Ended, recovery: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "4 not_a_file" in ended.output and "6 odd_name" in ended.output, ended.output
    source = sources.open_source(str(ended.root / "shards" / "1.tar"), TXT)
    assert [source.describe(i)[1] for i in range(len(source))] == [f"1-{n:03}" for n in range(GOOD)]
    shard, out = ended.root / "shards" / "1.tar", ended.root / "out"
    monkeypatch.chdir(ended.root / "here")
    assert cli.main(["data", "convert", str(shard), "--to=array_record", "--workers=1", f"--out={out}"]) == 0
    new = {path for path in set(ended.root.parents[1].rglob("*")) - ended.before}
    allowed = [ended.root / name for name in ("run", "cache", "out")]
    assert [path for path in new if not any(path.is_relative_to(folder) for folder in allowed)] == []
    assert not any("escaped" in path.name or "odd" in path.name for path in new)
    assert not any(SECRET in path.read_bytes() for path in new if path.is_file())
    recovery(ended.seconds)


@pytest.mark.faults(row=39, fault="captions: not UTF-8, with a NUL, of 10 MB, empty, emoji, right to left",
                    expected="counted, cut or replaced; every text has the same number of tokens; the loss is finite")
def test_captions_of_every_kind_are_trained_on_or_counted(ended: Ended, recovery: Callable[[float], None]) -> None:
    for note in ("1 not_utf8", "1 long_caption", "1 short_caption"):
        assert note in ended.output, ended.output
    found = ended.quarantined()
    assert found["empty"] == "short_caption" and set(CAPTIONS) & set(found) == {"empty"}
    source = sources.open_source(str(ended.root / "shards" / "2.tar"), TXT)
    texts = [caption for captions in source.caption_sets() for caption in captions]
    assert len(texts) == len(source) - 1 == GOOD + len(CAPTIONS) - 1
    assert "caf\ufffd cr\ufffdme" in texts and max(len(text.encode()) for text in texts) <= 65_536
    tokenizer = Tokenizer(ended.root / "text", "", LENGTH)
    ids, mask = tokenizer.pad(tokenizer(texts))
    assert ids.shape == mask.shape == (len(texts), LENGTH) and mask.sum(1).min() > 2  # more than [CLS] and [SEP]
    losses = [line["train/loss"] for line in tiny.lines(ended.root / "run") if line["kind"] == "train"]
    assert len(losses) == 25 and all(map(math.isfinite, losses))
    recovery(ended.seconds)
