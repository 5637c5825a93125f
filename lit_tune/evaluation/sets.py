"""The evaluation sets of a run (`config.eval.sets`): pairs with floors beside their scores, and the report page."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from lit_tune import errors, evals, tree
from lit_tune.data import transforms
from lit_tune.data.mixture import open_train
from lit_tune.data.sources import BadSample, Source, open_source
from lit_tune.evals import floors
from lit_tune.evaluation.embedding import Embedder, Stopped, decoded
from lit_tune.report.examples import Examples, choose
from lit_tune.tower import averaged

EmbedText = Callable[[list[str]], np.ndarray]  # texts -> (n, d) unit rows
Picture = Callable[[bytes], np.ndarray]  # an encoded picture -> uint8 (h, w, 3) as the tower sees it
FLOOR_PICTURES = 20_000  # training pictures at most that the pixel floor looks at, the first of the index
NEIGHBOURS = 20  # of them whose captions it averages, where the test's things were never drawn for training
MOST_CAPTIONS = 5_000  # distinct ones of a set up to which its pixel floor ranks all of them (a table of that width)
MISSING = 1.0  # share of the training shards that may be gone here: training has told of those
SHOWN = 8  # queries on the page


@dataclass(frozen=True)
class Prepared:
    """One evaluation set: its pictures' source, which of its samples, and everything known before embedding."""

    source: Source
    rows: tuple[int, ...]  # samples of the source, in index order
    picture: Picture
    eval_set: evals.EvalSet
    floors: dict[str, float]

    def pixels(self, i: int) -> np.ndarray:
        """Picture `i` of the set as the tower sees it. Raises DataError."""
        return _pixels(self.source, self.rows[i], self.picture)


def pictures(source: Source, rows: tuple[int, ...], picture: Picture) -> Iterator[np.ndarray]:
    """The pictures of a source as the tower sees them at evaluation: uint8 (h, w, 3), in the order of `rows`."""
    batches = decoded(range(0, len(rows), 256), len(rows), range(256), lambda i: _pixels(source, rows[i], picture))
    for _, made in batches:
        yield from (pixels for _, pixels in made)


def _pixels(source: Source, row: int, picture: Picture) -> np.ndarray:
    """One picture of a source. Raises DataError."""
    try:
        return picture(source[row].image)
    except BadSample as bad:
        raise _unusable(source, row, bad) from bad


def eval_picture(config: ConfigDict) -> Picture:
    """What a run's evaluation does to an encoded picture."""
    limits = transforms.Limits(config.data.max_image_mib << 20, config.data.max_pixels)
    return lambda data: transforms.eval_transform(
        data, tuple(config.vision.image_size), config.data.policy, config.data.resize, limits)


def prepare(config: ConfigDict, embed_text: EmbedText, train: Source | None,
            picture: Picture | None = None) -> list[Prepared]:
    """The sets of `config.eval.sets`, their texts embedded and their floors worked out; once a run.

    Args:
        config: a checked config.
        embed_text: texts -> unit rows, the tower's prefix included.
        train: the training pairs, for the pixel floor; None leaves that floor out.
        picture: how the tower wants its pictures; None takes what the config says.

    Raises:
        ConfigError, DataError: a set cannot be read.
    """
    picture = picture or eval_picture(config)
    known = _training_thumbnails(config, embed_text, train, picture) if train is not None and config.eval.sets else None
    prepared = []
    for entry in config.eval.sets:
        name, _, spec = entry.partition("=")
        source = open_source(spec, config.data, caption_field=config.eval.caption_field)
        rows = tuple(range(len(source)))
        texts, meta = zip(*(_facts(source, row) for row in rows), strict=True)
        guess, nearest = None, None
        if known is not None:
            thumbs = floors.thumbnails(pictures(source, rows, picture))
            guess = floors.pixel_vectors(thumbs, known.thumbs, known.ztxt, min(NEIGHBOURS, len(known.thumbs)))
            captions = sorted({caption for own in texts for caption in own})
            if len(captions) <= MOST_CAPTIONS and set(captions) & set(known.captions):
                nearest = floors.nearest_scores(thumbs, known.thumbs, known.captions, captions)
        eval_set = evals.make_set(name, texts, meta, embed_text, class_field=config.eval.class_field,
                                  templates=config.eval.templates, pixels=guess, nearest=nearest)
        prepared.append(Prepared(source, rows, picture, eval_set, evals.set_floors(eval_set)))
    return prepared


