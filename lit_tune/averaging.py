"""Weights between two image towers, beside the frozen text tower, or in the space of the text vectors, of both.

Two runs from one start, or a fine-tuned tower and what it was tuned from, often lie in one basin of the loss: a point
between their weights then keeps the skills of both. Source: Wortsman et al., Robust fine-tuning of zero-shot models
(WiSE-FT, arXiv 2109.01903), equation 1.
"""

import re
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lit_tune import tower, tree
from lit_tune.description import ALIGNED
from lit_tune.errors import ConfigError, explain
from lit_tune.exports import source as sources
from lit_tune.exports.parts import Source
from lit_tune.model import VisionEncoder
from lit_tune.rundir import changed, short

TEXT_FACTS = ("prefix", "max_length", "normalize", "weights_sha256")  # what makes texts the same vectors


def find(place: str) -> Source:
    """The towers at a place of the command line: a run (its newest checkpoint, or RUN@STEP), an import or an export.

    Raises:
        ConfigError: nothing of the kind is there.
        CheckpointError: a run without a whole checkpoint, or without this one.
    """
    path, step = Path(place).expanduser(), None
    at_step = re.fullmatch(r"(.+)@(\d+)", place)
    if at_step and not path.exists():
        path, step = Path(at_step[1]).expanduser(), int(at_step[2])
    if step is not None or tower.is_run(path):
        return sources.of_run(path, step)
    return sources.of_folder(path)


def average(a: Source, b: Source, alpha: float, name: str) -> Source:
    """(1 - alpha) A + alpha B of the image towers and of the temperature; 0 and 1 give the bits of A and of B.

    Args:
        a, b: of one architecture and one preparation of pictures, beside one frozen text tower or trained against the
            same text vectors from outside.
        alpha: share of B, in [0, 1].
        name: of the new model.

    Raises:
        ConfigError: they differ in more than weights; the first differences are named.
    """
    _check_same(a, b)
    params = between(jax.device_get(a.vision.params), jax.device_get(b.vision.params), alpha)
    told = f"{1 - alpha:g} x {_called(a)} + {alpha:g} x {_called(b)}"
    page = {key: value for key, value in a.vision.description.items() if key not in ("source", "weights")}
    page["source"] = {"from": "lit-tune average", "weights": told}
    facts: dict[str, Any] = {"kind": "average", "vision": page["source"], "alpha": alpha,
                             "of": [_origin(a), _origin(b)]}  # fmt: skip
    for key in sources.LOGITS:
        if key in a.facts and key in b.facts:
            facts[key] = between(a.facts[key], b.facts[key], alpha)
    return Source(VisionEncoder(page, params), a.text, name, facts)


def between(a: Any, b: Any, alpha: float) -> Any:
    """(1 - alpha) a + alpha b of two trees of the same names, each leaf computed in float64 and rounded once.

    Args:
        a, b: numpy arrays or numbers.
        alpha: share of b, in [0, 1]; 0 and 1 give the leaves of a and of b as they are.
    """
    if alpha in (0.0, 1.0):
        return b if alpha else a

    def mixed(x: Any, y: Any) -> Any:
        value = (1 - alpha) * np.asarray(x, np.float64) + alpha * np.asarray(y, np.float64)
        return value.astype(x.dtype) if isinstance(x, np.ndarray) else float(value)

    return jax.tree.map(mixed, a, b)


def _check_same(a: Source, b: Source) -> None:
    """Refuse towers between whose weights there is nothing."""
    pairs = {"image towers": [{key: one.vision.description[key] for key in ("family", "spec", "preprocess")}
                              for one in (a, b)],
             "texts": [_text_facts(one) for one in (a, b)]}  # fmt: skip
    for what, (ours, theirs) in pairs.items():
        found = [f"{key} {short(one)}, {short(other)}" for key, (one, other) in changed(ours, theirs).items()]
        if found:
            more = f" and {len(found) - 4} more" if len(found) > 4 else ""
            raise ConfigError(explain(f"average of {a.name} and {b.name}", expected=f"{what} that are the same",
                                      found="; ".join(found[:4]) + more,
                                      do="take two of one config, and of one text tower or file of text vectors"))
    shapes = [{name: leaf.shape for name, leaf in tree.flatten(one.vision.params).items()} for one in (a, b)]
    assert shapes[0] == shapes[1], "the same spec gives the same arrays"


def _text_facts(one: Source) -> dict[str, Any]:
    """What decides the text vectors of a source: its tower but for its paths, or whose vectors came from outside.

    Raises:
        ConfigError: nothing is known of its texts.
    """
    if one.text is None:
        if ALIGNED not in one.vision.description:
            raise ConfigError(explain(
                f"average with {one.name}", found="an image tower alone",
                expected="a text tower, or a record of the text vectors it was trained against",
                do="add its text tower: lit-tune import --from=... --weights=... --out=THAT_FOLDER"))
        return {"from": "vectors", **one.vision.description[ALIGNED]}
    page = one.text.description
    facts = {"from": "text tower", "family": page["family"], "spec": page["spec"]}
    return facts | {key: page["text"][key] for key in TEXT_FACTS}


def _called(one: Source) -> str:
    """A source as on the command line: of a run with the step."""
    return f"{one.name}@{one.facts['step']}" if one.facts["kind"] == "run" else one.name


def _origin(one: Source) -> dict[str, Any]:
    """What the proof keeps of a source."""
    kept = ("kind", "step", "config_hash", "data", "trained_with", "vision")
    return {"name": one.name, "params_sha256": tree.digest(one.vision.params),
            **{key: one.facts[key] for key in kept if key in one.facts}}  # fmt: skip
