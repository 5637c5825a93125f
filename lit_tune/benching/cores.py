"""Ways from an encoded picture to what the step takes, what a second core adds, and how many cores a host needs."""

import os
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from importlib import metadata
from io import BytesIO
from multiprocessing import get_context

import numpy as np
import simplejpeg
from PIL import Image

from lit_tune.benching.timing import Figures
from lit_tune.data import transforms
from lit_tune.data.batch_memory import BatchMemory
from lit_tune.data.decoding import load_pixels
from lit_tune.planning.chips import CHIPS

SIZE = (224, 224)  # pixels
AUGMENT = transforms.Augment()  # crops of 0.9 to 1.0 of the area, the paper's
WAYS = {
    "raw decode": "raw decode (simplejpeg), nothing else",
    "pillow": "Pillow: decode, crop, bicubic (as contrastors and open_clip)",
    "host": "ours: decode, crop, antialiased bicubic",
    "device": "ours with resize_on=device: decode, crop",
}
HOSTS = (("v5e", 8), ("v5p", 8), ("v6e", 8))  # chips of a machine
MFU = 0.5  # share of the chips' bfloat16 peak that the step is taken to reach
BASE = "nomic_embed_vision_v1_5:best"  # the step: EVA02-B/16 at 224 px


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


def needed(us: Mapping[str, Mapping[str, float]]) -> dict[str, Figures]:
    """{host: pictures_per_s that its chips want, cores: {kind of pictures: {way: cores}}}.

    chips x peak x MFU / FLOPs of a training pair: the rate that `lit-tune plan` prints for its own MFU.

    Args:
        us: CPU microseconds a picture by kind and way.
    """
    from lit_tune import config, flops  # only here: they load jax

    pair = flops.per_pair(config.load(BASE, [("text.source", "cached")])).model
    found = {}
    for name, chips in HOSTS:
        rate = chips * CHIPS[name].peak * MFU / pair
        found[f"{name}-{chips}"] = {"pictures_per_s": rate, "cores": {
            kind: {way: rate * 1e-6 * ways[way] for way in WAYS} for kind, ways in us.items()}}  # fmt: skip
    return found


def told(hosts: Mapping[str, Figures]) -> list[str]:
    """Lines about `needed`."""
    lines = [f"cores a host needs at {MFU:.0%} of its chips' peak, {BASE} with cached text (Pillow / ours / ours with "
             "resize_on=device):"]  # fmt: skip
    for host, found in hosts.items():
        each = "; ".join(f"{kind} " + " / ".join(f"{ways[way]:.1f}" for way in ("pillow", "host", "device"))
                         for kind, ways in found["cores"].items())  # fmt: skip
        lines.append(f"  {host}: {found['pictures_per_s']:,.0f} pictures/s: {each}")
    return lines


def cores_here() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Of the packages that do the work."""
    return {name: metadata.version(name) for name in ("simplejpeg", "cykooz-resizer", "pillow", "numpy")}


