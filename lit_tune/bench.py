"""`lit-tune bench`: paired timings on this machine, as ratios of one run; `retrieval` and `eval` are measured here."""

import dataclasses
import json
import os
import statistics
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

from lit_tune import cli

if __name__ == "__main__":
    cli.answer_help("bench")  # before anything below imports jax

import numpy as np  # noqa: E402

from lit_tune import bench_towers, config as config_lib, console, flag_reading  # noqa: E402
from lit_tune.benching import data, embed, loss, machine, settings, step  # noqa: E402
from lit_tune.benching.timing import in_turns, ratio  # noqa: E402
from lit_tune.errors import ConfigError, NumbersError, explain  # noqa: E402
from lit_tune.evaldata.dataset import EvalData  # noqa: E402
from lit_tune.evals import retrieval, scoring, tiles, zero_shot  # noqa: E402
from lit_tune.evals.catalog import TASKS  # noqa: E402
from lit_tune.flags import BenchFlags  # noqa: E402

IMAGES = {"retrieval": 4096, "eval": 50_000}  # where --images is absent
# where --repeats is absent
REPEATS = {"retrieval": 3, "eval": 3, "data": data.REPEATS, "loss": 5, "embed": 8, "step": 8}
SIMULATED = 8  # devices of `bench loss` on a CPU
LARGE = 1_000_000  # pictures and captions that the time is worked out for
Figures = dict[str, Any]
Changes = Sequence[tuple[str, str]]  # (dotted key, text) of the config
Show = Callable[[Figures], list[str]]


def main(argv: Sequence[str]) -> int:
    """Runs `lit-tune bench`: prints a table, or JSON; returns the exit code."""
    flags: BenchFlags = config_lib.parse(argv, "bench")
    part = _part(flags)
    flags = dataclasses.replace(flags, repeats=flags.repeats or REPEATS[part])
    changes = flag_reading.read(argv, "bench")[1]
    if part not in ("embed", "step") and (flags.config is not None or changes):
        raise ConfigError(explain(f"bench {part}", expected="no config: it measures none", found="one",
                                  do="leave --config out"))  # fmt: skip
    machine.keep_to(flags.threads)
    load = machine.load()  # of others, before we add to it
    console.quiet_dependencies()
    if part in ("embed", "step"):
        found, show = _of_config(part, flags, changes)
    else:
        found, show = {"retrieval": _retrieval, "eval": _eval, "loss": _loss, "data": _data}[part](flags)
    found = {"part": part, "machine": machine.about() | {"load": load}} | found
    print(json.dumps(found, indent=1) if flags.json else "\n".join(show(found)))
    return 0


def _part(flags: BenchFlags) -> str:
    """The part that was asked for, if this version has it."""
    asked = " ".join(flags.args[:1] if flags.args[:1] == ("data",) else flags.args)
    if asked not in REPEATS or len(flags.args) > 2:
        raise ConfigError(explain("bench", expected=" or ".join(REPEATS), found=repr(asked), do="name one part"))
    return asked


def _retrieval(flags: BenchFlags) -> tuple[Figures, Show]:
    """(figures, how to show them) of `bench retrieval`."""
    images = flags.images or IMAGES["retrieval"]
    if flags.texts < images:
        raise ConfigError(explain("--texts", expected=f"at least {images}, one a picture", found=flags.texts,
                                  do="raise it, or lower --images"))  # fmt: skip
    return measure_retrieval(flags, images), show_retrieval


def _eval(flags: BenchFlags) -> tuple[Figures, Show]:
    """(figures, how to show them) of `bench eval`."""
    return measure_eval(flags, flags.images or IMAGES["eval"]), show_eval


def _loss(flags: BenchFlags) -> tuple[Figures, Show]:
    """(figures, how to show them) of `bench loss`."""
    machine.simulate(flags.devices or SIMULATED)
    devices = machine.devices(flags.devices)
    dtype = flags.dtype or ("float32" if devices[0].platform == "cpu" else "bfloat16")
    return loss.measure(flags.n, flags.dim, dtype, devices, flags.repeats), loss.show


def _data(flags: BenchFlags) -> tuple[Figures, Show]:
    """(figures, how to show them) of `bench data`."""
    shards = "".join(flags.args[1:])
    found = data.measure(shards, count=flags.images or data.PICTURES, repeats=flags.repeats, pictures=flags.pictures,
                         plans=flags.plans)
    return found, data.show


