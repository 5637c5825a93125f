"""The files of a text cache beside its vectors. No jax."""

import json
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from lit_tune import __version__
from lit_tune.errors import DataError, explain
from lit_tune.text.cache import FORMAT
from lit_tune.text.weights import sha256_of


def no_captions(samples: int) -> DataError:
    """The error for data without a single caption."""
    return DataError(explain("config.data.train", expected="captions", found=f"not one usable in {samples:,} samples",
                             do="check config.data.caption_field and look with `lit-tune data inspect`"))


def save_arrays(folder: Path, rows: np.ndarray, offsets: np.ndarray, caption_ids: np.ndarray) -> None:
    """Write which vectors each sample has; see `lit_tune.text.cache`."""
    for name, array, kind in (("rows", rows, "<i8"), ("offsets", offsets, "<i8"), ("caption_ids", caption_ids, "<u4")):
        np.save(folder / f"{name}.npy", np.asarray(array, kind))


def file_facts(path: Path) -> dict[str, Any]:
    """Size and digest of a file, as cache.json has them."""
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def write_info(
    folder: Path, want: dict[str, Any], made_from: str, vectors: Sequence[str], missing: int = 0,
    known: Mapping[str, dict[str, Any]] = MappingProxyType({}),
) -> None:  # fmt: skip
    """Write cache.json, the last file of a cache: everything else is in the folder.

    Args:
        folder: of the cache.
        want: its identity.
        made_from: the data as the user named it, for messages; the same pairs may lie elsewhere later.
        vectors: files of vectors in the order of their rows.
        missing: samples that have captions and no vector.
        known: `file_facts` by name of files that need not be read again.

    Raises:
        DataError: there is no caption at all.
    """
    shapes = [np.load(folder / name, mmap_mode="r").shape for name in vectors]
    counts = {"samples": len(np.load(folder / "offsets.npy", mmap_mode="r")) - 1,
              "captions": len(np.load(folder / "rows.npy", mmap_mode="r")),
              "unique": sum(rows for rows, _ in shapes), "dim": shapes[0][1], "missing": missing}  # fmt: skip
    if not counts["captions"]:
        raise no_captions(counts["samples"])
    names = [*vectors, "rows.npy", "offsets.npy", "caption_ids.npy"]
    files = {name: known[name] if name in known else file_facts(folder / name) for name in names}
    info = {"format": FORMAT, "version": __version__, **want, "made_from": made_from, "counts": counts,
            "vectors": list(vectors), "files": files}  # fmt: skip
    temporary = folder / f".cache.json-{socket.gethostname()}-{os.getpid()}"
    temporary.write_text(json.dumps(info, indent=2) + "\n")
    temporary.replace(folder / "cache.json")
