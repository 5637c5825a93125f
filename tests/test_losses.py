"""The losses against open_clip's and contrastors' values and gradients, and against the formulas in numpy float64."""

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax.sharding import NamedSharding, PartitionSpec
from loss_cases import mesh_of, unit

from lit_tune import errors, losses
from lit_tune.losses import plain, shapes

CASES = [case for case in reference.cases("d_losses", ".npz") if reference.has("d_losses", case, ".npz")]


def normalised(rows: jax.Array) -> jax.Array:
    """Rows over their length."""
    return rows / jnp.linalg.norm(rows, axis=1, keepdims=True)


# The peers' losses, as functions of what is stored.


def softmax(image: jax.Array, text: jax.Array, log_scale: jax.Array, _: jax.Array) -> jax.Array:
    return losses.softmax_loss(image, text, log_scale, frozen_text=False)


def softmax_of_unnormalised(image: jax.Array, text: jax.Array, log_scale: jax.Array, _: jax.Array) -> jax.Array:
    return losses.softmax_loss(normalised(image), normalised(text), log_scale, frozen_text=False)


def softmax_one_way(image: jax.Array, text: jax.Array, log_scale: jax.Array, _: jax.Array) -> jax.Array:
    """The loss with nothing flowing back through the other modality: each direction trains only its own rows."""
    stop = jax.lax.stop_gradient
    to_text = plain.softmax(image, stop(text), log_scale)[1]["loss_i2t"]
    to_image = plain.softmax(stop(image), text, log_scale, frozen_text=False)[1]["loss_t2i"]
    return (to_text + to_image) / 2


def sigmoid(image: jax.Array, text: jax.Array, log_scale: jax.Array, bias: jax.Array) -> jax.Array:
    return losses.sigmoid_loss(image, text, log_scale, bias, frozen_text=False)


# variant -> (our loss, power of the world size W in: loss averaged over ranks, feature gradients, scalar gradients
# summed over ranks). From the reference's README and the manifest's `relation`.
VARIANTS: dict[str, tuple[Callable[..., jax.Array], int, int, int]] = {
    "clip": (softmax, 0, 0, 0),
    "clip_local0_gathergrad0": (softmax, 0, 0, 1),
    "clip_local0_gathergrad1": (softmax, 0, 1, 1),
    "clip_local1_gathergrad0": (softmax_one_way, 0, 1, 1),
    "clip_local1_gathergrad1": (softmax, 0, 1, 1),
    "contrastors_dual_encoder": (softmax_of_unnormalised, 1, 2, 2),
    "siglip": (sigmoid, 0, 0, 0),
    "siglip_bidir": (sigmoid, 0, 1, 1),
    "siglip_shift": (sigmoid, 0, 1, 1),
    "siglip_reduce": (sigmoid, 0, 1, 1),
    "siglip_gather": (sigmoid, 0, 1, 1),
}


# How a gradient is stored: whole, or its norm and some rows where it is large.
VIEWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "": lambda grad: grad,
    "_norm": np.linalg.norm,
    "_rows_0_1_mid_last": lambda grad: grad[[0, 1, len(grad) // 2, -1]],
}


def differences(stored: dict[str, np.ndarray], devices: int) -> dict[str, tuple[float, float]]:
    """{array: (its difference, its tolerance)} for every stored output, on 1 or more devices."""
    mesh = mesh_of(devices)
    rows, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    inputs = [stored["image"], stored["text"], np.float32(stored["log_scale"]), np.float32(stored["logit_bias"])]
    results, found = {}, {}
    for name, theirs in stored.items():
        if "/" not in name:
            continue
        world, variant, what = name.split("/")
        loss, loss_power, feature_power, scalar_power = VARIANTS[variant]
        if loss not in results:
            results[loss] = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)),
                                    in_shardings=(rows, rows, whole, whole))(*inputs)
        value, grads = results[loss]
        grads, ranks = dict(zip(("image", "text", "log_scale", "bias"), grads, strict=True)), float(world[1:])
        if what == "loss":
            found[name] = abs(float(value) * ranks**loss_power / theirs.mean(dtype=np.float64) - 1), 5e-6
            continue
        part, view = re.fullmatch(r"grad_(image|text|log_scale|bias)(.*)", what).groups()
        grad = np.asarray(grads[part], np.float64)
        if part in ("log_scale", "bias"):
            found[name] = reference.rel(grad * ranks**scalar_power, theirs.sum(dtype=np.float64)), 5e-5
        else:
            grad = VIEWS[view](grad)
            found[name] = reference.rel(grad * ranks**feature_power, theirs), 5e-5
    return found


