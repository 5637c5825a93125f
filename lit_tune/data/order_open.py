"""The order that a config asks for."""

from typing import Any

from lit_tune.data.order import Order, PlainOrder
from lit_tune.data.sample import Source


def open_order(config: Any, source: Source) -> Order:
    """Which pair stands where in the run.

    Args:
        config: the whole run config.
        source: its training pairs.
    """
    return PlainOrder(len(source), config.seed, config.global_batch)
