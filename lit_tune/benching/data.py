"""`lit-tune bench data [SHARDS]`, also `lit-tune data bench`: what a core makes of encoded pictures, and a host needs.

Everything is done in turns in one process, so that other load falls on all alike. Ratios are of CPU seconds of the same
turn, medians of all turns.
"""

import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

from lit_tune.benching import cores, hosts, overhead, photos, resume
from lit_tune.benching.timing import Figures, columns, ratio, times
from lit_tune.data import sources
from lit_tune.data.batch_memory import BatchMemory
from lit_tune.data.convert import Encoding, smaller
from lit_tune.errors import ConfigError, explain

PICTURES, REPEATS = 24, 7  # where the flags are absent
ENCODING = Encoding()  # what `data convert --to=tar` does where no flag says otherwise
SMALL = f"the same by data convert, {ENCODING.size} px q{ENCODING.quality}"
GOALS = {"over_pillow": 2.3, "host_of_raw": 0.78, "device_of_raw": 0.95, "scaling": 0.9, "record_us": 25.0,
         "small_over_pillow": 4.6}


def run(shards: str = "", *, count: int = PICTURES, repeats: int = REPEATS, caption_field: str = "txt",
        as_json: bool = False) -> int:
    """Measure and print; 0.

    Args: as `measure`.

    Raises: as `measure`.
    """
    found = measure(shards, count=count, repeats=repeats, caption_field=caption_field)
    sys.stdout.write((json.dumps(found, indent=1) if as_json else "\n".join(show(found))) + "\n")
    return 0


def measure(shards: str, *, count: int, repeats: int, caption_field: str = "txt", pictures: str = "",
            plans: Sequence[str] = ()) -> Figures:
    """Every key of `bench data --json` but the machine.

    Args:
        shards: as config.data.train, for its first JPEGs; "" for photographs or pictures that are made here.
        count: pictures of each kind.
        repeats: turns.
        caption_field: as config.data.caption_field.
        pictures: without shards: as `photos.pictures`.
        plans: files that `lit-tune plan --json` wrote, for the rates of hosts; none for the shipped plans.

    Raises:
        ConfigError: wrong shards, pictures or plans.
        DataError: none that can be read, or no JPEG.
    """
    rates = hosts.planned(plans)
    source, name, files, others = _pictures(shards, count, caption_field, pictures)
    kinds = {name: files, SMALL: [smaller(data, ENCODING)[0] for data in files]}
    measured = _decoding(kinds, repeats)
    measured[name]["other_formats"] = others
    raw = measured[name]["us"]["raw decode"]
    record = overhead.measure(files, repeats)
    return {"source": source, "repeats": repeats, "kinds": measured, "of": name,
            "record": record | {"of_decode": record["us"] / raw}, "scaling": cores.scaling(files, repeats),
            "resume": resume.measure(repeats),
            "hosts": hosts.needed({kind: found["us"] for kind, found in measured.items()}, rates), "goals": GOALS,
            "versions": cores.versions()}  # fmt: skip


def _pictures(shards: str, count: int, caption_field: str,
              pictures: str) -> tuple[str, str, list[bytes], dict[str, int]]:
    """(where they are from, a name for them, JPEGs, how many of other formats were passed over)."""
    if not shards:
        source, files = photos.pictures(pictures, count)
        return source, photos.KIND.name, files, {}
    if pictures:
        raise ConfigError(explain("bench data", expected="SHARDS or --pictures", found="both", do="leave one out"))
    return shards, shards, *photos.own(sources.open_source(shards, SimpleNamespace(caption_field=caption_field)), count)


