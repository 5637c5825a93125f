"""Products of float32 blocks on an accelerator, for `find` and `find_labels`; the counting stays on the host."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from lit_tune.evals.tiles import Products, gamma

# How many roundings of float32 a device may make for each that NumPy makes. GPUs multiply in float32 with any order of
# sums, as CPUs do; two leaves room for an autotuner's choice. A TPU puts a float32 number together from three bfloat16
# parts and adds six products of parts for each product, in sums that may cut off instead of rounding: 2 x 6, and 4 to
# spare for the products of parts that it leaves out. A device of another kind is taken for no better.
ROUNDINGS = {"cpu": 2, "gpu": 2, "cuda": 2, "rocm": 2}
MOST_ROUNDINGS = 16


def device_products(device: jax.Device | None = None) -> Products:
    """Products that run on `device` (the first local one by default), with a wider bound than the host's.

    The candidates of the last call stay on the device: `tiles.count` sends each block of them once, and every block of
    queries past it. Each tile comes back as 4 bytes a pair.
    """
    place = device or jax.local_devices()[0]
    roundings = ROUNDINGS.get(place.platform, MOST_ROUNDINGS)
    return Products(_multiply_on(place), lambda d: gamma(roundings * d))


def _multiply_on(place: jax.Device) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """(q, d), (c, d) -> float32 (q, c) on one device, float32 throughout."""

    @jax.jit
    def multiply(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)

    held: list[tuple[np.ndarray, jax.Array]] = []  # the last candidates, here and there

    def products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if not held or held[0][0] is not b:  # the array itself is kept, so that no other can have its place in memory
            held[:] = [(b, jax.device_put(b, place))]
        return np.asarray(multiply(jax.device_put(a, place), held[0][1]))

    return products
