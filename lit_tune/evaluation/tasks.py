"""Named tasks and data of one's own, one after the other: embed, score, keep. What is done is not done again.

A results folder holds `eval_results.jsonl` (one line a task), `details/TASK.json` (what the page shows of it) and,
while a task is being embedded, `TASK-....partial/` with its vectors so far. A line is written when its task is done.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lit_tune import distributed
from lit_tune.data.sample import BadSample
from lit_tune.errors import ConfigError, DataError, explain
from lit_tune.evaldata.clean import clean
from lit_tune.evaldata.dataset import EvalData
from lit_tune.evals import frozen, nested, scoring
from lit_tune.evals.catalog import Task
from lit_tune.evals.device_products import device_products
from lit_tune.evals.results import FILE, Result, finite, read_results, write_results
from lit_tune.evaluation.pairs import Pairs
from lit_tune.evaluation.progress import Progress
from lit_tune.evaluation.systems import System
from lit_tune.evaluation.vectors import embed
from lit_tune.files import write_atomically
from lit_tune.report import details

HOURS = 24 * 3600.0  # seconds that the other processes wait while process 0 scores


@dataclass(frozen=True)
class Options:
    """How tasks are asked.

    Attributes:
        prompt: put before every text; None takes the tower's own.
        prompts: others to report beside it, by name; None is the tower's own.
        dims: widths to report beside the whole: the first so many numbers of every vector.
        probes: knn, linear: trained on the frozen vectors of the training split.
        clean: whether texts are mended as the reference does it (broken Unicode, HTML entities, white space).
    """

    prompt: str | None = None
    prompts: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    dims: tuple[int, ...] = ()
    probes: tuple[str, ...] = ()
    clean: bool = True


@dataclass(frozen=True)
class Prepared:
    """One task with its data; the training split too where probes ask for it."""

    task: Task
    data: EvalData
    train: EvalData | None = None
    pairs: Pairs | None = None  # where the data is one's own


def run(
    prepared: Sequence[Prepared], system: System, options: Options, folder: Path, *,
    should_stop: Callable[[], bool] = lambda: False, restart: bool = False,
) -> list[Result]:  # fmt: skip
    """The results of all tasks, in order; each is on disk before the next begins.

    Every process calls it and gets all results; process 0 scores and writes.

    Args:
        folder: results folder, made if absent.
        should_stop: asked between batches.
        restart: do again what the folder already holds.

    Raises:
        Stopped: `should_stop` said so; the task under way goes on from its last kept vectors.
        ConfigError: a width that the vectors do not have, a folder that cannot be made, or processes with other data.
        DataError: a picture cannot be decoded; nothing of that task is kept.
    """
    nested.check_dims(options.dims, system.settings["dim"])
    distributed.on_process_0("results folder", lambda: _make(folder))
    # each host decodes its own rows: other data on one of them would pass unseen
    distributed.agree({f"data of {one.task.name}": one.data.sha256 for one in prepared})
    progress = Progress([(one.task.name, len(one.data)) for one in prepared])
    found = []
    for one in prepared:
        settings = settings_of(one, system, options)
        known = distributed.on_process_0("known", lambda: _known(folder, one, settings, system, restart))  # noqa: B023
        if known is None:
            known = _evaluate(one, system, options, settings, folder, progress, should_stop)
        else:
            progress.skip(one.task.name)
        found.append(Result(**known))
    return found


def _make(folder: Path) -> None:
    """The results folder, made before anything takes time."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(explain(f"results folder {folder}", expected="a folder that can be written",
                                  found=error.strerror, do="name another one with --out")) from error


def settings_of(prepared: Prepared, system: System, options: Options) -> dict[str, Any]:
    """All that decides a task's figures, as JSON values: the model's own ways, the question and the data."""
    data, pairs = prepared.data, prepared.pairs
    templates = pairs.templates if pairs is not None and pairs.class_field else data.templates
    return {
        **system.settings,
        "prompt": system.prompt if options.prompt is None else options.prompt,
        "clean": "reference" if options.clean else "none",
        "prompts": {name: system.prompt if text is None else text for name, text in options.prompts.items()},
        "dims": list(options.dims),
        "probes": list(options.probes),
        "data": data.where,
        "kind": data.kind,
        "data_sha256": data.sha256,
        "train_sha256": prepared.train.sha256 if prepared.train is not None else None,
        "samples": len(data),
        "captions": sum(map(len, data.captions)),
        "classes": len(data.classnames),
        "classes_sha256": _digest(data.classnames),
        "templates": len(templates),
        "templates_sha256": _digest(templates),
        "class_field": pairs.class_field if pairs is not None else "",
        "notes": list(data.notes),
    }


def _digest(words: Sequence[str]) -> str:
    """sha256 of a list of texts."""
    return hashlib.sha256(json.dumps(list(words)).encode()).hexdigest()


