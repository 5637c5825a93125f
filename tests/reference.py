"""The folder of reference vectors: its manifests, its arrays, its rule for random weights, and how close is close.

`LIT_TUNE_REFERENCE` names the folder; the default is the subset beside this file. Tests walk the manifests, so another
folder of the same layout (other seeds, sizes, inputs) is checked by the same tests.
"""

import hashlib
import json
import os
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

ROOT = Path(os.environ.get("LIT_TUNE_REFERENCE", Path(__file__).parent / "golden" / "reference"))
NOT_STORED = " (not stored: fill it)"

# Tolerances of the folder's README: max |ours - reference| / rms(reference), float32 on a CPU.
FORWARD, GRADIENTS = 5e-5, 3e-4
KEY_BIAS = 1e-4  # absolute, of the rms of the value half: the true gradient of a pooling head's key bias is 0
_TABLES = ("word_embeddings", "token_type_embeddings", "position_embeddings", "token_embedding", "position_embedding",
           "tok_embeddings", "embed_tokens")  # fmt: skip
_TOKENS = ("cls_token", "pos_embed", "reg_token", "latent", "mask_token", "probe")


@cache
def manifest(folder: str) -> dict[str, Any]:
    """The manifest of a folder; empty where the reference has no such folder."""
    path = ROOT / folder / "manifest.json"
    return json.loads(path.read_text()) if path.exists() else {}


def cases(folder: str, ending: str = ".io.npz") -> list[str]:
    """Names of the stored cases, from the manifest."""
    return sorted(name.removesuffix(ending) for name in manifest(folder) if name.endswith(ending))


def entry(folder: str, case: str, ending: str = ".io.npz") -> dict[str, Any]:
    """What the manifest says about one file of a case."""
    return manifest(folder)[case + ending]


def arrays(folder: str, case: str, ending: str = ".io.npz") -> dict[str, np.ndarray]:
    """The arrays of one file of a case, the hash of none of them checked."""
    path = ROOT / folder / (case + ending)
    return load_file(path) if ending.endswith(".safetensors") else dict(np.load(path))


def has(folder: str, case: str, ending: str) -> bool:
    """Whether a file of a case is stored."""
    return (ROOT / folder / (case + ending)).exists()


def weights(folder: str, case: str) -> dict[str, np.ndarray]:
    """The weights of a case under the peer's names, read or regenerated."""
    ending = ".weights.safetensors"
    if has(folder, case, ending):
        return arrays(folder, case, ending)
    found = entry(folder, case, ending + NOT_STORED)
    scale = found["post_scale"] if "post_scale" in found else None
    return fill({name: shape for name, (_, shape, _) in found["arrays"].items()}, found["fill_seed"], scale)


def fill(shapes: dict[str, Any], seed: int, post_scale: float | None = None) -> dict[str, np.ndarray]:
    """Random weights by the rule of the folder's README."""
    found = {name: draw(name, shape, seed, *_spread(name, shape)) for name, shape in shapes.items()}
    if post_scale:
        for name, array in found.items():
            if array.ndim >= 2 or name.endswith("bias"):
                found[name] = array * np.float32(post_scale)
    return found


def draw(name: str, shape: Any, seed: int, mean: float = 0.0, std: float = 1.0) -> np.ndarray:
    """Uniform float32 numbers of a mean and a standard deviation, the same on every machine."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode("utf-8"))])
    u = rng.random(int(np.prod(shape)))
    return np.float32(mean + std * np.sqrt(3) * (2 * u - 1)).reshape(tuple(shape))


def _spread(name: str, shape: Any) -> tuple[float, float]:
    """Mean and standard deviation of a weight: the first rule that fits."""
    if name.endswith("bias"):
        return 0.0, 0.1
    if len(shape) <= 1:
        return 1.0, 0.2
    if any(word in name for word in _TOKENS) and shape[0] == 1:
        return 0.0, 0.5
    if any(word in name for word in _TABLES):
        return 0.0, 0.5
    return 0.0, 1.4 / np.sqrt(np.prod(shape[1:]))


def pixels(stored: dict[str, np.ndarray]) -> np.ndarray:
    """The stored input of a vision case as (b, h, w, 3)."""
    return stored["pixels"].transpose(0, 2, 3, 1)


def rel(ours: Any, theirs: np.ndarray) -> float:
    """max |ours - theirs| / rms(theirs)."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, f"shapes {ours.shape} and {theirs.shape}"
    return float(np.max(np.abs(ours - theirs)) / np.sqrt(np.mean(np.square(theirs))))


def check(case: str, ours: dict[str, Any], theirs: dict[str, np.ndarray], tolerance: float) -> None:
    """Compare all arrays of `theirs` and print how many; the sum over all tests is the last line of a test run."""
    assert theirs, f"{case}: nothing to compare"
    found = {name: rel(ours[name], array) for name, array in theirs.items()}
    far = {name: f"{value:.1e}" for name, value in found.items() if not value <= tolerance}
    assert not far, f"{case}: farther than {tolerance}: {far}"
    print(f"{case}: {len(found)} arrays compared, worst {max(found.values()):.1e} of {tolerance}")


def not_yet(case: str, family: str) -> None:
    """Say that a case is of a family that we do not have yet; this is no failure and no skip."""
    print(f"{case}: {family} is not supported yet, not compared")


def short_hash(array: np.ndarray) -> str:
    """The hash of an array as the manifests state it."""
    head = f"{array.dtype}{array.shape}".encode()
    return hashlib.sha256(head + array.tobytes()).hexdigest()[:16]
