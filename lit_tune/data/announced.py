"""How many samples a shard should hold, by the files that its writers put beside it."""

import json
from functools import lru_cache

from lit_tune.data import storage
from lit_tune.data.address import Address
from lit_tune.data.storage import Location
from lit_tune.errors import DataError, explain


def expected_samples(path: Location) -> int:
    """Samples that `sizes.json` (DataComp) or `NAME_stats.json` (img2dataset) announce for a shard; -1 for neither.

    Raises:
        DataError: such a file is there but says no number.
    """
    sizes, stats = path.with_name("sizes.json"), path.with_name(f"{path.stem}_stats.json")
    for file, field in ((sizes, path.name), (stats, "successes")):
        try:
            fields = _announced(file, storage.state(file))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            if isinstance(error, PermissionError) and isinstance(file, Address):
                continue  # S3's answer to those who may not list, where an object is absent
            raise DataError(
                explain(str(file), expected="a JSON object with sample counts", found=error, do="mend or remove it")
            ) from error
        if field not in fields:
            continue
        value = fields[field]
        if type(value) is not int or value < 0:  # True is an int too
            raise DataError(explain(str(file), expected=f"a count of samples in {field}", found=repr(value),
                                    do="mend or remove it"))
        return value
    return -1


@lru_cache(maxsize=64)  # sizes.json has a line for every shard: parsed for each of them it would be quadratic
def _announced(file: Location, state: storage.State) -> dict[str, object]:
    """The object in a JSON file; the other argument says which state of it."""
    del state
    fields = json.loads(storage.read_beside(file))
    if not isinstance(fields, dict):
        raise ValueError(type(fields).__name__)
    return fields
