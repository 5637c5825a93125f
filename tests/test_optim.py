"""Schedules and decay against the peers, AdamW and the clip against their formulas."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
import stored_runs
from ml_collections import ConfigDict

from lit_tune import config as config_module, errors, optim, tree
from lit_tune.models import eva02, nomic_bert
from lit_tune.models.functional import Tower


def config_of(**changes: object) -> ConfigDict:
    """The defaults with keys of `config.optim` (or `global_batch`, `total_steps`) changed."""
    config = config_module.load("quickstart")
    for key, value in changes.items():
        config_module.override(config, key if key in ("global_batch", "total_steps") else f"optim.{key}", str(value))
    return config


# Learning rate.


def peer_schedule(name: str) -> tuple:
    """(our function, its arguments, steps the peer is to be trusted for) from the name of a stored array."""
    kind, run = name.split("/")
    peak, warmup_steps, total_steps = re.fullmatch(r"lr([\d.e-]+)_warm(\d+)_total(\d+)", run).groups()
    arguments = dict(peak=float(peak), warmup_steps=int(warmup_steps), total_steps=int(total_steps))
    if kind == "hf_cosine":  # it climbs again past the end
        return optim.cosine, arguments, int(total_steps) + 1
    warmup, low, floor = re.fullmatch(r"deepspeed_(linear|log)_wmin([\d.]+)_cmin([\d.]+)", kind).groups()
    return optim.deepspeed_cosine, arguments | dict(warmup=warmup, warmup_floor=float(low), floor=float(floor)), None


def test_schedules_equal_the_peers_to_their_last_step() -> None:
    stored = reference.arrays("g_schedules", "schedules", ".npz")
    for name, theirs in stored.items():
        ours, arguments, last = peer_schedule(name)
        theirs = theirs[:last]
        steps, peak = np.arange(len(theirs)), arguments["peak"]
        double = ours(steps, **arguments, xp=np)
        assert double.dtype == np.float64 and np.max(np.abs(double - theirs)) <= 1e-9 * peak, name
        single = np.asarray(jax.jit(lambda s, ours=ours, a=arguments: ours(s, **a))(jnp.int32(steps)))
        assert single.dtype == np.float32 and np.max(np.abs(single - theirs)) <= 1e-6 * peak, name
    assert stored
    print(f"{len(stored)} arrays compared")


@pytest.mark.parametrize("schedule", ["cosine", "deepspeed_cosine"])
def test_past_the_end_the_rate_stays_at_the_floor(schedule: str) -> None:
    rate = optim.make_schedule(config_of(schedule=schedule, lr=2e-3, end_lr=0.1, warmup_steps=4, total_steps=20))
    assert [float(rate(jnp.int32(t))) for t in (20, 21, 30, 10**6)] == pytest.approx([2e-4] * 4, rel=1e-6)


@pytest.mark.parametrize("schedule", ["cosine", "deepspeed_cosine"])
def test_the_first_step_has_learning_rate_zero(schedule: str) -> None:
    rate = optim.make_schedule(config_of(schedule=schedule, lr=1e-3, warmup_steps=5, total_steps=30))
    assert float(rate(jnp.int32(0))) == 0.0 and float(rate(jnp.int32(3))) > 0.0


def test_the_paper_run_has_its_peak_after_the_warm_up() -> None:
    """2,000 steps up to 1e-3, 0 at step 70,848; in float32, where a step is a ratio of large integers."""
    rate = jax.jit(optim.make_schedule(config_of(lr=1e-3, warmup_steps=2000, total_steps=70_848)))
    found = [float(rate(jnp.int32(t))) for t in (0, 1000, 2000, 36_424, 70_848)]
    assert found == pytest.approx([0, 5e-4, 1e-3, 5e-4, 0], abs=1e-9)


@pytest.mark.parametrize(("rule", "expected"), [("none", 1e-3), ("sqrt", 2e-3), ("linear", 4e-3)])
def test_the_learning_rate_follows_the_batch_by_its_rule(rule: str, expected: float) -> None:
    config = config_of(lr=1e-3, lr_base_batch=64, lr_scaling=rule, global_batch=256)
    assert optim.resolve_lr(config) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("changes", "message"), [
    ({"schedule": "linear"}, "cosine or deepspeed_cosine, found 'linear'"),
    ({"lr_scaling": "cubic"}, "none or sqrt or linear, found 'cubic'"),
    ({"lr_base_batch": 0}, "a positive number of pairs, found 0"),
    ({"warmup_steps": 50, "total_steps": 20}, "0 to config.total_steps"),
    ({"warmup_steps": 0, "schedule": "deepspeed_cosine"}, "1 to config.total_steps"),
])
def test_settings_that_make_no_schedule_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(errors.ConfigError, match=re.escape(message)):
        optim.make_schedule(config_of(**changes))


# Gradients.


def test_the_norm_is_that_of_all_gradients_as_one_vector() -> None:
    rng = np.random.default_rng(0)
    grads = {"a": rng.standard_normal((3, 4)), "b": {"c": rng.standard_normal(7), "d": rng.standard_normal(())}}
    joined = np.concatenate([np.ravel(g) for g in jax.tree.leaves(grads)])
    assert float(optim.global_norm(jax.tree.map(jnp.float32, grads))) == pytest.approx(np.linalg.norm(joined), rel=1e-6)


@pytest.mark.parametrize(("norm", "max_norm", "factor"), [
    (5.0, 1.0, 1 / (5 + 1e-6)),
    (1.0, 1.0, 1 / (1 + 1e-6)),  # torch shrinks a norm of exactly the limit by a millionth
    (0.5, 1.0, 1.0), (0.0, 1.0, 1.0), (5.0, 0.0, 1.0),
    (1e-3, 1e-4, 1e-4 / (1e-3 + 1e-6)),
])
def test_the_clip_is_torchs(norm: float, max_norm: float, factor: float) -> None:
    grads = {"a": jnp.float32([3.0, -4.0])}
    clipped = optim.clip(grads, jnp.float32(norm), max_norm)
    np.testing.assert_allclose(clipped["a"], np.float32([3, -4]) * np.float32(factor), rtol=3e-7)


def test_adamw_equals_its_formula_over_many_steps() -> None:
    """torch's order: the weights shrink by lr * wd, then move by lr * m / (sqrt(v) + eps)."""
    config, rng = config_of(b1=0.9, b2=0.95, eps=1e-8, wd=0.1), np.random.default_rng(1)
    params = {"q": {"kernel": rng.standard_normal((3, 4)), "bias": rng.standard_normal(4)}, "logit_scale": np.ones(())}
    tx, ours = optim.make_tx(config), jax.tree.map(jnp.float32, params)
    opt_state, moments = tx.init(ours), {name: (0.0, 0.0) for name in tree.flatten(params)}
    exact, update = tree.flatten(params), jax.jit(tx.update)
    for t in range(1, 21):
        lr = 1e-2 / t
        grads = {name: rng.standard_normal(np.shape(p)) for name, p in exact.items()}
        grads["q/kernel"][0] = 0.0  # nothing but decay there
        updates, opt_state = update(jax.tree.map(jnp.float32, tree.unflatten(grads)), opt_state, ours)
        ours = jax.tree.map(lambda p, u, lr=lr: p - lr * u, ours, updates)
        for name, g in grads.items():
            m, v = moments[name]
            m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g**2
            moments[name] = m, v
            shrunk = exact[name] * (1 - lr * (0.1 if name == "q/kernel" else 0.0))
            exact[name] = shrunk - lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-8)
    for name, leaf in tree.flatten(ours).items():
        np.testing.assert_allclose(leaf, exact[name], rtol=2e-5, atol=2e-6)


