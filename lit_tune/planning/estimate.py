"""The figures of a plan, from a compiled program: memory, exchanges, time as a low and a high, MFU, hours, dollars."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from lit_tune import flops
from lit_tune.planning import collectives, cycles, hlo, kernels, libtpu, roofline, traffic
from lit_tune.planning.chips import Chip, Slice
from lit_tune.planning.collectives import Collective
from lit_tune.planning.compiling import GIB, Compiled
from lit_tune.planning.kernels import Kernel, Span
from lit_tune.planning.prices import Prices

TRUST = (
    "How far to trust it: a static model (the compiler's own cycle counts, and a model on paper of the rest), never "
    "calibrated on a TPU: a factor of 1.5 either way would not surprise; memory, exchanges and shapes are facts of the "
    "compiled program.")
Figures = dict[str, Any]


# What only a program that fits can tell: the keys are there for any other too, empty.
EMPTY: Figures = {"collectives": []} | dict.fromkeys([
    "flops_model", "flops_xla", "est_cycles", *(f"{name}_{end}" for name in (
        "est_ms", "mfu", "pairs_per_s_per_chip", "run_hours", "chip_hours", "cost_usd") for end in ("low", "high")),
    "images_per_s_per_host"])


def memory(compiled: Compiled, chip: Chip) -> Figures:
    """The keys about one device's memory, GiB."""
    def gib(amount: int | None) -> float | None:
        return None if amount is None else round(amount / GIB, 3)

    return {"fits": compiled.fits, "hbm_limit_gib": chip.hbm_gib, "hbm_peak_gib": gib(compiled.peak),
            "hbm_arguments_gib": gib(compiled.arguments), "hbm_temporaries_gib": gib(compiled.temporaries),
            "hbm_code_gib": gib(compiled.code)}


def about(config: ConfigDict, name: str, slice_: Slice) -> Figures:
    """The keys about what was asked for."""
    rows = slice_.devices // max(1, config.mesh.tensor)
    return {"topology": slice_.topology if slice_.chip.maker == "tpu" else slice_.name, "slices": slice_.slices,
            "chips": slice_.chips, "devices": slice_.devices, "hosts": slice_.hosts, "config": name,
            "global_batch": config.global_batch, "device_batch": config.global_batch // rows,
            "micro_batches": config.micro_batches,
            "remat": config.vision.remat, "text": config.text.source,
            "libtpu": libtpu.version(), "jax": jax.__version__}


def exchanges(found: Sequence[Collective]) -> list[Figures]:
    """The table of collectives: each with the bytes of one run, dtype and shape of its largest array."""
    return [{"kind": one.kind, "axis": one.axis, "bytes": one.bytes, "dtype": one.largest.dtype,
             "shape": list(one.largest.dims), "arrays": len(one.shapes), "times": one.times,
             "group": one.group, "asynchronous": one.asynchronous, "crosses_slices": one.crosses_slices,
             "source": one.source} for one in found]


def products(config: ConfigDict, compiled: Compiled) -> Figures:
    """The keys about FLOPs, of one step on all devices."""
    found = flops.per_pair(config, compiled.text_tower)
    n = config.global_batch
    return {"flops_model": found.model * n, "flops_per_pair": found.model, "flops_text": found.text * n,
            "flops_loss": found.loss * n, "flops_recomputed": found.recomputed * n, "flops_avoided": found.avoided * n,
            "flops_xla": compiled.flops}


