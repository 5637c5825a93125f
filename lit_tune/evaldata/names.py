"""Class names and prompt templates: from text files, or from the JSON files in the installed clip-benchmark package."""

import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lit_tune.evaldata.pieces import wrong

FILES = {"classnames": "en_classnames.json", "templates": "en_zeroshot_classification_templates.json"}
# what clip_benchmark takes for data sets without an entry: 80 templates of ImageNet for all of its relatives
LIKE = {
    "classnames": dict.fromkeys(("imagenetv2", "imagenet_sketch"), "imagenet1k"),
    "templates": dict.fromkeys(
        ("imagenetv2", "imagenet_sketch", "imagenet-a", "imagenet-o", "imagenet-r", "objectnet"), "imagenet1k"
    ),
}
INSTALL = "pip install clip-benchmark, or give --classnames=FILE and --templates=FILE"


def read_classnames(file: Path) -> tuple[str, ...]:
    """The class names in a text file, one a line, stripped; line number = class number from 0.

    Raises:
        ConfigError: no such file, not UTF-8, no names, or an empty line among them.
    """
    return _lines(file, "a class name")


def read_templates(file: Path) -> tuple[str, ...]:
    """The templates in a text file, one a line, with {} where the name goes ({c} in the file is the same).

    Raises:
        ConfigError: no such file, not UTF-8, no templates, an empty line among them, or one without such a place.
    """
    return places(_lines(file, "a template"), file)


def places(templates: Iterable[str], where: object) -> tuple[str, ...]:
    """Templates with {} for {c}.

    Raises:
        ConfigError: one has neither.
    """
    found = tuple(template.replace("{c}", "{}") for template in templates)
    for number, template in enumerate(found, 1):
        if "{}" not in template:
            do = "write {c} where the class name goes"
            raise wrong(f"{where} line {number}", "a template with {c}", repr(template), do)
    return found


def named_classes(name: str) -> tuple[str, ...]:
    """The class names that the installed clip-benchmark package holds for a data set.

    Args:
        name: as there, "imagenet1k"; a "vtab/" in front does not matter.

    Raises:
        ConfigError: the package is not installed, or does not hold the name.
    """
    return tuple(_packaged("classnames", name))


def named_templates(name: str) -> tuple[str, ...]:
    """The templates that the installed clip-benchmark package holds for a data set, {} where the name goes.

    Raises:
        ConfigError: the package is not installed, or does not hold the name.
    """
    return places(_packaged("templates", name), f"clip-benchmark's templates of {name}")


def _packaged(what: str, name: str) -> Any:
    """The entry of a data set in one of the package's JSON files; the package itself is never imported: it needs torch.

    Source: clip_benchmark/datasets/en_*.json of clip-benchmark 1.6; their keys carry no "vtab/".
    """
    spec = importlib.util.find_spec("clip_benchmark")
    if spec is None or not spec.submodule_search_locations:
        raise wrong(f"{what} of {name}", "the clip-benchmark package, which holds them", "it is not installed", INSTALL)
    file = Path(next(iter(spec.submodule_search_locations))) / "datasets" / FILES[what]
    try:
        entries = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise wrong(file, "a JSON file of clip-benchmark 1.6", error, INSTALL) from error
    bare = LIKE[what].get(name, _bare(name))
    # caltech101 there is another release of the data than VTAB's, with its own order of classes
    keys = (f"{bare}_vtab", bare) if name.startswith("vtab/") else (bare,)
    key = next((key for key in keys if key in entries), None)
    if key is None:
        raise wrong(file, f"an entry {bare}", "none", "give --classnames=FILE and --templates=FILE")
    return entries[key]


def _bare(name: str) -> str:
    """A data set's name without the collection in front."""
    return name.rpartition("/")[2]


def _lines(file: Path, each: str) -> tuple[str, ...]:
    """The stripped lines of a text file; empty ones at its end do not count."""
    try:
        lines = [line.strip() for line in file.read_text("utf-8-sig").splitlines()]
    except FileNotFoundError:
        raise wrong(file, f"{each} a line", "no such file", "add it or name another") from None
    except (OSError, UnicodeDecodeError) as error:
        raise wrong(file, f"{each} a line in UTF-8", error, "save it as such") from error
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise wrong(file, f"{each} a line", "an empty file", "fill it in or name another")
    if "" in lines:  # left out, it would move every later class by one
        raise wrong(f"{file} line {lines.index('') + 1}", each, "an empty line", "remove it or fill it in")
    return tuple(lines)
