"""The towers as functions of plain dicts: structure, invariances and initial values; numbers in numpy float64."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lit_tune import config as config_module, tree
from lit_tune.errors import ConfigError
from lit_tune.models import layers, linear, two_towers
from lit_tune.models.bert import Bert, BertSpec
from lit_tune.models.clip_text import ClipText, ClipTextSpec
from lit_tune.models.eva02 import VARIANTS, Eva02, Eva02Spec, rope_tables
from lit_tune.models.functional import Tower
from lit_tune.models.heads import POOLS
from lit_tune.models.jina_bert import JinaBert, JinaBertSpec
from lit_tune.models.modern_bert import ModernBert, ModernBertSpec
from lit_tune.models.nomic_bert import NomicBert, NomicBertSpec
from lit_tune.models.vision import VisionSpec, resample_positions
from lit_tune.models.vit import Vit, VitSpec

SMALL = dict(image_size=(28, 42), width=32, depth=1, num_heads=2, mlp_dim=48, pool_mlp_dim=40)


def small(**changes: Any) -> Eva02Spec:
    """A tower of 2 x 3 patches."""
    return dataclasses.replace(VARIANTS["eva02_base_patch14_224"], **(SMALL | {"pool": "map"} | changes))


def small_vit(**changes: Any) -> VitSpec:
    """CLIP's tower with 2 x 3 patches."""
    clip = dict(
        qkv_bias=True, class_token=True, pos_embed=True, pos_embed_grid=(0, 0), norm_eps=1e-5, pool="cls",
        pool_norm_eps=1e-5, final_norm=True, embed_dim=0, embed_bias=False, act="quick_gelu", pre_norm=True,
        patch_bias=False, norm_after_pool=False, patch_size=14)
    return VitSpec(**(clip | SMALL | changes))


def normal(seed: int, *shape: int) -> np.ndarray:
    """Normal float32 numbers. numpy's, because jax compiles its own anew for every shape."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def pixels(spec: VisionSpec, b: int = 3) -> jax.Array:
    """Random normalised pixels of a spec's size."""
    return jnp.asarray(normal(1, b, *spec.image_size, 3))


def apply(tower: Tower, params: tree.Tree, *inputs: Any, **options: Any) -> Any:
    """`tower.apply` compiled as one: faster here than a compilation for each operation."""
    return jax.jit(functools.partial(tower.apply, **options))(params, *inputs)


def shaken(tower: Tower) -> tree.Tree:
    """Parameters with nothing left at zero or one, so that a mistake in any of them shows."""
    named = tree.flatten(tower.abstract())
    noise = {name: 0.1 * normal(i, *leaf.shape) for i, (name, leaf) in enumerate(named.items())}
    return tree.unflatten({name: jnp.asarray(x + name.endswith("scale")) for name, x in noise.items()})


CLIP = ClipTextSpec(50, 24, 32, 2, 4, 48, 1e-5, "quick_gelu", True, "argmax", 11, 1, 20, False, False, 0)
SIGLIP = ClipTextSpec(50, 24, 32, 2, 4, 48, 1e-6, "gelu_tanh", False, "last", -1, 1, 32, True, False, 0)
MODERN = ModernBertSpec(50, 32, 4, 4, 48, 1e-5, 3, 4, 160e3, 10e3, "mean", False, 0)
TEXTS = {
    "bert": Tower(Bert, BertSpec(50, 24, 2, 32, 2, 4, 48, 1e-12, "mean", False, 0)),
    "xlm_roberta": Tower(Bert, BertSpec(50, 26, 1, 32, 2, 4, 48, 1e-5, "last", False, 0, first_position=2)),
    "clip, largest id": Tower(ClipText, CLIP),
    "clip, first eos": Tower(ClipText, dataclasses.replace(CLIP, pool="eos", embed_dim=0, act="gelu")),
    "siglip": Tower(ClipText, SIGLIP),
    "modern_bert": Tower(ModernBert, MODERN),
    "jina_bert": Tower(JinaBert, JinaBertSpec(50, 2, 30, 2, 6, 48, 1e-12, "mean", False, 0)),
    "nomic_bert": Tower(NomicBert, NomicBertSpec(50, 2, 32, 2, 4, 48, 1e-12, 1000.0, 0.0, 0, "mean", True, 0)),
    "nomic_bert, stretched": Tower(NomicBert, NomicBertSpec(50, 2, 32, 2, 4, 48, 1e-12, 1e3, 2.0, 4, "cls", True, 8)),
}


