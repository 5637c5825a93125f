"""The accelerators that can be planned for, and the names that people write for a slice of them. No jax."""

import difflib
import math
import re
from typing import NamedTuple

from lit_tune.errors import ConfigError, explain


class Chip(NamedTuple):
    """One kind of accelerator; memory and rates of one device as jax counts them, nearly always a chip.

    Attributes:
        name: as in `NAME:16x16`.
        maker: "tpu" or "nvidia".
        peak: dense bfloat16 FLOP/s.
        hbm_gib: memory that a program can have, GiB.
        hbm_rate: bytes/s to and from that memory.
        link_rate: bytes/s to the other chips of the slice, both directions together.
        network_rate: bytes/s to other slices, one way, a device's part of its host's.
        clock: Hz that the compiler's cycles are counted in; 0 where it gives none.
        host_chips: chips of one host of a slice that has several hosts.
        cores: what the makers' own accelerator types count for one chip (v5p-128 has 64 chips).
        dimensions: of a topology name.
        largest: chips of the largest slice.
        mxu: side of the matrix unit.
        devices: that one chip is to jax.
        config: of the chip, for libtpu; "" for its default.
    """

    name: str
    maker: str
    peak: float
    hbm_gib: float
    hbm_rate: float
    link_rate: float
    network_rate: float
    clock: float
    host_chips: int
    cores: int = 1
    dimensions: int = 2
    largest: int = 256
    mxu: int = 128
    devices: int = 1
    config: str = ""


# peak, HBM rate, links, chips a host: cloud.google.com/tpu/docs/v4, v5e, v5p, v6e (read 2026-11); v5e hosts of slices
# with several hosts and all v6e ones have 4 chips there, single-host slices up to 8. network_rate: 6.4 Tbit/s a pod of
# 256 v5e there, 25.6 of v6e; v4 and v5p as 200 Gbit/s a host of 4 chips, remembered. hbm_gib: what libtpu states in its
# messages about programs that do not fit. Clocks are not published: peak = clock x MXUs x side^2 x 2 gives 1.5 GHz for
# v5e (4 of 128), 1.75 for v5p (8 of 128), 1.75 for v6e (4 of 256) and 1.05 for v4 (8 of 128); the last two are the
# least certain, a TPU could measure them. TPU7x: half of what docs.cloud.google.com/tpu/docs/tpu7x (read 2026-11) says
# of a chip, since each of its two TensorCores is a device with half the memory; four matrix units a core are a guess.
_TPU = (
    Chip("v4", "tpu", 275e12, 32.0, 1228e9, 300e9, 6.25e9, 1.05e9, 4, cores=2, dimensions=3, largest=4096,
         config="megacore"),
    Chip("v5e", "tpu", 197e12, 15.75, 819e9, 400e9, 3.125e9, 1.5e9, 4),
    Chip("v5p", "tpu", 459e12, 95.0, 2765e9, 1200e9, 6.25e9, 1.75e9, 4, cores=2, dimensions=3, largest=8960),
    Chip("v6e", "tpu", 918e12, 31.25, 1640e9, 800e9, 12.5e9, 1.75e9, 4, mxu=256),
    Chip("tpu7x", "tpu", 1153.5e12, 94.75, 3690e9, 600e9, 6.25e9, 2.2e9, 4, cores=2, dimensions=3, largest=9216,
         mxu=256, devices=2),
)
# NVIDIA's data sheets of the SXM boards, without sparsity; NVLink both directions together. hbm_gib: the card's memory
# less the 5 % that a context and the allocator's pools take.
_NVIDIA = (
    Chip("a100", "nvidia", 312e12, 75.0, 2039e9, 600e9, 50e9, 0.0, 8, dimensions=0),
    Chip("h100", "nvidia", 989e12, 75.0, 3350e9, 900e9, 50e9, 0.0, 8, dimensions=0),
    Chip("h200", "nvidia", 989e12, 133.0, 4800e9, 900e9, 50e9, 0.0, 8, dimensions=0),
    Chip("b200", "nvidia", 2250e12, 170.0, 8000e9, 1800e9, 50e9, 0.0, 8, dimensions=0),
)
CHIPS = {chip.name: chip for chip in (*_TPU, *_NVIDIA)}
_SPELLED = {"v5litepod": "v5e", "v5lite": "v5e", "v6": "v6e", "v5lite-pod": "v5e", "v7x": "tpu7x", "ironwood": "tpu7x"}
EXAMPLES = ("v5e:16x16", "v5litepod-256", "v6e-256", "v5p:4x4x4", "v5p-128", "v4:2x2x2", "tpu7x-16", "h100",
            "h200x8")


class Slice(NamedTuple):
    """Chips that train together.

    Attributes:
        chip: their kind.
        grid: chips along each direction of the interconnect; (n,) for GPUs.
        slices: how many of these, joined by the data centre's network.
    """

    chip: Chip
    grid: tuple[int, ...]
    slices: int = 1

    @property
    def chips(self) -> int:
        """Of all slices together."""
        return math.prod(self.grid) * self.slices

    @property
    def devices(self) -> int:
        """Of jax, of all slices together."""
        return self.chips * self.chip.devices

    @property
    def hosts(self) -> int:
        """Machines of all slices together: one up to 8 chips of a 2-D slice, else `host_chips` each."""
        each = math.prod(self.grid)
        alone = 8 if self.chip.dimensions == 2 else self.chip.host_chips
        return self.slices * (1 if each <= alone else math.ceil(each / self.chip.host_chips))

    @property
    def topology(self) -> str:
        """As libtpu names one slice: v5e:16x16."""
        return f"{self.chip.name}:{'x'.join(map(str, self.grid))}"

    @property
    def name(self) -> str:
        """For people."""
        if self.chip.maker == "nvidia":
            return self.chip.name + (f"x{self.chips}" if self.chips > 1 else "")
        return self.topology + (f" x {self.slices} slices" if self.slices > 1 else "")


