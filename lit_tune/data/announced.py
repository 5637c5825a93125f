"""How many samples a shard should hold, by the files that its writers put beside it."""

import json
import os
from functools import lru_cache
from pathlib import Path

from lit_tune.errors import DataError, explain


def expected_samples(path: Path) -> int:
    """Samples that `sizes.json` (DataComp) or `NAME_stats.json` (img2dataset) announce for a shard; -1 for neither.

    Raises:
        DataError: such a file is there but says no number.
    """
    sizes, stats = path.with_name("sizes.json"), path.with_name(f"{path.stem}_stats.json")
    for file, field in ((sizes, path.name), (stats, "successes")):
        try:
            state = os.stat(file)
            value = _announced(file, state.st_size, state.st_mtime_ns, state.st_ino).get(field)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise DataError(
                explain(str(file), expected="a JSON object with sample counts", found=error, do="mend or remove it")
            ) from error
        if isinstance(value, int):
            return value
    return -1


@lru_cache(maxsize=64)  # sizes.json has a line for every shard: parsed for each of them it would be quadratic
def _announced(file: Path, size: int, mtime_ns: int, inode: int) -> dict[str, object]:
    """The object in a JSON file; the other arguments say which state of it."""
    del size, mtime_ns, inode
    fields = json.loads(file.read_bytes())
    if not isinstance(fields, dict):
        raise ValueError(type(fields).__name__)
    return fields
