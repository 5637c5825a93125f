"""uid lists: every published form, found as Python's own sets and counters find, in files too big to read."""

import contextlib
import json
import os
import pickle
import resource
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from shards_on_disk import shard

from lit_tune.data import sources, uid_files, uids
from lit_tune.data.subset import Subset
from lit_tune.errors import ConfigError, DataError

TXT = SimpleNamespace(caption_field="txt")
SHARED = Path(os.environ["LIT_TUNE_DATA"]) if "LIT_TUNE_DATA" in os.environ else None
EMOJI = "train/{00000000..00000003}.tar"
FORMS = {  # file, rows
    "subset_sorted.npy": 900, "subset_sorted.memmap": 900, "subset_with_50_duplicates.npy": 950, "subset.parquet": 900,
    "subset.txt": 900}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own for every test."""
    monkeypatch.setenv("LIT_TUNE_CACHE", str(tmp_path / "cache"))


def emoji() -> Path:
    """The folder of the shared drawings."""
    if SHARED is None:
        pytest.skip("LIT_TUNE_DATA is not set: the shared shards and uid lists were not read")
    return SHARED / "emoji"


def words(values: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """High and low words of uids as Python numbers."""
    return (np.array([value >> 64 for value in values], np.uint64),
            np.array([value & 2**64 - 1 for value in values], np.uint64))  # fmt: skip


def listing(values: list[int]) -> np.ndarray:
    """The published form of uids, in the given order."""
    return np.array([(value >> 64, value & 2**64 - 1) for value in values], np.dtype("u8,u8"))


def keys(source) -> list[str]:
    """The keys of a source in order."""
    return [source.describe(i)[1] for i in range(len(source))]


@pytest.mark.parametrize("bits", [6, 64, 66, 128])  # many equal uids; equal high words; few high words; hashes
@pytest.mark.parametrize("count", [0, 1, 2, 999, 9_000])
def test_counts_are_those_of_a_counter(bits, count, monkeypatch):
    monkeypatch.setattr(uids, "FENCES", 64)  # so that the bisection has something left to do
    rng = np.random.default_rng(count + bits)
    draw = [int.from_bytes(rng.bytes(16)) >> (128 - bits) for _ in range(count + 500)]
    held, others = sorted(draw[:count]), draw[count:]
    wanted = [*held[:: max(1, count // 500)], *others, 1, 2**128 - 1, 2**64 - 1, 2**64]
    listed = uids.UidList("list", np.stack(words(held), 1))
    known = Counter(held)
    assert listed.counts(*words(wanted)).tolist() == [known[value] if value else 0 for value in wanted]


def test_a_pair_without_uid_is_in_no_list():
    listed = uids.UidList("list", np.stack(words([0, 0, 5]), 1))
    assert listed.counts(*words([0, 5])).tolist() == [0, 1]


@pytest.mark.parametrize("form", ["npy", "memmap", "parquet", "txt", "short.txt"])
def test_all_forms_say_the_same(form, tmp_path):
    values = sorted({int(n) ** 3 << 30 for n in np.random.default_rng(0).integers(1, 2**32, 300)})
    file = tmp_path / f"list.{form}"
    hexes = [f"{value:x}" if form == "short.txt" else f"{value:032X}" for value in values[::-1]]
    match form:
        case "npy":
            np.save(file, listing(values))
        case "memmap":
            listing(values).tofile(file)
        case "parquet":
            parquet.write_table(pa.table({"n": range(len(hexes)), "uid": hexes}), file)
        case _:
            file.write_text("\r\n".join(hexes) + "\n\n")
    listed = uid_files.open_list(str(file))
    asked = [*values, *(value + 1 for value in values)]
    assert len(listed) == len(values) and listed.counts(*words(asked)).tolist() == [1] * len(values) + [0] * len(values)


@pytest.mark.parametrize("name, write, wanted", [
    ("a.npy", lambda f: np.save(f, np.arange(10)), "an array of int64"),
    ("a.npy", lambda f: np.save(f, np.zeros(4, ">u8,>u8")), "array of"),
    ("a.npy", lambda f: np.save(f, np.zeros((4, 2), np.uint64)), "2 dimensions"),
    ("a.npy", lambda f: np.save(f, np.array([{}]), allow_pickle=True), "Python objects"),
    ("a.npy", lambda f: f.write_bytes(b"\x93NUMPY"), "found"),
    ("a.bin", lambda f: f.write_bytes(bytes(range(15))), "15 bytes"),
    ("a.parquet", lambda f: parquet.write_table(pa.table({"id": ["a"]}), f), "no column uid"),
    ("a.parquet", lambda f: parquet.write_table(pa.table({"uid": [1]}), f), "uid of int64"),
    ("a.parquet", lambda f: f.write_bytes(b"PAR1 and no more of it"), "found"),
    ("a.txt", lambda f: f.write_text("00ff\n12 34\n"), "line 2.*'12 34'"),
    ("a.txt", lambda f: f.write_text("uid\n00ff\n"), "line 1"),
    ("a.txt", lambda f: f.write_text("0" * 33 + "\n"), "line 1"),
    ("a.npy", lambda f: np.save(f, listing([5, 9, 7, 8])), r"row 2 \(from 0\) less"),
    ("a.bin", lambda f: listing([1 << 64, 1]).tofile(f), r"row 1 \(from 0\) less"),
])  # fmt: skip
def test_other_files_and_unsorted_rows_are_refused_in_one_line(name, write, wanted, tmp_path):
    write(tmp_path / name)
    with pytest.raises(ConfigError, match=wanted) as caught:
        uid_files.open_list(str(tmp_path / name))
    assert name in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="No such file"):
        uid_files.open_list(str(tmp_path / "absent"))


@pytest.mark.parametrize("place", [1, 4_321, 70_000, 99_998])
def test_rows_out_of_order_are_named_in_long_lists_too(place, monkeypatch):
    monkeypatch.setattr(uids, "FULL_CHECK", 1000)
    monkeypatch.setattr(uids, "FENCES", 50)
    high = np.sort(np.random.default_rng(0).integers(0, 2**63, 100_000).astype(np.uint64))
    rows = np.stack([high, high], 1)
    rows[place], kept = high[place - 1] - np.uint64(1), rows[place].copy()
    with pytest.raises(ConfigError, match=rf"row {place} \(from 0\)"):  # at the start, or when the search comes by
        uids.UidList("list", rows).counts(high[place - 40 : place + 40], high[place - 40 : place + 40])
    rows[place] = kept
    uids.UidList("list", rows)
    with pytest.raises(ConfigError, match="less than the one before it"):
        uids.UidList("list", rows[::-1])


def test_a_list_of_4_gib_is_searched_in_little_memory(tmp_path):
    rows, known = 1 << 28, [(1 << 100) + (n << 70) + n for n in range(5000)]
    with open(tmp_path / "big.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": np.lib.format.dtype_to_descr(uid_files.ROW), "fortran_order": False, "shape": (rows,)})
        start = file.tell()
        file.truncate(start + rows * 16)  # a hole: uid 0 many times, then those that are asked for
        file.seek(start + (rows - len(known)) * 16)
        file.write(listing(known).tobytes())
    assert (tmp_path / "big.npy").stat().st_size > 4 << 30
    code = """
