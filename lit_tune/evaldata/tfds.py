"""Data prepared by tensorflow-datasets, read without TensorFlow: "tfds:NAME[/CONFIG][:VERSION]:SPLIT".

Only data that was prepared as array_record can be read at random places without TensorFlow; the default format
(tfrecord) cannot. Pictures come out as they were encoded.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lit_tune.data.sample import BadSample
from lit_tune.errors import ConfigError
from lit_tune.evaldata.dataset import EvalData
from lit_tune.evaldata.pieces import damaged, sha256, wrong

PREFIX = "tfds:"
CAPTIONS = ("captions", "caption", "text")
SPEC = re.compile(r"tfds:(?P<builder>[\w/.-]+(?::\d+\.\d+\.\d+)?)(?::(?P<split>\w+(?:\[[\d:%-]*\])?))?")
PREPARE = "prepare it where TensorFlow is installed: builder(..., file_format='array_record').download_and_prepare()"


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
        raise wrong(spec, "tfds:NAME[/CONFIG][:VERSION]:SPLIT", "another form", "write it like tfds:mnist:test")
    split = parts["split"] or split
    builder = _builder(spec, parts["builder"], data_root)
    picture, answer = _features(spec, builder.info.features)
    rows = _source(spec, builder, split, picture)
    if not len(rows):
        raise wrong(spec, "pictures", "an empty split", "name another split")
    pictures = TfdsPictures(rows, picture, f"{parts['builder']}:{split}")
    digests, answers = _read_all(rows, picture, answer, pictures)
    if answer in CAPTIONS:
        captions = tuple(_captions(one, pictures.describe(i)) for i, one in enumerate(answers))
        return EvalData("retrieval", pictures, sha256("retrieval", digests, captions=captions), spec, captions=captions)
    names = tuple(builder.info.features[answer].names) if classnames is None else classnames
    labels = np.array(answers, np.int64)
    if (bad := np.flatnonzero((labels < 0) | (labels >= len(names)))).size:
        expected = f"a class from 0 to {len(names) - 1}, as there are {len(names)} class names"
        raise wrong(pictures.describe(int(bad[0])), expected, labels[bad[0]], "name a split with labels")
    found = sha256("classification", digests, labels=labels)
    return EvalData("classification", pictures, found, spec, names, templates or (), labels)


def _place(name: str, data_root: Path | None) -> Path:
    """The folder that data sets lie in; tensorflow-datasets itself looks at the variable only when it is imported."""
    if data_root is not None and (data_root / re.split("[/:]", name)[0]).is_dir():
        return data_root
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def _builder(spec: str, name: str, data_root: Path | None) -> Any:
    """The builder of a data set; the import takes a second or more, so it waits until someone asks."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        do = "pip install tensorflow-datasets importlib_resources"
        raise wrong(spec, "tensorflow-datasets", error, do) from error
    place = _place(name, data_root)
    try:
        return tfds.builder(name, data_dir=str(place))
    except ModuleNotFoundError as error:
        raise _needs(spec, error) from error
    except (tfds.core.DatasetNotFoundError, ValueError, OSError, AssertionError) as error:
        found = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise wrong(spec, f"a data set prepared in {place}", found, "correct the name, or set TFDS_DATA_DIR") from error


def _features(spec: str, features: Any) -> tuple[str, str]:
    """Names of the picture feature and of the label or captions."""
    import tensorflow_datasets as tfds

    kinds = dict(features.items()) if hasattr(features, "items") else {}
    picture = [name for name, kind in kinds.items() if type(kind) is tfds.features.Image]
    labels = [name for name, kind in kinds.items() if isinstance(kind, tfds.features.ClassLabel)]
    answers = [name for name in CAPTIONS if name in kinds] or labels
    if len(picture) != 1 or len(answers) != 1:
        found = ", ".join(f"{name} ({type(kind).__name__})" for name, kind in kinds.items()) or "no features"
        expected = f"one Image feature, and one ClassLabel or one of {', '.join(CAPTIONS)}"
        raise wrong(spec, expected, found, "export the data as webdataset shards and read these")
    return picture[0], answers[0]


def _source(spec: str, builder: Any, split: str, picture: str) -> Any:
    """Random access to a split, pictures left encoded."""
    import tensorflow_datasets as tfds

    splits = list(builder.info.splits)
    if not splits:
        found = f"nothing in {builder.data_dir}"
        raise wrong(spec, "prepared data", found, f"set TFDS_DATA_DIR, or {PREPARE}")
    if split.partition("[")[0] not in splits:
        raise wrong(spec, f"one of the splits {', '.join(splits)}", repr(split), "name one of these")
    try:
        return builder.as_data_source(split=split, decoders={picture: tfds.decode.SkipDecoding()})
    except (NotImplementedError, ModuleNotFoundError) as error:
        raise _needs(spec, error) from error
    except (ValueError, AssertionError, OSError) as error:
        raise wrong(spec, f"the split {split} in {builder.data_dir}", error, "correct the split") from error


def _needs(spec: str, error: Exception) -> ConfigError:
    """The error for data that only TensorFlow can read."""
    found = f"what needs TensorFlow ({str(error).splitlines()[0]})"
    return wrong(spec, "data prepared as array_record", found, PREPARE)


def _read_all(rows: Any, picture: str, answer: str, pictures: TfdsPictures) -> tuple[list[bytes], list[Any]]:
    """sha256 of every picture, and every label or captions."""
    digests, answers = [], []
    for i in range(len(rows)):
        try:
            row = rows[i]
        except (OSError, RuntimeError, ValueError) as error:
            raise damaged(pictures.describe(i), "a readable record", error) from error
        digests.append(hashlib.sha256(row[picture]).digest())
        answers.append(row[answer])
    return digests, answers


def _captions(value: bytes | str | Sequence[bytes], where: str) -> tuple[str, ...]:
    """One text or several as texts; at least one that is not empty."""
    texts = [value] if isinstance(value, bytes | str) else list(value)
    found = tuple(one if isinstance(one, str) else bytes(one).decode("utf-8", "replace") for one in texts)
    if not any(caption.strip() for caption in found):
        raise damaged(where, "a caption", "no text", "mend the data")
    return found
