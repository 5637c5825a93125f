"""Tower descriptions: one JSON that says everything about a tower that its weights do not.

Architecture, eps of each norm, pooling, preprocessing or prefix, normalisation. Every checkpoint and every export has
it, and nothing is guessed from shapes. `vision_tower.json` and `text_tower.json` are the names of the files.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lit_tune import __version__
from lit_tune.convert import weights as weight_files
from lit_tune.errors import ConfigError, explain
from lit_tune.models.functional import Tower
from lit_tune.models.two_towers import VISION_FAMILIES, family_of
from lit_tune.models.vision import VisionSpec
from lit_tune.text.encode import TextEncoder

FORMAT = 1
VISION_FILE, TEXT_FILE, TEXT_FOLDER = "vision_tower.json", "text_tower.json", "text"
PREPROCESS = {  # keys of a vision description's "preprocess" -> what its values may be
    "image_size": "two whole numbers",
    "resize": ("shortest", "squash"),
    "interpolation": ("bicubic",),
    "policy": ("clean", "reference"),
    "mean": "three numbers",
    "std": "three numbers",
}
TEXT_KEYS = ("prefix", "max_length", "tokenizer", "normalize", "weights_sha256", "name")


def vision_description(spec: VisionSpec, preprocess: Mapping[str, Any]) -> dict[str, Any]:
    """The description of a vision tower.

    Args:
        spec: its architecture.
        preprocess: image_size (height, width), resize, interpolation, policy, mean, std.
    """
    page = {"format": FORMAT, "kind": "vision", "family": family_of(spec), "spec": dataclasses.asdict(spec)}
    page |= {"preprocess": dict(preprocess), "version": __version__}
    return validate(json.loads(json.dumps(page)), VISION_FILE)


def preprocess_of(config: ConfigDict) -> dict[str, Any]:
    """How a run's evaluation brings pictures to its tower."""
    data = config.data
    return {
        "image_size": list(config.vision.image_size),
        "resize": data.resize,
        "interpolation": "bicubic",
        "policy": data.policy,
        "mean": list(data.mean),
        "std": list(data.std),
    }


def validate(page: Any, where: str) -> dict[str, Any]:
    """The description itself, once it is known to be whole.

    Args:
        page: what was read.
        where: the file, for the error.

    Raises:
        ConfigError: of another format, or a part is missing or not one of the allowed values.
    """
    if not isinstance(page, dict) or page.get("format") != FORMAT:
        found = page.get("format") if isinstance(page, dict) else type(page).__name__
        do = "use the version of lit_tune that wrote it"
        raise ConfigError(explain(where, expected=f"a tower description of format {FORMAT}", found=found, do=do))
    part = {"vision": "preprocess", "text": "text"}.get(page.get("kind"), "kind")
    for key in ("kind", "family", "spec", part):
        if key not in page:
            raise ConfigError(explain(where, expected=f"the key {key!r}", found="none", do="restore the file"))
    needed = PREPROCESS if part == "preprocess" else TEXT_KEYS
    missing = [key for key in needed if key not in page[part]]
    if part == "kind" or missing:
        found = f"kind {page['kind']!r}" if part == "kind" else f"no {part}.{missing[0]}"
        raise ConfigError(explain(where, expected="a vision or text description", found=found, do="restore the file"))
    for key, allowed in PREPROCESS.items() if part == "preprocess" else ():
        if isinstance(allowed, tuple) and page[part][key] not in allowed:
            expected = " or ".join(allowed)
            raise ConfigError(explain(f"{where}: {key}", expected=expected, found=page[part][key], do="correct it"))
    return page


def read_description(path: Path) -> dict[str, Any]:
    """The checked description in a file.

    Raises:
        ConfigError: no such file, or it is not one.
    """
    return validate(weight_files.read_config(path), str(path))


def save_vision(folder: Path, spec: VisionSpec, preprocess: Mapping[str, Any]) -> None:
    """Write vision_tower.json into an export folder, whose weights are written by the format's own writer."""
    _write(folder / VISION_FILE, vision_description(spec, preprocess))


def save_text(folder: Path, encoder: TextEncoder) -> None:
    """Write folder/text: the text tower's own files unchanged, and text_tower.json."""
    target = folder / TEXT_FOLDER
    target.mkdir(parents=True, exist_ok=True)
    encoder.copy_files(target)
    _write(target / TEXT_FILE, encoder.description)


def _write(path: Path, page: Mapping[str, Any]) -> None:
    """Write JSON by rename."""
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(json.dumps(page, indent=2) + "\n")
    temporary.replace(path)


def vision_tower(description: Mapping[str, Any]) -> Tower:
    """The vision tower of a description, without parameters.

    Raises:
        ConfigError: an unknown family, or a spec that this version does not know.
    """
    family = description["family"]
    if family not in VISION_FAMILIES:
        expected = f"family {' or '.join(VISION_FAMILIES)}"
        raise ConfigError(explain(VISION_FILE, expected=expected, found=family, do="use a newer lit_tune"))
    spec_class, tower_class = VISION_FAMILIES[family]
    # JSON has no tuples, a spec no lists
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in description["spec"].items()}
    try:
        return Tower(tower_class, spec_class(**fields))
    except TypeError as error:
        do = "use the version of lit_tune that wrote it"
        expected = f"the fields of {spec_class.__name__}"
        raise ConfigError(explain(VISION_FILE, expected=expected, found=error, do=do)) from error
