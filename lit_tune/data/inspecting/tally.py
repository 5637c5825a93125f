"""Looks at samples, counted: sizes, shapes, modes, caption lengths, repeats and faults."""

import hashlib
from array import array
from collections import Counter
from typing import Any

import numpy as np

from lit_tune.data.inspecting import figures
from lit_tune.data.inspecting.lengths import Ruler
from lit_tune.data.inspecting.look import Look, names
from lit_tune.data.sample import KINDS, Source

TOP = 10  # most frequent captions and pictures that are named
FIRST = 5  # samples named of each kind of fault
SHOWN = 1_000  # characters of a caption in the report
GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "F")


class Tally:
    """Counts looks as they come; numbers are kept, texts and pictures are not."""

    def __init__(self, ruler: Ruler) -> None:
        self.ruler = ruler
        self.samples = self.decoded = self.replaced = self.most_captions = 0
        self.modes: Counter[str] = Counter()
        self.formats: Counter[str] = Counter()
        self.marks: Counter[str] = Counter(grey=0, transparent=0, cmyk=0, palette=0, turned=0)
        self.faults: dict[str, list[int]] = {}
        self.decode_faults: dict[str, list[int]] = {}
        # one number a picture
        self.width, self.height, self.size = array("I"), array("I"), array("Q")
        self.picture, self.picture_of = array("Q"), array("Q")
        # one number a caption
        self.characters, self.length = array("I"), array("I")
        self.caption, self.caption_of, self.caption_place = array("Q"), array("Q"), array("I")

    def add(self, looks: list[Look]) -> None:
        """Count a block of looks."""
        for look in looks:
            self.samples += 1
            if look.fault:
                self.faults.setdefault(look.fault, []).append(look.index)
            if look.decode_fault is not None:
                self.decoded += 1
            if look.decode_fault:
                self.decode_faults.setdefault(look.decode_fault, []).append(look.index)
            self._picture(look)
            self._captions(look)
        self.length.extend(self.ruler.measure([caption for look in looks for caption in look.captions]))

    def _picture(self, look: Look) -> None:
        """Count the picture of a look, if its header was read."""
        picture = look.picture
        if picture is None:
            return
        self.width.append(picture.width)
        self.height.append(picture.height)
        self.size.append(picture.size)
        self.picture.append(picture.digest)
        self.picture_of.append(look.index)
        self.modes[picture.mode] += 1
        self.formats[picture.format] += 1
        self.marks["grey"] += picture.mode in GREY
        self.marks["transparent"] += picture.transparent
        self.marks["cmyk"] += picture.mode == "CMYK"
        self.marks["palette"] += picture.mode in ("P", "PA")
        self.marks["turned"] += picture.turned

    def _captions(self, look: Look) -> None:
        """Count the captions of a look."""
        self.most_captions = max(self.most_captions, len(look.captions))
        for place, caption in enumerate(look.captions):
            self.characters.append(len(caption))
            self.replaced += "\ufffd" in caption
            digest = hashlib.blake2b(caption.encode("utf-8", "replace"), digest_size=8).digest()
            self.caption.append(int.from_bytes(digest, "little"))
            self.caption_of.append(look.index)
            self.caption_place.append(place)

    def pictures_report(self, source: Source) -> dict[str, Any]:
        """Sizes in pixels, shapes, modes and repeats of the pictures whose header was read."""
        width, height = np.asarray(self.width), np.asarray(self.height)
        ratio = width / np.maximum(height, 1)
        found = figures.repeats(self.picture, TOP)
        digests, pictures_of = np.asarray(self.picture), np.asarray(self.picture_of)
        groups = [np.flatnonzero(digests == digests[first])[:FIRST] for _, first in found["most"]]
        most = [{"times": times, "index": int(pictures_of[first]),
                 "samples": names(source, pictures_of[places].tolist())}
                for (times, first), places in zip(found["most"], groups, strict=True)]  # fmt: skip
        return {
            "width": figures.summary(width) | {"histogram": figures.histogram(width)},
            "height": figures.summary(height) | {"histogram": figures.histogram(height)},
            "aspect_ratio": figures.summary(ratio) | {"histogram": figures.histogram(ratio, figures.SHAPES)},
            "modes": dict(self.modes.most_common()),
            **self.marks,
            "repeats": found | {"most": most},
        }

    def captions_report(self, source: Source) -> dict[str, Any]:
        """Lengths and repeats of the captions."""
        found = figures.repeats(self.caption, TOP)
        most = [{"times": times, "caption": self._text(source, first)} for times, first in found["most"]]
        lengths, limit = np.asarray(self.length), self.ruler.max_length
        cut = int((lengths > limit).sum()) if limit else None
        tokens = {"unit": self.ruler.unit, "note": self.ruler.note, "max_length": limit or None, "cut": cut,
                  "cut_share": None if cut is None else cut / max(len(lengths), 1)}  # fmt: skip
        return {
            "count": len(self.caption),
            "most_of_one": self.most_captions,
            "replacement_characters": self.replaced,
            "characters": figures.summary(self.characters) | {"histogram": figures.histogram(self.characters)},
            "length": tokens | figures.summary(lengths) | {"histogram": figures.histogram(lengths)},
            "repeats": found | {"most": most},
        }

    def _text(self, source: Source, place: int) -> str:
        """The caption that was the tally's number `place`."""
        return source.captions(self.caption_of[place])[self.caption_place[place]][:SHOWN]


def faults_report(source: Source, faults: dict[str, list[int]]) -> dict[str, Any]:
    """{kind: its count and the first samples}, in the order of KINDS."""
    return {kind: {"count": len(faults[kind]), "first": names(source, faults[kind][:FIRST])}
            for kind in KINDS if kind in faults}  # fmt: skip
