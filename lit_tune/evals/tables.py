"""Metrics as rows: each score beside what it has to be compared with, for the console and for the report."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_SUFFIX = re.compile(r"_(chance|low|high|floor_\w+|ceiling_\w+)$")
_WORDS = {"image_retrieval": "text to image", "text_retrieval": "image to text"}
# short enough that a table with all of them stays under 100 characters
_COLUMNS = {
    "floor_pixels": "pixels",
    "floor_group_oracle": "group",
    "floor_majority": "majority",
    "ceiling_text": "text",
}


@dataclass(frozen=True)
class Row:
    """One score of one set, with its companions: chance, low, high, floor_<name>, ceiling_<name> where known."""

    set_name: str
    metric: str
    score: float
    beside: dict[str, float]

    @property
    def title(self) -> str:
        """The metric in words: "text to image R@5", "zero-shot top1"."""
        direction, at, k = self.metric.partition("_recall@")
        if at:
            return f"{_WORDS.get(direction, direction)} R@{k}"
        return self.metric.replace("zeroshot/", "zero-shot ").replace("mean_per_class", "class mean")


def rows(metrics: Mapping[str, float]) -> list[Row]:
    """The rates among `val/<set>/<metric>` in their order; other keys (losses, counts) are passed over.

    A rate is a metric with a chance level.
    """
    beside: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        match = _SUFFIX.search(key)
        if match:
            beside.setdefault(key[: match.start()], {})[match[1]] = value
    found = []
    for key, value in metrics.items():
        parts = key.split("/", 2)
        if len(parts) == 3 and parts[0] == "val" and "chance" in beside.get(key, {}):
            found.append(Row(parts[1], parts[2], value, beside[key]))
    return found


def column_title(name: str) -> str:
    """The short heading of a companion: "pixels" for "floor_pixels"."""
    return _COLUMNS.get(name, name.removeprefix("floor_").removeprefix("ceiling_"))


def sizes(metrics: Mapping[str, float], set_name: str) -> str:
    """ "191 pictures, 191 captions" of a set, or "" where the counts are not among the metrics."""
    counts = [metrics.get(f"val/{set_name}/{what}") for what in ("images", "captions")]
    if None in counts:
        return ""
    return f"{counts[0]:,.0f} pictures, {counts[1]:,.0f} captions"


def table(metrics: Mapping[str, float]) -> str:
    """All scores in per cent as aligned plain text, under 100 characters wide: `score [low, high]`, chance, floors."""
    lines: list[str] = []
    every = rows(metrics)
    for name in dict.fromkeys(row.set_name for row in every):
        lines += ["", *_block(name, sizes(metrics, name), [row for row in every if row.set_name == name])]
    return "\n".join(lines[1:])


def _block(name: str, size: str, block: list[Row]) -> list[str]:
    """The lines of one set."""
    columns = companions(block)
    heads = "".join(f"{column_title(c)[:9]:>10}" for c in columns)
    lines = [f"{name} ({size})" if size else name, f"  {'per cent':<20} {'score [95 % interval]':>22}{heads}"]
    for row in block:
        low, high = (row.beside.get(end) for end in ("low", "high"))
        span = f"[{100 * low:5.1f}, {100 * high:5.1f}]" if low is not None and high is not None else ""
        cells = "".join(f"{100 * row.beside[c]:10.1f}" if c in row.beside else f"{'-':>10}" for c in columns)
        lines.append(f"  {row.title:<20} {100 * row.score:6.1f} {span:<15}{cells}")
    return lines


def companions(block: list[Row]) -> list[str]:
    """Names of the companions that any row has, chance first, ceilings last, intervals left out."""
    names = dict.fromkeys(name for row in block for name in row.beside if name not in ("low", "high", "chance"))
    ordered = sorted(names, key=lambda name: name.startswith("ceiling"))
    return ["chance", *ordered]
