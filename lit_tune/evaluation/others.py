"""Benchmarks that other people's packages run on our model: MTEB and MIEB."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from lit_tune import distributed
from lit_tune.evals.results import FILE, Result, read_results, write_results
from lit_tune.evaluation.tasks import HOURS
from lit_tune.model import Model

PREFIX = "mteb:"


def check_mteb(model: Model, names: Sequence[str]) -> None:
    """Refuse MTEB's tasks that cannot be run, before anything else takes time.

    Args:
        names: "mteb:TASK" each.

    Raises:
        ConfigError: mteb is not installed, has no such task, or the model lacks a tower for it.
    """
    if names:
        from lit_tune.integrations import mteb  # imports torch by way of mteb

        for task in mteb.find_tasks([one.removeprefix(PREFIX) for one in names]):
            mteb.check_modalities(model, task)


def run_mteb(model: Model, names: Sequence[str], folder: Path, name: str, prompt: str | None) -> list[Result]:
    """The results of MTEB's tasks, kept in a results folder task by task. mteb runs on process 0 only.

    Args:
        names: "mteb:TASK" each.
        folder: results folder.
        name: what results call the model.
        prompt: put before every text; None takes the tower's own.

    Raises:
        ConfigError: as `check_mteb`.
        DataError: a task's data cannot be fetched.
    """
    def run() -> list[dict]:
        from lit_tune.integrations import mteb

        folder.mkdir(parents=True, exist_ok=True)
        results = []
        for one in names:
            found = mteb.run(model, [one.removeprefix(PREFIX)], folder / "mteb", prompt=prompt, name=name)
            kept = read_results(folder / FILE) | {result.task: result for result in found.values()}
            write_results(folder / FILE, kept.values())
            results += found.values()
        return [dataclasses.asdict(result) for result in results]

    return [Result(**one) for one in distributed.on_process_0("mteb", run, HOURS)] if names else []
