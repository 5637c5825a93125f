"""A shard of pictures in every mode and format that is read, made by Pillow and tarfile."""

import io
import tarfile

import numpy as np
from PIL import Image

SCRIPT = '<script>alert("x")</script> & </style>'


def encoded(mode, size, kind, color=0, **options):
    file = io.BytesIO()
    Image.new(mode, size, color).save(file, kind, **options)
    return file.getvalue()


def turned(size):
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded("RGB", size, "JPEG", exif=exif)


def odd_pictures():
    """Encoded pictures of many modes and formats, two of them equal."""
    noise = np.random.default_rng(3).integers(0, 255, (40, 90, 3), np.uint8)
    rough = io.BytesIO()
    Image.fromarray(noise).save(rough, "PNG")
    return [
        encoded("RGB", (20, 10), "JPEG"), encoded("L", (11, 33), "JPEG", 90), encoded("CMYK", (50, 50), "JPEG"),
        encoded("RGBA", (64, 48), "PNG"), encoded("LA", (7, 70), "PNG"), encoded("1", (300, 8), "PNG"),
        encoded("I;16", (31, 30), "PNG"), encoded("P", (20, 20), "PNG", transparency=0), encoded("P", (20, 21), "PNG"),
        encoded("RGB", (64, 64), "WEBP", (9, 9, 9)), encoded("RGBA", (64, 65), "WEBP"), encoded("RGB", (9, 9), "BMP"),
        encoded("P", (33, 44), "GIF"), turned((80, 60)), encoded("RGB", (20, 10), "JPEG"), rough.getvalue(),
    ]  # fmt: skip


def write_tar(path, samples):
    """A shard of (picture, caption as text or bytes) pairs."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, (image, caption) in enumerate(samples):
            raw = caption if isinstance(caption, bytes) else caption.encode()
            for suffix, data in (("jpg", image), ("txt", raw)):
                info = tarfile.TarInfo(f"{number:04d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def captions_for(count):
    return [("a dog", "two words", "a dog", SCRIPT, "ein Hund, der läuft", "犬")[i % 6] for i in range(count)]
