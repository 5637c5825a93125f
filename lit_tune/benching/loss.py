"""`lit-tune bench loss`: our losses beside open_clip's form and the plain formulas, by time, memory and agreement."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh
from jaxtyping import Float

from lit_tune import losses, sharding
from lit_tune.benching import machine, timing
from lit_tune.benching.timing import Figures
from lit_tune.errors import ConfigError, NumbersError, explain
from lit_tune.losses import plain

MIB = 2**20
SCALARS = {"softmax": (np.log(1 / 0.07),), "sigmoid": (np.log(10.0), -10.0)}  # as CLIP and SigLIP start
# Largest difference to the plain formula: of the loss relative to it, of gradients relative to their largest number.
# bfloat16 rows have 8 bits, and open_clip's form rounds the pictures too.
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
COMPARED = {"softmax": ("ours", "open_clip", "plain"), "sigmoid": ("ours", "plain")}


class Form(NamedTuple):
    """One way to compute a loss: compiled, and once run.

    Attributes:
        run: (zimg, ztxt, scalars) -> (loss, (gradient of zimg, gradients of the scalars)).
        temporaries: bytes of one device.
    """

    run: Callable[..., Any]
    temporaries: int


def measure(sizes: Sequence[int], width: int, dtype: str, devices: Sequence[jax.Device], repeats: int) -> Figures:
    """Every key of `bench loss --json` but the machine: a row for each number of pairs, loss and form.

    Value and gradient of the pictures' rows and the scalars; the text is frozen.

    Args:
        sizes: numbers of pairs.
        width: of the rows.
        dtype: of the text's rows, and so of the products: float32 or bfloat16.
        devices: that the rows are cut over.
        repeats: turns.

    Raises:
        ConfigError: pairs that do not divide over the devices, or no such dtype.
        NumbersError: the forms do not agree.
    """
    if dtype not in TOLERANCE:
        raise ConfigError(explain("--dtype", expected=" or ".join(TOLERANCE), found=repr(dtype), do="choose one"))
    uneven = [n for n in sizes if n % len(devices)]
    if uneven:
        raise ConfigError(explain("--n", expected=f"multiples of {len(devices)} devices", found=uneven[0],
                                  do="change it or --devices"))
    mesh = jax.make_mesh((len(devices), 1, 1), sharding.AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)
    rows = [row for n in sizes for name in COMPARED for row in _of_size(name, n, width, dtype, mesh, repeats)]
    return {"width": width, "dtype": dtype, "devices": len(devices), "repeats": repeats, "rows": rows}


def rows_of(n: int, width: int, seed: int = 0) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n d"]]:
    """(zimg, ztxt): random unit rows, each picture a little nearer to its own text than to the others."""
    rng = np.random.default_rng(seed)
    ztxt, noise = (_unit(rng.standard_normal((n, width), np.float32)) for _ in range(2))
    return _unit(0.3 * ztxt + noise), ztxt


def _unit(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Rows of length 1."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def functions(name: str, mesh: Mesh) -> dict[str, Callable[..., jax.Array]]:
    """{form: (zimg, ztxt, scalars) -> the loss} of one loss, on a mesh."""
    formula = {"softmax": plain.softmax, "sigmoid": plain.sigmoid}[name]
    every = {
        "ours": lambda zimg, ztxt, scalars: losses.named(name)(zimg, ztxt, *scalars, mesh=mesh)[0],
        "open_clip": lambda zimg, ztxt, scalars: plain.open_clip_softmax(
            zimg, jax.lax.stop_gradient(ztxt), *scalars, mesh=mesh),
        "plain": lambda zimg, ztxt, scalars: formula(zimg, ztxt, *scalars, mesh=mesh)[0],
    }  # fmt: skip
    return {form: every[form] for form in COMPARED[name]}


def _of_size(name: str, n: int, width: int, dtype: str, mesh: Mesh, repeats: int) -> list[Figures]:
    """The rows of one loss and number of pairs."""
    at, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    zimg, ztxt = rows_of(n, width)
    given = (jax.device_put(zimg, at), jax.device_put(ztxt.astype(jnp.dtype(dtype)), at),
             tuple(jax.device_put(np.float32(scalar), whole) for scalar in SCALARS[name]))  # fmt: skip
    forms = {form: _compiled(loss, given, at, whole) for form, loss in functions(name, mesh).items()}
    agreement = agree(name, {form: one.run(*given) for form, one in forms.items()}, TOLERANCE[dtype])  # and warms up
    seconds = timing.times({form: lambda run=one.run: jax.block_until_ready(run(*given))
                            for form, one in forms.items()}, repeats)  # fmt: skip
    return [{"loss": name, "n": n, "form": form} | times | agreement[form]
            | {"temporaries_mib": forms[form].temporaries / MIB}
            for form, times in timing.compared(seconds, "ours").items()]  # fmt: skip


def _compiled(loss: Callable[..., jax.Array], given: Any, at: Any, whole: Any) -> Form:
    """A loss's value and gradients, compiled for its arguments."""
    scalars = (whole,) * len(given[2])
    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 2)), in_shardings=(at, at, scalars),
                   out_shardings=(whole, (at, scalars)))  # fmt: skip
    done = step.lower(*given).compile()
    return Form(done, done.memory_analysis().temp_size_in_bytes)


def agree(name: str, found: dict[str, Any], tolerance: float) -> dict[str, Figures]:
    """{form: value, loss_difference, gradient_difference} against the plain form, both relative.

    Args:
        name: of the loss.
        found: {form: (loss, (gradient of the rows, gradients of the scalars))}.
        tolerance: largest difference that passes.

    Raises:
        NumbersError: a form differs by more.
    """
    host = jax.device_get(found)
    value, slopes = host["plain"][0], jax.tree.leaves(host["plain"][1])
    result = {}
    for form, (loss, gradients) in host.items():
        differences = [float(np.max(np.abs(a - b)) / np.max(np.abs(b)))
                       for a, b in zip(jax.tree.leaves(gradients), slopes, strict=True)]  # fmt: skip
        result[form] = {"value": float(loss), "loss_difference": float(abs(loss - value) / abs(value)),
                        "gradient_difference": max(differences)}  # fmt: skip
        worst = max(result[form]["loss_difference"], result[form]["gradient_difference"])
        if not worst <= tolerance:  # nan too
            raise NumbersError(explain(f"bench loss: {name}, {form}", expected=f"the plain formula to {tolerance:g}",
                                       found=f"a relative difference of {worst:.2g}", do="report this machine"))
    return result


def show(found: Figures) -> list[str]:
    """The lines for people."""
    head = [f"losses: value, gradient of pictures and scalars, text frozen; width {found['width']}, products in "
            f"{found['dtype']}, {found['devices']} devices, median of {found['repeats']}; "
            f"{machine.in_words(found['machine'])}"]  # fmt: skip
    rows = [("loss, form", "pairs", "ms", "of ours", "CPU us a pair", "temporaries MiB a device", "loss differs",
             "gradient differs")]  # fmt: skip
    for row in found["rows"]:
        rows.append((f"{row['loss']}, {row['form']}", f"{row['n']:,}", f"{1e3 * row['seconds']:.1f}",
                     f"{row['over_ours']:.2f}", f"{1e6 * row['cpu_seconds'] / row['n']:.1f}",
                     f"{row['temporaries_mib']:.1f}", f"{row['loss_difference']:.1e}",
                     f"{row['gradient_difference']:.1e}"))  # fmt: skip
    return [*head, *timing.columns(rows), "differs: relative, from the plain form"]
