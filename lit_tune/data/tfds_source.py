"""Pairs by number from a split that tensorflow-datasets prepared as array_record; pictures stay encoded."""

import hashlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lit_tune.data.file_digest import file_sha256
from lit_tune.data.sample import BadSample, Sample
from lit_tune.data.tar_source import captions_of, keep_usable
from lit_tune.data.tfds_split import CAPTIONS, FORM, PREFIX, SPEC, at_path, builder_of, by_path, rows_of
from lit_tune.errors import ConfigError, DataError, explain


class TfdsSource:
    """The rows of a split with one Image feature and captions.

    Args:
        spec: "tfds:NAME[/CONFIG][:VERSION]:SPLIT" or "tfds:FOLDER:SPLIT".
        caption_field: "txt" takes the feature captions, caption or text, else the one of that name, OUTER/INNER for
            one inside another; a sequence of texts gives several captions, a class label its name.
        max_samples: use only the first so many pairs; None for all.

    Raises:
        ConfigError: a wrong spec, no such data, data that needs TensorFlow, or features that are not these.
        DataError: a file of the split is missing or unreadable, or there is no pair.
    """

    def __init__(self, spec: str, caption_field: str, max_samples: int | None = None) -> None:
        parts = SPEC.fullmatch(spec)
        if parts is None or not parts["split"]:
            raise ConfigError(explain(spec, expected=FORM, found="another form", do="write it like tfds:/data/x:train"))
        self.spec, self.caption_field, self.counts = spec, caption_field, dict[str, int]()
        self._name, self._split = parts["builder"], parts["split"]
        builder = builder_of(spec, self._name)
        self._picture, self._answer = _features(spec, builder.info.features, caption_field)
        self._forget()
        self._open(builder)
        self._length = min(len(self._rows), max_samples or len(self._rows))
        if not self._length:
            raise DataError(explain(spec, expected="pairs", found="an empty split", do="name another split"))
        digest = hashlib.sha256(f"{caption_field}|{self._length}|{self._split.partition('[')[2]}".encode())
        for file in builder.info.splits[self._split.partition("[")[0]].filepaths:
            digest.update(f"|{file_sha256(Path(file))}".encode())
        self.fingerprint = digest.hexdigest()

    def _forget(self) -> None:
        """Start without open files."""
        self._rows: Any = None
        self._classes: dict[str, Sequence[str]] = {}
        self._lock = threading.Lock()

    def _open(self, builder: Any) -> None:
        """Open the split for reads from any thread."""
        kinds = dict(builder.info.features.items())
        self._classes = {name: kind.names for name, kind in kinds.items() if hasattr(kind, "names")}
        self._rows = rows_of(self.spec, builder, self._split, self._picture)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_rows", "_classes", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def __repr__(self) -> str:
        return f"TfdsSource({self.spec!r}, {len(self)} pairs)"

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> Sample:
        row = self._row(i)
        meta = {name: self._plain(name, value) for name, value in row.items() if name != self._picture}
        meta.pop(self._answer, None)
        kept = {name: value for name, value in meta.items() if isinstance(value, str | int | float | bool)}
        return Sample(str(i), row[self._picture], self._captions(row), kept)

    def pair(self, i: int, max_image_bytes: int) -> tuple[bytes, tuple[str, ...]]:
        """Encoded picture and captions of pair `i`. Raises BadSample."""
        row = self._row(i)
        if len(row[self._picture]) > max_image_bytes:
            raise BadSample("too_many_bytes")
        return row[self._picture], self._captions(row)

    def captions(self, i: int) -> tuple[str, ...]:
        """The usable captions of pair `i`. Raises BadSample."""
        return self._captions(self._row(i))

    def caption_sets(self) -> Iterator[tuple[str, ...]]:
        """The usable captions of every pair in index order, () for a bad one."""
        for i in range(len(self)):
            try:
                yield self.captions(i)
            except BadSample:
                yield ()

    def describe(self, i: int) -> tuple[str, str]:
        """(data set and split, number) of pair `i`."""
        return self.spec.removeprefix(PREFIX), str(i)

    def _row(self, i: int) -> dict[str, Any]:
        """All features of pair `i`."""
        if not 0 <= i < self._length:
            raise IndexError(f"sample {i} of {self._length}")
        with self._lock:
            if self._rows is None:
                self._open(builder_of(self.spec, self._name))
        try:
            return self._rows[int(i)]
        except (OSError, RuntimeError, ValueError) as error:
            raise BadSample("unreadable") from error

    def _captions(self, row: dict[str, Any]) -> tuple[str, ...]:
        """The usable captions of a row."""
        return keep_usable(captions_of(self._plain(self._answer, at_path(row, self._answer))))

    def _plain(self, name: str, value: Any) -> Any:
        """A feature's value as text, number or list of texts; a class as its name."""
        if name in self._classes and 0 <= int(value) < len(self._classes[name]):
            return self._classes[name][int(value)]
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        if isinstance(value, np.ndarray | np.generic):
            value = value.tolist()
        return [self._plain("", one) for one in value] if isinstance(value, list | tuple) else value


def _features(spec: str, features: Any, caption_field: str) -> tuple[str, str]:
    """Names of the picture feature and of the captions."""
    import tensorflow_datasets as tfds

    kinds = dict(by_path(features))
    picture = [name for name, kind in kinds.items() if type(kind) is tfds.features.Image and "/" not in name]
    wanted = CAPTIONS if caption_field == "txt" else (caption_field,)
    answers = [name for name in wanted if name in kinds and name not in picture]
    if len(picture) != 1 or not answers:
        found = ", ".join(f"{name} ({type(kind).__name__})" for name, kind in kinds.items()) or "no features"
        expected = f"one Image feature, and captions in {' or '.join(wanted)}"
        raise ConfigError(explain(spec, expected=expected, found=found, do="set config.data.caption_field"))
    return picture[0], answers[0]