def of_program(config: ConfigDict, slice_: Slice, compiled: Compiled) -> Figures:
    """The keys about exchanges and time of a program that was compiled for a TPU slice."""
    program = hlo.read(compiled.text)
    counted, exchanged = cycles.count(program), collectives.find(program, compiled.layout)
    calls = kernels.find(program)
    chip, heads = slice_.chip, config.vision.num_heads // compiled.layout.axes["tensor"]
    kernel = total([_times(kernels.span(call, chip, heads), call) for call in calls if not call.estimated])
    sent = traffic.time(program, exchanged, chip, slice_.slices)
    ms = 1e3 / chip.clock
    return {
        "collectives": exchanges(exchanged),
        "est_cycles": counted.high, "est_cycles_low": counted.low, "est_cycles_by_kind": counted.kinds,
        "conditionals": counted.conditionals, "loops_of_unknown_length": list(counted.unknown_loops),
        "kernels": [_shown(call) for call in calls],
        "kernel_ms_low": 1e3 * kernel.low, "kernel_ms_high": 1e3 * kernel.high,
        **exchange_times(sent, exchanged, slice_),
        "est_ms_low": counted.low * ms + 1e3 * (kernel.low + sent.whole.low),
        "est_ms_high": counted.high * ms + 1e3 * (kernel.high + sent.whole.high),
    }


def of_gpu_program(config: ConfigDict, slice_: Slice, compiled: Compiled) -> Figures:
    """The keys about exchanges and time of a program for GPUs; those that only a TPU's compiler fills are None."""
    program = hlo.read(compiled.text)
    time = roofline.time(program, slice_.chip, compiled.platform)
    exchanged = collectives.find(program, compiled.layout)
    sent = traffic.time(program, exchanged, slice_.chip, slice_.slices)
    return {"collectives": exchanges(exchanged), "est_cycles": None, "kernels": [],
            **exchange_times(sent, exchanged, slice_),
            "est_ms_low": 1e3 * (time.low + sent.whole.low), "est_ms_high": 1e3 * (time.high + sent.whole.high)}


def exchange_times(sent: traffic.Sent, found: Sequence[Collective], slice_: Slice) -> Figures:
    """The keys about what exchanges add to a step, milliseconds, and what a device sends to other slices, bytes."""
    return {"collective_ms_low": 1e3 * sent.whole.low, "collective_ms_high": 1e3 * sent.whole.high,
            "network_ms_low": 1e3 * sent.network.low, "network_ms_high": 1e3 * sent.network.high,
            "network_bytes": round(sum(traffic.network_bytes(one, slice_.slices) for one in found))}


def run(config: ConfigDict, slice_: Slice, figures: Mapping[str, Any], prices: Prices) -> Figures:
    """The keys about the whole run, from the time of a step and its FLOPs; `low` of each is the smaller number."""
    chips, steps, batch = slice_.chips, config.total_steps, config.global_batch
    fast, slow = figures["est_ms_low"] / 1e3, figures["est_ms_high"] / 1e3  # seconds a step
    price = prices.usd.get(slice_.chip.name)

    def both(name: str, low: float | None, high: float | None) -> Figures:
        return {f"{name}_low": low, f"{name}_high": high}

    hours = steps * fast / 3600, steps * slow / 3600
    peak = slice_.chip.peak * slice_.devices
    return {
        **both("mfu", figures["flops_model"] / slow / peak, figures["flops_model"] / fast / peak),
        **both("pairs_per_s_per_chip", batch / slow / chips, batch / fast / chips),
        **both("run_hours", *hours), **both("chip_hours", hours[0] * chips, hours[1] * chips),
        **both("cost_usd", *(None if price is None else hour * chips * price for hour in hours)),
        "total_steps": steps, "price_usd_per_chip_hour": price, "price_date": prices.date,
        "images_per_s_per_host": batch / fast / slice_.hosts,
    }


def total(spans: Sequence[Span]) -> Span:
    """The sum."""
    return Span(sum(span.low for span in spans), sum(span.high for span in spans))


def _times(one: Span, kernel: Kernel) -> Span:
    """Of all runs of a kernel."""
    return Span(one.low * kernel.times, one.high * kernel.times)


def _shown(kernel: Kernel) -> Figures:
    """A kernel's line."""
    return {"name": kernel.name, "times": kernel.times, "bytes": kernel.bytes, "attention": kernel.products > 0,
            "operands": [f"{shape.dtype}{list(shape.dims)}" for shape in kernel.operands]}
