"""What a run that begins deep in an epoch waits for its order: the first index, and those of a whole global batch."""

import statistics
import time

import numpy as np

from lit_tune.benching.timing import Figures
from lit_tune.data.order import Order, PlainOrder
from lit_tune.data.order_window import WindowOrder

BASE = "nomic_embed_vision_v1_5"  # whose seed, global batch and steps
PAIRS = 1_547_277_668  # of the paper's run, see configs/nomic_embed_vision_v1_5.py
PER_SHARD, WINDOW = 10_000, 64  # pairs of a shard as img2dataset writes them, shards of a window


def measure(repeats: int) -> Figures:
    """Times of the last step but one of an epoch of the paper's run, by the order code that training asks.

    Opening the data is not in it: its index is mapped from the cache, whatever the step.

    Args:
        repeats: turns; medians count.

    Returns:
        {pairs, step, orders: {name: {first_s: seconds by the clock to make the order anew and have the first index,
        batch_s: seconds to the indices of the whole global batch, first: that index}}}.
    """
    from lit_tune import config  # only here: it loads jax

    run = config.load(BASE)
    step = PAIRS // run.global_batch - 2
    full, rest = divmod(PAIRS, PER_SHARD)
    sizes = (*[PER_SHARD] * full, rest)

    def plain() -> Order:
        return PlainOrder(PAIRS, run.seed, run.global_batch)

    def window() -> Order:
        return WindowOrder(PAIRS, run.seed, run.global_batch, sizes, WINDOW)

    orders = {"all pairs mixed": plain, f"data.shard_window={WINDOW}, {len(sizes):,} shards": window}
    found: Figures = {}
    for name, make in orders.items():
        firsts, batches, first = [], [], -1
        for _ in range(repeats):
            start = time.perf_counter()
            order = make()
            first = int(order.locate(order.positions(step, np.arange(1)))[0])
            firsts.append(time.perf_counter() - start)
            start = time.perf_counter()
            make().planned_ids(step)
            batches.append(time.perf_counter() - start)
        found[name] = {"first_s": statistics.median(firsts), "batch_s": statistics.median(batches), "first": first}
    return {"pairs": PAIRS, "global_batch": run.global_batch, "step": step, "orders": found}


def told(found: Figures) -> list[str]:
    """Lines about `measure`."""
    lines = [f"to begin at step {found['step']:,} of {found['pairs']:,} pairs, from nothing (clock, order alone):"]
    for name, one in found["orders"].items():
        lines.append(f"  {name}: first index after {1e3 * one['first_s']:.2f} ms, all {found['global_batch']:,} of the "
                     f"global batch after {1e3 * one['batch_s']:.0f} ms")
    return lines
