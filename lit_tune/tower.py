"""`load(DIR)`: a trained run or an export as a model that embeds pictures and texts; and weights to start from."""

import io
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8
from ml_collections import ConfigDict
from PIL import Image

from lit_tune import config as configs
from lit_tune.checkpoint import Checkpointer
from lit_tune.convert import mapping, timm, weights as weight_files
from lit_tune.data import transforms
from lit_tune.data.sample import BadSample
from lit_tune.description import (
    TEXT_FILE,
    TEXT_FOLDER,
    VISION_FILE,
    preprocess_of,
    read_description,
    save_text,
    save_vision,
    vision_description,
    vision_tower,
)
from lit_tune.errors import CheckpointError, ConfigError, DataError, explain
from lit_tune.models import two_towers
from lit_tune.models.functional import Tower
from lit_tune.models.vision import VisionSpec
from lit_tune.text import encode, weights
from lit_tune.text.encode import TextEncoder
from lit_tune.tree import Tree, flatten, unflatten

__all__ = ["Model", "load", "load_vision_params", "preprocess_of", "read_state", "save_text", "save_vision",
           "text_of_run", "vision_description"]

PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")  # what a picture in memory can be handed on as, unchanged
SHAPES = (1, 8, 32)  # pictures of the compiled shapes; a query is one picture and need not pay for 32
BATCH = SHAPES[-1]
Picture = Image.Image | np.ndarray | str | Path | bytes  # bytes: an encoded picture
# one for all models of a process: a second one of the same architecture compiles nothing
EMBED = jax.jit(two_towers.embed_image, static_argnames=("tower", "mean", "std"))
# Fields of a spec that decide what trunk weights mean although shapes may agree without them.
# Of a family without such a field there is nothing to compare.
TRUNK = ("patch_size", "width", "depth", "num_heads", "mlp_dim", "qkv_bias", "sub_ln", "attn_inner_norm",
         "class_token", "pos_embed", "rope", "rope_theta", "norm_eps", "act", "pre_norm", "patch_bias")  # fmt: skip
TOP = ("attn_pool", "head", "norm", "fc_norm")  # what may be absent from weights to start from: it starts at random


