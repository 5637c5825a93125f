"""One place from a task's data and a model's vectors to its figures, whatever the task's kind."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lit_tune.evaldata.dataset import EvalData
from lit_tune.evals import association, attributes, ceilings, classification, groups, mixed, multilabel, recall
from lit_tune.evals.catalog import Task
from lit_tune.evals.tiles import Products
from lit_tune.evals.zero_shot import prompt_vectors, unit

EmbedText = Callable[[list[str]], np.ndarray]  # texts, without prompt -> float32 (k, d), unit rows


@dataclass(frozen=True)
class Answers:
    """What the model answered, for the report; None where a kind has no such thing.

    Attributes:
        ztxt: (m, d) unit rows: one a class, or one a caption.
        predicted: (n,) best class of each picture.
        margin: (n,) score of the best right text of each picture minus that of its best wrong one; below 0: a mistake,
            0: a tie, which counts as one, or a picture that no text is right for.
    """

    ztxt: Float[np.ndarray, "m d"]
    predicted: Int[np.ndarray, " n"] | None = None
    margin: Float[np.ndarray, " n"] | None = None


@dataclass(frozen=True)
class Scored:
    """The figures of one task, under outside names (`Result.metrics`, without main_metric), and the answers."""

    metrics: dict[str, float]
    answers: Answers | None = None


def score(
    task: Task, data: EvalData, zimg: Float[np.ndarray, "n d"], embed_text: EmbedText, products: Products | None = None
) -> Scored:
    """The figures of a model's vectors on a task.

    Args:
        task: whose group figures are wanted; its kind is the data's.
        data: the question.
        zimg: (n, d) float32 unit rows, one a picture.
        embed_text: texts to unit rows; prompt and cleaning are its own.
        products: where retrieval's float32 products run; changes speed, not the figures.
    """
    if data.kind == "retrieval":
        return _retrieval(data, zimg, embed_text, products)
    return KINDS[data.kind](task, data, zimg, embed_text)


def _classification(task: Task, data: EvalData, zimg: np.ndarray, embed_text: EmbedText) -> Scored:
    """One class a picture."""
    prompts, classes = _class_vectors(data, embed_text)
    found, figures = classification.classified(zimg, classes, data.labels)
    predicted, margin = classification.answers(zimg, classes, None, data.labels, found.hits(1))
    figures |= ceilings.templates(prompts) | mixed.gap_figures(zimg, classes)
    if data.fields is not None and task.fields:
        figures |= groups.figures(task.name, data.labels, predicted, found.hits(5), data.fields, task.fields)
        figures |= groups.chances(task.name, data.labels, len(classes))
    return Scored(figures, Answers(classes, predicted, margin))


def _multilabel(task: Task, data: EvalData, zimg: np.ndarray, embed_text: EmbedText) -> Scored:
    """Any number of classes a picture."""
    prompts, classes = _class_vectors(data, embed_text)
    figures = multilabel.metrics(zimg, classes, data.labels) | ceilings.templates(prompts)
    return Scored(figures, Answers(classes, *classification.answers(zimg, classes, data.labels)))


def _retrieval(data: EvalData, zimg: np.ndarray, embed_text: EmbedText, products: Products | None) -> Scored:
    """Captions and pictures that look for each other."""
    owner, group = recall.owners(data.captions)
    ztxt = embed_text([text for own in data.captions for text in own])
    figures = recall.metrics(zimg, ztxt, owner, group, products) | mixed.metrics(zimg, ztxt, owner, group)
    return Scored(figures | ceilings.siblings(ztxt, owner), Answers(ztxt))


def _association(task: Task, data: EvalData, zimg: np.ndarray, embed_text: EmbedText) -> Scored:
    """A cue and a handful of pictures."""
    return Scored(association.figures(data.puzzles, zimg, embed_text))


def _attributes(task: Task, data: EvalData, zimg: np.ndarray, embed_text: EmbedText) -> Scored:
    """Several questions about one picture."""
    return Scored(attributes.figures(zimg, data, embed_text, task.fields))


def _class_vectors(data: EvalData, embed_text: EmbedText) -> tuple[np.ndarray, np.ndarray]:
    """((c, t, d) unit rows of all prompts, (c, d) class vectors)."""
    prompts = prompt_vectors(embed_text, data.classnames, data.templates)
    return prompts, unit(prompts.mean(1))


KINDS: dict[str, Callable[[Task, EvalData, np.ndarray, EmbedText], Scored]] = {
    "classification": _classification, "multilabel": _multilabel, "association": _association,
    "attributes": _attributes,
}  # fmt: skip
