"""Pickled PyTorch weights (.bin, .pt, .pth): read only when the user says so, and never by running what is in them.

torch is imported here and nowhere else below this package, at the first pickle.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lit_tune.errors import ConfigError, explain

SUFFIXES = (".bin", ".pt", ".pth")
OLDEST = (2, 10)  # torch, whose weights-only reader is the one we rely on
WRAPPERS = ("state_dict", "model_state_dict", "model", "module")  # keys that trainers put around the weights


def read(path: Path) -> dict[str, np.ndarray]:
    """{name: array} of a pickled state dict, wrappers of trainers taken off; bfloat16 as float32, exactly.

    Raises:
        ConfigError: no torch, an old one, or a file that holds more than tensors.
    """
    torch = _torch()
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch errors of a dozen types: all mean that it is not plain weights
        found = str(error).splitlines()[0][:160]
        raise ConfigError(explain(str(path), expected="a pickle that holds tensors only", found=found,
                                  do="convert it to safetensors with the tool that wrote it")) from error
    named = _unwrap(loaded)
    tensors = {name: value for name, value in named.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise ConfigError(explain(str(path), expected="tensors by name", found=f"{type(loaded).__name__} without any",
                                  do="use another file"))
    return {name.removeprefix("module."): _array(torch, value) for name, value in tensors.items()}


def _torch() -> Any:
    """The module, new enough."""
    expected, do = f"torch >= {'.'.join(map(str, OLDEST))} to read a pickle", "pip install 'lit_tune[torch]'"
    try:
        import torch
    except ImportError as error:
        raise ConfigError(explain("--allow_pickle_weights", expected=expected, found="no torch", do=do)) from error
    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < OLDEST:
        raise ConfigError(explain("--allow_pickle_weights", expected=expected, found=torch.__version__, do=do))
    return torch


def _unwrap(loaded: Any) -> Mapping[str, Any]:
    """The innermost mapping of names to tensors."""
    while isinstance(loaded, Mapping):
        inner = next((loaded[key] for key in WRAPPERS if key in loaded and isinstance(loaded[key], Mapping)), None)
        if inner is None:
            return loaded
        loaded = inner
    return {}


def _array(torch: Any, tensor: Any) -> np.ndarray:
    """A tensor's values; numpy knows no bfloat16."""
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).contiguous().numpy()
