"""Inputs of the loss tests: meshes and unit rows."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh


def mesh_of(data: int, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """The training mesh over the first devices."""
    return jax.make_mesh((data, fsdp, tensor), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3,
                         devices=jax.devices()[:data * fsdp * tensor])


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Random float32 unit rows."""
    rows = rng.standard_normal(shape)
    return np.float32(rows / np.linalg.norm(rows, axis=-1, keepdims=True))
