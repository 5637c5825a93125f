"""Which single change makes a step fit that does not: found by compiling, cheapest change first."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from lit_tune import config as config_lib
from lit_tune.errors import ConfigError
from lit_tune.planning.chips import Slice, larger
from lit_tune.planning.compiling import GIB, Compiled, Compiler, changed

ENOUGH = 3  # changes that fit: a choice, and no hour of compiling
MOST = 8  # compiles; those that fail do so within seconds
HOPE = 1.3  # a change is tried if its memory on paper is at most this many times the limit


class Try(NamedTuple):
    """A change of one thing.

    Attributes:
        change: as it is typed.
        config, slice_: with it.
        guess: bytes that it leaves, on paper.
    """

    change: str
    config: ConfigDict
    slice_: Slice
    guess: float


def find(compiler: Compiler, config: ConfigDict, slice_: Slice, compiled: Compiled) -> list[dict[str, Any]]:
    """[{change, hbm_peak_gib}] of single changes that fit, in the order of what they cost.

    Args:
        compiler: keeps what it compiles.
        config: a checked config.
        slice_: that it does not fit.
        compiled: what came out.
    """
    limit, found, tried = slice_.chip.hbm_gib * GIB, [], 0
    for one in tries(config, slice_, compiled):
        if len(found) == ENOUGH or tried == MOST:
            break
        if one.guess > HOPE * limit or one.change.startswith("--config.micro") and _kind_is_there(found, "micro"):
            continue
        tried += 1
        result = compiler.step(one.config, one.slice_)
        if result.fits:
            found.append({"change": one.change, "hbm_peak_gib": round(result.peak / GIB, 3)})
    return found


def tries(config: ConfigDict, slice_: Slice, compiled: Compiled) -> Iterator[Try]:
    """The changes, cheapest first: what a step then takes longer, or costs more."""
    peak = compiled.peak if compiled.peak is not None else float("inf")
    temporaries = compiled.temporaries if compiled.temporaries is not None else float("inf")
    moments = compiled.arguments * 2 / 3  # parameters and two moments: nearly all of the arguments
    wide = compiled.layout.axes["data"]
    if not config.optim.zero1 and wide > 1:
        yield from _of(config, slice_, {"optim.zero1": True}, peak - moments * (1 - 1 / wide))
    if config.mesh.fsdp == 1 and config.mesh.tensor == 1 and slice_.devices > 1:
        yield from _of(config, slice_, {"mesh.data": 1, "mesh.fsdp": -1}, peak - compiled.arguments)
    levels = ("none", "dots", "save", "full")  # less memory from left to right
    # the CPU's compiler, which stands in for an absent GPU's, undoes what a policy does
    for policy in ("save", "full") if compiled.platform != "cpu" else ():
        if levels.index(policy) > levels.index(config.vision.remat):
            # a layer's activations remain at least, and what no policy touches
            yield from _of(config, slice_, {"vision.remat": policy}, compiled.arguments + temporaries / 30)
    parts, most = config.micro_batches * 2, config.global_batch // slice_.devices
    while parts <= most and most % parts == 0:
        times = parts / config.micro_batches
        yield from _of(config, slice_, {"micro_batches": parts}, compiled.arguments + temporaries / times)
        parts *= 2
    if (next_ := larger(slice_)) is not None:
        yield from _of(config, next_, {}, compiled.arguments + temporaries / 2)


def _of(config: ConfigDict, slice_: Slice, changes: dict[str, Any], guess: float) -> Iterator[Try]:
    """The try, if the config can have it."""
    text = " ".join(f"--config.{key}={value}" for key, value in changes.items()) or f"--topology={slice_.topology}"
    try:
        other = changed(config, changes)
        config_lib.check_devices(other, slice_.devices)
    except ConfigError:  # another setting excludes it: no way out, and none is offered
        return
    yield Try(text, other, slice_, guess)


def _kind_is_there(found: list[dict[str, Any]], word: str) -> bool:
    """Whether a change of a kind has been found: of several the first is the cheapest."""
    return any(word in one["change"] for one in found)
