"""Weights of another tower for a new run to start from."""

from pathlib import Path

import jax

from lit_tune import tower
from lit_tune.convert import timm
from lit_tune.convert.adapt import adapt
from lit_tune.errors import ConfigError, explain
from lit_tune.models.functional import Tower
from lit_tune.models.vision import VisionSpec
from lit_tune.tree import Tree


def load_vision_params(init_from: str, target: Tower, how: str = "bicubic") -> Tree:
    """Parameters for `target` to start from, float32 numpy arrays, taken from another run, an export or a timm folder.

    What differs above the trunk, in patch size or in picture size is adapted (`convert.adapt`), and lines say so.

    Args:
        init_from: a run directory, an export, a folder with timm's config.json and model.safetensors, or that file.
        target: the vision tower of the new run.
        how: bicubic | pinv, `config.vision.init_resample`.

    Raises:
        ConfigError: nothing of the kind, or another trunk.
    """
    params, spec = _other_tower(Path(init_from).expanduser())
    try:
        return adapt(jax.device_get(params), spec, target.spec, how)
    except ConfigError as error:
        raise ConfigError(f"vision.init_from {init_from}: {error}") from error


def _other_tower(path: Path) -> tuple[Tree, VisionSpec]:
    """(parameters, spec) of a vision tower that lies in a run, an export or a timm folder."""
    if tower.is_model(path):
        vision = tower.load(path).vision
        return vision.params, vision.tower.spec
    folder = path.parent if path.is_file() else path
    if not (folder / timm.CONFIG).is_file():
        raise ConfigError(explain("vision.init_from", expected="a run, an export, or timm's config.json beside weights",
                                  found=f"none at {path}", do="check the path"))
    params, spec, _ = timm.load(folder)
    return params, spec
