"""What the compiled step has to keep, looked up in the program itself: `lit-tune plan --assert`."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from lit_tune.losses import blocks
from lit_tune.planning import collectives, hlo
from lit_tune.planning.collectives import Collective
from lit_tune.planning.compiling import GIB, Compiled
from lit_tune.planning.hlo import Program

HLO_NAMES = {"bfloat16": "bf16", "float32": "f32"}
SMALL = 10_000  # elements of scalars and counts that are reduced beside the gradients


def broken(config: ConfigDict, compiled: Compiled) -> list[str]:
    """One line for each promise that the program breaks; none is the answer hoped for.

    Args:
        config: of the step.
        compiled: it.
    """
    if not compiled.fits:
        peak = "more than there is" if compiled.peak is None else f"{compiled.peak / GIB:.2f} GiB"
        return [f"fits: the program wants {peak}"]
    program = hlo.read(compiled.text)
    found = collectives.find(program, compiled.layout)
    return [*_gathers(config, found, compiled), *_reductions(config, found, compiled),
            *_all_to_alls(found), *_tables(config, program, compiled)]


def texts(config: ConfigDict) -> tuple[int, int]:
    """(rows, width) of the texts of a step, on every device together; nobody's own texts included."""
    rows = config.global_batch * (1 + config.loss.text_bank) + config.loss.extra_negatives
    return rows, config.vision.embed_dim or config.vision.width


def _gathers(config: ConfigDict, found: Sequence[Collective], compiled: Compiled) -> list[str]:
    """The text is gathered once, in the compute dtype; pictures and their vectors never."""
    lines = []
    rows, width = texts(config)
    height, across = config.vision.image_size
    gathers = [one for one in found if one.kind == "all-gather"]
    for one in gathers:
        for shape in one.shapes:
            if shape.size >= config.global_batch * height * across * 3 // 2:
                lines.append(f"pictures are gathered: {shape.dtype}{list(shape.dims)} ({one.source})")
    if compiled.layout.axes["data"] * compiled.layout.axes["fsdp"] == 1:
        return lines
    text = [(one, shape) for one in found for shape in one.shapes if _holds_texts(one, shape, rows, width)]
    times = sum(one.times for one, _ in text)
    if times != 1:
        lines.append(f"one all-gather of the {rows} x {width} text vectors: found {times}")
    wrong = [shape.dtype for _, shape in text if shape.dtype != HLO_NAMES[config.dtype]]
    if wrong:
        lines.append(f"text is gathered in {HLO_NAMES[config.dtype]}: found {wrong[0]}")
    return lines


def _holds_texts(one: Collective, shape: hlo.Shape, rows: int, width: int) -> bool:
    """Whether an exchange brings all texts together; v5p's compiler gathers by a sum over arrays of zeros elsewhere."""
    return one.kind in ("all-gather", "all-reduce") and shape.size == rows * width and shape.dims[-1:] == (width,)


def _reductions(config: ConfigDict, found: Sequence[Collective], compiled: Compiled) -> list[str]:
    """Every gradient is reduced once over the data axis: as many elements as are trained, give or take the loss's.

    Between slices each chip reduces its part of what its slice has summed.
    """
    axes, slices = compiled.layout.axes, len(set(compiled.layout.slice_of))
    if axes["data"] == 1 or axes["fsdp"] * axes["tensor"] > 1:
        return []  # parts of a gradient are reduced over each axis: their sum says nothing
    far = [one for one in found if one.name]  # handed to the network, apart from the exchanges of a slice
    inside = axes["data"] // slices if far else axes["data"]
    lines = _reduced_once(config, [one for one in found if not one.name], compiled.trained) if inside > 1 else []
    return lines + (_reduced_once(config, far, compiled.trained, inside, " between slices") if far else [])


def _reduced_once(config: ConfigDict, found: Sequence[Collective], trained: int, parts: int = 1,
                  where: str = "") -> list[str]:
    """The line if exchanges do not sum as many elements as are trained, cut into `parts`."""
    reduced = sum(shape.size * one.times for one in found if one.kind in ("all-reduce", "reduce-scatter")
                  for shape in one.shapes if not _holds_texts(one, shape, *texts(config)))
    spare = 4 * texts(config)[0] * (1 + len(config.loss.matryoshka_dims)) + SMALL
    # A pooling query's kernel has a gradient of rank one: the compiler reduces the vector and not the matrix.
    if 0.9 * trained / parts <= reduced <= (1.01 * trained + spare) / parts + SMALL:
        return []
    return [f"gradients of {trained} parameters are reduced once{where}: found {reduced} elements reduced"
            + (f", of {trained / parts:.0f} a chip" if where else "")]


def _all_to_alls(found: Sequence[Collective]) -> list[str]:
    """There is none."""
    return [f"no all-to-all: found {one.kind} of {one.bytes} bytes ({one.source})" for one in found
            if one.kind in ("all-to-all", "ragged-all-to-all")]


def _tables(config: ConfigDict, program: Program, compiled: Compiled) -> list[str]:
    """No array holds every logit of a device's rows: n_local x N float32, whatever the order of its dimensions."""
    rows = texts(config)[0]
    local = config.global_batch // (compiled.layout.axes["data"] * compiled.layout.axes["fsdp"])
    if blocks.width_of_block(local, rows) >= rows:  # so few texts that the loss takes them as one block
        return []
    seen = {(shape, visit.instruction.source) for visit in program.visits() if not visit.fused
            for shape in visit.instruction.shapes if shape.dtype == "f32" and _is_table(shape.dims, local, rows)}
    return [f"no table of {local} x {rows} logits: found f32{list(shape.dims)} ({source})"
            for shape, source in sorted(seen)[:3]]


def _is_table(dims: tuple[int, ...], local: int, rows: int) -> bool:
    """Whether dimensions hold local x rows numbers as a table of both, cut into parts or not."""
    size = hlo.Shape("f32", dims).size
    return len(dims) > 1 and size >= local * rows and (
        {local, rows} <= set(dims) or size == local * rows and (local in dims or rows in dims)) and (
        local != rows or dims.count(rows) >= 2 or rows not in dims)
