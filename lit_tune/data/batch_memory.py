"""Memory for batches, used again as soon as nobody holds a batch made of it any more."""

import ctypes
import math
import weakref
from typing import Any

import numpy as np
from numpy.typing import DTypeLike


class BatchMemory:
    """Gives out arrays; new memory is taken only where all that was given out is still in use.

    Fresh pages cost as much as a tenth of decoding the picture that is put into them: the system clears each one. The
    memory of an array comes back when its last reference goes, whether a view's, a thread's or a device transfer's, so
    at no time is there more of it than the most that was in use at once. Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._free: dict[int, list[np.ndarray]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Sent to another process empty."""
        return BatchMemory, ()

    def take(self, shape: tuple[int, ...], dtype: DTypeLike = np.uint8) -> np.ndarray:
        """An array in C order that holds anything at first."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        free = self._free.setdefault(size, [])
        try:
            memory = free.pop()
        except IndexError:  # asked and taken at once: another thread may be asking too
            memory = np.empty(size, np.uint8)
        # A loan of its own for each array: numpy makes views of views hold the first owner, here the loan.
        loan = (ctypes.c_ubyte * size).from_buffer(memory)
        weakref.finalize(loan, free.append, memory).atexit = False
        return np.frombuffer(loan, dtype).reshape(shape)
