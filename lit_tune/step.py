"""The training step: forward, loss, gradient, update, metrics, as one jitted function on global arrays."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from lit_tune import debug_faults, optim, sharding, tree
from lit_tune.forward import Batch, Forward, value_and_grads
from lit_tune.models import two_towers
from lit_tune.models.functional import Tower
from lit_tune.text.provider import live_text_tower

NORMS = 64  # gradient norms that `optim.skip_spikes` takes the median of

State = dict[str, Any]


class Built(NamedTuple):
    """What `build_step` returns; train, tests and every other caller use nothing else."""

    step: Callable[[State, Batch, tree.Tree], tuple[State, dict[str, jax.Array], dict[str, jax.Array]]]
    init: Callable[[jax.Array], State]  # a key -> the state, made in place on the mesh
    abstract: tuple[State, Batch, tree.Tree]  # of the step's three arguments
    shardings: tuple[State, Batch, tree.Tree]
    image_tower: Tower
    text_tower: Tower | None  # None where cached vectors reach the step
    attention: str  # the kernel that was chosen for the image tower's blocks


def build_step(config: ConfigDict, mesh: Mesh, *, skip_batches: tuple[int, int] = (0, 0),
               fault: tuple[str, int, int | None] | None = None) -> Built:
    """The jitted step for a config on a mesh, with its abstract arguments and their shardings.

    Args:
        config: a checked config.
        mesh: axes data, fsdp, tensor.
        skip_batches: half-open range of steps that are executed as skipped.
        fault: of `--debug_fault`: (kind, step, process); a kind in debug_faults.FACTORS makes loss and gradients of
            that step so many times what they are, others are none of the step's.

    Returns:
        `Built`; `step(state, batch, text_params) -> (state, metrics, embeddings)` donates its state. `metrics` are
        float32 scalars; `embeddings` are the step's unit rows, left on the devices for the occasional closer look.
    """
    image_tower, text_tower = two_towers.vision_tower(config), live_text_tower(config)
    model = Forward.of(config, mesh, image_tower, text_tower)
    tx = optim.make_tx(config)
    schedule = optim.make_schedule(config)

    def init(key: jax.Array) -> State:
        return init_state(config, image_tower, tx, key)

    abstract_state = jax.eval_shape(init, jax.random.key(0))
    abstract = (abstract_state, abstract_batch(config, mesh), text_tower.abstract() if text_tower else {})
    placed = (sharding.state_shardings(abstract[0], mesh, zero1=config.optim.zero1),
              {name: sharding.batch_sharding(mesh) for name in abstract[1]},
              sharding.shardings(abstract[2], mesh))

    def step(state: State, batch: Batch, text_params: tree.Tree) -> tuple[State, dict, dict]:
        """One optimizer step; every array is global."""
        frozen, trained = split_frozen(config, state["params"])

        loss, metrics, embeddings, grads = value_and_grads(model, frozen, trained, text_params, batch, state["step"])
        if fault and fault[0] in debug_faults.FACTORS:
            factor = jnp.where(state["step"] == fault[1], debug_faults.FACTORS[fault[0]], 1.0)
            loss, grads = jax.tree.map(lambda x: x * factor, (loss, grads))
        grad_norm = optim.global_norm(grads)  # before the clip
        start, stop = skip_batches
        skipped_by_hand = (state["step"] >= start) & (state["step"] < stop)
        ok = jnp.isfinite(loss) & jnp.isfinite(grad_norm) & ~skipped_by_hand
        if "norms" in state:
            ok &= grad_norm <= config.optim.skip_spikes * jnp.median(state["norms"])
        lr = schedule(state["step"])
        new = update(config, tx, state, grads, grad_norm, lr)
        # A selection, not a product with 0: 0 x NaN is NaN and would reach the weights.
        state = jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, state) | {
            "step": state["step"] + 1,  # a skipped step consumes its batch and its place in the schedule
            "skipped": state["skipped"] + (~ok).astype(jnp.int32)}
        metrics |= {"loss": loss, "grad_norm": grad_norm, "lr": lr, "skipped_steps": state["skipped"],
                    "clipped_frac": (grad_norm > config.optim.clip_norm) & (config.optim.clip_norm > 0),
                    "logit_scale": jnp.exp(state["params"]["logit_scale"])}
        if "logit_bias" in state["params"]:
            metrics["logit_bias"] = state["params"]["logit_bias"]
        for i, dim in enumerate(config.loss.matryoshka_dims):
            metrics[f"logit_scale_{dim}"] = jnp.exp(state["params"]["logit_scale_nested"][i])
        return state, jax.tree.map(jnp.float32, metrics), embeddings

    embedding_shardings = {"zimg": sharding.batch_sharding(mesh), "ztxt": sharding.batch_sharding(mesh)}
    jitted = jax.jit(step, in_shardings=placed, donate_argnums=0,
                     out_shardings=(placed[0], sharding.replicated(mesh), embedding_shardings))
    return Built(jitted, jax.jit(init, out_shardings=placed[0]), abstract, placed, image_tower, text_tower,
                 model.kernel.name)


def update(config: ConfigDict, tx: Any, state: State, grads: tree.Tree, grad_norm: jax.Array, lr: jax.Array) -> State:
    """The state after clip, AdamW, temperature clamp and EMA, as if every number were finite.

    `grads`, `grad_norm` and the moments in `opt_state` are those of the trained parameters only.
    """
    frozen, trained = split_frozen(config, state["params"])
    grads = optim.clip(grads, grad_norm, config.optim.clip_norm)
    updates, opt_state = tx.update(grads, state["opt_state"], trained)
    params = tree.merge(frozen, jax.tree.map(lambda p, u: p - lr * u, trained, updates))
    if config.loss.logit_scale_max > 0:  # after the update, as the reference does; never below exp(0) = 1
        params |= {name: jnp.clip(params[name], 0.0, jnp.log(config.loss.logit_scale_max))
                   for name in ("logit_scale", "logit_scale_nested") if name in params}
    new = state | {"params": params, "opt_state": opt_state}
    if "ema" in state:
        new["ema"] = optim.ema(state["ema"], params, config.optim.ema_decay)
    if "norms" in state:
        new["norms"] = jnp.append(state["norms"][1:], grad_norm)
    return new


def split_frozen(config: ConfigDict, params: tree.Tree) -> tuple[tree.Tree, tree.Tree]:
    """(the parameters that `vision.freeze_blocks` keeps as they are, the trained ones)."""
    return tree.split(params, lambda name: optim.frozen(name, optim.frozen_blocks(config)))


def init_state(config: ConfigDict, image_tower: Tower, tx: Any, key: jax.Array) -> State:
    """The state at step 0: random weights, zero moments."""
    params = {"image": image_tower.init(key), "logit_scale": jnp.float32(config.loss.logit_scale_init)}
    if config.loss.name == "sigmoid":
        params["logit_bias"] = jnp.float32(config.loss.logit_bias_init)
    if config.loss.matryoshka_dims:  # a temperature (and bias) of its own at each width
        params |= {f"{name}_nested": jnp.full(len(config.loss.matryoshka_dims), params[name])
                   for name in ("logit_scale", "logit_bias") if name in params}
    opt_state = tx.init(split_frozen(config, params)[1])
    state = {"step": jnp.int32(0), "params": params, "opt_state": opt_state, "skipped": jnp.int32(0)}
    if config.optim.ema_decay > 0:
        state["ema"] = jax.tree.map(jnp.copy, params)  # a copy: the step donates both
    if config.optim.skip_spikes > 0:  # the largest number there is: no median, and no limit, until half of it is gone
        state["norms"] = jnp.full(NORMS, jnp.finfo(jnp.float32).max)
    return state


def abstract_batch(config: ConfigDict, mesh: Mesh) -> Batch:
    """Shapes and dtypes of a global batch: pixels as bytes, captions as vectors (cached) or token ids (live)."""
    rows, width = config.global_batch, config.vision.embed_dim or config.vision.width

    def array(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    size = config.vision.image_size
    batch = {"image": array(jnp.uint8, rows, *size, 3), "caption_id": array(jnp.uint32, rows, 2)}
    if config.data.resize_on == "device":  # pictures of any size inside a square, see device_resize.py
        batch["image"] = array(jnp.uint8, rows, config.data.canvas, config.data.canvas, 3)
        batch["crop"] = array(jnp.int32, rows, 5)
    if config.text.source != "live":
        batch["ztxt"] = array(jnp.float32, rows, width)
    else:
        batch |= {name: array(jnp.int32, rows, config.text.max_length) for name in ("input_ids", "attention_mask")}
    further = {"extra": config.loss.extra_negatives, "bank": config.loss.text_bank * rows}
    for kind, count in further.items():
        if count:
            batch[f"{kind}_ztxt"] = array(jnp.float32, count, width)
            batch[f"{kind}_caption_id"] = array(jnp.uint32, count, 2)
    return batch
