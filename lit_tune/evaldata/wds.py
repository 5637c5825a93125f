"""Evaluation data in the folder layout of clip_benchmark and DataComp: webdataset shards with their class names beside.

    test/0.tar .. N.tar   test/nshards.txt   classnames.txt   zeroshot_classification_templates.txt   dataset_type.txt

Samples are the same, in the same order, as clip_benchmark reads them; damage that it passes over ends the reading here.
Source: build_wds_dataset in clip_benchmark/datasets/builder.py (1.6); DataComp's eval_utils/{wilds,fairness}_eval.py.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lit_tune.data.sample import BadSample, read_at
from lit_tune.data.tar_index import split_name
from lit_tune.data.tar_walk import USUAL_PADDING, Damage, Member, SeekingReader, Walk
from lit_tune.errors import DataError
from lit_tune.evaldata import wds_labels
from lit_tune.evaldata.dataset import EvalData
from lit_tune.evaldata.names import read_classnames, read_templates
from lit_tune.evaldata.pieces import Pieces, damaged, sha256, wrong

PICTURES = ("webp", "png", "jpg", "jpeg")  # in clip_benchmark's order, should a sample hold two
TYPES = ("classification", "multilabel", "retrieval")
CLASSNAMES, TEMPLATES, TYPE = "classnames.txt", "zeroshot_classification_templates.txt", "dataset_type.txt"
SHARD = re.compile(r"0\.tar|[1-9]\d*\.tar")
SKIPPED = re.compile(r"__[^/]*__(/|$)")  # webdataset passes over these names


@dataclass
class Sample:
    """One sample while its shard is walked.

    Attributes:
        where: shard and key, for messages.
        parts: {suffix: data} of the members that are read.
        members: {suffix: the member}.
    """

    where: str
    parts: dict[str, bytes] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)


def is_wds(folder: Path) -> bool:
    """Whether a folder looks like this layout: a split with shards called as here, or one of the text files."""
    return folder.is_dir() and (bool(splits(folder)) or any((folder / name).exists() for name in (TYPE, TEMPLATES)))


def splits(folder: Path) -> list[str]:
    """The names of the splits in a folder, sorted."""
    found = {path.parent.name for pattern in ("*/nshards.txt", "*/*.tar") for path in folder.glob(pattern)
             if path.suffix != ".tar" or SHARD.fullmatch(path.name)}  # fmt: skip
    return sorted(found)


def has_classes(folder: Path) -> bool:
    """Whether a folder of this layout is about classes, and not captions. Raises ConfigError for an unknown type."""
    return _type(folder) != "retrieval"


def read(
    folder: Path,
    split: str = "test",
    classnames: tuple[str, ...] | None = None,
    templates: tuple[str, ...] | None = None,
) -> EvalData:
    """One split of the folder. All of it is read once, in order, to hash it and to find damage before any work starts.

    That pass takes the disk's time or, where that is faster, 40 microseconds a sample and 0.7 s a GB of sha256
    (measured on one core, files in the system's cache: 20,000 pictures of 15 KB in 1.1 s). Pictures do not stay in
    memory.

    Args:
        folder: holds the split's folder and the text files.
        split: "test", or another one that lies there.
        classnames, templates: stand in for the folder's own.

    Raises:
        ConfigError: no such folder or split, or names, templates, type and labels that do not fit together.
        DataError: a shard is missing or damaged, or a sample lacks its picture or its label.
    """
    if not folder.is_dir():
        raise wrong(folder, "a folder of evaluation data", "no such folder", "correct the path")
    kind = _type(folder)
    if kind != "retrieval":
        classnames = read_classnames(folder / CLASSNAMES) if classnames is None else classnames
        templates = _own_templates(folder) if templates is None else templates
        kind = "attributes" if wds_labels.asks_questions(classnames, templates) else kind
    shards, notes = _shards(folder, split)
    collected = wds_labels.Collected(kind, classnames or ())
    rows, names, digests = [], [], []
    for number, shard in enumerate(shards):
        for sample in _samples(shard, split):
            suffix = _picture(sample)
            collected.add(sample.where, sample.parts)
            member = sample.members[suffix]
            rows.append((number, member.offset, member.size))
            names.append(f"{split}/{shard.name}/{member.name.decode('utf-8', 'replace')}")
            digests.append(hashlib.sha256(sample.parts[suffix]).digest())
    if not rows:
        raise wrong(folder / split, "samples in its shards", "none", "name another split or folder")
    answers = collected.answers()
    return EvalData(
        kind, Pieces(shards, np.array(rows, np.int64), names), sha256(kind, digests, **answers), str(folder),
        classnames=classnames or () if kind != "retrieval" else (),
        templates=templates or () if kind != "retrieval" else (),
        notes=(*notes, *collected.notes()), **answers,
    )  # fmt: skip


def _type(folder: Path) -> str:
    """What dataset_type.txt says; classification where there is none, as in clip_benchmark."""
    file = folder / TYPE
    try:
        found = file.read_text("utf-8-sig").strip().lower()
    except FileNotFoundError:
        return TYPES[0]
    except (OSError, UnicodeDecodeError) as error:
        raise wrong(file, f"one of {', '.join(TYPES)}", error, "write the type") from error
    if found not in TYPES:
        raise wrong(file, f"one of {', '.join(TYPES)}", repr(found[:80]), "write one of these")
    return found


def _own_templates(folder: Path) -> tuple[str, ...]:
    """The templates beside the data, () where there are none: who reads decides what stands in for them."""
    file = folder / TEMPLATES
    return read_templates(file) if file.exists() else ()


def _shards(folder: Path, split: str) -> tuple[list[Path], list[str]]:
    """The shards of a split in order, and a note where nothing says how many there should be."""
    place = folder / split
    if not place.is_dir():
        there = ", ".join(splits(folder)) or "no split"
        raise wrong(folder, f"a folder {split}/ with shards", there, "name another split or folder")
    tars = {path.name for path in place.glob("*.tar")}
    if not tars:
        raise wrong(place, "shards 0.tar, 1.tar, ...", "no .tar file", "name another split or folder")
    announced = _announced(place / "nshards.txt")
    numbers = [int(name[:-4]) for name in tars if SHARD.fullmatch(name)]
    count = max(numbers, default=-1) + 1 if announced is None else announced
    expected = f"{count} shards, 0.tar to {count - 1}.tar"
    missing = next((number for number in range(count) if f"{number}.tar" not in tars), None)
    if missing is not None:
        raise damaged(place, expected, f"no {missing}.tar ({len(tars)} files)", "fetch the shards that are missing")
    wanted = [f"{number}.tar" for number in range(count)]
    if extra := sorted(tars - set(wanted)):
        found = f"{len(tars)} .tar files, {extra[0]} among them"
        raise wrong(place, expected, found, "correct nshards.txt or remove the rest")
    notes = [] if announced is not None else [f"No nshards.txt in {split}/: the {count} shards there were read."]
    return [place / name for name in wanted], notes


def _announced(file: Path) -> int | None:
    """The number in nshards.txt; None where there is no such file."""
    try:
        text = file.read_text("utf-8-sig").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise wrong(file, "the number of shards", error, "write it") from error
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise wrong(file, "the number of shards", repr(text[:40]), "write it")
    return int(text)


def _samples(shard: Path, split: str) -> Iterator[Sample]:
    """The samples of a shard: neighbouring members of one key, whose pictures and labels were read.

    Raises:
        DataError: the shard is damaged or cannot be read, or a sample holds the same member twice.
    """
    where = f"{split}/{shard.name}"
    try:
        with open(shard, "rb") as file:
            walk = Walk(SeekingReader(file), shard.stat().st_size)
            yield from _grouped(walk, file.fileno(), where)
    except Damage as found:
        raise damaged(shard, "a whole tar file", found, "fetch this shard again") from None
    except OSError as error:
        raise damaged(shard, "a readable tar file", error.strerror or error, "fetch this shard again") from error


def _grouped(walk: Walk, descriptor: int, where: str) -> Iterator[Sample]:
    """Members joined into samples as webdataset joins them.

    Raises:
        Damage: the tar is cut; found before its last sample is handed out, which may be cut with it.
    """
    sample, key = None, b""
    for member in walk:
        split = split_name(member.name)
        if not member.regular or split is None or SKIPPED.match(member.name.decode("utf-8", "replace")):
            continue
        if sample is None or split[0] != key:
            if sample is not None:
                yield sample
            key = split[0]
            sample = Sample(f"{where}/{key.decode('utf-8', 'replace')}")
        _put(sample, split[1], member, descriptor)
    if not walk.end_marker:  # a cut between two members looks like this, and loses the rest in silence
        raise Damage("no blocks of zeros at the end")
    if walk.zero_tail > USUAL_PADDING:
        raise Damage(f"{walk.zero_tail} bytes of zeros at the end")
    if sample is not None:
        yield sample


def _put(sample: Sample, suffix: str, member: Member, descriptor: int) -> None:
    """Add a member to its sample, with its data where it is a picture or a label."""
    if suffix in sample.members:
        raise damaged(sample.where, "each member once", f".{suffix} twice", "make the shard again")
    sample.members[suffix] = member
    if suffix in PICTURES or suffix in wds_labels.SUFFIXES:
        try:
            sample.parts[suffix] = read_at(descriptor, member.size, member.offset)
        except BadSample as error:
            raise damaged(sample.where, f"{member.size} bytes of .{suffix}", error.kind) from error


def _picture(sample: Sample) -> str:
    """The suffix of a sample's picture."""
    found = next((suffix for suffix in PICTURES if suffix in sample.parts), None)
    if found is None:
        raise _no_picture(sample)
    return found


def _no_picture(sample: Sample) -> DataError:
    """The error for a sample without a picture."""
    there = ", ".join(f".{suffix}" for suffix in sample.members)
    return damaged(sample.where, f"a picture (.{', .'.join(PICTURES)})", there, "mend the shard or fetch it again")
