"""Pictures and texts to unit vectors of one space: the model that `lit_tune.load` gives, made of two encoders."""

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from lit_tune.data import transforms
from lit_tune.data.sample import BadSample
from lit_tune.description import ALIGNED, no_text_tower, vision_tower
from lit_tune.errors import ConfigError, DataError, explain
from lit_tune.models import two_towers
from lit_tune.text.encode import TextEncoder
from lit_tune.tree import Tree

PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")  # what a picture in memory can be handed on as, unchanged
SHAPES = (1, 8, 32)  # pictures of the compiled shapes; a query is one picture and need not pay for 32
BATCH = SHAPES[-1]
Picture = Image.Image | np.ndarray | str | Path | bytes  # bytes: an encoded picture
Run = Callable[[Tree, np.ndarray], Any]
# one for all models of a process: a second one of the same architecture compiles nothing
EMBED = jax.jit(two_towers.embed_image, static_argnames=("tower", "mean", "std"))
POOL_ATTENTION = jax.jit(two_towers.pool_attention, static_argnames=("tower", "mean", "std"))


class PoolAttention(NamedTuple):
    """Where the heads of a pooling look; for each head of a picture all weights together are 1.

    Attributes:
        patches: (n, heads, rows, columns) weights of the patches, where they lie in the picture.
        class_token: (n, heads) weight of the class token, which lies nowhere; 0 for a tower without one.
    """

    patches: Float[np.ndarray, "n heads rows columns"]
    class_token: Float[np.ndarray, "n heads"]


class VisionEncoder:
    """A vision tower with its way of preparing pictures.

    Args:
        description: of the tower.
        params: its parameters; {} for a tower that only runs.
        run: (params, uint8 pictures) -> unit vectors, where it is not our own forward (an ONNX file).

    Attributes:
        description: as given.
        preprocess: its part about pictures.
        tower: the tower without parameters.
        params: on the default device.
        dim: width of the vectors.
        image_size: (height, width) in pixels that pictures are brought to.
    """

    def __init__(self, description: dict[str, Any], params: Tree, run: Run | None = None) -> None:
        self.description = description
        self.tower = vision_tower(description)
        self.params = jax.device_put(params)
        self.preprocess = description["preprocess"]
        self.dim = self.tower.spec.dim
        self.image_size = tuple(self.preprocess["image_size"])
        mean, std = (tuple(self.preprocess[name]) for name in ("mean", "std"))
        self._run = run or partial(EMBED, self.tower, mean=mean, std=std)

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
        how = self.preprocess
        crop_pct = how["crop_pct"] if "crop_pct" in how else 1.0
        return transforms.eval_transform(
            image, self.image_size, how["policy"], how["resize"], limits,
            interpolation=how["interpolation"], crop_pct=crop_pct,
        )  # fmt: skip

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

    def pool_attention(self, pixels: UInt8[np.ndarray, "n h w 3"]) -> PoolAttention:
        """What the pooling looks at in prepared pictures.

        Args:
            pixels: as `pixels` makes them, all in one batch: a few.

        Raises:
            ConfigError: the pooling has no attention, or the tower is not run by our own forward.
        """
        if not self.params:
            raise ConfigError(
                explain("attention of the pooling", expected="a tower with parameters", found="an ONNX file",
                        do="load the folder that it was exported from")
            )
        mean, std = (tuple(self.preprocess[name]) for name in ("mean", "std"))
        weights = np.asarray(POOL_ATTENTION(self.tower, self.params, pixels, mean, std))  # (n, heads, tokens)
        rows, columns = (side // self.tower.spec.patch_size for side in pixels.shape[1:3])
        patches = weights[:, :, -rows * columns :].reshape(*weights.shape[:2], rows, columns)
        class_token = weights[:, :, 0] if self.tower.spec.class_token else np.zeros(weights.shape[:2], np.float32)
        return PoolAttention(patches, class_token)


class Model:
    """Pictures and texts to unit vectors of one space.

    Args:
        vision: the image side; None for a folder that holds a text tower only.
        text: makes the text side; called at the first text, so that pictures can be embedded without its weights. None
            for an image tower alone.
        prompt: the text tower's own prefix; "" where there is none.

    Attributes:
        prompt: what `embed_texts` puts before every text unless told otherwise. Pictures were aligned to texts with
            this prefix only.
    """

    def __init__(self, vision: VisionEncoder | None, text: Callable[[], TextEncoder] | None, prompt: str) -> None:
        self._vision = vision
        self._text = text
        self.prompt = prompt

    def __repr__(self) -> str:
        picture = "no image tower" if self._vision is None else "image_size={}x{}".format(*self.image_size)
        texts = f"prompt={self.prompt!r}" if self.has_text else "no text tower"
        return f"Model({picture}, dim={self.dim}, {texts})"

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return self.text.dim if self._vision is None else self._vision.dim

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels that pictures are brought to."""
        return self.vision.image_size

    @property
    def vision(self) -> VisionEncoder:
        """The image side.

        Raises:
            ConfigError: this model has none.
        """
        if self._vision is None:
            raise _lacks("an image")
        return self._vision

    @cached_property
    def text(self) -> TextEncoder:
        """The text side.

        Raises:
            ConfigError: this model has none, or one of another width.
        """
        if self._text is None:
            aligned = self._vision is not None and ALIGNED in self._vision.description
            raise no_text_tower(self.dim) if aligned else _lacks("a text")
        encoder = self._text()
        if self._vision is not None and encoder.dim != self._vision.dim:
            raise ConfigError(
                explain("text tower", expected=f"vectors of {self.dim} numbers as the image tower gives",
                        found=encoder.dim, do="use the text tower the run was made with")
            )
        return encoder

    @property
    def has_image(self) -> bool:
        """Whether there is an image side."""
        return self._vision is not None

    @property
    def has_text(self) -> bool:
        """Whether there is a text side."""
        return self._text is not None

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
                parts.append(self.vision.embed_pixels(np.stack(list(pixels))))
        return np.concatenate(parts)

    def _pixels_or_error(self, number: int, image: Picture) -> UInt8[np.ndarray, "h w 3"]:
        """`pixels`, with the picture's name in the error."""
        name = str(image) if isinstance(image, str | Path) else f"picture {number}"
        try:
            return self.vision.pixels(image)
        except BadSample as bad:
            do = "mend it or leave it out"
            raise DataError(explain(name, expected="a picture that decodes", found=bad.kind, do=do)) from bad

    def embed_texts(self, texts: Sequence[str], prompt: str | None = None) -> Float[np.ndarray, "n d"]:
        """float32 unit vectors of texts, in their order.

        Args:
            texts: without prefix.
            prompt: put before each; None takes the tower's own (`self.prompt`).

        Raises:
            ConfigError: this model has no text tower.
        """
        return self.text.encode(texts, prompt)


def _lacks(kind: str) -> ConfigError:
    """The error of a model without one of its towers."""
    return ConfigError(
        explain("model", expected=f"a folder with {kind} tower", found="none",
                do="add one: lit-tune import --from=... --weights=... --out=THIS_FOLDER")
    )


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
