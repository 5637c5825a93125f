"""mteb (MTEB, MIEB) on our models: text tasks and image-text tasks, its code and its numbers.

    from lit_tune.integrations import mteb as lit_mteb
    results = lit_mteb.run(lit_tune.load("DIR"), ["STSBenchmark", "Flickr30kT2IRetrieval"], out="results")

or, with all of mteb's own options, `mteb.evaluate(lit_mteb.load("DIR"), tasks)`. What mteb writes into `out` names the
model by digests of all that decides its vectors, so that figures of another model or prompt are never taken for it.
"""

import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lit_tune import __version__
from lit_tune.errors import ConfigError, DataError, explain
from lit_tune.evals.results import Result
from lit_tune.model import Model

try:
    import mteb
    from mteb.abstasks import AbsTask
    from mteb.abstasks.aggregated_task import AbsTaskAggregate
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.get_tasks import TASK_LIST
    from mteb.results import TaskResult
    from mteb.types import PromptType
except ModuleNotFoundError as error:
    raise ConfigError(explain("mteb tasks", expected="the package mteb", found=f"no {error.name}",
                              do="pip install 'lit_tune[eval]'")) from error
from lit_tune.integrations.mteb_model import NAME, NOMIC_PROMPTS, MtebModel, Prompt, digests, load, sha_of

__all__ = ["NOMIC_PROMPTS", "MtebModel", "Prompt", "check_modalities", "find_tasks", "flat_scores", "load", "run"]
DIGITS = 6  # that mteb's files have


def run(
    model: Model, tasks: Sequence[str | AbsTask], out: str | Path | None = None, *, prompt: Prompt = None,
    name: str = NAME, progress: bool = True,
) -> dict[str, Result]:  # fmt: skip
    """{"mteb:TASK": its figures}, in order; mteb fetches what its tasks need, or finds it in the hub's cache.

    Args:
        model: what is measured.
        tasks: mteb's names of tasks or of benchmarks ("MTEB(eng, v1)": its tasks, with its languages), or task objects.
        out: where mteb keeps its own result files; tasks that are there already, of the same model, prompt, data and
            version of mteb, are read and not run again. None keeps nothing.
        prompt, name: as `MtebModel`.
        progress: whether mteb draws its bars on stderr.

    Raises:
        ConfigError: mteb has no such task, or the model has no tower for it; nothing was run.
        DataError: a task's data cannot be fetched.
    """
    chosen = find_tasks(tasks)
    for task in chosen:
        check_modalities(model, task)
    adapter = MtebModel(model, prompt, name)
    cache = None if out is None else mteb.ResultCache(Path(out).expanduser())
    system = {"name": name, **digests(model)}
    results = {}
    for task in chosen:
        result = _result(task, _evaluate(adapter, task, cache, progress), adapter, system)
        results[result.task] = result
    return results


def find_tasks(wanted: Sequence[str | AbsTask]) -> list[AbsTask]:
    """mteb's tasks of these names, a benchmark's name standing for all of its tasks.

    Raises:
        ConfigError: a name that mteb knows as neither; the nearest ones are named.
    """
    found: list[AbsTask] = []
    names = {task.metadata.name for task in TASK_LIST}
    suites = {name for suite in mteb.get_benchmarks() for name in (suite.name, *suite.aliases)}
    for one in wanted:
        if isinstance(one, AbsTask):
            found.append(one)
        elif one in names:
            found.append(mteb.get_task(one))
        elif one in suites:
            found += mteb.get_benchmark(one).tasks
        else:
            near = get_close_matches(one, names | suites, n=3, cutoff=0.5)
            raise ConfigError(explain("mteb task", expected=f"one of mteb {mteb.__version__}'s {len(names)} tasks",
                                      found=repr(one), do=f"did you mean {', '.join(near)}?" if near else
                                      "mteb.get_tasks() lists them"))
    return found