@pytest.mark.parametrize("pool", POOLS)
def test_init_abstract_and_apply_agree_about_names_shapes_and_types(pool: str) -> None:
    spec = small(pool=pool, embed_dim=0 if pool == "none" else 20)
    tower = Tower(Eva02, spec)
    params = jax.eval_shape(tower.init, jax.random.key(0))
    shapes = {name: (leaf.shape, leaf.dtype) for name, leaf in tree.flatten(params).items()}
    assert shapes == {n: (leaf.shape, leaf.dtype) for n, leaf in tree.flatten(tower.abstract()).items()}
    assert {dtype for _, dtype in shapes.values()} == {jnp.dtype("float32")}
    assert type(params["blocks"]["0"]) is dict and "blocks/0/attn/q/kernel" in shapes
    out = jax.eval_shape(tower.apply, params, pixels(spec))
    assert out.shape == ((3, 7, 32) if pool == "none" else (3, 20)) and out.dtype == jnp.float32
    gradient = jax.eval_shape(jax.grad(lambda p: jnp.sum(tower.apply(p, pixels(spec)))), params)
    assert jax.tree.structure(gradient) == jax.tree.structure(params)


@pytest.mark.parametrize("pool", POOLS)
def test_a_plain_vit_has_the_names_that_its_switches_say(pool: str) -> None:
    tower = two_towers.tower_of(small_vit(pool=pool, embed_dim=32, embed_square=True))
    assert isinstance(tower, Tower) and tower.cls is Vit
    params = shaken(tower)
    named = tree.flatten(params)
    assert {"norm_pre/scale", "blocks/0/attn/k/bias", "head/kernel"} <= set(named) and "patch_embed/bias" not in named
    assert ("attn_pool/mlp/fc1/kernel" in named) == (pool == "map")
    assert apply(tower, params, pixels(tower.spec)).shape == ((3, 7, 32) if pool == "none" else (3, 32))
    plain = two_towers.tower_of(small_vit(pool=pool, pre_norm=False, patch_bias=True, embed_dim=32)).abstract()
    assert "norm_pre" not in plain and "bias" in plain["patch_embed"] and "head" not in plain


def test_a_norm_before_or_after_the_class_token_is_taken_changes_only_the_tokens() -> None:
    before, after = (Tower(Vit, small_vit(norm_after_pool=late)) for late in (False, True))
    params = shaken(before)
    moved = {name: leaf for name, leaf in params.items() if name != "norm"} | {"fc_norm": params["norm"]}
    image = pixels(before.spec)
    np.testing.assert_allclose(apply(before, params, image), apply(after, moved, image), rtol=1e-6)
    tokens = [apply(*pair, image, method="tokens") for pair in ((before, params), (after, moved))]
    assert not np.allclose(*tokens)


@pytest.mark.parametrize("act", layers.ACTIVATIONS)
def test_activations_are_their_formulas_in_float64(act: str) -> None:
    x = np.linspace(-4, 4, 101)
    tanh = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    erf = np.vectorize(math.erf)(x / np.sqrt(2))
    expected = {"gelu": 0.5 * x * (1 + erf), "gelu_tanh": tanh, "quick_gelu": x / (1 + np.exp(-1.702 * x))}
    np.testing.assert_allclose(layers.ACTIVATIONS[act](jnp.asarray(x, jnp.float32)), expected[act], atol=1e-6)


def test_a_missing_parameter_is_named() -> None:
    tower = Tower(Eva02, small())
    params = shaken(tower)
    del params["norm"]["scale"]
    with pytest.raises(KeyError, match="norm/scale"):
        apply(tower, params, pixels(tower.spec))


def test_recomputing_blocks_changes_no_value_and_no_gradient() -> None:
    tower = Tower(Eva02, small())
    params, image = shaken(tower), pixels(tower.spec)
    run = jax.jit(jax.value_and_grad(lambda p, r: jnp.sum(jnp.sin(tower.apply(p, image, remat=r)))), static_argnums=1)
    plain, again = run(params, "none"), run(params, "full")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), plain, again)
    count = str(jax.make_jaxpr(run, static_argnums=1)(params, "full")).count("remat")
    assert count >= tower.spec.depth


