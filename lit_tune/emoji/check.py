"""Check the shipped pack for leaks: `python -m lit_tune.emoji.check` prints counts or says what is wrong."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from lit_tune.emoji.pack import PACK_FOLDER, REBUILD, read_images, read_rows
from lit_tune.emoji.sources import ALL_SETS, TEST_SET, TRAIN_SETS
from lit_tune.emoji.splits import read_held_out
from lit_tune.errors import DataError, explain

SIDE = 64
REDUCED_SIDE = 16
# Root mean square difference on the 0-255 scale, over 64 x 64 x 3 values. Below it lie only plain squares,
# diamonds and marks that all vendors draw alike; the nearest pair of truly different drawings is at 12.
NEAR_COPY = 10.0


def decode(image: bytes) -> np.ndarray:
    """Return one picture as uint8 of shape (64, 64, 3)."""
    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))


def reduce(pixels: np.ndarray) -> np.ndarray:
    """Return (n, 64, 64, 3) pictures averaged over 4 x 4 blocks and flattened: float32 (n, 768)."""
    step = SIDE // REDUCED_SIDE
    blocks = pixels.reshape(len(pixels), REDUCED_SIDE, step, REDUCED_SIDE, step, 3)
    return blocks.mean((2, 4), dtype=np.float32).reshape(len(pixels), -1)


def near_copies(
    tests: Mapping[str, bytes], training: Mapping[tuple[str, str], bytes], limit: float = NEAR_COPY
) -> dict[str, tuple[str, str, float]]:
    """Return {test hexcode: (set, hexcode, difference)} of the training picture closer than `limit`, if any.

    `training` is keyed by (set, hexcode). The difference is the root mean square over all pixels.
    Averaging never raises it, so pairs that differ by `limit` after reduction need no full comparison.
    """
    test_keys, train_keys = list(tests), list(training)
    test_pixels = np.stack([decode(tests[key]) for key in test_keys])
    train_pixels = np.stack([decode(training[key]) for key in train_keys])
    left, right = reduce(test_pixels), reduce(train_pixels)
    squared = (left**2).sum(1)[:, None] + (right**2).sum(1) - 2 * left @ right.T
    # One grey level of slack: the expanded square loses digits in float32.
    candidates = np.argwhere(squared / left.shape[1] < (limit + 1) ** 2)
    found: dict[str, tuple[str, str, float]] = {}
    for row, column in candidates:
        difference = test_pixels[row].astype(np.float32) - train_pixels[column]
        distance = float(np.sqrt((difference**2).mean()))
        key = test_keys[row]
        if distance < limit and (key not in found or distance < found[key][2]):
            found[key] = (*train_keys[column], distance)
    return found


def training_images(folder: Path = PACK_FOLDER) -> dict[tuple[str, str], bytes]:
    """Return {(set, hexcode): WebP bytes} of the five training sets."""
    return {
        (item.name, hexcode): image for item in TRAIN_SETS for hexcode, image in read_images(item.name, folder).items()
    }


def require(what: str, expected: set[str], found: set[str]) -> None:
    """Raise DataError, with the first few differences, unless both sets of hexcodes are equal."""
    if expected != found:
        missing, extra = sorted(expected - found)[:5], sorted(found - expected)[:5]
        raise DataError(
            explain(what, expected=len(expected), found=f"{len(found)} (missing {missing}, extra {extra})", do=REBUILD)
        )


def check_pack(folder: Path = PACK_FOLDER) -> dict[str, int]:
    """Return the counts of the pack; DataError if a test picture or a held-out concept leaks into training."""
    rows, held_out = read_rows(folder), set(read_held_out())
    training, tests = training_images(folder), read_images(TEST_SET.name, folder)
    require("held-out concepts in training sets", set(), {hexcode for _, hexcode in training} & held_out)
    require("held-out concepts without a test picture", set(), held_out - set(tests))
    require("held-out concepts of the pack", held_out, {key for key, row in rows.items() if row["split"] == "held_out"})
    marked = {hexcode for hexcode, row in rows.items() if row["near_copy"]}
    require("test pictures marked as near copies of training pictures", set(near_copies(tests, training)), marked)
    counts = {item.name: len(read_images(item.name, folder)) for item in ALL_SETS}
    return counts | {
        "training pairs": len(training),
        "trained concepts": len({hexcode for _, hexcode in training}),
        "held-out concepts": len(held_out),
        "strict held-out concepts": sum(rows[hexcode]["strict"] for hexcode in held_out),
        "dev concepts": sum(row["split"] == "dev" for row in rows.values()),
        "test pictures left out as near copies": len(marked),
        "bytes": sum(path.stat().st_size for path in folder.iterdir()),
    }


if __name__ == "__main__":
    for name, count in check_pack().items():
        print(f"{name}: {count}")
