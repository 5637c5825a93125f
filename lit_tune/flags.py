"""The flags of every subcommand: one frozen dataclass each, which is also where its help text comes from.

`lit_tune.flag_reading` reads a command line by them; `lit_tune.config.parse` is what the subcommands call.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from lit_tune import debug_faults
from lit_tune.flag_values import (
    fault,
    from_zero,
    here,
    one_of,
    positive,
    share,
    step_range,
    truth,
    whole,
    wholes,
    words,
)


def flag(meaning: str, default: Any = None, *, read: Callable[[str], Any] = str, form: str = "TEXT",
         required: bool = False) -> Any:
    """A dataclass field that is a flag.

    Args:
        meaning: one line for --help.
        default: value when the flag is absent. A bool makes it a switch.
        read: text -> value; raises ValueError for a text it refuses.
        form: what the value looks like, for --help and errors.
        required: refuse a command line without it.
    """
    return dataclasses.field(default=default, metadata={
        "meaning": meaning, "read": read, "form": form, "required": required})


CONFIG = "NAME[:arg] of a shipped config, or FILE.py[:arg]"


@dataclasses.dataclass(frozen=True)
class TrainFlags:
    """Train, evaluate as configured, save checkpoints; the same command resumes."""

    config: ConfigDict = flag(CONFIG, form="NAME", required=True)
    workdir: str = flag("the run's folder; made if absent, resumed if not", form="DIR", required=True)
    # Absent values of these three are looked for in variables (lit_tune.distributed.initialize).
    coordinator: str = flag("address of process 0, for several processes on one machine", "", form="HOST:PORT")
    num_processes: int = flag("how many processes there are", 0, read=whole, form="N")
    process_id: int = flag("which of them this is, from 0", -1, read=whole, form="N")
    extend: bool = flag("allow more total_steps than the run was started with", False)
    skip_batches: tuple[int, int] | None = flag("steps A to B - 1 run as skipped", read=step_range, form="A:B")
    preempted_exit_code: int = flag("exit code after being told to stop, once saved", 0, read=whole, form="N")
    restarts: int = flag("start it again after a crash, kill or hang, up to N times without a newer checkpoint", 0,
                         read=from_zero, form="N")
    debug_fault: tuple[str, int, int | None] | None = flag(
        f"make a fault on purpose: {', '.join(debug_faults.KINDS)}", read=fault, form="KIND@STEP[:PROCESS]")
    max_samples: int | None = flag("use only the first N pairs of the training data", read=positive, form="N")
    allow_missing: float = flag("share of the shards that may be missing or damaged; they are left out", 0.0,
                                read=share, form="SHARE")


@dataclasses.dataclass(frozen=True)
class EvalFlags:
    """Evaluate a saved step of a run or an exported tower; or compare systems that were evaluated."""

    workdir: str | None = flag("the run's folder; its own config is used", form="DIR")
    step: int | None = flag("which checkpoint; the newest if absent", read=whole, form="N")
    model: str | None = flag("an import or export, instead of --workdir", form="DIR")
    tasks: tuple[str, ...] = flag(
        "imagenet, flickr30k, coco, datacomp38, mteb:TASK..., NAME=DATA, or sets of the run; the run's own if absent",
        (), read=words, form="A,B")
    data_root: str | None = flag("folder that the tasks' data and relative paths start from", form="DIR")
    out: str | None = flag("results folder; WORKDIR/eval/N or MODEL/eval if absent", read=here, form="DIR")
    prompt: str | None = flag("put before every text: none, search_query, TEXT; the tower's own prefix if absent",
                              form="TEXT")
    prompts: tuple[str, ...] = flag("report these prompts too: none, own, search_query, TEXT", (), read=words,
                                    form="A,B")
    dims: tuple[int, ...] = flag("report the first so many numbers of the vectors too", (), read=wholes, form="N,N")
    probes: tuple[str, ...] = flag("train on frozen vectors too: knn, linear", (), read=words, form="A,B")
    clean: bool = flag("mend broken Unicode, HTML entities and white space of texts first", True)
    class_field: str | None = flag("field of the .json members that names the class: scores zero-shot too", form="NAME")
    classnames: str | None = flag("class names, one on each line, instead of the data's own", form="FILE")
    templates: str | None = flag("prompts of the classes, one on each line, {} for the name", form="FILE")
    batch: int | None = flag("pictures embedded at a time and device", read=positive, form="N")
    restart: bool = flag("do again what the results folder already holds", False)
    compare: bool = flag("put systems side by side: runs, models, results folders, published:NAME", False)
    html: str | None = flag("write the comparison as a page too", form="FILE")
    coordinator: str = flag("address of process 0, for several processes on one machine", "", form="HOST:PORT")
    num_processes: int = flag("how many processes there are", 0, read=whole, form="N")
    process_id: int = flag("which of them this is, from 0", -1, read=whole, form="N")
    args: tuple[str, ...] = flag("with --compare: what to compare", (), form="SYSTEM SYSTEM ...")


@dataclasses.dataclass(frozen=True)
class EmbedFlags:
    """Embed pictures or texts into a file of ids and unit vectors; killed, the same command goes on."""

    model: str = flag("a run's folder, an import or an export", form="DIR", required=True)
    images: str | None = flag("pictures: a glob, a folder or shards", form="GLOB_OR_TAR")
    texts: str | None = flag("texts: a file with one on each line", form="FILE")
    prompt: str | None = flag("put before every text; the tower's own prefix if absent", form="TEXT")
    out: str = flag("the file to write, .npz or .parquet", read=here, form="X.npz", required=True)
    restart: bool = flag("begin anew where another collection or model is half done", False)


@dataclasses.dataclass(frozen=True)
class SearchFlags:
    """Show the nearest pictures of an embedded collection to words or to a picture."""

    model: str = flag("a run's folder, an import or an export", form="DIR", required=True)
    index: str = flag("what `embed` wrote, .npz or .parquet", form="X.npz", required=True)
    html: str | None = flag("write the result as a page too", form="FILE")
    top: int = flag("how many to show", 5, read=whole, form="N")
    args: tuple[str, ...] = flag("the words, or the path of a picture", (), form="WORDS_OR_PICTURE")


@dataclasses.dataclass(frozen=True)
class ImportFlags:
    """Turn PyTorch weights of one tower, or of both, into a folder that every other command reads."""

    from_: str = flag("whose names and config the weights have", form="timm|nomic|hf|open_clip", required=True)
    weights: str = flag("a file, a folder, or a hub id owner/name", form="PATH", required=True)
    out: str = flag("the folder to write; one that lacks this tower is completed", read=here, form="DIR",
                    required=True)
    revision: str = flag("commit of the hub, for a hub id", "", form="SHA")
    model_config: str = flag("the peer's config, if it does not lie beside the weights", "", form="JSON")
    tower: str = flag("vision or text, where the weights hold both", "all", form="KIND")
    image_size: int | None = flag("bring an image tower to another picture size, pixels", read=positive, form="N")
    patch_size: int | None = flag("bring an image tower to another patch size, pixels", read=positive, form="N")
    resample: str = flag("how: bicubic (as the paper's start was made) | pinv (timm's way)", "bicubic", form="NAME")
    pool: str | None = flag("mean | cls | last, of a text tower; CLIP and SigLIP have their own rule", form="NAME")
    layer_norm: bool | None = flag(
        "LayerNorm without affine on the pooled text vector", read=truth, form="true|false")
    prefix: str | None = flag("put before every text", form="TEXT")
    max_length: int | None = flag("tokens of a text, prefix included", read=positive, form="N")
    tokenizer: str = flag("folder of the tokenizer, if it does not lie beside the weights", "", form="DIR")
    allow_pickle_weights: bool = flag("read .bin, .pt and .pth too, tensors only (needs torch)", False)


@dataclasses.dataclass(frozen=True)
class ExportFlags:
    """Write the towers as a folder that other packages load, checked numerically."""

    workdir: str | None = flag("the run's folder", form="DIR")
    step: int | None = flag("which checkpoint; the newest if absent", read=whole, form="N")
    model: str | None = flag("an import or another export, instead of --workdir", form="DIR")
    format: str = flag("hf, timm, nomic, open_clip, sentence-transformers, onnx or lit_tune", "hf", form="FORMAT")
    out: str = flag("the folder to write", read=here, form="DIR", required=True)
    name: str | None = flag("what the card calls the model; the folder's name if absent", form="TEXT")


@dataclasses.dataclass(frozen=True)
class AverageFlags:
    """Write a model whose image weights lie between those of two others (as WiSE-FT does)."""

    alpha: float = flag("share of B: (1 - alpha) A + alpha B", 0.5, read=share, form="SHARE")
    out: str = flag("the folder to write", read=here, form="DIR", required=True)
    args: tuple[str, ...] = flag("two runs, imports or exports; RUN@STEP for an older checkpoint", (), form="A B")


@dataclasses.dataclass(frozen=True)
class CacheTextFlags:
    """Compute the frozen text vectors of every caption once and keep them on disk; or take them from a file."""

    config: ConfigDict = flag(CONFIG, form="NAME", required=True)
    out: str | None = flag("the folder to write; the shared cache if absent", read=here, form="DIR")
    from_: str | None = flag("vectors of any text model, .parquet or .npz; no tower is needed", form="FILE")
    match: str = flag("with --from: what its rows are of, uid, key or caption; its column's name if absent", "",
                      form="NAME")
    max_samples: int | None = flag("only the first N pairs, as train --max_samples", read=positive, form="N")
    allow_missing: float = flag("share of the shards that may be missing or damaged, as train --allow_missing; with "
                                "--from also of the samples that may have no vector", 0.0, read=share, form="SHARE")
    part: tuple[int, int] | None = flag("make every N-th part from the I-th on: one of N machines", read=one_of,
                                        form="I/N")
    part_samples: int = flag("samples of a part: what memory holds and a kill can lose", 1_048_576, read=positive,
                             form="N")


@dataclasses.dataclass(frozen=True)
class DataFlags:
    """Index a data set, count and show what is in it, take a subset of it, or write it in another form."""

    caption_field: str = flag("txt, or a field of the .json member", "txt", form="FIELD")
    json: bool = flag("print JSON", False)
    html: str | None = flag("inspect: write a page too, with pictures", form="FILE")
    config: ConfigDict | None = flag(f"inspect: whose tokenizer, policy and limits; {CONFIG}", form="NAME")
    sample: int = flag("inspect: pairs looked at, drawn by seed where there are more", 20_000, read=positive, form="N")
    decode: int = flag("inspect: of these, pictures decoded", 1_000, read=positive, form="N")
    seed: int = flag("inspect: of what is drawn", 0, read=from_zero, form="N")
    workers: int | None = flag("index, convert, reshard: processes; one a core if absent", read=positive, form="N")
    uid_list: str | None = flag("index, reshard: only pairs whose uid is in it: .npy, parquet, text", form="FILE")
    uid_repeats: str = flag("index, reshard: a uid listed n times is one sample, or n: once | multiplicity",
                            "multiplicity", form="NAME")
    out: str | None = flag("convert, reshard: the folder to write", read=here, form="DIR")
    allow_missing: float = flag("convert, reshard: share of the shards that may be missing or damaged", 0.0, read=share,
                                form="FRACTION")
    per_shard: int = flag("reshard, convert of a folder: pairs a shard", 10_000, read=positive, form="N")
    to: str | None = flag("convert: tar (pictures made smaller) | array_record (as they are)", form="FORM")
    size: int = flag("convert --to=tar: shorter side, pixels; smaller pictures keep theirs", 256, read=positive,
                     form="N")
    quality: int = flag("convert --to=tar: of the JPEGs, 1 to 100", 90, read=positive, form="N")
    policy: str = flag("convert --to=tar: how odd pictures become RGB, as config.data.policy: clean | reference",
                       "clean", form="NAME")
    args: tuple[str, ...] = flag("what to do, then shards or a folder", (),
                                 form="index|inspect|convert|reshard|bench DATA")


@dataclasses.dataclass(frozen=True)
class VerifyFlags:
    """Check the digests of every file of a checkpoint."""

    args: tuple[str, ...] = flag("a run's folder or one checkpoint", (), form="WORKDIR_OR_CHECKPOINT")


@dataclasses.dataclass(frozen=True)
class BenchFlags:
    """Measure this machine: step, embedding, loss and input beside others' code; retrieval; an evaluation's parts."""

    args: tuple[str, ...] = flag("which part", (), form="step|embed|loss|data [SHARDS]|retrieval|eval")
    config: ConfigDict | None = flag(f"step, embed: {CONFIG}; a size for this machine if absent", form="NAME")
    batch: int | None = flag("step, embed: pairs; 16 on a CPU, 256 else, or the config's", read=positive, form="N")
    micro_batches: int | None = flag("step: parts of the batch (gradient cache)", read=positive, form="N")
    torch: bool = flag("step, embed: PyTorch too, where torch and timm are installed", True)
    plan: bool = flag("step: the plan of the compiled program on a CPU too", False)
    n: tuple[int, ...] = flag("loss: pairs", (4096, 8192), read=wholes, form="N,N")
    dtype: str = flag("loss: of the products: float32 | bfloat16; float32 on a CPU, bfloat16 else", "", form="NAME")
    devices: int | None = flag("step, embed, loss: how many; 1, loss all (8 simulated on a CPU)", read=positive,
                               form="N")
    threads: int | None = flag("cores to use, by us and by PyTorch; all if absent", read=positive, form="N")
    images: int | None = flag("pictures; retrieval 4096, eval 50000, data 24 if absent", read=positive, form="N")
    pictures: str = flag("data: photographs (two of scikit-learn) | made; photographs if installed", "", form="NAME")
    plans: tuple[str, ...] = flag("data: what `lit-tune plan --json` wrote, for the cores of its hosts; shipped plans "
                                  "if absent", (), read=words, form="FILE,FILE")
    texts: int = flag("retrieval: captions, at least one a picture", 16_384, read=positive, form="N")
    dim: int = flag("retrieval, loss: width of the vectors", 768, read=positive, form="N")
    classes: int = flag("eval: classes", 1000, read=positive, form="N")
    templates: int = flag("eval: prompts of a class", 80, read=positive, form="N")
    model: str | None = flag("eval: towers to time; EVA02-B/16 and nomic-bert if absent, random weights", form="DIR")
    sample: int = flag("eval: pictures that the image tower is timed with", 64, read=positive, form="N")
    prompts: int = flag("eval: prompts that the text tower is timed with", 256, read=positive, form="N")
    repeats: int | None = flag("times that everything is measured, in turns, the median counts; 3, loss 5, data 7, "
                               "step and embed 8 if absent", read=positive, form="N")
    json: bool = flag("print JSON", False)


@dataclasses.dataclass(frozen=True)
class PlanFlags:
    """Compile the training step for chips that are not there: memory, exchanges, time, cost."""

    config: ConfigDict = flag(CONFIG, form="NAME", required=True)
    topology: tuple[str, ...] = flag(
        "v5e:16x16, v5litepod-256, v6e-256, v5p:4x4x4, tpu7x-16, h200x8...; several with --sweep", read=words,
        form="NAME", required=True)
    slices: int = flag("how many such slices, joined by the data centre's network", 1, read=positive, form="N")
    json: bool = flag("print JSON", False)
    assert_: bool = flag("exit code 1 and a line for each promise about the program that is broken", False)
    plain: bool = flag("compile the plain step too (einsum attention, full remat), for comparison", True)
    prices: str | None = flag("a price table, instead of the shipped one", form="FILE")
    part: str = flag("step, or the loss alone beside open_clip's", "step", form="step|loss")
    n: int | None = flag("with --part=loss: pairs; the config's global_batch if absent", read=positive, form="N")
    sweep: bool = flag("try remat policies, parts of the batch and slices: a table and a picture", False)
    svg: str = flag("with --sweep: the picture, memory against time", "plan.svg", form="FILE")


@dataclasses.dataclass(frozen=True)
class DoctorFlags:
    """Look for what stands in the way of a first run: versions, devices, what is missing and how to install it."""

    config: ConfigDict | None = flag(f"look at this run too: its data, text, batch, memory; {CONFIG}", form="NAME")
    json: bool = flag("print JSON", False)


COMMANDS: dict[str, type] = {
    "train": TrainFlags, "eval": EvalFlags, "embed": EmbedFlags, "search": SearchFlags, "export": ExportFlags,
    "import": ImportFlags, "average": AverageFlags, "cache_text": CacheTextFlags, "data": DataFlags,
    "verify": VerifyFlags, "bench": BenchFlags, "plan": PlanFlags, "doctor": DoctorFlags,
}