@pytest.mark.parametrize("pool", ["map", "mean"])
def test_keeping_all_patches_in_any_order_is_no_dropout(pool: str) -> None:
    tower = Tower(Eva02, small(pool=pool))
    params, image = shaken(tower), pixels(tower.spec)
    keep = jnp.asarray(np.random.default_rng(0).permuted(np.tile(np.arange(6), (3, 1)), axis=1))
    np.testing.assert_allclose(
        apply(tower, params, image, keep=keep), apply(tower, params, image), rtol=1e-4, atol=1e-5
    )


def test_dropped_patches_are_not_seen() -> None:
    tower = Tower(Eva02, small())
    params, image = shaken(tower), pixels(tower.spec)
    changed = image.at[:, :14, :14].set(9.0)  # patch 0
    keep = jnp.array([[5, 1, 2]] * 3)
    np.testing.assert_array_equal(apply(tower, params, image, keep=keep), apply(tower, params, changed, keep=keep))
    assert not np.allclose(apply(tower, params, image), apply(tower, params, changed))


def test_bfloat16_is_near_float32_and_comes_back_as_float32() -> None:
    tower = Tower(Eva02, small(embed_dim=20))
    params, image = shaken(tower), pixels(tower.spec)
    exact, rough = apply(tower, params, image), apply(tower, params, image, dtype=jnp.bfloat16)
    assert rough.dtype == jnp.float32
    assert np.max(np.abs(rough - exact)) < 0.05 * np.max(np.abs(exact))


@pytest.mark.parametrize("spec", [small(depth=2), small_vit(depth=2)], ids=two_towers.family_of)
def test_block_stats_are_those_of_the_stages(spec: VisionSpec) -> None:
    tower = two_towers.tower_of(spec)
    params, image = shaken(tower), pixels(tower.spec)
    stats = apply(tower, params, image, method="block_stats")
    stages = apply(tower, params, image, method="stages")
    rms = [np.sqrt(np.mean(np.square(stages[f"block_{i:02}"]))) for i in range(2)]
    np.testing.assert_allclose(stats["rms"], rms, rtol=1e-5)
    assert stats["max_logit"].shape == (2,) and np.all(stats["max_logit"] > 0)


def test_a_picture_that_is_no_multiple_of_the_patch_is_refused() -> None:
    tower = Tower(Eva02, small())
    with pytest.raises(ConfigError, match="multiples of 14 pixels"):
        apply(tower, shaken(tower), jnp.zeros((1, 28, 30, 3)))


def test_a_stored_grid_of_positions_serves_another_image_size() -> None:
    stored, other = small(), small(image_size=(42, 28), pos_embed_grid=(2, 3))
    params = shaken(Tower(Eva02, stored))
    image = pixels(other)
    np.testing.assert_array_equal(apply(Tower(Eva02, other), params, image), apply(Tower(Eva02, stored), params, image))


@pytest.mark.parametrize("name", TEXTS)
def test_padding_changes_no_real_token_and_no_vector(name: str) -> None:
    tower = TEXTS[name]
    params = shaken(tower)
    ids = jnp.asarray(np.random.default_rng(3).integers(20, 49, (2, 9)).astype(np.int32)).at[:, 6].set(11)
    mask = jnp.ones((2, 9), jnp.int32)
    padded = (jnp.pad(ids, ((0, 0), (0, 7)), constant_values=11), jnp.pad(mask, ((0, 0), (0, 7))))
    close = dict(rtol=1e-5, atol=1e-5)
    tokens = [apply(tower, params, *given, method="tokens") for given in ((ids, mask), padded)]
    np.testing.assert_allclose(tokens[1][:, :9], tokens[0][:, :9], **close)
    vectors = apply(tower, params, ids, mask)
    assert vectors.shape == (2, tower.spec.out_dim) and vectors.dtype == jnp.float32
    np.testing.assert_allclose(apply(tower, params, *padded), vectors, **close)
    assert not np.allclose(apply(tower, params, ids.at[:, 2].set(7), mask), vectors, atol=1e-3)


@pytest.mark.parametrize("name", TEXTS)
def test_an_empty_text_gives_finite_numbers_and_gradients(name: str) -> None:
    tower = TEXTS[name]
    params = shaken(tower)
    ids, mask = jnp.zeros((2, 5), jnp.int32), jnp.array([[1, 1, 0, 0, 0], [0, 0, 0, 0, 0]])
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(two_towers.embed_text(tower, p, ids, mask)))))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("name", ["bert", "xlm_roberta", "clip, first eos", "siglip"])
def test_a_text_longer_than_the_positions_is_refused(name: str) -> None:
    tower, ids = TEXTS[name], jnp.zeros((1, 25), jnp.int32)
    assert tower.spec.max_tokens == 24
    with pytest.raises(ConfigError, match="at most 24 tokens, found 25"):
        apply(tower, shaken(tower), ids, ids)


