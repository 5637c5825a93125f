"""What a starting model says of itself, as settings: so that `--config.vision.init_from=DIR` needs no sizes beside it.

Read from vision_tower.json of an import or export, or config.json of a run, without jax.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_tune.errors import ConfigError, explain

DESCRIPTION, RUN = "vision_tower.json", "config.json"
# Keys of config.vision that say how a run treats its tower, and the width that has to fit the new run's text tower.
OWN = ("init_from", "init_spec", "init_resample", "freeze_blocks", "attention", "remat", "patch_dropout", "embed_dim")
HEAD = ("embed_bias", "embed_square")  # of the projection: the starting model's only where its width is kept
DATA = ("mean", "std", "policy", "resize")


def settings(init_from: str, defaults: Mapping[str, Any], embed_dim: int) -> dict[str, Any]:
    """{dotted key: value} of every architecture key of config.vision but `embed_dim`, and of data's mean, std...

    Args:
        init_from: a run directory, an import or an export, or the weight file in one.
        defaults: config.vision of configs/common.py: the values of keys that the description does not have.
        embed_dim: the new run's.

    Raises:
        ConfigError: no such description there, or one with a key that this version does not know.
    """
    folder = Path(init_from).expanduser()
    folder = folder.parent if folder.is_file() else folder
    spec, data = _described(folder)
    unknown = sorted(set(spec) - set(defaults) - {"family"})
    if unknown:
        raise ConfigError(explain(f"vision.init_spec: {folder}", expected="keys of config.vision", found=unknown[0],
                                  do="use the version of lit_tune that wrote it"))
    width = spec["embed_dim"] or spec["width"]
    own = OWN if width == (embed_dim or spec["width"]) else (*OWN, *HEAD)
    vision = {key: spec[key] if key in spec else value for key, value in defaults.items() if key not in own}
    return {f"vision.{key}": value for key, value in vision.items()} | {f"data.{key}": data[key] for key in DATA}


def _described(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(keys of config.vision, keys of config.data) that a folder's own description gives."""
    for name, parts in ((DESCRIPTION, _of_description), (RUN, _of_run)):
        if (folder / name).is_file():
            try:
                spec, data = parts(json.loads((folder / name).read_text()))
                spec["width"], spec["embed_dim"]  # whatever else it lacks has a default
                return spec, {key: data[key] for key in DATA}
            except (ValueError, KeyError, TypeError) as error:
                raise _absent(folder, f"{name} without one ({type(error).__name__}: {error})") from error
    raise _absent(folder, "neither" if folder.exists() else "no such folder")


def _of_description(page: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parts of a vision_tower.json."""
    return {"family": page["family"], **page["spec"]}, page["preprocess"]


def _of_run(page: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parts of a run's config.json."""
    config = page["config"] if "config" in page else page
    return config["vision"], config["data"]


def _absent(folder: Path, found: str) -> ConfigError:
    """The error for a folder that describes no image tower."""
    return ConfigError(explain(
        f"vision.init_from {folder}", expected=f"a description of the image tower ({DESCRIPTION}, or a run's {RUN})",
        found=found, do="lit-tune import it first, or set config.vision's sizes with --config.vision.init_spec=false"))
