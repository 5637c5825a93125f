"""The weights that a tower's description names, read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_tune import tree
from lit_tune.convert import mapping, weights
from lit_tune.errors import ConfigError, explain


def check_file(folder: Path, facts: Mapping[str, str]) -> Path:
    """The weight file that a tower's description names, there and unchanged.

    Args:
        folder: that the description lies in.
        facts: its part "weights": file, layout, sha256.

    Raises:
        ConfigError: no such file, or another digest.
    """
    file = weights.weight_file(folder / facts["file"])
    digest = weights.sha256(file)
    if digest != facts["sha256"]:
        do = "the file was changed: write the folder again"
        raise ConfigError(explain(str(file), expected=f"sha256 {facts['sha256']}", found=digest, do=do))
    return file


def read_params(folder: Path, facts: Mapping[str, str], spec: Any) -> tree.Tree:
    """Our parameters, float32 numpy arrays, from the weight file that a tower's description names.

    Args:
        folder, facts: as `check_file`.
        spec: of the tower.

    Raises:
        ConfigError: as `check_file`, or not the arrays of the spec.
    """
    return mapping.from_peer(weights.read(check_file(folder, facts)), spec, facts["layout"])
