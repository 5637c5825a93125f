"""Everything `lit-tune data inspect` tells about a data set, as one dict of JSON values."""

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from lit_tune.data.decoding import Limits, load_image
from lit_tune.data.inspecting import figures
from lit_tune.data.inspecting.lengths import Ruler
from lit_tune.data.inspecting.look import Plan, looks
from lit_tune.data.inspecting.tally import SHOWN, Tally, faults_report
from lit_tune.data.sample import BadSample, Source
from lit_tune.data.tar_index import FORMATS
from lit_tune.data.tar_source import TarSource

FIRST = 3  # samples shown whatever they hold
MOST_RECORDS = 100_000_000  # of the index, 12 bytes each, that are looked through at once


@dataclass(frozen=True)
class Rules:
    """What a run would do with the pictures: which policy decodes them and what is refused before."""

    policy: str = "clean"
    limits: Limits = Limits()


def inspect(source: Source, plan: Plan, ruler: Ruler, rules: Rules) -> dict[str, Any]:
    """The statistics of a source.

    Args:
        source: any source.
        plan: which samples are looked at and which are decoded.
        ruler: how captions are measured.
        rules: of the run that the data is for.

    Returns:
        `spec`, `pairs`, `shards`, `fingerprint`, `counts` (left out or noted, by reason), `problems` (one line a bad
        shard), `bytes`, `image_bytes`, `formats`, `sizes_from` ("index": these three are of all pairs; or "looked at"),
        `equal_pairs` (equal to an earlier one in picture, caption and json) and `empty_captions` (of no byte), both
        None where no index tells, `looked_at`, `pictures`, `captions`, `decoded`, `first`.
    """
    start, tally = time.perf_counter(), Tally(ruler)
    for block in looks(source, plan, rules.policy, rules.limits):
        tally.add(block)
    report = {
        "spec": source.spec,
        "pairs": len(source),
        "shards": len(getattr(source, "shards", ())),  # a source of other files may have none
        "fingerprint": source.fingerprint,
        "counts": {name: int(count) for name, count in source.counts.items() if count},
        "problems": list(getattr(source, "problems", ())),
        **_sizes(source, tally),
        "looked_at": {"count": tally.samples, "all": tally.samples == len(source), "seed": plan.seed,
                      "faults": faults_report(source, tally.faults)},
        "pictures": tally.pictures_report(source),
        "captions": tally.captions_report(source),
        "decoded": {"count": tally.decoded, "policy": rules.policy,
                    "faults": faults_report(source, tally.decode_faults)},
        "first": [_show(source, i, rules) for i in range(min(FIRST, len(source)))],
    }  # fmt: skip
    report["looked_at"]["seconds"] = time.perf_counter() - start
    return report


def _sizes(source: Source, tally: Tally) -> dict[str, Any]:
    """Encoded sizes and formats: of all pairs where an index holds them, else of what was looked at."""
    if not isinstance(source, TarSource) or len(source) > MOST_RECORDS:
        sizes = np.asarray(tally.size)
        return _sizes_report("looked at", sizes, dict(tally.formats.most_common()))
    left, empty, sizes, digests, formats = len(source), 0, [], [], Counter()
    for index in source.indexes():
        records = index.records[:left]
        left -= len(records)
        empty += int((records["text_size"] == 0).sum())
        sizes.append(records["image_size"].astype(np.uint32))
        digests.append(records["digest"].astype(np.uint64))
        formats.update(dict(zip(*np.unique(records["format"], return_counts=True), strict=True)))
    named = {FORMATS[int(number)]: int(count) for number, count in formats.most_common()}
    same = len(source) - len(np.unique(np.concatenate(digests)))
    return _sizes_report("index", np.concatenate(sizes), named, same, empty if source.caption_field == "txt" else None)


def _sizes_report(
    origin: str, sizes: np.ndarray, formats: dict[str, int], same: int | None = None, empty: int | None = None
) -> dict[str, Any]:
    return {
        "sizes_from": origin, "bytes": int(sizes.sum(dtype=np.uint64)), "formats": formats, "equal_pairs": same,
        "empty_captions": empty,
        "image_bytes": figures.summary(sizes) | {"histogram": figures.histogram(sizes)},
    }  # fmt: skip


def _show(source: Source, i: int, rules: Rules) -> dict[str, Any]:
    """Key, captions and picture size (width, height) of one sample, or what is wrong with it."""
    shown: dict[str, Any] = {"key": source.describe(i)[1], "captions": [], "size": [], "fault": ""}
    try:
        data, captions = source.pair(i, rules.limits.max_bytes)
        shown["captions"] = [caption[:SHOWN] for caption in captions]
        shown["size"] = list(load_image(data, rules.policy, rules.limits).size)
    except BadSample as bad:
        shown["fault"] = bad.kind
    return shown
