"""START HERE. One run from its command line to its last evaluation, top to bottom.

    lit-tune train --config=quickstart --workdir=runs/quickstart

`train` sets the run up (data, frozen text, step, state), `loop` trains it, `finish` writes the end. The same command
goes on where a run stopped. What is computed in a step is in step.py, what is measured in evaluation/training.py.
"""

from lit_tune import cli

if __name__ == "__main__":
    cli.answer_help("train")  # before jax is imported
    cli.supervise()  # with --restarts the run is a child of this process

import sys
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from lit_tune import (
    config as config_lib,
    console,
    debug_faults,
    description,
    distributed,
    errors,
    flops,
    losses,
    sharding,
    tree,
    warm_start,
    watch,
)
from lit_tune.bad_samples import BadSamples
from lit_tune.bad_steps import BadSteps, planned_samples
from lit_tune.checkpoint import Checkpointer
from lit_tune.data.loader import Batches
from lit_tune.data.mixture import open_train
from lit_tune.data.order_open import open_order
from lit_tune.data.sample import shard_digests
from lit_tune.digests import code_digest
from lit_tune.evaluation import pages, training as evaluation
from lit_tune.evaluation.embedding import Stopped
from lit_tune.evaluation.sets import weights_to_evaluate
from lit_tune.flags import TrainFlags
from lit_tune.goodput import Goodput, told
from lit_tune.metrics import MetricWriter, Throughput, peak_flops
from lit_tune.phases import Phases
from lit_tune.rundir import RunDir, read_eval, read_metrics
from lit_tune.step import Built, build_step
from lit_tune.text.provider import Text, open_text, vectors_digest
from lit_tune.watchdog import Watchdog

ORDER_S = 6 * 3600.0  # seconds that processes wait for each other's groups of captions


def main(argv: list[str]) -> int:
    """Runs `lit-tune train`; returns the exit code."""
    flags = config_lib.parse(argv, "train")
    config_lib.check(flags.config)  # everything that can be refused is refused before a file is opened
    with (Phases(preempted_exit_code=flags.preempted_exit_code) as phases, Watchdog(phases, flags.config.watchdog),
          distributed.leaving_together()):
        return train(flags, phases)


@dataclass
class Run:
    """All that the loop needs, set up once; `state` is the only thing that changes."""

    config: ConfigDict
    flags: TrainFlags
    phases: Phases
    mesh: jax.sharding.Mesh
    directory: RunDir
    checkpoints: Checkpointer
    built: Built
    batches: Batches
    text: Text
    evaluations: evaluation.Evaluations
    meta: dict[str, Any]  # goes into every checkpoint
    state: dict[str, Any]
    step: int  # steps trained so far
    goodput: Goodput
    growth: watch.Growth | None  # None where a run starts from random numbers: there everything grows
    bad_steps: BadSteps
    bad_samples: BadSamples
    line: "Line | None" = None  # of an earlier step, not yet written
    cpu_start: float = field(default_factory=time.process_time)
    booked: float = 0.0  # seconds of evaluating and saving that earlier log lines took account of

    def elsewhere(self) -> float:
        """Seconds spent evaluating and saving since the last call."""
        before = self.booked
        self.booked = self.phases.seconds.get("eval", 0.0) + self.phases.seconds.get("save", 0.0)
        return self.booked - before


