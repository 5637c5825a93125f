"""A frozen text tower as a folder that transformers loads by itself: its own weights, its own words, no remote code.

The weight file is the tower's own, byte for byte, wherever transformers reads its names. The config is written anew:
published ones may point to remote code, or use names that transformers' own class ignores without a word (n_embd).
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import tokenizers
from tokenizers import normalizers

from lit_tune.convert import mapping, weights
from lit_tune.convert.limits import refuse
from lit_tune.errors import ConfigError, explain
from lit_tune.models.bert import BertSpec
from lit_tune.models.nomic_bert import NomicBertSpec
from lit_tune.models.two_towers import family_of
from lit_tune.text.encode import TextEncoder
from lit_tune.text.tokenizer import Tokenizer

LICENCES = ("LICENSE", "NOTICE", "README.md")  # travel with the weights
NATIVE = {"bert": "hf", "nomic_bert": "nomic"}  # family -> layout of a file that transformers reads


def config(spec: Any, pad_id: int, max_length: int) -> dict[str, Any]:
    """The object of transformers' config.json for a text tower.

    Args:
        spec: of the tower.
        pad_id: token that fills rows up.
        max_length: most tokens that the tower is used with.

    Raises:
        ConfigError: transformers has no class of its own that computes this tower; the line says why.
    """
    family = family_of(spec)
    refuse(spec, "hf")
    if family not in CONFIGS:
        raise _refused(f"a text tower of one of the families {', '.join(CONFIGS)}", family)
    # transformers takes the dtype of the file otherwise, and a half-precision file would run in half precision
    return CONFIGS[family](spec, max_length) | {"pad_token_id": pad_id, "dtype": "float32"}


def _bert(spec: BertSpec, max_length: int) -> dict[str, Any]:
    return {
        "architectures": ["BertModel"], "model_type": "bert", "vocab_size": spec.vocab_size,
        "hidden_size": spec.width, "num_hidden_layers": spec.depth, "num_attention_heads": spec.num_heads,
        "intermediate_size": spec.mlp_dim, "hidden_act": "gelu", "max_position_embeddings": spec.max_positions,
        "type_vocab_size": spec.type_vocab, "layer_norm_eps": spec.norm_eps,
    }  # fmt: skip


def _nomic_bert(spec: NomicBertSpec, max_length: int) -> dict[str, Any]:
    if spec.ntk_factor and max_length > spec.ntk_length:
        expected = f"at most {spec.ntk_length} tokens, beyond which its rotary positions are stretched by NTK"
        raise _refused(expected, f"max_length {max_length}")
    return {
        "architectures": ["NomicBertModel"], "model_type": "nomic_bert", "vocab_size": spec.vocab_size,
        "hidden_size": spec.width, "num_hidden_layers": spec.depth, "num_attention_heads": spec.num_heads,
        "intermediate_size": spec.mlp_dim, "hidden_act": "silu", "max_position_embeddings": max(2048, max_length),
        "type_vocab_size": spec.type_vocab, "layer_norm_eps": spec.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": spec.rope_theta},
    }  # fmt: skip


CONFIGS: dict[str, Callable[[Any, int], dict[str, Any]]] = {"bert": _bert, "nomic_bert": _nomic_bert}


def _refused(expected: str, found: object) -> ConfigError:
    """The error for a tower that transformers does not hold."""
    do = "export --format=onnx or timm, which do not need it"
    return ConfigError(explain("text tower for transformers", expected=expected, found=found, do=do))


def write(encoder: TextEncoder, out: Path) -> str:
    """Fill the folder `out` for `AutoModel` and `AutoTokenizer`; the layout of the weights in model.safetensors.

    The tokenizer has no prefix: whoever uses the folder puts it before the text.

    Args:
        encoder: of the tower.
        out: made if absent.

    Raises:
        ConfigError: as `config`.
    """
    spec, tokenizer = encoder.tower.spec, encoder.tokenizer
    page = config(spec, tokenizer.pad_id, tokenizer.max_length)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "config.json", page)
    write_tokenizer(tokenizer, out)
    native = NATIVE[family_of(spec)]
    if encoder.weights_path is None or encoder.layout not in ("hf", "nomic"):
        named = mapping.to_peer(jax.device_get(encoder.params), spec, native)
        weights.write(out / weights.FILE, named, {"format": "pt"})
        return native
    shutil.copyfile(encoder.weights_path, out / weights.FILE)
    for name in LICENCES:
        if (encoder.weights_path.parent / name).is_file():
            shutil.copyfile(encoder.weights_path.parent / name, out / name)
    return encoder.layout


def write_tokenizer(tokenizer: Tokenizer, out: Path, prefix: str = "") -> None:
    """Write tokenizer.json and tokenizer_config.json into a folder.

    Args:
        tokenizer: of the tower; padding and truncation are left to whoever loads the files.
        prefix: put before every text by the files themselves, for tools that know nothing of prompts.
    """
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(out / "tokenizer.json")
    words = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
    if prefix:
        parts = [normalizers.Prepend(prefix)] + ([words.normalizer] if words.normalizer else [])
        words.normalizer = normalizers.Sequence(parts)
        words.save(str(out / "tokenizer.json"))
    page = {
        # the class that takes tokenizer.json as it is: transformers' BertTokenizer builds one of its own from the
        # vocabulary and drops every normalizer that it does not know, the prefix's first of all
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": tokenizer.max_length,
        # the only special token named here: others would be cut out of texts where our tokenizer reads them as words
        "pad_token": words.id_to_token(tokenizer.pad_id),
        "padding_side": "right",
        "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    write_json(out / "tokenizer_config.json", page)


def write_json(path: Path, page: Mapping[str, Any] | list[Any]) -> None:
    """Write a JSON file, indented."""
    path.write_text(json.dumps(page, indent=2) + "\n")
