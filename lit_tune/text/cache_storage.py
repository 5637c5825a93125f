"""How text vectors lie on disk: as float32, bfloat16 or int8, and back to exact unit rows. No jax.

What is rounded here is a direction, never a length: rows are renormalised in float32 when they are read. So int8 needs
no scale on disk: each row is divided by its own largest number / 127 before rounding, and that factor would cancel.
"""

import ml_dtypes
import numpy as np
from jaxtyping import Float

DTYPES = {"float32": "<f4", "bfloat16": "<u2", "int8": "|i1"}  # name -> of the .npy file; it has no word for bfloat16


def pack(vectors: Float[np.ndarray, "n d"], dtype: str) -> np.ndarray:
    """(n, d) unit rows as they are stored.

    Args:
        vectors: float32.
        dtype: one of DTYPES.
    """
    if dtype == "int8":
        scale = np.abs(vectors).max(axis=1, keepdims=True) / np.float32(127)
        return np.rint(vectors / scale).astype(np.int8)
    if dtype == "bfloat16":
        return vectors.astype(ml_dtypes.bfloat16).view(np.uint16).astype("<u2")
    return vectors.astype("<f4")


def unpack(stored: np.ndarray) -> np.ndarray:
    """(..., d) float32 unit rows of stored ones; the dtype of the file says how they were packed."""
    if stored.dtype == np.uint16:
        stored = np.ascontiguousarray(stored).view(ml_dtypes.bfloat16)
    return unit(np.asarray(stored, np.float32))


def unit(vectors: np.ndarray) -> np.ndarray:
    """(..., d) float32 rows divided by their lengths."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def row_bytes(dim: int, dtype: str) -> int:
    """Bytes on disk of one vector of `dim` numbers."""
    return dim * np.dtype(DTYPES[dtype]).itemsize