def train(flags: TrainFlags, phases: Phases) -> int:
    """Set up the run, train it to its last step, write the end; the exit code."""
    config = flags.config
    console.quiet_dependencies()
    distributed.initialize(flags.coordinator or "", flags.num_processes or 0,
                           -1 if flags.process_id is None else flags.process_id,
                           initialization_timeout=config.watchdog.join_s)
    distributed.agree({**config_lib.facts(config), **distributed.library_versions(), "code of lit_tune": code_digest(),
                       "--skip_batches": str(flags.skip_batches)})
    with phases.enter("devices"):
        mesh = sharding.make_mesh(config.mesh)
    config_lib.check_devices(config, jax.device_count(), jax.process_count())

    # Pairs, and the directory that only one run at a time may write.
    source = open_train(config.data, max_samples=flags.max_samples, allow_missing=flags.allow_missing)
    facts = {"train": source.fingerprint} | vectors_digest(config)
    with RunDir.open(flags.workdir, config_lib.to_json(config), data=facts,
                     shards=shard_digests(source), extend=flags.extend) as directory:
        if directory.finished:
            console.say(f"{flags.workdir} is finished: {directory.path / 'eval' / 'report.html'}")
            return 0
        distributed.agree(facts)

        # The frozen text tower: its vectors for every caption, computed once, or its weights for the step.
        text = open_text(config, source)
        order = open_order(config, source, text.rows)
        if order.fingerprint:  # computed on each machine; one may take much longer than another
            distributed.agree({"groups of captions": order.fingerprint}, timeout=ORDER_S)
        evaluations = evaluation.prepare(config, mesh, text.encoder, source)
        built = build_step(config, mesh, skip_batches=flags.skip_batches or (0, 0), fault=flags.debug_fault)
        meta = {"config": config_lib.resolved(config), "config_hash": directory.config_hash, "data": facts,
                "order": order.fingerprint, "vision_tower": description.of_run(config),
                "text_tower": text.encoder.description}

        with Checkpointer(directory.checkpoints, keep=config.checkpoint.keep,
                          best_metric=config.eval.best_metric,
                          before_digests=debug_faults.before_digests(flags.debug_fault, jax.process_index())
                          ) as checkpoints:
            with phases.enter("restore"):
                restored = checkpoints.restore(None, built.abstract[0], built.shardings[0])
            if restored is None:
                state, saved = built.init(jax.random.key(config.seed)), {}
                if config.vision.init_from:
                    state = start_from(state, warm_start.load_vision_params(
                        config.vision.init_from, built.image_tower, config.vision.init_resample))
            else:
                phases.saved_step, state, saved = restored
                order.check_same(saved)
            phases.step = step = phases.saved_step
            past = read_metrics(directory.path)
            goodput = Goodput(phases, saved.get("goodput"), past, ended=directory.final() is not None)
            directory.resume_at(step)
            batches = Batches(text.source, text.rows, order, config, mesh, start_step=step)
            phases.reading = batches.reading
            growth = (watch.Growth(line for line in past if line["step"] <= step)
                      if config.vision.init_from else None)
            bad_steps = BadSteps(skipped=float(jax.device_get(state["skipped"])), by_hand=flags.skip_batches,
                                 samples=partial(planned_samples, text.source, order), write=directory.bad_batches,
                                 saved=saved.get("bad_steps"), scale_max=config.loss.logit_scale_max)
            bad_samples = BadSamples(batches.quarantine, mesh, saved.get("bad_samples"))
            run = Run(config, flags, phases, mesh, directory, checkpoints, built, batches, text, evaluations, meta,
                      state, step, goodput, growth, bad_steps, bad_samples)
            console.print_facts(config, built, source, text.facts, resumed_at=step)
            with batches:
                return loop(run)


