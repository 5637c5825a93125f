"""The statistics as a few lines for a terminal."""

from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import Any

from lit_tune.errors import printable

WIDE = 100  # characters of a caption
FIRST = 2  # samples named of each kind of fault


def lines(report: Mapping[str, Any]) -> list[str]:
    """The report as text, as short as it can be; `--json` holds everything."""
    pictures, captions = report["pictures"], report["captions"]
    shards = f" in {report['shards']:,} shards" if report["shards"] else ""
    out = [
        f"{report['spec']}: {report['pairs']:,} pairs{shards}, {volume(report)}",
        f"looked at       {looked_at(report)}",
        f"picture bytes   {spread(report['image_bytes'])}",
        f"formats         {counted(report['formats'])}",
        f"width, height   {spread(pictures['width'])}; {spread(pictures['height'])}",
        f"aspect ratio    {spread(pictures['aspect_ratio'])}",
        f"modes           {counted(pictures['modes'])}{_marks(pictures)}",
        f"captions        {captions['count']:,}, at most {captions['most_of_one']:,} of one picture",
        f"  characters    {spread(captions['characters'])}",
        f"  {captions['length']['unit']:<13} {spread(captions['length'])}",
        f"                {shorten(cut(captions['length']), 160, placeholder=' ... (--json tells more)')}",
        f"repeated        {repeated(report)}",
        *_most(captions["repeats"]["most"]),
        f"left out, noted {left_out(report)}",
        f"bad             {_faults(report['looked_at'])}",
        f"decoded         {report['decoded']['count']:,} ({report['decoded']['policy']}); bad: "
        f"{_faults(report['decoded'])}",
        f"fingerprint     {report['fingerprint']}",
    ]
    for first in report["first"]:
        size = "x".join(map(str, first["size"])) if first["size"] else first["fault"]
        out.append(f"{first['key']}  {size}  {' | '.join(first['captions'])[:WIDE]}")
    out = [out[0], *(f"  {line}" for line in out[1:]), *(f"  problem: {problem}" for problem in report["problems"])]
    return [printable(line) for line in out]


def volume(report: Mapping[str, Any]) -> str:
    """Encoded pictures in MiB."""
    partly = report["sizes_from"] == "looked at" and not report["looked_at"]["all"]
    return f"{report['bytes'] / 2**20:,.1f} MiB of pictures{' among those looked at' if partly else ''}"


def looked_at(report: Mapping[str, Any]) -> str:
    """How much of the data set the figures are of."""
    looked = report["looked_at"]
    if looked["all"]:
        return f"all {looked['count']:,}"
    return f"{looked['count']:,} of {report['pairs']:,}, drawn by seed {looked['seed']} (--sample=N for more)"


def counted(counts: Mapping[str, int]) -> str:
    """"JPEG 12, PNG 3" of counts by name."""
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"


def left_out(report: Mapping[str, Any]) -> str:
    """Counts of what is not in the source, or is in it but odd; of the short captions also those of no byte."""
    empty = report["empty_captions"]
    return counted(report["counts"]) + (f" (of no byte: {empty:,})" if empty else "")


def cut(length: Mapping[str, Any]) -> str:
    """What max_length cuts, or why that is not known."""
    if length["cut"] is None:
        return f"words, not tokens: {length['note']}"
    share = f"{length['cut']:,} ({length['cut_share']:.2%})"
    return f"{share} cut at {length['max_length']:,} tokens; {length['note']}"


def repeated(report: Mapping[str, Any]) -> str:
    """Shares of captions, pictures and whole pairs that are equal to an earlier one."""
    captions, pictures = report["captions"]["repeats"], report["pictures"]["repeats"]
    parts = [f"captions {captions['repeated']:,} ({captions['share']:.2%})",
             f"pictures {pictures['repeated']:,} ({pictures['share']:.2%})"]  # fmt: skip
    if report["equal_pairs"] is not None:
        parts.append(f"pairs with their json {report['equal_pairs']:,}")
    return ", ".join(parts) + ("" if report["looked_at"]["all"] else "; among those looked at: more in all")


def _most(repeats: Sequence[Mapping[str, Any]]) -> list[str]:
    """The most frequent caption, if one repeats."""
    return [f"  most often    {repeats[0]['times']:,} times: {repeats[0]['caption'][:WIDE]}"] if repeats else []


def spread(found: Mapping[str, Any]) -> str:
    """Median, where the middle nine tenths lie, and the ends of a summary."""
    if not found["count"]:
        return "none"
    if found["min"] == found["max"]:
        return f"all {_number(found['min'])}"
    low, p5, median, p95, high = (_number(found[name]) for name in ("min", "p5", "median", "p95", "max"))
    return f"median {median}, nine tenths {p5} to {p95}, all {low} to {high}"


def _number(value: float) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"


def _marks(pictures: Mapping[str, Any]) -> str:
    """Pictures that a policy treats in its own way."""
    named = {"transparent": "transparent", "cmyk": "CMYK", "turned": "turned by EXIF"}
    found = [f"{words} {pictures[name]:,}" for name, words in named.items() if pictures[name]]
    return f" ({', '.join(found)})" if found else ""


def _faults(part: Mapping[str, Any]) -> str:
    """Counts by kind with the first samples."""
    named = [f"{kind} {found['count']:,} ({', '.join('/'.join(name) for name in found['first'][:FIRST])})"
             for kind, found in part["faults"].items()]  # fmt: skip
    return ", ".join(named) or "none"