def parse(text: str, slices: int = 1) -> Slice:
    """The slice that a name stands for.

    Args:
        text: v5e:16x16, v5litepod-256, v6e-256, v5p-128 (v4, v5p and TPU7x count TensorCores there, two a chip), h100,
            h200x8.
        slices: how many of them, joined by the data centre's network (TPUs only).

    Raises:
        ConfigError: no such name, or a slice that is not sold.
    """
    word = text.strip().lower()
    match = re.fullmatch(r"([a-z]\w*?|v5lite-?pod)(?:(?P<sep>[:\-x])(?P<size>\d+(?:x\d+)*))?(?::1)?", word)
    name = _SPELLED.get(match[1], match[1]) if match else ""
    if name not in CHIPS:
        raise _unknown(text)
    chip, sizes = CHIPS[name], [int(n) for n in (match["size"] or "1").split("x")]
    if min(sizes) < 1:
        raise _unknown(text)
    if chip.maker == "nvidia":
        return _gpus(chip, sizes, slices, text)
    if match["size"] is None:
        raise ConfigError(explain(f"--topology {text}", expected="how many chips", found="none",
                                  do=f"for example {_near(chip, 8).topology}"))
    if match["sep"] == ":":
        return _shaped(chip, sizes, slices, text)
    return _counted(chip, sizes, slices, text)


def larger(slice_: Slice) -> Slice | None:
    """The next slice of the same chips that is sold, twice as large; None beyond the largest."""
    chip, each = slice_.chip, math.prod(slice_.grid)
    if chip.maker == "nvidia" or 2 * each > chip.largest:
        return None
    return Slice(chip, _grid(chip, 2 * each), slice_.slices)


def _grid(chip: Chip, chips: int) -> tuple[int, ...]:
    """The most even grid of a power of two of chips: 8 -> 2x4, 128 -> 8x16, in three directions 64 -> 4x4x4."""
    power = chips.bit_length() - 1
    base, more = divmod(power, chip.dimensions)
    grid = tuple(2 ** (base + (i >= chip.dimensions - more)) for i in range(chip.dimensions))
    return tuple(sorted(grid, reverse=True)) if chip.dimensions == 3 and chips <= 4 else grid


def _near(chip: Chip, chips: int) -> Slice:
    """The slice that has a power of two of chips, at most the largest."""
    least = 4 if chip.dimensions == 3 else 1
    return Slice(chip, _grid(chip, 2 ** (min(max(chips, least), chip.largest).bit_length() - 1)))


def _shaped(chip: Chip, sizes: list[int], slices: int, text: str) -> Slice:
    """A slice named by its grid."""
    if len(sizes) != chip.dimensions or math.prod(sizes) > chip.largest:
        shape = "x".join("N" * chip.dimensions)
        raise ConfigError(explain(f"--topology {text}", expected=f"{chip.name}:{shape} of at most {chip.largest} chips",
                                  found="x".join(map(str, sizes)),
                                  do=f"for example {_near(chip, math.prod(sizes)).topology}"))
    return Slice(chip, tuple(sizes), slices)


def _counted(chip: Chip, sizes: list[int], slices: int, text: str) -> Slice:
    """A slice named by its number of chips, or of TensorCores where the maker counts those."""
    count, rest = divmod(sizes[0], chip.cores)
    fits = len(sizes) == 1 and not rest and count & (count - 1) == 0 and 0 < count <= chip.largest
    if not fits:
        unit = "TensorCores (two a chip)" if chip.cores == 2 else "chips"
        near = _near(chip, count)
        raise ConfigError(explain(
            f"--topology {text}", expected=f"a number of {unit} that is a power of two up to "
            f"{chip.largest * chip.cores}", found="x".join(map(str, sizes)),
            do=f"use {chip.name}-{near.chips * chip.cores}, or a grid such as {near.topology}"))
    return Slice(chip, _grid(chip, count), slices)


def _gpus(chip: Chip, sizes: list[int], slices: int, text: str) -> Slice:
    """GPUs by number."""
    if len(sizes) != 1 or slices != 1:
        raise ConfigError(explain(f"--topology {text}", expected=f"{chip.name} or {chip.name}xN, and one slice",
                                  found=f"{text}, slices={slices}", do=f"for example {chip.name}x8"))
    return Slice(chip, (sizes[0],))


def _unknown(text: str) -> ConfigError:
    """For a name that is none."""
    known = [*EXAMPLES, *(f"{chip.name}-{size}" for chip in _TPU for size in (8, 16, 32, 64, 128, 256)), *CHIPS]
    near = difflib.get_close_matches(text.strip().lower(), known, n=1, cutoff=0.5)
    do = (f"did you mean {near[0]}? " if near else "") + f"there are {', '.join(CHIPS)}, written like " + ", ".join(
        EXAMPLES)
    return ConfigError(explain(f"--topology {text}", expected="a slice", found="an unknown name", do=do))
