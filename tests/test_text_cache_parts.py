"""A large text cache is made in parts: killed it goes on, several processes share the work, the result is the same."""

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_text_cache import SETS, Encoder, Source, direct

from lit_tune import cli
from lit_tune.data.sample import BadSample
from lit_tune.errors import ConfigError, DataError
from lit_tune.text.cache import TextCache
from lit_tune.text.cache_build import build_share, open_or_build

ROOT = Path(__file__).parent.parent
MANY = [tuple(f"{i % 9}{'abc'[j]}" for j in range(1 + i % 3)) for i in range(40)]
SCRIPT = """
import sys, time
sys.path.insert(0, "tests")
from test_text_cache import Encoder, Source
from test_text_cache_parts import MANY
from lit_tune.text.cache_build import build_share

class Slow(Encoder):
    def encode_ids(self, ids, done=None):
        print(len(ids), flush=True)
        time.sleep(float(sys.argv[3]))
        return super().encode_ids(ids, done)

made = build_share(Source(MANY), Slow(), sys.argv[1], "float32", 4, tuple(map(int, sys.argv[2].split("/"))))
print("made" if made else "waits", flush=True)
"""


def files(folder: Path) -> dict[str, str]:
    """{name: digest} of everything in a folder."""
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file()}  # fmt: skip


