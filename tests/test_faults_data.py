"""Real runs on damaged shards, missing shards and bad samples: named, counted, replaced by rule, or exit 4."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import shards_on_disk
import tiny
from interrupted import Home
from PIL import Image

SHARDS, EACH, STEPS = 8, 64, 130  # 512 pairs, 8 a step: two epochs and a little
Change = Callable[[int, str, bytes], tuple[str, bytes]]
pytestmark = pytest.mark.slow


def members(shard: int, change: Change = lambda number, name, content: (name, content)) -> list[tuple[str, bytes]]:
    """Names and contents of a shard's pairs; `change` gets the pair's number, the member's name and content."""
    out = []
    for number in range(shard * EACH, (shard + 1) * EACH):
        color, shape = list(tiny.COLORS)[number % 4], tiny.SHAPES[number % 6]
        picture = io.BytesIO()
        Image.new("RGB", (20, 20), (number % 256, number * 7 % 256, number // 2)).save(picture, "PNG")
        for suffix, content in (("png", picture.getvalue()), ("txt", f"a {color} {shape}".encode())):
            out.append(change(number, f"{number:05d}.{suffix}", content))
    return out


def write_all(folder: Path, *change: Change) -> None:
    """Write all shards."""
    for shard in range(SHARDS):
        shards_on_disk.write(folder / f"{shard}.tar", members(shard, *change))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Eight whole shards and a run over them."""
    home = Home.make(tmp_path_factory.mktemp("data"), total_steps=STEPS, eval__sets=(), log__every=1,
                     checkpoint__every=1000)
    (home.folder / "whole").mkdir()
    write_all(home.folder / "whole")
    return Home(home.folder, home.settings | {"data__train": f"{home.folder}/whole/{{0..7}}.tar"}).straight()


@pytest.fixture
def damaged(home: Home, request: pytest.FixtureRequest) -> Path:
    """A copy of the shards for a test to harm."""
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
    return Path(shutil.copytree(home.folder / "whole", home.folder / name))


def ended(home: Home, shards: Path, *words: str, **changes: Any) -> tuple[int, str]:
    """Exit code and output of a whole run over other shards, in a run directory beside them."""
    train = {"data__train": f"{shards}/{{0..7}}.tar"}
    return tiny.finish(home.run(f"{shards.name}-run", *words, **train | changes))


def check_refused(code: int, output: str, *words: str) -> None:
    """Exit 4 and one line with these words."""
    assert code == 4 and output.count("\n") == 1, output
    assert all(word in output for word in words), output


HARMS = {  # (bytes of the shard, where the 29th pair begins) -> harmed bytes; what is said
    "cut inside a member": (lambda raw, place: raw[: place + 520], "cut inside '00220.png'"),
    "cut between members": (lambda raw, place: raw[:place], "announce 64"),
    "flipped bit in a header": (lambda raw, place: raw[: place + 5] + bytes([raw[place + 5] ^ 4]) + raw[place + 6 :],
                                "bad header checksum"),
    "tail of zeros": (lambda raw, place: raw[:place] + bytes(len(raw) - place), "bytes of zeros"),
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.faults(row=30, fault="a shard cut inside a member, or between two",
                    expected="named with its count, exit 4; below --allow_missing it goes on with the pairs before")
@pytest.mark.faults(row=31, fault="a flipped bit in a member's header; a tail of zeros",
                    expected="named with its count, exit 4; below --allow_missing it goes on with the pairs before")
def test_a_damaged_shard_is_named_and_counted(home: Home, damaged: Path, harm: str) -> None:
    change, says = HARMS[harm]
    shard = damaged / "3.tar"
    raw = shard.read_bytes()
    shard.write_bytes(change(raw, raw.index(b"00220.png\0")))
    if harm == "cut between members":  # as img2dataset announces; without, the end may lie anywhere
        (damaged / "3_stats.json").write_text('{"successes": 64}')
    check_refused(*ended(home, damaged), str(shard), says, "28 samples")
    code, output = ended(home, damaged, "--allow_missing=0.2", total_steps=8)
    assert code == 0 and "476 pairs from" in output, output
    assert f"{shard}: expected a whole tar shard" in output


@pytest.mark.parametrize("harm", ["missing", "empty", "unreadable"])
@pytest.mark.faults(row=32, fault="a shard missing, of 0 bytes, or not readable at the start",
                    expected="exit 4 naming it; below --allow_missing it goes on without")
def test_a_shard_that_is_not_there_is_named(home: Home, damaged: Path, harm: str) -> None:
    shard = damaged / "5.tar"
    if harm == "empty":
        shard.write_bytes(b"")
    else:
        shard.unlink()
    if harm == "unreadable":
        shard.mkdir()  # nobody, root included, can read this as a file
    check_refused(*ended(home, damaged), str(shard))
    code, output = ended(home, damaged, "--allow_missing=0.2", total_steps=8)
    assert code == 0 and "448 pairs from" in output and str(shard) in output, output


@pytest.mark.faults(row=33, fault="5 of 512 pictures cut, zeroed, empty, HTML, a video",
                    expected="a quarantine line each; the planned order of all others unchanged")
def test_bad_pictures_are_quarantined_and_all_others_stay_in_their_places(home: Home, damaged: Path) -> None:
    bad = {17: b"", 93: b"<html>404</html>", 140: None, 300: bytes(900), 501: b"\0\0\0\x18ftypmp42" + bytes(50)}

    def change(number: int, name: str, content: bytes) -> tuple[str, bytes]:
        harmed = content[:-30] if bad.get(number, b"") is None else bad.get(number, content)
        return name, harmed if name.endswith("png") else content

    write_all(damaged, change)
    code, output = ended(home, damaged)
    assert code == 0 and "samples replaced" in output, output
    name = f"{damaged.name}-run"
    listed = [json.loads(line) for line in (home.folder / name / "quarantine.jsonl").read_text().splitlines()]
    assert sorted((one["shard"], one["key"]) for one in listed) == sorted(
        (f"{number // EACH}.tar", f"{number:05d}") for number in bad)
    assert {one["index"]: one["kind"] for one in listed} == {
        17: "empty_image", 93: "unknown_format", 140: "undecodable", 300: "unknown_format", 501: "unknown_format"}
    digests = [[line["data/batch_digest"] for line in home.lines(run)] for run in (name, "straight")]
    assert digests[0] == digests[1]
    assert home.lines(name)[-1]["data/bad_samples"] >= 2 * len(bad), "two epochs"
    # Up to the first bad one the runs are the same to the last bit.
    first = next(line["step"] for line in home.lines(name) if line["data/bad_samples"])
    losses = [[line["train/loss"] for line in home.lines(run)] for run in (name, "straight")]
    same = [one == other for one, other in zip(*losses, strict=True)]
    assert first > 1 and all(same[: first - 1]) and not all(same)


@pytest.mark.faults(row=34, fault="10 % of the pictures bad", expected="exit 4 with the rate and the first keys")
def test_a_tenth_of_bad_pictures_ends_the_run_with_the_rate(home: Home, damaged: Path) -> None:
    def change(number: int, name: str, content: bytes) -> tuple[str, bytes]:
        return name, b"no picture" if number % 10 == 0 and name.endswith("png") else content

    write_all(damaged, change)
    code, output = ended(home, damaged, total_steps=400)
    assert code == 4 and "Traceback" not in output, output
    line = output.splitlines()[-1]
    assert "at most 1.000% bad samples" in line and "unknown_format 101" in line and "0.tar/00000" in line, line
    steps = home.lines(f"{damaged.name}-run")[-1]["step"]
    assert 70 < steps < 200, "a hundred bad ones among the first thousand or so"


@pytest.mark.parametrize("how", ["no caption members", "no such field", "live"])
@pytest.mark.faults(row=35, fault="no pair has a caption: other members, another field",
                    expected="exit 4 before the first step, naming what is missing")
def test_pairs_without_captions_end_the_run_at_once(home: Home, damaged: Path, how: str) -> None:
    def change(number: int, name: str, content: bytes) -> tuple[str, bytes]:
        return (name.replace("txt", "json"), b'{"caption": "a red dot"}') if name.endswith("txt") else (name, content)

    write_all(damaged, change)
    changes = {"data__caption_field": "txt" if how == "no caption members" else "captions"}
    changes |= {"text__source": "live"} if how == "live" else {}  # where no text is read before its turn
    code, output = ended(home, damaged, **changes)
    named = {"no caption members": "config.data.caption_field", "no such field": "caption", "live": "no_caption 16"}
    assert code == 4 and named[how] in output, output
    assert "Traceback" not in output
    assert not home.lines(f"{damaged.name}-run"), "not one step was trained"


@pytest.mark.faults(row=36, fault="a key twice in a shard, and in two shards",
                    expected="each is a pair of its own; those of one shard are counted")
def test_equal_keys_are_pairs_of_their_own(home: Home, damaged: Path) -> None:
    own = members(0)
    shards_on_disk.write(damaged / "0.tar", own + own[:4])  # the first two pairs again at the end
    shards_on_disk.write(damaged / "1.tar", own)  # and all of them in another shard
    code, output = ended(home, damaged, total_steps=64)
    assert code == 0 and f"{SHARDS * EACH + 2} pairs from" in output, output
    assert "2 repeated_key" in output, output
    assert not (home.folder / f"{damaged.name}-run" / "quarantine.jsonl").exists()