def loop(run: Run) -> int:
    """Train from `run.step` to the last step, saving and evaluating on the way; the exit code."""
    config, phases, total = run.config, run.phases, run.config.total_steps
    text_params = run.text.params(run.mesh, run.built.text_tower)  # {} where vectors are cached
    devices = jax.devices()
    clock = Throughput(config.global_batch, len(devices), flops.per_pair(config, run.built.text_tower).model,
                       peak_flops(devices[0].device_kind))
    evaluated = set(distributed.on_process_0("evaluated", lambda: [
        line["step"] for line in read_metrics(run.directory.path) if line["kind"] == "val"]))
    with (MetricWriter(run.directory.path, total_steps=total, process_index=jax.process_index()) as writer,
          distributed.StopAgreement(phases) as stop):
        compiling = True
        while True:
            step, scores = run.step, {}  # a checkpoint carries the scores of its own step or none
            # Evaluate, then save: a checkpoint of a step never stands without that step's evaluation, and a run that
            # was stopped in between does it now. The line of the step comes before both.
            with_tasks = bool(config.eval.tasks) and _due(step, config.eval.tasks_every, total)
            due = _due(step, config.eval.every, total), with_tasks
            if step > 0 and (any(due) or _due(step, config.checkpoint.every, total)):
                write_line(run, writer, clock)
            if step > 0 and any(due) and step not in evaluated:
                try:
                    scores = evaluate(run, writer, *due)
                    run.checkpoints.rate(step, scores)  # of a run that was stopped in this evaluation
                except Stopped:
                    save(run, {}, wait=True)
                    return phases.preempted()
            if _due(step, config.checkpoint.every, total) and step > phases.saved_step:
                save(run, scores)
            if step == total:
                return finish(run, scores)

            with phases.enter("data wait"):
                batch = next_batch(run)
            with phases.enter("compile" if compiling else "step"):
                debug_faults.strike(run.flags.debug_fault, run.step, jax.process_index())
                run.state, metrics, embeddings = run.built.step(run.state, batch, text_params)
                if compiling:
                    jax.block_until_ready(metrics["loss"])
                    compiling = False
                run.bad_steps.started(run.step, metrics)  # waits for an earlier step
            run.step = phases.step = run.step + 1
            # The line of an earlier step, now that its numbers are there and the device has this step to work on.
            write_line(run, writer, clock)
            run.bad_steps.check()
            if run.step % config.log.every == 0 or run.step == total or run.step == 1:
                run.line = look(run, batch, metrics, embeddings)
            if run.checkpoints.poll():  # a save that failed in the background gets its second try
                write_line(run, writer, clock)
                save(run, {})
            phases.saved_step = run.checkpoints.saved_step
            if stop.agreed(run.step):
                write_line(run, writer, clock)
                save(run, {}, wait=True)
                return phases.preempted()


def next_batch(run: Run) -> dict[str, jax.Array]:
    """The next batch; the bad samples that end a run here are in quarantine.jsonl first. Raises DataError."""
    try:
        return next(run.batches)
    except errors.DataError:
        run.directory.quarantine(run.batches.quarantine.drain())
        raise


@dataclass
class Line:
    """What a line of metrics.jsonl is made of, most of it still being computed on the devices."""

    step: int
    metrics: dict[str, jax.Array]
    shape: dict[str, jax.Array]
    block_stats: dict[str, jax.Array]
    data: dict[str, Any]


def look(run: Run, batch: dict, metrics: dict, embeddings: dict) -> Line:
    """The line of the step just started; nothing here waits for the devices."""
    stats = {}
    if run.step <= run.config.log.block_stats_steps:
        stats = watch.block_stats(run.built, run.state["params"]["image"], batch, run.config)
    run.directory.quarantine(run.batches.quarantine.drain())
    run.bad_samples.add()
    return Line(run.step, metrics, _embedding_metrics(embeddings["zimg"], embeddings["ztxt"]), stats, {
        "data/batch_digest": run.batches.order.batch_digest(run.step - 1)})


def write_line(run: Run, writer: MetricWriter, clock: Throughput) -> None:
    """Write the line that is due, if one is, to metrics.jsonl and the progress; only here the host waits for devices.

    It is called when the next step was started, and before anything that must not overtake the line: an evaluation, a
    save, the end.
    """
    line, run.line = run.line, None
    if line is None:
        return
    step = line.step
    with run.phases.enter("step"):
        run.bad_steps.settle(step)
        run.bad_samples.settle()
        values = {f"train/{name}": float(value)
                  for name, value in jax.device_get(line.metrics | line.shape | line.block_stats).items()}
    for warning in run.growth.look(values) if run.growth and line.block_stats else ():
        console.warn(f"step {step}: {warning}")
    values |= line.data | run.bad_samples.metrics() | run.bad_steps.metrics() | {
        **run.goodput.shares(), "perf/cpu_s": time.process_time() - run.cpu_start,
        **clock.rates(step, run.batches.take_wait(), run.elsewhere())}
    writer.write(step, "train", values)
    writer.progress(step, values)