def _of_config(part: str, flags: BenchFlags, changes: Changes) -> tuple[Figures, Show]:
    """(figures, how to show them) of `bench step` and `bench embed`."""
    # torch, beside us on the same GPU, needs the memory that jax would take for itself
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    machine.simulate(flags.devices or 1)
    devices = machine.devices(flags.devices or 1)
    config = settings.default(devices[0].platform, changes) if flags.config is None else flags.config
    config = settings.measured(config, flags.batch, flags.micro_batches, len(devices))
    if part == "embed":
        return embed.measure(config, devices, flags.repeats, torch=flags.torch), embed.show
    return step.measure(config, devices, flags.repeats, torch=flags.torch, plan=flags.plan), step.show


def pairs(images: int, texts: int, dim: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(zimg (images, dim), ztxt (texts, dim), owner (texts,)): random unit rows, captions drawn to their pictures."""
    rng = np.random.default_rng(seed)
    owner = np.arange(texts) % images
    zimg = zero_shot.unit(rng.standard_normal((images, dim), np.float32))
    noise = zero_shot.unit(rng.standard_normal((texts, dim), np.float32))
    return zimg, zero_shot.unit(0.15 * zimg[owner] + noise), owner


def plain_float64(zimg: np.ndarray, ztxt: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rank of each caption's picture, rank of each picture's best caption) by float64 products of all tiles."""
    scores = tiles.pair_products(ztxt, zimg, np.arange(len(ztxt)), owner)
    best = np.full(len(zimg), -np.inf, np.float32)
    np.maximum.at(best, owner, scores)
    # right answers are never lower than the best: they are counted, and taken off again
    to_image = np.full(len(ztxt), -1)
    to_text = -np.bincount(owner[scores >= best[owner]], minlength=len(zimg))
    for here, there, block in _tiles(zimg, ztxt, np.float64):
        block = block.astype(np.float32)
        to_image[here] += (block >= scores[here, None]).sum(1)
        to_text[there] += (block >= best[None, there]).sum(0)
    return to_image, to_text


def _tiles(zimg: np.ndarray, ztxt: np.ndarray, dtype: type) -> Any:
    """(captions, pictures, their products) tile by tile, by NumPy in one dtype."""
    rows, columns = tiles.TILE
    for j in range(0, len(zimg), columns):
        block = zimg[j : j + columns].astype(dtype, copy=False)
        for i in range(0, len(ztxt), rows):
            yield slice(i, i + rows), slice(j, j + columns), ztxt[i : i + rows].astype(dtype, copy=False) @ block.T


def measure_retrieval(flags: BenchFlags, images: int) -> dict[str, Any]:
    """Seconds of a comparison in both directions: ours, plain float64, and nothing but float32 products.

    Raises:
        NumbersError: ours and the plain one do not agree.
    """
    zimg, ztxt, owner = pairs(images, flags.texts, flags.dim)
    number = np.arange(len(ztxt))

    def products_alone() -> None:
        for _ in _tiles(zimg, ztxt, np.float32):
            pass

    runs = {
        "exact": lambda: retrieval.find(zimg, ztxt, owner, number),
        "float64": lambda: plain_float64(zimg, ztxt, owner),
        "products": products_alone,
    }
    tracemalloc.start()
    found = runs["exact"]()  # also warms up
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    differ = sum(int((f.ranks != r).sum()) for f, r in zip(found, runs["float64"](), strict=True))
    if differ:
        raise NumbersError(explain("bench retrieval", expected="the ranks of plain float64 products",
                                   found=f"{differ} others", do="report this machine"))  # fmt: skip
    runs["products"]()
    seconds = in_turns(runs, flags.repeats)
    exact = statistics.median(seconds["exact"])
    return {
        "images": images, "texts": flags.texts, "dim": flags.dim, "repeats": flags.repeats,
        "seconds": {name: statistics.median(times) for name, times in seconds.items()},
        "exact_over_float64": ratio(seconds["exact"], seconds["float64"]),
        "exact_over_products": ratio(seconds["exact"], seconds["products"]),
        "peak_mb": peak / 1e6,
        "estimated_hours_large": exact * LARGE**2 / (images * flags.texts) / 3600,
    }  # fmt: skip


def show_retrieval(found: dict[str, Any]) -> list[str]:
    """The lines of the table."""
    seconds = found["seconds"]
    return [
        f"retrieval, both ways: {found['images']:,} pictures x {found['texts']:,} captions x {found['dim']}, median of "
        f"{found['repeats']}; {machine.in_words(found['machine'])}",
        f"  exact comparison      {seconds['exact']:10.2f} s   all ranks as with plain float64",
        f"  plain float64         {seconds['float64']:10.2f} s   exact takes {found['exact_over_float64']:.2f} of it",
        f"  float32 products only {seconds['products']:10.2f} s   exact takes {found['exact_over_products']:.2f} of it",
        f"  peak memory of exact  {found['peak_mb']:10.0f} MB  beside the vectors",
        f"  estimate for {LARGE:,} x {LARGE:,}: {found['estimated_hours_large']:.2f} hours here, "
        "if the time grows with the pairs",
    ]


def measure_eval(flags: BenchFlags, images: int) -> dict[str, Any]:
    """Seconds of a zero-shot evaluation: towers on a sample, scaled; everything after them at full size.

    Reading and decoding pictures and tokenising prompts are not in it.
    """
    towers = bench_towers.load(flags.model)
    prompts = flags.classes * flags.templates
    picture = towers.seconds_a_picture(flags.sample, flags.repeats)
    prompt = towers.seconds_a_prompt(flags.prompts, flags.repeats)
    rest = scoring_seconds(images, flags.classes, flags.templates, towers.dim, flags.repeats)
    outside, inside = sum(rest.values()), images * picture + prompts * prompt
    return {
        "images": images, "classes": flags.classes, "prompts": prompts, "dim": towers.dim, "towers": towers.name,
        "sample": [flags.sample, flags.prompts], "repeats": flags.repeats,
        "seconds": {"image tower": images * picture, "text tower": prompts * prompt} | rest,
        "ms_a_picture": 1e3 * picture, "ms_a_prompt": 1e3 * prompt,
        "outside_seconds": outside, "outside_percent": 100 * outside / (outside + inside),
    }  # fmt: skip


def scoring_seconds(images: int, classes: int, templates: int, dim: int, repeats: int) -> dict[str, float]:
    """{"scoring": median seconds of all figures of a zero-shot task}, with synthetic vectors of full size."""
    rng = np.random.default_rng(0)
    ztxt = zero_shot.unit(rng.standard_normal((classes * templates, dim), np.float32))
    zimg = zero_shot.unit(rng.standard_normal((images, dim), np.float32))
    names = tuple(f"thing {i}" for i in range(classes))
    lines = tuple(f"photo {i} of a {{}}." for i in range(templates))
    labels = rng.integers(classes, size=images)
    data = EvalData("classification", _Closed(), "", "made up", names, lines, labels)
    seconds = in_turns({"scoring": lambda: scoring.score(TASKS["imagenet"], data, zimg, lambda texts: ztxt)}, repeats)
    return {name: statistics.median(times) for name, times in seconds.items()}


class _Closed(list):
    """Pictures of made-up data: nobody opens them."""

    def describe(self, i: int) -> str:
        """A name."""
        return f"picture {i}"


def show_eval(found: dict[str, Any]) -> list[str]:
    """The lines of the table."""
    images, prompts, total = found["images"], found["prompts"], sum(found["seconds"].values())
    lines = [
        f"zero-shot: {images:,} pictures, {found['classes']:,} classes, {prompts:,} prompts; "
        f"{machine.in_words(found['machine'])}",
        f"towers: {found['towers']}",
        f"timed on {found['sample'][0]} pictures and {found['sample'][1]} prompts, then scaled; decoding and "
        "tokenising are not counted",
    ]
    for name, seconds in found["seconds"].items():
        each, count = ("prompt", prompts) if name == "text tower" else ("picture", images)
        share, ms = 100 * seconds / total, 1e3 * seconds / count
        lines.append(f"  {name:<14}{seconds:12.2f} s {share:8.3f} %  {ms:10.4g} ms a {each}")
    return [*lines, f"outside the towers: {found['outside_seconds']:.2f} s, {found['outside_percent']:.3f} %"]


if __name__ == "__main__":
    sys.exit(cli.run(main))
