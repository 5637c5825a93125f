"""Work on shards in processes, a shard at a time, with a line of progress now and then. No jax."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import TypeVar

from lit_tune.data.orphans import end_with_parent
from lit_tune.errors import LitTuneError, explain

Item = TypeVar("Item")
Result = TypeVar("Result")

EVERY = 5.0  # seconds between lines of progress, at least


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def each(task: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[tuple[Item, Result]]:
    """(item, task(item)) of every item as they are finished; in this process where one worker is enough.

    Processes, not threads: about 60 % of indexing a shard of 28 kB pictures is Python between the digests, which only
    one thread can do at a time. Ending the iteration early (Ctrl-C, an error) stops the workers at once, so a task has
    to put what it makes in place by a rename.

    Args:
        task: a function of a module; it and what it takes and returns go through pickle.
        items: what to do.
        workers: at most this many processes.

    Raises:
        LitTuneError: a worker died. Whatever the task raises passes through.
    """
    workers = min(workers, len(items))
    if workers <= 1:
        yield from ((item, task(item)) for item in items)
        return
    # spawn: a fork of a process with threads can hang.
    context, before = multiprocessing.get_context("spawn"), set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, context, initializer=_prepare_worker)
    todo = iter(items)
    running: dict[Future, Item] = {}
    try:
        while True:
            # Few at a time wait: a million submitted shards would be a million objects.
            for item in islice(todo, 2 * workers - len(running)):
                running[pool.submit(task, item)] = item
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
        pool.shutdown()
    except BrokenProcessPool as error:
        raise LitTuneError(explain("a worker process", expected="it to finish", found="it died, out of memory maybe",
                                   do="run the same command again, with fewer --workers")) from error  # fmt: skip
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()


def _prepare_worker() -> None:
    """Ctrl-C reaches every process of the terminal; the parent ends its workers itself, unless it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


class Progress:
    """Lines on stderr: shards, pairs, MB/s and the time left, at most one in EVERY seconds.

    Args:
        what: the action.
        shards: that are to be done.
        size: their bytes.
    """

    def __init__(self, what: str, shards: int, size: int) -> None:
        self._what, self._shards, self._size = what, shards, size
        self._done, self._pairs, self._bytes = 0, 0, 0
        self._start = self._last = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._start

    def add(self, pairs: int, size: int) -> None:
        """Note a finished shard, its pairs and its bytes."""
        self._done, self._pairs, self._bytes = self._done + 1, self._pairs + pairs, self._bytes + size
        if time.monotonic() - self._last < EVERY:
            return
        self._last = time.monotonic()
        rate = self._bytes / max(self.seconds, 1e-9)
        left = span((self._size - self._bytes) / rate) if rate else "unknown time"
        print(f"{self._what}: {self._done:,} of {self._shards:,} shards, {self._pairs:,} pairs, "
              f"{rate / 1e6:,.0f} MB/s, {left} left", file=sys.stderr, flush=True)  # fmt: skip

    def interrupted(self) -> None:
        """Say what a second call will find done."""
        print(f"{self._what}: interrupted after {self._done:,} of {self._shards:,} shards; the same command goes on "
              "from there", file=sys.stderr)  # fmt: skip


def span(seconds: float) -> str:
    """A time as a person says it: "40 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