@pytest.mark.parametrize(("case", "devices"), [(case, 1) for case in CASES] + [(case, 8) for case in CASES[:2]])
def test_losses_equal_the_peers_values_and_gradients_at_any_world_size(case: str, devices: int) -> None:
    found = differences(reference.arrays("d_losses", case, ".npz"), devices)
    wrong = {name: pair for name, pair in found.items() if not pair[0] <= pair[1]}
    assert found and not wrong, wrong
    print(f"{case} on {devices} devices: {len(found)} arrays compared")


def test_the_reference_is_there() -> None:
    assert CASES, f"no d_losses under {reference.ROOT}"


# The formulas in float64, written with loops.


def softmax_formula(image: np.ndarray, text: np.ndarray, log_scale: float, _: float, positives: np.ndarray,
                    ids: np.ndarray | None) -> float:
    logits, total = np.exp(log_scale) * image @ text.T, 0.0
    for i, p in enumerate(positives):
        keep = [j for j in range(len(text)) if j == p or not same(ids, p, j)]
        total += np.log(np.sum(np.exp(logits[i, keep]))) - logits[i, p]
        keep = [k for k in range(len(image)) if k == i or positives[k] == p or not same(ids, positives[k], p)]
        total += np.log(np.sum(np.exp(logits[keep, p]))) - logits[i, p]
    return total / (2 * len(image))


def sigmoid_formula(image: np.ndarray, text: np.ndarray, log_scale: float, bias: float, positives: np.ndarray,
                    ids: np.ndarray | None) -> float:
    logits, total = np.exp(log_scale) * image @ text.T + bias, 0.0
    for i, p in enumerate(positives):
        for j in range(len(text)):
            if j == p or not same(ids, p, j):
                total += np.log1p(np.exp(-logits[i, j] if j == p else logits[i, j]))
    return total / len(image)


def same(ids: np.ndarray | None, a: int, b: int) -> bool:
    """Whether two text rows have one caption."""
    return ids is not None and bool(np.all(ids[a] == ids[b]))


def slopes(function: Callable[..., float], values: list[np.ndarray | float]) -> list[np.ndarray]:
    """Central differences of a float64 function in each of its arguments."""
    grads = []
    for k, value in enumerate(values):
        value, grad = np.asarray(value, np.float64), np.zeros(np.shape(value))
        for index in np.ndindex(value.shape):
            step = np.zeros_like(value)
            step[index] = 1e-5
            up, down = (function(*values[:k], value + s, *values[k + 1:]) for s in (step, -step))
            grad[index] = (up - down) / 2e-5
        grads.append(grad)
    return grads


# n images, m texts, whether positives are shuffled, whether captions repeat
SIZES = [(5, 5, False, False), (5, 8, False, True), (7, 11, True, True), (1, 1, False, False)]


def example(n: int, m: int, shuffled: bool, repeated: bool) -> tuple[list, np.ndarray, np.ndarray | None]:
    """Random inputs of one case: [image, text, log_scale, bias], positives, caption ids or None."""
    rng = np.random.default_rng([n, m])
    positives = np.int32(rng.permutation(m)[:n] if shuffled else np.arange(n))
    # The two words are drawn apart, so rows with one equal word and one different word occur.
    ids = np.uint32(rng.integers(0, 2, (m, 2))) * np.uint32(0xFFFFFFFF) if repeated else None
    return [unit(rng, n, 4), unit(rng, m, 4), np.float32(1.7), np.float32(-2.0)], positives, ids


@pytest.mark.parametrize(("ours", "formula"), [(losses.softmax_loss, softmax_formula),
                                               (losses.sigmoid_loss, sigmoid_formula)])
