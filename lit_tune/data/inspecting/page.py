"""The statistics as one page: figures, histograms, pictures with their captions, repeats, bad ones. No script."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from lit_tune.data.inspecting import bars, text
from lit_tune.data.inspecting.pictures import Shown
from lit_tune.errors import ConfigError, explain
from lit_tune.files import write_atomically
from lit_tune.report.details_style import CSS as DETAILS_CSS
from lit_tune.report.style import CSS

# The page says itself that nothing may be loaded from anywhere.
_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title><style>{css}</style></head><body><main>
"""
_FOOT = """<footer class="soft">Everything on this page is inside this file; nothing is loaded from elsewhere.</footer>
</main></body></html>
"""
_CSS = """
table.list { width: auto; min-width: min(100%, 420px); }
.list td, .list th { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.list td:first-child, .list th:first-child { text-align: right; padding-right: 16px; white-space: nowrap; }
.cards img { margin-bottom: 6px; }
"""
_LAST = "The last bar of a histogram holds everything from its left edge on."
CHARACTERS = 300  # of a caption on the page


def write_page(path: Path, report: Mapping[str, Any], grid: Sequence[Shown], repeated: Sequence[Shown]) -> None:
    """Write the page; an old one is replaced in one rename.

    Args:
        path: of the HTML file.
        report: as from `statistics.inspect`.
        grid: drawn samples.
        repeated: one for each entry of the repeated pictures, in the same order, as many as there are.

    Raises:
        ConfigError: the file cannot be written.
    """
    title = f"Data: {report['spec']}"
    parts = [f"<h1>{escape(title)}</h1>", _facts(report), _problems(report), _pictures(report), _captions(report),
             _grid(grid), _repeats(report, repeated), _bad(report), _FOOT]  # fmt: skip
    page = _HEAD.format(title=escape(title), css=CSS + DETAILS_CSS + bars.CSS + _CSS) + "".join(parts)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A name on disk may hold bytes that are no text.
        write_atomically(path, page.encode("utf-8", "replace").decode())
    except OSError as error:
        raise ConfigError(explain(f"--html {path}", expected="room to write", found=error.strerror,
                                  do="name another file")) from error  # fmt: skip


def _facts(report: Mapping[str, Any]) -> str:
    """The data set in a few small cards."""
    pictures, captions = report["pictures"], report["captions"]
    facts = {
        "pairs": f"{report['pairs']:,}",
        "shards": f"{report['shards']:,}" if report["shards"] else "none",
        "encoded": text.volume(report),
        "looked at": text.looked_at(report),
        "formats": text.counted(report["formats"]),
        "modes": text.counted(pictures["modes"]),
        "transparent, CMYK, palette": f"{pictures['transparent']:,}, {pictures['cmyk']:,}, {pictures['palette']:,}",
        "turned by EXIF": f"{pictures['turned']:,}",
        "captions": f"{captions['count']:,}, at most {captions['most_of_one']:,} of one picture",
        "repeated": text.repeated(report),
        "left out or noted": text.left_out(report),
        "captions with U+FFFD": f"{captions['replacement_characters']:,}",
    }
    cards = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(said)}</dd></div>" for name, said in facts.items())
    return (f'<dl class="facts">{cards}</dl><p class="soft">Fingerprint {escape(report["fingerprint"])}. Sizes and '
            f"formats are of {'all pairs' if report['sizes_from'] == 'index' else 'the pairs looked at'}.</p>")


def _problems(report: Mapping[str, Any]) -> str:
    """Shards that cannot be trusted."""
    lines = "".join(f"<li>{escape(problem)}</li>" for problem in report["problems"])
    return f"<h2>Bad shards</h2><ul>{lines}</ul>" if lines else ""


def _pictures(report: Mapping[str, Any]) -> str:
    """Histograms of the pictures."""
    pictures = report["pictures"]
    return f'<h2>Pictures</h2><p class="soft">{_LAST}</p><div class="charts">' + "".join([
        _figure("Width", "pixels", pictures["width"]),
        _figure("Height", "pixels", pictures["height"]),
        _figure("Aspect ratio", "width to height", pictures["aspect_ratio"]),
        _figure("Encoded size", "bytes", report["image_bytes"]),
    ]) + "</div>"  # fmt: skip


