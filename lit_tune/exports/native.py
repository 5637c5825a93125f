"""A folder under our own names: it holds every tower that lit_tune knows, and only lit_tune reads its image tower."""

from pathlib import Path

import jax

from lit_tune import tree
from lit_tune.convert import mapping, weights
from lit_tune.description import VISION_WEIGHTS
from lit_tune.exports.parts import Source, Written
from lit_tune.exports.text_files import copy_text


def write(source: Source, out: Path) -> list[Written]:
    """What was written: the image tower's arrays as they are, a text tower in text/."""
    weights.write(out / VISION_WEIGHTS, tree.flatten(jax.device_get(source.vision.params)))
    return [Written("image tower", "vision", VISION_WEIGHTS, mapping.NATIVE), *copy_text(source.text, out)]
