"""Our step against 30 steps of real training by torch, timm, open_clip and contrastors: every step, every weight."""

from functools import cache
from typing import Any

import jax
import numpy as np
import pytest
import reference
import stored_runs

from lit_tune import sharding, step as step_module, tree
from lit_tune.models import two_towers

# Tolerances as the reference's README states them, for float32 on a CPU.
LOSS, LOG_SCALE, WEIGHTS = 5e-5, 1e-5, 2e-5  # absolute
GRAD_NORM = 2e-4  # relative
# The key bias of the pooling head has a true gradient of 0: Adam makes steps of its rounding noise.
NOISE = "image/attn_pool/k/bias"


def trained(run: str, last: int) -> tuple[list[dict[str, float]], dict[int, tree.Tree]]:
    """Metrics of each step and the states after step 0, step 1 and the last, from the project's own step."""
    config = stored_runs.config_of(run)
    built = step_module.build_step(config, sharding.make_mesh(config.mesh, jax.devices()[:1]))
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), built.abstract[0])  # what init makes, but for
    state["params"] = stored_runs.start(run)  # these
    state = jax.device_put(state, built.shardings[0])
    batches, log, kept = stored_runs.batches(run), [], {}
    for t in range(last + 1):
        state, metrics, _ = built.step(state, batches[t % len(batches)], {})
        log.append({name: float(value) for name, value in metrics.items()} | {
            "log_scale": float(state["params"]["logit_scale"])})
        if "logit_bias" in state["params"]:
            log[-1]["bias"] = float(state["params"]["logit_bias"])
        if t in (0, 1, last):
            kept[t] = jax.tree.map(np.array, state)  # a copy: the next step takes the buffers
    return log, kept


@cache
def finished(run: str) -> tuple[list[dict[str, float]], dict[int, tree.Tree]]:
    """The metrics of each step of a run and its states; each run is made once."""
    return trained(run, stored_runs.settings(run)["steps"] - 1)


def with_stored(what: str) -> pytest.MarkDecorator:
    """For every run of which `what` is stored."""
    return pytest.mark.parametrize("run", [run for run in stored_runs.runs() if stored_runs.has(run, what)])


def worst(ours: tree.Tree, theirs: tree.Tree) -> dict[str, float]:
    """{name: largest absolute difference}, the noisy bias left out."""
    ours, theirs = tree.flatten(ours), tree.flatten(theirs)
    assert set(ours) == set(theirs)
    return {name: float(np.max(np.abs(ours[name] - theirs[name]))) for name in ours if name != NOISE}


@pytest.mark.parametrize("run", stored_runs.runs())
def test_every_step_has_the_peers_loss_norm_rate_and_temperature(run: str) -> None:
    log, _ = finished(run)
    stored = stored_runs.log(run)

    def column(name: str) -> np.ndarray:
        return np.array([line[name] for line in log])

    np.testing.assert_allclose(column("loss"), stored["loss"], rtol=0, atol=LOSS)
    np.testing.assert_allclose(column("grad_norm"), stored["grad_norm_before_clip"], rtol=GRAD_NORM)
    np.testing.assert_allclose(column("log_scale"), stored["log_scale_after_step"], rtol=0, atol=LOG_SCALE)
    np.testing.assert_allclose(column("logit_scale"), np.exp(column("log_scale")), rtol=1e-6)
    np.testing.assert_allclose(column("lr"), stored["lr"], rtol=0, atol=1e-6 * stored["lr"].max())
    if "bias" in log[0]:
        np.testing.assert_allclose(column("bias"), stored["bias_after_step"], rtol=0, atol=LOG_SCALE)
    print(f"{run}: {5 if 'bias' in log[0] else 4} arrays compared over {len(log)} steps")


@with_stored("final")
def test_the_weights_after_the_last_step_are_the_peers(run: str) -> None:
    log, states = finished(run)
    found = worst(states[len(log) - 1]["params"], stored_runs.params(run, stored_runs.weights(run, "final")))
    assert max(found.values()) <= WEIGHTS, {name: d for name, d in found.items() if d > WEIGHTS}
    print(f"{run}: {len(found)} arrays compared, worst {max(found.values()):.1e}")


@with_stored("after_step_1")
def test_the_weights_after_step_1_are_the_peers(run: str) -> None:
    _, states = finished(run)
    found = worst(states[1]["params"], stored_runs.params(run, stored_runs.weights(run, "after_step_1")))
    assert max(found.values()) <= WEIGHTS, {name: d for name, d in found.items() if d > WEIGHTS}
    print(f"{run}: {len(found)} arrays compared, worst {max(found.values()):.1e}")


@with_stored("grads_step0")
def test_the_gradients_of_step_0_are_the_peers(run: str) -> None:
    """Read out of the first moments: after one step they are (1 - b1) times the clipped gradients."""
    log, states = finished(run)
    config = stored_runs.config_of(run).optim
    clipped = min(1.0, config.clip_norm / (log[0]["grad_norm"] + 1e-6))
    moments = _first_moments(states[0])
    ours = {name: m / ((1 - config.b1) * clipped) for name, m in moments.items()}
    theirs = tree.flatten(stored_runs.params(run, stored_runs.weights(run, "grads_step0")))
    assert set(ours) == set(theirs)
    for name, grad in theirs.items():
        scale = np.sqrt(np.mean(np.square(theirs[name.replace("/k/", "/v/")] if name == NOISE else grad)))
        tolerance = reference.KEY_BIAS if name == NOISE else reference.GRADIENTS
        assert np.max(np.abs(ours[name] - grad)) <= tolerance * scale, name
    print(f"{run}: {len(theirs)} arrays compared")


@pytest.mark.parametrize("run", stored_runs.runs())
def test_the_embeddings_of_step_0_are_the_peers(run: str) -> None:
    stored = stored_runs.log(run)
    batch, config = stored_runs.batches(run)[0], stored_runs.config_of(run)
    image = jax.jit(two_towers.vision_tower(config).apply)(stored_runs.start(run)["image"], batch["image"])
    tower, text_params = stored_runs.text_tower(run)
    ids = stored_runs.inputs()
    text = jax.jit(tower.apply)(text_params, ids["input_ids_0"], ids["attention_mask_0"])
    theirs = {name: stored[name] for name in ("vision_embedding_step0", "text_embedding_step0")}
    reference.check(run, dict(zip(theirs, (image, text), strict=True)), theirs, reference.FORWARD)


def test_the_runs_are_there() -> None:
    assert stored_runs.runs(), f"no runs under {reference.ROOT}"


def _first_moments(state: tree.Tree) -> dict[str, Any]:
    """{name: Adam's mu} out of the optimizer state."""
    named = tree.flatten(state["opt_state"])
    return {name.split("mu/")[1]: leaf for name, leaf in named.items() if "mu/" in name}
