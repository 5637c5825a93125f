"""A stated model of what exchanges between chips take, where the compiler gives no cycles, as a low and a high time.

A ring over all links of a chip, each device sending (g - 1) / g of the bytes, twice for a reduction that everyone gets.
Low: all links, and nothing for an exchange that runs under other work. High: the links of one direction of the grid,
nothing hidden. Between slices: the data centre's network, each chip with its part of its slice's bytes.
"""

from lit_tune.planning.chips import Chip
from lit_tune.planning.collectives import Collective
from lit_tune.planning.kernels import Span

PASSES = {"all-reduce": 2.0, "all-gather": 1.0, "reduce-scatter": 1.0, "all-to-all": 1.0, "ragged-all-to-all": 1.0,
          "collective-permute": 1.0, "collective-broadcast": 1.0}


def span(one: Collective, chip: Chip, slices: int) -> Span:
    """Time of all runs of an exchange in a step.

    Args:
        one: it.
        chip: of the mesh.
        slices: in the mesh.
    """
    if one.estimated:
        return Span(0.0, 0.0)
    passes, inside = PASSES[one.kind], max(1, one.group // (slices if one.crosses_slices else 1))
    bytes_ = passes * one.bytes * one.times
    send = chip.link_rate / 2  # one way
    near = bytes_ * (inside - 1) / inside / send
    far = bytes_ / inside * (slices - 1) / slices / chip.network_rate if one.crosses_slices else 0.0
    low = 0.0 if one.asynchronous else near + far
    return Span(low, near * max(1, chip.dimensions) + 2 * far)
