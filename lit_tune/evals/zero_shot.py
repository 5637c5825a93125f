"""N-way classification by class names alone: the picture's nearest class vector."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Integer

from lit_tune.errors import ConfigError, explain
from lit_tune.evals.retrieval import Found, find_labels

EmbedText = Callable[[list[str]], np.ndarray]  # texts -> float32 (k, d), unit rows


def class_vectors(embed_text: EmbedText, names: Sequence[str], templates: Sequence[str]) -> Float[np.ndarray, "c d"]:
    """One unit vector a class: the mean of the unit vectors of all its prompts, renormalised.

    Arguments and errors as for `prompt_vectors`.

    Source: section 3.1.4 of arXiv 2103.00020 (CLIP's prompt ensembling).
    """
    return unit(prompt_vectors(embed_text, names, templates).mean(1))


def prompt_vectors(
    embed_text: EmbedText, names: Sequence[str], templates: Sequence[str]
) -> Float[np.ndarray, "c t d"]:
    """Unit vectors of every class in every template.

    Args:
        embed_text: texts to unit rows; called once with all prompts.
        names: class names.
        templates: prompts in which `{}` is replaced by the name.

    Raises:
        ConfigError: a template has no `{}`.
    """
    for template in templates:
        if "{}" not in template:
            do = "write {} where the class name goes"
            raise ConfigError(explain("eval.templates", expected="a text with {}", found=repr(template), do=do))
    # replace() and not format(): a template may hold other braces
    prompts = [template.replace("{}", name) for name in names for template in templates]
    return unit(np.asarray(embed_text(prompts), np.float32)).reshape(len(names), len(templates), -1)


def unit(x: Float[np.ndarray, "*rows d"]) -> Float[np.ndarray, "*rows d"]:
    """Rows divided by their length; rows of zeros stay zeros."""
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    return x / np.where(length == 0, 1, length)


def classify(
    zimg: Float[np.ndarray, "n d"], classes: Float[np.ndarray, "c d"], labels: Integer[np.ndarray, " n"]
) -> Found:
    """How many wrong classes each picture puts before its own; `.hits(1)` is top-1.

    Args:
        zimg: (n, d) unit rows.
        classes: (c, d) unit rows, as from `class_vectors`.
        labels: (n,) class of each picture, in [0, c).

    Raises:
        ValueError: a label is out of range or the widths differ.
    """
    if len(labels) != len(zimg) or labels.min() < 0 or labels.max() >= len(classes):
        expected = f"{len(zimg)} labels from 0 to {len(classes) - 1}"
        found = f"{len(labels)} from {labels.min()} to {labels.max()}"
        raise ValueError(explain("labels", expected=expected, found=found, do="use positions in the list of classes"))
    return find_labels(zimg, classes, labels)
