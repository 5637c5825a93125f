"""`lit-tune bench data [SHARDS]`, also `lit-tune data bench`: what a core makes of encoded pictures, and a host needs.

Everything is done in turns in one process, so that other load falls on all alike. Ratios are of CPU seconds of the same
turn, medians of all turns.
"""

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

from lit_tune.benching import cores, overhead, photos
from lit_tune.benching.timing import Figures, columns, ratio, times
from lit_tune.data import sources
from lit_tune.data.batch_memory import BatchMemory

PICTURES, REPEATS = 24, 7  # where the flags are absent
GOALS = {"over_pillow": 2.3, "host_of_raw": 0.78, "device_of_raw": 0.95, "scaling": 0.9, "record_us": 25.0}


def run(shards: str = "", *, pictures: int = PICTURES, repeats: int = REPEATS, caption_field: str = "txt",
        as_json: bool = False) -> int:
    """Measure and print; 0.

    Args: as `measure`.

    Raises: as `measure`.
    """
    found = measure(shards, pictures=pictures, repeats=repeats, caption_field=caption_field)
    sys.stdout.write((json.dumps(found, indent=1) if as_json else "\n".join(show(found))) + "\n")
    return 0


def measure(shards: str, *, pictures: int, repeats: int, caption_field: str = "txt") -> Figures:
    """Every key of `bench data --json` but the machine.

    Args:
        shards: as config.data.train, for its first JPEGs; "" for pictures that are made here.
        pictures: of each kind.
        repeats: turns.
        caption_field: as config.data.caption_field.

    Raises:
        ConfigError: wrong shards.
        DataError: none that can be read, or no JPEG.
    """
    kinds: dict[str, Figures] = {}
    for name, files, others in _kinds(shards, pictures, caption_field):
        kinds[name] = _decoding(files, repeats) | {"pictures": len(files), "other_formats": others,
                                                   "mean_bytes": sum(map(len, files)) / len(files)}  # fmt: skip
    name, files, _ = _kinds(shards, pictures, caption_field)[0]
    raw = kinds[name]["us"]["raw decode"]
    record = overhead.measure(files, repeats)
    return {"source": shards or "made here", "repeats": repeats, "kinds": kinds, "of": name,
            "record": record | {"of_decode": record["us"] / raw}, "scaling": cores.scaling(files, repeats),
            "hosts": cores.needed({kind: found["us"] for kind, found in kinds.items()}), "goals": GOALS,
            "versions": cores.versions()}  # fmt: skip


def _kinds(shards: str, pictures: int, caption_field: str) -> list[tuple[str, list[bytes], dict[str, int]]]:
    """(name, JPEGs, passed over) of each kind."""
    if not shards:
        return [(kind.name, photos.made(kind, pictures), {}) for kind in photos.KINDS]
    source = sources.open_source(shards, SimpleNamespace(caption_field=caption_field))
    files, others = photos.own(source, pictures)
    return [(shards, files, others)]


def _decoding(files: Sequence[bytes], repeats: int) -> Figures:
    """What was found for one kind of pictures.

    Returns:
        {canvas: data.canvas where the device resizes, us: CPU microseconds a picture by way, of_raw: share of raw
        decode's speed, over_pillow: times Pillow's}.
    """
    canvas = cores.canvas_of(files)
    do = partial(cores.do, files=files, memory=BatchMemory(), canvas=canvas)
    runs: dict[str, Callable[[], Any]] = {way: partial(do, way) for way in cores.WAYS}
    for one in runs.values():
        one()  # warm
    found = times(runs, repeats)
    raw, pillow = found["raw decode"].cpu, found["pillow"].cpu
    return {"canvas": canvas,
            "us": {way: 1e6 * statistics.median(took.cpu) / len(files) for way, took in found.items()},
            "of_raw": {way: ratio(raw, took.cpu) for way, took in found.items()},
            "over_pillow": {way: ratio(pillow, took.cpu) for way, took in found.items()}}  # fmt: skip


def show(found: Figures) -> list[str]:
    """The lines for people."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines = [f"pictures {found['source']}, median of {found['repeats']} turns; {versions}"]
    for name, kind in found["kinds"].items():
        others = "".join(f", {count} {form} passed over" for form, count in kind["other_formats"].items())
        size = kind["mean_bytes"] / 1e3
        lines.append(f"{name}: {kind['pictures']} JPEGs of {size:.1f} KB on average{others}; one core, "
                     f"data.canvas={kind['canvas']}")
        rows = [("", "us a picture", "pictures/s", "of raw decode", "times Pillow's")]
        rows += [(cores.WAYS[way], f"{us:,.0f}", f"{1e6 / us:,.0f}", f"{kind['of_raw'][way]:.2f}",
                  f"{kind['over_pillow'][way]:.2f}") for way, us in kind["us"].items()]
        lines += columns(rows)
    record, goals = found["record"], found["goals"]
    lines += [f"reading, index and batch: {record['us']:.1f} us a record of {record['mean_bytes'] / 1e3:.1f} KB, "
              f"{record['of_decode']:.1%} of decoding it (random access in one tar)"]
    lines += [f"from one core to two, {how}: {100 * part:.0f} % of twice the pictures"
              for how, part in found["scaling"].items()] or ["from one core to two: not measured, there is one"]
    lines += cores.told(found["hosts"])
    return [*lines, f"goals (512 px): {goals['over_pillow']} times Pillow's, {goals['host_of_raw']} of raw decode, "
                    f"{goals['device_of_raw']} where the device resizes; {goals['scaling']:.0%} of twice on two cores; "
                    f"{goals['record_us']:.0f} us a record"]  # fmt: skip

