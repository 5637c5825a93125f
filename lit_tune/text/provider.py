"""Text on its way into the step: as cached vectors or as token ids, through one interface."""

from dataclasses import dataclass
from pathlib import Path

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from lit_tune import errors, sharding, tree
from lit_tune.convert.peer_text import text_spec
from lit_tune.data.sources import Source
from lit_tune.data.text_rows import CachedText, TextRows, TokenText
from lit_tune.models import two_towers
from lit_tune.models.functional import Tower
from lit_tune.text import encode, weights
from lit_tune.text.cache_build import open_or_build

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
    if config.text.source == "cached":
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
    width = config.vision.embed_dim or config.vision.width
    if encoder.dim != width:
        raise errors.ConfigError(errors.explain(
            "config.vision.embed_dim", expected=f"{encoder.dim}, the width of {config.text.model}", found=width,
            do=f"set config.vision.embed_dim={encoder.dim}"))
    return encoder


@dataclass(frozen=True)
class Text:
    """The frozen text side of a run."""

    encoder: encode.TextEncoder
    rows: TextRows
    facts: str  # for people

    def params(self, mesh: Mesh, live: Tower | None) -> tree.Tree:
        """The tower's parameters on the mesh where it runs inside the step, else {}."""
        if live is None:
            return {}
        return jax.device_put(self.encoder.params, sharding.shardings(live.abstract(), mesh))


def open_text(config: ConfigDict, source: Source) -> Text:
    """The frozen text tower and every caption of a source, as vectors (computed now unless cached) or as ids."""
    encoder = open_encoder(config)
    name = f"{config.text.model} ({encoder.dim} numbers a text)"
    if config.text.source == "live":
        rows = TokenText(source, encoder.tokenizer, config.text.max_length, config.data.captions == "joined")
        return Text(encoder, rows, f"{name}, inside the step")
    cache = open_or_build(source, encoder, dtype=config.text.cache_dtype)
    return Text(encoder, CachedText(cache), f"{name}, {cache.unique:,} distinct captions cached")
