"""A plan as a page of text for people."""

import math
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lit_tune.planning.estimate import TRUST

Figures = Mapping[str, Any]
WIDTH = 116
MANY = 12  # collectives shown; the rest in one line


def show(found: Figures) -> list[str]:
    """The lines of a plan."""
    lines = [*_head(found), "", *_memory(found)]
    if found["est_ms_low"] is not None:
        lines += ["", *_exchanges(found), "", *_products(found), "", *_time(found), "", *_run(found)]
    return lines


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Rows as lines of aligned columns, the first row above a rule; columns numbered in `right` stand to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) if i in right else cell.ljust(width)
                       for i, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip() for row in rows]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def wrapped(text: str) -> list[str]:
    """A sentence as indented lines."""
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ")


def amount(value: float) -> str:
    """Bytes as people say them: 100.7 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.4g} {unit}"
        value /= 1000
    return f"{value:.4g} TB"


def spread(low: float | None, high: float | None, form: str = ",.0f") -> str:
    """`low - high` in one format, one number where they look alike, "-" where there is none."""
    if low is None or high is None:
        return "-"
    first, last = format(low, form), format(high, form)
    return first if first == last else f"{first} - {last}"


def _device(found: Figures) -> str:
    """What has the memory and runs the program: mostly a chip."""
    return "chip" if found["devices"] == found["chips"] else "device"


def _head(found: Figures) -> list[str]:
    """What was planned."""
    micro = f" in {found['micro_batches']} parts (gradient cache)" if found["micro_batches"] > 1 else ""
    slices = f", {found['slices']} slices" if found["slices"] > 1 else ""
    device = _device(found)
    of = f" of {found['devices'] // found['chips']} devices" if device != "chip" else ""
    compiler = f"libtpu {found['libtpu']}, " if not found["roofline"] else ""
    took = f"; compiled in {found['compile_s']:.0f} s" if found["compile_s"] is not None else ""
    return [f"{found['config']} on {found['topology']}: {found['chips']} chips{of}, {found['hosts']} host(s){slices}",
            f"batch {found['global_batch']:,}, {found['device_batch']:,} a {device}{micro}; text {found['text']}, "
            f"remat {found['remat']}, attention {found['attention']} ({compiler}jax {found['jax']}{took})"]


def _memory(found: Figures) -> list[str]:
    """Whether it fits, and what would."""
    limit, peak, device = found["hbm_limit_gib"], found["hbm_peak_gib"], _device(found)
    if found["fits"]:
        code = f", the program itself {found['hbm_code_gib']:.2f} besides" if found["hbm_code_gib"] else ""
        most = "at most " if found["memory_is_bound"] else ""
        lines = [f"FITS           {most}{peak:.2f} of {limit:g} GiB a {device}: arguments "
                 f"{found['hbm_arguments_gib']:.2f}, temporaries {found['hbm_temporaries_gib']:.2f}{code}"]
        return lines + _notes(found)
    wanted = "more than there is" if peak is None else f"{peak:.2f} GiB"
    verdict = ("MAY NOT FIT   ", " at most") if found["memory_is_bound"] else ("DOES NOT FIT  ", "")
    lines = [f"{verdict[0]} it wants {wanted}{verdict[1]}, a {device} has {limit:g} GiB"]
    for one in found["would_fit"]:
        lines.append(f"  would fit    {one['change']}   ({one['hbm_peak_gib']:.2f} GiB)")
    if not found["would_fit"]:
        lines.append("  no single change that was tried makes it fit; change two, or take a larger slice")
    return lines + _notes(found)


def _notes(found: Figures) -> list[str]:
    """What a reader has to know of the memory, under its line."""
    margin = " " * 15
    return [line for note in found["notes"] for line in textwrap.wrap(
        note, WIDTH, initial_indent=margin, subsequent_indent=margin)]


def _exchanges(found: Figures) -> list[str]:
    """The table of collectives."""
    shown = found["collectives"]
    if not shown:
        return ["no exchange between chips"]
    times: Counter[tuple[str, ...]] = Counter()  # a layer's like another's: one line
    for one in shown:
        kind = one["kind"] + (" (async)" if one["asynchronous"] else "")
        axis = one["axis"] + ((", between slices" if one["crosses_slices"] else ", in a slice")
                              if found["slices"] > 1 else "")
        shape = "x".join(map(str, one["shape"])) or "scalar"
        times[kind, axis, amount(one["bytes"]), f"{one['dtype']} {shape}", str(one["arrays"])] += one["times"]
    rows = [("exchange", "axis", "bytes", "largest array", "arrays", "times"),
            *((*row, str(n)) for row, n in list(times.items())[:MANY])]
    lines, rest = table(rows, right=(2, 4, 5)), list(times.values())[MANY:]
    return lines + ([f"and {sum(rest)} smaller ones"] if rest else [])


def _products(found: Figures) -> list[str]:
    """FLOPs by the formula and by XLA."""
    step, again, xla = (found[f"flops_{name}"] / 1e12 for name in ("model", "recomputed", "xla"))
    pair = found["flops_per_pair"] / 1e9
    return [f"FLOPs a step   {step:,.1f} T by formula ({pair:.1f} G a pair); recomputed besides: {again:,.1f} T",
            f"               {xla:,.1f} T by XLA's count of the program, which takes the body of a loop once"]


def _time(found: Figures) -> list[str]:
    """The step, by parts."""
    step = f"step           {spread(found['est_ms_low'], found['est_ms_high'], ',.1f')} ms"
    if found["roofline"]:
        best = "the FLOPs alone" if found["memory_is_bound"] else "together"
        return [step, *wrapped(f"a roofline: FLOPs at peak and bytes at full bandwidth, at best {best}, at worst one "
                               "after the other; no kernel is that good")]
    kinds = ", ".join(f"{name} {value / found['est_cycles']:.0%}" for name, value in sorted(
        found["est_cycles_by_kind"].items(), key=lambda item: -item[1]))
    lines = [step, f"  compiler     {found['est_cycles'] / 1e6:,.1f} M cycles: {kinds}"]
    if found["kernels"]:
        calls = sum(kernel["times"] for kernel in found["kernels"])
        lines.append(f"  kernels      {spread(found['kernel_ms_low'], found['kernel_ms_high'], '.1f')} ms for {calls} "
                     "Pallas calls, by the model in docs/plan.md")
    network = spread(found["network_ms_low"], found["network_ms_high"], ".1f")
    lines.append(f"  exchanges    {spread(found['collective_ms_low'], found['collective_ms_high'], '.1f')} ms, by the "
                 "same page" + (f"; {network} of it between slices, {amount(found['network_bytes'])} a {_device(found)}"
                                if found["slices"] > 1 else ""))
    if found["est_cycles_plain"]:
        ratio = found["est_cycles_plain"] / found["est_cycles"]
        lines.append(f"  plain step   {found['est_cycles_plain'] / 1e6:,.1f} M cycles (einsum attention, full remat): "
                     f"{ratio:.2f} times this one's")
    if found["conditionals"]:
        lines.append(f"  branches     {found['conditionals']}: low counts the cheapest of each, high the dearest")
    if found["loops_of_unknown_length"]:
        lines.append(f"  loops        of unknown length count once: {', '.join(found['loops_of_unknown_length'])}")
    return [*lines, *wrapped(TRUST)]


def _run(found: Figures) -> list[str]:
    """The whole run."""
    price = found["price_usd_per_chip_hour"]
    cost = "no price for this chip in the table" if price is None else (
        f"{spread(found['cost_usd_low'], found['cost_usd_high'])} USD at {price:g} a chip and hour "
        f"(on demand, table of {found['price_date']})")
    pairs = found["global_batch"] * found["total_steps"]
    need, hours = found["images_per_s_per_host"], found["run_hours_high"]
    return [f"MFU            {spread(found['mfu_low'], found['mfu_high'], '.1%')}",
            f"pairs/s        {spread(found['pairs_per_s_per_chip_low'], found['pairs_per_s_per_chip_high'])} a chip",
            f"whole run      {spread(found['run_hours_low'], hours, _fit(hours))} h, "
            f"{spread(found['chip_hours_low'], found['chip_hours_high'])} chip-hours for {pairs / 1e9:.3f} G pairs in "
            f"{found['total_steps']:,} steps",
            f"cost           {cost}",
            f"pictures       {math.ceil(need):,} a second to decode on each host"]


def _fit(hours: float) -> str:
    """A format with two digits at least."""
    return ",.0f" if hours >= 100 else ",.1f" if hours >= 1 else ".2g"
