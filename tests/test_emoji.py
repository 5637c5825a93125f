"""The shipped emoji pack: counts, size, no leak from the tests into training, shards that never change."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from lit_tune.emoji import build, check, pack, shards, sources, splits
from lit_tune.errors import ConfigError, DataError

MEGABYTE = 2**20


@pytest.fixture(scope="module")
def final(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("emoji") / "final"
    shards.write_shards(out, "final")
    return out


def samples(folder: Path) -> list[dict[str, bytes]]:
    """Read shards the way any webdataset reader does: members of one key follow one another."""
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, suffix = member.name.split(".")
                found.setdefault(key, {})[suffix] = tar.extractfile(member).read()
    return list(found.values())


def facts(folder: Path) -> list[dict]:
    return [json.loads(sample["json"]) for sample in samples(folder)]


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_pack_is_small_complete_and_free_of_leaks() -> None:
    counts = check.check_pack()
    assert counts["bytes"] <= 12 * MEGABYTE, "the package must stay small"
    assert counts["training pairs"] == 6408, "pairs of the five training sets"
    assert counts["trained concepts"] == 1487, "concepts of the five training sets"
    assert counts["held-out concepts"] == counts["dev concepts"] == 191, "both unseen-concept tests are 191-way"
    assert 100 <= counts["strict held-out concepts"] < 191, "strict is a real subset"
    assert counts["twemoji"] == 1487 + 191, "the test set draws every trained and every held-out concept"


def test_check_reports_a_leak(tmp_path: Path) -> None:
    """A held-out drawing copied into a training set must be found."""
    for path in pack.PACK_FOLDER.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    held_out = splits.read_held_out()[0]
    members = {f"{key}.webp": image for key, image in pack.read_images("emojione").items()}
    members[f"{held_out}.webp"] = pack.read_images("twemoji")[held_out]
    build.write_zip(tmp_path / "emojione.zip", members)
    with pytest.raises(DataError, match="held-out concepts in training sets"):
        check.check_pack(tmp_path)


def test_near_copies_finds_a_reencoded_picture_only() -> None:
    images = list(pack.read_images("noto").items())[:40]
    out = io.BytesIO()
    Image.open(io.BytesIO(images[7][1])).save(out, "WEBP", quality=50)
    training = {("noto", key): image for key, image in images if key != images[8][0]}
    found = check.near_copies({"copy": out.getvalue(), "other": images[8][1]}, training)
    assert set(found) == {"copy"}, "only the re-encoded picture is a copy"
    assert found["copy"][:2] == ("noto", images[7][0]), "and its source is named"


def test_splits_are_disjoint_and_tests_use_one_unseen_set(final: Path, tmp_path: Path) -> None:
    shards.write_shards(tmp_path / "dev", "dev")
    final_facts, dev_facts = (
        {folder: facts(out / folder) for folder in shards.FOLDERS} for out in (final, tmp_path / "dev")
    )
    for parts, test_set in ((final_facts, "twemoji"), (dev_facts, "noto-v1")):
        trained = {row["hexcode"] for row in parts["train"]}
        unseen = {row["hexcode"] for row in parts["unseen_concept"]}
        assert len(unseen) == len(parts["unseen_concept"]) == 191, "one picture for each of 191 unseen concepts"
        assert not trained & unseen, "unseen concepts are not trained"
        assert {row["hexcode"] for row in parts["unseen_set"]} <= trained, "the unseen set tests trained concepts"
        assert {row["vendor"] for row in parts["unseen_set"] + parts["unseen_concept"]} == {test_set}, (
            "tests use one set"
        )
        assert test_set not in {row["vendor"] for row in parts["train"]}, "which is not trained"
    held_out = set(splits.read_held_out())
    tuning = {row["hexcode"] for part in dev_facts.values() for row in part}
    assert not tuning & held_out, "tuning never meets a held-out concept"
    assert {row["hexcode"] for row in final_facts["unseen_concept"]} == held_out, "the test is the held-out list"
    copies = {key for key, row in pack.read_rows().items() if row["near_copy"]}
    assert len(final_facts["unseen_set"]) == 1487 - len(copies), "near copies are left out of the test"


def test_samples_have_the_img2dataset_layout(final: Path) -> None:
    folder = final / "train"
    read = samples(folder)
    stats = [json.loads(path.read_text())["successes"] for path in sorted(folder.glob("*_stats.json"))]
    assert sum(stats) == len(read) == 6408, "the sidecars count the samples"
    first = json.loads(read[0]["json"])
    assert first["key"] == "0" * 12 and first["status"] == "success", "keys have 12 digits"
    assert read[0]["txt"].decode() == first["caption"] == first["captions"][0], "one caption in three places"
    assert first["caption"].startswith(first["label"]), "captions are label: keyword, keyword"
    uids = {json.loads(sample["json"])["uid"] for sample in read}
    assert len(uids) == len(read) and all(len(uid) == 32 for uid in uids), "uids are unique and 32 hex digits"
    picture = Image.open(io.BytesIO(read[0]["webp"]))
    assert picture.size == (64, 64) and picture.format == "WEBP", "pictures are 64 px WebP"


def test_shards_are_deterministic_and_written_once(final: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    paths = shards.write_shards(again, "final")
    assert digests(final) == digests(again), "the same pack gives the same bytes"
    before = {path: Path(path).stat().st_mtime_ns for path in paths["train"]}
    assert shards.write_shards(again, "final") == paths, "a second call gives the same paths"
    assert before == {path: Path(path).stat().st_mtime_ns for path in paths["train"]}, "and writes nothing"
    assert [path.name for path in tmp_path.iterdir()] == ["again"], "no temporary folder stays behind"


def test_wrong_requests_are_refused(final: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="emoji split"):
        shards.write_shards(tmp_path / "x", "test")
    with pytest.raises(ConfigError, match="choose another folder"):
        shards.write_shards(final, "dev")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="other files"):
        shards.write_shards(tmp_path, "final")
    with pytest.raises(DataError, match="npm pack emojibase-data@17.0.0"):
        sources.read_concepts(tmp_path)
    with pytest.raises(DataError, match="emoji pack"):
        pack.read_rows(tmp_path)


@pytest.mark.parametrize(
    ("left", "right", "twins"),
    [
        ("woman teacher", "man teacher", True),
        ("three-thirty", "three o’clock", True),
        ("keycap: 6", "keycap: 0", True),
        ("white heart", "blue heart", True),
        ("ON! arrow", "BACK arrow", True),
        ("watermelon", "melon", False),
        ("sloth", "otter", False),
    ],
)
def test_twin_rule(left: str, right: str, twins: bool) -> None:
    assert (splits.twin_key(left) == splits.twin_key(right)) is twins, "labels that vary in nothing else are twins"


def test_drawing_is_centred_on_white() -> None:
    pytest.importorskip("resvg_py")
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 20 10" width="20" height="10">'
    svg = head + '<rect width="20" height="10"/></svg>'
    webp = build.render_webp(svg)
    assert webp == build.render_webp(svg), "drawing is deterministic"
    picture = Image.open(io.BytesIO(webp)).convert("L")
    assert picture.size == (64, 64) and picture.getpixel((32, 32)) < 30, "the drawing is in the middle"
    assert picture.getpixel((32, 4)) > 225 and picture.getpixel((32, 60)) > 225, "and padded with white"
