"""What is seen of one sample: its captions and the header of its picture; of some pictures also whether they decode."""

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

from lit_tune.data.decoding import EXIF_ORIENTATION, READERS, Limits, check_size, load_image
from lit_tune.data.sample import BadSample, Source
from lit_tune.data.tar_index import image_format

BLOCK = 4_096  # samples looked at before their results are counted


@dataclass(frozen=True)
class Picture:
    """What a picture's header and its encoded bytes tell."""

    width: int  # pixels, as stored: before any EXIF orientation
    height: int
    mode: str  # Pillow's word
    format: str
    transparent: bool  # an alpha channel, or a palette or grey value that means "see through"
    turned: bool  # EXIF orientation other than upright
    size: int  # encoded bytes
    digest: int  # of the encoded bytes, 64 bits


@dataclass(frozen=True)
class Look:
    """One sample.

    Attributes:
        index: of the sample in its source.
        captions: the usable ones; () for a sample without.
        picture: None where the header does not read, or nothing did.
        fault: one of KINDS, "" for a sample that looks usable.
        decode_fault: what decoding found, likewise; None where that was not tried, as the header was bad already or the
            sample was not drawn for it.
    """

    index: int
    captions: tuple[str, ...]
    picture: Picture | None
    fault: str
    decode_fault: str | None


@dataclass(frozen=True)
class Plan:
    """Which samples are looked at, and which of them are decoded: rising indices, drawn by seed."""

    looked_at: np.ndarray
    decoded: np.ndarray
    seed: int


def draw(count: int, sample: int, decode: int, seed: int) -> Plan:
    """All samples where there are at most `sample`, else so many of them; `decode` of these are to be decoded.

    Args:
        count: samples there are.
        sample: most to look at.
        decode: most to decode.
        seed: of both draws.
    """
    rng = np.random.default_rng(seed)
    looked_at = np.arange(count) if count <= sample else np.sort(rng.choice(count, sample, replace=False))
    decoded = looked_at if len(looked_at) <= decode else np.sort(rng.choice(looked_at, decode, replace=False))
    return Plan(looked_at, decoded, seed)


def looks(source: Source, plan: Plan, policy: str, limits: Limits) -> Iterator[list[Look]]:
    """The samples of a plan in index order, a block at a time, read and decoded by one thread a core.

    Args:
        source: the samples.
        plan: which ones.
        policy: "clean" or "reference", for the ones that are decoded.
        limits: bytes and pixels above which a picture is refused.
    """
    wanted = set(plan.decoded.tolist())
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for start in range(0, len(plan.looked_at), BLOCK):
            block = plan.looked_at[start : start + BLOCK].tolist()
            one = partial(look, source, policy=policy, limits=limits)
            yield list(pool.map(one, block, [index in wanted for index in block]))


def look(source: Source, index: int, decode: bool, *, policy: str, limits: Limits) -> Look:
    """One sample; whatever is wrong with it is in the answer, not raised."""
    try:
        data, captions = source.pair(index, limits.max_bytes)
    except BadSample as bad:
        return Look(index, _captions(source, index), None, bad.kind, None)
    try:
        image = header(data, limits)
    except BadSample as bad:
        return Look(index, captions, None, bad.kind, None)
    return Look(index, captions, _picture(image, data), "", _decode(data, policy, limits) if decode else None)


def header(data: bytes, limits: Limits) -> Image.Image:
    """The picture with nothing but its header read. Raises BadSample, of the kinds that `load_image` would give."""
    if not data:
        raise BadSample("empty_image")
    kind = image_format(data[:12])
    if kind not in READERS:
        raise BadSample("unknown_format")
    try:
        image = READERS[kind](io.BytesIO(data))
    except Exception as error:  # Pillow's readers raise a dozen types on hostile bytes
        raise BadSample("undecodable") from error
    check_size(image.width, image.height, limits)
    return image


def _picture(image: Image.Image, data: bytes) -> Picture:
    """What is remembered of a picture."""
    digest = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
    kind = image_format(data[:12])
    return Picture(*image.size, image.mode, kind, image.has_transparency_data, _turned(image), len(data), digest)


def _turned(image: Image.Image) -> bool:
    """Whether EXIF says that the picture is not upright; unreadable EXIF says nothing."""
    if "exif" not in image.info:
        return False
    try:
        return image.getexif().get(EXIF_ORIENTATION, 1) in range(2, 9)
    except Exception:  # EXIF is a TIFF file of its own, broken in many ways
        return False


def _captions(source: Source, index: int) -> tuple[str, ...]:
    """The captions of a sample whose picture could not be had, if it has some."""
    try:
        return source.captions(index)
    except BadSample:
        return ()


def _decode(data: bytes, policy: str, limits: Limits) -> str:
    """The kind of fault that decoding meets, "" for none."""
    try:
        load_image(data, policy, limits)
    except BadSample as bad:
        return bad.kind
    return ""


def names(source: Source, indices: Sequence[int]) -> list[list[str]]:
    """[shard or file, key] of samples."""
    return [list(source.describe(index)) for index in indices]
