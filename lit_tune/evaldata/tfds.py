"""Data prepared by tensorflow-datasets, read without TensorFlow: "tfds:NAME[/CONFIG][:VERSION]:SPLIT".

Only data that was prepared as array_record can be read at random places without TensorFlow; the default format
(tfrecord) cannot. Pictures come out as they were encoded.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lit_tune.data.sample import BadSample
from lit_tune.data.tfds_split import CAPTIONS, FORM, SPEC, at_path, builder_of, by_path, rows_of
from lit_tune.evaldata.dataset import EvalData
from lit_tune.evaldata.pieces import damaged, sha256, wrong


class TfdsPictures:
    """The pictures of a random-access data source, still encoded."""

    def __init__(self, rows: Any, key: str, name: str) -> None:
        self._rows, self._key, self._name = rows, key, name

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> bytes:
        try:
            return self._rows[int(i)][self._key]
        except (OSError, RuntimeError, ValueError) as error:
            raise BadSample("unreadable") from error

    def describe(self, i: int) -> str:
        """Data set and number of picture `i`."""
        return f"{self._name}[{i}]"


def read(
    spec: str,
    split: str = "test",
    classnames: tuple[str, ...] | None = None,
    templates: tuple[str, ...] | None = None,
    data_root: Path | None = None,
) -> EvalData:
    """A prepared split: a picture feature with a class label, or with captions. All of it is read once, to hash it.

    Args:
        spec: "tfds:NAME:SPLIT", "tfds:NAME/CONFIG:1.0.0:SPLIT", "tfds:NAME" with `split`.
        split: where the spec names none.
        classnames: stand in for those that the data set has.
        templates: prompts, none otherwise: tensorflow-datasets has none.
        data_root: looked in first; then `TFDS_DATA_DIR`, or ~/tensorflow_datasets where that is not set.

    Raises:
        ConfigError: a wrong spec, no such data, data that needs TensorFlow, or features that are not these.
        DataError: a sample cannot be read.
    """
    parts = SPEC.fullmatch(spec)
    if parts is None:
        raise wrong(spec, FORM, "another form", "write it like tfds:mnist:test")
    split = parts["split"] or split
    builder = builder_of(spec, parts["builder"], data_root)
    picture, answer = _features(spec, builder.info.features)
    rows = rows_of(spec, builder, split, picture)
    if not len(rows):
        raise wrong(spec, "pictures", "an empty split", "name another split")
    pictures = TfdsPictures(rows, picture, f"{parts['builder']}:{split}")
    digests, answers = _read_all(rows, picture, answer, pictures)
    if answer in CAPTIONS:
        captions = tuple(_captions(one, pictures.describe(i)) for i, one in enumerate(answers))
        return EvalData("retrieval", pictures, sha256("retrieval", digests, captions=captions), spec, captions=captions)
    names = tuple(dict(by_path(builder.info.features))[answer].names) if classnames is None else classnames
    labels = np.array(answers, np.int64)
    if (bad := np.flatnonzero((labels < 0) | (labels >= len(names)))).size:
        expected = f"a class from 0 to {len(names) - 1}, as there are {len(names)} class names"
        raise wrong(pictures.describe(int(bad[0])), expected, labels[bad[0]], "name a split with labels")
    found = sha256("classification", digests, labels=labels)
    return EvalData("classification", pictures, found, spec, names, templates or (), labels)


def _features(spec: str, features: Any) -> tuple[str, str]:
    """Names of the picture feature and of the label or captions."""
    import tensorflow_datasets as tfds

    kinds = dict(by_path(features))
    picture = [name for name, kind in kinds.items() if type(kind) is tfds.features.Image and "/" not in name]
    labels = [name for name, kind in kinds.items() if isinstance(kind, tfds.features.ClassLabel)]
    answers = [name for name in CAPTIONS if name in kinds] or labels
    if len(picture) != 1 or len(answers) != 1:
        found = ", ".join(f"{name} ({type(kind).__name__})" for name, kind in kinds.items()) or "no features"
        expected = f"one Image feature, and one ClassLabel or one of {', '.join(CAPTIONS)}"
        raise wrong(spec, expected, found, "export the data as webdataset shards and read these")
    return picture[0], answers[0]


def _read_all(rows: Any, picture: str, answer: str, pictures: TfdsPictures) -> tuple[list[bytes], list[Any]]:
    """sha256 of every picture, and every label or captions."""
    digests, answers = [], []
    for i in range(len(rows)):
        try:
            row = rows[i]
        except (OSError, RuntimeError, ValueError) as error:
            raise damaged(pictures.describe(i), "a readable record", error) from error
        digests.append(hashlib.sha256(row[picture]).digest())
        answers.append(at_path(row, answer))
    return digests, answers


def _captions(value: bytes | str | Sequence[bytes], where: str) -> tuple[str, ...]:
    """One text or several as texts; at least one that is not empty."""
    texts = [value] if isinstance(value, bytes | str) else list(value)
    found = tuple(one if isinstance(one, str) else bytes(one).decode("utf-8", "replace") for one in texts)
    if not any(caption.strip() for caption in found):
        raise damaged(where, "a caption", "no text", "mend the data")
    return found
