"""Tower descriptions: one JSON that says everything about a tower that its weights do not.

Architecture, eps of each norm, pooling, preprocessing or prefix, normalisation. Every checkpoint, import and export has
it, and nothing is guessed from shapes. In a folder `vision_tower.json` and `text_tower.json` also say which file holds
the weights, in whose layout, and its digest: so every kind of folder is read by the same few lines. A folder with an
image tower alone has no text_tower.json; where that tower was trained against vectors of a text model that was never
here, `aligned_to` in vision_tower.json says which.
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
from lit_tune.models import two_towers
from lit_tune.models.functional import Tower
from lit_tune.models.two_towers import VISION_FAMILIES, family_of
from lit_tune.models.vision import VisionSpec

FORMAT = 1
VISION_FILE, TEXT_FILE, TEXT_FOLDER = "vision_tower.json", "text_tower.json", "text"
VISION_WEIGHTS = "vision.safetensors"  # under our own names; a text tower's are in TEXT_FOLDER
WEIGHTS_KEYS = ("file", "layout", "sha256")
PREPROCESS = {  # keys of a vision description's "preprocess" -> what its values may be
    "image_size": "two whole numbers",
    "resize": ("shortest", "squash"),
    "interpolation": ("bicubic", "bilinear"),
    "policy": ("clean", "reference"),
    "mean": "three numbers",
    "std": "three numbers",
}
ALIGNED = "aligned_to"  # of a vision description: digest of the text vectors, or facts of the tower that made them
TEXT_KEYS = ("prefix", "max_length", "tokenizer", "normalize", "weights_sha256", "name")


def vision_description(spec: VisionSpec, preprocess: Mapping[str, Any]) -> dict[str, Any]:
    """The description of a vision tower.

    Args:
        spec: its architecture.
        preprocess: image_size (height, width), resize, interpolation, policy, mean, std; crop_pct where the centre crop
            keeps less than the whole side, as some of timm's models want it (absent: 1).
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


def of_run(config: ConfigDict) -> dict[str, Any]:
    """The description of the vision tower that a config trains."""
    return vision_description(two_towers.vision_spec(config), preprocess_of(config))


def aligned_to_vectors(page: Mapping[str, Any], made: Mapping[str, Any]) -> dict[str, Any]:
    """The description of a vision tower that was trained against text vectors brought from outside.

    Args:
        page: a vision description.
        made: what the vectors were made with, as the text cache has it: `vectors_sha256` of the file, or the
            fingerprint of the text tower. How its rows were matched with the pairs says nothing about their space.
    """
    return {**page, ALIGNED: {key: value for key, value in made.items() if key != "match"}}


def no_text_tower(dim: int) -> ConfigError:
    """The error for texts where only vectors of some text model were ever brought.

    Args:
        dim: width of the vectors.
    """
    return ConfigError(explain(
        "texts", expected="a text tower", found=f"vectors of {dim} numbers of a model brought from outside, without it",
        do="embed texts with the model that made the vectors; pictures need none"))


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
    if ALIGNED in page and not isinstance(page[ALIGNED], dict):
        raise ConfigError(explain(f"{where}: {ALIGNED}", expected="an object", found=type(page[ALIGNED]).__name__,
                                  do="restore the file"))
    return page


def read_description(path: Path) -> dict[str, Any]:
    """The checked description in a folder's file, its weights named.

    Raises:
        ConfigError: no such file, it is not one, or it names no weights.
    """
    page = validate(weight_files.read_config(path), str(path))
    found = page["weights"] if "weights" in page else {}
    missing = [key for key in WEIGHTS_KEYS if key not in found]
    if missing:
        raise ConfigError(explain(str(path), expected=f"the key weights.{missing[0]}", found="none",
                                  do="write the folder again"))
    return page


def weights_of(file: Path, layout: str, root: Path) -> dict[str, str]:
    """The part of a description that says where the weights are.

    Args:
        file: of the weights, below `root`.
        layout: whose names the arrays have: lit_tune | timm | nomic | hf | open_clip | onnx.
        root: the folder that the description lies in.
    """
    return {"file": file.relative_to(root).as_posix(), "layout": layout, "sha256": weight_files.sha256(file)}


def save_vision(folder: Path, page: Mapping[str, Any], file: Path, layout: str) -> None:
    """Write vision_tower.json into a folder, beside weights that were written by the layout's own writer.

    Args:
        page: a vision description.
        file: the weights, below `folder`.
        layout: as `weights_of`.
    """
    _write(folder / VISION_FILE, {**page, "weights": weights_of(file, layout, folder)})


def describe_text(folder: Path, page: Mapping[str, Any], file: Path, tokenizer: Path, layout: str) -> None:
    """Write text_tower.json into a folder, beside weights and a tokenizer that lie below it.

    Args:
        page: a text description.
        file: the weights.
        tokenizer: the tokenizer.json.
        layout: as `weights_of`.
    """
    text = {**page["text"], "tokenizer": tokenizer.relative_to(folder).as_posix()}
    _write(folder / TEXT_FILE, {**page, "text": text, "weights": weights_of(file, layout, folder)})


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
