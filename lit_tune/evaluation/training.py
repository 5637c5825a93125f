"""The evaluations of a run, prepared once and scored at chosen steps: its own sets of pairs and named tasks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from lit_tune import tree
from lit_tune.data.sources import Source
from lit_tune.evals.results import Result
from lit_tune.evaluation import pages, preparing, sets, systems, tasks
from lit_tune.evaluation.embedding import MeshEmbedder
from lit_tune.text.encode import TextEncoder


@dataclass(frozen=True)
class Evaluations:
    """What a run is measured by.

    Attributes:
        sets: of `config.eval.sets`, with their floors.
        tasks: of `config.eval.tasks`.
        embedder: of the run's image tower.
        texts: the frozen text tower; class names are embedded once a run.
    """

    sets: list[sets.Prepared]
    tasks: list[tasks.Prepared]
    embedder: MeshEmbedder
    texts: systems.TextMemo

    def __bool__(self) -> bool:
        return bool(self.sets or self.tasks)


def prepare(
    config: ConfigDict, mesh: Mesh, encoder: TextEncoder, train: Source | None, named: Sequence[str] | None = None,
    asked: preparing.Asked | None = None,
) -> Evaluations:  # fmt: skip
    """Everything about a run's evaluations that its weights do not decide.

    Args:
        config: of the run; `eval.sets` are prepared.
        mesh: whose devices embed.
        encoder: the frozen text tower.
        train: the training pairs, for the pixel floor; None leaves that floor out.
        named: tasks; None takes `config.eval.tasks`.
        asked: how their data is read; None: below `config.eval.data_root`.

    Raises:
        ConfigError, DataError: a set or task cannot be read.
    """
    root = Path(config.eval.data_root).expanduser() if config.eval.data_root else None
    asked = asked or preparing.Asked(root, config.data)
    # tasks first: a folder that is not there is found in a moment
    found = preparing.prepare(config.eval.tasks if named is None else named, asked)
    return Evaluations(sets.prepare(config, encoder.encode, train), found,
                       systems.embedder_of_run(config, mesh), systems.TextMemo(encoder))  # fmt: skip


def evaluate(
    evaluations: Evaluations, config: ConfigDict, params: tree.Tree, workdir: Path, step: int, *,
    options: tasks.Options = tasks.Options(), with_sets: bool = True, with_tasks: bool = True,  # noqa: B008
    folder: Path | None = None, should_stop: Callable[[], bool] = lambda: False, restart: bool = False,
) -> tuple[dict[str, float], list[Result], list[Any]]:  # fmt: skip
    """(metrics, results of the tasks, queries to show) of a run's weights.

    Args:
        params: of the image tower, the running average where the run keeps one.
        workdir: the run's folder.
        options: how tasks are asked.
        with_sets, with_tasks: what is due.
        folder: where tasks keep their results; None: eval/N/ of the run.
        should_stop: asked between batches.

    Raises:
        Stopped: `should_stop` said so; tasks that are done, and vectors of the one under way, are kept.
    """
    results: list[Result] = []
    chosen = evaluations.sets if with_sets else []
    metrics, vectors = sets.evaluate(chosen, evaluations.embedder, params, should_stop=should_stop)
    if with_tasks and evaluations.tasks:
        system = systems.of_run(config, evaluations.embedder, params, evaluations.texts,
                                name=systems.name_of(workdir), step=step)  # fmt: skip
        results = tasks.run(evaluations.tasks, system, options, folder or pages.folder_of(workdir, step),
                            should_stop=should_stop, restart=restart)  # fmt: skip
        metrics |= pages.metrics_of(results)
    shown = sets.examples_of(chosen, vectors, config.seed) if jax.process_index() == 0 else []
    return metrics, results, shown