def _decoding(kinds: Mapping[str, Sequence[bytes]], repeats: int) -> Figures:
    """What was found for each kind of pictures, all of them in the same turns.

    Args:
        kinds: JPEGs by name; the first kind is what the others are compared with.
        repeats: turns.

    Returns:
        {kind: {pictures, mean_bytes, other_formats, canvas: data.canvas where the device resizes, us: CPU microseconds
        a picture by way, of_raw: share of raw decode's speed, over_pillow: times Pillow's, over_first: times as fast
        as the same way with the first kind, over_first_pillow: times as fast as Pillow with the first kind}}.
    """
    runs: dict[str, Callable[[], Any]] = {}
    canvas = {kind: cores.canvas_of(files) for kind, files in kinds.items()}
    for kind, files in kinds.items():
        do = partial(cores.do, files=files, memory=BatchMemory(), canvas=canvas[kind])
        runs |= {f"{kind}/{way}": partial(do, way) for way in cores.WAYS}
    for one in runs.values():
        one()  # warm
    took = {name: [seconds / len(kinds[name.rpartition("/")[0]]) for seconds in one.cpu]
            for name, one in times(runs, repeats).items()}  # fmt: skip
    first, found = next(iter(kinds)), {}
    for kind, files in kinds.items():
        own = {way: took[f"{kind}/{way}"] for way in cores.WAYS}
        found[kind] = {
            "pictures": len(files), "mean_bytes": sum(map(len, files)) / len(files), "other_formats": {},
            "canvas": canvas[kind], "us": {way: 1e6 * statistics.median(one) for way, one in own.items()},
            "of_raw": {way: ratio(own["raw decode"], one) for way, one in own.items()},
            "over_pillow": {way: ratio(own["pillow"], one) for way, one in own.items()},
            "over_first": {way: ratio(took[f"{first}/{way}"], one) for way, one in own.items()},
            "over_first_pillow": {way: ratio(took[f"{first}/pillow"], one) for way, one in own.items()}}
    return found


def show(found: Figures) -> list[str]:
    """The lines for people."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines = [f"pictures: {found['source']}", f"median of {found['repeats']} turns; {versions}"]
    for name, kind in found["kinds"].items():
        others = "".join(f", {count} {form} passed over" for form, count in kind["other_formats"].items())
        size = kind["mean_bytes"] / 1e3
        lines.append(f"{name}: {kind['pictures']} JPEGs of {size:.1f} KB on average{others}; one core, "
                     f"data.canvas={kind['canvas']}")
        rows = [("", "us a picture", "pictures/s", "of raw decode", "times Pillow's")]
        rows += [(cores.WAYS[way], f"{us:,.0f}", f"{1e6 / us:,.0f}", f"{kind['of_raw'][way]:.2f}",
                  f"{kind['over_pillow'][way]:.2f}") for way, us in kind["us"].items()]
        lines += columns(rows)
        if name != found["of"]:
            lines.append(_small(kind, found["of"]))
    record, goals = found["record"], found["goals"]
    lines += [f"reading, index and batch: {record['us']:.1f} us a record of {record['mean_bytes'] / 1e3:.1f} KB, "
              f"{record['of_decode']:.1%} of decoding it (random access in one tar)"]
    lines += [f"from one core to two, {how}: {100 * part:.0f} % of twice the pictures"
              for how, part in found["scaling"].items()] or ["from one core to two: not measured, there is one"]
    lines += resume.told(found["resume"]) + hosts.told(found["hosts"])
    return [*lines, f"goals (512 px): {goals['over_pillow']} times Pillow's, {goals['host_of_raw']} of raw decode, "
                    f"{goals['device_of_raw']} where the device resizes; {goals['small_over_pillow']} times "
                    f"Pillow's at 512 px from shards at 256; {goals['scaling']:.0%} of twice on two cores; "
                    f"{goals['record_us']:.0f} us a record"]  # fmt: skip


def _small(kind: Figures, first: str) -> str:
    """The line that compares a kind with the first one."""
    ways = ("pillow", "host", "device")
    own, over = (" / ".join(f"{kind[name][way]:.1f}" for way in ways) for name in ("over_first", "over_first_pillow"))
    return (f"  Pillow / ours / ours with resize_on=device: {own} times as fast as the same way with {first}, {over} "
            f"times as fast as Pillow with {first}")  # fmt: skip
