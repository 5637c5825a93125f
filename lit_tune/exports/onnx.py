"""ONNX files of the two towers, written without torch: the package `onnx` only puts our nodes into a file.

`onnx/model.onnx`: `pixel_values` float32 (batch, 3, h, w), normalised with the tower's mean and std, to `image_embeds`
(batch, dim) and the same as `last_hidden_state` (batch, 1, dim). `onnx/text_model.onnx`: `input_ids` and
`attention_mask` int64 (batch, sequence), prefix already in the text, to `sentence_embedding` (batch, dim) and
`last_hidden_state` (batch, 1, dim). All are unit vectors, pooling and the LayerNorm of the text included; a consumer
that scales them again changes nothing. Batch and sequence are free, h and w are not. Opset 17, IR 8; run on
onnxruntime 1.32 only.

Who takes what. fastembed 0.9.1 (run): pictures by `ImageEmbedding(NAME, specific_model_path=DIR)`, where NAME is one
of its own list that reads onnx/model.onnx: it feeds the first input, takes the first output, flattens it and divides by
its length, in "nomic-ai/nomic-embed-vision-v1.5" after a reshape to 768 columns (so a tower of another width needs an
entry of its own in fastembed's list); texts by `TextEmbedding.add_custom_model(NAME, model_file="onnx/text_model.onnx",
pooling=PoolingType.DISABLED, ...)`, which wants a two-dimensional first output, and the folder's tokenizer.json and
tokenizer_config.json. transformers.js 4 (read, not run): image-feature-extraction takes `last_hidden_state`;
feature-extraction takes it too and has to be asked for pooling "cls" (its "mean" would go by the token mask); a model
called by itself gives `sentence_embedding` and `image_embeds`.
"""

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.export import symbolic_shape

from lit_tune import __version__
from lit_tune.convert import weights
from lit_tune.errors import ConfigError, explain
from lit_tune.exports.onnx_graph import Graph, Input, translate
from lit_tune.exports.onnx_ops import OPS, OPSET
from lit_tune.models import two_towers
from lit_tune.models.functional import Tower
from lit_tune.tree import Tree

VISION_FILE, TEXT_FILE = "onnx/model.onnx", "onnx/text_model.onnx"
IR_VERSION = 8  # the one that belongs to opset 17
LARGEST = (1 << 31) - (1 << 20)  # bytes of weights: protobuf ends at 2 GiB, and external data is not written
HOW = "pip install 'lit_tune[onnx]'"


def available() -> str:
    """What keeps ONNX files from being written, in one line; "" if nothing does."""
    return "" if importlib.util.find_spec("onnx") else f"the package onnx is not installed: {HOW}"


def export_vision(params: Tree, tower: Tower, path: Path, preprocess: Mapping[str, Any]) -> str:
    """Write a vision tower to `path`; the sha256 (hex) of the file.

    Args:
        params, tower: of any vision family, pooled to one vector.
        preprocess: of the tower's description; image_size fixes the input, mean and std are noted in the file.

    Raises:
        ConfigError: no package `onnx`, more than 2 GiB of weights, or an operation that has no form in ONNX here.
    """
    _require()
    (batch,) = symbolic_shape("batch")
    pixels = Input("pixel_values", "float32", (batch, 3, *preprocess["image_size"]))

    def function(params: Tree, pixel_values: jax.Array) -> tuple[jax.Array, jax.Array]:
        image = jnp.transpose(pixel_values, (0, 2, 3, 1))
        vectors = two_towers.embed_image(tower, params, image, preprocess["mean"], preprocess["std"])
        return vectors, vectors[:, None]

    graph = translate(function, params, [pixels], ["image_embeds", "last_hidden_state"], OPS)
    return write(graph, path, {"kind": "vision", "preprocess": json.dumps(dict(preprocess), sort_keys=True)})


def export_text(params: Tree, tower: Tower, path: Path, max_length: int) -> str:
    """Write a text tower to `path`; the sha256 (hex) of the file.

    Args:
        params, tower: of any text family.
        max_length: tokens of the longest text that will be fed, special tokens included.

    Raises:
        ConfigError: as `export_vision`, or more tokens than the tower has positions.
    """
    _require()
    shape = symbolic_shape("batch, sequence", constraints=[f"sequence <= {max_length}"])
    inputs = [Input("input_ids", "int64", shape), Input("attention_mask", "int64", shape)]

    def function(params: Tree, ids: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        vectors = two_towers.embed_text(tower, params, ids, mask)
        return vectors, vectors[:, None]

    longest = jax.ShapeDtypeStruct((1, max_length), jnp.int32)
    jax.eval_shape(function, params, longest, longest)  # the tower's own word on lengths needs a number
    graph = translate(function, params, inputs, ["sentence_embedding", "last_hidden_state"], OPS)
    return write(graph, path, {"kind": "text", "max_length": str(max_length)})


def _require() -> None:
    if available():
        raise ConfigError(explain("ONNX", expected="the package onnx", found="none", do=HOW))


def write(graph: Graph, path: Path, notes: Mapping[str, str]) -> str:
    """Check a graph and write it by rename; equal graphs give equal files. The sha256 (hex)."""
    import onnx

    size = sum(array.nbytes for array in graph.initializers.values())
    if size > LARGEST:
        raise ConfigError(explain("ONNX", expected="at most 2 GiB of weights (external data is not written)",
                                  found=f"{size / (1 << 30):.2f} GiB", do="export another format"))
    model = _model(graph, notes)
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    temporary.write_bytes(model.SerializeToString(deterministic=True))
    digest = weights.sha256(temporary)
    temporary.replace(path)
    return digest


def _model(graph: Graph, notes: Mapping[str, str]) -> Any:
    """The onnx.ModelProto of a graph."""
    from onnx import helper, numpy_helper

    kind: Callable[[str], int] = lambda name: helper.np_dtype_to_tensor_dtype(np.dtype(name))  # noqa: E731
    sizes: Callable[[Any], list[Any]] = lambda shape: [d if isinstance(d, int) else str(d) for d in shape]  # noqa: E731
    nodes = []
    for number, node in enumerate(graph.nodes):
        attributes = {name: kind(value) if name == "to" else value for name, value in node.attributes}
        nodes.append(helper.make_node(node.op, node.inputs, node.outputs, name=f"{node.op}_{number}", **attributes))
    body = helper.make_graph(
        nodes, f"lit_tune {notes['kind']}",
        [helper.make_tensor_value_info(one.name, kind(one.dtype), sizes(one.shape)) for one in graph.inputs],
        [helper.make_tensor_value_info(one.name, kind(one.dtype), sizes(one.shape)) for one in graph.outputs],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in graph.initializers.items()],
    )  # fmt: skip
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
                              producer_name="lit_tune", producer_version=__version__)  # fmt: skip
    helper.set_model_props(model, {"lit_tune": __version__, **notes})
    return model
