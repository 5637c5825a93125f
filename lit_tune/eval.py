"""`lit-tune eval`: the evaluation sets of a run on one of its checkpoints, or sets of your own on an export."""

from lit_tune import cli

if __name__ == "__main__":
    cli.answer_help("eval")  # before jax is imported

import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from lit_tune import config as config_lib, console, errors, evals, evaluation, rundir, sharding, tower
from lit_tune.data.sources import Source, open_source
from lit_tune.flags import EvalFlags


def main(argv: Sequence[str]) -> int:
    """Prints the scores of a checkpoint or an export beside their floors; returns the exit code."""
    flags = config_lib.parse(argv, "eval")
    if (flags.workdir is None) == (flags.model is None):
        raise errors.ConfigError(errors.explain(
            "eval", expected="--workdir=DIR or --model=DIR", found="both" if flags.workdir else "neither",
            do="name a run or an export"))
    console.quiet_dependencies()
    metrics = evaluate_run(flags) if flags.workdir else evaluate_export(flags)
    console.say(evals.table(metrics))
    return 0


def evaluate_run(flags: EvalFlags) -> dict[str, float]:
    """Metrics of a checkpoint of a run, written to its eval/N.json and report page too."""
    workdir = Path(flags.workdir)
    page = workdir / "config.json"
    if not page.is_file():
        raise errors.ConfigError(errors.explain("--workdir", expected="a run's folder with config.json",
                                                found=str(workdir), do="name the folder that train wrote"))
    own = config_lib.from_json(page.read_text())
    config = _with_tasks(own, flags)
    state, meta = tower.read_state(workdir, flags.step)
    encoder = tower.text_of_run(config, meta)
    prepared = evaluation.prepare(config, encoder.encode, _training_pairs(config))
    mesh = sharding.make_mesh(config_lib.load("finetune").mesh)  # whatever devices are here, not those of the run
    params = jax.device_put(evaluation.weights_to_evaluate(state), sharding.replicated(mesh))
    metrics, vectors = evaluation.evaluate(prepared, evaluation.make_embedder(config, mesh), params,
                                           rows=evaluation.batch_rows(config, mesh))
    step = meta["step"]
    # a part of the sets, or other prompts, is no evaluation of the run: its files stay as they are
    if not (flags.tasks or flags.class_field or flags.templates):
        rundir.write_eval(workdir, step, metrics)
        evaluation.write_report(workdir, config, prepared, metrics, vectors, step)
    console.say(f"step {step:,} of {workdir}")
    return metrics


def evaluate_export(flags: EvalFlags) -> dict[str, float]:
    """Metrics of an exported tower on the sets given as --tasks=NAME=DATA."""
    model = tower.load(flags.model)
    config = config_lib.load("finetune").copy_and_resolve_references()
    config = _with_tasks(config, flags)
    prepared = evaluation.prepare(config, model.embed_texts, None, model.vision.pixels)
    return evaluation.evaluate(prepared, lambda _, images: model.vision.embed_pixels(images), {},
                               rows=config.eval.batch)[0]


def _training_pairs(config: ConfigDict) -> Source | None:
    """The pairs of the run, for the pixel floor; None, with a line, where they are not on this machine."""
    try:
        return open_source(config.data.train, config.data)
    except errors.LitTuneError as error:
        console.say(f"no pixel floor: {error}")
        return None


def _prompts(file: str) -> tuple[str, ...]:
    """The lines of a file of prompts; {c}, as clip_benchmark writes the class, is {} here.

    Raises:
        ConfigError: no such file, or a line without a place for the class.
    """
    try:
        lines = [line.strip().replace("{c}", "{}") for line in Path(file).expanduser().read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        expected = "a text file with a prompt on each line"
        raise errors.ConfigError(errors.explain(f"--templates {file}", expected=expected, found=error,
                                                do="check the path")) from error
    prompts = tuple(line for line in lines if line)
    wrong = [line for line in prompts if "{}" not in line]
    if wrong or not prompts:
        raise errors.ConfigError(errors.explain(f"--templates {file}", expected="{} where the class name goes",
                                                found=repr(wrong[0]) if wrong else "no line", do="add it"))
    return prompts


def _with_tasks(config: ConfigDict, flags: EvalFlags) -> ConfigDict:
    """The config with the sets that --tasks names (of its own, or NAME=DATA below --data_root), classes and prompts."""
    own = {entry.partition("=")[0]: entry for entry in config.eval.sets}
    chosen = []
    for task in flags.tasks or tuple(own.values()):
        name, equals, spec = task.partition("=")
        if not equals and name not in own:
            raise errors.ConfigError(errors.explain(
                "--tasks", expected=f"{', '.join(own) or 'NAME=DATA'}", found=repr(task),
                do="choose among them, or write NAME=shards or folder"))
        spec = spec or own[name].partition("=")[2]
        rooted = flags.data_root and not spec.startswith("emoji:") and not Path(spec).is_absolute()
        chosen.append(f"{name}={Path(flags.data_root) / spec if rooted else spec}")
    if not chosen:
        raise errors.ConfigError(errors.explain("--tasks", expected="NAME=shards or folder", found="none",
                                                do="an export has no sets of its own: name one"))
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.eval.sets = tuple(chosen)
        config.eval.class_field = flags.class_field or config.eval.class_field
        config.eval.templates = _prompts(flags.templates) if flags.templates else config.eval.templates
    return config


if __name__ == "__main__":
    sys.exit(cli.run(main))
