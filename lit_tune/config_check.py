"""What can be refused about a config before jax is imported, a shard opened or anything compiled."""

import math
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lit_tune import errors, shipped

# Names a key may have. A new loss, head, schedule... is a function in its module and a word here.
CHOICES = {
    "dtype": ("float32", "bfloat16"),
    "vision.family": ("eva02", "vit"),
    "vision.act": ("gelu", "gelu_tanh", "quick_gelu"),
    "vision.init_resample": ("bicubic", "pinv"),
    "vision.pool": ("map", "nomic", "cls", "mean"),
    "vision.attention": ("auto", "einsum", "pallas", "cudnn"),
    "vision.remat": ("none", "save", "dots", "full"),
    "text.pool": ("mean", "cls", "last"),
    "text.source": ("cached", "live", "vectors"),
    "text.cache_dtype": ("float32", "bfloat16", "int8"),
    "loss.name": ("softmax", "sigmoid"),
    "optim.lr_scaling": ("none", "sqrt", "linear"),
    "optim.schedule": ("cosine", "deepspeed_cosine"),
    "data.policy": ("clean", "reference"),
    "data.captions": ("random", "first", "joined"),
    "data.resize_on": ("host", "device"),
    "data.uid_repeats": ("once", "multiplicity"),
    "data.resize": ("shortest", "squash"),
}

# Where each number, or each number of a tuple, has to lie: [ and ] belong to it, ( and ) do not.
RANGES = {
    "seed": "[0, 4294967295]", "total_steps": "[1, inf)", "global_batch": "[1, inf)", "micro_batches": "[1, inf)",
    "mesh.data": "[-1, inf)", "mesh.fsdp": "[-1, inf)", "mesh.tensor": "[-1, inf)",
    "vision.image_size": "[1, inf)", "vision.patch_size": "[1, inf)", "vision.width": "[1, inf)",
    "vision.depth": "[1, inf)", "vision.num_heads": "[1, inf)", "vision.mlp_dim": "[1, inf)",
    "vision.pos_embed_grid": "[0, inf)", "vision.rope_theta": "(0, inf)", "vision.rope_reference_grid": "[0, inf)",
    "vision.norm_eps": "(0, 1)", "vision.sub_ln_eps": "(0, 1)", "vision.pool_norm_eps": "(0, 1)",
    "vision.pool_mlp_dim": "[1, inf)", "vision.embed_dim": "[0, inf)", "vision.patch_dropout": "[0, 1)",
    "vision.freeze_blocks": "[-1, inf)",
    "text.max_length": "[3, inf)", "text.length_buckets": "[3, inf)", "text.dim": "[0, inf)",
    "loss.logit_scale_init": "(-inf, inf)", "loss.logit_scale_max": "[0, inf)", "loss.logit_bias_init": "(-inf, inf)",
    "loss.extra_negatives": "[0, inf)", "loss.matryoshka_dims": "[1, inf)", "loss.text_bank": "[0, inf)",
    "optim.lr": "(0, inf)", "optim.lr_base_batch": "[1, inf)", "optim.warmup_steps": "[0, inf)",
    "optim.end_lr": "[0, 1]", "optim.b1": "[0, 1)", "optim.b2": "[0, 1)", "optim.eps": "(0, 1)",
    "optim.layer_decay": "(0, 1]",
    "optim.wd": "[0, inf)", "optim.clip_norm": "[0, inf)", "optim.ema_decay": "[0, 1)",
    "optim.skip_spikes": "[0, inf)",
    "data.mean": "[0, 1]", "data.std": "(0, inf)", "data.crop_scale": "(0, 1]", "data.crop_ratio": "(0, inf)",
    "data.flip": "[0, 1]", "data.color_jitter": "[0, 1]", "data.grayscale": "[0, 1]", "data.rotate": "[0, 180]",
    "data.workers": "[0, inf)", "data.threads": "[1, inf)", "data.prefetch": "[1, inf)",
    "data.cache_decoded_mib": "[0, inf)", "data.max_image_mib": "[1, inf)", "data.max_pixels": "[1, inf)",
    "data.max_bad_fraction": "[0, 1]", "data.max_aspect": "[0, inf)", "data.min_side": "[0, inf)",
    "data.canvas": "[1, 4096]",
    "data.shard_window": "[0, inf)", "data.hard_share": "[0, 1)", "data.hard_clusters": "[0, 65536]",
    "eval.every": "[0, inf)", "eval.tasks_every": "[0, inf)",
    "eval.batch": "[1, inf)", "checkpoint.every": "[1, inf)", "checkpoint.keep": "[1, inf)",
    "log.every": "[1, inf)", "log.block_stats_steps": "[0, inf)",
    "watchdog.step_s": "(0, inf)", "watchdog.phase_s": "(0, inf)", "watchdog.join_s": "[1, inf)",
}
# Keys of config.vision that one family has and the other not: fields of its spec, a test compares them.
FAMILY_KEYS = {
    "eva02": ("qkv_fused", "key_bias", "sub_ln", "attn_inner_norm", "rope", "rope_theta", "rope_reference_grid",
              "sub_ln_eps"),
    "vit": ("act", "pre_norm", "patch_bias", "norm_after_pool"),
}
EMOJI = ("train", "unseen_set", "unseen_concept", "dev/train", "dev/unseen_set", "dev/unseen_concept")


