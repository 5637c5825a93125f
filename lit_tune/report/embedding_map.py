"""The panel that shows where pictures and texts lie beside each other, as inline SVG, from a task's stored details."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT, EDGE = 480, 400, 16  # view box
Place = Callable[[Sequence[float]], tuple[float, float]]


def panel(details: Mapping[str, Any]) -> str:
    """A section with the map as it is and with each modality's mean taken off; "" where none is stored.

    Args:
        details: as from `details.collect`.
    """
    stored = details.get("map")
    if stored is None:
        return ""
    figures = "".join(
        f"<figure><figcaption>{title}</figcaption>{_map(stored[name], stored['pairs'], title)}"
        f'<p class="soft">{escape(_told(stored[name], name))}</p></figure>'
        for name, title in (("raw", "As they are"), ("centred", "Each modality's mean taken off"))
    )
    kind = "captions" if details["kind"] == "retrieval" else "classes"
    return (
        '<section class="map"><h3>Where pictures and texts lie</h3><p class="soft">The two directions in which the '
        f"vectors of both together spread most (principal components). {_drawn(stored, 'pictures', 'pictures')}; "
        f"{_drawn(stored, 'texts', kind)}. Lines join some pictures, drawn at random, to a text of their own. Two "
        "directions of many: points that lie together here may lie apart in the whole space.</p>"
        '<div class="legend"><span class="dot"></span>pictures<span class="square"></span>texts'
        f'<span class="join"></span>a picture and its text</div><div class="charts">{figures}</div></section>'
    )


def _drawn(stored: Mapping[str, Any], name: str, word: str) -> str:
    """How many points there are of how many vectors."""
    shown, every = len(stored["raw"][name]), stored[name]
    return f"{every:,} {word}" if shown == every else f"{shown:,} of {every:,} {word}, drawn by seed"


def _told(view: Mapping[str, Any], name: str) -> str:
    """The map in words."""
    first, second = (f"{100 * share:.1f} %" for share in view["explained"])
    spread = f"Across lies {first} of the spread, upwards {second}."
    if name == "centred":
        return f"The two centroids fall together. {spread}"
    return f"The centroids of pictures and texts lie {_gap(view)} apart in the whole space (the modality gap). {spread}"


def _gap(view: Mapping[str, Any]) -> str:
    """The distance of the centroids."""
    return "an unknown distance" if view["gap"] is None else f"{view['gap']:.3f}"


def _map(view: Mapping[str, Any], pairs: Sequence[Sequence[Any]], title: str) -> str:
    """One `<svg>`."""
    place = _placed([*view["pictures"], *view["texts"]])
    told = f"{title}: {len(view['pictures'])} pictures as circles, {len(view['texts'])} texts as squares"
    parts = [f'<svg class="points" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(told)}">'
             f"<title>{escape(told)}</title>"]  # fmt: skip
    # one path a modality: thousands of elements would make the page slow
    parts.append(f'<path class="pictures" d="{_dots(view["pictures"], place)}"/>')
    parts.append(f'<path class="texts" d="{_squares(view["texts"], place)}"/>')
    for i, j, words in pairs:
        (x0, y0), (x1, y1) = place(view["pictures"][i]), place(view["texts"][j])
        line = f"M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}"
        parts.append(f'<path class="pair" d="{line}"><title>{escape(words)}</title></path>')
        parts.append(f'<circle class="picture" cx="{x0:.1f}" cy="{y0:.1f}" r="3.4"/>')
        parts.append(f'<rect class="text" x="{x1 - 3:.1f}" y="{y1 - 3:.1f}" width="6" height="6"/>')
    return "".join(parts) + _centres(view, place) + "</svg>"


def _placed(points: Sequence[Sequence[float]]) -> Place:
    """Where a point lies in the view box: one scale for both axes, so that distances can be compared."""
    low, high = ([edge(p[axis] for p in points) for axis in (0, 1)] for edge in (min, max))
    scale = min((size - 2 * EDGE) / max(high[axis] - low[axis], 1e-9) for axis, size in ((0, WIDTH), (1, HEIGHT)))
    middle = [(low[axis] + high[axis]) / 2 for axis in (0, 1)]
    return lambda p: (WIDTH / 2 + (p[0] - middle[0]) * scale, HEIGHT / 2 - (p[1] - middle[1]) * scale)


def _dots(points: Sequence[Sequence[float]], place: Place) -> str:
    """The path of all pictures: lines of no length, which round ends turn into circles."""
    return "".join("M{:.1f} {:.1f}h0".format(*place(p)) for p in points)


def _squares(points: Sequence[Sequence[float]], place: Place) -> str:
    """The path of all texts: the same with square ends."""
    return "".join("M{:.1f} {:.1f}h.01".format(*place(p)) for p in points)


def _centres(view: Mapping[str, Any], place: Place) -> str:
    """The centroids, the line between them and its figure, where they lie apart."""
    (x0, y0), (x1, y1) = (place(p) for p in view["centres"])
    parts = [f'<circle class="centre picture" cx="{x0:.1f}" cy="{y0:.1f}" r="7"/>',
             f'<rect class="centre text" x="{x1 - 6:.1f}" y="{y1 - 6:.1f}" width="12" height="12"/>']  # fmt: skip
    if view["gap"]:
        parts.insert(0, f'<path class="gap" d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}"/>')
        across = min(max((x0 + x1) / 2, 50), WIDTH - 50)
        parts.append(f'<text x="{across:.1f}" y="{max((y0 + y1) / 2 - 12, 14):.1f}">gap {view["gap"]:.3f}</text>')
    return "".join(parts)
