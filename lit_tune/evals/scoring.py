"""One place from a task's data and a model's vectors to its figures, whatever the task's kind."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

EmbedText = Callable[[list[str]], np.ndarray]  # texts, without prompt -> float32 (k, d), unit rows


@dataclass(frozen=True)
class Answers:
    """What the model answered, for the report; None where a kind has no such thing.

    Attributes:
        ztxt: (m, d) unit rows: one a class, or one a caption.
        predicted: (n,) best class of each picture.
        margin: (n,) score of the best right text of each picture minus that of its best wrong one; below 0: a mistake.
    """

    ztxt: Float[np.ndarray, "m d"]
    predicted: Int[np.ndarray, " n"] | None = None
    margin: Float[np.ndarray, " n"] | None = None


@dataclass(frozen=True)
class Scored:
    """The figures of one task, under outside names (`Result.metrics`, without main_metric), and the answers."""

    metrics: dict[str, float]
    answers: Answers | None = None