def start(folder: Path, share: str = "1/1", pause: float = 0) -> subprocess.Popen:
    """A process that makes the cache of MANY in parts of 4 samples, `pause` seconds each at least."""
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), share, str(pause)], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of MANY in ten parts, made without interruption."""
    return open_or_build(Source(MANY), Encoder(), tmp_path_factory.mktemp("whole") / "cache", part=4).folder


def test_parts_read_as_one_cache(whole: Path, tmp_path: Path) -> None:
    cache, plain = TextCache.open(whole), open_or_build(Source(MANY), Encoder(), tmp_path / "plain")
    assert len(cache.vectors) == 10 and len(plain.vectors) == 1 and len(cache) == len(plain) == 40
    for i, captions in enumerate(MANY):
        assert cache.captions(i) == len(captions)
        assert (cache.caption_id(i) == plain.caption_id(i)).all()
        for j, caption in enumerate(captions):
            np.testing.assert_allclose(cache.vector(i, j), direct(caption), atol=1e-7)
    rows = np.random.default_rng(0).integers(0, cache.unique, (3, 50))
    for taken, row in zip(cache.take(rows).reshape(-1, 4), rows.ravel(), strict=True):
        np.testing.assert_array_equal(taken, cache.take(int(row)))
    parts = [len({caption for captions in MANY[at : at + 4] for caption in captions}) for at in range(0, 40, 4)]
    assert cache.unique == sum(parts) > plain.unique  # equal captions are stored once a part
    assert not whole.with_name("cache.partial").exists()
    assert set(files(whole)) == {"cache.json", "rows.npy", "offsets.npy", "caption_ids.npy",
                                 *(f"parts/{k:05d}/vectors.npy" for k in range(10))}  # fmt: skip


def test_a_process_killed_in_the_middle_goes_on_and_ends_with_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    target, work = tmp_path / "cache", tmp_path / "cache.partial"
    process = start(target, pause=0.2)
    deadline = time.monotonic() + 60
    while len(list(work.glob("parts/*"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = len(list(work.glob("parts/*")))
    assert 4 <= done < 10 and not target.exists()
    again = start(target)
    words = again.communicate(timeout=60)[0].split()
    assert words[-1] == "made" and len(words) == 1 + 10 - done  # only the missing parts were encoded
    assert files(target) == files(whole) and not work.exists()


def test_two_processes_at_once_make_what_one_makes(whole: Path, tmp_path: Path) -> None:
    both = [start(tmp_path / "cache", share, 0.05) for share in ("1/2", "2/2")]
    said = [process.communicate(timeout=60)[0].split() for process in both]
    assert [len(words) - 1 for words in said] == [5, 5]
    assert "made" in {words[-1] for words in said}
    assert files(tmp_path / "cache") == files(whole)


def test_a_share_alone_waits_for_the_others_and_the_last_one_joins(whole: Path, tmp_path: Path) -> None:
    target = tmp_path / "cache"
    for share in ((2, 3), (3, 3)):
        assert build_share(Source(MANY), Encoder(), target, "float32", 4, share) is None
        assert not target.exists()
    again = Encoder()
    assert build_share(Source(MANY), again, target, "float32", 4, (3, 3)) is None and again.encoded == 0
    assert build_share(Source(MANY), Encoder(), target, "float32", 4, (1, 3)) is not None
    assert files(target) == files(whole)
    assert build_share(Source(MANY), again, target, "float32", 4, (2, 3)) is not None and again.encoded == 0


def test_a_join_that_was_killed_is_done_again(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lit_tune.text import cache_build

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cache_build, "write_info", killed)
        open_or_build(Source(MANY), Encoder(), tmp_path / "cache", part=4)
    again = Encoder()
    open_or_build(Source(MANY), again, tmp_path / "cache", part=4)
    assert again.encoded == 0 and files(tmp_path / "cache") == files(whole)


def test_parts_of_another_tower_or_length_are_refused_by_name(tmp_path: Path) -> None:
    target = tmp_path / "cache"
    build_share(Source(MANY), Encoder(), target, "float32", 4, (1, 2))
    for share, encoder, dtype, part, says in (
        ((2, 2), Encoder("w1"), "float32", 4, "expected tower weights_sha256 'w1', found 'w0'"),
        ((2, 2), Encoder(), "int8", 4, "expected dtype 'int8', found 'float32'"),
        ((2, 2), Encoder(), "float32", 5, "expected cut part 5, found 4"),
    ):
        with pytest.raises(ConfigError, match=says):
            build_share(Source(MANY), encoder, target, dtype, part, share)


def test_a_damaged_part_is_named_and_the_cache_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = open_or_build(Source(MANY), Encoder(), tmp_path / "cache", part=9).folder
    before = files(folder)
    (folder / "parts" / "00002" / "vectors.npy").write_bytes(b"")
    open_or_build(Source(MANY), Encoder(), folder, part=9)
    assert "parts/00002/vectors.npy has 0 bytes" in capsys.readouterr().err
    assert files(folder) == before


def test_samples_without_a_caption_have_none_in_parts_either(tmp_path: Path) -> None:
    class Gaps(Source):
        def captions(self, i: int) -> tuple[str, ...]:
            if not self.sets[i]:
                raise BadSample("short_caption")
            return self.sets[i]

    sets = [(), *SETS, (), (), (), ()]
    cache = open_or_build(Gaps(sets), Encoder(), tmp_path / "cache", part=2)  # two parts hold nothing at all
    assert [cache.captions(i) for i in range(len(cache))] == [len(captions) for captions in sets]
    np.testing.assert_allclose(cache.vector(5, 0), direct("dog"), atol=1e-7)
    with pytest.raises(DataError, match="expected captions, found not one"):
        open_or_build(Gaps([(), (), ()]), Encoder(), tmp_path / "none", part=2)


@pytest.mark.parametrize("more, says", [
    (["--part=3/2", "--out=x"], "3 is not from 1 to 2"), (["--part=1/2"], "--out=DIR on shared storage"),
    (["--match=uid"], "--match: expected --from=FILE"), (["--from=x.npz"], "--out=DIR beside it"),
])  # fmt: skip
def test_flags_that_do_not_go_together(more: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cache-text", "--config=quickstart", *more]) == 2
    assert says in capsys.readouterr().err


def test_a_config_names_a_cache_and_a_stale_one_is_refused(tmp_path: Path) -> None:
    from lit_tune.text.cache_identity import identity, open_existing

    folder = open_or_build(Source(SETS), Encoder(), tmp_path / "cache").folder
    want = identity(Source(SETS), Encoder(), "float32")
    assert open_existing(folder, want, "text.cache").unique == 3
    for other, says in (
        (identity(Source(SETS), Encoder("w1"), "float32"), "expected tower weights_sha256 'w1', found 'w0'"),
        (identity(Source(SETS, "f1"), Encoder(), "float32"), "expected data fingerprint 'f1', found 'f0'; "
         "it was made from shards/.*; take the same data, --max_samples and --allow_missing"),
        (identity(Source([("x",), *SETS[1:]]), Encoder(), "float32"), "expected data first_captions_sha256"),
        (identity(Source(SETS), Encoder(), "int8"), "expected dtype 'int8', found 'float32'"),
    ):
        with pytest.raises(ConfigError, match=says):
            open_existing(folder, other, "text.cache")
    with pytest.raises(ConfigError, match="config.text.cache .*found no cache.json; make it with"):
        open_existing(tmp_path / "none", want, "text.cache")
    (folder / "rows.npy").unlink()
    with pytest.raises(ConfigError, match="rows.npy is missing"):
        open_existing(folder, want, "text.cache")
    assert json.loads((folder / "cache.json").read_text())["dtype"] == "float32"  # nothing was touched
