"""Towers that are only ONNX files, run by onnxruntime, in the shape that `lit_tune.tower` and `text.encode` call."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from lit_tune.errors import ConfigError, explain

LAYOUT = "onnx"  # of weights in a description


def session(path: Path) -> Any:
    """The `onnxruntime.InferenceSession` of a file, on the CPU.

    Raises:
        ConfigError: no package onnxruntime, no such file, or not an ONNX file.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        do = "pip install 'lit_tune[onnx]'"
        raise ConfigError(explain(str(path), expected="the package onnxruntime", found="none", do=do))
    import onnxruntime

    if not path.is_file():
        raise ConfigError(explain("ONNX", expected="a file", found=f"none at {path}", do="check the path"))
    try:
        return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # its exception classes are those of a compiled module, without a common base
        raise ConfigError(
            explain(str(path), expected="an ONNX file", found=str(error)[:200], do="export it again")
        ) from error


def vision_session(
    path: Path, mean: Sequence[float], std: Sequence[float]
) -> Callable[[Any, UInt8[np.ndarray, "n h w 3"]], Float[np.ndarray, "n d"]]:
    """A function (anything, uint8 pictures) -> float32 unit vectors: there are no parameters apart from the file.

    Args:
        mean, std: of the tower's description, RGB.
    """
    run = session(path)
    mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)

    def embed(params: Any, pixels: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n d"]:
        values = (np.asarray(pixels).astype(np.float32) / np.float32(255) - mean) / std
        return run.run(["image_embeds"], {"pixel_values": np.ascontiguousarray(values.transpose(0, 3, 1, 2))})[0]

    return embed


def text_session(
    path: Path,
) -> Callable[[Any, Int[np.ndarray, "n s"], Int[np.ndarray, "n s"]], Float[np.ndarray, "n d"]]:
    """A function (anything, token ids, mask) -> float32 unit vectors."""
    run = session(path)

    def embed(params: Any, ids: Int[np.ndarray, "n s"], mask: Int[np.ndarray, "n s"]) -> Float[np.ndarray, "n d"]:
        given = {"input_ids": np.asarray(ids, np.int64), "attention_mask": np.asarray(mask, np.int64)}
        return run.run(["sentence_embedding"], given)[0]

    return embed