def test_the_cut_of_a_text_vector_comes_after_its_norm() -> None:
    whole, ids = TEXTS["nomic_bert"], jnp.arange(6)[None]
    params = shaken(whole)
    cut = apply(Tower(NomicBert, dataclasses.replace(whole.spec, dim=5)), params, ids, jnp.ones_like(ids))
    full = apply(whole, params, ids, jnp.ones_like(ids))
    np.testing.assert_array_equal(cut, full[:, :5])
    np.testing.assert_allclose([np.mean(full), np.std(full)], [0, 1], atol=1e-3)


def test_attention_is_the_formula_in_float64() -> None:
    q, k, v = (np.random.default_rng(i).standard_normal((2, n, 3, 8)) for i, n in ((0, 4), (1, 5), (2, 5)))
    mask = np.array([[1, 1, 1, 0, 0], [1, 0, 1, 1, 1]]) == 1
    logits = np.einsum("bqhk,bmhk->bhqm", q, k) / np.sqrt(8)
    weights = np.exp(logits) * mask[:, None, None]
    expected = np.einsum("bhqm,bmhk->bqhk", weights / weights.sum(-1, keepdims=True), v)
    found = layers.attention(*(jnp.asarray(x, jnp.float32) for x in (q, k, v)), jnp.asarray(mask)[:, None])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_layer_norm_keeps_its_digits_where_the_mean_is_large() -> None:
    x = np.random.default_rng(0).standard_normal((4, 64)) + 1000
    exact = x.astype(np.float32).astype(np.float64)
    exact = (exact - exact.mean(-1, keepdims=True)) / np.sqrt(exact.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(linear.standardize(jnp.asarray(x, jnp.float32), 1e-6), exact, atol=2e-4)


def test_rotary_logits_depend_only_on_the_distance_between_patches() -> None:
    cos, sin = rope_tables((4, 5), 16, 10_000.0, (0, 0))
    q, k = np.random.default_rng(0).standard_normal((2, 1, 1, 1, 16)).astype(np.float32)
    q, k = (
        layers.rotate(jnp.broadcast_to(x, (1, 20, 1, 16)), jnp.asarray(cos[None]), jnp.asarray(sin[None]))[0, :, 0]
        for x in (q, k)
    )
    logits = np.asarray(q @ k.T).reshape(4, 5, 4, 5)
    np.testing.assert_allclose(logits[1, 2, 0, 0], logits[3, 4, 2, 2], rtol=1e-4, atol=1e-5)
    assert abs(logits[1, 2, 0, 0] - logits[2, 1, 0, 0]) > 1e-3


def test_positions_resampled_to_their_own_grid_are_untouched() -> None:
    table = jax.random.normal(jax.random.key(0), (1, 7, 4))
    assert resample_positions(table, (2, 3), (2, 3), 1) is table
    assert resample_positions(table, (2, 3), (5, 4), 1).shape == (1, 21, 4)
    flat = resample_positions(jnp.ones((1, 7, 4)), (2, 3), (5, 4), 1)
    np.testing.assert_allclose(flat, 1.0, rtol=1e-6)


def test_pixels_and_vectors_are_normalised_as_numpy_does_it() -> None:
    image = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
    mean, std = (0.48, 0.45, 0.40), (0.26, 0.25, 0.27)
    expected = (image / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(two_towers.normalize_pixels(jnp.asarray(image), mean, std), expected, atol=2e-6)
    x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(two_towers.l2_normalize(x), [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)
    assert np.isfinite(jax.grad(lambda y: jnp.sum(two_towers.l2_normalize(y)))(x)).all()


def test_embed_image_gives_unit_float32_rows_in_both_compute_dtypes() -> None:
    tower = Tower(Eva02, small(embed_dim=20))
    params, image = shaken(tower), jnp.asarray(np.random.default_rng(0).integers(0, 256, (3, 28, 42, 3), np.uint8))
    for dtype in (jnp.float32, jnp.bfloat16):
        embed = functools.partial(two_towers.embed_image, tower, mean=(0.5, 0.5, 0.5), std=(0.5, 0.4, 0.3), dtype=dtype)
        zimg = jax.jit(embed)(params, image)
        assert zimg.dtype == jnp.float32
        np.testing.assert_allclose(np.linalg.norm(zimg, axis=1), 1.0, rtol=1e-6)


def test_initial_values_are_timms() -> None:
    spec = small(depth=2, width=256, mlp_dim=512, num_heads=4, pool_mlp_dim=512, embed_dim=64)
    params = tree.flatten(jax.jit(Tower(Eva02, spec).init)(jax.random.key(0)))
    std = {
        "blocks/0/attn/q/kernel": 0.02, "blocks/0/attn/proj/kernel": 0.02 / np.sqrt(2),
        "blocks/1/attn/proj/kernel": 0.02 / 2, "blocks/1/mlp/fc2/kernel": 0.02 / 2, "pos_embed": 0.02,
        "attn_pool/q/kernel": 0.02, "head/kernel": 256**-0.5, "patch_embed/kernel": (3 * 14 * 14 * 3) ** -0.5,
    }  # fmt: skip
    for name, expected in std.items():
        assert np.std(params[name]) == pytest.approx(expected, rel=0.05), name
    assert np.std(params["attn_pool/latent"]) == pytest.approx(0.88 * 256**-0.5, rel=0.2)  # cut at two deviations
    zero = [n for n, a in params.items() if n.endswith("bias") and "patch_embed" not in n and np.any(a)]
    assert not zero
    nomic = Tower(Eva02, small(pool="nomic")).init
    assert not np.any(jax.jit(lambda key: nomic(key)["attn_pool"]["latent"])(jax.random.key(0)))


def test_different_keys_give_different_weights_and_equal_keys_equal_ones() -> None:
    tower = Tower(Eva02, small())
    init = jax.jit(tower.init)
    a, b, c = (tree.flatten(init(jax.random.key(seed))) for seed in (0, 0, 1))
    assert all(np.array_equal(a[n], b[n]) for n in a)
    assert not np.array_equal(a["blocks/0/attn/q/kernel"], c["blocks/0/attn/q/kernel"])
    assert not np.array_equal(a["blocks/0/attn/q/kernel"], a["blocks/0/attn/k/kernel"])


def test_the_papers_tower_with_map_has_timms_91_364_096_parameters() -> None:
    tower = two_towers.vision_tower(config_module.load("nomic_embed_vision_v1_5:best"))
    # timm's eva02_base at patch 16 with global_pool="map"
    assert tree.count(tower.abstract()) == 91_364_096


def test_a_key_of_config_vision_that_nobody_takes_is_an_error() -> None:
    config = config_module.load("nomic_embed_vision_v1_5:best").unlock()
    config.vision.unknown = 1
    with pytest.raises(TypeError, match="unknown"):
        two_towers.vision_spec(config)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"pool": "max"}, "vision.pool: expected map"),
        ({"num_heads": 5}, "vision.num_heads: expected a divisor of the width 32"),
        ({"image_size": (28, 30)}, "vision.image_size: expected multiples of the patch size 14"),
        ({"num_heads": 16}, "vision.width: expected 4 channels a head"),
        ({"pool": "nomic", "class_token": False}, "vision.class_token: expected True"),
        ({"qkv_bias": False, "key_bias": True}, "vision.key_bias: expected False"),
    ],
)
def test_towers_that_cannot_be_are_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        small(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pool, class_token", [("map", True), ("map", False), ("nomic", True)])
def test_attention_of_the_pooling_is_softmax_of_query_times_keys(pool: str, class_token: bool) -> None:
    spec = small(pool=pool, class_token=class_token)
    tower = Tower(Eva02, spec)
    params, image = shaken(tower), pixels(spec)
    found = apply(tower, params, image, method="pool_attention")
    tokens = np.asarray(apply(tower, params, image, method="trunk"), np.float64)
    head = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["attn_pool"])
    query = head["latent"][0] @ head["q"]["kernel"] + head["q"]["bias"]
    keys = tokens @ head["k"]["kernel"] + head["k"]["bias"]
    logits = np.einsum("hk,bnhk->bhn", query.reshape(2, 16), keys.reshape(3, -1, 2, 16)) / 4
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    assert found.shape == (3, 2, 6 + class_token) and weights.std() > 1e-3
    np.testing.assert_allclose(found, weights, atol=1e-6)


def test_a_pooling_without_attention_says_so() -> None:
    tower = Tower(Eva02, small(pool="cls"))
    with pytest.raises(ConfigError, match="map or nomic"):
        apply(tower, shaken(tower), pixels(tower.spec), method="pool_attention")
