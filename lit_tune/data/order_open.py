"""The order that a config asks for."""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from lit_tune.data.mixture import MixedSource, parse
from lit_tune.data.order import Order, PlainOrder
from lit_tune.data.order_mix import MixedOrder, part_seed
from lit_tune.data.order_window import WindowOrder
from lit_tune.data.sample import Source
from lit_tune.errors import ConfigError, explain


@runtime_checkable
class Sharded(Protocol):
    """A source whose pairs lie in shards, one after the other."""

    def shard_pairs(self) -> list[tuple[Path, int]]:
        """Each shard and how many of its pairs are in use, `max_samples` aside."""
        ...


def open_order(config: Any, source: Source) -> Order:
    """Which pair stands where in the run.

    Args:
        config: the whole run config.
        source: its training pairs.

    Raises:
        ConfigError: config.data asks for an order that the source does not allow.
    """
    if isinstance(source, MixedSource):
        parts = tuple(_of_one(config, part, part_seed(config.seed, number))
                      for number, part in enumerate(source.parts))
        weights = tuple(weight for weight, _ in parse(config.data.mix))
        return MixedOrder(len(source), config.seed, config.global_batch, parts, weights)
    return _of_one(config, source, config.seed)


def _of_one(config: Any, source: Source, seed: int) -> Order:
    """The order of one source: plain, or shard by shard."""
    window = config.data.shard_window
    if not window:
        return PlainOrder(len(source), seed, config.global_batch)
    if not isinstance(source, Sharded):
        raise ConfigError(explain("config.data.shard_window", expected=f"0 for {source.spec}, which has no shards",
                                  found=window, do="leave it out, or pack the pairs into tar shards"))
    return WindowOrder(len(source), seed, config.global_batch, shard_sizes(source), window)


def shard_sizes(source: Sharded) -> tuple[int, ...]:
    """Pairs of each shard that belong to the source, in order; their sum is its length."""
    ends = np.cumsum([pairs for _, pairs in source.shard_pairs()])
    return tuple(np.diff(np.minimum(ends, len(source)), prepend=0).tolist())  # max_samples cuts the last ones
