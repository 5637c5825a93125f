"""Benchmarks that other people's packages run on our model: MTEB and MIEB."""

from collections.abc import Sequence
from pathlib import Path

from lit_tune.evals.results import FILE, Result, read_results, write_results
from lit_tune.model import Model


def run_mteb(model: Model, names: Sequence[str], folder: Path, name: str, prompt: str | None) -> list[Result]:
    """The results of MTEB's tasks, kept in a results folder.

    Args:
        names: "mteb:TASK" each.
        folder: results folder.
        name: what results call the model.
        prompt: put before every text; None takes the tower's own.

    Raises:
        ConfigError: mteb is not installed, or has no such task.
    """
    from lit_tune.integrations import mteb  # imports torch by way of mteb

    tasks = [one.removeprefix("mteb:") for one in names]
    results = list(mteb.run(model, tasks, folder / "mteb", prompt=prompt, name=name).values())
    folder.mkdir(parents=True, exist_ok=True)
    write_results(folder / FILE, (read_results(folder / FILE) | {one.task: one for one in results}).values())
    return results
