"""What stands beside a picture in a webdataset sample: a class, several classes, captions, numbers that group it."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lit_tune.evaldata.pieces import damaged, wrong

SUFFIXES = ("cls", "npy", "txt")  # the members that are read
MEND = "mend the shard or fetch it again"


def questions(texts: Sequence[str]) -> list[str]:
    """The distinct questions of "question:text" lines in order; [] where a line has none."""
    split = [text.partition(":") for text in texts]
    return list(dict.fromkeys(one[0] for one in split)) if all(one[0] and one[1] for one in split) else []


def asks_questions(classnames: Sequence[str], templates: Sequence[str]) -> bool:
    """Whether names and templates are those of FairFace and UTKFace: lines "question:text", the same questions in both.

    Source: evaluate_fairface_dataset in DataComp's eval_utils/fairness_eval.py.
    """
    asked = questions(classnames)
    return bool(asked) and bool(templates) and set(asked) == set(questions(templates))


class Collected:
    """The answers of a split, collected sample by sample.

    Args:
        kind: "classification", "multilabel", "retrieval" or "attributes".
        classnames: the classes that labels point to.
    """

    def __init__(self, kind: str, classnames: Sequence[str]) -> None:
        self.kind = kind
        self._classes = len(classnames)
        self._labels: list[Any] = []
        self._captions: list[tuple[str, ...]] = []
        self._fields: list[np.ndarray] = []
        self._length = 0

    def add(self, where: str, parts: Mapping[str, bytes]) -> None:
        """Take what the next sample holds.

        Args:
            where: shard and key, for messages.
            parts: {suffix: data}.

        Raises:
            ConfigError: a label does not fit the class names.
            DataError: the label is missing or cannot be read.
        """
        wanted = {"classification": "cls", "retrieval": "txt"}.get(self.kind, "npy")
        if wanted not in parts:
            there = ", ".join(f".{suffix}" for suffix in parts)
            raise damaged(where, f"a .{wanted} member beside the picture", there, MEND)
        if self.kind == "retrieval":
            self._captions.append(_captions(parts["txt"], where))
        elif self.kind == "multilabel":
            self._labels.append(self._marks(parts["npy"], where))
        elif self.kind == "classification":
            self._labels.append(self._label(parts["cls"], where))
        if self.kind in ("classification", "attributes"):
            self._add_fields(parts.get("npy"), where)
        self._length += 1

    def answers(self) -> dict[str, Any]:
        """The fields of `EvalData` that were collected: labels, captions, fields; those that the kind has."""
        if self.kind == "retrieval":
            return {"captions": tuple(self._captions)}
        found: dict[str, Any] = {"fields": np.stack(self._fields)} if self._fields else {}
        if self.kind == "multilabel":
            found["labels"] = np.stack(self._labels)
        elif self.kind == "classification":
            found["labels"] = np.array(self._labels, np.int64)
        return found

    def notes(self) -> list[str]:
        """What a reader has to know about the answers."""
        empty = sum(not caption.strip() for one in self._captions for caption in one)
        return [f"{empty} captions are empty and count, as in clip_benchmark."] if empty else []

    def _label(self, raw: bytes, where: str) -> int:
        """The class in a .cls member."""
        try:
            label = int(raw)
        except ValueError:
            raise damaged(where, "a whole number in .cls", repr(raw[:40]), MEND) from None
        if not 0 <= label < self._classes:
            expected = f"a class from 0 to {self._classes - 1}, as there are {self._classes} class names"
            raise wrong(where, expected, label, "name the class file that belongs to the data")
        return label

    def _marks(self, raw: bytes, where: str) -> np.ndarray:
        """The classes in a .npy member, bool (c,)."""
        marks = _array(raw, where)
        if marks.shape != (self._classes,):
            found = f"an array {marks.shape}"
            expected = f"{self._classes} numbers in .npy, one for each class name"
            raise wrong(where, expected, found, "name the class file that belongs to the data")
        return marks > 0.5

    def _add_fields(self, raw: bytes | None, where: str) -> None:
        """Keep the numbers beside a picture; all samples have them or none has."""
        if raw is None and not self._fields:
            return
        expected = f"{len(self._fields[0])} whole numbers in .npy" if self._fields else "whole numbers in .npy"
        if raw is None or len(self._fields) < self._length:
            raise damaged(where, f"{expected} of every sample or of none", "some have it", MEND)
        numbers = _array(raw, where)
        width = self._fields[0].shape if self._fields else (numbers.size,)
        whole = np.round(numbers)
        if numbers.shape != width or not np.array_equal(whole, numbers) or np.abs(whole).max(initial=0) >= 2**53:
            raise damaged(where, expected, f"an array {numbers.shape} of {numbers.dtype}", MEND)
        self._fields.append(whole.astype(np.int64))


def _captions(raw: bytes, where: str) -> tuple[str, ...]:
    """The captions in a .txt member, a line each, as they stand there; at least one that is not empty."""
    try:
        found = tuple(raw.decode().splitlines())
    except UnicodeDecodeError as error:
        raise damaged(where, "captions in UTF-8", error, MEND) from None
    if not any(caption.strip() for caption in found):
        raise damaged(where, "a caption a line in .txt", "no text", MEND)
    return found


def _array(raw: bytes, where: str) -> np.ndarray:
    """The numbers in a .npy member; objects are refused, for reading them would run code."""
    try:
        found = np.lib.format.read_array(io.BytesIO(raw), allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError) as error:
        raise damaged(where, "an array of numbers in .npy", error, MEND) from None
    if found.dtype.kind not in "biuf":
        raise damaged(where, "an array of numbers in .npy", f"an array of {found.dtype}", MEND)
    return found
