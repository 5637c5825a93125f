"""The memory-bounded losses against the plain forms, on 1 to 8 devices, and what the compiler makes of them."""

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from loss_cases import mesh_of, unit

from lit_tune import losses
from lit_tune.losses import blocks, plain, sharded, softmax
from lit_tune.losses.blocks import Form

ROWS = PartitionSpec(("data", "fsdp"))
NAMES = ["softmax", "sigmoid"]


def scalars_of(name: str, scale: float = 10.0, bias: float = -3.0) -> tuple[np.float32, ...]:
    """log_scale and, for the sigmoid, the bias."""
    return (np.float32(np.log(scale)), np.float32(bias))[:1 if name == "softmax" else 2]


def jitted(loss: Callable, **options: Any) -> Callable[..., tuple]:
    """Arrays -> ((loss, metrics), gradients of every array)."""
    return jax.jit(lambda *arrays: jax.value_and_grad(lambda *a: loss(*a, **options), has_aux=True,
                                                      argnums=tuple(range(len(arrays))))(*arrays))


def all_of(loss: Callable, *arrays: Any, **options: Any) -> tuple:
    """((loss, metrics), gradients of every array) as jit gives them."""
    return jitted(loss, **options)(*arrays)


def assert_near(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Every array within `tolerance` of its largest value."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(np.abs(b).max(), 1e-3))


# (data, fsdp, tensor), images, texts, block, positives, masked, frozen
LAYOUTS = [((1, 1, 1), 12, 20, 7, "shuffled", True, False), ((2, 1, 1), 16, 16, 5, None, False, True),
           ((1, 2, 2), 16, 24, 9, "repeated", False, False), ((8, 1, 1), 16, 24, 5, None, True, False),
           ((2, 2, 2), 24, 32, 32, "repeated", True, False)]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: "x".join(map(str, layout[0])))
@pytest.mark.parametrize("name", NAMES)
def test_value_metrics_and_gradients_equal_the_plain_form(name: str, layout: tuple) -> None:
    devices, n, m, block, order, masked, frozen = layout
    rng = np.random.default_rng(n + m)
    positives = {None: None, "shuffled": rng.permutation(m)[:n], "repeated": rng.integers(0, m, n)}[order]
    options = {"positives": positives, "frozen_text": frozen,
               "caption_ids": np.uint32(rng.integers(0, 3, (m, 2))) if masked else None}
    rows = unit(rng, n, 12), unit(rng, m, 12)
    ours = jitted(losses.named(name), mesh=mesh_of(*devices), block=block, **options)
    formula = jitted(getattr(plain, name), **options)
    for scale in (10.0, 150.0):  # one branch of the softmax each
        found = ours(*rows, *scalars_of(name, scale))
        assert_near(found, formula(*rows, *scalars_of(name, scale)))
        assert np.all(np.asarray(found[1][1]) == 0) == frozen


@pytest.mark.parametrize("name", NAMES)
def test_without_a_mesh_the_caller_may_spread_the_arrays(name: str) -> None:
    rng, mesh = np.random.default_rng(1), mesh_of(4, 2)
    arrays = (unit(rng, 16, 12), unit(rng, 24, 12), *scalars_of(name))
    spread = [jax.device_put(x, NamedSharding(mesh, ROWS if x.ndim else PartitionSpec())) for x in arrays]
    ids = np.uint32(rng.integers(0, 3, (24, 2)))
    found = all_of(losses.named(name), *spread, block=7, caption_ids=ids, frozen_text=False)
    assert_near(found, all_of(getattr(plain, name), *arrays, caption_ids=ids, frozen_text=False))


def nested(loss: Callable, dims: tuple[int, ...], image: jax.Array, text: jax.Array, *scalars: jax.Array) -> tuple:
    """The mean of a plain form over widths, metrics of the first."""
    def short(rows: jax.Array, dim: int) -> jax.Array:
        return rows[:, :dim] / jnp.linalg.norm(rows[:, :dim], axis=1, keepdims=True)

    found = [loss(short(image, dim), short(text, dim), *(s[k] for s in scalars), frozen_text=False)
             for k, dim in enumerate(dims)]
    # The full width is taken as it is: unit rows come in.
    found[0] = loss(image, text, *(s[0] for s in scalars), frozen_text=False)
    return sum(value for value, _ in found) / len(dims), found[0][1]


