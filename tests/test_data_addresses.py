"""Tar shards at addresses: the same pairs as from files, whatever the network does, or one line with the address."""

import builtins
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest
from range_server import Server
from shards_on_disk import picture

from lit_tune.data import sources, storage, tar_source
from lit_tune.data.__main__ import main
from lit_tune.data.address import Address
from lit_tune.data.sample import BadSample, Source
from lit_tune.errors import ConfigError, DataError

TXT = SimpleNamespace(caption_field="txt")
LIMIT = 1 << 20  # bytes a picture
TRIES = 3


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    """A cache of its own, and pauses too short to notice."""
    monkeypatch.setenv("LIT_TUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(storage, "FIRST_PAUSE", 0.001)


def content(number: int) -> bytes:
    """The bytes of a picture, of another length for each number."""
    return picture(number) + bytes([number]) * (400 + number)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two shards of 4 pairs by Python's own writer; the pictures have some more bytes behind them, as some have."""
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(2):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for number in range(4 * shard, 4 * shard + 4):
                image = content(number)
                fields = b'{"uid": "%032x"}' % number
                for suffix, data in (("jpg", image), ("txt", b"caption %d" % number), ("json", fields)):
                    info = tarfile.TarInfo(f"{number:03d}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return folder


@pytest.fixture
def memory(folder) -> Iterator[None]:
    """The shards in fsspec's memory, under memory://data/."""
    system = fsspec.filesystem("memory")
    for path in folder.iterdir():
        system.pipe(f"/data/{path.name}", path.read_bytes())
    yield
    system.rm("/data", recursive=True)


@pytest.fixture
def server(folder) -> Iterator[Server]:
    """The shards at http://127.0.0.1:PORT/0.tar and 1.tar."""
    pytest.importorskip("aiohttp", reason="fsspec[http] is not installed")
    running = Server(folder)
    yield running
    running.close()


def same(source: Source, folder: Path) -> None:
    """The source gives what the files give."""
    local = sources.open_source(str(folder / "{0..1}.tar"), TXT)
    assert len(source) == len(local) == 8 and source.fingerprint == local.fingerprint
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda i: (source[i], source.pair(i, LIMIT), source.describe(i)), range(8)))
    assert got == [(local[i], local.pair(i, LIMIT), local.describe(i)) for i in range(8)]
    assert got[5][0].image == content(5) and got[5][0].captions == ("caption 5",)


def test_shards_in_a_store_are_those_of_the_files(memory, folder):
    for spec in ("memory://data/{0..1}.tar", "memory://data/*.tar", "memory://data/"):
        same(sources.open_source(spec, TXT), folder)
    assert sources.expand("memory://data/*.tar") == ["memory://data/0.tar", "memory://data/1.tar"]
    with pytest.raises(DataError, match=r"memory://data/2\.tar: expected a readable tar shard, found no such file"):
        sources.open_source("memory://data/{0..2}.tar", TXT)
    assert len(sources.open_source("memory://data/{0..2}.tar", TXT, allow_missing=0.4)) == 8
    with pytest.raises(DataError, match="found none"):
        sources.expand("memory://data/x*.tar")


def test_the_announced_count_beside_a_shard_is_read(memory):
    fsspec.filesystem("memory").pipe("/data/sizes.json", json.dumps({"0.tar": 4, "1.tar": 5}).encode())
    with pytest.raises(DataError, match=r"memory://data/1\.tar.*4 samples.*announce 5"):
        sources.open_source("memory://data/{0..1}.tar", TXT)


def test_a_changed_object_is_indexed_again_and_refused_by_a_running_source(memory, folder):
    source = sources.open_source("memory://data/0.tar", TXT)
    fsspec.filesystem("memory").pipe("/data/0.tar", (folder / "1.tar").read_bytes())
    with pytest.raises(DataError, match="memory://data/0.tar.*another content"):
        source.pair(0, LIMIT)
    assert sources.open_source("memory://data/0.tar", TXT).captions(0) == ("caption 4",)


