"""What `lit-tune plan` does once jax may be imported: one plan, a sweep, or the loss alone; printed."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lit_tune import console
from lit_tune.errors import ConfigError, explain
from lit_tune.flags import PlanFlags
from lit_tune.planning import estimate, fitting, loss_part, page, picture, promises, roofline, sweep
from lit_tune.planning.chips import Slice
from lit_tune.planning.compiling import Compiled, Compiler, changed
from lit_tune.planning.prices import Prices

BROKEN = 1  # exit code of --assert
PLAIN = {"vision.attention": "einsum", "vision.remat": "full"}
Figures = dict[str, Any]


def run(flags: PlanFlags, name: str, slices: Sequence[Slice], prices: Prices) -> int:
    """The exit code of a plan; it is printed as a page or as JSON.

    Args:
        flags: checked ones.
        name: of the config, with what the command line changes.
        slices: that the flags name.
        prices: of a chip and hour.
    """
    console.quiet_dependencies()
    config, slice_, compiler = flags.config, slices[0], Compiler()
    if flags.part == "loss":
        n = flags.n or config.global_batch
        return _print(loss_part.plan(config, n, slice_, compare=flags.plain), loss_part.show, flags.json)
    if flags.sweep:
        return _sweep(compiler, flags, name, slices, prices)
    found = plan(compiler, config, name, slice_, prices, plain=flags.plain)
    _print(found, page.show, flags.json)
    broken = promises.broken(config, compiler.step(config, slice_)) if flags.assert_ else []
    for line in broken:
        print(f"lit-tune plan: broken: {line}", file=sys.stderr)
    return BROKEN if broken else 0


def plan(compiler: Compiler, config: ConfigDict, name: str, slice_: Slice, prices: Prices, *, plain: bool) -> Figures:
    """Every key of `plan --json` for a config on a slice.

    Args:
        compiler: keeps what it compiles.
        config: a checked config.
        name: of it.
        slice_: TPUs, or GPUs.
        prices: of a chip and hour.
        plain: compile the plain step too, for comparison (TPUs only).
    """
    found, compiled = figures(compiler, config, name, slice_, prices)
    if not compiled.fits:
        return found | {"would_fit": fitting.find(compiler, config, slice_, compiled)}
    if plain and slice_.chip.maker == "tpu":
        found["est_cycles_plain"] = plain_cycles(compiler, config, slice_)
    return found


def figures(compiler: Compiler, config: ConfigDict, name: str, slice_: Slice,
            prices: Prices) -> tuple[Figures, Compiled]:
    """The keys of one compile, and what was compiled; nothing else is tried."""
    compiled, tpu = compiler.step(config, slice_), slice_.chip.maker == "tpu"
    elsewhere = not tpu and compiled.platform not in roofline.GPU
    found = estimate.EMPTY | estimate.about(config, name, slice_) | estimate.memory(compiled, slice_.chip) | {
        "attention": compiled.attention, "roofline": not tpu, "memory_is_bound": elsewhere,
        "notes": [] if tpu else roofline.notes(compiled.platform),
        "compile_s": round(compiled.seconds, 1), "would_fit": [], "est_cycles_plain": None, "price_date": prices.date,
        "trust": estimate.TRUST}
    if compiled.fits or not tpu:  # only a TPU's compiler gives no program that does not fit
        found |= estimate.products(config, compiled)
        found |= (estimate.of_program if tpu else estimate.of_gpu_program)(config, slice_, compiled)
        found |= estimate.run(config, slice_, found, prices)
    return found, compiled


def plain_cycles(compiler: Compiler, config: ConfigDict, slice_: Slice) -> int | None:
    """The compiler's cycles of the same step with einsum attention and full remat; None if that does not fit."""
    compiled = compiler.step(changed(config, PLAIN), slice_)
    return estimate.of_program(config, slice_, compiled)["est_cycles"] if compiled.fits else None


def _sweep(compiler: Compiler, flags: PlanFlags, name: str, slices: Sequence[Slice], prices: Prices) -> int:
    """The exit code of a sweep; its picture is written."""
    file = Path(flags.svg).expanduser()
    if not file.parent.is_dir():  # before half an hour of compiling
        raise ConfigError(explain("--svg", expected="a file in a folder that exists", found=file, do="make the folder"))
    print(f"lit-tune plan: {sweep.amount(slices)}", file=sys.stderr, flush=True)

    def told(config: ConfigDict, slice_: Slice) -> tuple[Figures, Compiled]:
        both = figures(compiler, config, name, slice_, prices)
        print(f"lit-tune plan: {sweep.line(both[0])}", file=sys.stderr, flush=True)
        return both

    found = sweep.find(told, flags.config, slices)
    file.write_text(picture.draw(found, name), encoding="utf-8")
    return _print(found, lambda rows: [name, "", *sweep.show(rows), "", f"picture: {file}",
                                       *page.wrapped(estimate.TRUST)], flags.json)  # fmt: skip


def _print(found: Any, show: Callable[[Any], list[str]], as_json: bool) -> int:
    """0; the figures are printed as JSON or as what `show` makes of them."""
    print(json.dumps(found, indent=1) if as_json else "\n".join(show(found)))
    return 0
