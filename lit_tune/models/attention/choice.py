"""Which attention kernel a tower runs on: `choose`."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec as P
from jax.typing import DTypeLike

from lit_tune.errors import ConfigError, explain
from lit_tune.models.attention import cost
from lit_tune.models.attention.bodies import LANES


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel of self-attention and the devices that it runs on; hashable, so it may be a static argument of jit.

    Attributes:
        name: "einsum" (plain products, everywhere), "pallas" (TPU) or "cudnn" (NVIDIA).
        mesh: the mesh, axes (data, fsdp, tensor), that the batch is cut over; None: one device.
        interpret: run the Pallas kernel in its interpreter, for tests on a CPU.
    """

    name: Literal["einsum", "pallas", "cudnn"] = "einsum"
    mesh: Mesh | None = None
    interpret: bool = False

    def tokens_spec(self) -> P:
        """The partition of (b, n, d) arrays: pictures over data and fsdp, whole heads over tensor."""
        return P(("data", "fsdp"), None, "tensor")

    def rope_spec(self, pictures: int) -> P:
        """The partition of rotary tables (1 | b, n, k/2)."""
        return P() if pictures == 1 else P(("data", "fsdp"))


EINSUM = Kernel()


def choose(
    requested: str,
    platform: str,
    mesh: Mesh | None,
    *,
    width: int,
    num_heads: int,
    tokens: int,
    dtype: DTypeLike = jnp.bfloat16,
) -> Kernel:
    """The kernel that `config.vision.attention` asks for.

    Args:
        requested: auto | einsum | pallas | cudnn. "auto" takes the platform's own kernel where the tower fits it.
        platform: of the devices that the program is compiled for, `mesh.devices.flat[0].platform`. Not the process's
            default backend, which is the CPU when a program is compiled ahead for a TPU.
        mesh: None for a program of one device.
        width, num_heads, tokens: of the tower; tokens with the class token, after patch dropout.
        dtype: compute dtype.

    Raises:
        ConfigError: a kernel asked for by name that cannot run.
    """
    tensor = 1 if mesh is None else mesh.shape["tensor"]
    shape = {"width": width, "num_heads": num_heads, "tokens": tokens, "tensor": tensor, "dtype": dtype}
    reasons = {"einsum": None, "pallas": _no_pallas(platform, **shape), "cudnn": _no_cudnn(platform, **shape)}
    if requested == "auto":
        fitting = [name for name in ("pallas", "cudnn") if reasons[name] is None]
        return Kernel(fitting[0], mesh) if fitting else EINSUM
    if requested not in reasons:
        raise ConfigError(explain(
            "config.vision.attention", expected="auto | einsum | pallas | cudnn", found=requested,
            do="take one of them"))
    if reasons[requested] is not None:
        expected, found = reasons[requested]
        raise ConfigError(explain(
            f"config.vision.attention={requested}", expected=expected, found=found,
            do="set config.vision.attention=auto or einsum"))
    return EINSUM if requested == "einsum" else Kernel(requested, mesh)


Reason = tuple[str, object] | None  # what was expected and what was found; None: the kernel runs


def _no_pallas(platform: str, *, width: int, num_heads: int, tokens: int, tensor: int, dtype: DTypeLike) -> Reason:
    if platform != "tpu":
        return "a TPU", platform
    if width % num_heads or LANES % (width // num_heads) or width // num_heads < 16:
        return "heads of 16, 32, 64 or 128 channels", f"width={width}, num_heads={num_heads}"
    if width % (LANES * tensor):
        return f"a width on each device that is a multiple of {LANES}", f"width={width} over mesh.tensor={tensor}"
    needed = cost.vmem(tokens, jnp.dtype(dtype).itemsize)
    if needed > cost.VMEM:
        return f"a sequence whose n x n matrices fit into {cost.VMEM >> 20} MiB of VMEM", f"{tokens} tokens"
    return None


def _no_cudnn(platform: str, *, width: int, num_heads: int, tokens: int, tensor: int, dtype: DTypeLike) -> Reason:
    del tokens
    if platform not in ("gpu", "cuda"):
        return "an NVIDIA GPU", platform
    head_dim = width // num_heads
    if width % num_heads or head_dim % 8 or head_dim > 128:
        return "heads of 8, 16, ..., 128 channels", f"width={width}, num_heads={num_heads}"
    if num_heads % tensor:
        return "whole heads on each device", f"num_heads={num_heads} over mesh.tensor={tensor}"
    if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16):
        return "bfloat16 or float16", jnp.dtype(dtype).name
    return None
