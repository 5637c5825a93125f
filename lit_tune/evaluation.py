"""Evaluation of a run's weights on its sets: decode, embed on all devices, score, write the page."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from lit_tune import errors, evals, sharding, tree
from lit_tune.data import transforms
from lit_tune.data.sources import BadSample, Source, open_source
from lit_tune.evals import floors
from lit_tune.models import two_towers
from lit_tune.report import page
from lit_tune.report.examples import choose
from lit_tune.tower import averaged

EmbedText = Callable[[list[str]], np.ndarray]  # texts -> (n, d) unit rows
Picture = Callable[[bytes], np.ndarray]  # an encoded picture -> uint8 (h, w, 3) as the tower sees it
EmbedImages = Callable[[tree.Tree, np.ndarray], np.ndarray]  # params, uint8 (n, h, w, 3) -> (n, d) unit rows
FLOOR_PICTURES = 20_000  # training pictures at most that the pixel floor looks at, the first of the index
NEIGHBOURS = 20  # of them whose captions it averages, where the test's things were never drawn for training
MOST_CAPTIONS = 5_000  # distinct ones of a set up to which its pixel floor ranks all of them (a table of that width)
SHOWN = 8  # queries on the page


class Stopped(Exception):
    """The run was asked to stop in the middle of an evaluation; nothing of it was written."""


@dataclass(frozen=True)
class Prepared:
    """One evaluation set: its pictures' source, which of its samples, and everything known before embedding."""

    source: Source
    rows: tuple[int, ...]  # samples of the source, in index order
    picture: Picture
    eval_set: evals.EvalSet
    floors: dict[str, float]


def batch_rows(config: ConfigDict, mesh: Mesh) -> int:
    """Pictures that all devices together embed at a time."""
    return config.eval.batch * mesh.size


def make_embedder(config: ConfigDict, mesh: Mesh) -> EmbedImages:
    """A function from pictures to unit vectors that runs on all devices of all hosts.

    Pictures are padded to one batch shape, so there is one compile and the padding is cut off again: sets of any size
    are embedded exactly. Every process passes the same pictures and gets all vectors.
    """
    tower = two_towers.vision_tower(config)
    rows = batch_rows(config, mesh)
    batch_sharding, replicated = sharding.batch_sharding(mesh), sharding.replicated(mesh)

    @jax.jit
    def embed_batch(params: tree.Tree, image: jax.Array) -> jax.Array:
        zimg = two_towers.embed_image(tower, params, image, config.data.mean, config.data.std,
                                      dtype=jnp.dtype(config.dtype))
        return jax.lax.with_sharding_constraint(zimg, replicated)

    def embed(params: tree.Tree, images: np.ndarray) -> np.ndarray:
        padded = np.zeros((rows, *images.shape[1:]), np.uint8)
        padded[: len(images)] = images
        placed = jax.make_array_from_callback(padded.shape, batch_sharding, lambda index: padded[index])
        return np.asarray(embed_batch(params, placed).addressable_data(0))[: len(images)]

    return embed


def pictures(source: Source, rows: tuple[int, ...], picture: Picture) -> Iterator[np.ndarray]:
    """The pictures of a source as the tower sees them at evaluation: uint8 (h, w, 3), in the order of `rows`."""
    def one(row: int) -> np.ndarray | BadSample:
        try:
            return picture(source[row].image)
        except BadSample as bad:
            return bad

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        iterator = iter(rows)
        while chunk := list(islice(iterator, 256)):  # a bounded number of decoded pictures in memory
            for row, made in zip(chunk, pool.map(one, chunk), strict=True):
                if isinstance(made, BadSample):
                    raise _unusable(source, row, made)
                yield made


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
        captioned = open_source(train.spec, config.data, caption_field=config.eval.caption_field, max_samples=count)
    except errors.LitTuneError:
        captioned = open_source(train.spec, config.data, max_samples=count)
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


def evaluate(prepared: list[Prepared], embed: EmbedImages, params: tree.Tree, *, rows: int,
             should_stop: Callable[[], bool] = lambda: False) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """(metrics, picture vectors by set) of these weights on all sets.

    Args:
        rows: pictures decoded and embedded at a time, `batch_rows` of the mesh.

    Raises:
        Stopped: `should_stop` said so between two batches.
    """
    metrics: dict[str, float] = {}
    vectors: dict[str, np.ndarray] = {}
    for one in prepared:
        stream, parts = pictures(one.source, one.rows, one.picture), []
        while batch := list(islice(stream, rows)):
            if should_stop():
                raise Stopped
            parts.append(embed(params, np.stack(batch)))
        vectors[one.eval_set.name] = np.concatenate(parts)
        metrics |= evals.evaluate_set(one.eval_set, vectors[one.eval_set.name], one.floors)
    return metrics, vectors


def weights_to_evaluate(state: dict[str, Any]) -> tree.Tree:
    """The image tower's parameters that stand for a state: the running average where there is one."""
    return averaged(state)["image"]


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, a half-written last one left out; [] before the first."""
    file, lines = workdir / "metrics.jsonl", []
    for line in file.read_text().splitlines() if file.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(line))
    return lines


def read_eval(workdir: Path, step: int) -> dict[str, float]:
    """The metrics in eval/N.json; {} where nothing was evaluated."""
    file = workdir / "eval" / f"{step}.json"
    metrics = json.loads(file.read_text()) if file.exists() else {}
    return {name: value for name, value in metrics.items() if name.startswith("val/")}


def write_report(workdir: Path, config: ConfigDict, prepared: list[Prepared], metrics: dict[str, float],
                 vectors: dict[str, np.ndarray], step: int) -> None:
    """Write eval/report.html of a run: facts, scores with their floors, curves, queries drawn by the run's seed."""
    lines = [line for line in read_metrics(workdir) if line["step"] <= step]
    examples = [choose(one.eval_set, vectors[one.eval_set.name], lambda i, one=one: one.source[one.rows[i]].image,
                       config.seed, SHOWN) for one in prepared]
    trained = [line for line in lines if line["kind"] == "train"]
    facts = {"step": f"{step:,} of {config.total_steps:,}", "pairs seen": step * config.global_batch,
             "image tower": f"{config.vision.image_size[0]} px, patch {config.vision.patch_size}, width "
                            f"{config.vision.width}, depth {config.vision.depth}",
             "text tower": f"{config.text.model}, frozen", "data": config.data.train,
             "loss": f"{config.loss.name}, batch {config.global_batch:,}", "seed": config.seed}
    if len(trained) > 1:
        facts["time since the first line"] = f"{trained[-1]['time'] - trained[0]['time']:.0f} s"
    page.write_report(workdir / "eval" / "report.html", f"lit_tune: {workdir.name}", facts, lines, metrics, examples)
