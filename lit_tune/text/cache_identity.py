"""Whether a text cache is the wanted one: made with this tower, from these captions, stored this way. No jax."""

import hashlib
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from lit_tune import paths
from lit_tune.errors import ConfigError, explain
from lit_tune.text.cache import FORMAT, TextCache, read_info
from lit_tune.text.weights import sha256_of

PROBE = 64  # samples whose captions are part of the data's identity
DIGESTED = 16 << 30  # bytes of a cache up to which every start compares digests; of a larger one only the sizes


@runtime_checkable
class CaptionSource(Protocol):
    """What a cache is made from; a `lit_tune.data.sources.Source` is one."""

    spec: str
    fingerprint: str

    def __len__(self) -> int: ...

    def caption_sets(self) -> Iterator[tuple[str, ...]]:
        """The captions of every sample, in index order."""
        ...

    def captions(self, i: int) -> tuple[str, ...]:
        """Those of sample i. Raises BadSample where it has none."""
        ...


@runtime_checkable
class Encoder(Protocol):
    """What makes the vectors; `lit_tune.text.encode.TextEncoder` is one."""

    fingerprint: dict[str, Any]  # JSON values; equal exactly if the vectors are
    dim: int
    tokenizer: Callable[[Sequence[str]], list[np.ndarray]]

    def encode_ids(self, ids: Sequence[np.ndarray], done: Callable[[int], None] | None = None) -> np.ndarray:
        """float32 (n, d) unit rows of token id arrays; `done` is told how many are ready."""
        ...


def identity(source: CaptionSource, encoder: Encoder, dtype: str) -> dict[str, Any]:
    """What a cache has to agree with to be used again: {"tower": ..., "data": ..., "dtype": ...}, JSON values.

    Args:
        source: whose captions.
        encoder: whose vectors.
        dtype: how they are stored, one of `cache_storage.DTYPES`.
    """
    return {"tower": encoder.fingerprint, "data": data_identity(source), "dtype": dtype}


def data_identity(source: CaptionSource) -> dict[str, Any]:
    """The part of it that the source decides.

    The first captions belong to it, because a source's own fingerprint may not know which field captions come from.
    """
    probe = hashlib.sha256()
    for captions in itertools.islice(source.caption_sets(), PROBE):
        probe.update(json.dumps(captions).encode())
    return {"samples": len(source), "fingerprint": source.fingerprint, "first_captions_sha256": probe.hexdigest()}


def default_folder(want: dict[str, Any]) -> Path:
    """The folder of our cache for this identity."""
    digest = hashlib.sha256(json.dumps([FORMAT, want], sort_keys=True).encode()).hexdigest()
    return paths.cache_dir() / "text-vectors" / digest[:16]


def open_existing(folder: Path | str, want: dict[str, Any], key: str) -> TextCache:
    """The cache that a config names; it is never made or changed here.

    Args:
        folder: of the cache.
        want: what it has to agree with: `identity`, or parts of it.
        key: of the config, for the error.

    Raises:
        ConfigError: there is none, it is damaged, or it was made with something else (the first difference is named).
    """
    folder = Path(folder).expanduser()
    info = read_info(folder)
    fault = info if isinstance(info, str) else ""
    if not fault:
        refuse_other(folder, info, want)
        fault = damage(folder, info)
    if fault:
        raise ConfigError(explain(f"config.{key} {folder}", expected="a whole text cache", found=fault,
                                  do=f"make it with `lit-tune cache-text --out={folder}`"))
    return TextCache.open(folder)


def usable(folder: Path, want: dict[str, Any]) -> bool:
    """Whether the folder holds this very cache, whole. A damaged one is named and counts as absent.

    Raises:
        ConfigError: it holds something that must not be overwritten.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not (folder / "cache.json").is_file():
        raise ConfigError(
            explain(f"text cache {folder}", expected="no folder, an empty one or a cache", found="other files",
                    do="name another folder")
        )
    info = read_info(folder)
    fault = info if isinstance(info, str) else ""
    if not fault:
        refuse_other(folder, info, want)
        fault = damage(folder, info)
    if fault:
        print(f"text cache {folder} is damaged ({fault}): made again", file=sys.stderr, flush=True)
    return not fault


def refuse_other(folder: Path, info: dict[str, Any], want: dict[str, Any]) -> None:
    """ConfigError if the cache was made with something else than is wanted, naming the first difference."""
    for part, values in want.items():
        found = info[part]
        for key, value in values.items() if isinstance(values, dict) else [("", values)]:
            there = found.get(key) if isinstance(values, dict) else found
            if there != value:
                do = "name another folder, or delete this one and make it again with `lit-tune cache-text`"
                if part == "data" and "made_from" in info:
                    do = (f"it was made from {info['made_from']}; take the same data, --max_samples and "
                          f"--allow_missing, {do}")
                raise ConfigError(explain(f"text cache {folder}", expected=f"{part} {key} {value!r}",
                                          found=repr(there), do=do))


def damage(folder: Path, info: dict[str, Any]) -> str:
    """What is wrong with the files that cache.json lists; "" if nothing."""
    digested = sum(facts["bytes"] for facts in info["files"].values()) <= DIGESTED
    for name, facts in info["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != facts["bytes"]:
            return f"{name} has {path.stat().st_size:,} bytes of {facts['bytes']:,}"
        if digested and sha256_of(path) != facts["sha256"]:
            return f"{name} has changed"
    return ""
