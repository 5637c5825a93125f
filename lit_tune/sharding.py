"""The device mesh and, by name rules, where every array of the run lives on it."""

import re

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from ml_collections import ConfigDict

from lit_tune import errors, tree

AXES = ("data", "fsdp", "tensor")
BATCH = P(("data", "fsdp"))  # axis 0 of every batch array

# First rule whose pattern ends the array's name wins. Moments and EMA carry their parameter's name at the end of their
# own, so one table serves them all. Kernels are (in, out): projections that widen are cut along `out` over "tensor",
# those that narrow along `in`, so that the pair needs one reduction; "fsdp" takes the other axis.
RULES = (
    (r"(q|k|v|fc1|fc1_g|fc1_x)/kernel", P("fsdp", "tensor")),
    (r"(proj|fc2)/kernel", P("tensor", "fsdp")),
    (r"patch_embed/kernel", P(None, "fsdp")),
    (r"head/kernel", P("fsdp", None)),
    (r"\w+_embeddings?(/embedding)?", P(None, "fsdp")),
    (r"(pos_embed|cls_token|latent)", P()),
    (r"(bias|scale|(logit_scale|logit_bias)(_nested)?|count|step|skipped)", P()),
)


def make_mesh(config: ConfigDict, devices: list[jax.Device] | None = None) -> Mesh:
    """The mesh with axes (data, fsdp, tensor) over all devices.

    Args:
        config: `config.mesh`: devices along each axis, one of them may be -1.
        devices: the devices to use; None takes all of them.

    Raises:
        ConfigError: the axes do not multiply to the number of devices, or fsdp or tensor would cross slices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [config.data, config.fsdp, config.tensor]
    known = int(np.prod([s for s in sizes if s != -1]))
    sizes = [len(devices) // known if s == -1 else s for s in sizes]
    if min(sizes) < 1 or int(np.prod(sizes)) != len(devices):
        raise errors.ConfigError(errors.explain(
            "config.mesh", expected=f"axes that multiply to {len(devices)} devices",
            found=f"data={config.data}, fsdp={config.fsdp}, tensor={config.tensor}",
            do="set one axis to -1 to take what is left"))
    # Auto axes: the compiler places the collectives; make_mesh would otherwise give Explicit ones (jax >= 0.9).
    axis_types = (AxisType.Auto,) * 3
    slices = len({getattr(device, "slice_index", 0) for device in devices})  # only TPUs have slices
    if slices == 1:
        return jax.make_mesh(tuple(sizes), AXES, axis_types=axis_types, devices=devices)
    # Only the data axis crosses the slow network between slices: once a step, with the gradients.
    if sizes[0] % slices:
        raise errors.ConfigError(errors.explain(
            "config.mesh.data", expected=f"a multiple of the {slices} slices", found=sizes[0],
            do="lower fsdp or tensor: they stay inside a slice"))
    inside = (sizes[0] // slices, *sizes[1:])
    return Mesh(mesh_utils.create_hybrid_device_mesh(inside, (slices, 1, 1), devices), AXES, axis_types=axis_types)


def spec_of(name: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """The partition of one array by its name; axes that do not divide evenly stay whole.

    Raises:
        ValueError: an array with two or more axes that no rule names (a new layer needs a line in RULES).
    """
    for pattern, spec in RULES:
        if re.search(rf"(^|/){pattern}$", name):
            return _fit(spec, shape, mesh)
    if len(shape) < 2:
        return P()
    raise ValueError(f"no sharding rule for {name} {shape}: add one to lit_tune.sharding.RULES")


def _fit(spec: P, shape: tuple[int, ...], mesh: Mesh) -> P:
    """`spec` without the axes that `shape` lacks or that do not divide it."""
    entries = [axis if axis is not None and size % mesh.shape[axis] == 0 and mesh.shape[axis] > 1 else None
               for axis, size in zip(spec, shape, strict=False)]
    return P(*entries) if any(entries) else P()


def shardings(abstract: tree.Tree, mesh: Mesh) -> tree.Tree:
    """The NamedSharding of every leaf of a state or parameter tree."""
    return tree.map_with_names(lambda name, leaf: NamedSharding(mesh, spec_of(name, leaf.shape, mesh)), abstract)


def state_shardings(abstract: tree.Tree, mesh: Mesh, *, zero1: bool) -> tree.Tree:
    """The NamedSharding of every leaf of a state; with `zero1` the moments are also cut over the data axis.

    ZeRO stage 1 (arXiv 1910.02054): each device keeps and updates its share of the moments, and the compiler gathers
    the updated parameters.
    """
    placed = shardings(abstract, mesh)
    if zero1:
        placed["opt_state"] = tree.map_with_names(
            lambda name, leaf: NamedSharding(mesh, _cut_further(spec_of(name, leaf.shape, mesh), leaf.shape, mesh)),
            abstract["opt_state"])
    return placed


def _cut_further(spec: P, shape: tuple[int, ...], mesh: Mesh) -> P:
    """`spec` with the data axis on the longest axis of the array that is whole and divides; else as it is."""
    entries = [*spec, *[None] * (len(shape) - len(spec))]
    free = [i for i, size in enumerate(shape) if entries[i] is None and size % mesh.shape["data"] == 0]
    if mesh.shape["data"] == 1 or not free:
        return spec
    entries[max(free, key=lambda i: shape[i])] = "data"
    return P(*entries)


def batch_shards(mesh: Mesh) -> int:
    """How many devices hold different rows of a batch."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over the data and fsdp axes, the rest whole."""
    return NamedSharding(mesh, BATCH)


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, P())
