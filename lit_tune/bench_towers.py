"""The two towers of an evaluation, to be timed: a model's own, or a pair of the published size with random weights."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np

from lit_tune import config as configs, tower
from lit_tune.description import of_run
from lit_tune.model import VisionEncoder
from lit_tune.models.functional import Tower
from lit_tune.models.nomic_bert import NomicBert, NomicBertSpec
from lit_tune.models.two_towers import vision_tower
from lit_tune.text.encode import EMBED

CONFIG = "nomic_embed_vision_v1_5"
# config.json of nomic-ai/nomic-embed-text-v1.5
NOMIC_TEXT = NomicBertSpec(vocab_size=30_528, type_vocab=2, width=768, depth=12, num_heads=12, mlp_dim=3072,
                           norm_eps=1e-12, rope_theta=1000.0, ntk_factor=0.0, ntk_length=0, pool="mean",
                           layer_norm=True, dim=0)  # fmt: skip
TOKENS = 16  # of a prompt with prefix: "search_query: a photo of a ..." takes a dozen and the class's name
ROWS = 32  # texts at a time, as `text.encode` runs them
WORDS = "a photo of a large thing, number {}."


@dataclass(frozen=True)
class Towers:
    """What is timed.

    Attributes:
        name: in words.
        dim: width of the vectors.
        image_size: (height, width), pixels.
        pictures: runs the image tower on uint8 (n, h, w, 3).
        prompts: runs the text tower on n prompts, their ids made beforehand: n -> a function to be timed.
    """

    name: str
    dim: int
    image_size: tuple[int, int]
    pictures: Callable[[np.ndarray], np.ndarray]
    prompts: Callable[[int], Callable[[], object]]

    def seconds_a_picture(self, sample: int, repeats: int) -> float:
        """Median over repeats, once compiled."""
        pixels = np.random.default_rng(0).integers(256, size=(sample, *self.image_size, 3), dtype=np.uint8)
        return _median_seconds(lambda: self.pictures(pixels), repeats) / sample

    def seconds_a_prompt(self, sample: int, repeats: int) -> float:
        """Median over repeats, once compiled."""
        return _median_seconds(self.prompts(sample), repeats) / sample


def load(folder: str | None) -> Towers:
    """The towers of a model folder, or the pair of the published size with random weights.

    Raises:
        ConfigError: no such folder, or it lacks a tower.
    """
    return _random_pair() if folder is None else _of_model(folder)


def _of_model(folder: str) -> Towers:
    """The towers of a run, an import or an export."""
    model = tower.load(folder)
    vision, text = model.vision, model.text

    def prompts(count: int) -> Callable[[], object]:
        ids = text.tokenizer([WORDS.format(i) for i in range(count)])
        return lambda: text.encode_ids(ids)

    name = f"{folder} ({vision.description['family']}, {text.description['family']})"
    return Towers(name, model.dim, vision.image_size, vision.embed_pixels, prompts)


def _random_pair() -> Towers:
    """EVA02-B/16 at 224 pixels and a text tower of the size of nomic-embed-text-v1.5."""
    config = configs.load(CONFIG)
    vision = VisionEncoder(of_run(config), jax.jit(vision_tower(config).init)(jax.random.key(0)))
    text = Tower(NomicBert, NOMIC_TEXT)
    params = jax.jit(text.init)(jax.random.key(1))
    mask = np.ones((ROWS, TOKENS), np.int32)

    def prompts(count: int) -> Callable[[], object]:
        ids = np.random.default_rng(0).integers(NOMIC_TEXT.vocab_size, size=(-(-count // ROWS), ROWS, TOKENS))
        blocks = ids.astype(np.int32)
        # the last block is filled up, as in `text.encode`
        return lambda: [np.asarray(EMBED(text, params, block, mask)) for block in blocks]

    name = "EVA02-B/16 and nomic-bert of the published sizes, random weights, float32"
    return Towers(name, vision.dim, vision.image_size, vision.embed_pixels, prompts)


def _median_seconds(run: Callable[[], object], repeats: int) -> float:
    """Median seconds of a run, the first one, which compiles, not counted."""
    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
