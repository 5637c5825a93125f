"""The frozen text tower as `encode(texts) -> unit vectors`: tokenise, sort into buckets of length, run, put back."""

import dataclasses
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from lit_tune import __version__
from lit_tune.convert import described, mapping, onnx_session, weights as weight_files
from lit_tune.convert.peer_text import text_spec
from lit_tune.errors import ConfigError, explain
from lit_tune.models import two_towers
from lit_tune.models.functional import Tower
from lit_tune.models.text_pool import CHOSEN
from lit_tune.models.text_tower import TextSpec
from lit_tune.text import weights
from lit_tune.text.tokenizer import Tokenizer
from lit_tune.text.weights import TextFiles
from lit_tune.tree import Tree

# Column counts of the compiled shapes. A text is padded to the next one: beyond 8 tokens at most twice its length.
LENGTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
LAYOUT = "hf"  # of a text tower's files; both spellings of nomic-embed-text are told apart when they are read
ROWS, TOKENS = 32, 1024  # of a compiled shape, at most
FEW = 4  # texts of a bucket up to which a shape of that many rows is used: a query need not pay for 32
# one for all encoders of a process: a second one of the same architecture compiles nothing
EMBED = jax.jit(two_towers.embed_text, static_argnames=("tower",))


class TextEncoder:
    """A text tower with its tokenizer; the weights are read when the first text is encoded.

    Args:
        description: of the tower, as in text_tower.json.
        params: the tower's parameters, or a function that reads them.
        tokenizer: with the description's prefix and max_length.
        folder: of the files, for `copy_files`.
        run: (params, ids, mask) -> unit vectors, where it is not our own forward (an ONNX file).

    Attributes:
        description, tokenizer, folder: as given.
        tower: the tower without parameters.
        dim: width of the vectors.
    """

    def __init__(
        self,
        description: dict[str, Any],
        params: Tree | Callable[[], Tree],
        tokenizer: Tokenizer,
        folder: Path | None = None,
        run: Callable[[Tree, np.ndarray, np.ndarray], Any] | None = None,
    ) -> None:
        self.description = description
        self.tokenizer = tokenizer
        self.tower = text_tower(description)
        self.dim = self.tower.spec.out_dim
        self._params = params
        self.folder = folder
        self._run = run or partial(EMBED, self.tower)

    @classmethod
    def from_files(cls, files: TextFiles, text: Any) -> "TextEncoder":
        """The encoder of found files as `config.text` wants them used.

        Args:
            files: from `lit_tune.text.weights.find`.
            text: `config.text`; prefix, max_length, pool, layer_norm and dim are read.
        """
        spec = spec_of(files.folder, files.described, text)
        _check_length(text.max_length, spec)
        for departure in weights.departures(text, files.known) if files.known else ():
            print(f"lit_tune: note: {departure}", file=sys.stderr, flush=True)
        tokenizer = Tokenizer(files.folder, text.prefix, text.max_length)
        description = describe(spec, tokenizer, files.sha256, files.name)
        if files.described is None:
            return cls(description, partial(_read_params, files.folder, spec), tokenizer, files.folder)
        facts = files.described["weights"]
        read = partial(described.read_params, files.root, facts, spec)
        return cls(description | {"weights": facts}, read, tokenizer, files.folder)

    @property
    def layout(self) -> str:
        """Whose names the arrays of its weight file have."""
        return self.description["weights"]["layout"] if "weights" in self.description else LAYOUT

    @property
    def weights_path(self) -> Path | None:
        """The tower's weight file, None where it was made from parameters in memory."""
        if self.folder is None:
            return None
        name = self.description["weights"]["file"] if "weights" in self.description else weight_files.FILE
        return self.folder / Path(name).name

    def copy_files(self, target: Path) -> None:
        """Put the tower's own files into a folder, the tokenizer as tokenizer.json, licence texts included."""
        if self.folder is None:
            raise ValueError("this encoder was made from parameters in memory: there are no files to copy")
        for name in weights.KEPT:
            if (self.folder / name).is_file():
                shutil.copyfile(self.folder / name, target / name)
        if not (target / "tokenizer.json").is_file():
            self.tokenizer.save(target / "tokenizer.json")

    @cached_property
    def params(self) -> Tree:
        """The parameters, on the default device."""
        params = self._params() if callable(self._params) else self._params
        return jax.device_put(params)

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What decides the vectors, as JSON values: equal exactly for encoders that give equal vectors."""
        text, spec = self.description["text"], self.description["spec"]
        return {
            "weights_sha256": text["weights_sha256"],
            "tokenizer_sha256": self.tokenizer.sha256,
            "prefix": text["prefix"],
            "max_length": text["max_length"],
            **{name: spec[name] for name in ("pool", "layer_norm", "dim")},
        }

    def encode(self, texts: Sequence[str], prefix: str | None = None) -> Float[np.ndarray, "n d"]:
        """float32 unit vectors of texts, in their order.

        Args:
            texts: prefixless; "" is a text too.
            prefix: put before each instead of the tower's own.
        """
        return self.encode_ids(self.tokenizer(texts, prefix))

    def encode_ids(
        self, ids: Sequence[np.ndarray], done: Callable[[int], None] | None = None
    ) -> Float[np.ndarray, "n d"]:
        """float32 unit vectors of token id arrays, in their order.

        A text runs with the columns that its own length asks for, so its vector does not depend on its neighbours'
        lengths; there are two shapes a bucket, for few texts and for many.

        Args:
            ids: int32 (s,) each, as the tokenizer gives them.
            done: told after each batch how many texts are ready.
        """
        vectors = np.empty((len(ids), self.dim), np.float32)
        ready = 0
        for columns, members in buckets([len(one) for one in ids]).items():
            length = min(columns, token_limit(self.tower.spec))  # CLIP has 77 positions, the bucket 96 columns
            rows = FEW if len(members) <= FEW else max(FEW, min(ROWS, TOKENS // length))
            for start in range(0, len(members), rows):
                batch = members[start : start + rows]
                # the last batch is filled up with its first text: a row without any token would have no vector
                filled = batch + batch[:1] * (rows - len(batch))
                padded = self.tokenizer.pad([ids[i] for i in filled], length)
                vectors[batch] = np.asarray(self._run(self.params, *padded))[: len(batch)]
                ready += len(batch)
                if done is not None:
                    done(ready)
        return vectors


def spec_of(folder: Path, page: Mapping[str, Any] | None, text: Any) -> TextSpec:
    """The spec of a tower's files as `config.text` wants them used.

    Args:
        folder: of a peer's files; its config.json is read where there is no description.
        page: the description of an import or export: it decides, the config's cut apart.
        text: `config.text`; pool, layer_norm and dim are read.
    """
    if page is not None:
        spec = text_tower(page).spec
        own = {name: getattr(spec, name) for name in ("pool", "layer_norm")}
        if own != {name: getattr(text, name) for name in own} and spec.pool in CHOSEN:
            print(f"lit_tune: note: {own} of {folder} counts, not config.text's", file=sys.stderr, flush=True)
        return dataclasses.replace(spec, dim=text.dim)
    config = weight_files.read_config(folder / "config.json")
    return text_spec(config, LAYOUT, pool=text.pool, layer_norm=text.layer_norm, dim=text.dim)


def buckets(lengths: Sequence[int]) -> dict[int, list[int]]:
    """{column count: positions of the texts that run with it}, short ones first.

    Args:
        lengths: tokens of each text.

    Raises:
        ValueError: a text is longer than the last of LENGTHS.
    """
    found: dict[int, list[int]] = {}
    for position, length in enumerate(lengths):
        columns = next((columns for columns in LENGTHS if columns >= length), None)
        if columns is None:
            raise ValueError(f"a text of {length} tokens: at most {LENGTHS[-1]} can be encoded")
        found.setdefault(columns, []).append(position)
    return dict(sorted(found.items()))


def token_limit(spec: TextSpec) -> int:
    """Most tokens of a text: the positions of the tower, or what the largest shape holds."""
    return min(spec.max_tokens or LENGTHS[-1], LENGTHS[-1])


def _check_length(max_length: int, spec: TextSpec) -> None:
    """Refuse more tokens than the tower has positions (learned ones) or than can be encoded."""
    limit = token_limit(spec)
    if max_length > limit:
        raise ConfigError(
            explain("config.text.max_length", expected=f"at most {limit} tokens for this tower", found=max_length,
                    do="lower it")
        )


def describe(spec: Any, tokenizer: Tokenizer, weights_sha256: str, name: str) -> dict[str, Any]:
    """The description of a text tower, as text_tower.json holds it."""
    text = {
        "prefix": tokenizer.prefix,
        "max_length": tokenizer.max_length,
        "tokenizer": "tokenizer.json",
        "normalize": True,
        "weights_sha256": weights_sha256,
        "name": name,
    }
    page = {"format": 1, "kind": "text", "family": two_towers.family_of(spec), "spec": dataclasses.asdict(spec)}
    return page | {"text": text, "version": __version__}


def text_tower(description: Mapping[str, Any]) -> Tower:
    """The tower of a description, without parameters."""
    family = description["family"]
    texts = two_towers.TEXT_FAMILIES
    if family not in texts:
        do = "use a newer lit_tune"
        raise ConfigError(explain("text_tower.json", expected=f"family {' or '.join(texts)}", found=family, do=do))
    try:
        return two_towers.tower_of(texts[family][0](**description["spec"]))
    except TypeError as error:
        do = "use the version of lit_tune that wrote it"
        raise ConfigError(explain("text_tower.json", expected=f"a {family} spec", found=error, do=do)) from error


def read_folder(folder: Path, description: dict[str, Any]) -> TextEncoder:
    """The encoder of an import or export.

    Args:
        folder: that text_tower.json lies in.
        description: its text_tower.json, which names the files.

    Raises:
        ConfigError: incomplete, or other weights than the description names.
    """
    text, facts = description["text"], description["weights"]
    tokenizer = Tokenizer((folder / text["tokenizer"]).parent, text["prefix"], text["max_length"])
    files = (folder / facts["file"]).parent
    if facts["layout"] == onnx_session.LAYOUT:
        run = onnx_session.text_session(described.check_file(folder, facts))
        return TextEncoder(description, {}, tokenizer, files, run)
    read = partial(described.read_params, folder, facts, text_tower(description).spec)
    return TextEncoder(description, read, tokenizer, files)


def _read_params(folder: Path, spec: Any) -> Tree:
    """The parameters in a folder of a peer's files."""
    return mapping.from_peer(weight_files.read(folder), spec, LAYOUT)