_embedding_metrics = jax.jit(losses.embedding_metrics)


def evaluate(run: Run, writer: MetricWriter, with_sets: bool, with_tasks: bool) -> dict[str, float]:
    """Score the current weights on what is due; one line of metrics.jsonl, eval/N.json, the report page."""
    step, config, workdir = run.step, run.config, run.directory.path
    with run.phases.enter("eval"):
        # With several hosts one must not leave while the others wait in a collective: they stop after the evaluation.
        alone = distributed.num_processes() == 1

        def should_stop() -> bool:  # asked after each batch
            run.phases.alive()
            return alone and run.phases.stop_requested()

        metrics, results, shown = evaluation.evaluate(
            run.evaluations, config, weights_to_evaluate(run.state), workdir, step, with_sets=with_sets,
            with_tasks=with_tasks, should_stop=should_stop)
        writer.write(step, "val", metrics)
        run.directory.write_eval(step, metrics | pages.settings_by_task(results))
        if jax.process_index() == 0 and run.evaluations:
            pages.write_run_page(workdir, config, metrics, shown, step)
    return metrics


def save(run: Run, scores: dict[str, float], *, wait: bool = False) -> None:
    """Start to save the current step; the writing goes on behind the next steps."""
    with run.phases.enter("save"):
        run.bad_steps.settle(run.step)
        run.bad_steps.check()
        run.bad_samples.add()
        run.bad_samples.settle()
        run.directory.sync()  # the lines on disk are never behind the checkpoint
        save = run.checkpoints.save_now if wait else run.checkpoints.save
        save(run.step, run.state, run.meta | {"metrics": scores, "goodput": run.goodput.record(),
                                              "bad_steps": run.bad_steps.record(),
                                              "bad_samples": run.bad_samples.record()})
        run.phases.saved_step = run.checkpoints.saved_step


def finish(run: Run, scores: dict[str, float]) -> int:
    """Wait for the last checkpoint, write final.json, say what there is and what to do next."""
    save(run, scores, wait=True)
    with run.phases.enter("save"):
        gather = jax.jit(lambda params: params, out_shardings=sharding.replicated(run.mesh))
        params = jax.device_get(jax.tree.map(lambda leaf: leaf.addressable_data(0), gather(run.state["params"])))
        scores = scores or read_eval(run.directory.path, run.step)
        run.directory.write_final(run.step, tree.digest(params), scores)
    run.directory.quarantine(run.batches.quarantine.drain())
    if replaced := run.batches.quarantine.summary(run.bad_samples.totals):
        console.say(f"data      {replaced}")
    console.say(f"time      {told(run.goodput.shares())}")
    if jax.process_index() == 0:
        console.print_end(run.flags.workdir, scores, bool(run.evaluations))
    return 0


def start_from(state: dict[str, Any], image: tree.Tree) -> dict[str, Any]:
    """The initial state with the image tower's weights replaced, placed as the state was."""
    old = state["params"]["image"]
    image = jax.tree.map(lambda new, old: jax.device_put(np.asarray(new), old.sharding), image, old)
    state["params"]["image"] = image
    if "ema" in state:
        state["ema"]["image"] = jax.tree.map(lambda leaf: leaf.copy(), image)
    return state


def _due(step: int, every: int, total: int) -> bool:
    """Whether something that happens every so many steps, and at the last one, happens now."""
    return step == total or (every > 0 and step > 0 and step % every == 0)


if __name__ == "__main__":
    sys.exit(cli.run(main, sys.argv[1:]))
