"""Processor cores that a host needs beside its chips: the pictures a second of a plan, times what one costs here."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lit_tune.benching.timing import Figures
from lit_tune.errors import ConfigError, explain

SHIPPED = Path(__file__).parent / "planned.json"  # plans of one host each, with the commands that made them
WAYS = ("pillow", "host", "device")  # of cores.WAYS, those that make training crops


class Rate(NamedTuple):
    """What a host has to decode.

    Attributes:
        host: the slice, and which part of it a host is.
        pictures_per_s: that the chips of one host want, by the fast end of the plan.
        mfu: (low, high) of the plan.
        config: the planned one, with its changes.
        compiler: version of libtpu, "" for GPUs.
    """

    host: str
    pictures_per_s: float
    mfu: tuple[float, float]
    config: str
    compiler: str


def planned(files: Sequence[str] = ()) -> list[Rate]:
    """The rates of plans.

    Args:
        files: what `lit-tune plan --json` printed, one plan each; none for the shipped plans.

    Raises:
        ConfigError: a file that is not there, is no plan, or is one of a step that does not fit.
    """
    if not files:
        return [_rate(plan, str(SHIPPED)) for plan in json.loads(SHIPPED.read_text())["plans"]]
    return [_rate(_read(Path(file).expanduser()), file) for file in files]


def _read(path: Path) -> Any:
    """The JSON in a file."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise _no_plan(str(path), said) from error


def _rate(plan: Any, file: str) -> Rate:
    """The rate of a plan."""
    try:
        name = plan["topology"] + (f" x {plan['slices']} slices" if plan["slices"] > 1 else "")
        if plan["images_per_s_per_host"] is None:
            raise ConfigError(explain(f"--plans {file}", expected="a plan of a step that fits",
                                      found=f"one that does not fit {name}", do="plan what `would_fit` in it names"))
        return Rate(name + (f", one of {plan['hosts']} hosts" if plan["hosts"] > 1 else ""),
                    float(plan["images_per_s_per_host"]), (float(plan["mfu_low"]), float(plan["mfu_high"])),
                    str(plan["config"]), str(plan["libtpu"] or ""))
    except (KeyError, TypeError, ValueError) as error:
        raise _no_plan(file, f"{type(error).__name__}: {error}") from error


def _no_plan(file: str, found: str) -> ConfigError:
    """The error for a file that no plan can be read from."""
    return ConfigError(explain(f"--plans {file}", expected="what `lit-tune plan --json` printed", found=found,
                               do="make it by lit-tune plan --config=NAME --topology=v5e:2x4 --json > FILE"))


def needed(us: Mapping[str, Mapping[str, float]], rates: Sequence[Rate]) -> dict[str, Figures]:
    """{host: pictures_per_s, mfu, config, compiler of its plan, cores: {kind of pictures: {way: cores}}}.

    Args:
        us: CPU microseconds a picture by kind and way.
        rates: of the hosts.
    """
    return {rate.host: {"pictures_per_s": rate.pictures_per_s, "mfu": list(rate.mfu), "config": rate.config,
                        "compiler": rate.compiler, "cores": {
                            kind: {way: rate.pictures_per_s * 1e-6 * ways[way] for way in WAYS}
                            for kind, ways in us.items()}} for rate in rates}  # fmt: skip


def told(hosts: Mapping[str, Figures]) -> list[str]:
    """Lines about `needed`."""
    lines = ["cores a host needs at the rate of its `lit-tune plan`, at the fast end (Pillow / ours / ours with "
             "resize_on=device):"]  # fmt: skip
    for host, found in hosts.items():
        each = "; ".join(f"{kind} " + " / ".join(f"{ways[way]:.1f}" for way in WAYS)
                         for kind, ways in found["cores"].items())  # fmt: skip
        by = f", libtpu {found['compiler']}" if found["compiler"] else ""
        lines.append(f"  {host}: {found['pictures_per_s']:,.0f} pictures/s: {each} ({found['config']}, MFU "
                     f"{100 * found['mfu'][0]:.1f} - {100 * found['mfu'][1]:.1f} %{by})")  # fmt: skip
    return lines
