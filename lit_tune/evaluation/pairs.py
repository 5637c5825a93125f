"""Pairs of one's own as a task: beside the scores of any retrieval task the floors that pairs allow."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lit_tune import evals
from lit_tune.data.sample import BadSample
from lit_tune.data.sources import Source
from lit_tune.errors import DataError, explain
from lit_tune.evals.results import outside_name


@dataclass(frozen=True)
class Pairs:
    """What the samples of a source say beside their pictures.

    Attributes:
        captions: of each picture.
        meta: its other fields.
        class_field: the one that names its class; "": no zero-shot.
        templates: prompts of the classes.
    """

    captions: tuple[tuple[str, ...], ...]
    meta: tuple[Mapping[str, Any], ...]
    class_field: str = ""
    templates: tuple[str, ...] = ("{}",)

    def figures(
        self, zimg: np.ndarray, embed_text: Callable[[Sequence[str]], np.ndarray]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """(figures with floors of all pictures, of the strict ones alone), under the names of `Result.metrics`.

        Args:
            zimg: (n, d) unit rows.
            embed_text: texts -> unit rows.

        Raises:
            ConfigError: a sample has no `class_field`.
        """
        eval_set = evals.make_set("pairs", self.captions, self.meta, embed_text, class_field=self.class_field,
                                  templates=self.templates)
        found: dict[str, dict[str, float]] = {"pairs": {}, "pairs_strict": {}}
        for key, value in evals.evaluate_set(eval_set, np.asarray(zimg)).items():
            _, name, metric = key.split("/", 2)
            if metric not in ("images", "captions"):
                found[name][outside_name(metric)] = value
        return found["pairs"], found["pairs_strict"]


def read_pairs(source: Source, class_field: str, templates: Sequence[str]) -> Pairs:
    """What the samples of a source say; its pictures are read again when their turn comes.

    Raises:
        DataError: a sample without a usable caption.
    """
    captions, meta = [], []
    for row in range(len(source)):
        try:
            sample = source[row]
        except BadSample as bad:
            raise DataError(explain(f"evaluation sample {'/'.join(source.describe(row))}",
                                    expected="a picture that decodes and a caption", found=bad.kind,
                                    do="mend or remove it")) from bad
        captions.append(sample.captions)
        meta.append(sample.meta)
    return Pairs(tuple(captions), tuple(meta), class_field, tuple(templates))
