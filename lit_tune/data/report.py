"""What `lit-tune data inspect` says about a data set: a dict for scripts, lines for people."""

import os
from collections import Counter
from typing import Any

import numpy as np

from lit_tune.data.sample import BadSample, Source
from lit_tune.data.tar_index import FORMATS, image_format
from lit_tune.data.tar_source import TarSource
from lit_tune.data.transforms import load_image

FIRST = 3  # samples shown


def inspect(source: Source) -> dict[str, Any]:
    """Counts, sizes, problems and the first samples of a source; of the pictures only the first few are decoded.

    Returns:
        `spec`, `pairs`, `shards`, `bytes` of the encoded pictures, `image_bytes` (smallest, median, largest),
        `formats`, `same_content` (pairs equal to an earlier one), `captions` (in all, most of one sample), `counts` by
        reason, `problems` (one line a bad shard), `fingerprint`, `first`.
    """
    sizes, formats, same = _tar_numbers(source) if isinstance(source, TarSource) else _file_numbers(source)
    captions = [len(captions) for captions in source.caption_sets()]
    return {
        "spec": source.spec,
        "pairs": len(source),
        "shards": len(source.shards) if isinstance(source, TarSource) else 0,
        "bytes": int(sizes.sum()),
        "image_bytes": [int(sizes.min()), int(np.median(sizes)), int(sizes.max())],
        "formats": formats,
        "same_content": same,
        "captions": [sum(captions), max(captions)],
        "counts": {name: int(count) for name, count in source.counts.items() if count},
        "problems": source.problems if isinstance(source, TarSource) else [],
        "fingerprint": source.fingerprint,
        "first": [_show(source, i) for i in range(min(FIRST, len(source)))],
    }


def lines(report: dict[str, Any]) -> list[str]:
    """The report as text."""
    small, middle, large = report["image_bytes"]
    shards = f" in {report['shards']} shards" if report["shards"] else ""
    formats = ", ".join(f"{name} {count}" for name, count in report["formats"].items())
    counts = ", ".join(f"{name} {count}" for name, count in report["counts"].items()) or "none"
    out = [
        f"{report['spec']}: {report['pairs']} pairs{shards}, {report['bytes'] / 2**20:.1f} MiB of pictures",
        f"  picture bytes   {small} smallest, {middle} median, {large} largest",
        f"  formats         {formats}",
        f"  captions        {report['captions'][0]}, at most {report['captions'][1]} of one picture",
        f"  left out, noted {counts}",
        f"  same content    {report['same_content']} pairs repeat an earlier one",
        f"  fingerprint     {report['fingerprint']}",
    ]
    for first in report["first"]:
        size = "x".join(map(str, first["size"])) if first["size"] else first["fault"]
        out.append(f"  {first['key']}  {size}  {' | '.join(first['captions'])[:100]}")
    return out + [f"  problem: {problem}" for problem in report["problems"]]


def _tar_numbers(source: TarSource) -> tuple[np.ndarray, dict[str, int], int]:
    """Picture sizes, counts by format and repeated contents, from the indexes alone."""
    parts = [index.records[["image_size", "format", "digest"]] for index in source.indexes()]
    records = np.concatenate(parts)[: len(source)]
    formats = Counter(records["format"].tolist())
    named = {FORMATS[number]: count for number, count in sorted(formats.items())}
    return records["image_size"].astype(np.int64), named, len(records) - len(np.unique(records["digest"]))


def _file_numbers(source: Any) -> tuple[np.ndarray, dict[str, int], int]:
    """Picture sizes and counts by format of a folder; contents are not compared."""
    sizes, formats = [], Counter()
    for path in source.paths():
        with open(path, "rb") as file:
            formats[image_format(file.read(12))] += 1
            sizes.append(os.fstat(file.fileno()).st_size)
    return np.array(sizes, np.int64), dict(sorted(formats.items())), 0


def _show(source: Source, i: int) -> dict[str, Any]:
    """Key, captions and picture size (width, height) of one sample, or what is wrong with it."""
    shown: dict[str, Any] = {"key": source.describe(i)[1], "captions": [], "size": [], "fault": ""}
    try:
        sample = source[i]
        shown["captions"] = list(sample.captions)
        shown["size"] = list(load_image(sample.image, "clean").size)
    except BadSample as bad:
        shown["fault"] = bad.kind
    return shown
