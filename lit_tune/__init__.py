"""Contrastive training of an image tower against a locked text tower, in plain JAX.

Importing this package touches no device and reads no flag; jax is loaded by the first use of `load`, `convert` or
`losses`.
"""

import importlib
from typing import Any

__version__ = "0.1.0"  # the one place: setup.py, tower descriptions and checkpoints read it here
__all__ = ["__version__", "convert", "load", "losses"]


def __getattr__(name: str) -> Any:
    """`lit_tune.load`, `lit_tune.convert` and `lit_tune.losses`, imported when first asked for."""
    if name == "load":
        return importlib.import_module("lit_tune.tower").load
    if name in ("convert", "losses"):
        return importlib.import_module(f"lit_tune.{name}")
    raise AttributeError(f"module 'lit_tune' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, the ones not imported yet included."""
    return sorted(__all__)
