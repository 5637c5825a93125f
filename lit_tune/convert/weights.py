"""Weight files without torch: read, checked, written. `safetensors` only; pickles are read elsewhere, on demand."""

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, numpy as safetensors_numpy, safe_open

from lit_tune.errors import ConfigError, explain

FILE = "model.safetensors"  # the name that every hub tool looks for in a folder


def read(weights: str | Path | Mapping[str, Any]) -> dict[str, np.ndarray]:
    """{name: float32 array}, every value finite.

    Args:
        weights: a .safetensors file, a folder that holds model.safetensors, or arrays by name (float16 and bfloat16
            included: their values are exact in float32).

    Raises:
        ConfigError: no such file, not a safetensors file, or a value that is not finite.
    """
    named = dict(weights) if isinstance(weights, Mapping) else _read_file(weight_file(Path(weights)))
    floats = {name: _float32(name, np.asarray(array)) for name, array in named.items()}
    for name, array in floats.items():
        if not np.isfinite(array).all():
            bad = int(np.size(array) - np.isfinite(array).sum())
            raise ConfigError(
                explain(f"weight {name}", expected="finite numbers", found=f"{bad} inf or nan", do="use another file")
            )
    return floats


def weight_file(path: Path) -> Path:
    """The weight file that a path means: itself, or the one in a folder.

    Raises:
        ConfigError: there is none.
    """
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(
            explain("weights", expected=f"a .safetensors file or a folder with {FILE}", found=path, do="check the path")
        )
    return file


def _read_file(file: Path) -> dict[str, np.ndarray]:
    try:
        return safetensors_numpy.load_file(file)
    except SafetensorError as error:
        raise ConfigError(
            explain(str(file), expected="a whole safetensors file", found=error, do="fetch it again")
        ) from error
    except (AttributeError, KeyError, TypeError) as error:  # numbers that numpy has no type for, such as 8-bit floats
        raise ConfigError(explain(str(file), expected="float32, float16 or bfloat16", found=_odd_type(file),
                                  do="convert the file")) from error


def _odd_type(file: Path) -> str:
    """The first array of a type that cannot be read, in words."""
    with safe_open(file, framework="numpy") as arrays:
        for name in arrays.keys():  # not a dictionary
            try:
                arrays.get_tensor(name)
            except (AttributeError, KeyError, TypeError):
                return f"{name} of {arrays.get_slice(name).get_dtype()}"
    return "numbers of another type"


def _float32(name: str, array: np.ndarray) -> np.ndarray:
    # ml_dtypes' bfloat16 is no np.floating (its kind is "V"); integers are buffers such as position ids, left alone
    if array.dtype.kind in "iub":
        return array
    if array.dtype.name not in ("float16", "bfloat16", "float32"):
        found = array.dtype.name
        raise ConfigError(
            explain(f"weight {name}", expected="float32, float16 or bfloat16", found=found, do="convert the file")
        )
    return array.astype(np.float32, copy=False)


def write(path: Path, named: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> str:
    """Write a .safetensors file by rename, so that no half file is ever seen under its name; its sha256 (hex).

    Args:
        metadata: strings for the file's header; loaders of torch weights look for {"format": "pt"}.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in named.items()}
    temporary = path.with_name(path.name + ".partial")
    safetensors_numpy.save_file(arrays, temporary, metadata=dict(metadata) if metadata else None)
    # the library makes it for its owner alone; whoever may read the folder may read the weights
    temporary.chmod(path.parent.stat().st_mode & 0o666)
    digest = sha256(temporary)
    temporary.replace(path)
    return digest


def sha256(path: Path) -> str:
    """sha256 (hex) of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Page(dict[str, Any]):
    """An object of a JSON file; a key that it lacks is an error of the file's, not a bug of ours."""

    def __init__(self, where: Path, found: dict[str, Any]) -> None:
        super().__init__(found)
        self._where = where

    def __missing__(self, key: str) -> Any:
        raise ConfigError(explain(str(self._where), expected=f"the key {key!r}", found="none",
                                  do="restore the file, or add it"))


def read_config(path: Path) -> dict[str, Any]:
    """The object in a JSON file; a key that it, or an object inside it, lacks raises ConfigError when it is asked for.

    Raises:
        ConfigError: no such file, or not a JSON object.
    """
    if not path.is_file():
        raise ConfigError(explain("model config", expected="a JSON file", found=f"none at {path}", do="check the path"))
    try:
        config = json.loads(path.read_text(), object_hook=partial(_Page, path))
    except ValueError as error:
        raise ConfigError(explain(str(path), expected="JSON", found=error, do="fetch it again")) from error
    if not isinstance(config, dict):
        raise ConfigError(
            explain(str(path), expected="a JSON object", found=type(config).__name__, do="check the file")
        )
    return config


def check_names_and_shapes(found: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Nothing, if exactly the expected arrays are there, of floats.

    Raises:
        ConfigError: names the first missing, extra or mis-shaped arrays, and those of whole numbers.
    """
    missing = sorted(set(expected) - set(found))
    extra = sorted(set(found) - set(expected))
    shaped = [n for n in sorted(set(expected) & set(found)) if tuple(found[n].shape) != tuple(expected[n])]
    typed = [n for n in sorted(set(expected) & set(found)) if found[n].dtype.kind in "iub"]
    if not (missing or extra or shaped or typed):
        return
    parts = []
    for kind, names in (("missing", missing), ("extra", extra)):
        if names:
            parts.append(f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})")
    for name in shaped[:3]:
        parts.append(f"{name} of shape {tuple(found[name].shape)} instead of {tuple(expected[name])}")
    for name in typed[:3]:  # quantised weights are not the numbers they stand for
        parts.append(f"{name} of {found[name].dtype.name} instead of floats")
    raise ConfigError(
        explain(
            what,
            expected=f"the {len(expected)} arrays of its config",
            found="; ".join(parts),
            do="check that weights and config belong together",
        )
    )