def test_the_state_of_the_optimizer_has_one_structure_for_all_decays() -> None:
    params = {"kernel": jnp.ones((2, 2))}
    states = [optim.make_tx(config_of(wd=wd)).init(params) for wd in (0.0, 0.1)]
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])


def test_the_average_moves_by_its_share() -> None:
    average = optim.ema({"a": jnp.float32([0.0, 10.0])}, {"a": jnp.float32([1.0, 10.0])}, 0.9)
    np.testing.assert_allclose(average["a"], [0.1, 10.0], rtol=1e-6)


# Rates of layers, frozen layers.

LAYERS = {  # of a tower with 3 blocks: embeddings, blocks, and what comes after them
    "image/patch_embed/kernel": 0, "image/patch_embed/bias": 0, "image/cls_token": 0, "image/pos_embed": 0,
    "image/norm_pre/scale": 0, "image/blocks/0/norm1/scale": 1, "image/blocks/1/attn/q/kernel": 2,
    "image/blocks/2/mlp/norm/bias": 3, "image/norm/scale": 4, "image/fc_norm/bias": 4, "image/attn_pool/q/kernel": 4,
    "image/head/kernel": 4, "logit_scale": 4, "logit_bias": 4,
}


def test_the_rate_falls_by_its_factor_from_layer_to_layer() -> None:
    """Adam's first direction is the gradient's sign, so that what is left is the rate; decay is scaled with it."""
    config = config_of(b1=0.9, b2=0.95, eps=1e-12, wd=0.1, layer_decay=0.5)
    config = config.unlock()
    config.vision.depth = 3
    tx = optim.make_tx(config)
    params = tree.unflatten({name: jnp.float32([2.0, -3.0]) for name in LAYERS})
    grads = tree.unflatten({name: jnp.float32([1e-3, -5.0]) for name in LAYERS})
    updates, _ = tx.update(grads, tx.init(params), params)
    for name, update in tree.flatten(updates).items():
        direction = np.array([1.0, -1.0]) + (0.1 * np.array([2.0, -3.0]) if optim.decays(name) else 0.0)
        np.testing.assert_allclose(update, 0.5 ** (4 - LAYERS[name]) * direction, rtol=1e-5, err_msg=name)


