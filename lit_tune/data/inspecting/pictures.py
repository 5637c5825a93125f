"""Small pictures for the page, within a fixed number of bytes."""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from lit_tune.data.decoding import load_image
from lit_tune.data.inspecting.look import Plan
from lit_tune.data.inspecting.statistics import Rules
from lit_tune.data.sample import BadSample, Source

GRID = 60  # drawn samples on the page
CAPTIONS = 3  # of one sample
SIDE = 144  # pixels, the longer side
QUALITY = 85
MOST_BYTES = 2 << 20  # of all small pictures together; a page is not an archive


@dataclass(frozen=True)
class Shown:
    """A sample as the page shows it; `uri` is "" where the picture is bad or the page is full."""

    uri: str
    captions: tuple[str, ...]
    note: str


class Shelf:
    """Gives small pictures until MOST_BYTES are used up."""

    def __init__(self, source: Source, rules: Rules) -> None:
        self.left = MOST_BYTES
        self._source, self._rules = source, rules

    def show(self, index: int) -> Shown:
        """Sample `index`."""
        shard, key = self._source.describe(index)
        try:
            data, captions = self._source.pair(index, self._rules.limits.max_bytes)
            picture = load_image(data, "clean", self._rules.limits)
        except BadSample as bad:
            return Shown("", (), f"{shard}/{key}: {bad.kind}")
        uri = data_uri(picture)
        if len(uri) > self.left:
            uri = ""
        self.left -= len(uri)
        more = f", {len(captions) - CAPTIONS} more captions" if len(captions) > CAPTIONS else ""
        return Shown(uri, captions[:CAPTIONS], f"{shard}/{key}, {picture.width} x {picture.height}{more}")

    def show_all(self, indices: Iterable[int]) -> list[Shown]:
        """Several samples, in this order."""
        return [self.show(index) for index in indices]


def drawn(plan: Plan) -> Sequence[int]:
    """The samples of the grid: some of those that are decoded, in index order."""
    rng = np.random.default_rng([plan.seed, 1])  # another stream than that of the plan
    count = min(GRID, len(plan.decoded))
    return np.sort(rng.choice(plan.decoded, count, replace=False)).tolist()


def data_uri(picture: Image.Image) -> str:
    """A `data:` URI of an RGB picture as JPEG, at most SIDE pixels a side."""
    small = picture.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
