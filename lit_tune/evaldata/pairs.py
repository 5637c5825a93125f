"""One of our own sources of pairs as evaluation data: its captions, or a class that a field of its samples names."""

import hashlib
import sys
from typing import Any

import numpy as np

from lit_tune.data.sample import BadSample, Sample, Source
from lit_tune.evaldata.dataset import EvalData
from lit_tune.evaldata.pieces import damaged, sha256, wrong


class SourcePictures:
    """The pictures of a source."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, i: int) -> bytes:
        return self._source.pair(int(i), sys.maxsize)[0]

    def describe(self, i: int) -> str:
        """Shard or folder and key of picture `i`."""
        return "/".join(self._source.describe(int(i)))


def read(
    source: Source,
    class_field: str = "",
    classnames: tuple[str, ...] | None = None,
    templates: tuple[str, ...] | None = None,
) -> EvalData:
    """The pairs of a source for retrieval, or its pictures for classification. Every sample is read once, to hash it.

    Args:
        source: pictures with captions.
        class_field: the field (json member, column) that names the class of each picture; "" for retrieval.
        classnames: the classes in order, for a source that does not hold all of them; sorted distinct values otherwise.
        templates: prompts, none otherwise.

    Raises:
        ConfigError: a sample lacks the field, or its class is not among the names.
        DataError: the source is empty, or a sample cannot be read.
    """
    digests, captions, values = [], [], []
    for i in range(len(source)):
        sample = _sample(source, i)
        digests.append(hashlib.sha256(sample.image).digest())
        captions.append(tuple(sample.captions))
        values.append(_class_of(sample.meta, class_field, source, i))
    if not digests:
        raise wrong(source.spec, "pictures", "none", "name another source")
    met = [f"{reason.replace('_', ' ')} {count}" for reason, count in source.counts.items() if count]
    notes = (f"Met when the source was opened: {', '.join(met)}.",) if met else ()
    pictures = SourcePictures(source)
    if not class_field:
        found = sha256("retrieval", digests, captions=captions)
        return EvalData("retrieval", pictures, found, source.spec, captions=tuple(captions), notes=notes)
    names = tuple(sorted(set(values))) if classnames is None else classnames
    labels = _labels(values, names, source)
    found = sha256("classification", digests, labels=labels)
    return EvalData("classification", pictures, found, source.spec, names, templates or (), labels, notes=notes)


def _sample(source: Source, i: int) -> Sample:
    """Sample `i` with its picture and captions."""
    try:
        return source[i]
    except BadSample as error:
        where = "/".join(source.describe(i))
        do = "mend the sample or take it out"
        raise damaged(where, "a picture with a caption", error.kind.replace("_", " "), do) from error


def _class_of(meta: dict[str, Any], class_field: str, source: Source, i: int) -> str:
    """The class of sample `i` as text, "" where none is asked for."""
    if class_field and (class_field not in meta or not str(meta[class_field]).strip()):
        where, there = "/".join(source.describe(i)), ", ".join(meta) or "no fields"
        raise wrong(where, f"a field {class_field!r}", there, "name a field that every sample has")
    return str(meta[class_field]).strip() if class_field else ""


def _labels(values: list[str], names: tuple[str, ...], source: Source) -> np.ndarray:
    """The place of every class among the names."""
    place = {name: label for label, name in enumerate(names)}
    for i, value in enumerate(values):
        if value not in place:
            where = "/".join(source.describe(i))
            raise wrong(where, f"one of {len(names)} class names", repr(value), "name the class file of this data")
    return np.array([place[value] for value in values], np.int64)
