"""What evaluations leave for people: eval/report.html, eval/N.json, and the table on the screen."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lit_tune.evals import aggregate, published
from lit_tune.evals.results import FILE, Result, read_results, val_metrics
from lit_tune.goodput import told
from lit_tune.report import page
from lit_tune.report.examples import Examples
from lit_tune.rundir import read_metrics


def metrics_of(results: Sequence[Result]) -> dict[str, float]:
    """Flat `val/...` names of all results, with the averages over DataComp's groups that are complete."""
    metrics: dict[str, float] = {}
    for result in results:
        metrics |= val_metrics(result)
    return metrics | aggregate.val_aggregates({result.task: result for result in results})


def settings_by_task(results: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """{"settings": {task: its settings}} as eval/N.json holds them; {} without tasks."""
    return {"settings": {result.task: result.settings for result in results}} if results else {}


def folder_of(workdir: Path, step: int) -> Path:
    """The results folder of a run's step."""
    return workdir / "eval" / str(step)


def write_run_page(
    workdir: Path, config: ConfigDict, metrics: Mapping[str, float], examples: Sequence[Examples], step: int
) -> None:
    """Write eval/report.html of a run at a step, with everything that its results folder holds."""
    lines = [line for line in read_metrics(workdir) if line["step"] <= step]
    trained = [line for line in lines if line["kind"] == "train"]
    facts = {"step": f"{step:,} of {config.total_steps:,}", "pairs seen": step * config.global_batch,
             "image tower": f"{config.vision.image_size[0]} px, patch {config.vision.patch_size}, width "
                            f"{config.vision.width}, depth {config.vision.depth}",
             "text tower": f"{config.text.model}, frozen", "data": config.data.train or " + ".join(config.data.mix),
             "loss": f"{config.loss.name}, batch {config.global_batch:,}", "seed": config.seed}
    if config.optim.ema_decay > 0:
        facts["evaluated"] = f"the running average of the weights, decay {config.optim.ema_decay:g}"
    if trained and "perf/goodput" in trained[-1]:
        facts["time"] = told(trained[-1])
    title = f"lit_tune: {workdir.name}"
    _write(workdir / "eval" / "report.html", title, facts, lines, metrics, examples, folder_of(workdir, step))


def write_model_page(folder: Path, name: str, settings: Mapping[str, Any]) -> Path:
    """Write report.html of a model's results folder; its path."""
    size = "x".join(map(str, settings["image_size"]))
    facts = {"model": name, "pictures": f"{size}, {settings['resize']}, {settings['interpolation']}",
             "text tower": settings["text_tower"], "prompt": repr(settings["own_prompt"]),
             "computed in": settings["dtype"]}
    metrics = metrics_of(list(read_results(folder / FILE).values()))
    _write(folder / "report.html", f"lit_tune: {name}", facts, [], metrics, (), folder)
    return folder / "report.html"


def _write(
    path: Path, title: str, facts: Mapping[str, object], lines: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, float], examples: Sequence[Examples], folder: Path,
) -> None:  # fmt: skip
    """The page, with the results and details of a results folder."""
    results, known = read_results(folder / FILE), [published.published(name) for name in published.names()]
    files = [folder / "details" / f"{name}.json" for name in results]
    details = [json.loads(file.read_text()) for file in files if file.is_file()]
    page.write_report(path, title, facts, lines, metrics, examples, results=list(results.values()), details=details,
                      published={one.title: {task: f.value for task, f in one.figures.items()} for one in known},
                      sources={one.title: _source(one) for one in known},
                      aggregates=aggregate.aggregate(results))  # fmt: skip


def _source(one: published.Published) -> str:
    """Where a system's figures were read, in a line."""
    return "; ".join(f"{s.title} ({s.address}), {s.table}, read {s.read}" for s in one.sources)
