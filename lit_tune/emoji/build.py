"""Rebuild the shipped pack of emoji drawings from public npm packages.

    python -m lit_tune.emoji.build --packages=FOLDER_OF_NPM_TARBALLS --out=lit_tune/emoji/pack

The same tarballs and the same versions of resvg-py and Pillow give the same bytes.
"""

import argparse
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from lit_tune.emoji.check import near_copies, training_images
from lit_tune.emoji.pack import read_images
from lit_tune.emoji.sources import ALL_SETS, TEST_SET, TRAIN_SETS, Concept, DrawingSet, read_concepts, read_drawings
from lit_tune.emoji.splits import DEV_UNSEEN_SET, choose_dev_concepts, read_held_out, strict_concepts
from lit_tune.errors import ConfigError, LitTuneError, explain

SIDE = 64
RASTER_SIDE = 256
QUALITY = 82
# Zip members carry a time; a fixed one keeps the bytes equal from run to run.
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


def render_webp(svg: str) -> bytes:
    """Return an SVG drawing as a 64 x 64 WebP on white, centred, aspect kept.

    Rendered four times as large first: the antialiased reduction keeps thin lines that a direct
    64 px rendering would break up.
    """
    try:
        import resvg_py
    except ImportError as error:
        get = "install the dev extra: pip install 'lit_tune[dev]'"
        raise ConfigError(
            explain("resvg-py, which draws SVG", expected="installed", found="missing", do=get)
        ) from error
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=RASTER_SIDE, skip_system_fonts=True))
    drawing = Image.open(io.BytesIO(png)).convert("RGBA")
    side = max(drawing.size)
    canvas = Image.new("RGBA", (side, side), "white")
    canvas.alpha_composite(drawing, ((side - drawing.width) // 2, (side - drawing.height) // 2))
    small = canvas.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, "WEBP", quality=QUALITY, method=6)
    return out.getvalue()


def write_zip(path: Path, members: Mapping[str, bytes]) -> None:
    """Write {name: bytes} as an uncompressed zip (WebP does not shrink further) with fixed times."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in sorted(members.items()):
            info = zipfile.ZipInfo(name, _ZIP_TIME)
            info.external_attr = 0o644 << 16
            archive.writestr(info, data)


def concept_rows(drawn: Mapping[str, set[str]], concepts: Mapping[str, Concept]) -> dict[str, dict[str, Any]]:
    """Return the rows of concepts.json; `drawn` is {set name: hexcodes drawn, held-out ones included}.

    `split` is held_out (never trained), dev (held out while tuning only) or train; `strict` marks held-out
    and dev concepts that are no flag and have no near twin among the concepts trained in that split;
    `near_copy`, added once the drawings exist, leaves a test picture out of the tests.
    """
    held_out = set(read_held_out())
    trained = set().union(*(drawn[item.name] for item in TRAIN_SETS)) - held_out
    dev = choose_dev_concepts(drawn[DEV_UNSEEN_SET] & trained)
    strict = strict_concepts(held_out, trained, concepts) | strict_concepts(dev, trained - dev, concepts)
    rows: dict[str, dict[str, Any]] = {}
    for hexcode in sorted(trained | (held_out & drawn[TEST_SET.name])):
        concept = concepts[hexcode]
        rows[hexcode] = {
            "label": concept.label,
            "keywords": list(concept.keywords),
            "group": concept.group,
            "subgroup": concept.subgroup,
            "split": "held_out" if hexcode in held_out else "dev" if hexcode in dev else "train",
            "strict": hexcode in strict,
        }
    return rows


def build(packages: Path, out: Path) -> dict[str, int]:
    """Write the pack into `out` and return {set name: drawings}; DataError names a missing tarball."""
    concepts = read_concepts(packages)
    drawings: dict[str, dict[str, str]] = {item.name: read_drawings(packages, item, concepts) for item in ALL_SETS}
    rows = concept_rows({name: set(items) for name, items in drawings.items()}, concepts)
    out.mkdir(parents=True, exist_ok=True)
    counts = {item.name: build_set(item, drawings[item.name], rows, out) for item in ALL_SETS}
    copies = near_copies(read_images(TEST_SET.name, out), training_images(out))
    for hexcode, row in rows.items():
        row["near_copy"] = hexcode in copies
    text = json.dumps(rows, ensure_ascii=False, indent=0, sort_keys=True)
    (out / "concepts.json").write_text(text + "\n", encoding="utf-8")
    return counts


def build_set(item: DrawingSet, drawings: Mapping[str, str], rows: Mapping[str, Any], out: Path) -> int:
    """Draw and write one set, without the held-out concepts if it is a training set; return the count."""
    kept = {
        hexcode: svg
        for hexcode, svg in drawings.items()
        if hexcode in rows and (item == TEST_SET or rows[hexcode]["split"] != "held_out")
    }
    write_zip(out / f"{item.name}.zip", {f"{hexcode}.webp": render_webp(svg) for hexcode, svg in kept.items()})
    return len(kept)


def main() -> None:
    """Read the command line, build the pack and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True, help="folder of npm tarballs (`npm pack NAME@VERSION`)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the pack into")
    arguments = parser.parse_args()
    try:
        counts = build(arguments.packages, arguments.out)
    except LitTuneError as error:
        parser.exit(error.exit_code, f"{error}\n")
    for name, count in counts.items():
        print(f"{name}: {count} drawings")


if __name__ == "__main__":
    main()
