"""Remat policies, parts of the batch and slices, tried by compiling: a table, and the points of a picture."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from lit_tune.planning import page
from lit_tune.planning.chips import Slice
from lit_tune.planning.compiling import GIB, Compiled, changed
from lit_tune.planning.fitting import HOPE

POLICIES = ("none", "save", "full")
Figures = dict[str, Any]


def find(plan: Callable[[ConfigDict, Slice], tuple[Figures, Compiled]], config: ConfigDict,
         slices: Sequence[Slice]) -> list[Figures]:
    """The plan of each policy on each slice, the batch cut in as few parts as fit, and of what did not fit on the way.

    Args:
        plan: (the keys of a plan without would_fit, what was compiled) of a config on a slice.
        config: a checked config.
        slices: to try.
    """
    return [found for slice_ in slices for policy in POLICIES for found in _until_it_fits(plan, config, slice_, policy)]


def _until_it_fits(plan: Callable[[ConfigDict, Slice], tuple[Figures, Compiled]], config: ConfigDict, slice_: Slice,
                   policy: str) -> Iterator[Figures]:
    """The plans of one policy on one slice, parts doubled until the step fits or cannot be cut further."""
    parts, rows = config.micro_batches, config.global_batch // slice_.devices
    while parts <= rows and rows % parts == 0:
        found, compiled = plan(changed(config, {"vision.remat": policy, "micro_batches": parts}), slice_)
        yield found
        if compiled.fits:
            return
        parts *= 2
        # parts that leave too much on paper are passed over
        limit = slice_.chip.hbm_gib * GIB
        while compiled.temporaries and parts < rows and rows % (2 * parts) == 0 and (
                compiled.arguments + compiled.temporaries * found["micro_batches"] / parts > HOPE * limit):
            parts *= 2


def amount(slices: Sequence[Slice]) -> str:
    """How much there is to compile, for people who wait for it."""
    least = len(POLICIES) * len(slices)
    return (f"{least} programs to compile at least ({len(slices)} x remat {', '.join(POLICIES)}), more where the batch "
            "has to be cut; one of the paper's tower takes 1 to 3 minutes on two idle cores")


def line(found: Figures) -> str:
    """One plan of a sweep, when it is there."""
    peak = "?" if found["hbm_peak_gib"] is None else f"{found['hbm_peak_gib']:.2f}"
    return (f"{found['topology']}, remat {found['remat']}, {found['micro_batches']} part(s): {peak} of "
            f"{found['hbm_limit_gib']:g} GiB{'' if found['fits'] else ', does not fit'}; {found['compile_s']:.0f} s")


def show(rows: Sequence[Figures]) -> list[str]:
    """The table."""
    lines = [("slice", "remat", "parts", "GiB a device", "of", "ms a step", "MFU", "pairs/s a chip", "chip-hours",
              "USD")]  # fmt: skip
    for one in rows:
        peak = "-" if one["hbm_peak_gib"] is None else f"{one['hbm_peak_gib']:.2f}"
        slices = f" x{one['slices']}" if one["slices"] > 1 else ""
        line = [one["topology"] + slices, one["remat"], str(one["micro_batches"]), peak, f"{one['hbm_limit_gib']:g}"]
        if not one["fits"]:
            lines.append((*line, "does not fit", "", "", "", ""))
            continue
        rest = [(name, form) for name, form in (("est_ms", ",.1f"), ("mfu", ".0%"), ("pairs_per_s_per_chip", ",.0f"),
                                                ("chip_hours", ",.0f"), ("cost_usd", ",.0f"))]
        lines.append((*line, *(page.spread(one[f"{name}_low"], one[f"{name}_high"], form) for name, form in rest)))
    return page.table(lines, right=range(2, 10))