def check(config: ConfigDict, *, files: bool = True) -> None:
    """Refuse a config that cannot run.

    Args:
        config: all keys present and of the right type, as `lit_tune.config.load` returns it.
        files: also look whether the data and starting weights that it names are there.

    Raises:
        ConfigError: the first thing that is wrong.
    """
    values = flat(config)
    for key, allowed in CHOICES.items():
        _require(values[key] in allowed, key, " | ".join(allowed), values[key], "choose one of them")
    for key, value in values.items():
        if isinstance(value, tuple):
            kind = int | float if key in RANGES else str
            _require(all(isinstance(entry, kind) for entry in value), key,
                     "numbers" if key in RANGES else "names", value, "change it")
    for key, interval in RANGES.items():
        entries = values[key] if isinstance(values[key], tuple) else (values[key],)
        _require(all(_inside(entry, interval) for entry in entries), key, f"a value in {interval}", values[key],
                 "change it")
    _check_vision(config.vision)
    _check_text_and_loss(config)
    _check_steps(config)
    _check_pictures(config.data, config.vision.image_size)
    _require(config.data.captions != "joined" or config.text.source == "live", "data.captions",
             "random or first where text.source is cached", "joined", "set text.source=live")
    _check_mix(config.data)
    _check_hard(config)
    _check_evaluation(config.eval)
    if files:
        _check_files(config)


def check_devices(config: ConfigDict, device_count: int, process_count: int = 1) -> None:
    """Refuse a mesh or a batch that does not divide over the devices.

    Args:
        config: a checked config.
        device_count: devices of all processes together.
        process_count: processes; each makes the rows of its own devices.

    Raises:
        ConfigError: with the values that would do.
    """
    sizes = dict(config.mesh)
    fixed = 1
    for size in sizes.values():
        fixed *= max(size, 1)
    free = [axis for axis, size in sizes.items() if size == -1]
    fits = device_count % fixed == 0 if free else device_count == fixed
    _require(fits, "mesh", f"axes that multiply to {device_count} devices", sizes, "set one axis to -1")
    tensor = device_count // fixed if free == ["tensor"] else sizes["tensor"]
    _require(config.vision.num_heads % tensor == 0, "mesh.tensor", f"a divisor of {config.vision.num_heads} heads",
             tensor, "change it or config.vision.num_heads")
    rows = device_count // tensor  # devices that hold different rows of the batch
    below = config.global_batch // rows * rows
    allowed = [below, below + rows] if below else [rows]
    _require(config.global_batch % rows == 0, "global_batch", f"a multiple of {rows} (devices that share the batch)",
             config.global_batch, f"use {' or '.join(map(str, allowed))}")
    extra = config.loss.extra_negatives
    fsdp = device_count // fixed if free == ["fsdp"] else sizes["fsdp"]
    _require(not config.text.length_buckets or fsdp * tensor == 1, "text.length_buckets",
             "() where mesh.fsdp or mesh.tensor cut", config.text.length_buckets,
             "leave it out, or spread over mesh.data only")
    micro = config.micro_batches
    _require(config.global_batch % (rows * micro) == 0, "micro_batches",
             f"a divisor of {config.global_batch // rows}, the pairs a device", micro,
             f"use one of {', '.join(map(str, _divisors(config.global_batch // rows)))}")
    _require(extra % rows == 0, "loss.extra_negatives", f"a multiple of {rows} (devices that share the batch)", extra,
             f"use {extra // rows * rows} or {(extra // rows + 1) * rows}")
    _require(device_count % process_count == 0, "processes", f"a divisor of {device_count} devices", process_count,
             "give every process the same number of devices")


def flat(config: ConfigDict) -> dict[str, Any]:
    """{dotted key: value} of every key, references followed, in the order of the config."""
    return dict(_walk(config.copy_and_resolve_references(), ""))


