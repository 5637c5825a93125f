"""Global batches on the devices, from any step on. The only module of this package that imports jax.

position -> index (order.py) -> picture and text rows of this process (examples.py) -> arrays sharded over the mesh.
grain runs the middle part ahead of time, in threads of this process or of worker processes. Its iterator state is never
needed: a batch is a function of the step.
"""

import gc
import time
from typing import Any

import grain
import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lit_tune.data.examples import HostBatches, Recipe
from lit_tune.data.memory import batches_ahead
from lit_tune.data.order import Order
from lit_tune.data.quarantine import Quarantine
from lit_tune.data.sample import Source
from lit_tune.data.text_rows import TextRows
from lit_tune.errors import ConfigError, HangError, explain

BATCH_AXES = ("data", "fsdp")  # mesh axes that axis 0 of every batch array is cut along
DELETION_SECONDS = 0.2  # grain gives shared memory back in a thread of its own; at exit the rest is reported as leaked
OWN = ("tried", "fault")  # arrays of HostBatches that stay on the host


class Batches:
    """Iterator over the global batches of steps start_step, start_step + 1, ..., config.total_steps - 1.

    Each batch is a dict of global arrays, axis 0 cut over ("data", "fsdp"): `image` uint8 (b, h, w, 3), `caption_id`
    uint32 (b, 2), and `ztxt` (b, d) or `input_ids` and `attention_mask` (b, s); with config.loss.extra_negatives also
    `extra_ztxt` (k, d) and `extra_caption_id` (k, 2), with config.loss.text_bank `bank_ztxt` and `bank_caption_id` of
    the steps before. Use it as a context manager, or call `close`.

    Args:
        source: the pairs.
        text: their text side.
        order: which pair stands where.
        config: the whole run config; worker processes are started only where config.data.workers > 0.
        mesh: with the axes "data" and "fsdp".
        start_step: first step wanted; any step starts at once.

    Attributes:
        step: the step of the next batch.
        order: as given; `order.batch_digest(step)` is what metrics.jsonl calls data/batch_digest.
        quarantine: counts of good and bad samples of this process, and the lines for quarantine.jsonl.

    Raises:
        ConfigError: the global batch cannot be cut over the mesh.
        DataError: from `next`, where too many samples are bad.
        HangError: from `next`, where a worker process was killed.
    """

    def __init__(self, source: Source, text: TextRows, order: Order, config: Any, mesh: Mesh,
                 start_step: int = 0) -> None:
        self.order = order
        self.step = start_step
        self.quarantine = Quarantine(source, config.data.max_bad_fraction)
        self._size = len(source)
        self._config = config
        self._text = text
        self._sharding = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
        self._check_cut("config.global_batch", config.global_batch)
        self._rows = own_rows(self._sharding, config.global_batch)
        self._extra = _extra_count(text, config)
        if self._extra:
            self._check_cut("config.loss.extra_negatives", self._extra)
        self._waited = 0.0
        bank = config.loss.text_bank * config.global_batch
        self._check_bank(bank)
        self._bank_rows = own_rows(self._sharding, bank) if bank else None
        self._examples = HostBatches(source, text, order, Recipe.of(config), self._rows, self._bank_rows)
        self._host = _run_ahead(self._examples, config, start_step)

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> dict[str, jax.Array]:
        started = time.monotonic()
        host = {name: self._own(array) for name, array in self._next().items()}
        # Bad samples travel as numbers, not as exceptions: grain loses a whole batch when one is raised in its threads.
        self.quarantine.take(host["tried"], host["fault"])
        with jax.transfer_guard_host_to_device("allow"):  # the one transfer of a step that is meant
            batch = {name: self._spread(name, array) for name, array in host.items() if name not in OWN}
            if self._extra:
                extra = self._text.extra(self.step, self._extra, self._config.seed)
                batch |= {name: self._put(array) for name, array in extra.items()}
        self.step += 1
        self._waited += time.monotonic() - started
        return batch

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the threads and processes behind this iterator."""
        self._host.close()
        self._host = iter(())
        if self._config.data.workers:
            gc.collect()  # grain's iterator keeps its last shared memory in a reference cycle
            time.sleep(DELETION_SECONDS)

    def reading(self) -> str:
        """Names of the shards that the next batch waits for, as far as they are known; for messages, from any thread.

        Read by worker processes, it is one of those that the batch's pairs lie in.
        """
        return self._examples.shards(self.step)

    def take_wait(self) -> float:
        """Seconds spent in `next` since the last call of this: what the devices may have waited for data."""
        waited, self._waited = self._waited, 0.0
        return waited

    def _next(self) -> dict[str, np.ndarray]:
        """This process's rows of the next batch, waited for."""
        try:
            return next(self._host)
        except RuntimeError as error:
            if "terminated unexpectedly" not in str(error):
                raise
            raise HangError(explain(
                "config.data.workers: a worker process", expected="it to live as long as the run",
                found=str(error).partition(". ")[0],
                do="restart; where memory is short, lower data.workers or data.prefetch",
            )) from error

    def _own(self, array: np.ndarray) -> np.ndarray:
        """The array in memory of this process: a worker's lies in shared memory, which a jax array must not keep."""
        return np.array(array) if self._config.data.workers else array

    def _spread(self, name: str, own: np.ndarray) -> jax.Array:
        """The global array whose rows of this process are `own` (h, ...)."""
        numbers, steps = (self._bank_rows, self._config.loss.text_bank) if name.startswith("bank_") else (self._rows, 1)
        count = steps * self._config.global_batch

        def rows(place: tuple[slice, ...]) -> np.ndarray:
            """The rows of one device; `numbers` has no gaps inside one device's span."""
            start, stop, _ = place[0].indices(count)
            first = int(np.searchsorted(numbers, start))
            return own[first : first + stop - start]

        return jax.make_array_from_callback((count, *own.shape[1:]), self._sharding, rows)

    def _put(self, whole: np.ndarray) -> jax.Array:
        """The global array that every process holds whole as `whole`."""
        return jax.make_array_from_callback(whole.shape, self._sharding, lambda place: whole[place])

    def _check_bank(self, bank: int) -> None:
        """Refuse a bank that would hold the batch's own texts where equal captions are not masked."""
        if bank and bank + self._config.global_batch > self._size and not self._config.loss.mask_equal_captions:
            raise ConfigError(explain(
                "config.loss.text_bank", expected=f"fewer past texts than the {self._size} pairs leave beside a batch",
                found=f"{bank} texts", do="lower it, or set config.loss.mask_equal_captions=true"))

    def _check_cut(self, key: str, count: int) -> None:
        """Refuse a number of rows that the batch axes of the mesh do not divide."""
        shape = self._sharding.mesh.shape
        shards = shape["data"] * shape["fsdp"]
        if count % shards:
            near = max(1, round(count / shards)) * shards
            raise ConfigError(explain(key, expected=f"a multiple of {shards}", found=count, do=f"for example {near}"))