@pytest.mark.parametrize("name", NAMES)
def test_nested_widths_are_the_mean_over_the_cut_and_renormalised_rows(name: str) -> None:
    rng, dims = np.random.default_rng(2), (12, 7, 2)
    arrays = [unit(rng, 16, 12), unit(rng, 24, 12), np.log(np.float32([10, 5, 150])), np.float32([-3, -2, -1])]
    arrays = arrays[:3 if name == "softmax" else 4]
    expected = all_of(partial(nested, getattr(plain, name), dims), *arrays)
    found = all_of(losses.named(name), *arrays, mesh=mesh_of(4, 2), dims=dims, block=9, frozen_text=False)
    assert_near(found, expected)
    frozen = all_of(losses.named(name), *arrays, dims=dims)
    assert_near(frozen[1][0], expected[1][0])


def ring_sigmoid(image: jax.Array, text: jax.Array, log_scale: jax.Array, bias: jax.Array, mesh: Mesh) -> jax.Array:
    """The sigmoid loss with the texts passed round the devices, gradients by autodiff."""
    def local(image: jax.Array, text: jax.Array, log_scale: jax.Array, bias: jax.Array) -> jax.Array:
        size, n = mesh.shape["data"], image.shape[0]
        total, here = 0.0, text
        for step in range(size):
            logits = jnp.exp(log_scale) * jnp.dot(image, here.T, precision="highest") + bias
            sign = 2 * jnp.eye(n) - 1 if step == 0 else -jnp.ones((n, n))
            total += jnp.sum(jnp.logaddexp(0.0, -sign * logits))
            here = jax.lax.ppermute(here, "data", [(k, (k + 1) % size) for k in range(size)])
        return jax.lax.psum(total, "data") / (n * size)

    whole = PartitionSpec()
    return jax.shard_map(local, mesh=mesh, in_specs=(ROWS, ROWS, whole, whole), out_specs=whole, check_vma=False)(
        image, text, log_scale, bias)


def test_sigmoid_equals_the_ring_form() -> None:
    rng, mesh = np.random.default_rng(3), mesh_of(8)
    arrays = (unit(rng, 24, 12), unit(rng, 24, 12), *scalars_of("sigmoid"))
    (value, _), grads = all_of(losses.sigmoid_loss_and_metrics, *arrays, mesh=mesh, block=5, frozen_text=False)
    assert_near((value, grads), jax.jit(jax.value_and_grad(partial(ring_sigmoid, mesh=mesh), argnums=(0, 1, 2, 3)))(
        *arrays))


def test_softmax_equals_the_open_clip_form() -> None:
    rng, mesh = np.random.default_rng(4), mesh_of(4, 1, 2)
    arrays = (unit(rng, 24, 12), unit(rng, 24, 12), *scalars_of("softmax"))
    (value, _), grads = all_of(losses.softmax_loss_and_metrics, *arrays, mesh=mesh, block=5, frozen_text=False)
    assert_near((value, grads), jax.jit(jax.value_and_grad(partial(plain.open_clip_softmax, mesh=mesh),
                                                           argnums=(0, 1, 2)))(*arrays))


# Numbers that float32 cannot hold.


def exact_softmax(image: np.ndarray, text: np.ndarray, scale: float) -> tuple[float, np.ndarray]:
    """(loss, gradient of the images) in float64."""
    n = len(image)
    logits = scale * np.float64(image) @ np.float64(text).T
    rows, columns = (np.logaddexp.reduce(logits, axis=axis, keepdims=True) for axis in (1, 0))
    loss = (np.mean(rows[:, 0] - np.diag(logits)) + np.mean(columns[0, :n] - np.diag(logits))) / 2
    p = np.exp(logits - rows)
    p[:, :n] += np.exp(logits - columns)[:, :n]
    p[np.arange(n), np.arange(n)] -= 2
    return float(loss), scale / (2 * n) * p @ np.float64(text)


