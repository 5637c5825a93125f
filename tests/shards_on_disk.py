"""Small tar shards for tests, made and read by Python's own tarfile."""

import io
import json
import tarfile
from pathlib import Path

from PIL import Image


def encoded(image: Image.Image, form: str = "JPEG", **options) -> bytes:
    """An encoded picture."""
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def picture(number: int, size: tuple[int, int] = (16, 12)) -> bytes:
    """A small JPEG, another for each number."""
    return encoded(Image.new("RGB", size, (number * 37 % 256, number * 91 % 256, 50)))


def write(path: Path, members: list[tuple[str, bytes]]) -> Path:
    """A tar of these members."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def shard(path: Path, numbers: list[int | None], start: int = 0) -> Path:
    """A tar of one sample a number, which is its uid; None for a sample without one."""
    members = []
    for place, number in enumerate(numbers, start):
        meta = {"caption": f"text {place}", "width": 16, "original_width": 640}
        meta |= {} if number is None else {"uid": f"{number:032x}"}
        members += [(f"{place:09d}.jpg", picture(place)), (f"{place:09d}.txt", b"text %d" % place),
                    (f"{place:09d}.json", json.dumps(meta).encode())]
    return write(path, members)


def read(path: Path) -> list[tuple[str, dict[str, bytes]]]:
    """(key, {suffix: content}) of every sample of a tar, in order."""
    samples: list[tuple[str, dict[str, bytes]]] = []
    with tarfile.open(path) as tar:
        for member in tar:
            key, _, suffix = member.name.partition(".")
            if not samples or samples[-1][0] != key or suffix in samples[-1][1]:
                samples.append((key, {}))
            samples[-1][1][suffix] = tar.extractfile(member).read()
    return samples
