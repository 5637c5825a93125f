"""The step on GPUs by roofline: each instruction takes its FLOPs at peak or its bytes at full bandwidth.

There is no ahead-of-time compiler for a GPU that is absent: where the machine has the GPUs, the program is compiled
for them, else for the CPU, whose own choices (einsum attention, bfloat16 widened to float32, nothing of a remat policy
left) make its memory and its traffic larger than a GPU's: only its FLOPs then bound the time from below. Which of the
two was done is said in `notes`.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import jax

from lit_tune.errors import ConfigError, explain
from lit_tune.planning.chips import Chip, Slice
from lit_tune.planning.hlo import Instruction, Program, Shape
from lit_tune.planning.kernels import Span

FREE = frozenset(("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call",
                  "after-all", "partition-id", "replica-id"))
GPU = ("gpu", "cuda", "rocm")
Known = Mapping[str, tuple[Shape, ...]]


def devices(slice_: Slice) -> list[Any]:
    """The GPUs of this machine if there are enough, else as many simulated CPU devices.

    Raises:
        ConfigError: neither are there.
    """
    found = jax.devices()
    if len(found) < slice_.chips:
        found = jax.devices("cpu")
    if len(found) < slice_.chips:
        raise ConfigError(explain(
            f"--topology {slice_.name}", expected=f"{slice_.chips} devices to compile for", found=len(found),
            do=f"set XLA_FLAGS=--xla_force_host_platform_device_count={slice_.chips}"))
    return found[: slice_.chips]


def notes(platform: str) -> list[str]:
    """What a reader has to know about a program that was compiled for a platform."""
    if platform in GPU:
        return ["compiled for the GPUs of this machine: memory by XLA's own analysis, time by roofline"]
    return ["compiled for the CPU, no such GPU is here: its memory and traffic are upper bounds (einsum attention, "
            "bfloat16 widened to float32, remat undone), so what does not fit here may fit there; the low end of the "
            "time is its products at peak, without any traffic"]


def time(program: Program, chip: Chip, platform: str) -> Span:
    """Seconds of one step on one device: low, an instruction's FLOPs and bytes together; high, one after the other.

    Args:
        program: it.
        chip: whose peak and bandwidth are taken.
        platform: that it was compiled for; a CPU's bytes are no lower bound of a GPU's and not in the low end.
    """
    low = high = 0.0
    known: dict[str, Known] = {}
    for visit in program.visits():
        line = visit.instruction
        if visit.fused or line.opcode in FREE or line.opcode.endswith("-done"):
            continue
        here = _known(program, visit.computation, known)
        moved = sum(shape.bytes for name in line.operands for shape in here.get(name, ()))
        memory = (moved + sum(shape.bytes for shape in line.shapes)) / chip.hbm_rate
        compute = flops(program, line, here) / chip.peak
        low += visit.times * (max(memory, compute) if platform in GPU else compute)
        high += visit.times * (memory + compute)
    return Span(low, high)


def flops(program: Program, line: Instruction, known: Known) -> float:
    """Of an instruction's matrix products, those inside a fusion included.

    Args:
        program: that it stands in.
        line: it.
        known: {name: shapes} of its computation.
    """
    if line.opcode == "fusion":
        return sum(flops(program, inner, _of(program, name)) for name in line.called()
                   for inner in program.computations.get(name, ()))
    operands = [known[name][0] for name in line.operands if known.get(name)]
    if line.opcode == "custom-call" and "fmha" in line.target.lower() and operands:
        return _attention(operands[0].dims, 5 if "backward" in line.target.lower() else 2)
    matrix = line.opcode == "dot" or line.opcode == "custom-call" and re.search("gemm|matmul", line.target)
    if not matrix or len(operands) < 2 or not line.shapes:
        return 0.0
    batch = math.prod(operands[0].dims[i] for i in _dims(line.text, "batch"))
    made = line.shapes[0].size
    # (b m k) (b k n) = b (m n) k k b: the contracted size from the three sizes and the batch
    return 2.0 * made * math.sqrt(operands[0].size * operands[1].size / max(1, made * batch))


def _attention(dims: tuple[int, ...], products: int) -> float:
    """Of a fused attention call on queries (b, n, h, k) or (b, h, n, k): more tokens than heads."""
    return 2.0 * products * math.prod(dims) * max(dims[1:3]) if len(dims) == 4 else 0.0


def _dims(text: str, kind: str) -> list[int]:
    """Numbers in lhs_batch_dims={0,1} or "lhs_batch_dimensions":["0","1"]."""
    found = re.search(rf'lhs_{kind}_dim\w*"?[=:][{{\[]([^}}\]]*)[}}\]]', text)
    return [int(word) for word in re.findall(r"\d+", found[1])] if found else []


def _known(program: Program, computation: str, kept: dict[str, Known]) -> Known:
    """`_of`, kept."""
    if computation not in kept:
        kept[computation] = _of(program, computation)
    return kept[computation]


def _of(program: Program, computation: str) -> Known:
    """{name: shapes} of a computation."""
    return {line.name: line.shapes for line in program.computations[computation]}
