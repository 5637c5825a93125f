"""Our own training step and embedding, as training runs them, ready to be timed; and what was planned for the step."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from lit_tune import flops, metrics, sharding, tree
from lit_tune.benching import settings
from lit_tune.benching.timing import Figures
from lit_tune.errors import ConfigError, explain
from lit_tune.forward import Forward
from lit_tune.models import two_towers
from lit_tune.planning import estimate
from lit_tune.planning.chips import Chip, Slice
from lit_tune.planning.compiling import GIB, Compiled, facts
from lit_tune.step import build_step


class TrainingStep:
    """The step of `build_step` for a config and its devices, compiled, with random weights and a random batch.

    Args:
        config: a checked config, text cached.
        devices: that it runs on.

    Attributes:
        batch: the batch, numpy arrays.
        compiled: what the program says of itself.

    Raises:
        ConfigError: it does not fit into the devices' memory.
    """

    def __init__(self, config: ConfigDict, devices: Sequence[jax.Device]) -> None:
        mesh = sharding.make_mesh(config.mesh, list(devices))
        built = build_step(config, mesh)
        self.batch = settings.numbers(built.abstract[1], config.seed)
        start = time.monotonic()
        with _memory(config):
            self._step = built.step.lower(*built.abstract).compile()
            self.compiled: Compiled = facts(self._step, mesh, time.monotonic() - start)
            self._state = built.init(jax.random.key(config.seed))
            self._batch = {name: jax.device_put(array, built.shardings[1][name]) for name, array in self.batch.items()}
        self._config = config

    def params(self) -> tree.Tree:
        """The image tower's parameters as they are now, numpy arrays."""
        return jax.device_get(self._state["params"]["image"])

    def __call__(self) -> tuple[jax.Array, jax.Array]:
        """(loss, norm of all gradients before the clip) of one step, once it is done."""
        with _memory(self._config):
            self._state, found, _ = self._step(self._state, self._batch, {})
            jax.block_until_ready((self._state, found))
        return found["loss"], found["grad_norm"]


class _memory:
    """A program that is too large becomes one line."""

    def __init__(self, config: ConfigDict) -> None:
        self._config = config

    def __enter__(self) -> None:
        """Nothing."""

    def __exit__(self, kind: type | None, error: BaseException | None, _: Any) -> None:
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
            raise ConfigError(explain(
                "bench", expected="what fits into the device's memory",
                found=f"{self._config.global_batch:,} pairs in {self._config.micro_batches} parts: out of memory",
                do="raise --micro_batches or lower --batch")) from error  # fmt: skip


def embedding(config: ConfigDict, params: tree.Tree, pixels: np.ndarray,
              device: jax.Device) -> Callable[[], Float[np.ndarray, "b d"]]:
    """A function that embeds the pictures and returns the unit vectors on the host: the jitted forward pass.

    Args:
        config: a checked config.
        params: of its image tower.
        pixels: uint8 (b, h, w, 3).
        device: that it runs on.
    """
    mesh = sharding.make_mesh(config.mesh, [device])
    model = Forward.of(config, mesh, two_towers.vision_tower(config), None)
    mean, std = tuple(config.data.mean), tuple(config.data.std)
    run = jax.jit(lambda params, images: two_towers.embed_image(
        model.image_tower, params, images, mean, std, dtype=model.dtype, kernel=model.kernel))  # fmt: skip
    placed = jax.device_put((params, jnp.asarray(pixels)), device)
    return lambda: np.asarray(run(*placed))


def mfu(config: ConfigDict, seconds: float, devices: Sequence[jax.Device], *, forward: bool) -> float | None:
    """Share of the devices' bfloat16 peak that the products of the mathematics take; None without a known peak.

    Args:
        config: the measured one.
        seconds: of a step, or of the embedding of a batch.
        devices: that it ran on.
        forward: an embedding, else a training step.
    """
    peak = metrics.peak_flops(devices[0].device_kind)
    if peak is None:
        return None
    parts = flops.image_forward(config)
    each = sum(parts.values()) + (config.vision.depth - 1) * parts["block"] if forward else flops.per_pair(config).model
    return each * config.global_batch / seconds / peak / len(devices)


def planned(config: ConfigDict, compiled: Compiled, chip: Chip | None, devices: int) -> Figures:
    """{peak_gib, ms_low, ms_high} of a step on one device, as `lit-tune plan` works them out of the compiled program.

    Args:
        config: the measured one.
        compiled: its step.
        chip: that it is for; None, where it is not known: no time is said.
        devices: how many.
    """
    found = {"peak_gib": compiled.peak / GIB, "ms_low": None, "ms_high": None}
    if chip is None:
        return found
    of = estimate.of_program if chip.maker == "tpu" else estimate.of_gpu_program
    time = of(config, Slice(chip, (devices,)), compiled)
    return found | {"ms_low": time["est_ms_low"], "ms_high": time["est_ms_high"]}


def peak_gib(devices: Sequence[jax.Device]) -> float | None:
    """The most memory that any of the devices has held since the process began, GiB; None where it does not say."""
    stats = [device.memory_stats() for device in devices]
    if any(one is None or "peak_bytes_in_use" not in one for one in stats):
        return None
    return max(one["peak_bytes_in_use"] for one in stats) / GIB
