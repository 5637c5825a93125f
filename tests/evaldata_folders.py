"""Small folders of evaluation data in every layout that is read, drawn here; for tests of reading and of evaluation."""

import colorsys
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw

QUESTIONS = {"race": 7, "gender": 2, "age": 9, "toxic": 19}  # FairFace's, with its numbers of answers
TEMPLATES = ("a photo of a {c}.", "{c}, drawn")


def picture(number: int, classes: int = 4, form: str = "PNG", size: int = 24) -> bytes:
    """An encoded drawing: its colour goes with `number % classes`, its shape with the number, so all are distinct."""
    hue = (number % classes) / classes
    image = Image.new("RGB", (size + number % 3, size), tuple(int(255 * x) for x in colorsys.hsv_to_rgb(hue, 0.8, 0.9)))
    draw = ImageDraw.Draw(image)
    for bit in range(8):
        if number >> bit & 1:
            draw.rectangle((2 + bit * 2, 4, 3 + bit * 2, size - 4), fill=(255, 255, 255))
    data = io.BytesIO()
    image.save(data, form, **({"lossless": True} if form == "WEBP" else {}))
    return data.getvalue()


def npy(values: Any) -> bytes:
    """An array as the bytes of a .npy file."""
    data = io.BytesIO()
    np.save(data, np.asarray(values))
    return data.getvalue()


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> None:
    """A tar of these members in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def class_names(classes: int) -> list[str]:
    """Distinct class names with a space in them."""
    return [f"kind {chr(ord('a') + i % 26)}{i // 26 or ''}" for i in range(classes)]


def captions_of(number: int) -> list[str]:
    """One to three captions of a picture, none like another's."""
    return [f"drawing {number}, seen for the {word} time" for word in ("first", "second", "third")[: 1 + number % 3]]


def wds(
    folder: Path,
    kind: str = "classification",
    *,
    n: int = 13,
    classes: int = 4,
    fields: np.ndarray | None = None,
    shards: int = 2,
    split: str = "test",
    pictures: Sequence[bytes] | None = None,
    labels: Sequence[Any] | None = None,
) -> SimpleNamespace:
    """A clip_benchmark folder; the last shard is the shortest where they cannot be equal.

    Args:
        folder: where; made where it is not there. A second split may be written into the same folder.
        kind: "classification", "multilabel", "retrieval" or "attributes".
        n: pictures.
        classes: class names; "attributes" has those of FairFace instead.
        fields: int (n, f), numbers beside each picture (classification); drawn for "attributes": (n, 4), as FairFace's.
        shards: number of tars.
        split: name of the split.
        pictures: encoded pictures, drawn otherwise.
        labels: a class each, a row of 0 and 1 each, or a list of captions each; made up otherwise.

    Returns:
        pictures, labels (int64 (n,), bool (n, c), or tuples of captions), fields, classnames, templates, folder.
    """
    rng = np.random.default_rng(n * 1000 + classes)
    forms = {"webp": "WEBP", "png": "PNG", "jpg": "JPEG"}
    suffixes = [list(forms)[i % 3] if pictures is None else "png" for i in range(n)]
    drawn = [picture(i, classes, forms[suffixes[i]]) for i in range(n)] if pictures is None else list(pictures)
    names, templates = class_names(classes), list(TEMPLATES)
    members: list[list[tuple[str, bytes]]] = [[(suffixes[i], drawn[i])] for i in range(n)]
    answers: Any = None
    if kind == "classification":
        answers = np.array([i % classes for i in range(n)] if labels is None else labels, np.int64)
        _add(members, "cls", [str(label).encode() for label in answers])
    elif kind == "multilabel":
        marks = np.eye(classes, dtype=np.int64)[np.arange(n) % classes] | (rng.random((n, classes)) < 0.3)
        answers = np.array(marks if labels is None else labels) > 0.5
        _add(members, "npy", [npy(row.astype(np.int64)) for row in answers])
    elif kind == "retrieval":
        answers = tuple(tuple(one) for one in ([captions_of(i) for i in range(n)] if labels is None else labels))
        _add(members, "txt", ["\n".join(one).encode() for one in answers])
    else:
        names = [f"{question}:{question} {i}" for question, count in QUESTIONS.items() for i in range(count)]
        templates = [f"{question}:a photo of a {{c}} person" for question in QUESTIONS]
        fields = np.stack([rng.integers(0, top, n) for top in (9, 2, 7, 2)], 1) if fields is None else fields
    if fields is not None:
        _add(members, "npy", [npy(row) for row in fields])
    _write_shards(folder / split, members, shards)
    _write_texts(folder, kind, names, templates)
    return SimpleNamespace(
        folder=folder, pictures=drawn, labels=answers, fields=fields,
        classnames=tuple(names) if kind != "retrieval" else (),
        templates=tuple(one.replace("{c}", "{}") for one in templates) if kind != "retrieval" else (),
    )  # fmt: skip


def _add(members: list[list[tuple[str, bytes]]], suffix: str, data: Sequence[bytes]) -> None:
    """Put one more member into every sample."""
    for sample, one in zip(members, data, strict=True):
        sample.append((suffix, one))


