"""What a record costs beside its picture: order, index, reading from a tar, the row of a batch, the counts."""

import contextlib
import io
import itertools
import os
import statistics
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from lit_tune.benching.timing import Figures, times
from lit_tune.data import order
from lit_tune.data.decoding import LIMITS, load_pixels
from lit_tune.data.examples import HostBatches, Recipe
from lit_tune.data.quarantine import Quarantine
from lit_tune.data.sample import Source
from lit_tune.data.sources import open_source
from lit_tune.data.transforms import Augment, train_transform

RECORDS, BATCH, SIZE = 2048, 1024, (16, 16)  # BATCH: a host's share in the paper's run on 64 hosts of v5e
CACHE = "LIT_TUNE_CACHE"
WIDTH = 768  # of the text vectors
COMMENT = b"\xff\xfe"  # a JPEG's segment that decoders skip, ITU-T T.81 B.2.4.5
MOST = 65_533  # bytes of one


class _Vectors:
    """A text side that costs as little as a cached one: a vector and an id."""

    def __init__(self) -> None:
        self._vector, self._id = np.ones(WIDTH, np.float32), np.ones(2, np.uint32)

    def row(self, index: int, choice: int) -> dict[str, np.ndarray]:
        """`ztxt` and `caption_id`."""
        del index, choice
        return {"ztxt": self._vector, "caption_id": self._id}


def measure(files: Sequence[bytes], repeats: int) -> Figures:
    """{us, mean_bytes}: CPU microseconds a record, of as many bytes as the pictures have.

    The pictures are replaced by ones of a few pixels, filled up to the same sizes. From making whole batches of them,
    as training does, is taken what their random numbers, decoding and resizing cost alone; it is small beside the rest.

    Args:
        files: JPEGs.
        repeats: turns.
    """
    tiny = [filled(len(data)) for data in files]
    recipe = Recipe(seed=0, image_size=SIZE, policy="clean", limits=LIMITS, augment=Augment(),
                    cache_bytes=0, canvas=0, captions="random")
    with tempfile.TemporaryDirectory() as folder, _cache_in(folder):
        source = _shard(Path(folder) / "records.tar", tiny)
        batches = HostBatches(source, _Vectors(), order.PlainOrder(len(source), 0, BATCH), recipe, np.arange(BATCH))
        quarantine = Quarantine(source, 0.0)
        step = itertools.count()

        def whole() -> None:
            batch = batches(next(step))
            quarantine.take(batch["tried"], batch["fault"])

        def pictures() -> None:
            for position in range(BATCH):
                rng = order.generator(0, position)
                rng.random()
                train_transform(load_pixels(tiny[position % len(tiny)], "clean"), rng, SIZE, recipe.augment)

        whole()  # warm
        pictures()
        found = times({"whole": whole, "pictures": pictures}, 3 * repeats)
    each = [(a - b) / BATCH for a, b in zip(found["whole"].cpu, found["pictures"].cpu, strict=True)]
    return {"us": 1e6 * statistics.median(each), "mean_bytes": sum(map(len, files)) / len(files)}


def filled(size: int) -> bytes:
    """A JPEG of 16 x 16 pixels with about `size` bytes, most of them in comments."""
    out = io.BytesIO()
    Image.new("RGB", SIZE, (90, 120, 150)).save(out, "JPEG")
    data, missing = out.getvalue(), size - out.tell()
    while missing > 4:
        part = min(missing, MOST) - 4
        data = data[:2] + COMMENT + (part + 2).to_bytes(2, "big") + bytes(part) + data[2:]
        missing -= part + 4
    return data


def _shard(path: Path, files: Sequence[bytes]) -> Source:
    """A tar of RECORDS pictures with captions, and its index."""
    with tarfile.open(path, "w") as tar:
        for number in range(RECORDS):
            for name, data in ((f"{number:06}.jpg", files[number % len(files)]), (f"{number:06}.txt", b"a caption")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return open_source(str(path), SimpleNamespace(caption_field="txt"))


@contextlib.contextmanager
def _cache_in(folder: str) -> Iterator[None]:
    """The index of a tar that is about to go is not kept in the user's cache."""
    before = os.environ.get(CACHE)
    os.environ[CACHE] = folder
    try:
        yield
    finally:
        os.environ.pop(CACHE) if before is None else os.environ.update({CACHE: before})
