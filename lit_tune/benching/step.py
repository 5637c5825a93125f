"""`lit-tune bench step`: the step that train runs beside PyTorch's, eager and compiled; and beside its plan."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from lit_tune.benching import machine, ours, peer, settings, timing
from lit_tune.benching.timing import Figures
from lit_tune.errors import ConfigError, NumbersError, explain

# Largest relative difference of the first step's loss and gradient norm. Products in bfloat16 round at other places.
TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2}


def measure(config: ConfigDict, devices: Sequence[jax.Device], repeats: int, *, torch: bool, plan: bool) -> Figures:
    """Every key of `bench step --json` but the machine.

    Args:
        config: what `settings.measured` returned.
        devices: that our step runs on.
        repeats: turns.
        torch: measure PyTorch too, where it can be.
        plan: print the plan where the chip is not known, too.

    Raises:
        ConfigError: it does not fit into the device.
        NumbersError: PyTorch's first loss or gradient is another one.
    """
    mine = ours.TrainingStep(config, devices)
    params = mine.params() if torch else {}
    runs: dict[str, Callable[[], Any]] = {"ours": mine}
    first = {"ours": first_step(mine)}
    # before PyTorch takes memory of the same device
    peak, chip = ours.peak_gib(devices), machine.chip(devices[0].device_kind)
    why, failed = (_why_not(config, devices) if torch else "--notorch"), {}
    if not why:
        theirs, failed = _peers(config, params, mine.batch, devices[0].platform)
        runs |= {name: run for name, (run, _) in theirs.items()}
        first |= {name: numbers for name, (_, numbers) in theirs.items()}
        agree(first, TOLERANCE[config.dtype])
    for run in runs.values():
        run()  # warm
    times = timing.compared(timing.times(runs, repeats), "ours")
    for row in times.values():
        row["pairs_per_s"] = config.global_batch / row["seconds"]
        row["mfu"] = ours.mfu(config, row["seconds"], devices, forward=False)
    found = settings.about(config) | {
        "devices": len(devices), "repeats": repeats, "no_torch": why, "failed": failed,
        "versions": {} if why else peer.versions(), "compile_s": mine.compiled.seconds,
        "first": {name: {"loss": loss, "grad_norm": norm} for name, (loss, norm) in first.items()}, "runs": times,
        "plan": None, "peak_gib": peak}  # fmt: skip
    if chip is not None or plan:
        found["plan"] = ours.planned(config, mine.compiled, chip, len(devices))
    return found


def first_step(run: Callable[[], tuple[Any, Any]]) -> tuple[float, float]:
    """(loss, norm of the gradient) of a step, as numbers."""
    loss, norm = run()
    return float(loss), float(norm)


def agree(first: Mapping[str, tuple[float, float]], tolerance: float) -> None:
    """Nothing, if all first steps have our loss and our norm of the gradient.

    Args:
        first: {name: (loss, norm)}, ours among them.
        tolerance: largest relative difference.

    Raises:
        NumbersError: they have not.
    """
    for name, numbers in first.items():
        for what, found, expected in zip(("loss", "gradient norm"), numbers, first["ours"], strict=True):
            if not abs(found - expected) <= tolerance * abs(expected):  # nan too
                raise NumbersError(explain(f"bench step: first {what} of {name}", found=f"{found:.6g}",
                                           expected=f"ours, {expected:.6g}, to {tolerance:g}",
                                           do="report this machine and the versions"))  # fmt: skip


def _why_not(config: ConfigDict, devices: Sequence[jax.Device]) -> str:
    """Why PyTorch is not measured, "" if it is."""
    return peer.differs(config) or peer.absent(devices[0].platform, len(devices))


def _peers(config: ConfigDict, params: Any, batch: dict[str, Any],
           platform: str) -> tuple[dict[str, tuple[Callable[[], Any], tuple[float, float]]], dict[str, str]]:
    """({name: (step, its first numbers)} of PyTorch, {name: why it could not run})."""
    found, failed = {}, {}
    for name, compile in peer.WAYS.items():
        try:
            run = peer.TrainingStep(config, params, batch, platform, compile=compile)
            found[name] = run, first_step(run)
        except (ConfigError, *peer.failures()) as error:  # timm lacks the tower, or there is no C++ compiler here
            failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return found, failed


def show(found: Figures) -> list[str]:
    """The lines for people."""
    place = machine.in_words(found["machine"])
    versions = "".join(f", {name} {version}" for name, version in found["versions"].items())
    lines = [f"training step: {settings.in_words(found)}, {found['loss']}, AdamW, remat {found['remat']}",
             f"on {found['devices']} of: {place}; jax {found['machine']['jax']}{versions}; median of "
             f"{found['repeats']}"]  # fmt: skip
    rows = [("", "ms", "of ours", "pairs/s", "CPU s", "MFU", "first loss", "gradient norm")]
    for name, row in found["runs"].items():
        mfu = "-" if row["mfu"] is None else f"{100 * row['mfu']:.1f} %"
        loss, norm = (found["first"][name][key] for key in ("loss", "grad_norm"))
        rows.append((name, f"{1e3 * row['seconds']:,.1f}", f"{row['over_ours']:.2f}", f"{row['pairs_per_s']:,.1f}",
                     f"{row['cpu_seconds']:.2f}", mfu, f"{loss:.6f}", f"{norm:.5f}"))
    lines += timing.columns(rows)
    lines += [f"{name} not measured: {why}" for name, why in missing(found).items()]
    lines += [] if found["no_torch"] else machine.busy(found["machine"])
    return lines + (_planned(found) if found["plan"] else [])


def missing(found: Figures) -> dict[str, str]:
    """{what was not measured: why}."""
    return ({"PyTorch": found["no_torch"]} if found["no_torch"] else {}) | found["failed"]


def _planned(found: Figures) -> list[str]:
    """The plan's lines, each beside what was measured."""
    plan, seconds = found["plan"], found["runs"]["ours"]["seconds"]
    held = "not known on this device"
    if found["peak_gib"] is not None:
        held = f"{found['peak_gib']:.2f}, {100 * (found['peak_gib'] / plan['peak_gib'] - 1):+.1f} %"
    lines = [f"planned peak memory {plan['peak_gib']:.3f} GiB a device; measured: {held}"]
    if plan["ms_low"] is None:
        return [*lines, "planned time: none, the rates of this device are not known"]
    low, high, ms = plan["ms_low"], plan["ms_high"], 1e3 * seconds
    return [*lines, f"planned time {low:,.0f} to {high:,.0f} ms; measured {ms:,.0f}, {ms / low:.2f} of the lower and "
                    f"{ms / high:.2f} of the upper"]  # fmt: skip