@pytest.mark.parametrize("sizes", SIZES)
def test_value_and_all_gradients_equal_the_formula(ours: Callable, formula: Callable, sizes: tuple) -> None:
    inputs, positives, ids = example(*sizes)
    scalars = 1 if ours is losses.softmax_loss else 2
    loss, grads = jax.jit(jax.value_and_grad(
        lambda *a: ours(*a[:2 + scalars], positives=positives, caption_ids=ids, frozen_text=False, block=3),
        argnums=(0, 1, 2, 3)))(*inputs)
    exact = [np.asarray(x, np.float64) for x in inputs]
    assert float(loss) == pytest.approx(formula(*exact, positives, ids), rel=2e-6, abs=2e-6)
    for grad, slope in zip(grads, slopes(lambda *a: formula(*a, positives, ids), exact), strict=True):
        np.testing.assert_allclose(grad, slope, rtol=2e-5, atol=2e-6)  # float32 rounding; the slopes are good to 1e-9


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_metrics_equal_the_formula(name: str) -> None:
    inputs, positives, ids = example(7, 11, True, True)
    loss, metrics = jax.jit(lambda *a: losses.LOSSES[name](*a, positives=positives, caption_ids=ids))(
        *inputs[:3 if name == "softmax" else 4])
    cosines = np.float64(inputs[0]) @ np.float64(inputs[1]).T
    own = positives[:, None] == np.arange(11)
    masked = np.array([[same(ids, p, j) for j in range(11)] for p in positives]) & ~own
    assert 0 < masked.sum() < 70
    expected = {"cos_pos": cosines[own].mean(), "cos_neg": cosines[~own & ~masked].mean(),
                "masked_frac": masked.sum() / 70}
    if name == "softmax":
        assert float(metrics["loss_i2t"] + metrics["loss_t2i"]) / 2 == pytest.approx(float(loss), rel=1e-6)
    assert {k: float(v) for k, v in metrics.items() if k in expected} == pytest.approx(expected, rel=1e-5)
    assert all(v.dtype == jnp.float32 and v.shape == () for v in metrics.values())


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_a_masked_duplicate_is_as_if_it_were_not_there(name: str) -> None:
    """An extra text with the caption of image 0 must not push image 0, in value and in gradient."""
    (image, text, *scalars), _, _ = example(4, 5, False, False)
    scalars = scalars[:1 if name == "softmax" else 2]
    ids = np.uint32([[1, 1], [2, 2], [3, 3], [4, 4], [1, 1]])

    def loss(image: jax.Array, text: jax.Array, ids: np.ndarray | None) -> jax.Array:
        return losses.LOSSES[name](image, text, *scalars, caption_ids=ids, frozen_text=False)[0]

    grads = jax.jit(jax.grad(loss, argnums=(0, 1)))
    image_grad, text_grad = grads(image, text, ids)
    np.testing.assert_allclose(image_grad[0], grads(image, text[:4], None)[0][0], rtol=1e-5, atol=1e-7)
    assert np.any(text_grad[4] != 0)  # the duplicate is still a negative of images 1 to 3
    image_grad, text_grad = grads(image, text, np.ones_like(ids))  # now of nobody, a column with every row masked
    assert np.all(np.asarray(text_grad[4]) == 0)
    assert np.all(np.isfinite(image_grad)) and np.all(np.isfinite(text_grad))


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_value_and_gradients_stay_finite_at_any_scale(name: str) -> None:
    rng = np.random.default_rng(3)
    text = np.concatenate([unit(rng, 6, 4), unit(rng, 1, 4).repeat(3, 0)])  # three equal rows among them
    image = np.concatenate([text[:3], -text[3:6], text[6:]])  # perfect, opposite and ambiguous ones
    scalars = 1 if name == "softmax" else 2
    run = jax.jit(jax.value_and_grad(
        lambda *a, ids: losses.LOSSES[name](*a[:2 + scalars], caption_ids=ids, frozen_text=False)[0],
        argnums=(0, 1, 2, 3)))
    for scale in (1e-4, 1.0, 1e4, 1e20):
        for ids in (np.arange(18, dtype=np.uint32).reshape(9, 2), np.zeros((9, 2), np.uint32)):
            loss, grads = run(image, text, np.float32(np.log(scale)), np.float32(-10.0), ids=ids)
            # Softmax is a difference of logits as large as the scale: at 1e20 what rounds there may fall below 0.
            floor = -np.finfo(np.float32).eps * scale if name == "softmax" and scale == 1e20 else 0.0
            assert np.isfinite(loss) and loss >= floor
            assert all(np.all(np.isfinite(g)) for g in grads)


