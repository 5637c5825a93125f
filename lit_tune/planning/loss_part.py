"""The loss alone compiled for a slice, and the same loss as open_clip computes it, by the same compiler: as ratios."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from lit_tune import errors, losses, sharding
from lit_tune.losses import plain
from lit_tune.planning import collectives, cycles, estimate, hlo, libtpu, page, traffic
from lit_tune.planning.chips import Slice
from lit_tune.planning.compiling import Compiled, compile_

Figures = dict[str, Any]


def plan(config: ConfigDict, n: int, slice_: Slice, *, compare: bool) -> Figures:
    """The figures of the config's loss over n pairs: value and gradients of image rows and scalars, text frozen.

    Args:
        config: which loss, and its dtype of the text rows.
        n: pairs, over all devices.
        slice_: TPUs.
        compare: compile open_clip's form of the softmax too.

    Raises:
        ConfigError: n does not divide over the devices.
    """
    mesh = sharding.make_mesh(config.mesh, libtpu.devices(slice_))
    across = mesh.shape["data"] * mesh.shape["fsdp"]
    if n % across:
        raise errors.ConfigError(errors.explain(
            "--n", expected=f"a multiple of {across} (devices that share the batch)", found=n,
            do=f"use {max(1, n // across) * across}"))
    width = config.vision.embed_dim or config.vision.width
    found = {"part": "loss", "loss": config.loss.name, "n": n, "rows_per_device": n // across, "width": width,
             "topology": slice_.topology, "slices": slice_.slices, "chips": slice_.chips,
             "devices": slice_.devices, "libtpu": libtpu.version(), "jax": jax.__version__, "price_date": None}
    ours = _figures(compile_loss(config, ours_of(config, mesh), n, mesh), slice_)
    # two products of (n_local, d) with (d, n) and the gradient's: the least that a device can do
    ideal = 4.0 * (n // across) * n * width / slice_.chip.peak
    found |= ours | {"products_at_peak_ms": 1e3 * ideal, "open_clip": None}
    if compare:
        theirs = _figures(compile_loss(config, open_clip_of(mesh), n, mesh), slice_)
        found["open_clip"] = theirs
        if theirs["fits"] and ours["fits"]:
            found |= {"open_clip_cycles_ratio_low": theirs["est_cycles_low"] / ours["est_cycles"],
                      "open_clip_cycles_ratio_high": theirs["est_cycles"] / ours["est_cycles_low"]}
        if ours["fits"] and theirs["hbm_temporaries_gib"] is not None:
            found["open_clip_temporaries_ratio"] = theirs["hbm_temporaries_gib"] / ours["hbm_temporaries_gib"]
    return found


def ours_of(config: ConfigDict, mesh: Mesh) -> Any:
    """The loss that the config names, of (zimg, ztxt, scalars)."""
    def loss(zimg: jax.Array, ztxt: jax.Array, scalars: list[jax.Array]) -> jax.Array:
        return losses.named(config.loss.name)(zimg, ztxt, *scalars, mesh=mesh)[0]

    return loss


def open_clip_of(mesh: Mesh) -> Any:
    """The softmax as open_clip computes it with local_loss and gather_with_grad, of the same arguments."""
    def loss(zimg: jax.Array, ztxt: jax.Array, scalars: list[jax.Array]) -> jax.Array:
        return plain.open_clip_softmax(zimg, jax.lax.stop_gradient(ztxt), scalars[0], mesh=mesh)

    return loss


def compile_loss(config: ConfigDict, loss: Any, n: int, mesh: Mesh) -> Compiled:
    """Value and gradients (image rows and scalars) compiled for the mesh."""
    rows, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    width, dtype = config.vision.embed_dim or config.vision.width, jnp.dtype(config.dtype)
    count = 2 if config.loss.name == "sigmoid" else 1
    abstract = (jax.ShapeDtypeStruct((n, width), jnp.float32), jax.ShapeDtypeStruct((n, width), dtype),
                [jax.ShapeDtypeStruct((), jnp.float32)] * count)
    gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 2)), in_shardings=(rows, rows, [whole] * count),
                       out_shardings=(whole, (rows, [whole] * count)))  # fmt: skip
    local = n // (mesh.shape["data"] * mesh.shape["fsdp"])
    return compile_(gradient, abstract, mesh, local * width * (4 + dtype.itemsize))


def _figures(compiled: Compiled, slice_: Slice) -> Figures:
    """Memory, exchanges and time of one form. Its result, the gradient of the rows, is no temporary here."""
    found = estimate.memory(compiled, slice_.chip) | {"compile_s": round(compiled.seconds, 1)}
    if not compiled.fits:
        return found
    program = hlo.read(compiled.text)
    counted, sent = cycles.count(program), collectives.find(program, compiled.layout)
    time = traffic.time(program, sent, slice_.chip, slice_.slices)
    ms = 1e3 / slice_.chip.clock
    return found | {
        "est_cycles": counted.high, "est_cycles_low": counted.low, "est_ms": counted.high * ms,
        "est_ms_cheapest_branch": counted.low * ms, "conditionals": counted.conditionals,
        **estimate.exchange_times(time, sent, slice_),
        "est_ms_low": counted.low * ms + 1e3 * time.whole.low,
        "est_ms_high": counted.high * ms + 1e3 * time.whole.high,
        "collectives": estimate.exchanges(sent)}


def show(found: Figures) -> list[str]:
    """The lines for people."""
    lines = [f"{found['loss']} loss alone, {found['n']:,} pairs of {found['width']} numbers on {found['topology']} "
             f"({found['devices']} devices, {found['rows_per_device']:,} rows each); value and gradient of pictures' "
             "rows",
             ""]
    forms = {"ours": found} | ({"open_clip": found["open_clip"]} if found["open_clip"] else {})
    rows = [("", "ms, compiler", "ms with exchanges", "peak GiB", "temporaries GiB", "compiled in s")]
    for name, form in forms.items():
        if form["fits"]:
            compiler = page.spread(form["est_ms_cheapest_branch"], form["est_ms"], ".3g")
            whole = page.spread(form["est_ms_low"], form["est_ms_high"], ".3g")
        else:
            compiler = whole = "does not fit"
        sizes = ["-" if form[key] is None else f"{form[key]:.3f}" for key in ("hbm_peak_gib", "hbm_temporaries_gib")]
        rows.append((name, compiler, whole, *sizes, f"{form['compile_s']:.0f}"))
    lines += page.table(rows, right=range(1, 6))
    lines.append(f"products at the device's peak: {found['products_at_peak_ms']:.3g} ms")
    if "open_clip_cycles_ratio_low" in found:
        ratio = page.spread(found["open_clip_cycles_ratio_low"], found["open_clip_cycles_ratio_high"], ".2f")
        lines.append(f"open_clip's form takes {ratio} times the cycles and "
                     f"{found['open_clip_temporaries_ratio']:.2f} times the temporaries")
    if found["fits"] and found["conditionals"]:
        lines.append("branches: times with the cheapest of each to the dearest (the softmax with a fixed shift, where "
                     "that is proved, to the running maximum)")
    return [*lines, *page.wrapped(estimate.TRUST)]