import resource, sys
import numpy as np
from lit_tune.data import uid_files
before = int(open("/proc/self/statm").read().split()[5]) * resource.getpagesize()  # heap and the like, not maps
resource.setrlimit(resource.RLIMIT_DATA, (before + (96 << 20),) * 2)
listed = uid_files.open_list(sys.argv[1])
known = [(1 << 100) + (n << 70) + n for n in range(5000)] + [(1 << 100) + 7]
high, low = (np.array([v >> 64 for v in known], np.uint64), np.array([v & 2**64 - 1 for v in known], np.uint64))
print(len(listed), listed.counts(high, low).sum())
try:
    np.empty(1 << 28, np.uint8)
except MemoryError:
    print("bounded")
"""
    if not Path("/proc/self/statm").exists() or not hasattr(resource, "RLIMIT_DATA"):
        pytest.skip("no /proc or RLIMIT_DATA: the memory of a process cannot be bounded here")
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path / "big.npy")], capture_output=True, text=True,
                         env=os.environ | {"OPENBLAS_NUM_THREADS": "1"})  # fmt: skip
    assert run.stdout.split() == [str(rows), "5000", "bounded"], run.stderr


@pytest.mark.parametrize("repeats", ["once", "multiplicity"])
@pytest.mark.parametrize("name", FORMS)
def test_the_shared_lists_choose_what_a_set_chooses(name, repeats, tmp_path_factory, monkeypatch):
    folder = emoji()
    # One cache for all of these, so that the shards are indexed once.
    monkeypatch.setenv("LIT_TUNE_CACHE", str(tmp_path_factory.getbasetemp() / "emoji"))
    with open(folder / "uids" / "subset.txt") as file:
        times = Counter(line.strip() for line in file)
    if "duplicates" in name:
        rows = np.load(folder / "uids" / name)
        times = Counter(f"{int(high):016x}{int(low):016x}" for high, low in rows)
    source = sources.open_source(str(folder / EMOJI), TXT, subset=Subset(str(folder / "uids" / name), repeats))
    wanted = []
    for path in sorted((folder / "train").glob("*.parquet")):
        for row in parquet.read_table(path, columns=["key", "uid"]).to_pylist():
            count = times[row["uid"]]
            wanted += [row["key"]] * (min(count, 1) if repeats == "once" else count)
    assert sorted(keys(source)) == sorted(wanted) and len(wanted) == (FORMS[name] if repeats != "once" else 900)
    assert source.counts["not_listed"] == 1800 and source.counts["without_uid"] == 0
    assert source[17].meta["uid"] in times and source.pair(17, 1 << 20)[0] == source[17].image


def test_shared_lists_that_must_be_refused_are():
    folder = emoji()
    for name, wanted in (("subset_unsorted.npy", "sorted"), ("wrong_dtype.npy", "int64")):
        with pytest.raises(ConfigError, match=wanted):
            sources.open_source(str(folder / EMOJI), TXT, subset=Subset(str(folder / "uids" / name), "once"))


def test_a_source_holds_only_listed_pairs_in_order_and_after_pickling(tmp_path):
    shard(tmp_path / "0.tar", [5, 3, None, 9, 3])
    shard(tmp_path / "1.tar", [1, 2])
    shard(tmp_path / "2.tar", [9, 7])
    np.save(tmp_path / "list.npy", listing([3, 3, 9, 11]))
    spec = str(tmp_path / "{0..2}.tar")
    once = sources.open_source(spec, TXT, subset=Subset(str(tmp_path / "list.npy"), "once"))
    twice = sources.open_source(spec, TXT, subset=Subset(str(tmp_path / "list.npy"), "multiplicity"))
    assert [once.describe(i) for i in range(len(once))] == [
        ("0.tar", "000000001"), ("0.tar", "000000003"), ("0.tar", "000000004"), ("2.tar", "000000000")]  # fmt: skip
    assert [key[-1] for key in keys(twice)] == ["1", "1", "3", "4", "4", "0"]
    assert once.counts["not_listed"] == 5 and once.counts["without_uid"] == 1
    assert twice.captions(5) == ("text 0",) and [len(c) for c in twice.caption_sets()] == [1] * 6
    copy = pickle.loads(pickle.dumps(twice))
    assert keys(copy) == keys(twice)
    # The list's pairs are what counts, not the list: another with the same effect is the same data set.
    (tmp_path / "list.txt").write_text("9\n3\n" + "ff" * 16)
    same = sources.open_source(spec, TXT, subset=Subset(str(tmp_path / "list.txt"), "multiplicity"))
    prints = [source.fingerprint for source in (once, same, twice, sources.open_source(spec, TXT))]
    assert prints[0] == prints[1] and len(set(prints)) == 3
    short = sources.open_source(spec, TXT, subset=Subset(str(tmp_path / "list.npy"), "once"), max_samples=2)
    assert keys(short) == ["000000001", "000000003"]


def test_a_changed_list_is_searched_anew_and_an_error_under_a_run(tmp_path):
    shard(tmp_path / "0.tar", [5, 3])
    listed = Subset(str(tmp_path / "list.txt"), "once")
    (tmp_path / "list.txt").write_text("3\n")
    source = sources.open_source(str(tmp_path / "0.tar"), TXT, subset=listed)
    (tmp_path / "list.txt").write_text("03\n5\n")
    assert len(sources.open_source(str(tmp_path / "0.tar"), TXT, subset=listed)) == 2
    with pytest.raises(DataError, match="another content"):
        source[0]


def test_rows_are_kept_and_damaged_ones_made_anew(tmp_path):
    shard(tmp_path / "0.tar", [5, 3])
    (tmp_path / "list.txt").write_text("3\n")
    listed = Subset(str(tmp_path / "list.txt"), "once")
    assert keys(sources.open_source(str(tmp_path / "0.tar"), TXT, subset=listed)) == ["000000001"]
    (kept,) = (tmp_path / "cache" / "index").glob("*.rows")
    whole = kept.read_bytes()
    for spoilt in (b"", whole[:-1], b"x" * len(whole)):
        kept.write_bytes(spoilt)
        assert keys(sources.open_source(str(tmp_path / "0.tar"), TXT, subset=listed)) == ["000000001"]
        assert kept.read_bytes() == whole


def test_pairs_without_a_readable_uid_are_told(tmp_path):
    (tmp_path / "list.txt").write_text("5\n")
    listed = Subset(str(tmp_path / "list.txt"), "once")
    with pytest.raises(ConfigError, match="3 are not, of which 2 have no uid"):
        sources.open_source(str(shard(tmp_path / "0.tar", [None, None, 7])), TXT, subset=listed)
    folder = emoji().parent / "broken" / "tars"
    with pytest.raises(ConfigError, match="12 are not, of which 12 have no uid"):
        sources.open_source(str(folder / "missing_json.tar"), TXT, subset=listed)
    found = []
    with tarfile.open(folder / "bad_json.tar") as tar:
        for member in [m for m in tar if m.name.endswith(".json")]:
            with contextlib.suppress(ValueError, TypeError):
                found.append(json.loads(tar.extractfile(member).read())["uid"])
    (tmp_path / "list.txt").write_text("\n".join(found))
    source = sources.open_source(str(folder / "bad_json.tar"), TXT, subset=listed)
    assert len(source) == 10 and source.counts["not_listed"] == 2


def test_more_shards_than_a_process_may_open_files(tmp_path):
    for number in range(60):
        shard(tmp_path / f"{number:02d}.tar", [number + 1])
    (tmp_path / "list.txt").write_text("\n".join(f"{n:x}" for n in range(1, 61)))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 40
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 30, hard))
    try:
        spec = str(tmp_path / "{00..59}.tar")
        assert len(sources.open_source(spec, TXT)) == 60
        assert len(sources.open_source(spec, TXT, subset=Subset(str(tmp_path / "list.txt"), "once"))) == 60
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