def extremes(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """64 images and texts whose cosines are exactly 1 or -1."""
    signs = {"opposite": (1, -1), "equal": (1, 1)}.get(kind)
    if signs is None:
        rows = np.where(np.arange(64) % 2, 1.0, -1.0)
        image, text = rows, np.roll(rows, 1) if kind == "swapped" else rows
    else:
        image, text = np.full(64, signs[0]), np.full(64, signs[1])
    return np.float32(np.stack([image, 0 * image], 1)), np.float32(np.stack([text, 0 * text], 1))


BORDER = (softmax._ROOM - math.log(64)) / 2


@jax.jit
def both_branches(image: jax.Array, text: jax.Array, log_scale: jax.Array) -> tuple:
    """(which branch is proved, the costs and the image slopes of each branch)."""
    side, form = blocks.make_side(image, text, jnp.exp(log_scale), None, None, None), Form(None, True, (), 24)
    found = [branch(side, form, True) for branch in (softmax.with_fixed_shift, softmax.with_running_maximum)]
    return softmax.fixed_shift_holds(softmax.reach(side, form), 64), [
        (jnp.concatenate([each.rows, each.own_columns]) - jnp.tile(side.own_logit, 2), each.image) for each in found]


@pytest.mark.parametrize("kind", ["opposite", "equal", "swapped", "right"])
def test_both_sides_of_the_border_are_exact_at_cosines_of_one(kind: str) -> None:
    image, text = extremes(kind)
    for scale in (BORDER - 1e-3, BORDER + 1e-3):
        log_scale = np.float32(np.log(scale))
        proved, branches = both_branches(image, text, log_scale)
        assert bool(proved) == (scale < BORDER)
        loss, slopes = exact_softmax(image, text, float(np.exp(np.float64(log_scale))))
        for costs, image_slopes in branches:  # also the one that is not chosen
            assert np.mean(costs) == pytest.approx(loss, rel=1e-5, abs=2e-5)  # a ulp of a logit of 85 is 8e-6
            np.testing.assert_allclose(image_slopes * (scale / 128), slopes, rtol=1e-4, atol=1e-5 * scale / 128)


@pytest.mark.parametrize("scale", [BORDER - 1, BORDER + 1])
def test_the_running_maximum_is_taken_beyond_the_border_only(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    running = softmax.with_running_maximum
    monkeypatch.setattr(softmax, "with_running_maximum", lambda *a: running(*a)._replace(rows=jnp.full(64, jnp.nan)))
    loss = losses.softmax_loss(*extremes("right"), np.log(scale))
    assert np.isnan(loss) == (scale > BORDER)


def test_rows_longer_than_one_count_towards_the_border() -> None:
    image, text = extremes("equal")
    side = blocks.make_side(jnp.asarray(3 * image), jnp.asarray(text * 2), jnp.float32(5), None, None, None)
    assert float(softmax.reach(side, Form(None, True, (), None))) == pytest.approx(30)
    side = blocks.make_side(jnp.asarray(np.nan * image), jnp.asarray(text), jnp.float32(5), None, None, None)
    assert float(softmax.reach(side, Form(None, True, (), None))) > 1e38  # every device turns to the running maximum


@pytest.mark.parametrize("scale", [60.0, 100.0])
def test_right_pairs_far_below_one_are_exact(scale: float) -> None:
    """As with nomic's texts: right pairs near 0.07. exp(scale (cosine - 1)) would be 0 for whole rows at 100."""
    rng = np.random.default_rng(6)
    text = unit(rng, 40, 64)
    across = unit(rng, 40, 64)
    across -= np.sum(across * text, axis=1, keepdims=True) * text
    image = np.float32(0.07 * text + math.sqrt(1 - 0.07**2) * across / np.linalg.norm(across, axis=1, keepdims=True))
    (value, _), (slopes,) = all_of(lambda x: losses.softmax_loss_and_metrics(x, text, np.log(scale), block=11), image)
    loss, expected = exact_softmax(image, text, float(np.exp(np.float64(np.float32(np.log(scale))))))
    assert float(value) == pytest.approx(loss, rel=1e-5)
    assert_near(slopes, expected)


def test_bfloat16_text_stays_within_the_error_budget_at_scale_100() -> None:
    """The budget of `softmax`'s docstring, by its derivation and, far closer, by what is seen."""
    rng = np.random.default_rng(7)
    text = np.asarray(jnp.asarray(unit(rng, 96, 256), jnp.bfloat16))
    mixed = 0.25 * np.float32(text) + unit(rng, 96, 256)
    image = np.float32(mixed / np.linalg.norm(mixed, axis=1, keepdims=True))
    (value, _), (slopes,) = all_of(lambda x: losses.softmax_loss_and_metrics(x, text, np.log(100), block=40), image)
    loss, expected = exact_softmax(image, np.float32(text), 100.0)
    wrong = 100 * 2**-8 * np.max(np.abs(image) @ np.abs(np.float32(text)).T)  # of a logit, at most
    assert 0 < abs(float(value) - loss) <= 2 * wrong
    assert abs(float(value) / loss - 1) <= 5e-3  # seen: 1e-3
    error = np.linalg.norm(slopes - expected) / np.linalg.norm(expected)
    assert 2**-12 < error <= 0.012  # seen: 4e-3, with slopes rounded by 2^-8 at most


# What is kept, and what the compiler makes of it.


@pytest.mark.parametrize("name", NAMES)
def test_only_the_gradient_is_kept_for_the_backward_pass(name: str) -> None:
    image, text = jax.ShapeDtypeStruct((512, 16), jnp.float32), jax.ShapeDtypeStruct((512, 16), jnp.bfloat16)

    def kept(frozen: bool, loss: Callable) -> int:
        def pull_back(image: jax.Array, text: jax.Array, scalars: tuple) -> Any:
            return jax.vjp(lambda *a: loss(*a[:2], *a[2], frozen_text=frozen), image, text, scalars, has_aux=True)[1]

        leaves = jax.tree.leaves(jax.eval_shape(pull_back, image, text, scalars_of(name)))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    blocked = partial(losses.named(name), mesh=mesh_of(8), block=32)
    assert 0 <= kept(True, blocked) - 512 * 16 * 4 <= 64  # float32 images, and a few scalars
    assert 0 <= kept(False, blocked) - 512 * 16 * (4 + 2) <= 64
    assert kept(True, getattr(plain, name)) > 512 * 512 * 4  # what is spared


def lowered(name: str, *, gradient: bool = True, dims: tuple[int, ...] = (), frozen: bool = True, masked: bool = False,
            dtype: Any = jnp.float32) -> jax.stages.Lowered:
    """The loss of 256 pairs of width 8 on 8 devices: 32 images each, 16 columns at a time."""
    mesh = mesh_of(4, 2)
    rows, whole = NamedSharding(mesh, ROWS), NamedSharding(mesh, PartitionSpec())
    scalar = jax.ShapeDtypeStruct((len(dims),) if dims else (), jnp.float32, sharding=whole)
    arrays = [jax.ShapeDtypeStruct((256, 8), jnp.float32, sharding=rows),
              jax.ShapeDtypeStruct((256, 8), dtype, sharding=rows),
              jax.ShapeDtypeStruct((256, 2), jnp.uint32, sharding=rows), *[scalar] * len(scalars_of(name))]

    def loss(image: jax.Array, text: jax.Array, ids: jax.Array, *scalars: jax.Array) -> tuple:
        return losses.named(name)(image, text, *scalars, mesh=mesh, caption_ids=ids if masked else None, dims=dims,
                                  frozen_text=frozen, block=16)

    wanted = (0, *([] if frozen else [1]), *range(3, len(arrays)))
    return jax.jit(jax.value_and_grad(loss, argnums=wanted, has_aux=True) if gradient else loss).lower(*arrays)


@pytest.mark.parametrize(("name", "options"), [
    ("softmax", {}), ("softmax", {"masked": True, "frozen": False}), ("sigmoid", {"dims": (8, 4)})])
def test_only_the_text_is_gathered_once_and_no_table_is_stored(name: str, options: dict) -> None:
    hlo = lowered(name, **options).compile().as_text()
    gathered = sorted(re.findall(r"= \(?(?:\S+ )?(\w+\[[\d,]*\])\{[^}]*\}\)? all-gather(?:-start)?\(", hlo))
    assert gathered == ["f32[256,8]"] + ["u32[256,2]"] * ("masked" in options), gathered
    assert "all-to-all" not in hlo and "collective-permute" not in hlo
    sizes = [math.prod(map(int, dims.split(","))) for dims in re.findall(r"\w+\[([\d,]+)\]", hlo)]
    assert max(sizes) < 32 * 256, max(sizes)
    assert "f32[32,16]" in hlo  # a block
    assert ("reduce-scatter" in hlo) == (options.get("frozen") is False)


def test_the_text_is_gathered_in_the_dtype_it_arrives_in() -> None:
    lines = [line for line in lowered("softmax", dtype=jnp.bfloat16).as_text().splitlines() if "all_gather" in line]
    assert len(lines) == 1 and "tensor<256x8xbf16>" in lines[0], lines


@pytest.mark.parametrize("name", NAMES)
def test_float32_products_are_asked_for_as_such_and_bfloat16_ones_have_float32_sums(name: str) -> None:
    """The default on a TPU would be bfloat16 passes."""
    def products(dtype: Any) -> list[str]:
        text = lowered(name, frozen=False, dtype=dtype).as_text()
        return [line for line in text.splitlines() if "dot_general" in line and re.search("32x16x|16x8x", line)]

    exact, rounded = products(jnp.float32), products(jnp.bfloat16)
    assert len(exact) == len(rounded) >= 6
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in exact), exact
    assert all(re.search(r"\(tensor<\w+xbf16>, tensor<\w+xbf16>\) -> tensor<\w+xf32>", line) for line in rounded)


@pytest.mark.parametrize("name", NAMES)
def test_a_value_alone_makes_no_gradient(name: str) -> None:
    gradient = re.compile(r"dot_general.*-> tensor<32x8xf32>")
    assert gradient.search(lowered(name).as_text())
    assert not gradient.search(lowered(name, gradient=False).as_text())
    assert "collective" not in lowered(name, gradient=False).as_text()


@pytest.mark.parametrize("name", NAMES)
def test_the_paper_s_batch_can_be_traced(name: str) -> None:
    """Its 4.3e9 pairs are beyond int32."""
    rows, ids = jax.ShapeDtypeStruct((65_536, 8), jnp.float32), jax.ShapeDtypeStruct((65_536, 2), jnp.uint32)

    def call(loss: Callable, rows: jax.Array, ids: jax.Array | None) -> tuple:
        return loss(rows, rows, *scalars_of(name), caption_ids=ids)

    for loss in (losses.named(name), getattr(plain, name)):
        for masked in (None, ids):
            found = jax.eval_shape(partial(call, loss), rows, masked)
            assert all(leaf.shape == () and leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(found))


def test_blocks_hold_a_bounded_number_of_elements() -> None:
    for images, width in ((4096, 4096), (3000, 4096), (256, 4096), (65_536, 256), (10_000_000, 128), (5000, 3328)):
        assert blocks.width_of_block(images, 65_536) == width
    assert blocks.width_of_block(8, 24) == 24


# What a user can get wrong.


def test_rows_that_cannot_be_cut_evenly_are_refused_with_both_sizes() -> None:
    rows = np.eye(12, dtype=np.float32)
    with pytest.raises(ValueError, match="multiples of the 8 devices along data x fsdp, found 8 and 12"):
        losses.softmax_loss(rows[:8], rows, 0.0, mesh=mesh_of(4, 2))


def test_widths_that_do_not_fit_are_refused() -> None:
    rows = np.eye(4, dtype=np.float32)
    for dims in ((2,), (4, 5), (4, 0)):
        with pytest.raises(ValueError, match="dims: expected widths within 1 to 4, the full one first"):
            losses.softmax_loss(rows, rows, np.zeros(len(dims)), dims=dims)
    with pytest.raises(ValueError, match=r"expected shape \(2,\), found \(\)"):
        losses.sigmoid_loss(rows, rows, np.zeros(2), 0.0, dims=(4, 2))


def test_a_cut_row_of_zeros_has_a_finite_gradient() -> None:
    slopes = jax.grad(lambda rows: jnp.sum(sharded.cut(rows, 2)))(jnp.eye(4))
    assert np.all(np.isfinite(slopes))