def test_one_rate_for_all_layers_leaves_every_bit() -> None:
    config, rng = config_of(wd=0.1), np.random.default_rng(0)
    params = tree.unflatten({name: jnp.float32(rng.standard_normal(5)) for name in LAYERS})
    updates, _ = optim.make_tx(config).update(params, optim.make_tx(config).init(params), params)
    plain = optax.chain(optax.scale_by_adam(b1=config.optim.b1, b2=config.optim.b2, eps=config.optim.eps),
                        optax.add_decayed_weights(0.1, mask=optim.decay_mask))
    jax.tree.map(np.testing.assert_array_equal, updates, plain.update(params, plain.init(params), params)[0])


def test_frozen_are_the_first_blocks_and_what_comes_before_them() -> None:
    for blocks in range(4):
        frozen = {name for name in LAYERS if optim.frozen(name, blocks)}
        assert frozen == ({name for name, layer in LAYERS.items() if layer <= blocks} if blocks else set())


# Who decays.


def test_every_parameter_of_every_tower_has_a_rule() -> None:
    base = eva02.VARIANTS["eva02_base_patch16_clip_224"]
    changes = dict(depth=1, key_bias=True, embed_dim=512, embed_bias=True)
    towers = [Tower(eva02.Eva02, eva02.dataclasses.replace(base, **changes, pool=pool))
              for pool in ("map", "nomic", "cls", "mean")]
    towers.append(Tower(nomic_bert.NomicBert, nomic_bert.NomicBertSpec(
        64, 2, 32, 1, 2, 64, 1e-12, 1000.0, 0.0, 0, "mean", True, 0)))
    names = {name for tower in towers for name in tree.flatten(tower.abstract())} | {"logit_scale", "logit_bias"}
    decaying = {name for name in names if optim.decays(name)}
    assert {name.rsplit("/")[-1] for name in decaying} == {
        "kernel", "pos_embed", "word_embeddings", "token_type_embeddings"}
    assert all(name in decaying for name in names if name.endswith("kernel"))


def test_a_parameter_that_no_rule_names_is_refused() -> None:
    with pytest.raises(ValueError, match="image/gamma: expected a name that a rule of lit_tune.optim.DECAY_RULES"):
        optim.decay_mask({"image": {"gamma": jnp.ones(3)}})


@pytest.mark.parametrize("run", [run for run in stored_runs.runs() if stored_runs.settings(run)["wd"] > 0])
def test_exactly_the_peers_parameters_decay(run: str) -> None:
    peers = stored_runs.decays(run)
    assert peers == {name: optim.decays(name) for name in peers} and any(peers.values())
