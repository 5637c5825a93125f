"""proof.json: what an export holds, who compared it with what, and where its weights come from."""

import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lit_tune import __version__, tree
from lit_tune.convert.weights import sha256
from lit_tune.description import ALIGNED
from lit_tune.exports.parts import Source
from lit_tune.exports.source import PROOF
from lit_tune.text.encode import TextEncoder

FORMAT = 1
PROJECTION = "head/"  # our names of the Linear after the pooling


def page(source: Source, format: str, checks: Sequence[dict[str, Any]], text_sha256: str) -> dict[str, Any]:
    """The object of proof.json, but for the digests of the files (`files_of`).

    Args:
        source: what was exported.
        format: its name.
        checks: of each written weight file, from `check.check`.
        text_sha256: `tree.digest` of the frozen text parameters before anything was written; "" without a text tower.
    """
    named = tree.flatten(source.vision.params)
    counts = {
        "vision": tree.count(source.vision.params),
        "vision_projection": sum(leaf.size for name, leaf in named.items() if name.startswith(PROJECTION)),
    }
    if source.text is None:
        aligned = source.vision.description[ALIGNED] if ALIGNED in source.vision.description else None
        texts: dict[str, Any] = {} if aligned is None else {ALIGNED: aligned}
    else:
        counts["text_frozen"] = tree.count(source.text.params)
        texts = {"frozen_text": _frozen(source.text, checks, text_sha256)}
    return {
        "proof": FORMAT,
        "format": format,
        "name": source.name,
        "checks": list(checks),
        **texts,
        "parameters": counts,
        "versions": {"lit_tune": __version__, "python": platform.python_version(),
                     **{name: version(name) for name in ("jax", "numpy", "safetensors")}},
        "source": dict(source.facts),
    }


def _frozen(text: TextEncoder, checks: Sequence[dict[str, Any]], sha256_before: str) -> dict[str, Any]:
    """What the proof says about the frozen text tower."""
    page = text.description["text"]
    after = [one["params_sha256"] for one in checks if "params_sha256" in one]
    return {
        "name": page["name"],
        "weights_sha256": page["weights_sha256"],  # of the file that was trained against
        "params_sha256_before": sha256_before,
        "params_sha256_after": after,  # of each file that holds them, read back
        "unchanged": set(after) == {sha256_before} if after else None,  # None: no file of ours to read
    }


def files_of(folder: Path) -> dict[str, str]:
    """{path below the folder: sha256 (hex)} of every file there, proof.json left out."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != PROOF)
    return {file.relative_to(folder).as_posix(): sha256(file) for file in files}
