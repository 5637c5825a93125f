"""Write the shipped emoji drawings as webdataset shards, in the layout that img2dataset gives."""

import hashlib
import io
import json
import os
import random
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_tune.emoji.pack import PACK_FOLDER, SPLITS, caption_of, captions_of, pack_digest, read_images, read_rows
from lit_tune.emoji.sources import TEST_SET, TRAIN_SETS
from lit_tune.emoji.splits import DEV_UNSEEN_SET
from lit_tune.errors import ConfigError, explain

FOLDERS = ("train", "unseen_set", "unseen_concept")
SAMPLES_PER_SHARD = 2000
SHUFFLE_SEED = 0
SIDE = 64
FORMAT = 2  # of what is written here: another number is another folder of the cache
HELD_OUT_SPLITS = ("held_out", "dev")
MARKER = "split.json"


@dataclass(frozen=True)
class Sample:
    """One picture with its concept: `vendor` names the drawing set, `image` is WebP."""

    vendor: str
    hexcode: str
    image: bytes
    row: dict[str, Any]


def write_shards(out: Path, split: str, pack: Path = PACK_FOLDER) -> dict[str, list[str]]:
    """Write the shards of one split and return {folder: tar paths} for train, unseen_set and unseen_concept.

    split "final": five sets train, twemoji tests, 191 concepts are unseen. split "dev": noto-v1 takes
    twemoji's place and 191 other concepts are unseen, so that settings are chosen without the test.
    The shards appear under `out` all at once, and a second call with the same pack writes nothing.
    ConfigError: an unknown split, or an `out` that holds something else.
    """
    if split not in SPLITS:
        raise ConfigError(
            explain("emoji split", expected=" or ".join(SPLITS), found=repr(split), do="name one of them")
        )
    out = Path(out)
    marker = {"split": split, "pack": pack_digest(pack), "format": FORMAT}
    if not _is_ready(out, marker):
        _write_atomically(out, split, pack, marker)
    return {folder: sorted(str(path) for path in (out / folder).glob("*.tar")) for folder in FOLDERS}


def _is_ready(out: Path, marker: dict[str, Any]) -> bool:
    """Say whether `out` already holds these shards; ConfigError if it holds anything else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    path = out / MARKER
    found = json.loads(path.read_text()) if path.is_file() else None
    if found != marker:
        expected = f"an empty folder or the shards of split {marker['split']!r}"
        held = f"shards of split {found['split']!r} of pack {found['pack'][:8]}" if found else "other files"
        raise ConfigError(
            explain(f"emoji shards in {out}", expected=expected, found=held, do="choose another folder or delete it")
        )
    return True


def _write_atomically(out: Path, split: str, pack: Path, marker: dict[str, Any]) -> None:
    """Write into a neighbour folder and rename it, so that a reader never sees half a set of shards."""
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        # mkdtemp makes the folder private; shards are as readable as any other file.
        work.chmod(0o755)
        for folder, samples in split_samples(split, pack).items():
            write_folder(work / folder, samples)
        (work / MARKER).write_text(json.dumps(marker) + "\n")
        try:
            os.rename(work, out)
        except OSError:
            # Another process may have finished first: then its shards are the same ones.
            if not _is_ready(out, marker):
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def split_samples(split: str, pack: Path = PACK_FOLDER) -> dict[str, list[Sample]]:
    """Return {folder: samples in shard order}: train shuffled with a fixed seed, the tests by code point."""
    rows = read_rows(pack)
    test_set = TEST_SET.name if split == "final" else DEV_UNSEEN_SET
    unseen = {"held_out"} if split == "final" else {"held_out", "dev"}
    test_concepts = "held_out" if split == "final" else "dev"
    parts: dict[str, list[Sample]] = {folder: [] for folder in FOLDERS}
    for item in TRAIN_SETS:
        if item.name != test_set:
            samples = [_sample(item.name, *pair, rows) for pair in read_images(item.name, pack).items()]
            parts["train"] += [sample for sample in samples if sample.row["split"] not in unseen]
    random.Random(SHUFFLE_SEED).shuffle(parts["train"])
    for sample in (_sample(test_set, *pair, rows) for pair in read_images(test_set, pack).items()):
        if sample.row["near_copy"] and split == "final":
            continue
        if sample.row["split"] == test_concepts:
            parts["unseen_concept"].append(sample)
        elif sample.row["split"] not in unseen:
            parts["unseen_set"].append(sample)
    return parts


def _sample(vendor: str, hexcode: str, image: bytes, rows: dict[str, dict[str, Any]]) -> Sample:
    return Sample(vendor, hexcode, image, rows[hexcode])


def write_folder(folder: Path, samples: Sequence[Sample]) -> None:
    """Write samples as `00000000.tar`, `00000000_stats.json`, ... with 12-digit keys."""
    folder.mkdir(parents=True)
    for shard, start in enumerate(range(0, len(samples), SAMPLES_PER_SHARD)):
        part = samples[start : start + SAMPLES_PER_SHARD]
        with tarfile.open(folder / f"{shard:08d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for position, sample in enumerate(part):
                _add(tar, f"{shard:08d}{position:04d}", sample)
        stats = {"count": len(part), "successes": len(part)}
        (folder / f"{shard:08d}_stats.json").write_text(json.dumps(stats) + "\n")


def _add(tar: tarfile.TarFile, key: str, sample: Sample) -> None:
    """Add the three members of one sample; times and owners stay 0 so that the bytes never change."""
    text = caption_of(sample.row)
    facts = {
        "uid": hashlib.sha256(f"{sample.vendor}/{sample.hexcode}".encode()).hexdigest()[:32],
        "key": key,
        "caption": text,
        "captions": captions_of(sample.row),
        "label": sample.row["label"],
        "hexcode": sample.hexcode,
        "vendor": sample.vendor,
        "group": sample.row["group"],
        "subgroup": sample.row["subgroup"],
        "width": SIDE,
        "height": SIDE,
        "status": "success",
    }
    if sample.row["split"] in HELD_OUT_SPLITS:  # means nothing for a concept that is trained
        facts["strict"] = sample.row["strict"]
    members = {"webp": sample.image, "txt": text.encode(), "json": json.dumps(facts, ensure_ascii=False).encode()}
    for suffix, data in members.items():
        info = tarfile.TarInfo(f"{key}.{suffix}")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