def test_http_with_ranges_gives_the_same_pairs_and_reads_a_shard_once(server, folder):
    spec = server.url + "/{0..1}.tar"
    same(sources.open_source(spec, TXT), folder)
    whole = [asked for asked in server.asked if asked[1] == "/0.tar" and asked[2].startswith("bytes=0-")]
    server.asked.clear()
    again = sources.open_source(spec, TXT)
    assert len(whole) == 1 and again[7].captions == ("caption 7",)
    read = [(int(a), int(b)) for _, _, span in server.asked for a, b in re.findall(r"=(\d+)-(\d+)", span)]
    assert len(read) == 3 and max(b - a + 1 for a, b in read) == len(content(7))  # caption, fields, picture


def test_a_shard_opened_again_costs_only_the_reads(server, monkeypatch):
    monkeypatch.setattr(tar_source, "OPEN_SHARDS", 1)
    source = sources.open_source(server.url + "/{0..1}.tar", TXT)
    for i in (0, 4):
        source.captions(i)
    server.asked.clear()
    for i in (1, 5, 2, 6):
        assert source.captions(i) == (f"caption {i}",)
    assert server.asked.total() == 4


def test_a_picture_and_its_caption_are_one_request_unless_they_lie_far_apart(server, folder, monkeypatch):
    source = sources.open_source(server.url + "/{0..1}.tar", TXT)
    plain = sources.open_source(str(folder / "{0..1}.tar"), TXT)
    source.captions(0)  # opens the shard
    for passed_over, requests in ((storage.PASSED_OVER, 1), (0, 2)):
        monkeypatch.setattr(storage, "PASSED_OVER", passed_over)
        for i in (1, 2):
            server.asked.clear()
            assert source.pair(i, 1 << 20) == plain.pair(i, 1 << 20)
            assert server.asked.total() == requests


def twice(kind: str) -> Callable[[tuple[str, str, str], int], str]:
    """The fault at the first two requests for anything."""
    return lambda asked, count: kind if count < TRIES else ""


@pytest.mark.faults(row=49, fault="503, 429, a short or a cut body twice for every request", expected="the same pairs")
@pytest.mark.parametrize("kind", ["503", "429", "short", "cut"])
def test_what_passes_after_two_tries_leaves_no_trace(server, folder, kind):
    if kind == "short":  # a size that is a byte short is another size, not a fault that could be told
        server.fault = lambda asked, count: kind if count < TRIES and asked[0] == "GET" else ""
    else:
        server.fault = twice(kind)
    same(sources.open_source(server.url + "/{0..1}.tar", TXT), folder)


@pytest.mark.faults(row=49, fault="503, 403, a short or a cut body for ever", expected="one line with the address")
@pytest.mark.parametrize("kind, word", [("503", "503"), ("short", "bytes where"), ("cut", "3 tries"), ("403", "403")])
def test_what_does_not_pass_is_one_line_with_the_address(server, kind, word):
    server.fault = lambda asked, count: kind if asked[:2] == ("GET", "/1.tar") else ""
    with pytest.raises(DataError) as caught:
        sources.open_source(server.url + "/{0..1}.tar", TXT)
    assert str(caught.value).startswith(f"{server.url}/1.tar: expected a readable tar shard, found ")
    assert word in str(caught.value) and "\n" not in str(caught.value)
    tries = [count for asked, count in server.asked.items() if asked[:2] == ("GET", "/1.tar")]
    assert tries == [1 if kind == "403" else TRIES]


def test_a_server_without_ranges_is_told_and_not_asked_again(server):
    server.fault = lambda asked, count: "whole"
    wanted = r"/0\.tar: .*20480 bytes where 1 were asked for: a server without range requests"
    with pytest.raises(DataError, match=wanted):
        sources.open_source(server.url + "/0.tar", TXT)
    assert sum(count for asked, count in server.asked.items() if asked[2]) == 1


def test_a_pair_that_cannot_be_read_later_is_a_bad_pair(server):
    source = sources.open_source(server.url + "/{0..1}.tar", TXT)
    assert source.captions(0) == ("caption 0",)
    server.fault = lambda asked, count: "503" if asked[2] else ""
    with pytest.raises(BadSample, match="unreadable"):
        source.pair(1, LIMIT)
    server.fault = lambda asked, count: ""
    assert source.captions(1) == ("caption 1",)


