"""What a run says to people: facts at its start, results at its end; our libraries keep quiet."""

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from lit_tune import __version__, evals, optim, tree
from lit_tune.data import mixture
from lit_tune.data.sources import Source
from lit_tune.step import Built, split_frozen


def quiet_dependencies() -> None:
    """Silences what our libraries say about themselves; errors still pass. Called by commands, never at import."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's C++ log
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    for name in ("jax", "jax._src", "orbax", "absl", "grain", "tensorstore", "etils"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # each array of a failed save, with its traceback
    sys.unraisablehook = _tell_unraisable
    warnings.filterwarnings("ignore", module=r"(orbax|grain|tensorstore|flax|etils|tensorboardX)")


def _tell_unraisable(unraisable: Any) -> None:
    """Python's own hook, but for what tensorstore prints, many times over, of a save that has failed and was told of:
    its callbacks find Orbax's event loop gone."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def say(line: str) -> None:
    """Print a line on process 0, at once."""
    if jax.process_index() == 0:
        print(line, flush=True)


def warn(line: str) -> None:
    """Print a warning on stderr on process 0, at once."""
    if jax.process_index() == 0:
        print(f"lit_tune: warning: {line}", file=sys.stderr, flush=True)


def print_facts(config: ConfigDict, built: Built, source: Source, text_facts: str, *, resumed_at: int) -> None:
    """What will run, on what, with how much: one line each."""
    state, _, text_params = built.abstract
    devices = jax.devices()
    epochs = config.total_steps * config.global_batch / len(source)
    vision, image = config.vision, state["params"]["image"]
    frozen = tree.count(split_frozen(config, state["params"])[0])
    held = f", {frozen:,} in the first {optim.frozen_blocks(config)} blocks frozen" if frozen else ""
    say(f"lit_tune {__version__}  {len(devices)} x {devices[0].device_kind}, {jax.process_count()} process(es), "
        f"mesh {dict(built.shardings[0]['step'].mesh.shape)}")
    left_out = ", ".join(f"{count:,} {kind}" for kind, count in source.counts.items() if count)
    say(f"data      {len(source):,} pairs from {source.spec}{f'; left out or noted: {left_out}' if left_out else ''}")
    parts = source.parts if isinstance(source, mixture.MixedSource) else ()
    for (weight, spec), part in zip(mixture.parse(config.data.mix), parts, strict=True):
        visits = float(weight) * config.total_steps * config.global_batch
        say(f"mix       {float(weight):.4g} from {spec}: {len(part):,} pairs, {visits / len(part):.4g} epochs of them")
    say(f"text      {text_facts}, frozen" + (f", {tree.count(text_params):,} parameters live" if text_params else ""))
    height, width = vision.image_size
    say(f"image     {vision.family} {height}x{width} patch {vision.patch_size}, width {vision.width}, "
        f"depth {vision.depth}, pool {vision.pool}: {tree.count(image) - frozen:,} parameters trained{held}, "
        f"attention by {built.attention}")
    say(f"run       {config.total_steps:,} steps of {config.global_batch:,} pairs = {epochs:.4g} epochs, "
        f"{config.loss.name} loss, peak learning rate {optim.resolve_lr(config):.3g}, seed {config.seed}")
    if config.optim.ema_decay > 0:
        say(f"average   of the weights, decay {config.optim.ema_decay:g} a step: it is what is evaluated and exported")
    if resumed_at:
        say(f"resumed   at step {resumed_at:,}")


def print_end(workdir: str, scores: dict[str, float], has_sets: bool) -> None:
    """The scores beside their floors, where everything is, and what to type next."""
    if has_sets:
        say("")
        say(evals.table(scores))
    say("")
    say(f"results   {os.path.join(workdir, 'final.json')}")
    if has_sets:
        say(f"page      {os.path.join(workdir, 'eval', 'report.html')}  (open it in a browser)")
    say(f"next      lit-tune embed --model={workdir} --images=PICTURES --out=pictures.npz")
    say(f"          lit-tune search --model={workdir} --index=pictures.npz \"a red apple\"")
    say(f"          lit-tune export --workdir={workdir} --out=export")
    another = "runs/mine" if Path(workdir) != Path("runs/mine") else "runs/next"
    say(f"          lit-tune train --config=finetune --config.vision.init_from={workdir} --config.data.train=FOLDER "
        f"--workdir={another}")
