"""A folder that sentence-transformers loads as one model: texts and pictures to unit vectors of one space.

`SentenceTransformer(DIR)` needs no remote code. Texts take the route Transformer, Pooling, LayerNorm (where the tower
has it), Dense (where the tower keeps the first numbers only); pictures Transformer, Dense (where there is a
projection); both end in Normalize. `encode(..., truncate_dim=k)` cuts after all of that, so the LayerNorm sees the
full width; add `normalize_embeddings=True` for unit vectors.

The two Transformer folders are complete for transformers' `AutoModel`. The picture's gives the vector before the
projection: transformers builds a timm model without its classifier, and that is what holds a projection in timm.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lit_tune.convert import weights
from lit_tune.errors import ConfigError, explain
from lit_tune.exports import text_folder, timm
from lit_tune.exports.parts import Source, Written
from lit_tune.exports.text_folder import write_json
from lit_tune.text.encode import TextEncoder
from lit_tune.tree import Tree

TEXT, IMAGE = "text_0_Transformer", "image_0_Transformer"
MODULES = "sentence_transformers.base.modules"
POOLINGS = {"mean": "mean", "cls": "cls"}  # ours -> theirs
TYPES = {
    "Transformer": f"{MODULES}.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "LayerNorm": "sentence_transformers.sentence_transformer.modules.layer_norm.LayerNorm",
    "Dense": f"{MODULES}.dense.Dense",
}


def write(source: Source, out: Path) -> list[Written]:
    """Fill `out` with the model; what was written.

    Raises:
        ConfigError: timm cannot hold the image tower or transformers the text tower; the line says why.
    """
    out.mkdir(parents=True, exist_ok=True)
    text, layout = _write_text(source.text, out)
    image = _write_image(source, out)
    _write_root(source.text.tokenizer.prefix, {"text": text, "image": image}, out)
    written = [Written("transformers text tower", "text", f"{TEXT}/{weights.FILE}", layout, f"{TEXT}/tokenizer.json")]
    if len(image) == 1:  # otherwise it is a tower without its projection, not the one that is described
        written.append(Written("timm image tower", "vision", f"{IMAGE}/{weights.FILE}", "timm"))
    return written


def _write_text(encoder: TextEncoder, out: Path) -> tuple[list[str], str]:
    """(names of the text modules in their order, layout of the tower's weights)."""
    spec = encoder.tower.spec
    if spec.pool not in POOLINGS:
        raise ConfigError(explain("sentence-transformers layout", expected=f"text pooling {' or '.join(POOLINGS)}",
                                  found=spec.pool, do="export another format"))
    layout = text_folder.write(encoder, out / TEXT)
    _write_transformer(out / TEXT, "text", "last_hidden_state", "token_embeddings")
    names = [TEXT, "text_1_Pooling"]
    pooling = {"embedding_dimension": spec.width, "pooling_mode": POOLINGS[spec.pool], "include_prompt": True}
    _write_module(out / names[-1], pooling)
    if spec.layer_norm:
        names.append(f"text_{len(names)}_LayerNorm")
        plain = {"norm.weight": np.ones(spec.width, np.float32), "norm.bias": np.zeros(spec.width, np.float32)}
        _write_module(out / names[-1], {"dimension": spec.width}, plain)
    if spec.dim:
        names.append(f"text_{len(names)}_Dense")
        _write_dense(out / names[-1], np.eye(spec.dim, spec.width, dtype=np.float32), None)  # the first numbers
    return names, layout


def _write_image(source: Source, out: Path) -> list[str]:
    """Names of the image modules in their order."""
    spec, params = source.vision.tower.spec, jax.device_get(source.vision.params)
    names = [IMAGE]
    if spec.projects:
        names.append("image_1_Dense")
        head = params["head"]
        _write_dense(out / names[-1], head["kernel"].T, head["bias"] if "bias" in head else None)
        spec, params = without_projection(spec, params)
    timm.export(params, spec, source.vision.preprocess, out / IMAGE)
    _write_transformer(out / IMAGE, "image", "pooler_output", "sentence_embedding")
    return names


def without_projection(spec: Any, params: Tree) -> tuple[Any, Tree]:
    """(spec, params) of the same image tower that ends in its pooling."""
    bare = dataclasses.replace(spec, embed_dim=0, embed_bias=False)
    return bare, {name: part for name, part in params.items() if name != "head"}


def _write_transformer(folder: Path, modality: str, output: str, feature: str) -> None:
    """Say in a Transformer's folder what goes in, which output of the model is taken, and what it is called then."""
    page: dict[str, Any] = {
        "transformer_task": "feature-extraction",
        "modality_config": {modality: {"method": "forward", "method_output_name": output}},
        "module_output_name": feature,
    }
    if modality == "text":
        # BERT's pooler is used by nobody and often absent: without this, random numbers take its place with a warning
        page["model_kwargs"] = {"add_pooling_layer": False}
    write_json(folder / "sentence_bert_config.json", page)


def _write_dense(folder: Path, kernel: np.ndarray, bias: np.ndarray | None) -> None:
    """A linear module; kernel float32 (out, in)."""
    page = {
        "in_features": kernel.shape[1], "out_features": kernel.shape[0], "bias": bias is not None,
        "activation_function": "torch.nn.modules.linear.Identity", "module_input_name": "sentence_embedding",
        "module_output_name": "sentence_embedding",
    }  # fmt: skip
    _write_module(folder, page, {"linear.weight": kernel} | ({} if bias is None else {"linear.bias": bias}))


def _write_module(folder: Path, page: dict[str, Any], arrays: dict[str, np.ndarray] | None = None) -> None:
    """A module's folder: its arguments and, where it has any, its arrays."""
    folder.mkdir()
    write_json(folder / "config.json", page)
    if arrays is not None:
        weights.write(folder / weights.FILE, arrays, {"format": "pt"})


def _write_root(prefix: str, routes: dict[str, list[str]], out: Path) -> None:
    """The files that join the modules: routes by what is encoded, Normalize behind them, the prefix as a prompt."""
    types = {name: TYPES[name.rpartition("_")[2]] for names in routes.values() for name in names}
    mappings = {f"(None, '{modality}')": modality for modality in routes}
    parameters = {"default_route": "text", "allow_empty_key": True, "route_mappings": mappings}
    write_json(out / "router_config.json", {"types": types, "structure": routes, "parameters": parameters})
    joined = [("", f"{MODULES}.router.Router"), ("1_Normalize", f"{MODULES}.normalize.Normalize")]
    page = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(joined)]
    write_json(out / "modules.json", page)
    names = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
    _write_module(out / "1_Normalize", names)
    # encode_query and encode_document look for prompts of these names and use none at all where there is none;
    # pictures are aligned to texts with this prefix only, whichever side of a search they are on
    prompts = {"prompts": {"query": prefix, "document": prefix}, "default_prompt_name": "query"} if prefix else {}
    page = {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine", **prompts}
    write_json(out / "config_sentence_transformers.json", page)
