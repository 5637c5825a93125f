"""`lit-tune bench embed`: pictures to unit vectors, forward only: ours beside PyTorch, eager and compiled."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from lit_tune.benching import machine, ours, peer, settings, timing
from lit_tune.benching.step import missing
from lit_tune.benching.timing import Figures
from lit_tune.errors import ConfigError, NumbersError, explain
from lit_tune.models import two_towers

# Largest difference of a number of a unit vector, relative to the largest number.
TOLERANCE = {"float32": 1e-3, "bfloat16": 1e-1}


def measure(config: ConfigDict, devices: Sequence[jax.Device], repeats: int, *, torch: bool) -> Figures:
    """Every key of `bench embed --json` but the machine; pixels lie on the device, vectors come to the host.

    Args:
        config: what `settings.measured` returned; its micro_batches do not matter.
        devices: the first of them is used.
        repeats: turns.
        torch: measure PyTorch too, where it can be.

    Raises:
        NumbersError: PyTorch's vectors are others.
    """
    device = devices[0]
    params = jax.jit(two_towers.vision_tower(config).init)(jax.random.key(config.seed))
    size = (config.global_batch, *config.vision.image_size, 3)
    pixels = np.random.default_rng(config.seed).integers(0, 256, size, np.uint8)
    runs = {"ours": ours.embedding(config, params, pixels, device)}
    vectors = {"ours": runs["ours"]()}
    why, failed = (peer.absent(device.platform, 1) if torch else "--notorch"), {}
    for name, compile in peer.WAYS.items() if not why else ():
        try:
            run = peer.embedding(config, jax.device_get(params), pixels, device.platform, compile=compile)
            vectors[name], runs[name] = run(), run
        except (ConfigError, *peer.failures()) as error:
            failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    differences = agree(vectors, TOLERANCE[config.dtype])
    for run in runs.values():
        run()  # warm
    times = timing.compared(timing.times(runs, repeats), "ours")
    for name, row in times.items():
        row |= {"pictures_per_s": config.global_batch / row["seconds"], "difference": differences[name],
                "mfu": ours.mfu(config, row["seconds"], [device], forward=True)}  # fmt: skip
    return settings.about(config) | {"repeats": repeats, "no_torch": why, "failed": failed, "runs": times,
                                     "versions": {} if why else peer.versions()}


def agree(vectors: Mapping[str, Float[np.ndarray, "b d"]], tolerance: float) -> dict[str, float]:
    """{name: largest difference to our vectors, relative to their largest number}.

    Args:
        vectors: by name, ours among them.
        tolerance: largest difference that passes.

    Raises:
        NumbersError: one is larger.
    """
    mine = vectors["ours"]
    found = {name: float(np.max(np.abs(theirs - mine)) / np.max(np.abs(mine))) for name, theirs in vectors.items()}
    for name, difference in found.items():
        if not difference <= tolerance:  # nan too
            raise NumbersError(explain(f"bench embed: vectors of {name}", expected=f"ours to {tolerance:g}",
                                       found=f"a relative difference of {difference:.2g}",
                                       do="report this machine and the versions"))  # fmt: skip
    return found


def show(found: Figures) -> list[str]:
    """The lines for people."""
    versions = "".join(f", {name} {version}" for name, version in found["versions"].items())
    lines = [f"embedding: {settings.in_words(found)}",
             f"on 1 of: {machine.in_words(found['machine'])}; jax {found['machine']['jax']}{versions}; median of "
             f"{found['repeats']}"]  # fmt: skip
    rows = [("", "ms", "of ours", "pictures/s", "CPU s", "MFU", "differs")]
    for name, row in found["runs"].items():
        mfu = "-" if row["mfu"] is None else f"{100 * row['mfu']:.1f} %"
        rows.append((name, f"{1e3 * row['seconds']:,.1f}", f"{row['over_ours']:.2f}", f"{row['pictures_per_s']:,.1f}",
                     f"{row['cpu_seconds']:.2f}", mfu, f"{row['difference']:.1e}"))  # fmt: skip
    lines += timing.columns(rows)
    lines += [f"{name} not measured: {why}" for name, why in missing(found).items()]
    return lines + ([] if found["no_torch"] else machine.busy(found["machine"]))