def _known(
    folder: Path, prepared: Prepared, settings: Mapping[str, Any], system: System, restart: bool
) -> dict[str, Any] | None:
    """The result that the folder holds of this very question to this very model; None otherwise."""
    if restart:
        return None
    results = read_results(folder / FILE)
    name = prepared.task.name
    if name not in results or not (folder / "details" / f"{name}.json").is_file():
        return None
    one = results[name]
    elsewhere = {"data", "versions", "device"}  # the same pictures may have moved, on another machine
    same = all(one.settings.get(key) == value for key, value in settings.items() if key not in elsewhere)
    weights = ("vision_sha256", "text_sha256")
    same = same and all(one.system.get(key) == system.identity[key] for key in weights)
    return json.loads(one.line()) if same else None


def _evaluate(
    prepared: Prepared, system: System, options: Options, settings: dict[str, Any], folder: Path, progress: Progress,
    should_stop: Callable[[], bool],
) -> dict[str, Any]:  # fmt: skip
    """One task from pictures to its line on disk."""
    name, start, waited = prepared.task.name, time.monotonic(), system.embedder.waited
    parts = [(name, prepared.data)] + ([(f"{name}-train", prepared.train)] if prepared.train is not None else [])
    works = []
    for label, data in parts:
        works.append(embed(label, len(data), _pixels(data, system), system, data.sha256, folder, progress, should_stop))
    spent = {"pictures": time.monotonic() - start, "waiting": system.embedder.waited - waited}

    def finish() -> dict[str, Any]:
        result, shown = _score(prepared, system, options, settings, [work.vectors() for work in works], spent)
        _keep(folder, name, result, shown)
        for work in works:
            work.remove()
        return json.loads(result.line())

    return distributed.on_process_0(f"score {name}", finish, HOURS)


def _pixels(data: EvalData, system: System) -> Callable[[int], np.ndarray]:
    """A function from a picture's number to its pixels. A test without what is hard to read is another test."""
    def pixels(i: int) -> np.ndarray:
        try:
            return system.picture(data.pictures[i])
        except BadSample as bad:
            raise DataError(explain(f"{data.where}: {data.pictures.describe(i)}", expected="a picture that decodes",
                                    found=bad.kind, do="mend it or get the data again")) from bad

    return pixels


def _score(
    prepared: Prepared, system: System, options: Options, settings: dict[str, Any], vectors: Sequence[np.ndarray],
    spent: dict[str, float],
) -> tuple[Result, dict[str, Any]]:  # fmt: skip
    """The record of a task and what the page shows of it."""
    task, data, zimg = prepared.task, prepared.data, vectors[0]
    start, texts = time.monotonic(), _Texts(system, options.clean)
    products = None if jax.default_backend() == "cpu" else device_products()  # where NumPy is no slower
    scored = scoring.score(task, data, zimg, lambda asked: texts(asked, settings["prompt"]), products)
    metrics, variants = scored.metrics, {}
    if prepared.pairs is not None:
        beside, strict = prepared.pairs.figures(zimg, lambda asked: texts(asked, settings["prompt"]))
        metrics, variants = metrics | beside, {"strict": strict} if strict else {}
    if prepared.train is not None:
        metrics |= frozen.probes(options.probes, vectors[1], prepared.train.labels, zimg, data.labels)
    if options.prompts or options.dims:
        prompts = {"": settings["prompt"], **settings["prompts"]}
        variants |= nested.variants(task, data, zimg, texts, prompts, options.dims, products)
    metrics["main_metric"] = metrics[task.main_metric] if task.main_metric else None
    shown = details.collect(task.name, data, zimg, scored.answers, data.pictures.__getitem__, seed=0)
    seconds = {**spent, "texts": texts.seconds, "scoring": time.monotonic() - start - texts.seconds}
    seconds = {key: round(value, 3) for key, value in seconds.items()}
    variants = {name: finite(figures) for name, figures in variants.items()}
    return Result(task.name, task.key or task.name, task.title, finite(metrics), settings, variants, seconds,
                  dict(system.identity)), shown  # fmt: skip


class _Texts:
    """The system's texts, cleaned where that is asked for, with the seconds they take."""

    def __init__(self, system: System, cleaned: bool) -> None:
        self._system, self._cleaned = system, cleaned
        self.seconds = 0.0

    def __call__(self, texts: Sequence[str], prompt: str) -> np.ndarray:
        """float32 (n, d) unit rows."""
        start = time.monotonic()
        vectors = self._system.embed_text([clean(text) for text in texts] if self._cleaned else list(texts), prompt)
        self.seconds += time.monotonic() - start
        return vectors


def _keep(folder: Path, name: str, result: Result, shown: dict[str, Any]) -> None:
    """Write a task's details, then its line: a line never stands without its details."""
    (folder / "details").mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "details" / f"{name}.json", json.dumps(shown))
    write_results(folder / FILE, (read_results(folder / FILE) | {name: result}).values())
