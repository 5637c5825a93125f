"""A text tower's folder, a run directory and an export, all tiny and random; shared by the tests that need a model."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from safetensors.numpy import save_file

from lit_tune import config as config_lib, description
from lit_tune.checkpoint import Checkpointer
from lit_tune.convert import mapping
from lit_tune.exports import timm
from lit_tune.exports.text_files import copy_text
from lit_tune.models import two_towers
from lit_tune.models.bert import BertSpec
from lit_tune.text import weights
from lit_tune.text.cache import TextCache
from lit_tune.text.encode import TextEncoder
from lit_tune.text.provider import NoTower

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "dog", "##s", "red", "big", ":", "query", "on", "the", "mat"]
TEXT_SPEC = BertSpec(vocab_size=len(WORDS), max_positions=40, type_vocab=2, width=16, depth=1, num_heads=2, mlp_dim=32,
                     norm_eps=1e-12, pool="mean", layer_norm=False, dim=0)  # fmt: skip


def write_tokenizer(folder: Path, padded: bool = True) -> Path:
    """A small WordPiece tokenizer.json that carries its own padding and truncation, as published ones do."""
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers, processors

    tokenizer = tokenizers.Tokenizer(models.WordPiece({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    if padded:
        tokenizer.enable_padding(length=128)
        tokenizer.enable_truncation(128)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def write_text_tower(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A text tower's folder in transformers' layout, random weights."""
    spec = dataclasses.replace(TEXT_SPEC, **changes)
    params = jax.tree.map(lambda x: x * 10, two_towers.tower_of(spec).init(jax.random.key(seed)))
    write_tokenizer(folder)
    save_file(mapping.to_peer(params, spec, "hf"), folder / "model.safetensors")
    page = {"model_type": "bert", "vocab_size": spec.vocab_size, "max_position_embeddings": spec.max_positions,
            "type_vocab_size": spec.type_vocab, "hidden_size": spec.width, "num_hidden_layers": spec.depth,
            "num_attention_heads": spec.num_heads, "intermediate_size": spec.mlp_dim, "layer_norm_eps": spec.norm_eps,
            "hidden_act": "gelu"}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(page))
    return folder


def small_config(text_folder: Path, **changes: Any) -> ConfigDict:
    """The quick start, made tiny, with a text tower of one's own."""
    values = {
        "vision.image_size": "16,16", "vision.width": "16", "vision.depth": "1", "vision.num_heads": "2",
        "vision.mlp_dim": "32", "vision.pool_mlp_dim": "32", "vision.embed_dim": "0", "text.model": str(text_folder),
        "text.max_length": "12", "text.prefix": "query: ", "global_batch": "8", "total_steps": "4",
    }  # fmt: skip
    values |= {name.replace("__", "."): str(value) for name, value in changes.items()}
    return config_lib.load("quickstart", list(values.items()))


def text_encoder(config: ConfigDict) -> TextEncoder:
    """The text tower of a config."""
    return TextEncoder.from_files(weights.find(config.text), config.text)


def text_side(config: ConfigDict) -> TextEncoder | NoTower:
    """What a run of this config has for its texts."""
    if config.text.source == "vectors":
        return NoTower(TextCache.open(config.text.vectors))
    return text_encoder(config)


def write_run(folder: Path, config: ConfigDict, steps: tuple[int, ...] = (3,), ema: bool = False) -> dict[str, Any]:
    """A run directory with a checkpoint at each of `steps`; the last state. Weights differ from step to step."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(config_lib.to_json(config))
    vision = two_towers.vision_tower(config)
    meta = {"config": config_lib.resolved(config), "config_hash": config_lib.config_hash(config),
            "data": {"train": "0" * 64}, "vision_tower": description.of_run(config),
            "text_tower": text_side(config).description}
    with Checkpointer(folder / "checkpoints", keep=len(steps)) as checkpoints:
        for step in steps:
            params = {"image": vision.init(jax.random.key(step)), "logit_scale": jnp.float32(0)}
            state = {"step": jnp.int32(step), "params": params, "skipped": jnp.int32(0),
                     "opt_state": {"mu": jax.tree.map(jnp.zeros_like, params)}}
            if ema:
                state["ema"] = {"image": vision.init(jax.random.key(100 + step)), "logit_scale": jnp.float32(0)}
            checkpoints.save_now(step, state, meta)
    return state


def write_export(folder: Path, config: ConfigDict, params: Any) -> Path:
    """An export in timm's layout, as `lit-tune export` writes it."""
    spec = two_towers.vision_spec(config)
    timm.export(jax.device_get(params), spec, description.preprocess_of(config), folder)
    description.save_vision(folder, description.of_run(config), folder / "model.safetensors", "timm")
    text = text_encoder(config)
    (written,) = copy_text(text, folder)
    paths = folder / written.file, folder / written.tokenizer
    description.describe_text(folder, text.description, *paths, written.layout)
    return folder


def picture(seed: int, height: int = 20, width: int = 24) -> np.ndarray:
    """A random picture, uint8 (h, w, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