def _write_shards(folder: Path, samples: Sequence[Sequence[tuple[str, bytes]]], shards: int) -> None:
    """Samples in order over so many tars, and their count."""
    each = -(-len(samples) // shards)
    for shard in range(shards):
        here = range(shard * each, min(len(samples), (shard + 1) * each))
        write_tar(folder / f"{shard}.tar", [(f"s{i:07}.{suffix}", data) for i in here for suffix, data in samples[i]])
    (folder / "nshards.txt").write_text(f"{shards}\n")


def _write_texts(folder: Path, kind: str, names: Sequence[str], templates: Sequence[str]) -> None:
    """The text files beside the shards."""
    if kind in ("multilabel", "retrieval"):
        (folder / "dataset_type.txt").write_text(f"{kind}\n")
    if kind != "retrieval":
        (folder / "classnames.txt").write_text("\n".join(names) + "\n")
        (folder / "zeroshot_classification_templates.txt").write_text("\n".join(templates) + "\n")


def image_folder(folder: Path, names: Sequence[str] = ("tabby_cat", "red-fox", "owl"), n: int = 7) -> SimpleNamespace:
    """A tree CLASS/picture of uneven classes; returns pictures and labels in the order in which they are read."""
    ordered = sorted(names)
    pictures, labels = [], []
    for label, name in enumerate(ordered):
        (folder / name).mkdir(parents=True)
        for i in range(label, n, len(ordered)):
            pictures.append(picture(i, len(ordered)))
            labels.append(label)
            (folder / name / f"{i:04}.png").write_bytes(pictures[-1])
    return SimpleNamespace(folder=folder, pictures=pictures, labels=np.array(labels, np.int64), names=tuple(ordered))


def write_arrow(path: Path, columns: Mapping[str, pa.Array], rows_a_batch: int = 3) -> None:
    """A table as `datasets` leaves it in its cache: an Arrow stream of record batches."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(dict(columns))
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows_a_batch)


def image_column(pictures: Sequence[bytes]) -> pa.Array:
    """Pictures as the Image feature of `datasets` stores them."""
    return pa.array([{"bytes": data, "path": None} for data in pictures], IMAGE)


IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def arrow_retrieval(
    root: Path, *, n: int = 7, name: str = "nlphuji___flickr_1k_test_image_text_retrieval", shards: int = 1
) -> SimpleNamespace:
    """What `datasets` leaves below `root`/hf_cache for Flickr: pictures with lists of captions."""
    pictures, captions = [picture(i) for i in range(n)], tuple(tuple(captions_of(i)) for i in range(n))
    place = root / "hf_cache" / name / "TEST" / "1.1.0" / "0123abcd"
    each = -(-n // shards)
    for shard in range(shards):
        rows = slice(shard * each, (shard + 1) * each)
        ending = "" if shards == 1 else f"-{shard:05}-of-{shards:05}"
        columns = {"image": image_column(pictures[rows]), "caption": pa.array([list(c) for c in captions[rows]])}
        write_arrow(place / f"{name.split('___')[1]}-test{ending}.arrow", columns)
    return SimpleNamespace(folder=root / "hf_cache" / name, pictures=pictures, captions=captions, place=place)


def arrow_winogavil(root: Path, *, puzzles: int = 5, seed: int = 0) -> SimpleNamespace:
    """What `datasets` leaves for WinoGAViL: puzzles of 5, 6, 10 or 12 candidates, drawn from 16 pictures.

    Returns:
        folder, pictures (the 16, by name), cues, candidates and associations (lists of names, a puzzle each).
    """
    rng = np.random.default_rng(seed)
    names = [f"thing{i}" for i in range(16)]
    pictures = {name: picture(i) for i, name in enumerate(names)}
    sizes = [(5, 6, 10, 12)[i % 4] for i in range(puzzles)]
    candidates = [[names[k] for k in rng.permutation(16)[:size]] for size in sizes]
    associations = [list(one[: 2 + i % 3]) for i, one in enumerate(candidates)]
    cues = [f"cue {i}" for i in range(puzzles)]
    columns = {
        "candidates": pa.array(candidates),
        "cue": pa.array(cues),
        "associations": pa.array(associations),
        "num_candidates": pa.array(sizes),
        "candidate_images": pa.array(
            [[{"bytes": pictures[name], "path": f"{name}.png"} for name in one] for one in candidates], pa.list_(IMAGE)
        ),
    }
    place = root / "hf_cache" / "nlphuji___winogavil" / "TEST" / "1.1.0" / "0123abcd"
    write_arrow(place / "winogavil-test.arrow", columns, rows_a_batch=2)
    return SimpleNamespace(
        folder=root / "hf_cache" / "nlphuji___winogavil", place=place, pictures=pictures, cues=cues,
        candidates=candidates, associations=associations,
    )  # fmt: skip


def captions_folder(folder: Path, n: int = 7, field: str = "captions") -> SimpleNamespace:
    """One of our own sources: pictures beside a captions.jsonl, with a class in the field "kind"."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(n):
        (folder / f"{i}.png").write_bytes(picture(i))
        rows.append({"image": f"{i}.png", field: captions_of(i), "kind": ["round", "square"][i % 2]})
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SimpleNamespace(
        folder=folder, pictures=[picture(i) for i in range(n)], captions=tuple(tuple(captions_of(i)) for i in range(n))
    )
