"""`lit-tune eval`: a run's checkpoint or an exported model on benchmarks and sets; systems side by side."""

from lit_tune import cli

if __name__ == "__main__":
    cli.answer_help("eval")  # before jax is imported

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from lit_tune import (
    config as config_lib,
    console,
    distributed,
    errors,
    evals,
    rundir,
    sharding,
    tower,
)
from lit_tune.comparing import page as comparison, rows, systems as compared, text
from lit_tune.data.mixture import open_train
from lit_tune.data.sources import Source
from lit_tune.evaldata import names as texts
from lit_tune.evals import aggregate, tables
from lit_tune.evals.results import FILE, Result
from lit_tune.evaluation import others, pages, preparing, sets, systems, tasks, training
from lit_tune.flags import EvalFlags

IN_FULL = 4  # tasks up to which every figure is printed


def main(argv: Sequence[str]) -> int:
    """Prints the scores of a checkpoint or a model beside their floors, or a comparison; returns the exit code."""
    flags: EvalFlags = config_lib.parse(argv, "eval")
    if flags.compare:
        return compare_systems(flags)
    _check(flags)
    console.quiet_dependencies()
    distributed.initialize(flags.coordinator, flags.num_processes, flags.process_id)
    with distributed.leaving_together():
        metrics, results = evaluate_run(flags) if flags.workdir else evaluate_model(flags)
    if len(results) <= IN_FULL:
        console.say(evals.table(metrics) + "\n")
    console.say(tables.tasks(results, aggregate.aggregate({result.task: result for result in results})))
    return 0


def compare_systems(flags: EvalFlags) -> int:
    """Print systems side by side; with --html the page too."""
    if len(flags.args) < 1 or flags.workdir or flags.model:
        raise errors.ConfigError(errors.explain(
            "--compare", expected="systems after it and no --workdir or --model", found=f"{len(flags.args)} systems",
            do="write lit-tune eval --compare A B published:NAME"))
    found = rows.compare(compared.read_systems(flags.args))
    console.say(text.table(found))
    if flags.html:
        path = Path(flags.html).expanduser()
        try:
            comparison.write_comparison(path, found)
        except OSError as error:
            raise errors.ConfigError(errors.explain(f"--html {path}", expected="room to write", found=error.strerror,
                                                    do="name another file")) from error
        console.say(f"page: {path}")
    return 0


def evaluate_run(flags: EvalFlags) -> tuple[dict[str, float], list[Result]]:
    """(metrics, results of its tasks) of a checkpoint of a run; kept in its eval/ folder."""
    workdir = Path(flags.workdir)
    page = workdir / "config.json"
    if not page.is_file():
        raise errors.ConfigError(errors.explain("--workdir", expected="a run's folder with config.json",
                                                found=str(workdir), do="name the folder that train wrote"))
    own = config_lib.from_json(page.read_text())
    config, named, foreign = _chosen(own, flags)
    state, meta = tower.read_state(workdir, flags.step)
    model, step = tower.of_state(workdir, state, meta), meta["step"]
    others.check_mteb(model, foreign)
    mesh = sharding.make_mesh(config_lib.load("finetune").mesh)  # whatever devices are here, not those of the run
    train = _training_pairs(config) if config.eval.sets else None
    folder = Path(flags.out).expanduser() if flags.out else pages.folder_of(workdir, step)
    metrics: dict[str, float] = {}
    results: list[Result] = []
    shown: list[Any] = []
    if config.eval.sets or named:  # MTEB's tasks of pictures alone need no text tower
        evaluations = training.prepare(config, mesh, model.text, train, named, _asked(config, flags))
        params = jax.device_put(sets.weights_to_evaluate(state), sharding.replicated(mesh))
        metrics, results, shown = training.evaluate(evaluations, config, params, workdir, step, folder=folder,
                                                    options=_options(flags), restart=flags.restart)
    results += others.run_mteb(model, foreign, folder, systems.name_of(workdir), _prompt(flags.prompt))
    metrics |= pages.metrics_of(results)
    if distributed.process_index() == 0:
        # a part of the sets, or other prompts for them, is no evaluation of the run: its figures stay as they are
        whole = not (flags.tasks or flags.class_field or flags.templates or _otherwise(flags))
        own_sets = {entry.partition("=")[0] for entry in own.eval.sets}
        kept = [result for result in results if result.task not in own_sets]
        _keep(workdir, step, metrics if whole else pages.metrics_of(kept), kept)
        if whole or results:
            pages.write_run_page(workdir, config, rundir.read_eval(workdir, step), shown, step)
    console.say(f"step {step:,} of {workdir}")
    _say_where(folder, results)
    return metrics, results


def evaluate_model(flags: EvalFlags) -> tuple[dict[str, float], list[Result]]:
    """(metrics, results of its tasks) of an import or export; kept in its results folder."""
    folder = Path(flags.out).expanduser() if flags.out else Path(flags.model).expanduser() / "eval"
    model, name = tower.load(flags.model), systems.name_of(flags.model)
    config, named, foreign = _chosen(config_lib.load("finetune").copy_and_resolve_references(), flags)
    others.check_mteb(model, foreign)
    results: list[Result] = []
    if named:
        # the system first: a model without a text tower is refused before any data is read
        system = systems.of_model(model, sharding.make_mesh(config.mesh), config.eval.batch, name)
        found = preparing.prepare(named, _asked(config, flags))
        results = tasks.run(found, system, _options(flags), folder, restart=flags.restart)
        if distributed.process_index() == 0:
            pages.write_model_page(folder, name, system.settings)
    results += others.run_mteb(model, foreign, folder, name, _prompt(flags.prompt))
    _say_where(folder, results)
    return pages.metrics_of(results), results


