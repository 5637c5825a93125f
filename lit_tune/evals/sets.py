"""One evaluation set as arrays, and the flat dict of metrics that a model's picture vectors get on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from lit_tune.errors import ConfigError, explain
from lit_tune.evals import classification, floors as floor
from lit_tune.evals.recall import DIRECTIONS, rates
from lit_tune.evals.results import inside_name
from lit_tune.evals.retrieval import KS, Found, find
from lit_tune.evals.zero_shot import EmbedText, class_vectors, classify


@dataclass(frozen=True)
class EvalSet:
    """All that is known of a set of n pictures and m captions before a picture is embedded.

    Attributes:
        name: as in `val/<name>/...`.
        captions: m texts.
        ztxt: (m, d) unit rows of the captions.
        owner: (m,) picture of each caption.
        caption_group: (m,) equal for equal captions.
        picture_group: (n,) coarse group of each picture, for the group oracle.
        strict: (n,) pictures that a stricter reading keeps (no near twin in training), scored once more by themselves.
        other_wording: (n, d) unit rows of another wording of each picture's caption, for the text ceiling.
        pixels: (n, d) unit rows that the thumbnails alone suggest (`floors.pixel_vectors`).
        nearest: (n, g) scores of the g distinct captions by likeness to training thumbnails (`floors.nearest_scores`),
            where the set's captions were trained; the stronger pixel floor.
        classes: (c, d) unit rows of the zero-shot classes.
        labels: (n,) class of each picture.
    """

    name: str
    captions: tuple[str, ...]
    ztxt: Float[np.ndarray, "m d"]
    owner: Int[np.ndarray, " m"]
    caption_group: Int[np.ndarray, " m"]
    picture_group: Int[np.ndarray, " n"] | None = None
    strict: Bool[np.ndarray, " n"] | None = None
    other_wording: Float[np.ndarray, "n d"] | None = None
    pixels: Float[np.ndarray, "n d"] | None = None
    nearest: Float[np.ndarray, "n g"] | None = None
    classes: Float[np.ndarray, "c d"] | None = None
    labels: Int[np.ndarray, " n"] | None = None


def make_set(
    name: str,
    captions: Sequence[Sequence[str]],
    meta: Sequence[Mapping[str, Any]],
    embed_text: EmbedText,
    *,
    class_field: str = "",
    templates: Sequence[str] = ("{}",),
    pixels: Float[np.ndarray, "n d"] | None = None,
    nearest: Float[np.ndarray, "n g"] | None = None,
) -> EvalSet:
    """An `EvalSet` from what the samples of a source say; each distinct text is embedded once.

    Of `meta` (the samples' json) it uses, where every sample has them: `group` for the oracle, `strict` (bool),
    `captions` (list: the last one that is no caption of the set becomes the other wording) and `class_field`.

    Args:
        name: as in `val/<name>/...`.
        captions: the captions of each of the n pictures, one or more.
        meta: (n,) json of each sample; {} where there is none.
        embed_text: texts to (k, d) unit rows, the tower's prefix included.
        class_field: json field that names a picture's class; "": no zero-shot.
        templates: zero-shot prompts.
        pixels: (n, d) as from `floors.pixel_vectors`.
        nearest: (n, g) as from `floors.nearest_scores`, for the sorted distinct captions.

    Raises:
        ConfigError: a sample has no `class_field`.
    """
    flat = tuple(text for texts in captions for text in texts)
    owner = np.repeat(np.arange(len(captions)), [len(texts) for texts in captions])
    # object, not str: a str array would cut trailing NULs and be as wide as the longest caption
    unique, caption_group = np.unique(np.array(flat, dtype=object), return_inverse=True)
    ztxt = np.asarray(embed_text(list(unique)), np.float32)[caption_group]  # (m, d)
    classes, labels = _classes(meta, embed_text, class_field, templates)
    return EvalSet(
        name, flat, ztxt, owner, caption_group, _picture_group(meta), _strict(meta),
        _other_wording(captions, meta, embed_text), pixels, nearest, classes, labels,
    )  # fmt: skip


def _picture_group(meta: Sequence[Mapping[str, Any]]) -> Int[np.ndarray, " n"] | None:
    """Numbers for the samples' `group`, or None where one has none."""
    if not all("group" in m for m in meta):
        return None
    return np.unique([str(m["group"]) for m in meta], return_inverse=True)[1]


def _strict(meta: Sequence[Mapping[str, Any]]) -> Bool[np.ndarray, " n"] | None:
    """The samples' `strict`, or None where one has none or no sample is strict."""
    if not all(isinstance(m.get("strict"), bool) for m in meta):
        return None
    strict = np.array([m["strict"] for m in meta])
    return strict if strict.any() else None


def _other_wording(
    captions: Sequence[Sequence[str]], meta: Sequence[Mapping[str, Any]], embed_text: EmbedText
) -> Float[np.ndarray, "n d"] | None:
    """Vectors of a wording of each picture that the set does not hold, or None where a picture has none."""
    # the last wording: they are stored with the one nearest to the main caption first
    others = [[t for t in m.get("captions", ()) if t not in own] for own, m in zip(captions, meta, strict=True)]
    if not all(others):
        return None
    return np.asarray(embed_text([texts[-1] for texts in others]), np.float32)


def _classes(
    meta: Sequence[Mapping[str, Any]], embed_text: EmbedText, class_field: str, templates: Sequence[str]
) -> tuple[Float[np.ndarray, "c d"] | None, Int[np.ndarray, " n"] | None]:
    """(class vectors, class of each sample) of a json field, or (None, None) without one."""
    if not class_field:
        return None, None
    for i, m in enumerate(meta):
        if class_field not in m:
            found = f"sample {i} with {', '.join(m) or 'no fields'}"
            do = "name a field that every sample of the evaluation sets has"
            raise ConfigError(explain("eval.class_field", expected=repr(class_field), found=found, do=do))
    names, labels = np.unique([str(m[class_field]) for m in meta], return_inverse=True)
    return class_vectors(embed_text, names.tolist(), templates), labels


def set_floors(eval_set: EvalSet) -> dict[str, float]:
    """`val/<set>/<metric>_floor_<name>` and `_ceiling_text`: they do not depend on the model, so once a run is enough.

    Floors take ties in random order (expected recall). Names: pixels, group_oracle; majority for zero-shot top-1.
    """
    s = eval_set
    answers = {}
    if s.nearest is not None:
        answers["floor_pixels"] = floor.by_scores(s.nearest, s.owner, s.caption_group)
    elif s.pixels is not None:
        answers["floor_pixels"] = floor.pixels(s.pixels, s.ztxt, s.owner, s.caption_group)
    if s.picture_group is not None:
        answers["floor_group_oracle"] = floor.group_oracle(s.picture_group, s.owner, s.caption_group)
    if s.other_wording is not None:
        answers["ceiling_text"] = floor.text_ceiling(s.other_wording, s.ztxt, s.owner, s.caption_group)
    metrics = {}
    for suffix, pictures in _readings(s):
        prefix = f"val/{s.name}{suffix}"
        for name, found in answers.items():
            parts = _directions(s, found, pictures)
            metrics |= {f"{prefix}/{d}_recall@{k}_{name}": float(p.expected(k).mean()) for d, p in parts for k in KS}
        if s.labels is not None and s.pixels is not None:
            found = classify(s.pixels, s.classes, s.labels).only(pictures)
            for k in (1, 5):
                metrics[f"{prefix}/zeroshot/top{k}_floor_pixels"] = float(found.expected(k).mean())
    return metrics


def evaluate_set(
    eval_set: EvalSet, zimg: Float[np.ndarray, "n d"], floors: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Flat metrics `val/<set>/...` of a model's picture vectors, with chance, interval, floors and ceiling beside each.

    `<metric>_low` and `_high` are a 95 % bootstrap interval over pictures. `val/<set>_strict/...` asks for the strict
    pictures only, among all candidates: its chance is that of the whole set.

    Args:
        eval_set: what is known of the set.
        zimg: (n, d) unit rows, one a picture.
        floors: `set_floors(eval_set)` where it is at hand; worked out here otherwise.

    Returns:
        floats; rates are fractions in [0, 1]. Keys: image_retrieval_recall@K (text to image), text_retrieval_recall@K,
        K = 1, 5, 10; zeroshot/top1, top5 and mean_per_class with classes; images and captions (how many are asked).
    """
    s = eval_set
    found = find(zimg, s.ztxt, s.owner, s.caption_group)
    metrics = {}
    for suffix, pictures in _readings(s):
        prefix = f"val/{s.name}{suffix}"
        metrics[f"{prefix}/images"] = float(pictures.sum())
        metrics[f"{prefix}/captions"] = float(pictures[s.owner].sum())
        for direction, part in _directions(s, found, pictures):
            clusters = s.owner[pictures[s.owner]] if direction == DIRECTIONS[0] else np.flatnonzero(pictures)
            metrics |= rates(f"{prefix}/{direction}_recall@", part, KS, clusters)
        if s.classes is not None and s.labels is not None:
            found_classes = classify(zimg, s.classes, s.labels).only(pictures)
            figures = classification.metrics(found_classes, s.labels[pictures])
            metrics |= {f"{prefix}/{inside_name(name)}": value for name, value in figures.items()}
    return metrics | dict(set_floors(s) if floors is None else floors)


def _readings(eval_set: EvalSet) -> list[tuple[str, Bool[np.ndarray, " n"]]]:
    """(suffix of the set's name, pictures asked for): the whole set, and the strict ones where they are marked."""
    everything = np.ones(int(eval_set.owner.max()) + 1, bool)
    return [("", everything)] + ([("_strict", eval_set.strict)] if eval_set.strict is not None else [])


def _directions(
    eval_set: EvalSet, found: tuple[Found, Found], pictures: Bool[np.ndarray, " n"]
) -> list[tuple[str, Found]]:
    """Each direction's name and the part of its answer that concerns the given pictures."""
    return [(DIRECTIONS[0], found[0].only(pictures[eval_set.owner])), (DIRECTIONS[1], found[1].only(pictures))]
