"""Metrics as rows: each score beside what it has to be compared with, for the console and for the report."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lit_tune.evals.aggregate import main
from lit_tune.evals.results import Result

_SUFFIX = re.compile(r"_(chance|low|high|floor_\w+|ceiling_\w+)$")
_NO_RATE = re.compile(r"^(modality_gap(_centred)?|mixed_queries|equal_captions|count_\w+|linear_probe_(C|converged))$")
_WORDS = {"image_retrieval": "text to image", "text_retrieval": "image to text"}
_TITLES = {"mean_average_precision": "mAP", "mixed_same_modality@10": "same kind in 10"}
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
            name, other = direction.removeprefix("mixed_"), "mixed: " if direction.startswith("mixed_") else ""
            return f"{other}{_WORDS.get(name, name)} R@{k}"
        title = _TITLES.get(self.metric, self.metric)
        return title.replace("zeroshot/", "zero-shot ").replace("mean_per_class", "class mean")


def is_rate(metric: str) -> bool:
    """Whether a metric is a share, shown in per cent, and not a distance, a count or a setting."""
    return not _NO_RATE.match(metric)


def rows(metrics: Mapping[str, float]) -> list[Row]:
    """The rates with a chance level among `val/<set>/<metric>` in their order; other keys are passed over."""
    beside: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        match = _SUFFIX.search(key)
        if match:
            beside.setdefault(key[: match.start()], {})[match[1]] = value
    found = []
    for key, value in metrics.items():
        parts = key.split("/", 2)
        if len(parts) == 3 and parts[0] == "val" and is_rate(parts[2]) and "chance" in beside.get(key, {}):
            found.append(Row(parts[1], parts[2], value, beside[key]))
    return found


def tasks(results: Sequence[Result], averages: Mapping[str, float]) -> str:
    """One line a task: its main metric with interval and chance in per cent; then the averages. "" without results."""
    if not results:
        return ""
    lines = [f"{'per cent':<34} {'main metric':<22} {'score [95 % interval]':>22}{'chance':>9}"]
    for result in results:
        found = main(result)
        if found is None:
            lines.append(f"{result.dataset[:34]:<34} -")
            continue
        span = f"[{100 * found.low:5.1f}, {100 * found.high:5.1f}]" if None not in (found.low, found.high) else ""
        chance = result.metrics.get(f"{found.metric}_chance")
        beside = f"{100 * chance:9.1f}" if chance is not None else f"{'-':>9}"
        lines.append(f"{result.dataset[:34]:<34} {found.metric[:22]:<22} {100 * found.value:6.1f} {span:<15}{beside}")
    lines += [f"{name:<57} {100 * value:6.1f}" for name, value in averages.items()]
    return "\n".join(lines)


def column_title(name: str) -> str:
    """The short heading of a companion: "pixels" for "floor_pixels"."""
    return _COLUMNS.get(name, name.removeprefix("floor_").removeprefix("ceiling_"))


def sizes(metrics: Mapping[str, float], set_name: str) -> str:
    """ "191 pictures, 191 captions" of a set, as far as the counts are among the metrics."""
    counts = {what: metrics.get(f"val/{set_name}/{what}") for what in ("images", "captions")}
    words = {"images": "pictures", "captions": "captions"}
    return ", ".join(f"{count:,.0f} {words[what]}" for what, count in counts.items() if count is not None)


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
