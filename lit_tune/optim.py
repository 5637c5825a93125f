"""AdamW as the reference trains: learning rate by step, clip, decay by name, running average.

`step.update` applies them in this order: `clip(grads, norm, ...)`, `make_tx(config).update(...)`, the learning rate of
`make_schedule(config)`, `ema`. The norm is an argument of `clip`, not part of the optax chain, because the step logs it
and checks it too: it is computed once.
"""

import math
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from lit_tune import errors, tree

# Which parameters decay. First rule whose pattern ends the name wins; the peer is contrastors' configure_optimizer
# (commit 613ddfd), which goes by its own names and squeezed ranks: never ours, which differ where blocks are stacked or
# q, k, v are split.
DECAY_RULES = (
    (r"kernel", True),  # every matrix, the patch embedding included
    (r"pos_embed", True),  # (1, tokens, width) there: rank 2 once squeezed
    (r"\w+_embeddings", True),  # word, position and token-type tables, where a text tower is trained
    (r"bias", False),  # every name with "bias" in it
    (r"scale", False),  # norms
    (r"(cls_token|latent)", False),  # (1, 1, width) there: rank 1 once squeezed
    (r"(logit_scale|logit_bias)(_nested)?", False),  # named or rank 1
)


def global_norm(grads: tree.Tree) -> jax.Array:
    """Root of the sum of all squares, float32: the norm of all gradients as one vector."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(g.astype(jnp.float32))) for g in jax.tree.leaves(grads)))


def clip(grads: tree.Tree, norm: jax.Array, max_norm: float) -> tree.Tree:
    """The gradients, scaled down together where `norm` is above `max_norm`.

    Args:
        grads: any tree of float arrays.
        norm: their `global_norm`.
        max_norm: largest norm that passes; 0 never clips.

    Source: torch.nn.utils.clip_grad_norm_, which adds 1e-6 to the norm before it divides.
    """
    if max_norm == 0:
        return grads
    factor = jnp.minimum(1.0, max_norm / (norm + 1e-6))
    return jax.tree.map(lambda g: g * factor.astype(g.dtype), grads)


def make_tx(config: ConfigDict) -> optax.GradientTransformation:
    """Adam's direction plus decoupled weight decay, still to be multiplied by the learning rate.

    What is subtracted is lr * lr_scale * (m / (sqrt(v) + eps) + wd * param), which is torch's AdamW with a learning
    rate for each group. A decay of 0 and scales of 1 stay in the chain, so that the state of the optimizer has one
    structure for all configs.
    """
    c, depth = config.optim, config.vision.depth
    return optax.chain(
        optax.scale_by_adam(b1=c.b1, b2=c.b2, eps=c.eps),
        optax.add_decayed_weights(c.wd, mask=decay_mask),
        optax.stateless(lambda updates, _: tree.map_with_names(
            lambda name, update: update * lr_scale(name, depth, c.layer_decay), updates)),
    )


def lr_scale(name: str, depth: int, layer_decay: float) -> float:
    """What the learning rate of a parameter is multiplied by: layer_decay ** (layers between it and the head).

    Layer 0 are patches and positions, block i is layer i + 1, and final norm, pooling, projection and the temperature
    are layer depth + 1, at the full rate.

    Args:
        name: "image/blocks/0/attn/q/kernel".
        depth: blocks of the image tower.
        layer_decay: in (0, 1]; 1 trains all layers at one rate.

    Source: BEiT optim_factory.py; timm 1.0.31 optim/_param_groups.py `param_groups_layer_decay` with the groups of
    models/eva.py, which differ in one point: there a final norm on tokens has the rate of the last block.
    """
    block = re.match(r"image/blocks/(\d+)/", name)
    layer = int(block[1]) + 1 if block else 0 if _is_stem(name) else depth + 1
    return layer_decay ** (depth + 1 - layer)


def frozen(name: str, blocks: int) -> bool:
    """Whether a parameter belongs to the first `blocks` blocks of the image tower or to what comes before them.

    Args:
        name: "image/blocks/0/attn/q/kernel".
        blocks: how many blocks stay as they are; 0: nothing is frozen.
    """
    block = re.match(r"image/blocks/(\d+)/", name)
    return blocks > 0 and (int(block[1]) < blocks if block else _is_stem(name))


def frozen_blocks(config: ConfigDict) -> int:
    """How many blocks `vision.freeze_blocks` freezes; -1 there means all."""
    return config.vision.depth if config.vision.freeze_blocks == -1 else config.vision.freeze_blocks


def _is_stem(name: str) -> bool:
    """Whether a parameter of the image tower comes before its first block."""
    return re.match(r"image/(patch_embed|cls_token|pos_embed|norm_pre)(/|$)", name) is not None


def decay_mask(params: tree.Tree) -> tree.Tree:
    """True for the parameters that decay, by `DECAY_RULES`; the structure of `params`."""
    return tree.map_with_names(lambda name, _: decays(name), params)


def decays(name: str) -> bool:
    """Whether the parameter called `name` ("image/blocks/0/attn/q/kernel") decays.

    Raises:
        ValueError: no rule names it (a new kind of parameter needs a line in `DECAY_RULES`).
    """
    for pattern, decay in DECAY_RULES:
        if re.search(rf"(^|/){pattern}$", name):
            return decay
    raise ValueError(errors.explain(
        name, expected="a name that a rule of lit_tune.optim.DECAY_RULES ends in", found="none",
        do="add a rule there that says whether it decays"))


def ema(average: tree.Tree, params: tree.Tree, decay: float) -> tree.Tree:
    """decay * average + (1 - decay) * params, leaf by leaf.

    Args:
        average: the running average so far; starts as a copy of the parameters.
        params: the parameters after this step's update.
        decay: in [0, 1), per step.
    """
    return jax.tree.map(lambda a, p: a + (1 - decay) * (p - a), average, params)


def resolve_lr(config: ConfigDict) -> float:
    """The peak learning rate at `config.global_batch`, from `lr` at `lr_base_batch` and the scaling rule.

    Raises:
        ConfigError: unknown rule, or a base batch that is no positive number.
    """
    c = config.optim
    powers = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}
    if c.lr_scaling not in powers:
        raise errors.ConfigError(errors.explain(
            "config.optim.lr_scaling", expected=" or ".join(powers), found=repr(c.lr_scaling), do="choose one of them"))
    if c.lr_base_batch < 1:
        raise errors.ConfigError(errors.explain(
            "config.optim.lr_base_batch", expected="a positive number of pairs", found=c.lr_base_batch,
            do="name the batch that config.optim.lr was chosen for"))
    return float(c.lr * (config.global_batch / c.lr_base_batch) ** powers[c.lr_scaling])


def make_schedule(config: ConfigDict) -> Callable[[ArrayLike], jax.Array]:
    """The learning rate in force at a step: int32 step, counted from 0 -> float32.

    Raises:
        ConfigError: unknown schedule, or a warm-up that does not fit it.
    """
    c = config.optim
    if c.schedule not in SCHEDULES:
        raise errors.ConfigError(errors.explain(
            "config.optim.schedule", expected=" or ".join(SCHEDULES), found=repr(c.schedule), do="choose one of them"))
    shortest = 1 if c.schedule == "deepspeed_cosine" else 0  # DeepSpeed refuses 0
    if not shortest <= c.warmup_steps <= config.total_steps:
        raise errors.ConfigError(errors.explain(
            "config.optim.warmup_steps", expected=f"{shortest} to config.total_steps ({config.total_steps})",
            found=c.warmup_steps, do=f"shorten the warm-up or train longer (schedule {c.schedule})"))
    peak = resolve_lr(config)

    def schedule(step: ArrayLike) -> jax.Array:
        """Learning rate at `step`."""
        lr = SCHEDULES[c.schedule](step, peak=peak, warmup_steps=c.warmup_steps, total_steps=config.total_steps,
                                   floor=c.end_lr)
        return lr.astype(jnp.float32)

    return schedule


def cosine(step: Any, *, peak: float, warmup_steps: int, total_steps: int, floor: float = 0.0,
           xp: ModuleType = jnp) -> Any:
    """Linear warm-up from 0 (step 0 has learning rate 0, step `warmup_steps` the peak), then half a cosine wave.

        peak * step / warmup                                                step < warmup
        peak * (floor + (1 - floor) * (1 + cos(pi * progress)) / 2)         after; progress from 0 to 1 at `total_steps`

    Past the end it stays at the floor (the reference climbs again).

    Args:
        step: one step or an array of them, counted from 0.
        peak: the largest learning rate.
        warmup_steps: steps until the peak; 0 starts there.
        total_steps: step at which the floor is reached.
        floor: smallest learning rate after the peak, as a share of it.
        xp: the array library, jax.numpy or numpy (then in float64).

    Source: transformers 5.23.0, get_cosine_schedule_with_warmup.
    """
    step = xp.asarray(step)
    warm = step / max(1, warmup_steps)
    return peak * xp.where(step < warmup_steps, warm, _wave(step, warmup_steps, total_steps, floor, xp))


def deepspeed_cosine(step: Any, *, peak: float, warmup_steps: int, total_steps: int, floor: float = 0.0,
                     warmup_floor: float = 0.0, warmup: str = "linear", xp: ModuleType = jnp) -> Any:
    """The same as DeepSpeed writes it: the warm-up runs one step late and the exact peak never comes.

    The first step has learning rate 0, whatever `warmup_floor`; its scheduler has not started yet.

    Args:
        step, peak, warmup_steps, total_steps, floor, xp: as in `cosine`; a warm-up of 1 counts as 2.
        warmup_floor: the warm-up starts here, as a share of the peak.
        warmup: linear | log.

    Source: deepspeed 0.19.8, runtime/lr_schedules.py, WarmupCosineLR.
    """
    step, warmup_steps = xp.asarray(step), max(2, warmup_steps)
    rise = {"linear": (step - 1) / warmup_steps, "log": xp.log(xp.maximum(step, 1)) / math.log(warmup_steps)}[warmup]
    warm = xp.where(step == 0, 0.0, warmup_floor + (1 - warmup_floor) * rise)
    return peak * xp.where(step <= warmup_steps, warm, _wave(step, warmup_steps, total_steps, floor, xp))


SCHEDULES = {"cosine": cosine, "deepspeed_cosine": deepspeed_cosine}


def _wave(step: Any, start: int, stop: int, floor: float, xp: ModuleType) -> Any:
    """From 1 at `start` to `floor` at `stop` and after, along half a cosine wave."""
    progress = xp.clip((step - start) / max(1, stop - start), 0.0, 1.0)
    return floor + (1 - floor) * 0.5 * (1 + xp.cos(math.pi * progress))
