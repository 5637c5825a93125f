"""Patch kernels for another patch size and position tables for another grid, float32, in the two known ways.

`bicubic`: plain interpolation of the numbers, as BAAI's script made eva02_B_pt_in21k_p14to16, where the paper starts.
`pinv`: timm's. Kernels through the pseudo-inverse of the resize that pictures would go through, so that the new kernel
sees in an enlarged picture what the old one saw (FlexiViT, arXiv 2212.08013); position tables antialiased.

Source: baaivision/EVA EVA-01/eva/interpolate_patch_14to16.py; timm 1.0.31 layers/patch_embed.py `resample_patch_embed`
and layers/pos_embed.py `resample_abs_pos_embed`.
"""

import math

import numpy as np
from jaxtyping import Float


def patch_kernel(kernel: Float[np.ndarray, "n d"], patch_size: int, how: str) -> Float[np.ndarray, "m d"]:
    """The kernel of a patch embedding for another patch size, float32 (patch_size**2 * 3, width).

    Args:
        kernel: (rows * columns * 3, width), square patches.
        patch_size: pixels.
        how: bicubic | pinv.
    """
    old = math.isqrt(kernel.shape[0] // 3)
    if old == patch_size:
        return kernel
    pixels = np.asarray(kernel, np.float64).reshape(old, old, -1)  # (rows, columns, 3 * width)
    if how == "bicubic":
        matrix = bicubic_matrix(old, patch_size)
        new = _apply(matrix, matrix, pixels)
    else:
        resize = antialiased_matrix(old, patch_size)
        resize = np.kron(resize, resize)  # (new pixels, old pixels)
        # torch's cut-off for float32, so that the same singular values count
        inverse = np.linalg.pinv(resize, rcond=max(resize.shape) * np.finfo(np.float32).eps)
        new = inverse.T @ pixels.reshape(old * old, -1)
    return np.float32(new.reshape(patch_size * patch_size * 3, kernel.shape[1]))


def position_table(
    table: Float[np.ndarray, "1 n d"], old: tuple[int, int], new: tuple[int, int], how: str
) -> Float[np.ndarray, "1 m d"]:
    """A learned position table for another grid, float32 (1, prefix + rows * columns, width).

    Entries before the patches' (the class token's) stay as they are.

    Args:
        table: (1, prefix + old rows * old columns, width).
        old, new: (rows, columns) of patches.
        how: bicubic | pinv (antialiased, as timm does beside it; what the towers do with a picture of another size).
    """
    if old == new:
        return table
    prefix = table.shape[1] - old[0] * old[1]
    matrix = bicubic_matrix if how == "bicubic" else antialiased_matrix
    patches = np.asarray(table[0, prefix:], np.float64).reshape(*old, -1)  # (rows, columns, d)
    patches = np.float32(_apply(matrix(old[0], new[0]), matrix(old[1], new[1]), patches))
    return np.concatenate([table[:, :prefix], patches.reshape(1, new[0] * new[1], -1)], axis=1)


def bicubic_matrix(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Weights (new, old) of plain bicubic interpolation along one axis: pixel centres, borders repeated.

    Positions are rounded to float32, as torch does: the numbers that the paper starts from carry that rounding.
    """
    centres = np.float32(old / new) * (np.arange(new, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
    first = np.floor(centres).astype(int)
    matrix = np.zeros((new, old))
    for tap in range(-1, 3):
        near = np.clip(first + tap, 0, old - 1)
        np.add.at(matrix, (np.arange(new), near), _cubic(centres - (first + tap), a=-0.75))
    return matrix


def antialiased_matrix(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Weights (new, old) of antialiased bicubic interpolation along one axis, as torch, jax and Pillow have it."""
    stretch = max(old / new, 1.0)  # the kernel covers what a new pixel covers
    centres = (np.arange(new)[:, None] + 0.5) * old / new
    weights = _cubic((np.arange(old) + 0.5 - centres) / stretch, a=-0.5)
    return weights / weights.sum(axis=1, keepdims=True)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel; `a` is its slope at 1."""
    x = np.abs(x)
    inner, outer = ((a + 2) * x - (a + 3)) * x**2 + 1, a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, inner, np.where(x < 2, outer, 0.0))


def _apply(rows: np.ndarray, columns: np.ndarray, image: np.ndarray) -> np.ndarray:
    """(new rows, new columns, c) of an image (rows, columns, c)."""
    image = np.tensordot(rows, image, axes=(1, 0))  # (new rows, columns, c)
    return np.tensordot(columns, image, axes=(1, 1)).transpose(1, 0, 2)
