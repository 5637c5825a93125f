"""What the run says about itself: metrics.jsonl, TensorBoard, one progress line, rates. No jax."""

import io
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_tune import files
from lit_tune.tensorboard import EventFile

# Dense bfloat16 FLOP/s of one jax device, by the start of its device_kind (longest start wins). Sources: Google Cloud
# TPU system architecture pages (per chip; v2 and v3 show two devices a chip) and NVIDIA's data sheets, without
# sparsity. Kinds that are not here have no mfu in the logs.
PEAK_FLOPS = {
    "TPU v2": 23e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 1153.5e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "NVIDIA L4": 121e12,
    "Tesla V100": 125e12,
    "Tesla T4": 65e12,
}


class MetricWriter:
    """Writes metrics on process 0 and does nothing elsewhere.

    with MetricWriter(workdir, total_steps=n, process_index=jax.process_index()) as writer:
        writer.write(step, "train", {"train/loss": 3.2, ...})       # metrics.jsonl and TensorBoard
        writer.progress(step, logs)                                 # one line for people
    """

    def __init__(
        self, workdir: Path | str, *, total_steps: int, process_index: int = 0, out: io.TextIOBase | None = None
    ) -> None:
        """To be opened after `RunDir.resume_at`, so that no later step is in the file.

        Args:
            workdir: the run directory.
            total_steps: where the run ends, for the time left.
            process_index: of this process; only 0 writes.
            out: where the progress goes; standard output by default.
        """
        self._file = files.as_path(workdir) / "metrics.jsonl"
        self._total_steps = total_steps
        self._active = process_index == 0
        self._out = sys.stdout if out is None else out
        lines = files.read_lines(self._file) if self._active else []
        self._written = {(one.get("step"), one.get("kind")) for one in lines}
        self._begun = self._active and self._file.exists()
        self._unwritten: list[str] = []  # lines that could not be written, for the next try
        self._tensorboard = EventFile(files.as_path(workdir) / "tb")
        self._tolerated = files.Tolerated(self._file.parent)
        self._bar_width = 0  # characters of the bar on the terminal's last line
        self._first: tuple[int, float] | None = None  # step and monotonic time of the first progress

    def write(self, step: int, kind: str, values: Mapping[str, Any]) -> bool:
        """Append one line `{"step", "kind", "time", ...values}`; False if (step, kind) is there already.

        A file that cannot be written or has gone is told of once; training goes on. Lines that could not be written
        come with the next one that can.

        Args:
            step: steps trained so far.
            kind: "train" or "val".
            values: names as in the documentation of the run directory; numbers (also 0-d arrays) or strings.
        """
        if not self._active or (step, kind) in self._written:
            return False
        self._written.add((step, kind))
        plain = {name: _plain(value) for name, value in values.items()}
        line = json.dumps({"step": step, "kind": kind, "time": round(time.time(), 3), **plain})
        self._unwritten.append(line)
        self._tolerated.attempt(self._file.name, self._append)
        numbers = {name: value for name, value in plain.items() if isinstance(value, int | float)}
        self._tolerated.attempt("tb", lambda: self._tensorboard.write(step, numbers))
        return True

    def progress(self, step: int, values: Mapping[str, Any]) -> None:
        """Print one line: step/total, loss, temperature, pairs/s, data wait, time left. On a terminal a bar that
        stays on its line.

        Args:
            step: steps trained so far.
            values: the same names as for `write`; what is missing is left out.
        """
        if not self._active:
            return
        now = time.monotonic()
        first_step, first_time = self._first = self._first or (step, now)
        seconds_left = (self._total_steps - step) * (now - first_time) / max(step - first_step, 1)
        line = progress_line(step, self._total_steps, values, seconds_left)
        if self._out.isatty():
            done = int(20 * step / max(self._total_steps, 1))
            line = f"[{'#' * done}{'.' * (20 - done)}] {line}"
            self._out.write("\r" + line.ljust(self._bar_width))
            self._bar_width = len(line)
        else:
            self._out.write(line + "\n")
        self._out.flush()

    def close(self) -> None:
        """Close TensorBoard's file and end the bar's line."""
        if self._unwritten:
            self._tolerated.attempt(self._file.name, self._append)
        self._tolerated.attempt("tb", self._tensorboard.close)
        if self._bar_width:
            self._out.write("\n")
            self._bar_width = 0

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _append(self) -> None:
        """Write the lines that are waiting."""
        if self._begun and not self._file.exists():
            self._tolerated.tell(self._file.name, "gone", "has gone and is made anew")
        files.append_lines(self._file, self._unwritten)
        self._begun, self._unwritten = True, []


