"""What is evaluated: a run's checkpoint or an exported model, with its own way with pictures and its own prompt."""

import hashlib
import json
import platform
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from lit_tune import __version__, description, distributed, sharding, tree
from lit_tune.convert import onnx_session
from lit_tune.errors import ConfigError, explain
from lit_tune.evaluation.embedding import Embedder, EncoderEmbedder, MeshEmbedder
from lit_tune.evaluation.sets import eval_picture
from lit_tune.model import Model
from lit_tune.models import two_towers
from lit_tune.text.encode import TextEncoder

MEMO_BYTES = 1 << 30  # of text vectors kept: ImageNet's 80,000 prompts at 768 numbers are 246 MB


@dataclass(frozen=True)
class System:
    """A model as evaluations see it.

    Attributes:
        picture: an encoded picture -> uint8 (h, w, 3) as the tower sees it; raises BadSample.
        embedder: pixels -> vectors; with `params`.
        embed_text: (texts, prompt) -> unit rows.
        prompt: the text tower's own.
        settings: how pictures and texts are treated, JSON values; part of every result.
        identity: name, vision_sha256, text_sha256, and step of a run.
    """

    picture: Callable[[bytes], np.ndarray]
    embedder: Embedder
    params: tree.Tree
    embed_text: Callable[[Sequence[str], str], np.ndarray]
    prompt: str
    settings: Mapping[str, Any]
    identity: Mapping[str, Any]


def of_run(
    config: ConfigDict, embedder: Embedder, params: tree.Tree, embed_text: "TextMemo", *, name: str, step: int
) -> System:
    """A run's weights at a step.

    Args:
        config: of the run.
        embedder: from `embedder_of_run`; compiled once a run.
        params: of the image tower, the running average where the run keeps one, wherever they lie.
        embed_text: the frozen text tower; its vectors of one evaluation serve the next.
        name: what results call it.
        step: steps trained.
    """
    settings = _picture_settings(description.of_run(config), config.dtype) | embed_text.settings
    identity = {"name": name, "step": step, "vision_sha256": tree.digest(_on_host(params)),
                "text_sha256": embed_text.sha256}  # fmt: skip
    return System(eval_picture(config), embedder, params, embed_text, embed_text.prompt, settings, identity)


def embedder_of_run(config: ConfigDict, mesh: Mesh) -> MeshEmbedder:
    """The image tower that a config trains, on all devices, in its compute dtype."""
    return MeshEmbedder(two_towers.vision_tower(config), config.vision.image_size, config.data.mean, config.data.std,
                        jnp.dtype(config.dtype), mesh, config.eval.batch * mesh.size)


def of_model(model: Model, mesh: Mesh, batch: int, name: str) -> System:
    """An import or export, computed in float32.

    Args:
        model: with both towers.
        mesh: all its devices take part, unless the tower is an ONNX file.
        batch: pictures a device.
        name: what results call it.

    Raises:
        ConfigError: an ONNX tower under several processes.
    """
    vision, how = model.vision, model.vision.preprocess
    facts = vision.description["weights"]
    embed_text = TextMemo(model.text)
    if facts["layout"] == onnx_session.LAYOUT:
        if distributed.num_processes() > 1:
            raise ConfigError(explain(name, expected="one process for an ONNX model", found=distributed.num_processes(),
                                      do="evaluate it on one host, or import the weights"))
        embedder: Embedder = EncoderEmbedder(vision)
        params = vision.params
    else:
        embedder = MeshEmbedder(vision.tower, how["image_size"], how["mean"], how["std"], jnp.float32, mesh,
                                batch * mesh.size)
        params = jax.device_put(jax.tree.map(np.asarray, vision.params), sharding.replicated(mesh))
    settings = _picture_settings(vision.description, "float32") | embed_text.settings
    identity = {"name": name, "vision_sha256": facts["sha256"], "text_sha256": embed_text.sha256}
    return System(vision.pixels, embedder, params, embed_text, embed_text.prompt, settings, identity)


def name_of(folder: str | Path) -> str:
    """What results call a folder: its last name."""
    return Path(folder).expanduser().absolute().name


class TextMemo:
    """A frozen text tower that remembers what it embedded last: many tasks ask for the same class names.

    Args:
        encoder: of the texts.

    Attributes:
        prompt: the encoder's own prefix.
        sha256: of its weights.
        settings: how texts are treated.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        text = encoder.description["text"]
        self.prompt, self.sha256 = text["prefix"], text["weights_sha256"]
        self.settings = {"own_prompt": self.prompt, "max_length": text["max_length"], "dim": encoder.dim,
                         "text_tower": text["name"]}  # fmt: skip
        self._known: OrderedDict[str, np.ndarray] = OrderedDict()

    def __call__(self, texts: Sequence[str], prompt: str) -> np.ndarray:
        """float32 (n, d) unit rows."""
        key = hashlib.sha256(json.dumps([prompt, *texts]).encode()).hexdigest()
        if key not in self._known:
            unique = list(dict.fromkeys(texts))
            place = {text: i for i, text in enumerate(unique)}
            vectors = self._encoder.encode(unique, prompt)
            self._known[key] = vectors if len(unique) == len(texts) else vectors[[place[text] for text in texts]]
        self._known.move_to_end(key)
        while len(self._known) > 1 and sum(one.nbytes for one in self._known.values()) > MEMO_BYTES:
            self._known.popitem(last=False)
        return self._known[key]


def _picture_settings(page: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """How pictures are treated, and by which versions of what."""
    how = page["preprocess"]
    return {
        **{name: how[name] for name in ("image_size", "resize", "interpolation", "policy", "mean", "std")},
        "crop_pct": how["crop_pct"] if "crop_pct" in how else 1.0,
        "dtype": dtype,
        "versions": {"lit_tune": __version__, "jax": jax.__version__, "numpy": np.__version__,
                     "python": platform.python_version()},
        "device": jax.devices()[0].device_kind,
    }


def _on_host(params: tree.Tree) -> tree.Tree:
    """The whole arrays on this host, wherever they are sharded."""
    def whole(leaf: Any) -> np.ndarray:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            everywhere = jax.jit(lambda x: x, out_shardings=sharding.replicated(leaf.sharding.mesh))(leaf)
            return np.asarray(everywhere.addressable_data(0))
        return np.asarray(leaf)

    return jax.tree.map(whole, params)
