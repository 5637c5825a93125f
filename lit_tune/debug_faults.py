"""Faults made on purpose by `--debug_fault=KIND@STEP[:PROCESS]`: those that cannot be made from outside. No jax.

STEP is the number of steps trained before; without PROCESS it happens on all. The command is the same at a restart, and
so is the fault, wherever the run passes STEP again.
"""

import math
import time
from collections.abc import Callable

KINDS = {
    "nan": "loss and gradients of the step are not numbers; always on all processes: the loss is one of all",
    "spike": "loss and gradients of the step are a thousand times what they are; on all processes, as nan",
    "stuck": "the main thread sleeps for ever instead of the step, while the process stays alive",
    "slow_save": "saves of that step and of later ones are held for 20 s before their digests are written",
    "raise": "an exception instead of the step",
    "clock": "the clock of the day jumps back by one hour",
}
FACTORS = {"nan": math.nan, "spike": 1000.0}  # what lit_tune.step multiplies loss and gradients by
SLOW_S = 20.0
BACK_S = 3600

Fault = tuple[str, int, int | None]  # kind, step, process or None for all


def strike(fault: Fault | None, step: int, process: int) -> None:
    """Stand still, raise or turn the clock back before a step, where that is asked for; to be called before each.

    Args:
        fault: the flag's value.
        step: steps trained so far.
        process: number of this one.
    """
    if fault is None or step != fault[1] or fault[2] not in (None, process):
        return
    kind = fault[0]
    if kind == "stuck":
        time.sleep(1e9)
    elif kind == "raise":
        raise RuntimeError(f"--debug_fault=raise@{step}, on process {process}")
    elif kind == "clock":
        _turn_back()


def before_digests(fault: Fault | None, process: int) -> Callable[[int], None]:
    """What a checkpointer does, given the step, between writing the arrays and making them count: nothing, or sleep."""
    def hold(step: int) -> None:
        if fault and fault[0] == "slow_save" and step >= fault[1] and fault[2] in (None, process):
            time.sleep(SLOW_S)

    return hold


def _turn_back() -> None:
    """Let `time.time` and `time.time_ns` show an hour less from now on; the monotonic clock cannot jump."""
    seconds, nanoseconds = time.time, time.time_ns
    time.time = lambda: seconds() - BACK_S
    time.time_ns = lambda: nanoseconds() - BACK_S * 10**9