def test_secrets_of_an_address_are_in_no_message(server):
    spec = f"{server.url}/9.tar?X-Signature=secret"
    with pytest.raises(DataError, match=r"9\.tar: expected.*no such file") as caught:
        sources.open_source(spec, TXT)
    server.fault = lambda asked, count: "503"
    with pytest.raises(DataError, match="503") as again:
        sources.open_source(spec.replace("9.tar", "0.tar"), TXT)
    assert "secret" not in str(caught.value) + str(again.value)
    server.fault = lambda asked, count: ""
    source = sources.open_source(spec.replace("9.tar", "0.tar"), TXT)
    assert "secret" not in repr(source.shards) and source.shards[0].name == "0.tar" and len(source) == 4
    other = sources.open_source(spec.replace("9.tar", "0.tar").replace("secret", "later"), TXT)
    assert other.fingerprint == source.fingerprint and len(list((sources.cache_dir() / "index").iterdir())) == 1


def test_an_address_has_the_parts_of_a_path():
    address = Address("https://me:word@host:8/a/b.c/00.x.tar?sig=a/b.c")
    assert str(address) == "https://host:8/a/b.c/00.x.tar" and repr(address) == f"Address({str(address)!r})"
    assert (address.name, address.stem, address.suffix) == ("00.x.tar", "00.x", ".tar")
    assert address.with_name("sizes.json").url == "https://me:word@host:8/a/b.c/sizes.json?sig=a/b.c"
    assert str(Address("https://me:a \"b@host/a (1).tar?sig=1")) == "https://host/a (1).tar"
    assert Address("s3://b/what?.tar").name == "what?.tar"  # a key may hold any sign


def test_addresses_that_cannot_be_read_here_are_told_what_to_do(monkeypatch):
    for pattern in ("http://host/*.tar", "https://host/shards/"):
        with pytest.raises(ConfigError, match="nothing can be listed; write the shards out"):
            sources.expand(pattern)
    with pytest.raises(ConfigError, match=r"ftp://host/0\.tar: expected a path, or an address with gs://, s3://"):
        sources.open_source("ftp://host/0.tar", TXT)
    with pytest.raises(ConfigError, match=r"expected tar shards at an address, found \*\.parquet"):
        sources.open_source("memory://data/0.parquet", TXT)
    real = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name.split(".")[0] in ("s3fs", "gcsfs"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    for scheme, extra in (("gs", "gcs"), ("s3", "s3")):
        with pytest.raises(ConfigError, match=rf"pip install 'lit_tune\[{extra}\]'") as caught:
            sources.open_source(f"{scheme}://bucket/{{0..1}}.tar", TXT)
        assert "\n" not in str(caught.value) and caught.value.exit_code == 2


def test_index_reshard_and_convert_do_at_addresses_what_they_do_with_files(folder, memory, tmp_path, capsys):
    listed = tmp_path / "list.txt"
    remote, local = tmp_path / "remote", tmp_path / "local"
    for where, place in (("memory://data/{0..1}.tar", remote), (f"{folder}/{{0..1}}.tar", local)):
        listed.write_text("".join(f"{number:032x}\n" for number in (1, 6, 3)))
        capsys.readouterr()
        assert main(["index", where, f"--uid_list={listed}", "--workers=1", "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert (report["read"], report["pairs"], report["uid_list"]["hits"]) == (2, 8, 3)
        assert main(["reshard", where, f"--uid_list={listed}", "--workers=1", f"--out={place / 'some'}"]) == 0
        assert main(["convert", where, "--to=array_record", "--workers=1", f"--out={place / 'records'}"]) == 0
    for kind, pairs in (("some", 3), ("records", 8)):
        got, wanted = (sources.open_source(str(place / kind), TXT) for place in (remote, local))
        assert len(got) == pairs and [got[i] for i in range(pairs)] == [wanted[i] for i in range(pairs)]
