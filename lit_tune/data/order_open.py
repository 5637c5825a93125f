"""The order that a config asks for."""

from typing import Any, Protocol, runtime_checkable

import numpy as np

from lit_tune.data import clusters
from lit_tune.data.mixture import MixedSource, parse
from lit_tune.data.order import Order, PlainOrder
from lit_tune.data.order_hard import HardOrder
from lit_tune.data.order_mix import MixedOrder, part_seed
from lit_tune.data.order_window import WindowOrder
from lit_tune.data.sample import Source
from lit_tune.data.storage import Location
from lit_tune.data.text_rows import CachedText, TextRows
from lit_tune.errors import ConfigError, explain


@runtime_checkable
class Sharded(Protocol):
    """A source whose pairs lie in shards, one after the other."""

    def shard_pairs(self) -> list[tuple[Location, int]]:
        """Each shard and how many of its pairs are in use, `max_samples` aside."""
        ...


def open_order(config: Any, source: Source, text: TextRows | None = None) -> Order:
    """Which pair stands where in the run.

    Args:
        config: the whole run config.
        source: its training pairs.
        text: their text side; only hard batches need it, as cached vectors.

    Raises:
        ConfigError: config.data asks for an order that the source does not allow.
    """
    if isinstance(source, MixedSource):
        parts = tuple(_of_one(config, part, part_seed(config.seed, number))
                      for number, part in enumerate(source.parts))
        weights = tuple(weight for weight, _ in parse(config.data.mix))
        return MixedOrder(len(source), config.seed, config.global_batch, parts, weights)
    if config.data.hard_share:
        return _hard(config, len(source), text)
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


def _hard(config: Any, n: int, text: TextRows | None) -> HardOrder:
    """The order with hard batches; the groups of captions are computed now unless the cache has them."""
    if not isinstance(text, CachedText):
        raise ConfigError(explain("config.data.hard_share", expected="0 where texts are no cached vectors",
                                  found=config.data.hard_share, do="set config.text.source=cached"))
    groups = clusters.open_or_build(text.cache, config.data.hard_clusters, config.seed)
    order = HardOrder(n, config.seed, config.global_batch, hard_rows(config), groups)
    pool = order.smallest_pool()
    if pool < order.hard:
        raise ConfigError(explain(
            "config.data.hard_share", expected=f"at most {pool} rows, the captions of an anchor and its neighbours",
            found=f"{order.hard} rows", do="lower it, or config.data.hard_clusters"))
    return order


def hard_rows(config: Any) -> int:
    """Rows of a global batch that config.data.hard_share stands for."""
    return round(config.data.hard_share * config.global_batch)


def shard_sizes(source: Sharded) -> tuple[int, ...]:
    """Pairs of each shard that belong to the source, in order; their sum is its length."""
    ends = np.cumsum([pairs for _, pairs in source.shard_pairs()])
    return tuple(np.diff(np.minimum(ends, len(source)), prepend=0).tolist())  # max_samples cuts the last ones