def _captions(report: Mapping[str, Any]) -> str:
    """Histograms of the captions."""
    captions = report["captions"]
    length = captions["length"]
    charts = [_figure("Length", "characters", captions["characters"]),
              _figure("Length", length["unit"], length, length["max_length"])]  # fmt: skip
    return (f'<h2>Captions</h2><p class="soft">{escape(text.cut(length))}</p>'
            f'<div class="charts">{"".join(charts)}</div>')  # fmt: skip


def _figure(title: str, unit: str, found: Mapping[str, Any], limit: float | None = None) -> str:
    """A histogram under its title, the figures below it."""
    if not found["count"]:
        return ""
    label = _ratio if unit == "width to height" else _short
    chart = bars.svg(found["histogram"], f"{title}, {unit}", label, limit)
    return (f'<figure><figcaption>{escape(title)} <span class="soft">{escape(unit)}</span></figcaption>{chart}'
            f'<p class="soft">{escape(text.spread(found))}</p></figure>')  # fmt: skip


def _short(value: float) -> str:
    """An edge of lengths or sizes."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if letter == 'k' else size):.3g}{letter}"
    return f"{value:g}"


def _ratio(value: float) -> str:
    """An edge of aspect ratios, the smaller side as 1."""
    return f"1:{1 / value:.2g}" if 0 < value < 1 else f"{value:.2g}:1"


def _grid(grid: Sequence[Shown]) -> str:
    """Drawn samples."""
    cards = "".join(_card(shown) for shown in grid)
    return (f'<h2>Drawn by seed</h2><p class="soft">{len(grid)} of the pictures that were decoded.</p>'
            f'<ul class="cards">{cards}</ul>') if grid else ""  # fmt: skip


def _card(shown: Shown, words: str = "") -> str:
    """One picture with its captions."""
    lines = "".join(f"<p>{escape(_cut(caption))}</p>" for caption in shown.captions)
    note = f'<p class="soft">{escape(words or shown.note)}</p>'
    image = f'<img alt="" src="{escape(shown.uri)}">' if shown.uri else ""
    return f"<li>{image}{lines}{note}</li>"


def _cut(caption: str) -> str:
    return caption if len(caption) <= CHARACTERS else f"{caption[:CHARACTERS]} ..."


def _repeats(report: Mapping[str, Any], repeated: Sequence[Shown]) -> str:
    """The most frequent captions and pictures."""
    captions, pictures = report["captions"]["repeats"]["most"], report["pictures"]["repeats"]["most"]
    rows = [(f"{one['times']:,}", _cut(one["caption"])) for one in captions]
    words = [f"{one['times']:,} times: {', '.join('/'.join(name) for name in one['samples'])}" for one in pictures]
    cards = "".join(_card(shown, said) for shown, said in zip(repeated, words, strict=False))
    body = _table(("times", "caption"), rows) + (f'<ul class="cards">{cards}</ul>' if cards else "")
    return f'<h2>Repeated</h2><p class="soft">{escape(text.repeated(report))}</p>{body}'


def _bad(report: Mapping[str, Any]) -> str:
    """Samples that a run would replace."""
    decoded, looked = report["decoded"], report["looked_at"]
    parts = []
    for title, part in ((f"Headers and captions of {looked['count']:,} samples", looked),
                        (f"Decoding {decoded['count']:,} of them, policy {decoded['policy']}", decoded)):  # fmt: skip
        rows = [(f"{found['count']:,}", f"{kind}: {', '.join('/'.join(name) for name in found['first'])}")
                for kind, found in part["faults"].items()]  # fmt: skip
        table = _table(("samples", "kind and the first ones"), rows) or '<p class="soft">None is bad.</p>'
        parts.append(f"<h3>{escape(title)}</h3>{table}")
    return "<h2>Bad samples</h2>" + "".join(parts)


def _table(heads: tuple[str, str], rows: Sequence[tuple[str, str]]) -> str:
    """Two columns, "" without rows."""
    body = "".join(f"<tr><td>{escape(a)}</td><td>{escape(b)}</td></tr>" for a, b in rows)
    head = "".join(f'<th scope="col">{head}</th>' for head in heads)
    return f'<div class="wide"><table class="list"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>' \
        if rows else ""