def _check(flags: EvalFlags) -> None:
    """Refuse a command line that says too little or too much."""
    if (flags.workdir is None) == (flags.model is None):
        raise errors.ConfigError(errors.explain(
            "eval", expected="--workdir=DIR or --model=DIR", found="both" if flags.workdir else "neither",
            do="name a run or an export"))
    if flags.html:
        raise errors.ConfigError(errors.explain("--html", expected="--compare beside it", found="none",
                                                do="an evaluation writes report.html by itself"))
    if flags.args:
        raise errors.ConfigError(errors.explain("eval", expected="flags only", found=repr(flags.args[0]),
                                                do="write --compare before systems to compare"))


def _chosen(own: ConfigDict, flags: EvalFlags) -> tuple[ConfigDict, tuple[str, ...], tuple[str, ...]]:
    """(config with the sets that are asked for, the tasks, MTEB's tasks) of --tasks; a run's own where it is absent."""
    entries = {entry.partition("=")[0]: entry for entry in own.eval.sets}
    typed = flags.tasks or (*entries.values(), *own.eval.tasks)
    if not typed:
        raise errors.ConfigError(errors.explain(
            "--tasks", expected="imagenet, ... or NAME=shards or folder", found="none",
            do=("its config has no eval.sets" if flags.workdir else "an export has no sets of its own") + ": name one"))
    if _otherwise(flags):  # sets are asked as tasks are: without pixel floors
        typed, entries = tuple(entries[name] if name in entries else name for name in typed), {}
    known = tuple(entries[name] for name in typed if name in entries) if flags.tasks else tuple(entries.values())
    foreign = tuple(name for name in typed if name.startswith(others.PREFIX))
    config = own.copy_and_resolve_references()
    with config.unlocked():
        config.eval.sets = known
        config.eval.batch = flags.batch or config.eval.batch
        config.eval.class_field = flags.class_field or config.eval.class_field
        if flags.templates:
            config.eval.templates = texts.read_templates(Path(flags.templates).expanduser())
    rest = tuple(name for name in typed if name not in (*entries, *entries.values(), *foreign))
    return config, rest, foreign


def _otherwise(flags: EvalFlags) -> bool:
    """Whether other prompts or widths are asked for, which a run's own evaluation of its sets does not have."""
    return flags.prompt is not None or bool(flags.prompts or flags.dims)


def _asked(config: ConfigDict, flags: EvalFlags) -> preparing.Asked:
    """Where the tasks' data is and how it is read."""
    root = flags.data_root or config.eval.data_root
    files = {name: Path(text).expanduser() if text else None
             for name, text in (("classnames", flags.classnames), ("templates", flags.templates))}
    return preparing.Asked(Path(root).expanduser() if root else None, config.data, **files,
                           class_field=flags.class_field or "", caption_field=config.eval.caption_field,
                           probes=flags.probes)  # fmt: skip


def _options(flags: EvalFlags) -> tasks.Options:
    """How the tasks are asked."""
    prompts = {name: _prompt(name) for name in flags.prompts}
    return tasks.Options(_prompt(flags.prompt), prompts, flags.dims, flags.probes, flags.clean)


def _prompt(word: str | None) -> str | None:
    """The prompt that is meant: none and own by name, "search_query: " for search_query; None is the tower's own."""
    if word in ("none", ""):
        return ""
    if word in ("own", None):
        return None
    return word if " " in word or word.endswith(":") else f"{word}: "


def _keep(workdir: Path, step: int, metrics: dict[str, float], results: Sequence[Result]) -> None:
    """Add to a run's eval/N.json what was evaluated; figures of other sets stay."""
    page = rundir.read_eval_page(workdir, step)
    page.pop("step", None)
    settings = {**page.pop("settings", {}), **pages.settings_by_task(results)["settings"]} if results else None
    again = {f"val/{result.task}" for result in results}
    kept = {name: value for name, value in page.items() if "/".join(name.split("/")[:2]).partition("[")[0] not in again}
    if metrics or settings:
        rundir.write_eval(workdir, step, kept | metrics | ({"settings": settings} if settings else {}))


def _say_where(folder: Path, results: Sequence[Result]) -> None:
    """Where the results are, and where the time went."""
    if results:
        spent = {name: sum(result.seconds.get(name, 0.0) for result in results) for name in
                 ("pictures", "texts", "scoring")}
        parts = ", ".join(f"{name} {seconds:,.1f} s" for name, seconds in spent.items())
        console.say(f"results in {folder / FILE} ({parts})")


def _training_pairs(config: ConfigDict) -> Source | None:
    """The pairs of the run, for the pixel floor; None, with a line, where they are not on this machine."""
    try:
        return open_train(config.data, allow_missing=sets.MISSING)
    except errors.LitTuneError as error:
        console.say(f"no pixel floor: {error}")
        return None


if __name__ == "__main__":
    sys.exit(cli.run(main))