def own_rows(sharding: NamedSharding, global_batch: int) -> np.ndarray:
    """Rows of the global batch that lie on this process's devices, int64, rising, each once."""
    places = sharding.addressable_devices_indices_map((global_batch,)).values()
    spans = {place[0].indices(global_batch)[:2] for place in places}
    return np.concatenate([np.arange(start, stop, dtype=np.int64) for start, stop in sorted(spans)])


def _extra_count(text: TextRows, config: Any) -> int:
    """How many extra texts a step really has: there may be fewer than asked for."""
    wanted = config.loss.extra_negatives
    return len(text.extra(0, wanted, config.seed)["extra_caption_id"]) if wanted else 0


def _run_ahead(host_batches: HostBatches, config: Any, start_step: int) -> Any:
    """grain's iterator over `host_batches(step)`, computed ahead in threads or worker processes.

    The buffers are counted in host batches, and grain's defaults (500 of them) would hold tens of GB: set here.
    """
    data = config.data
    # An element is a step's whole share of this process, so there is nothing left for grain to shuffle, cut or batch.
    steps = grain.MapDataset.range(start_step, max(start_step, config.total_steps))
    options = grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=batches_ahead(data))
    batches = steps.map(host_batches).to_iter_dataset(options)
    if data.workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain's workers are handed absl flags; a library user has not parsed any
        batches = batches.mp_prefetch(grain.multiprocessing.MultiprocessingOptions(num_workers=data.workers))
    return iter(batches)
