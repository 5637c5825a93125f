"""The training step compiled for a slice: what the compiled program says of itself, or how much memory it wanted."""

import re
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from lit_tune import config as config_lib, sharding, tree
from lit_tune.models.functional import Tower
from lit_tune.planning import libtpu, roofline
from lit_tune.planning.chips import Slice
from lit_tune.planning.collectives import Layout
from lit_tune.step import Built, build_step, split_frozen

GIB = 2**30
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
AMOUNT = r"([\d.]+)([KMGT]?)i?B?"


class Compiled(NamedTuple):
    """A program compiled for a slice; bytes of one device.

    Attributes:
        fits: into the device's memory.
        peak: arguments, results that are no argument's, temporaries; of one that does not fit what it wanted, None
            where the compiler does not say.
        arguments: parameters, moments and batch.
        temporaries: the rest of the peak.
        code: the program itself, beside the peak.
        text: HLO after optimisation; "" if it does not fit.
        flops: of all devices by XLA's own count, bodies of loops once.
        traffic: bytes to and from memory by the same count.
        layout: the mesh.
        seconds: the compiler took.
        platform: of the devices.
        trained: numbers of the step that are trained.
        text_tower: that runs inside the step.
        attention: the kernel that was chosen for the blocks.
    """

    fits: bool
    peak: int | None
    arguments: int
    temporaries: int | None
    code: int
    text: str
    flops: float
    traffic: float
    layout: Layout
    seconds: float
    platform: str
    trained: int = 0
    text_tower: Tower | None = None
    attention: str = ""


class Compiler:
    """Compiles steps and keeps what came out: the same config on the same slice is never compiled twice."""

    def __init__(self) -> None:
        """Empty."""
        self._kept: dict[tuple[str, Slice], Compiled] = {}

    def step(self, config: ConfigDict, slice_: Slice) -> Compiled:
        """The training step of a checked config on a slice.

        Raises:
            ConfigError: the batch or the mesh does not divide over the slice's devices.
        """
        config_lib.check_devices(config, slice_.devices)
        key = (config_lib.config_hash(config), slice_)
        if key not in self._kept:
            tpu = slice_.chip.maker == "tpu"
            mesh = sharding.make_mesh(config.mesh, (libtpu.devices if tpu else roofline.devices)(slice_))
            built = build_step(config, mesh)
            trained = tree.count(split_frozen(config, built.abstract[0]["params"])[1])
            self._kept[key] = compile_(built.step, built.abstract, mesh, _bytes(built))._replace(
                trained=trained, text_tower=built.text_tower, attention=built.attention)
            peak = self._kept[key].peak
            if not tpu and peak is not None and peak > slice_.chip.hbm_gib * GIB:  # a GPU's compiler does not refuse it
                self._kept[key] = self._kept[key]._replace(fits=False)
        return self._kept[key]


def changed(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """A copy of a config with other values, locked and checked.

    Args:
        config: any.
        changes: {dotted key: value}.

    Raises:
        ConfigError: the values cannot run.
    """
    copy = config.copy_and_resolve_references()
    with copy.unlocked():
        for key, value in changes.items():
            *sections, last = key.split(".")
            section = copy
            for name in sections:
                section = section[name]
            section[last] = value
    copy.lock()
    config_lib.check(copy, files=False)
    return copy


def compile_(function: Any, abstract: tuple[Any, ...], mesh: jax.sharding.Mesh, arguments: int) -> Compiled:
    """A jitted function compiled for the devices of a mesh that need not be there.

    Args:
        function: what `jax.jit` returned.
        abstract: its arguments.
        mesh: that its shardings are of.
        arguments: bytes of them on one device, for a program that does not fit.
    """
    lowered = function.lower(*abstract)
    start = time.monotonic()
    try:
        done = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        peak = wanted(str(error), arguments)
        return Compiled(False, peak, arguments, None if peak is None else peak - arguments, 0, "", 0.0, 0.0,
                        _layout(mesh), time.monotonic() - start, mesh.devices.flat[0].platform)
    return facts(done, mesh, time.monotonic() - start)


def facts(done: jax.stages.Compiled, mesh: jax.sharding.Mesh, seconds: float) -> Compiled:
    """What a program that was compiled for the devices of a mesh says of itself.

    Args:
        done: the program.
        mesh: that its shardings are of.
        seconds: the compiler took.
    """
    memory, costs = done.memory_analysis(), done.cost_analysis()
    made = memory.output_size_in_bytes - memory.alias_size_in_bytes
    temporaries = memory.temp_size_in_bytes + made
    return Compiled(True, memory.argument_size_in_bytes + temporaries, memory.argument_size_in_bytes, temporaries,
                    memory.generated_code_size_in_bytes, done.as_text(), costs["flops"] * mesh.devices.size,
                    costs["bytes accessed"] * mesh.devices.size, _layout(mesh), seconds,
                    mesh.devices.flat[0].platform)


def _layout(mesh: jax.sharding.Mesh) -> Layout:
    """The axes of a mesh, and which slice each of its devices belongs to."""
    return Layout(dict(mesh.shape), tuple(_slice_of(device) for device in mesh.devices.flatten()))


def wanted(message: str, arguments: int) -> int | None:
    """Bytes that a program which does not fit asked for, by the compiler's message; None where it does not say.

    Args:
        message: of the error.
        arguments: bytes of its arguments, which the message may leave out.
    """
    if found := re.search(rf"Total hbm usage >= {AMOUNT}", message):
        return _amount(found)
    if found := re.search(rf"Used {AMOUNT} of {AMOUNT} hbm", message):
        return _amount(found)
    if found := re.search(rf"HLO temporaries \({AMOUNT}\)", message):
        return _amount(found) + arguments
    found = re.search(rf"(?:[Aa]llocat\w*|requir\w*|request\w*)\D*{AMOUNT}", message)
    return _amount(found) if found else None


def _amount(found: re.Match[str]) -> int:
    """Bytes of the first amount of a match."""
    return round(float(found[1]) * UNITS[found[2]])


def _bytes(built: Built) -> int:
    """Of a step's arguments on one device."""
    leaves = jax.tree.leaves(built.abstract)
    placed = jax.tree.leaves(built.shardings, is_leaf=lambda leaf: hasattr(leaf, "shard_shape"))
    return sum(int(np.prod(where.shard_shape(leaf.shape))) * leaf.dtype.itemsize
               for leaf, where in zip(leaves, placed, strict=True))


def _slice_of(device: Any) -> int:
    """The number of the slice that a device belongs to; one slice has none."""
    return getattr(device, "slice_index", 0) or 0
