"""Pictures by number to unit vectors: decoded ahead on every host, embedded on all devices of all hosts."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike

from lit_tune import sharding, tree
from lit_tune.model import BATCH, VisionEncoder
from lit_tune.models import two_towers
from lit_tune.models.functional import Tower

Picture = Callable[[int], np.ndarray]  # number of a picture -> uint8 (h, w, 3) as the tower sees it
Batch = tuple[int, list[tuple[int, np.ndarray]]]  # first picture, [(row, pixels)]
AHEAD = 2  # batches that are decoded while one is embedded


class Stopped(Exception):
    """The program was asked to stop in the middle of an evaluation; what is done of it can be taken up again."""


@runtime_checkable
class Embedder(Protocol):
    """What turns pictures into vectors.

    Attributes:
        waited: seconds so far that the devices waited for decoded pictures.
    """

    waited: float

    def vectors(self, params: tree.Tree, count: int, picture: Picture, start: int = 0) -> Iterator[np.ndarray]:
        """float32 unit vectors of the pictures `start` to `count - 1`, in order, a batch at a time.

        Every process passes the same arguments and gets all vectors; `picture` is called for its own rows only, from
        several threads.
        """
        ...


class MeshEmbedder:
    """A tower on all devices of a mesh.

    The last batch is padded and the padding cut off again, so sets of any size are embedded exactly, every picture
    once. A set smaller than a batch gets a smaller shape of its own.

    Args:
        tower: without parameters.
        size: (height, width) in pixels.
        mean, std: per channel, RGB in [0, 1].
        dtype: compute dtype of the tower; vectors are float32.
        mesh: all its devices take part.
        rows: pictures a batch over all devices, a multiple of the mesh's size.
    """

    def __init__(self, tower: Tower, size: Sequence[int], mean: Sequence[float], std: Sequence[float],
                 dtype: DTypeLike, mesh: Mesh, rows: int) -> None:  # fmt: skip
        self.size, self.rows = tuple(size), rows
        self.waited = 0.0
        self._unit = mesh.size
        self._batch_sharding, replicated = sharding.batch_sharding(mesh), sharding.replicated(mesh)

        patches = (size[0] // tower.spec.patch_size) * (size[1] // tower.spec.patch_size)
        kernel = two_towers.attention_kernel(tower.spec, "auto", mesh, patches=patches, dtype=dtype)

        @jax.jit
        def embed_batch(params: tree.Tree, image: jax.Array) -> jax.Array:
            zimg = two_towers.embed_image(tower, params, image, mean, std, dtype=dtype, kernel=kernel)
            return jax.lax.with_sharding_constraint(zimg, replicated)

        self._embed_batch = embed_batch

    def vectors(self, params: tree.Tree, count: int, picture: Picture, start: int = 0) -> Iterator[np.ndarray]:
        """As `Embedder.vectors`."""
        rows = self._rows(count)
        own = self._own(rows)
        for first, pixels in self._timed(decoded(range(start, count, rows), count, own, picture)):
            images = np.zeros((rows, *self.size, 3), np.uint8)  # rows of other processes are never touched
            for row, one in pixels:
                images[row] = one
            placed = jax.make_array_from_callback(images.shape, self._batch_sharding, images.__getitem__)
            zimg = np.asarray(self._embed_batch(params, placed).addressable_data(0))
            yield zimg[: count - first]

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches, the time until each is there counted."""
        while True:
            start = time.monotonic()
            batch = next(batches, None)
            self.waited += time.monotonic() - start
            if batch is None:
                return
            yield batch

    def _rows(self, count: int) -> int:
        """Rows of a batch for so many pictures: few shapes, so few compilations."""
        rows = self._unit
        while rows < min(count, self.rows):
            rows *= 2
        return min(rows, self.rows)

    def _own(self, rows: int) -> list[int]:
        """Rows of a batch that this process's devices hold."""
        shape = (rows, *self.size, 3)
        held = self._batch_sharding.addressable_devices_indices_map(shape).values()
        return sorted({row for index in held for row in range(*index[0].indices(rows))})


class EncoderEmbedder:
    """A vision encoder by itself, for towers that are no arrays of ours (an ONNX file): one process, one device."""

    def __init__(self, encoder: VisionEncoder) -> None:
        self._encoder = encoder
        self.waited = 0.0  # one after the other: waiting and computing are not told apart

    def vectors(self, params: tree.Tree, count: int, picture: Picture, start: int = 0) -> Iterator[np.ndarray]:
        """As `Embedder.vectors`; `params` are the encoder's own."""
        for _, pixels in decoded(range(start, count, BATCH), count, range(BATCH), picture):
            yield self._encoder.embed_pixels(np.stack([one for _, one in pixels]))


def decoded(
    firsts: Sequence[int], count: int, own: Sequence[int], picture: Picture
) -> Iterator[Batch]:
    """(first picture, [(row, pixels) of the own rows]) of each batch, AHEAD of them under way at a time.

    Args:
        firsts: number of each batch's first picture.
        count: pictures in all; rows past it are left out.
        own: rows of a batch to decode.
        picture: number -> pixels; what it raises is raised here, in the order of the pictures.
    """
    pool = ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1))
    waiting: deque[tuple[int, list[tuple[int, Future]]]] = deque()
    try:
        for first in firsts:
            waiting.append((first, [(row, pool.submit(picture, first + row)) for row in own if first + row < count]))
            if len(waiting) > AHEAD:
                yield _done(*waiting.popleft())
        while waiting:
            yield _done(*waiting.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _done(first: int, pending: list[tuple[int, Future]]) -> Batch:
    """A batch once all of it is decoded."""
    return first, [(row, future.result()) for row, future in pending]
