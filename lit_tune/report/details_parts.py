"""What the stored details of a task are made of: small pictures, short texts, JSON numbers."""

import functools
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Integer

from lit_tune.report.examples import data_uri

TEXT = 240  # characters of a name or caption that are kept
SIZES = ((144, 92), (128, 85), (112, 75), (96, 65), (80, 50), (64, 40))  # longest side in pixels, JPEG quality


def thumbnail(picture: bytes, most: int) -> str:
    """The `data:` URI of a picture, made smaller until it has at most `most` characters.

    A picture that is too busy even at the smallest size is kept at that size.
    """
    uri = ""
    for side, quality in SIZES:
        uri = data_uri(picture, side, quality)
        if len(uri) <= most:
            break
    return uri


def thumbnails(picture: Callable[[int], bytes], most: int) -> Callable[[int], str]:
    """A function from a picture's number to its `thumbnail`; each picture is read once.

    Args:
        picture: the encoded file of picture i.
        most: characters.
    """
    return functools.cache(lambda i: thumbnail(picture(i), most))


def short(text: str) -> str:
    """The text, its end replaced by an ellipsis where it is very long."""
    return text if len(text) <= TEXT else text[: TEXT - 1] + "\u2026"


def number(x: float | np.floating, digits: int = 6) -> float | None:
    """A rounded float that JSON knows; None for one that is not finite."""
    return round(float(x), digits) if math.isfinite(x) else None


def drawn(candidates: Integer[np.ndarray, " n"], count: int, rng: np.random.Generator) -> list[int]:
    """At most `count` of the candidates in random order."""
    return [int(i) for i in rng.permutation(candidates)[:count]]


def right_of(labels: Integer[np.ndarray, " n"] | Bool[np.ndarray, "n c"], i: int) -> np.ndarray:
    """The classes of picture `i`, ascending."""
    return np.flatnonzero(labels[i]) if labels.ndim == 2 else labels[i : i + 1]
