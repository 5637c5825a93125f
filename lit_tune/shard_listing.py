"""Which shards a run was started with: `shards.json` of its directory, read only to say what has changed. No jax."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from lit_tune.files import write_atomically

DIGITS = 16  # of a digest that are kept


def write(file: Any, shards: Sequence[tuple[str, str]]) -> None:
    """Keep the list; no file where there are no shards.

    Args:
        file: where to.
        shards: (name, digest) of each, in order.
    """
    if shards:
        write_atomically(file, "[\n" + ",\n".join(json.dumps(pair) for pair in _short(shards)) + "\n]\n")
    else:
        file.unlink(missing_ok=True)  # of a first start that trained nothing


def differences(file: Any, shards: Sequence[tuple[str, str]]) -> dict[str, str]:
    """{shard: what happened to it} for every shard that is not as recorded; {} where nothing was recorded."""
    try:
        recorded = [(name, digest) for name, digest in json.loads(file.read_text())]
    except (OSError, ValueError, TypeError):
        return {}
    now = _short(shards)
    gone, new = Counter(recorded) - Counter(now), Counter(now) - Counter(recorded)
    known, present = {digest: name for name, digest in recorded}, {name for name, _ in new}
    found = {name: "gone" for name, _ in gone if name not in present}
    for name, digest in new:
        if any(name == other for other, _ in gone):
            found[name] = "of another content"
        else:
            found[name] = f"new, with the content of {known[digest]}" if digest in known else "new"
    if not found and recorded != now:
        place = next(i for i, (one, other) in enumerate(zip(recorded, now, strict=True)) if one != other)
        found[now[place][0]] = f"in the place of {recorded[place][0]}"
    return found


def _short(shards: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The pairs as they are kept."""
    return [(name, digest[:DIGITS]) for name, digest in shards]