def _facts(source: Source, row: int) -> tuple[tuple[str, ...], dict[str, Any]]:
    """(captions, other fields) of a sample; its picture is read again when its turn comes, none is kept."""
    try:
        sample = source[row]
    except BadSample as bad:
        raise _unusable(source, row, bad) from bad
    return sample.captions, sample.meta


def _unusable(source: Source, row: int, bad: BadSample) -> errors.DataError:
    """A test that leaves out what is hard to read is another test: it is refused, not shortened."""
    return errors.DataError(errors.explain(
        f"evaluation sample {'/'.join(source.describe(row))}", expected="a picture that decodes and a caption",
        found=bad.kind, do="mend or remove it"))


@dataclass(frozen=True)
class _Known:
    """What the pixel floor knows: thumbnails of training pictures with the vectors of their captions."""

    thumbs: np.ndarray  # (t, 192) float32
    ztxt: np.ndarray  # (t, d)
    captions: tuple[str, ...]


def _training_thumbnails(config: ConfigDict, embed_text: EmbedText, train: Source,
                         picture: Picture) -> _Known | None:
    """Thumbnails and caption vectors of the first training pictures, undecodable ones left out; None if all are."""
    count = min(FLOOR_PICTURES, len(train))
    try:  # captions as the evaluation words them, where the training data has those
        captioned = open_train(config.data, caption_field=config.eval.caption_field, max_samples=count,
                               allow_missing=MISSING)
    except errors.LitTuneError:
        captioned = open_train(config.data, max_samples=count, allow_missing=MISSING)
    rows, thumbs = [], []
    for row in range(len(captioned)):
        with contextlib.suppress(BadSample):  # counted where it matters, in training
            thumbs.append(floors.thumbnails([picture(captioned[row].image)]))
            rows.append(row)
    if not rows:
        return None
    captions = tuple(captioned.captions(row)[0] for row in rows)
    unique, inverse = np.unique(np.array(captions, dtype=object), return_inverse=True)
    return _Known(np.concatenate(thumbs), embed_text(list(unique))[inverse], captions)


def evaluate(prepared: list[Prepared], embedder: Embedder, params: tree.Tree, *,
             should_stop: Callable[[], bool] = lambda: False) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """(metrics, picture vectors by set) of these weights on all sets.

    Raises:
        Stopped: `should_stop` said so between two batches.
        DataError: a picture cannot be decoded.
    """
    metrics: dict[str, float] = {}
    vectors: dict[str, np.ndarray] = {}
    for one in prepared:
        parts = []
        for zimg in embedder.vectors(params, len(one.rows), one.pixels):
            parts.append(zimg)
            if should_stop():
                raise Stopped
        vectors[one.eval_set.name] = np.concatenate(parts)
        metrics |= evals.evaluate_set(one.eval_set, vectors[one.eval_set.name], one.floors)
    return metrics, vectors


def weights_to_evaluate(state: dict[str, Any]) -> tree.Tree:
    """The image tower's parameters that stand for a state: the running average where there is one."""
    return averaged(state)["image"]


def examples_of(
    prepared: list[Prepared], vectors: dict[str, np.ndarray], seed: int
) -> list[Examples]:
    """A few queries of each set with what they found, drawn by seed."""
    return [choose(one.eval_set, vectors[one.eval_set.name], lambda i, one=one: one.source[one.rows[i]].image, seed,
                   SHOWN) for one in prepared]