def check_modalities(model: Model, task: AbsTask) -> None:
    """Refuse a task that needs a tower which the model does not have.

    Raises:
        ConfigError: it does; the task and the tower are named.
    """
    has = {"image"} if model.has_image else set()
    has |= {"text"} if model.has_text else set()
    lacking = sorted(set(task.metadata.modalities) - has)
    if lacking:
        raise ConfigError(explain(
            f"mteb task {task.metadata.name}", expected=f"a task of {' and '.join(sorted(has))}",
            found=f"one that needs {' and '.join(lacking)} too", do="leave it out, or add the tower to the model"))


def _evaluate(adapter: MtebModel, task: AbsTask, cache: mteb.ResultCache | None, progress: bool) -> TaskResult:
    """mteb's own record of one task."""
    name, meta = task.metadata.name, adapter.mteb_model_meta
    try:
        if cache is None or not cache.get_task_result_path(name, meta).exists():
            for part in task.metadata.tasks if isinstance(task, AbsTaskAggregate) else [task]:
                part.load_data()
        found = mteb.evaluate(adapter, task, cache=cache, co2_tracker=False, show_progress_bar=progress)
    except (ConnectionError, FileNotFoundError) as error:
        raise DataError(explain(
            f"mteb task {name}", expected=f"{task.metadata.dataset['path']} on the hub or in the hub's cache",
            found=error, do="run it once with a network, or set HF_HOME to a cache that has it")) from error
    return found.task_results[0]


def _result(task: AbsTask, scores: TaskResult, adapter: MtebModel, system: Mapping[str, Any]) -> Result:
    """Our record of mteb's."""
    meta = task.metadata
    data = {"path": meta.dataset["path"], "revision": scores.dataset_revision,
            "evaluated": {split: sorted(one["hf_subset"] for one in found) for split, found in scores.scores.items()}}
    settings = {"mteb": scores.mteb_version, "lit_tune": __version__, "data": data, "main_score": meta.main_score,
                "type": meta.type, "prompt": _said(adapter, meta), "revision": adapter.mteb_model_meta.revision,
                # a revision of the hub is a digest of the data's files; what of them was used is beside it
                "data_sha256": sha_of(data)}  # fmt: skip
    return Result(f"mteb:{meta.name}", f"mteb/{meta.name}", meta.name, flat_scores(scores), settings,
                  seconds={"total": scores.evaluation_time or 0.0}, system=dict(system))


def flat_scores(scores: TaskResult) -> dict[str, float | None]:
    """Every figure of mteb's record by name, and `main_metric`: the mean of its main score over splits and subsets.

    Where there are several splits or subsets, a name is `split/subset/metric`. Lists (scores of single experiments)
    stay in mteb's own file; what is not finite is None. All have the six digits of that file, so that a figure is the
    same when it is read again.
    """
    rows = [(split, one) for split, found in scores.scores.items() for one in found]
    flat: dict[str, float | None] = {}
    for split, one in rows:
        before = f"{split}/{one['hf_subset']}/" if len(rows) > 1 else ""
        flat |= {before + name: _finite(value) for name, value in one.items() if isinstance(value, int | float)}
    return flat | {"main_metric": _finite(sum(round(one["main_score"], DIGITS) for _, one in rows) / len(rows))}


def _finite(value: float) -> float | None:
    """A number that JSON has."""
    return round(float(value), DIGITS) if math.isfinite(value) else None


def _said(adapter: MtebModel, meta: TaskMetadata) -> str | dict[str, str]:
    """The prompt as settings show it: one, or by role where queries and documents have different ones."""
    own = adapter.model.prompt if adapter.model.has_text else ""
    both = {role: adapter.prompt_of(meta, kind) for role, kind in
            (("query", PromptType.query), ("document", PromptType.document), ("other", None))}  # fmt: skip
    said = {role: own if prompt is None else prompt for role, prompt in both.items()}
    return said["other"] if len(set(said.values())) == 1 else said