def progress_line(step: int, total_steps: int, values: Mapping[str, Any], seconds_left: float) -> str:
    """One line for people.

    Args:
        step: steps trained so far.
        total_steps: where the run ends.
        values: names as for `MetricWriter.write`; what is missing is left out.
        seconds_left: estimate; shown as h:mm:ss once it is above 0.
    """
    parts = [f"step {step}/{total_steps}"]
    shown = (
        ("train/loss", "loss {:.4f}"),
        ("train/logit_scale", "temperature {:.2f}"),
        ("perf/pairs_per_s", "{:,.0f} pairs/s"),
        ("data/wait_frac", "data wait {:.0%}"),
        ("perf/mfu", "mfu {:.1%}"),
        ("train/skipped_steps", "skipped {:.0f}"),
    )
    parts += [text.format(float(values[name])) for name, text in shown if name in values]
    if seconds_left > 0:
        hours, rest = divmod(int(seconds_left), 3600)
        parts.append(f"{hours}:{rest // 60:02d}:{rest % 60:02d} left")
    return "  ".join(parts)


def _plain(value: Any) -> Any:
    """A number or string that JSON holds; non-finite numbers as strings, since JSON has none."""
    if isinstance(value, str | bool | int):
        return value
    number = value.item() if hasattr(value, "item") else value
    if isinstance(number, float) and (number != number or number in (float("inf"), float("-inf"))):
        return str(number)
    return number


class Throughput:
    """Rates between two askings, by the monotonic clock.

    clock = Throughput(global_batch, jax.device_count(), flops_per_pair, peak_flops(jax.devices()[0].device_kind))
    logs |= clock.rates(step, data_wait)     # at log cadence, after the step's numbers have arrived
    """

    def __init__(
        self, global_batch: int, num_devices: int, flops_per_pair: float = 0.0, peak: float | None = None
    ) -> None:
        """The clock starts at the first `rates`, which therefore returns nothing: it would count the compile.

        Args:
            global_batch: pairs a step.
            num_devices: over all hosts.
            flops_per_pair: of the model, forward and backward, without recomputation.
            peak: `peak_flops` of one device.
        """
        self._global_batch = global_batch
        self._num_devices = num_devices
        self._flops_per_pair = flops_per_pair
        self._peak = peak
        self._last: tuple[int, float] | None = None

    def rates(self, step: int, data_wait: float, other: float = 0.0) -> dict[str, float]:
        """Rates since the last call.

        Args:
            step: steps trained so far.
            data_wait: seconds spent waiting for data since the last call.
            other: seconds since the last call that are not to be counted, such as those of an evaluation.

        Returns:
            perf/pairs_per_s, perf/pairs_per_s_per_chip, data/wait_frac in [0, 1], and perf/mfu where the peak and the
            FLOPs are known; {} at the first call.
        """
        now = time.monotonic()
        last, self._last = self._last, (step, now)
        if last is None or step <= last[0]:
            return {}
        seconds = max(now - last[1] - other, 1e-9)
        pairs = (step - last[0]) * self._global_batch / seconds
        rates = {
            "perf/pairs_per_s": pairs,
            "perf/pairs_per_s_per_chip": pairs / self._num_devices,
            "data/wait_frac": min(max(data_wait / seconds, 0.0), 1.0),
        }
        if self._peak and self._flops_per_pair:
            rates["perf/mfu"] = pairs * self._flops_per_pair / (self._num_devices * self._peak)
        return rates


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 FLOP/s of one device of this kind; None where it is not known (CPU included)."""
    known = [start for start in PEAK_FLOPS if device_kind.startswith(start)]
    return PEAK_FLOPS[max(known, key=len)] if known else None
