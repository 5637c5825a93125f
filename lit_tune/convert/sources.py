"""Where a peer's weights come from: a file, a folder, or a repository of the hub at a pinned revision."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lit_tune import fetch
from lit_tune.convert import pickles, weights
from lit_tune.errors import ConfigError, explain

SAFE = (weights.FILE, "open_clip_model.safetensors")  # in a folder, in this order
PICKLED = ("pytorch_model.bin", "open_clip_pytorch_model.bin")
# what a repository may hold beside the weights: configs, preprocessing, tokenizer, pooling, licence; never code
BESIDE = (
    "config.json", "open_clip_config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model",
    "modules.json", "1_Pooling/config.json", "sentence_bert_config.json", "config_sentence_transformers.json",
    "README.md", "LICENSE", "NOTICE",
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """Weights that are on this machine.

    Attributes:
        file: the weights.
        folder: where its companions lie.
        sha256: hex, of the file.
        origin: in words: a path, or HUB_ID@REVISION.
    """

    file: Path
    folder: Path
    sha256: str
    origin: str


def locate(name: str, revision: str, allow_pickle: bool) -> Found:
    """The weights that a command line names, fetched from the hub if it names a repository.

    Args:
        name: a file, a folder, or owner/name of the hub.
        revision: the hub's commit; must be pinned.
        allow_pickle: whether a pickle will do where there are no safetensors.

    Raises:
        ConfigError: nothing there, a pickle that was not asked for, or a revision that can change.
    """
    path = Path(name).expanduser()
    origin = name
    if not path.exists():
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
            raise ConfigError(explain("--weights", expected="a file, a folder or a hub id owner/name", found=name,
                                      do="check the path"))
        path, origin = _from_hub(name, revision, allow_pickle), f"{name}@{revision}"
    file = _weight_file(path, allow_pickle)
    return Found(file, file.parent, weights.sha256(file), origin)


def read(found: Found) -> dict[str, np.ndarray]:
    """{name: array} of the weights, floats as float32 and finite.

    Raises:
        ConfigError: damaged, or a value that is not finite.
    """
    return weights.read(pickles.read(found.file) if found.file.suffix in pickles.SUFFIXES else found.file)


def _weight_file(path: Path, allow_pickle: bool) -> Path:
    """The file itself, or the one that a folder holds; a pickle only where it is allowed."""
    if path.is_dir():
        names = SAFE + (PICKLED if allow_pickle else ())
        here = [path / name for name in names if (path / name).is_file()]
        pickled = [name for name in PICKLED if (path / name).is_file()]
        several = [entry.name for entry in path.glob("*.safetensors.index.json")]
        if here:
            return here[0]
        found = pickled[0] if pickled else f"weights in several files ({several[0]})" if several else "neither"
        do = "add --allow_pickle_weights to read it" if pickled else "give the file itself"
        raise ConfigError(explain(f"--weights {path}", expected=" or ".join(SAFE), found=found, do=do))
    if path.suffix != ".safetensors" and not (allow_pickle and path.suffix in pickles.SUFFIXES):
        pickle = path.suffix in pickles.SUFFIXES
        raise ConfigError(explain(f"--weights {path}", expected="a .safetensors file",
                                  found="a pickle" if pickle else f"a {path.suffix or 'nameless'} file",
                                  do="add --allow_pickle_weights to read it" if pickle else "convert it"))
    return path


def _from_hub(name: str, revision: str, allow_pickle: bool) -> Path:
    """The snapshot of a repository: the hub's cache first, then one try of the hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise ConfigError(explain("--revision", expected="a commit of the hub, 40 hex digits", found=repr(revision),
                                  do=f"pin one: --revision=SHA from the files page of {name}"))
    names = SAFE + BESIDE + (PICKLED if allow_pickle else ())
    try:
        cached = Path(snapshot_download(name, revision=revision, allow_patterns=list(names), local_files_only=True))
    except (LocalEntryNotFoundError, OSError):
        cached = None
    if cached is not None and any((cached / file).is_file() for file in SAFE + PICKLED):
        return cached
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        folder, note = None, "HF_HUB_OFFLINE is set"
    else:
        folder, note = fetch.from_hub(name, revision, names)
    if folder is None:
        raise ConfigError(explain(f"--weights {name}", expected="a file, a folder, or a repository that can be reached",
                                  found=note, do="check the name, or fetch it elsewhere and give the folder"))
    return folder
