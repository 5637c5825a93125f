"""What `lit-tune plan` does once jax may be imported: one plan, a sweep, or the loss alone; printed."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from lit_tune import console
from lit_tune.flags import PlanFlags
from lit_tune.planning import estimate, fitting, page, promises
from lit_tune.planning.chips import Slice
from lit_tune.planning.compiling import Compiler, changed
from lit_tune.planning.prices import Prices

BROKEN = 1  # exit code of --assert
PLAIN = {"vision.attention": "einsum", "vision.remat": "full"}


def run(flags: PlanFlags, name: str, slices: Sequence[Slice], prices: Prices) -> int:
    """The exit code of a plan; it is printed as a page or as JSON.

    Args:
        flags: checked ones.
        name: of the config, with what the command line changes.
        slices: that the flags name.
        prices: of a chip and hour.
    """
    console.quiet_dependencies()
    compiler = Compiler()
    found = plan(compiler, flags.config, name, slices[0], prices, plain=flags.plain)
    print(json.dumps(found, indent=1) if flags.json else "\n".join(page.show(found)))
    if not flags.assert_:
        return 0
    broken = promises.broken(flags.config, compiler.step(flags.config, slices[0]))
    for line in broken:
        print(f"lit-tune plan: broken: {line}", file=sys.stderr)
    return BROKEN if broken else 0


def plan(compiler: Compiler, config: ConfigDict, name: str, slice_: Slice, prices: Prices, *,
         plain: bool) -> dict[str, Any]:
    """Every key of `plan --json` for a config on a slice.

    Args:
        compiler: keeps what it compiles.
        config: a checked config.
        name: of it.
        slice_: TPUs.
        prices: of a chip and hour.
        plain: compile the plain step too, for comparison.
    """
    compiled = compiler.step(config, slice_)
    found = estimate.about(config, name, slice_) | estimate.memory(compiled, slice_.chip) | {
        "roofline": False, "notes": [], "compile_s": round(compiled.seconds, 1), "would_fit": []}
    if not compiled.fits:
        return found | {"would_fit": fitting.find(compiler, config, slice_, compiled)}
    found |= estimate.products(config, compiled) | estimate.of_program(config, slice_, compiled)
    found |= estimate.run(config, slice_, found, prices)
    return found | {"est_cycles_plain": plain_cycles(compiler, config, slice_) if plain else None,
                    "trust": estimate.TRUST}


def plain_cycles(compiler: Compiler, config: ConfigDict, slice_: Slice) -> int | None:
    """The compiler's cycles of the same step with einsum attention and full remat; None if that does not fit."""
    compiled = compiler.step(changed(config, PLAIN), slice_)
    return estimate.of_program(config, slice_, compiled)["est_cycles"] if compiled.fits else None
