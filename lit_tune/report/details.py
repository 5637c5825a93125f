"""What the page shows of a task beside its figures, as JSON values: collected once, while the vectors are at hand."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from lit_tune.evaldata.dataset import EvalData
from lit_tune.evals.scoring import Answers
from lit_tune.report import details_classes, details_map, details_pairs
from lit_tune.report.details_parts import short, thumbnail, thumbnails

OF_CLASSES = 12_000  # characters of one picture: 36 of them at most
OF_PAIRS = 8_000  # 132 of them at most


def collect(
    task: str, data: EvalData, zimg: Float[np.ndarray, "n d"], answers: Answers | None,
    picture: Callable[[int], bytes], seed: int,
) -> dict[str, Any]:  # fmt: skip
    """{"task", "kind", "samples"} and by kind "mistakes", "confusion", "grid", "map": under 1.5 MB as JSON.

    The panels (`mistakes`, `confusion`, `grids`, `embedding_map`) are made from it without a model or data.

    Args:
        task: its name.
        data: the question, n pictures.
        zimg: (n, d) float32 unit rows; may lie in a file.
        answers: what the model answered; None where the kind has no texts of its own.
        picture: the encoded file of picture i; called only for pictures that are shown.
        seed: of everything that is drawn.
    """
    shown: dict[str, Any] = {"task": short(task), "kind": data.kind, "samples": len(data)}
    if answers is None:
        return shown
    if data.kind in ("classification", "multilabel"):
        small = thumbnails(picture, OF_CLASSES)
        shown["mistakes"] = details_classes.mistakes(data, zimg, answers, small, seed)
    if data.kind == "classification":
        shown["confusion"] = details_classes.confusion(data, zimg, answers)
    if data.kind == "retrieval":
        shown |= _pairs(data, zimg, answers.ztxt, picture, seed)
    shown["map"] = details_map.collect(data, zimg, answers.ztxt, seed)
    return shown


def _pairs(
    data: EvalData, zimg: np.ndarray, ztxt: np.ndarray, picture: Callable[[int], bytes], seed: int
) -> dict[str, Any]:
    """{"mistakes", "grid"} of captions and pictures."""
    mistakes = details_pairs.mistakes(data.captions, zimg, ztxt, thumbnails(picture, OF_PAIRS))
    grid = details_pairs.grid(data.captions, zimg, ztxt, picture, lambda file: thumbnail(file, OF_PAIRS), seed)
    return {"mistakes": mistakes, "grid": grid}
