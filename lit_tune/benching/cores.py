"""Ways from an encoded picture to what the step takes, and what a second core adds."""

import os
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from importlib import metadata
from io import BytesIO
from multiprocessing import get_context

import numpy as np
import simplejpeg
from PIL import Image

from lit_tune.data import transforms
from lit_tune.data.batch_memory import BatchMemory
from lit_tune.data.decoding import load_pixels

SIZE = (224, 224)  # pixels
AUGMENT = transforms.Augment()  # crops of 0.9 to 1.0 of the area, the paper's
WAYS = {
    "raw decode": "raw decode (simplejpeg), nothing else",
    "pillow": "Pillow: decode, crop, bicubic (as contrastors and open_clip)",
    "host": "ours: decode, crop, antialiased bicubic",
    "device": "ours with resize_on=device: decode, crop",
}


def do(way: str, files: Sequence[bytes], memory: BatchMemory, canvas: int = 0) -> None:
    """All pictures, one of the WAYS, each into its row of a batch in `memory`; "device" needs a canvas."""
    rng = np.random.default_rng(0)
    if way == "raw decode":
        for data in files:
            simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False)
        return
    shape = (canvas, canvas) if way == "device" else SIZE
    batch = memory.take((len(files), *shape, 3))
    for row, data in zip(batch, files, strict=True):
        if way == "pillow":
            row[:] = _pillow(data, rng)
        elif way == "host":
            row[:] = transforms.train_transform(load_pixels(data, "clean"), rng, SIZE, AUGMENT)
        else:
            transforms.train_crop(load_pixels(data, "clean", canvas=row), rng, AUGMENT, row)


def canvas_of(files: Sequence[bytes]) -> int:
    """What config.data.canvas should be for these JPEGs: their longest side, or the step's pictures'."""
    return max(*SIZE, *(max(simplejpeg.decode_jpeg_header(data)[:2]) for data in files))


def _pillow(data: bytes, rng: np.random.Generator) -> np.ndarray:
    """A training crop the usual way. Source: torchvision's RandomResizedCrop on a Pillow picture."""
    image = Image.open(BytesIO(data)).convert("RGB")
    box = transforms.crop_box(image.width, image.height, rng, AUGMENT.crop_scale, AUGMENT.crop_ratio)
    left, top, width, height = box
    cut = image.crop((left, top, left + width, top + height))
    return np.asarray(cut.resize(SIZE[::-1], Image.Resampling.BICUBIC))


def scaling(files: Sequence[bytes], repeats: int) -> dict[str, float]:
    """{"threads", "processes"}: pictures a second of two, over twice those of one, medians; {} on a single core.

    Args:
        files: JPEGs; each thread or process does all of them in the host's way.
        repeats: turns.
    """
    if cores_here() < 2:
        return {}
    found = {}
    with (ThreadPoolExecutor(2) as threads, ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes):
        for how, pool in (("threads", threads), ("processes", processes)):
            _both(pool, 2, files)  # warm: both are there
            turns = [(_both(pool, 1, files), _both(pool, 2, files)) for _ in range(repeats)]
            found[how] = statistics.median(one / two for one, two in turns)
    return found


def _both(pool: Executor, count: int, files: Sequence[bytes]) -> float:
    """Seconds by the clock that `count` workers take, each with all pictures."""
    start = time.perf_counter()
    for done in [pool.submit(do, "host", files, BatchMemory()) for _ in range(count)]:
        done.result()
    return time.perf_counter() - start


def cores_here() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Of the packages that do the work."""
    return {name: metadata.version(name) for name in ("simplejpeg", "cykooz-resizer", "pillow", "numpy")}
