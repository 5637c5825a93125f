"""Refused samples of a whole run: of all processes, and of the starts before this one."""

from collections import Counter, deque
from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lit_tune.data.quarantine import Quarantine
from lit_tune.data.sample import KINDS

NAMES = ("samples", "bad", *KINDS)  # of Quarantine.counts


class BadSamples:
    """Adds up what the processes count, on the devices, so that nobody waits for it before the numbers are written.

    Args:
        quarantine: the counts of this process, which begin at 0 at every start.
        mesh: all devices of the run.
        saved: what `record` gave for the checkpoint that the run goes on from; None for none.

    Attributes:
        totals: samples tried, bad ones, and how many of each kind, as far as `settle` has them.
    """

    def __init__(self, quarantine: Quarantine, mesh: Mesh, saved: Mapping[str, int] | None) -> None:
        self.totals = Counter(saved or {})
        self._quarantine = quarantine
        self._added: Counter[str] = Counter()
        self._rows = NamedSharding(mesh, PartitionSpec(mesh.axis_names))  # a row a device
        self._sum = jax.jit(lambda rows: rows.sum(axis=0), out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._started: deque[jax.Array] = deque()

    def add(self) -> None:
        """Begin to add what has come since the last call. All processes call it after the same step; none waits."""
        counts = Counter(self._quarantine.counts)
        own = np.zeros((len(self._rows.addressable_devices), len(NAMES)), np.int32)
        own[0] = [counts[name] - self._added[name] for name in NAMES]
        self._added = counts
        with jax.transfer_guard_host_to_device("allow"):
            rows = jax.make_array_from_process_local_data(self._rows, own, (self._rows.num_devices, len(NAMES)))
        self._started.append(self._sum(rows))

    def settle(self) -> None:
        """Wait for everything that was begun."""
        while self._started:
            found = jax.device_get(self._started.popleft())
            self.totals.update(dict(zip(NAMES, found.tolist(), strict=True)))

    def metrics(self) -> dict[str, int]:
        """{"data/bad_samples"} and, for each kind that was met, {"data/bad_KIND"}: of the run so far."""
        kinds = {f"data/bad_{kind}": self.totals[kind] for kind in KINDS if self.totals[kind]}
        return {"data/bad_samples": self.totals["bad"]} | kinds

    def record(self) -> dict[str, int]:
        """What a checkpoint has to carry, so that a restart counts on."""
        return dict(self.totals)