class Model:
    """Pictures and texts to unit vectors of one space.

    Args:
        description: of the vision tower.
        params: its parameters.
        prompt: the text tower's own prefix.
        text: makes the text encoder; called at the first text, so that pictures can be embedded without its weights.

    Attributes:
        dim: width of the vectors.
        image_size: (height, width) in pixels that pictures are brought to.
        prompt: what `embed_texts` puts before every text unless told otherwise. Pictures were aligned to texts with
            this prefix only.
    """

    def __init__(
        self, description: dict[str, Any], params: Tree, prompt: str, text: Callable[[], TextEncoder]
    ) -> None:
        self.description = description
        self.tower = vision_tower(description)
        self.prompt = prompt
        self.dim = self.tower.spec.dim
        self.preprocess = description["preprocess"]
        self.image_size = tuple(self.preprocess["image_size"])
        self.params = jax.device_put(params)
        self._text = text
        mean, std = (tuple(self.preprocess[name]) for name in ("mean", "std"))
        self._run = partial(EMBED, self.tower, mean=mean, std=std)

    def __repr__(self) -> str:
        height, width = self.image_size
        return f"Model(image_size={height}x{width}, dim={self.dim}, prompt={self.prompt!r})"

    @cached_property
    def text(self) -> TextEncoder:
        """The text encoder."""
        encoder = self._text()
        if encoder.dim != self.dim:
            raise ConfigError(
                explain("text tower", expected=f"vectors of {self.dim} numbers as the image tower gives",
                        found=encoder.dim, do="use the text tower the run was made with")
            )
        return encoder

    def embed_images(self, images: Sequence[Picture]) -> Float[np.ndarray, "n d"]:
        """float32 unit vectors of pictures, in their order.

        Args:
            images: PIL pictures, paths, encoded bytes or uint8 arrays (h, w, 3), of any size.

        Raises:
            DataError: a picture cannot be read or decoded; it is named.
        """
        parts = [np.empty((0, self.dim), np.float32)]
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            for start in range(0, len(images), BATCH):
                numbered = enumerate(images[start : start + BATCH], start)
                pixels = pool.map(lambda pair: self._pixels_or_error(*pair), numbered)
                parts.append(self.embed_pixels(np.stack(list(pixels))))
        return np.concatenate(parts)

    def _pixels_or_error(self, number: int, image: Picture) -> UInt8[np.ndarray, "h w 3"]:
        """`pixels`, with the picture's name in the error."""
        name = str(image) if isinstance(image, str | Path) else f"picture {number}"
        try:
            return self.pixels(image)
        except BadSample as bad:
            do = "mend it or leave it out"
            raise DataError(explain(name, expected="a picture that decodes", found=bad.kind, do=do)) from bad

    def pixels(self, image: Picture) -> UInt8[np.ndarray, "h w 3"]:
        """One picture as the tower sees it, by the description's policy and resize.

        Raises:
            BadSample: it cannot be read, decoded or is too large.
        """
        if isinstance(image, str | Path):
            try:
                image = Path(image).read_bytes()
            except OSError as error:
                raise BadSample("unreadable") from error
        if not isinstance(image, bytes):
            image = _encoded(image)
        limits = transforms.Limits(max_bytes=1 << 40)  # of the caller's own pictures; the limit on pixels stands
        return transforms.eval_transform(
            image, self.image_size, self.preprocess["policy"], self.preprocess["resize"], limits
        )

    def embed_pixels(self, pixels: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n d"]:
        """float32 unit vectors of prepared pictures, run in the few shapes of SHAPES."""
        vectors = np.empty((len(pixels), self.dim), np.float32)
        for start in range(0, len(pixels), BATCH):
            batch = pixels[start : start + BATCH]
            rows = next(rows for rows in SHAPES if rows >= len(batch))
            padded = np.zeros((rows, *batch.shape[1:]), np.uint8)
            padded[: len(batch)] = batch
            vectors[start : start + BATCH] = np.asarray(self._run(self.params, padded))[: len(batch)]
        return vectors

    def embed_texts(self, texts: Sequence[str], prompt: str | None = None) -> Float[np.ndarray, "n d"]:
        """float32 unit vectors of texts, in their order.

        Args:
            texts: without prefix.
            prompt: put before each; None takes the tower's own (`self.prompt`).
        """
        return self.text.encode(texts, prompt)


def _encoded(image: Image.Image | np.ndarray) -> bytes:
    """A picture in memory as a lossless file, so that it takes the very path of pictures on disk."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            found = f"{image.dtype} {image.shape}"
            raise ConfigError(explain("picture", expected="uint8 (h, w, 3)", found=found, do="convert it"))
        image = Image.fromarray(image)
    if image.mode not in PNG_MODES:
        image = image.convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=0, exif=image.info.get("exif", b""))
    return buffer.getvalue()


def load(folder: str | Path, step: int | None = None) -> Model:
    """The model in a run directory or in an export made by lit_tune.

    Args:
        folder: either of them.
        step: which checkpoint of a run; None takes the newest whole one.

    Raises:
        ConfigError: no such folder, or it is neither.
        CheckpointError: a run without a whole checkpoint.
    """
    folder = Path(folder).expanduser()
    if _is_run(folder):
        return _load_run(folder, step)
    if (folder / VISION_FILE).is_file():
        return _load_export(folder)
    found = "neither" if folder.is_dir() else "no such folder"
    expected = f"a run (config.json, checkpoints/) or an export ({VISION_FILE})"
    raise ConfigError(explain(f"model {folder}", expected=expected, found=found, do="check the path"))


def _is_run(folder: Path) -> bool:
    """Whether a folder is a run directory."""
    return (folder / "checkpoints").is_dir() and (folder / "config.json").is_file()


def _load_run(folder: Path, step: int | None) -> Model:
    """The model of a run's checkpoint; the running average of the weights where the run keeps one."""
    config = configs.from_json((folder / "config.json").read_text())
    state, meta = read_state(folder, step)
    description = vision_description(two_towers.vision_spec(config), preprocess_of(config))
    params = state["ema"]["image"] if "ema" in state else state["params"]["image"]
    return Model(description, params, config.text.prefix, lambda: text_of_run(config, meta))


def read_state(folder: Path, step: int | None = None) -> tuple[Tree, dict[str, Any]]:
    """(state, meta) of a run's checkpoint on this process's first device, digests compared.

    Args:
        folder: the run directory.
        step: which; None takes the newest whole one.
    """
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    # Orbax refuses relative paths
    with Checkpointer(folder.absolute() / "checkpoints", keep=1, read_only=True) as checkpoints:
        faults = []
        for candidate in reversed(checkpoints.steps()) if step is None else [step]:
            try:
                return _restore(checkpoints, candidate, sharding)
            except CheckpointError as error:
                faults.append(str(error))
    found = faults[0] if faults else "no checkpoint yet"
    raise CheckpointError(explain(str(folder), expected="a whole checkpoint", found=found, do="train, or name a step"))


def _restore(
    checkpoints: Checkpointer, step: int, sharding: jax.sharding.Sharding
) -> tuple[Tree, dict[str, Any]]:
    """State and meta of one step; its structure is the one that was saved with it."""
    if step not in checkpoints.steps():
        raise CheckpointError(f"no whole checkpoint of step {step}; there are: {checkpoints.steps()}")
    arrays = checkpoints.meta(step)["arrays"]
    abstract = unflatten({name: jax.ShapeDtypeStruct(*facts) for name, facts in arrays.items()})
    _, state, meta = checkpoints.restore(step, abstract, sharding)
    return state, meta


def text_of_run(config: ConfigDict, meta: Mapping[str, Any]) -> TextEncoder:
    """The frozen text tower of a run, found by name and compared by digest with the one that trained it.

    Raises:
        ConfigError: not found, or other weights.
    """
    files = weights.find(config.text)
    trained = meta.get("text_tower", {}).get("text", {}).get("weights_sha256", files.sha256)
    if files.sha256 != trained:
        raise ConfigError(
            explain(f"text weights in {files.folder}", expected=f"sha256 {trained}", found=files.sha256,
                    do="give the run's own text weights as config.text.model")
        )
    return TextEncoder.from_files(files, config.text)


def _load_export(folder: Path) -> Model:
    """The model of an export folder: timm's layout for pictures, text/ for texts."""
    description = read_description(folder / VISION_FILE)
    spec = vision_tower(description).spec
    params = mapping.from_peer(weight_files.read(folder), spec, "timm")
    page = read_description(folder / TEXT_FOLDER / TEXT_FILE)
    return Model(description, params, page["text"]["prefix"], lambda: encode.read_folder(folder / TEXT_FOLDER, page))


def load_vision_params(init_from: str, tower: Tower) -> Tree:
    """Parameters for `tower` to start from, taken from another run, an export or a timm folder.

    What stands above the trunk there and not here is left out; what is only here starts at random, and a line says so.

    Args:
        init_from: a run directory, an export, a folder with timm's config.json and model.safetensors, or that file.
        tower: the vision tower of the new run.

    Raises:
        ConfigError: nothing of the kind, or another trunk.
    """
    params, spec = _other_tower(Path(init_from).expanduser())
    family, wanted_family = two_towers.family_of(spec), two_towers.family_of(tower.spec)
    if family != wanted_family:
        raise ConfigError(explain(f"vision.init_from {init_from}", expected=f"a tower of family {wanted_family}",
                                  found=family, do=f"change config.vision.family to {family}"))
    differ = [name for name in TRUNK if hasattr(spec, name) and getattr(spec, name) != getattr(tower.spec, name)]
    if differ:
        found, expected = (f"{differ[0]} {getattr(one, differ[0])}" for one in (spec, tower.spec))
        raise ConfigError(explain(f"vision.init_from {init_from}", expected=expected, found=found,
                                  do="start from the same trunk, or change config.vision"))
    named, wanted = flatten(params), flatten(tower.abstract())
    other = sorted(name for name, leaf in wanted.items() if name in named and named[name].shape != leaf.shape)
    # A key bias that only this run trains starts at zero, as contrastors converts timm's weights.
    named |= {name: np.zeros(leaf.shape, np.float32) for name, leaf in wanted.items()
              if name not in named and re.fullmatch(r"blocks/\d+/attn/k/bias", name)}
    missing = sorted(name for name in wanted if name not in named)
    fatal = other + [name for name in missing if name.split("/")[0] not in TOP]
    if fatal:
        found = f"{fatal[0]} {named[fatal[0]].shape if fatal[0] in named else 'missing'}"
        raise ConfigError(explain(f"vision.init_from {init_from}", expected=f"{wanted[fatal[0]].shape}", found=found,
                                  do="start from weights of the same image size, pooling and width"))
    if missing:
        fresh = flatten(tower.init(jax.random.key(0)))
        named |= {name: fresh[name] for name in missing}
        parts = ", ".join(sorted({name.split("/")[0] for name in missing}))
        print(f"lit_tune: {init_from} has no {parts}: random numbers there", file=sys.stderr, flush=True)
    return unflatten({name: named[name] for name in wanted})


def _other_tower(path: Path) -> tuple[Tree, VisionSpec]:
    """(parameters, spec) of a vision tower that lies in a run, an export or a timm folder."""
    if _is_run(path) or (path / VISION_FILE).is_file():
        model = load(path)
        return model.params, model.tower.spec
    folder = path.parent if path.is_file() else path
    if not (folder / timm.CONFIG).is_file():
        raise ConfigError(explain("vision.init_from", expected="a run, an export, or timm's config.json beside weights",
                                  found=f"none at {path}", do="check the path"))
    params, spec, _ = timm.load(folder)
    return params, spec
