"""What is measured on: the cores, the devices, and how many of both a measurement may use."""

import os
import platform
from typing import Any

import jax
import numpy as np

from lit_tune.errors import ConfigError, explain
from lit_tune.planning.chips import CHIPS, Chip

HOST_DEVICES = "xla_force_host_platform_device_count"
# How jax names the chips (device_kind), longest first, beside our names of them.
KINDS = (("TPU v5 lite", "v5e"), ("TPU v6 lite", "v6e"), ("TPU v5e", "v5e"), ("TPU v5p", "v5p"), ("TPU v6e", "v6e"),
         ("TPU v4", "v4"), ("TPU v5", "v5p"), ("TPU7x", "tpu7x"), ("NVIDIA A100", "a100"), ("NVIDIA H100", "h100"),
         ("NVIDIA H200", "h200"), ("NVIDIA B200", "b200"))  # fmt: skip


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_to(threads: int | None) -> None:
    """Let this process use so many cores, jax and torch alike; called before either has started its threads.

    Raises:
        ConfigError: there are not so many, or the system cannot be told.
    """
    if threads is None:
        return
    if not hasattr(os, "sched_setaffinity"):
        raise ConfigError(explain("--threads", expected="a system that can keep a process to some cores (Linux)",
                                  found=platform.system(), do="leave it out"))
    if threads > cores():
        raise ConfigError(explain("--threads", expected=f"at most {cores()}, the cores of this process", found=threads,
                                  do="lower it"))
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def simulate(count: int) -> None:
    """Ask jax for so many CPU devices, unless the caller's XLA_FLAGS already say a number; before its first use."""
    flags = os.environ.get("XLA_FLAGS", "")
    if HOST_DEVICES not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --{HOST_DEVICES}={count}".strip()


def devices(count: int | None) -> list[jax.Device]:
    """The first `count` devices of this machine; all of them for None.

    Raises:
        ConfigError: there are fewer.
    """
    found = jax.local_devices()
    if count is not None and count > len(found):
        raise ConfigError(explain("--devices", expected=f"at most {len(found)}", found=count, do="lower it"))
    return found[:count]


def chip(kind: str) -> Chip | None:
    """The chip that jax calls `kind`, with its peak and memory; None for a CPU and for one that is not known."""
    names = [name for start, name in KINDS if kind.startswith(start)]
    return CHIPS[names[0]] if names else None


def about() -> dict[str, Any]:
    """Processor, cores that may be used, versions and jax's devices."""
    found = jax.local_devices()
    return {"processor": platform.machine(), "cores": cores(), "numpy": np.__version__, "jax": jax.__version__,
            "devices": f"{len(found)} x {found[0].device_kind}"}  # fmt: skip


def load() -> float:
    """Processes that wanted a core, mean of the last minute."""
    return round(os.getloadavg()[0], 1)


def busy(place: dict[str, Any]) -> list[str]:
    """A line, where others were using the machine before the measurement; else none.

    PyTorch's OpenMP threads wait for each other after every operation, and a thread that lost its core delays them all:
    on a busy machine its times with several threads say nothing.
    """
    if place["load"] <= max(1.0, place["cores"] / 2):
        return []
    return [f"the machine was busy (load {place['load']}): PyTorch suffers more from that than we do; wait, or compare "
            "with --threads=1"]  # fmt: skip


def in_words(place: dict[str, Any]) -> str:
    """`about`, in a few words."""
    return f"{place['cores']} cores ({place['processor']}), {place['devices']}"