def _walk(section: ConfigDict, prefix: str) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of a section and those below it."""
    for name, value in section.items():
        if isinstance(value, ConfigDict):
            yield from _walk(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _check_vision(vision: ConfigDict) -> None:
    """Sizes of the image tower that have to fit each other."""
    _check_family(vision)
    height, width = vision.image_size
    patch, head_dim = vision.patch_size, vision.width // vision.num_heads
    _require(height % patch == 0 and width % patch == 0, "vision.image_size",
             f"multiples of the patch size {patch}", vision.image_size,
             f"use ({_near(height, patch)}, {_near(width, patch)})")
    _require(vision.width % vision.num_heads == 0, "vision.num_heads", f"a divisor of the width {vision.width}",
             vision.num_heads, f"use one of {', '.join(map(str, _divisors(vision.width)))}")
    rotates = vision.family == "eva02" and vision.rope
    _require(not rotates or head_dim % 4 == 0, "vision.num_heads",
             "a head width (width / num_heads) that divides by 4, as 2-D rotary positions need", head_dim,
             "change num_heads or width")
    for key in ("pos_embed_grid", "rope_reference_grid"):
        grid = vision[key]
        _require(all(grid) or not any(grid), f"vision.{key}", "two positive numbers, or (0, 0)", grid, "change it")
    needs_class = vision.pool in ("cls", "nomic")  # both read the class token
    _require(vision.class_token or not needs_class, "vision.class_token", f"true with pool {vision.pool!r}", False,
             "set it, or vision.pool=map or mean")
    _require(vision.qkv_bias or not vision.key_bias, "vision.key_bias", "false where qkv_bias is false", True,
             "set both or neither")
    _require(vision.freeze_blocks <= vision.depth, "vision.freeze_blocks", f"at most the depth {vision.depth}",
             vision.freeze_blocks, "change it; -1 freezes all blocks")
    _require(vision.freeze_blocks == 0 or bool(vision.init_from), "vision.freeze_blocks", "0 without vision.init_from",
             vision.freeze_blocks, "give trained weights to start from")


def _check_family(vision: ConfigDict) -> None:
    """Keys of a family that is not trained keep their defaults: a change would do nothing."""
    defaults = shipped.common().vision
    for family, keys in FAMILY_KEYS.items():
        for key in keys if family != vision.family else ():
            _require(vision[key] == defaults[key], f"vision.{key}",
                     f"its default {defaults[key]} with vision.family={vision.family}", vision[key],
                     f"leave it out, or set vision.family={family}")


def _check_text_and_loss(config: ConfigDict) -> None:
    """Settings of the text side and the loss that exclude each other."""
    _require(bool(config.text.model), "text.model", "a folder, a hub id or a pinned name", "''",
             "for example all-MiniLM-L6-v2")
    _check_vectors(config)
    buckets = config.text.length_buckets
    _require(not buckets or config.text.source == "live", "text.length_buckets", "() unless text.source is live",
             buckets, "leave it out")
    _require(list(buckets) == sorted(set(buckets)) and all(size < config.text.max_length for size in buckets),
             "text.length_buckets", f"rising lengths below text.max_length={config.text.max_length}", buckets,
             "change them")
    sha256 = config.text.sha256
    _require(not sha256 or re.fullmatch("[0-9a-f]{64}", sha256) is not None, "text.sha256", "64 hex digits or ''",
             sha256, "copy it again")
    _require(not config.loss.extra_negatives or config.text.source != "live", "loss.extra_negatives",
             "0 where text.source is live", config.loss.extra_negatives, "set text.source=cached")
    bank = config.loss.text_bank
    _require(not bank or config.text.source != "live", "loss.text_bank", "0 where text.source is live", bank,
             "set text.source=cached")
    _require(not bank or config.loss.name == "softmax", "loss.text_bank", "0 with loss.name=sigmoid", bank,
             "it adds negatives to the softmax over texts only")
    _check_matryoshka(config)
    _require(config.loss.logit_scale_max == 0 or config.loss.logit_scale_max >= 1, "loss.logit_scale_max",
             "at least 1, or 0 for none", config.loss.logit_scale_max, "the usual clamp is 100")


def _check_vectors(config: ConfigDict) -> None:
    """Folders of text vectors are named where they are used, and without a text tower nothing needs one."""
    source = config.text.source
    for key, user in (("vectors", "vectors"), ("cache", "cached")):
        _require(not config.text[key] or source == user, f"text.{key}", f"'' unless text.source is {user}",
                 config.text[key], f"leave it out, or set text.source={user}")
    _require(source != "vectors" or bool(config.text.vectors), "text.vectors",
             "a folder that `lit-tune cache-text --from=FILE --out=DIR` wrote", "''", "name it")
    for key in ("sets", "tasks"):
        _require(source != "vectors" or not config.eval[key], f"eval.{key}",
                 "() where text.source is vectors: there is no text tower for their texts", config.eval[key],
                 f"add --config.eval.{key}='()'")


def _check_matryoshka(config: ConfigDict) -> None:
    """Nested widths fall, and lie below the full one."""
    dims, full = config.loss.matryoshka_dims, config.vision.embed_dim or config.vision.width
    falls = all(narrow < wide for wide, narrow in zip((full, *dims), dims, strict=False))
    _require(falls, "loss.matryoshka_dims", f"widths that fall, all below the full {full}", dims,
             "sort them, largest first, without the full one")


def _check_steps(config: ConfigDict) -> None:
    """Warm-up inside the run; one free mesh axis; a seed for everything."""
    _require(config.optim.warmup_steps < config.total_steps, "optim.warmup_steps",
             f"fewer than total_steps ({config.total_steps})", config.optim.warmup_steps, "change either")
    _require(config.optim.schedule != "deepspeed_cosine" or config.optim.warmup_steps > 1, "optim.warmup_steps",
             "at least 2 with schedule deepspeed_cosine", config.optim.warmup_steps, "change either")
    _require(config.optim.skip_spikes == 0 or config.optim.skip_spikes > 1, "optim.skip_spikes", "0, or above 1",
             config.optim.skip_spikes, "for example 10")
    sizes = list(config.mesh.values())
    _require(0 not in sizes and sizes.count(-1) <= 1, "mesh", "positive sizes, at most one of them -1",
             dict(config.mesh), "change it")


def _check_pictures(data: ConfigDict, image_size: tuple[int, int]) -> None:
    """Augmentation ranges run upwards; what a device resizes is sent large enough, and not rotated."""
    for key in ("crop_scale", "crop_ratio"):
        low, high = data[key]
        _require(low <= high, f"data.{key}", "(low, high) with low <= high", data[key], f"use ({high}, {low})")
    _require(data.max_aspect == 0 or data.max_aspect >= 1, "data.max_aspect", "at least 1, or 0 for none",
             data.max_aspect, "for example 20")
    if data.resize_on == "device":
        _require(data.canvas >= max(image_size), "data.canvas", f"at least {max(image_size)}, as vision.image_size",
                 data.canvas, "raise it")
        _require(data.rotate == 0, "data.rotate", "0 with data.resize_on=device", data.rotate,
                 "leave it out, or set data.resize_on=host")


def _check_mix(data: ConfigDict) -> None:
    """The parts of a mixture are named once each, with weights that are positive and add up to 1."""
    if not data.mix:
        return
    _require(not data.train, "data.train", "'' beside data.mix", data.train, "add --config.data.train='', or drop mix")
    weights, specs = [], []
    for entry in data.mix:
        weight, _, spec = entry.partition("=")
        number = re.fullmatch(r"\d+/\d*[1-9]\d*|\d+(\.\d*)?|\.\d+", weight) is not None
        _require(number and bool(spec), "data.mix", "weight=shards or folder", entry, "for example 0.7=DIR")
        weights.append(Fraction(weight))
        specs.append(spec)
        _require(weights[-1] > 0, "data.mix", "weights above 0", entry, "leave the part out")
    _require(len(set(specs)) == len(specs), "data.mix", "each part once", specs, "add up the weights of equal parts")
    _require(sum(weights) == 1, "data.mix", "weights that add up to 1", f"{float(sum(weights)):.6g}",
             "change one; a third is written 1/3")
    common = math.lcm(*(weight.denominator for weight in weights))
    _require(common <= 100_000, "data.mix", "weights with a common denominator up to 100,000", common, "round them")


def _check_hard(config: ConfigDict) -> None:
    """Hard batches: what they need, and the orders that they do not go with."""
    data, share = config.data, config.data.hard_share
    _require(share > 0 or not data.hard_clusters, "data.hard_clusters", "0 where data.hard_share is 0",
             data.hard_clusters, "leave it out")
    if share == 0:
        return
    _require(config.text.source == "cached", "data.hard_share", "0 where text.source is live", share,
             "set text.source=cached")
    _require(not data.mix and not data.shard_window, "data.hard_share", "0 with data.mix or data.shard_window", share,
             "use one of them")
    _require(config.loss.mask_equal_captions, "loss.mask_equal_captions",
             "true with data.hard_share: neighbours often have equal captions", False, "set it")
    _require(0 < round(share * config.global_batch) < config.global_batch, "data.hard_share",
             f"at least one row of {config.global_batch}, not all", share, "change it")


def _check_evaluation(evaluation: ConfigDict) -> None:
    """Sets have names, prompts a place for the class, and the metric to keep by is one of a set."""
    sets = [entry.partition("=") for entry in evaluation.sets]
    for entry, (name, _, spec) in zip(evaluation.sets, sets, strict=True):
        _require(re.fullmatch(r"\w+", name) is not None and bool(spec), "eval.sets", "name=shards or folder", entry,
                 "for example unseen=DIR")
    set_names = [name for name, _, _ in sets]
    _require(len(set(set_names)) == len(set_names), "eval.sets", "different names", set_names, "rename one")
    for template in evaluation.templates:
        _require("{}" in template, "eval.templates", "{} where the class name goes", template, "add it")
    _require(bool(evaluation.templates) or not evaluation.class_field, "eval.templates",
             "at least one where class_field is set", evaluation.templates, "for example ('{}',)")
    names = [*set_names, *_task_names(evaluation.tasks)]
    _require(len(set(names)) == len(names), "eval.tasks", "each name once, and none of eval.sets", names, "rename one")
    best = evaluation.best_metric
    _require(not best or any(best.startswith(f"val/{name}/") for name in names), "eval.best_metric",
             f"val/NAME/metric with NAME one of {names}", best, "change it or leave it ''")


def _task_names(tasks: tuple[str, ...]) -> list[str]:
    """The names that benchmarks have in metrics."""
    if not tasks:
        return []
    from lit_tune.evals import catalog  # only here: it comes with numpy, which --help does not wait for

    found = []
    for entry in tasks:
        name, equals, data = entry.partition("=")
        own = bool(equals) and re.fullmatch(r"[\w-]+", name) is not None and bool(data)
        _require(own or not equals, "eval.tasks", "a benchmark or name=data", entry, "for example mine=DIR")
        found += [name] if own else [task.name for task in catalog.expand(name)]
    return found


def _check_files(config: ConfigDict) -> None:
    """The training data, evaluation sets and starting weights are where the config says.

    Shards are looked at closely where they are opened; here only what a mistyped command line would get wrong.
    """
    mix = config.data.mix
    _require(bool(config.data.train or mix), "data.train", "shards or a folder", "''",
             "add --config.data.train=FOLDER_OR_SHARDS")
    for key, spec in [("data.mix", entry.partition("=")[2]) for entry in mix] or [("data.train", config.data.train)]:
        _check_source(spec, key)
    listed = config.data.uid_list
    _require(not listed or Path(listed).expanduser().is_file(), "data.uid_list", "a file of uids", listed,
             "check the path")
    for entry in config.eval.sets:
        _check_source(entry.partition("=")[2], "eval.sets")
    start = config.vision.init_from
    _require(not start or "://" in start or Path(start).expanduser().exists(), "vision.init_from",
             "a run directory, an export or a weight file", start, "check the path")


def _check_source(spec: str, key: str) -> None:
    """A data spec is a known name, a pattern, or a path that exists."""
    if spec.startswith("emoji:"):
        _require(spec.removeprefix("emoji:") in EMOJI, key, " | ".join(f"emoji:{name}" for name in EMOJI), spec,
                 "choose one of them")
    elif "://" not in spec and not spec.startswith("tfds:") and not re.search(r"[*?\[{]", spec):
        _require(Path(spec).expanduser().exists(), key, "an existing file or folder", spec, "check the path")


def _inside(value: float, interval: str) -> bool:
    """Whether a number lies in an interval written like "[0, 1)"; nan never does."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = low <= value if interval[0] == "[" else low < value
    return above and (value <= high if interval[-1] == "]" else value < high)


def _divisors(number: int) -> list[int]:
    """All divisors, rising."""
    return [candidate for candidate in range(1, number + 1) if number % candidate == 0]


def _near(size: int, patch: int) -> int:
    """The multiple of the patch nearest to a size, at least one patch."""
    return max(1, round(size / patch)) * patch


def _require(fits: bool, key: str, expected: str, found: object, do: str) -> None:
    """Nothing where it fits, else a ConfigError about `config.<key>`."""
    if not fits:
        raise errors.ConfigError(errors.explain(f"config.{key}", expected=expected, found=found, do=do))
