"""A few test queries with what they found, drawn by seed: never chosen by whether they worked."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from lit_tune.evals.retrieval import nearest
from lit_tune.evals.sets import EvalSet

Picture = bytes | UInt8[np.ndarray, "h w 3"]  # an encoded file, or pixels
SIDE = 144  # longest side of a picture on the page, pixels


@dataclass(frozen=True)
class Answer:
    """One answer: its text (of a picture: the caption), whether it is right, its cosine, the picture if it is one."""

    text: str
    right: bool
    score: float
    picture: Picture | None = None


@dataclass(frozen=True)
class Example:
    """One query, a text or a picture with its caption, and its answers, best first."""

    text: str
    answers: tuple[Answer, ...]
    picture: Picture | None = None


@dataclass(frozen=True)
class Examples:
    """The examples of one set: texts that look for pictures, pictures that look for texts."""

    set_name: str
    texts: tuple[Example, ...]
    pictures: tuple[Example, ...]


def choose(
    eval_set: EvalSet,
    zimg: Float[np.ndarray, "n d"],
    picture: Callable[[int], Picture],
    seed: int,
    count: int = 8,
    answers: int = 5,
) -> Examples:
    """Random queries of a set with their best answers; the draw depends on the seed and the set's size only.

    Args:
        eval_set: captions and who owns them.
        zimg: (n, d) unit rows.
        picture: the file or the pixels of picture i; called only for pictures that are shown.
        seed: of the draw.
        count: queries of each kind.
        answers: answers shown of each.
    """
    s = eval_set
    rng = np.random.default_rng(seed)
    asked = rng.permutation(len(s.captions))[:count]
    shown = rng.permutation(len(zimg))[:count]
    caption = dict(zip(s.owner[::-1].tolist(), s.captions[::-1], strict=True))  # the first one of each picture
    right_pairs = {(int(i), int(g)) for i, g in zip(s.owner, s.caption_group, strict=True)}
    texts = []
    for j, items, scores in zip(asked, *nearest(s.ztxt[asked], zimg, answers), strict=True):
        found = [
            Answer(caption[int(i)], (int(i), int(s.caption_group[j])) in right_pairs, float(score), picture(int(i)))
            for i, score in zip(items, scores, strict=True)
        ]
        texts.append(Example(s.captions[j], tuple(found)))
    once = np.unique(s.caption_group, return_index=True)[1]  # equal captions are shown once
    pictures = []
    for i, items, scores in zip(shown, *nearest(zimg[shown], s.ztxt[once], answers), strict=True):
        found = [
            Answer(s.captions[once[j]], (int(i), int(s.caption_group[once[j]])) in right_pairs, float(score))
            for j, score in zip(items, scores, strict=True)
        ]
        pictures.append(Example(caption[int(i)], tuple(found), picture(int(i))))
    return Examples(s.name, tuple(texts), tuple(pictures))


def data_uri(picture: Picture, side: int = SIDE, quality: int = 92) -> str:
    """A `data:` URI of the picture as JPEG, at most `side` pixels a side, transparency on white."""
    image = Image.open(io.BytesIO(picture)) if isinstance(picture, bytes) else Image.fromarray(picture)
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    small = white.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    # no chroma subsampling: it blurs flat drawings
    small.save(file, "JPEG", quality=quality, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