def test_embeddings_that_know_nothing_cost_the_logarithm_of_the_batch() -> None:
    rows = np.ones((37, 4), np.float32) / 2
    assert float(losses.softmax_loss(rows, rows, np.log(100.0))) == pytest.approx(np.log(37), rel=1e-6)


def test_sigmoid_starts_near_zero_per_negative_as_the_bias_intends() -> None:
    """t = 10, b = -10 and orthogonal rows: n - 1 negatives at log(1 + e^-10), one positive at log(1 + e^0)."""
    rows = np.eye(8, dtype=np.float32)
    expected = 7 * np.log1p(np.exp(-10)) + np.log(2)
    assert float(losses.sigmoid_loss(rows, rows, np.log(10.0), -10.0)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_frozen_text_gets_no_gradient_and_changes_nothing_else(name: str) -> None:
    inputs, _, _ = example(5, 8, False, False)
    inputs = inputs[:3 if name == "softmax" else 4]

    def run(frozen: bool) -> tuple:
        return jax.jit(jax.value_and_grad(lambda *a: losses.LOSSES[name](*a, frozen_text=frozen)[0],
                                          argnums=tuple(range(len(inputs)))))(*inputs)

    (value, grads), (free_value, free_grads) = run(True), run(False)
    assert value == free_value and np.all(np.asarray(grads[1]) == 0) and np.any(np.asarray(free_grads[1]) != 0)
    for grad, free_grad in zip(grads[::2], free_grads[::2], strict=True):
        np.testing.assert_allclose(grad, free_grad, rtol=1e-6)


# The closer look.


def test_effective_rank_and_gap_of_known_clouds() -> None:
    axes = np.concatenate([np.eye(6), -np.eye(6)]).astype(np.float32)  # even over 6 directions, mean 0
    line = np.float32([[1, 0, 0, 0, 0, 0], [-1, 0, 0, 0, 0, 0]]).repeat(6, 0)
    point = np.float32([[0, 0.6, 0.8, 0, 0, 0]]).repeat(12, 0)
    metrics = losses.embedding_metrics(axes, line)
    assert float(metrics["erank_image"]) == pytest.approx(6, rel=1e-5)
    assert float(metrics["erank_text"]) == pytest.approx(1, rel=1e-5)
    assert float(metrics["centroid_gap"]) == pytest.approx(0, abs=1e-6)
    metrics = losses.embedding_metrics(axes[:4], point)  # fewer rows than columns: 4 points span 3 directions
    assert float(metrics["erank_image"]) == pytest.approx(3, rel=1e-5)
    assert float(metrics["erank_text"]) == pytest.approx(1, rel=1e-3)
    assert float(metrics["centroid_gap"]) == pytest.approx(np.linalg.norm([0.25, -0.35, -0.55, 0.25]), rel=1e-5)


def test_effective_rank_looks_at_a_bounded_number_of_rows() -> None:
    rng = np.random.default_rng(0)
    rows = np.concatenate([unit(rng, 1024, 8), np.zeros((50, 8), np.float32)])
    assert losses.embedding_metrics(rows, rows)["erank_image"] == losses.embedding_metrics(
        rows[:1024], rows[:1024])["erank_image"]


# What a user can get wrong.


def test_shapes_that_do_not_fit_are_refused_with_both_sizes() -> None:
    image, text = jnp.zeros((4, 8)), jnp.zeros((4, 6))
    with pytest.raises(ValueError, match=r"\(4, 8\) and \(4, 6\)"):
        shapes.check(image, text, None, None)
    with pytest.raises(ValueError, match="each of the 4 images, found 3 rows"):
        shapes.check(image, image[:3], None, None)
    with pytest.raises(ValueError, match=r"\(4,\), one a row of zimg, found \(3,\)"):
        shapes.check(image, image, np.arange(3), None)
    with pytest.raises(ValueError, match=r"\(4, 2\), one a row of ztxt, found \(3, 2\)"):
        shapes.check(image, image, None, np.zeros((3, 2)))


def test_an_unknown_loss_is_refused_with_the_known_ones() -> None:
    assert losses.named("softmax") is losses.LOSSES["softmax"]
    with pytest.raises(errors.ConfigError, match="softmax or sigmoid, found 'clip'"):
        losses.named("clip")
