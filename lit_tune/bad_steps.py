"""Numbers that went wrong: each step's loss and gradient norm, looked at when they are there anyway.

The step itself leaves out an update whose loss or gradient is not finite (step.py). Here such steps are counted, their
samples written down, and a run that meets too many of them ends; spikes are counted, written down and told of. Nothing
waits for the devices beyond what the loop waits for: a step's numbers are read when AHEAD later ones were started, or
when its log line is written.
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from lit_tune import console, errors
from lit_tune.data.order import Order
from lit_tune.data.sample import Source
from lit_tune.spikes import Spikes
from lit_tune.watch import Temperature

AHEAD = 2  # steps given to the devices before the first of them is done: they never wait for the next
IN_A_ROW = 3  # skipped steps one after the other that end a run: that is no single bad batch
WINDOW, IN_WINDOW = 1000, 20  # so many skipped among the last 1,000 steps end it too
SHOWN = 3  # samples named in a line
FILE = "bad_batches.jsonl"


class Numbers(NamedTuple):
    """What a step says about itself."""

    loss: float
    grad_norm: float
    skipped_steps: float  # so far, this one included
    logit_scale: float  # exp of the parameter, after the step


class BadSteps:
    """Counts skipped steps, writes down their samples, and ends the run when there are too many.

    Steps are counted from 0, as in --skip_batches; steps skipped by hand are no bad ones.
    """

    def __init__(
        self, *, skipped: float, by_hand: tuple[int, int] | None, samples: Callable[[int], dict[str, list[str]]],
        write: Callable[[list[dict[str, Any]]], None], saved: Mapping[str, Any] | None, scale_max: float = 0.0,
    ) -> None:  # fmt: skip
        """To be made where the run begins or goes on.

        Args:
            skipped: the state's count there.
            by_hand: half-open range of steps of --skip_batches; None: none.
            samples: step -> {shard: keys} of its planned batch, see `planned_samples`.
            write: takes lines for FILE.
            saved: what `record` gave for the checkpoint that the run resumes from; None without one.
            scale_max: `config.loss.logit_scale_max`.
        """
        self._count = skipped
        self._by_hand = range(*(by_hand or (0, 0)))
        self._samples = samples
        self._write = write
        self._started: deque[tuple[int, dict[str, jax.Array]]] = deque()
        self._skipped = deque(step for step in (saved["skipped"] if saved else ()) if step not in self._by_hand)
        self._spikes = Spikes(saved["spikes"] if saved else None)
        self._temperature = Temperature(scale_max, saved["temperature"] if saved else None)
        self._error: errors.NumbersError | None = None
        self._in_a_row = saved["in_a_row"] if saved else 0
        if saved and self._skipped != deque(saved["skipped"]):
            self._in_a_row = 0  # some of them are left out by hand now

    def started(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Note a step that the devices were given; returns when the one AHEAD steps before it is done."""
        self._started.append((step, {name: metrics[name] for name in Numbers._fields}))
        while len(self._started) > AHEAD:  # each step that waits for the devices holds its batch there
            self._look(*self._started.popleft())

    def settle(self, stop: int) -> None:
        """Wait for the steps before `stop` and look at them all: before their log line, before a save."""
        while self._started and self._started[0][0] < stop:
            self._look(*self._started.popleft())

    def check(self) -> None:
        """Nothing, unless a step that was looked at was one skipped step too many.

        Raises:
            NumbersError: it names steps and samples; a call of its own, so that the log line of the step is written.
        """
        if self._error is not None:
            raise self._error

    def record(self) -> dict[str, Any]:
        """What a checkpoint has to carry, so that a restart counts on."""
        return {"skipped": list(self._skipped), "in_a_row": self._in_a_row, "spikes": self._spikes.record(),
                "temperature": self._temperature.record()}  # fmt: skip

    def metrics(self) -> dict[str, int]:
        """{"train/loss_spikes"}: of the run so far."""
        return {"train/loss_spikes": self._spikes.count}

    def _look(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Judge a step by its numbers."""
        values = jax.device_get(dict(metrics))  # asked for, so that no transfer is hidden
        numbers = Numbers(**{name: float(value) for name, value in values.items()})
        skipped, self._count = numbers.skipped_steps > self._count, numbers.skipped_steps
        if warning := self._temperature.look(numbers.logit_scale):
            console.warn(f"step {step}: {warning}")
        if step in self._by_hand:
            return
        self._look_for_spikes(step, numbers)
        self._in_a_row = self._in_a_row + 1 if skipped else 0
        if skipped:
            self._count_skipped(step, numbers)

    def _look_for_spikes(self, step: int, numbers: Numbers) -> None:
        """Tell of a spike that begins at a step."""
        if not np.isfinite([numbers.loss, numbers.grad_norm]).all():
            return
        if found := self._spikes.look({"loss": numbers.loss, "grad_norm": numbers.grad_norm}):
            console.warn(f"step {step}: a spike: {found}; its samples are in {FILE}; if the loss does not come back, "
                         f"start from a checkpoint before it with --skip_batches={step}:{step + 1} "
                         "(docs/reliability.md)")
            self._write_down(step, "spike", numbers)

    def _write_down(self, step: int, kind: str, numbers: Numbers) -> None:
        """A line about a batch."""
        self._write([{"step": step, "kind": kind, "loss": str(numbers.loss), "grad_norm": str(numbers.grad_norm),
                      "samples": self._samples(step)}])  # fmt: skip

    def _count_skipped(self, step: int, numbers: Numbers) -> None:
        """One more step that was skipped, and not by hand."""
        while self._skipped and self._skipped[0] <= step - WINDOW:
            self._skipped.popleft()
        self._skipped.append(step)
        self._write_down(step, "skipped", numbers)
        if self._in_a_row >= IN_A_ROW:
            self._error = self._too_many(f"{self._in_a_row} in a row", list(self._skipped)[-self._in_a_row :], numbers)
        elif len(self._skipped) >= IN_WINDOW:
            self._error = self._too_many(f"{len(self._skipped)} within {WINDOW:,} steps", list(self._skipped), numbers)

    def _too_many(self, found: str, steps: list[int], numbers: Numbers) -> errors.NumbersError:
        """The end of a run: which steps, which samples, what to do."""
        shards = self._samples(steps[-1])
        names = [f"{shard}/{key}" for shard, keys in shards.items() for key in keys[:SHOWN]][:SHOWN]
        return errors.NumbersError(errors.explain(
            f"steps {steps[0]} to {steps[-1]}",
            expected=f"fewer than {IN_A_ROW} skipped steps in a row, and than {IN_WINDOW} within {WINDOW:,}",
            found=f"{found} (step {steps[-1]}: loss {numbers.loss:.4g}, gradient norm {numbers.grad_norm:.4g}, samples "
                  f"{', '.join(names)}...; all of them are in {FILE})",
            do=f"leave them out with --skip_batches={steps[0]}:{steps[-1] + 1}, or lower config.optim.lr in a new "
               "--workdir"))


def planned_samples(source: Source, order: Order, step: int) -> dict[str, list[str]]:
    """{shard: keys} of the samples planned for a step's batch, in row order within each shard; bad ones included."""
    found: dict[str, list[str]] = {}
    for index in np.asarray(order.planned_ids(step)):
        shard, key = source.describe(int(index))
        found.setdefault(shard, []).append(key)
    return found
