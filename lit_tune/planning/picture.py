"""A sweep as a picture: memory of a device against time of a step, one mark a plan; an SVG that stands by itself."""

from collections.abc import Sequence
from html import escape
from typing import Any

from lit_tune.report.chart import ticks

WIDTH, HEIGHT = 720, 440  # view box
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 60, 56
COLOURS = ("#2563eb", "#d97706", "#0d9488", "#9333ea", "#dc2626", "#64748b")  # as the report's
STYLE = """
svg { background: #ffffff; font: 13px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
text { fill: #1c2430; } .soft { fill: #5a6675; } .grid { stroke: #dfe4ea; } .axis { stroke: #5a6675; fill: none; }
.limit { stroke-dasharray: 5 4; stroke-width: 1.5; } .mark { stroke-width: 2; } .span { stroke-width: 2; }
"""
Figures = dict[str, Any]


def draw(rows: Sequence[Figures], title: str) -> str:
    """The SVG; plans that do not fit stand as hollow marks on the axis, at the memory that they want.

    Args:
        rows: plans, of at most six slices.
        title: above.
    """
    fitting = [one for one in rows if one["fits"]]
    sized = [one for one in rows if one["hbm_peak_gib"] is not None]
    slices = list(dict.fromkeys(_slice(one) for one in rows))
    widest = 1.15 * max([one["hbm_limit_gib"] for one in rows] + [one["hbm_peak_gib"] for one in fitting])
    x_ticks = ticks(0.0, widest)
    y_ticks = ticks(0.0, max([one["est_ms_high"] for one in fitting], default=1.0))
    across, up = x_ticks[-1], y_ticks[-1]

    def place(gib: float, ms: float) -> tuple[float, float]:
        """Where a point lies in the view box."""
        return (LEFT + min(gib, across) / across * (WIDTH - LEFT - RIGHT),
                HEIGHT - BOTTOM - ms / up * (HEIGHT - BOTTOM - TOP))

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
             f"<title>{escape(title)}</title><style>{STYLE}</style>",
             _text(LEFT, 22, title, "start", "font-weight='600'"), *_frame(x_ticks, y_ticks, place)]
    for number, name in enumerate(slices):
        colour = COLOURS[number % len(COLOURS)]
        mine = [one for one in sized if _slice(one) == name]
        limit = next(one["hbm_limit_gib"] for one in rows if _slice(one) == name)
        x = place(limit, 0)[0]
        parts.append(f'<line class="limit" stroke="{colour}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" '
                     f'y2="{HEIGHT - BOTTOM}"><title>{escape(name)}: {limit:g} GiB a device</title></line>')
        parts.append(_text(LEFT + 150 * number, 44, f"● {name}", "start", f"style='fill:{colour}'"))
        parts += [_mark(one, colour, place) for one in mine]
    return "\n".join(parts) + "\n</svg>\n"


def _slice(one: Figures) -> str:
    """A slice's name."""
    return one["topology"] + (f" x{one['slices']}" if one["slices"] > 1 else "")


def _frame(x_ticks: Sequence[float], y_ticks: Sequence[float], place: Any) -> list[str]:
    """Axes, their ticks and names."""
    bottom = HEIGHT - BOTTOM
    parts = []
    for gib in x_ticks:
        parts.append(_text(place(gib, 0)[0], bottom + 18, f"{gib:g}", "middle", "class='soft'"))
    for ms in y_ticks:
        y = place(0, ms)[1]
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{ms:,g}", "end", "class='soft'"))
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{WIDTH - RIGHT}"/>')
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14,
                       "GiB a device at the peak (dashed: what there is; hollow: does not fit)", "middle"))
    parts.append(_text(0, 0, "ms a step, low to high", "middle",
                       f"transform='translate(18 {(TOP + bottom) / 2}) rotate(-90)'"))
    return parts


def _mark(one: Figures, colour: str, place: Any) -> str:
    """One plan: a line from its low to its high time, with its policy and parts beside it."""
    label = one["remat"] + (f", {one['micro_batches']} parts" if one["micro_batches"] > 1 else "")
    if not one["fits"]:
        x, y = place(one["hbm_peak_gib"], 0)
        return (f'<circle class="mark" fill="#ffffff" stroke="{colour}" cx="{x:.1f}" cy="{y:.1f}" r="5"><title>'
                f'{escape(label)}: wants {one["hbm_peak_gib"]:g} GiB</title></circle>')
    (x, low), (_, high) = (place(one["hbm_peak_gib"], one[f"est_ms_{end}"]) for end in ("low", "high"))
    said = f"{label}: {one['hbm_peak_gib']:g} GiB, {one['est_ms_low']:.0f} to {one['est_ms_high']:.0f} ms"
    # names of marks near the right edge stand to their left
    anchor, shift = ("end", -10) if x > WIDTH - 170 else ("start", 10)
    return (f'<line class="span" stroke="{colour}" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
            f'<circle fill="{colour}" cx="{x:.1f}" cy="{(low + high) / 2:.1f}" r="5"><title>{escape(said)}</title>'
            f"</circle>{_text(x + shift, (low + high) / 2 + 4, label, anchor)}")


def _text(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    """One piece of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(text)}</text>'
