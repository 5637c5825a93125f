"""Text on its way into the step: as cached vectors or as token ids, through one interface."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float
from ml_collections import ConfigDict

from lit_tune import errors, sharding, tree
from lit_tune.convert.peer_text import text_spec
from lit_tune.data.matched_source import MatchedSource
from lit_tune.data.sources import Source
from lit_tune.data.text_rows import CachedText, TextRows, TokenText
from lit_tune.description import no_text_tower
from lit_tune.models import two_towers
from lit_tune.models.functional import Tower
from lit_tune.text import encode, weights
from lit_tune.text.cache import TextCache
from lit_tune.text.cache_build import open_or_build
from lit_tune.text.cache_identity import data_identity, identity, open_existing

# Sizes of nomic-embed-text-v1.5, so that the paper's step can be built where its weights are not.
# Source: its config.json as kept in public copies (huggingface.co/nomic-ai/nomic-embed-text-v1.5).
NOMIC_V1_5 = {
    "model_type": "nomic_bert", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": 3072, "vocab_size": 30528,
    "pad_vocab_size_multiple": 64, "type_vocab_size": 2, "layer_norm_epsilon": 1e-12, "rotary_emb_base": 1000,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False, "rotary_scaling_factor": None, "max_trained_positions": 2048,
    "activation_function": "swiglu", "prenorm": False, "qkv_proj_bias": False, "mlp_fc1_bias": False,
    "mlp_fc2_bias": False, "use_rms_norm": False,
}


def live_text_tower(config: ConfigDict) -> Tower | None:
    """The text tower that runs inside the step, without parameters; None where cached vectors reach the step."""
    if config.text.source != "live":
        return None
    text, folder = config.text, Path(config.text.model).expanduser()
    known = weights.known(text.model)
    if not folder.is_dir() and known is not None and known.family == "nomic_bert":
        spec = text_spec(NOMIC_V1_5, encode.LAYOUT, pool=text.pool, layer_norm=text.layer_norm, dim=text.dim)
    elif folder.is_dir() and not (folder / weights.DESCRIPTION).is_file():
        spec = encode.spec_of(folder, None, text)  # the weights need not be there
    else:
        files = weights.find(text)
        spec = encode.spec_of(files.folder, files.described, text)
    return two_towers.tower_of(spec)


def open_encoder(config: ConfigDict) -> encode.TextEncoder:
    """The frozen text tower of a config, its files found or fetched.

    Raises:
        ConfigError: no files, or vectors of another width than the vision tower's.
    """
    encoder = encode.TextEncoder.from_files(weights.find(config.text), config.text)
    check_width(config, encoder.dim)
    return encoder


def check_width(config: ConfigDict, dim: int) -> None:
    """Refuse a text tower of another width than the image tower's. Raises ConfigError.

    Args:
        config: a checked one.
        dim: width of the text vectors.
    """
    width = config.vision.embed_dim or config.vision.width
    if dim != width:
        raise errors.ConfigError(errors.explain(
            "config.vision.embed_dim", expected=f"{dim}, the width of {config.text.model}", found=width,
            do=f"set config.vision.embed_dim={dim}"))


class NoTower:
    """Stands where the text tower of a run would, that has only its vectors."""

    def __init__(self, cache: TextCache) -> None:
        self.dim = cache.dim
        made = cache.info["tower"]  # by a model that only its vectors, or the digest of its weights, are known of
        sha256 = made["vectors_sha256"] if "vectors_sha256" in made else made["weights_sha256"]
        text = {"prefix": "", "max_length": 0, "weights_sha256": sha256, "name": f"vectors of {cache.folder}"}
        self.description = {"kind": "vectors", "text": text, "made": made}

    def encode(self, texts: Sequence[str], prefix: str | None = None) -> Float[np.ndarray, "n d"]:
        """Not offered. Raises ConfigError."""
        del texts, prefix
        raise no_text_tower(self.dim)


@dataclass(frozen=True)
class Text:
    """The frozen text side of a run."""

    encoder: encode.TextEncoder | NoTower
    rows: TextRows
    source: Source  # the pairs that these rows go with
    facts: str  # for people

    def params(self, mesh: Mesh, live: Tower | None) -> tree.Tree:
        """The tower's parameters on the mesh where it runs inside the step, else {}."""
        if live is None:
            return {}
        return jax.device_put(self.encoder.params, sharding.shardings(live.abstract(), mesh))


def open_text(config: ConfigDict, source: Source) -> Text:
    """The frozen text tower and every caption of a source, as vectors (computed now unless cached) or as ids."""
    if config.text.source == "vectors":
        return _outside(config, source)
    encoder = open_encoder(config)
    name = f"{config.text.model} ({encoder.dim} numbers a text)"
    if config.text.source == "live":
        rows = TokenText(source, encoder.tokenizer, config.text.max_length, config.data.captions == "joined")
        return Text(encoder, rows, source, f"{name}, inside the step")
    dtype = config.text.cache_dtype
    if config.text.cache:
        cache = open_existing(config.text.cache, identity(source, encoder, dtype), "text.cache")
    else:
        cache = open_or_build(source, encoder, dtype=dtype)
    return Text(encoder, CachedText(cache), source, f"{name}, {cache.unique:,} distinct captions cached")


def _outside(config: ConfigDict, source: Source) -> Text:
    """The text side of a run that has only vectors, of whatever model.

    Raises:
        ConfigError: no such cache, one of other pairs, or vectors of another width than the vision tower's.
    """
    cache = open_existing(config.text.vectors, {"data": data_identity(source)}, "text.vectors")
    width, missing = config.vision.embed_dim or config.vision.width, cache.info["counts"]["missing"]
    if cache.dim != width:
        raise errors.ConfigError(errors.explain(
            "config.vision.embed_dim", expected=f"{cache.dim}, the width of {config.text.vectors}", found=width,
            do=f"set config.vision.embed_dim={cache.dim}"))
    facts = f"vectors of {config.text.vectors} ({cache.dim} numbers a text), {cache.unique:,} distinct"
    pairs = MatchedSource(source, cache) if missing else source
    return Text(NoTower(cache), CachedText(cache), pairs, facts)


def vectors_digest(config: ConfigDict) -> dict[str, str]:
    """{"text_vectors": sha256} of a run that has only vectors, {} of another: part of the data that a run goes on with.

    Raises:
        ConfigError: there is no such cache.
    """
    if config.text.source != "vectors":
        return {}
    page = Path(config.text.vectors).expanduser() / "cache.json"
    if not page.is_file():
        raise errors.ConfigError(errors.explain(
            f"config.text.vectors {config.text.vectors}", expected="a text cache", found="no cache.json",
            do="make it with `lit-tune cache-text --from=FILE --out=DIR`"))
    return {"text_vectors": weights.sha256_of(page)}

