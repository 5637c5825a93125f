"""The training step: the same on any number of devices and processes, and unmoved by numbers that are none."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from several import finish
from test_distributed import start

from lit_tune import config as config_module, forward, live_text, losses, sharding, step as step_module, tree
from lit_tune.losses import plain
from lit_tune.models import two_towers
from lit_tune.models.bert import BertSpec

ROWS, WIDTH, STEPS = 16, 16, 5


def config_of(**changes: Any) -> ConfigDict:
    """A tower of one block on 16 px pictures; keys as on the command line, `optim__lr` for optim.lr."""
    config = config_module.load("quickstart").unlock()
    config.global_batch, config.total_steps, config.dtype = ROWS, 20, "float32"
    config.vision.update(image_size=(16, 16), patch_size=8, width=WIDTH, depth=1, num_heads=2, mlp_dim=32, pool="map",
                         pool_mlp_dim=32, final_norm=True, embed_dim=0, patch_dropout=0.0, remat="none")
    config.text.source = "cached"
    config.loss.update(name="softmax", logit_scale_max=0.0, mask_equal_captions=False, extra_negatives=0)
    config.optim.update(lr=1e-3, lr_scaling="none", schedule="cosine", warmup_steps=2, wd=0.1, clip_norm=1.0,
                        ema_decay=0.0)
    for name, value in changes.items():
        section, _, key = name.rpartition("__")
        setattr(getattr(config, section) if section else config, key, value)
    return config.lock()


def batch_of(step: int, config: ConfigDict) -> dict[str, np.ndarray]:
    """The global batch of a step, the same in every process; some captions repeat."""
    rng = np.random.default_rng([7, step])

    def rows(n: int) -> tuple[np.ndarray, np.ndarray]:
        ztxt = rng.standard_normal((n, WIDTH))
        return (np.float32(ztxt / np.linalg.norm(ztxt, axis=1, keepdims=True)),
                np.uint32(rng.integers(0, 12, (n, 1)).repeat(2, 1)))

    batch = {"image": rng.integers(0, 256, (ROWS, 16, 16, 3), dtype=np.uint8)}
    batch["ztxt"], batch["caption_id"] = rows(ROWS)
    if config.loss.extra_negatives:
        batch["extra_ztxt"], batch["extra_caption_id"] = rows(config.loss.extra_negatives)
    return batch


def place(arrays: tree.Tree, shardings: tree.Tree) -> tree.Tree:
    """Global arrays from numpy ones that every process has whole."""
    return jax.tree.map(lambda a, s: jax.make_array_from_callback(np.shape(a), s, lambda index: a[index]), arrays,
                        shardings)


def mesh_of(data: int, fsdp: int = 1, tensor: int = 1) -> jax.sharding.Mesh:
    """The training mesh over the first devices."""
    config = config_of(mesh__data=data, mesh__fsdp=fsdp, mesh__tensor=tensor)
    return sharding.make_mesh(config.mesh, jax.devices()[: data * fsdp * tensor])


def initial(built: step_module.Built) -> tree.Tree:
    """A state of random parameters and zero moments, from numpy: compiling the real `init` would double the time."""
    rng = np.random.default_rng(1)
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), built.abstract[0])
    state["params"] = tree.map_with_names(
        lambda name, leaf: np.float32(rng.normal(name.endswith("scale"), 0.1, leaf.shape)), state["params"])
    state["params"] |= {"logit_scale": np.float32(2.5)} | (
        {"logit_bias": np.float32(-4.0)} if "logit_bias" in state["params"] else {})
    if "ema" in state:
        state["ema"] = jax.tree.map(np.copy, state["params"])
    if "norms" in state:
        state["norms"] = np.full(step_module.NORMS, np.finfo(np.float32).max)
    return place(state, built.shardings[0])


def run(built: step_module.Built, config: ConfigDict, steps: int = STEPS,
        spoil: int = -1) -> tuple[list[dict[str, np.ndarray]], list[dict[str, float]]]:
    """States (flat, one before the first step and one after each) and metrics; a caption vector of `spoil` is NaN."""
    state = initial(built)
    states, log = [host(state)], []
    for t in range(steps):
        batch = batch_of(t, config)
        if t == spoil:
            batch["ztxt"][3, 0] = np.nan
        state, metrics, _ = built.step(state, place(batch, built.shardings[1]), {})
        states.append(host(state))
        log.append({name: float(value) for name, value in metrics.items()})
    return states, log


@cache
def built_on(*axes: int) -> step_module.Built:
    """The plain step on a mesh, compiled once for all tests."""
    return step_module.build_step(config_of(), mesh_of(*axes))


def host(state: tree.Tree) -> dict[str, np.ndarray]:
    """{name: a copy on the host}."""
    return {name: np.array(leaf) for name, leaf in tree.flatten(state).items()}


@cache
def on_one_device() -> tuple[list[dict[str, np.ndarray]], list[dict[str, float]]]:
    """The run that others are compared with."""
    return run(built_on(1), config_of())


@cache
def eventful() -> tuple[list[dict[str, np.ndarray]], list[dict[str, float]]]:
    """Eight steps with an average, a clamp and masking; 1, 2 (by hand), 4 (fault) and 6 (data) must not count."""
    config = config_of(optim__ema_decay=0.5, loss__logit_scale_max=10.0, loss__mask_equal_captions=True)
    built = step_module.build_step(config, mesh_of(1), skip_batches=(1, 3), fault=("nan", 4, None))
    return run(built, config, steps=8, spoil=6)


def assert_close(state: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    """Equal but for float32 sums in another order.

    Adam divides by the root of the second moment, so noise of 1e-7 in a gradient that is itself that small moves a
    weight by up to lr (1e-3). Nothing here is that small but the pooling head's key bias, whose true gradient is 0.
    """
    assert set(state) == set(other)
    for name, leaf in state.items():
        if "attn_pool/k/bias" not in name:
            np.testing.assert_allclose(leaf, other[name], rtol=1e-4, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("axes", [(8, 1, 1), (2, 2, 2)])
def test_eight_devices_train_the_parameters_of_one(axes: tuple[int, int, int]) -> None:
    states, log = run(built_on(*axes), config_of())
    assert_close(states[-1], on_one_device()[0][-1])
    for ours, theirs in zip(log, on_one_device()[1], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    assert not np.array_equal(states[0]["params/image/pos_embed"], states[-1]["params/image/pos_embed"])


OTHER_WAYS = {
    "gradient cache": (dict(micro_batches=4), (1,)),
    "gradient cache on four devices": (dict(micro_batches=2), (4,)),
    "zero1": (dict(optim__zero1=True), (8,)),
    "fsdp": ({}, (1, 8)),
    "remat save": (dict(vision__remat="save"), (1,)),
    "remat dots": (dict(vision__remat="dots"), (1,)),
    "remat full": (dict(vision__remat="full"), (1,)),
}


@pytest.mark.parametrize("way", OTHER_WAYS)
def test_every_way_to_save_memory_trains_the_same_parameters(way: str) -> None:
    changes, axes = OTHER_WAYS[way]
    config = config_of(**changes)
    states, log = run(step_module.build_step(config, mesh_of(*axes)), config)
    assert_close(states[-1], on_one_device()[0][-1])
    for ours, theirs in zip(log, on_one_device()[1], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("devices", "parts"), [(1, 1), (4, 1), (2, 4)])
def test_texts_cut_to_their_lengths_have_the_vectors_of_padded_ones(devices: int, parts: int) -> None:
    spec = BertSpec(vocab_size=40, max_positions=12, type_vocab=2, width=WIDTH, depth=1, num_heads=2, mlp_dim=32,
                    norm_eps=1e-12, pool="mean", layer_norm=False, dim=0)
    tower, rng = two_towers.tower_of(spec), np.random.default_rng(8)
    params = jax.tree.map(lambda leaf: jnp.float32(rng.normal(0, 0.3, leaf.shape)), tower.abstract())
    ids = jnp.asarray(rng.integers(0, 40, (48, 12)), jnp.int32)
    mask = jnp.int32(np.arange(12) < rng.integers(1, 13, (48, 1)))
    mesh, lengths = mesh_of(devices), (3, 6)

    def embed(ids: jax.Array, mask: jax.Array) -> jax.Array:
        return live_text.embed(tower, params, ids, mask, dtype=jnp.float32, mesh=mesh, lengths=lengths, parts=parts)

    rows = sharding.batch_sharding(mesh)
    cut = jax.jit(embed, in_shardings=(rows, rows))(ids, mask)
    np.testing.assert_allclose(cut, two_towers.embed_text(tower, params, ids, mask), atol=2e-6)
    shapes = str(jax.make_jaxpr(embed)(ids, mask))
    assert all(f",{length}]" in shapes for length in lengths)  # the short branches are there


def test_nested_widths_are_trained_at_temperatures_of_their_own() -> None:
    config = config_of(loss__name="sigmoid", loss__matryoshka_dims=(8, 4), loss__logit_scale_max=20.0)
    built, batch = step_module.build_step(config, mesh_of(8)), batch_of(0, config)
    state = initial(built)
    scales, biases = np.float32([2.5, 2.2, 1.9]), np.float32([-4.0, -3.0, -2.0])
    state["params"] |= place({"logit_scale_nested": scales[1:], "logit_bias": biases[0],
                              "logit_bias_nested": biases[1:]},
                             {name: built.shardings[0]["params"][name]
                              for name in ("logit_scale_nested", "logit_bias", "logit_bias_nested")})
    state, metrics, embeddings = built.step(state, place(batch, built.shardings[1]), {})
    zimg, expected = np.float64(embeddings["zimg"]), []
    for dim, scale, bias in zip((WIDTH, 8, 4), scales, biases, strict=True):
        cut = [rows[:, :dim] / np.linalg.norm(rows[:, :dim], axis=1, keepdims=True)
               for rows in (zimg, np.float64(batch["ztxt"]))]
        logits = np.exp(np.float64(scale)) * cut[0] @ cut[1].T + bias
        expected.append(np.logaddexp(0, np.where(np.eye(ROWS), -logits, logits)).sum() / ROWS)
    assert float(metrics["loss"]) == pytest.approx(np.mean(expected), rel=1e-5)
    assert float(metrics["logit_scale_8"]) == pytest.approx(np.exp(2.2), rel=1e-6)
    moments = state["opt_state"][0].mu
    assert np.all(np.array(moments["logit_scale_nested"]) != 0) and np.all(np.array(moments["logit_bias_nested"]) != 0)


def test_past_texts_are_negatives_of_the_pictures_only() -> None:
    config = config_of(loss__text_bank=1, loss__extra_negatives=8, loss__mask_equal_captions=True)
    built, batch = step_module.build_step(config, mesh_of(4)), batch_of(0, config)
    other = batch_of(1, config)
    batch |= {"bank_ztxt": other["ztxt"], "bank_caption_id": other["caption_id"]}
    _, metrics, embeddings = built.step(initial(built), place(batch, built.shardings[1]), {})
    texts, ids = (np.concatenate([batch[own], batch[f"extra_{own}"], batch[f"bank_{own}"]])
                  for own in ("ztxt", "caption_id"))
    expected, wanted = plain.softmax(np.array(embeddings["zimg"]), texts, np.float32(2.5), caption_ids=ids)
    assert float(metrics["loss"]) == pytest.approx(float(expected), rel=1e-5)
    assert float(metrics["masked_frac"]) == pytest.approx(float(wanted["masked_frac"]), rel=1e-5)


def test_micro_batches_drop_the_patches_of_the_whole_batch() -> None:
    changes = dict(vision__image_size=(32, 32), vision__patch_dropout=0.5)
    one, parts = (config_of(micro_batches=count, **changes) for count in (1, 4))
    image = np.random.default_rng(4).integers(0, 256, (ROWS, 32, 32, 3), dtype=np.uint8)
    gradients = []
    for config, axes in ((one, 1), (parts, 2)):
        built = step_module.build_step(config, mesh_of(axes))
        batch = batch_of(0, config) | {"image": image}
        state, metrics, _ = built.step(initial(built), place(batch, built.shardings[1]), {})
        gradients.append(host(state["opt_state"][0].mu) | {"loss": np.array(metrics["loss"])})
    assert_close(*gradients)


def test_moments_are_cut_over_the_data_axis_with_zero1() -> None:
    built = step_module.build_step(config_of(optim__zero1=True), mesh_of(8))
    placed = tree.flatten(built.shardings[0])
    moments = {name: s.spec for name, s in placed.items() if "/mu/" in name and name.endswith("kernel")}
    assert moments and all("data" in spec for spec in moments.values())
    assert not any("data" in s.spec for name, s in placed.items() if name.startswith("params"))


@pytest.mark.multiprocess
def test_two_processes_train_the_parameters_of_one(tmp_path: Path) -> None:
    processes = start(f"""
        import numpy as np
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_step
        states, log = test_step.run(test_step.built_on(2), test_step.config_of())
        np.savez({str(tmp_path)!r} + f"/{{me}}.npz", loss=log[-1]["loss"], **states[-1])
    """)
    codes, outputs = finish(processes, timeout=180)
    assert codes == [0, 0], outputs
    zero, one = (dict(np.load(tmp_path / f"{i}.npz")) for i in range(2))
    assert all(np.array_equal(zero[name], one[name]) for name in zero)
    assert zero.pop("loss") == pytest.approx(on_one_device()[1][-1]["loss"], rel=1e-5)
    assert_close(zero, on_one_device()[0][-1])


def test_steps_that_do_not_count_change_nothing_but_the_counts() -> None:
    """Parameters, moments, Adam's count and the average stay bit for bit; the schedule goes on."""
    states, log = eventful()
    for t in range(8):
        moved = {name for name in states[t] if not np.array_equal(states[t][name], states[t + 1][name])}
        assert (moved == {"step", "skipped"}) == (t in (1, 2, 4, 6)), (t, moved)
    last = states[-1]
    assert (last["step"], last["skipped"], last["opt_state/0/count"]) == (8, 4, 4)
    assert all(np.isfinite(leaf).all() for leaf in last.values())
    assert [np.isfinite(line["loss"]) for line in log] == [t not in (4, 6) for t in range(8)]
    assert [line["skipped_steps"] for line in log] == [0, 1, 2, 2, 3, 3, 4, 4]
    assert [line["lr"] for line in log[:STEPS]] == [line["lr"] for line in on_one_device()[1]]


@pytest.mark.parametrize("factor", [0.0, 10.0])
def test_a_gradient_of_a_thousand_times_its_size_is_clipped_or_skipped(factor: float) -> None:
    config = config_of(optim__skip_spikes=factor, optim__clip_norm=0.1, total_steps=60)
    built = step_module.build_step(config, mesh_of(2), fault=("spike", 36, None))
    states, log = run(built, config, steps=38)
    assert log[36]["grad_norm"] > 100 * log[35]["grad_norm"] and log[36]["loss"] > 100 * log[35]["loss"]
    moved = {name for name in states[36] if not np.array_equal(states[36][name], states[37][name])}
    if factor:  # skipped: as if the step had not been, the level of norms included
        assert moved == {"step", "skipped"}
        past = [np.float32(line["grad_norm"]) for step, line in enumerate(log) if step != 36]
        assert states[-1]["norms"].tolist()[-len(past):] == past
    else:  # clipped: the moments take up no more than the clip lets pass
        assert log[36]["clipped_frac"] == 1 and "params/image/pos_embed" in moved and "norms" not in states[0]
        mu = [{name: state[name] for name in state if "/mu/" in name} for state in states[36:38]]
        added = sum(np.sum((mu[1][name] - 0.9 * mu[0][name]) ** 2) for name in mu[0]) ** 0.5
        assert added == pytest.approx(0.1 * 0.1, rel=1e-3)
    assert log[-1]["skipped_steps"] == (factor > 0)


def test_the_average_moves_by_its_share_in_steps_that_count() -> None:
    states, _ = eventful()
    average = states[0]["params/image/cls_token"]
    for t in (0, 3, 5, 7):
        average = (average + states[t + 1]["params/image/cls_token"]) / 2
        np.testing.assert_allclose(states[t + 1]["ema/image/cls_token"], average, rtol=1e-5, atol=1e-7)


def test_the_temperature_is_clamped_after_the_update() -> None:
    states, log = eventful()
    assert states[0]["params/logit_scale"] == 2.5  # above ln 10
    assert states[1]["params/logit_scale"] == np.float32(np.log(10.0))  # already at step 0, whose learning rate is 0
    assert log[0]["logit_scale"] == pytest.approx(10.0, rel=1e-6) and 0 < log[0]["masked_frac"] < 0.5


def test_the_real_start_has_zero_moments_and_an_average_of_its_own() -> None:
    config = config_of(optim__ema_decay=0.5, loss__name="sigmoid", loss__logit_bias_init=-9.0)
    built = step_module.build_step(config, mesh_of(2))
    state = built.init(jax.random.key(0))
    named = tree.flatten(state)
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in named.items()} == {
        name: (leaf.shape, leaf.dtype) for name, leaf in tree.flatten(built.abstract[0]).items()}
    assert all(not np.any(leaf) for name, leaf in named.items() if name.startswith("opt_state"))
    assert named["params/logit_bias"] == -9.0 and named["step"] == 0 and named["skipped"] == 0
    average, weights = named["ema/image/pos_embed"], named["params/image/pos_embed"]
    assert np.array_equal(average, weights) and np.any(weights)
    # The step gives both buffers away: one buffer under two names would be an error there.
    assert average.addressable_data(0).unsafe_buffer_pointer() != weights.addressable_data(0).unsafe_buffer_pointer()


def test_extra_captions_reach_the_sigmoid_loss_on_eight_devices() -> None:
    config = config_of(loss__name="sigmoid", loss__extra_negatives=8)
    built, batch = step_module.build_step(config, mesh_of(8)), batch_of(0, config)
    state, metrics, embeddings = built.step(initial(built), place(batch, built.shardings[1]), {})
    texts = np.concatenate([batch["ztxt"], batch["extra_ztxt"]])
    expected = losses.sigmoid_loss(np.array(embeddings["zimg"]), texts, np.float32(2.5), np.float32(-4.0))
    assert float(metrics["loss"]) == pytest.approx(float(expected), rel=1e-5)
    assert metrics["logit_bias"] == -4.0 and state["opt_state"][0].mu["logit_bias"] != 0


def test_live_text_gives_the_step_of_cached_vectors(tmp_path: Path) -> None:
    """A small BERT inside the step, frozen: no state for it, and the same update as with its vectors."""
    peer = {"model_type": "bert", "vocab_size": 40, "max_position_embeddings": 8, "type_vocab_size": 2,
            "hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
            "layer_norm_eps": 1e-12, "hidden_act": "gelu"}
    (tmp_path / "config.json").write_text(json.dumps(peer))
    live = step_module.build_step(config_of(text__source="live", text__model=str(tmp_path), text__max_length=6,
                                            text__pool="mean", text__layer_norm=False), mesh_of(1))
    rng = np.random.default_rng(2)
    text_params = jax.tree.map(lambda leaf: np.float32(rng.normal(0, 0.3, leaf.shape)), live.text_tower.abstract())
    ids = {"input_ids": rng.integers(0, 40, (ROWS, 6), dtype=np.int32),
           "attention_mask": np.int32(np.arange(6) < rng.integers(2, 7, (ROWS, 1)))}
    batch = batch_of(0, config_of())
    batch["ztxt"] = np.array(jax.jit(lambda *a: two_towers.embed_text(live.text_tower, *a))(text_params, *ids.values()))
    states = []
    for built, arrays, params in ((built_on(1), batch, {}),
                                  (live, {k: v for k, v in batch.items() if k != "ztxt"} | ids, text_params)):
        state = initial(built)
        for _ in range(2):  # the learning rate of the first is 0
            state, _, embeddings = built.step(state, place(arrays, built.shardings[1]),
                                              place(params, built.shardings[2]))
        np.testing.assert_allclose(embeddings["ztxt"], batch["ztxt"], rtol=1e-5, atol=1e-6)
        states.append(host(state))
    assert_close(*states)
    assert not any("text" in name for name in states[1])


def test_the_compiled_step_gathers_the_text_once_and_no_image() -> None:
    built = built_on(8, 1, 1)
    arguments = initial(built), place(batch_of(0, config_of()), built.shardings[1]), {}
    hlo = built.step.lower(*arguments).compile().as_text()
    assert re.findall(r"= (\S+?)\{.*? all-gather(?:-start)?\(", hlo) == [f"f32[{ROWS},{WIDTH}]"]
    assert not re.search(r" all-to-all\(", hlo)


@cache
def with_frozen(blocks: int) -> tuple[step_module.Built, ConfigDict]:
    """A step of two blocks on two devices, the first `blocks` of them frozen (-1: all)."""
    config = config_of(vision__depth=2, vision__freeze_blocks=blocks, optim__ema_decay=0.5, optim__clip_norm=0.0)
    return step_module.build_step(config, mesh_of(1, 2)), config


FROZEN = ("image/blocks/0/", "image/patch_embed/", "image/cls_token", "image/pos_embed")


def test_frozen_blocks_have_no_moments_and_keep_every_bit_and_the_rest_trains_as_ever() -> None:
    states, log = run(*with_frozen(1), steps=3)
    free, free_log = run(*with_frozen(0), steps=3)
    for name in states[0]:
        if name.startswith(("params/", "ema/")):
            still = name.partition("/")[2].startswith(FROZEN)
            assert np.array_equal(states[0][name], states[-1][name]) == still, name
    moments = {name.partition("/")[2].partition("/")[2] for name in states[0] if name.startswith("opt_state/")}
    assert "mu/image/blocks/1/attn/q/kernel" in moments and not any(part in name for name in moments for part in FROZEN)
    # The first update that moves anything: the same for what is trained, and the norm is that of what is trained.
    assert log[0]["loss"] == pytest.approx(free_log[0]["loss"], rel=1e-6)
    assert 0 < log[0]["grad_norm"] < free_log[0]["grad_norm"]
    for name, leaf in states[2].items():
        if name.startswith("params/") and not name.partition("/")[2].startswith(FROZEN):
            if "attn_pool/k/bias" not in name:  # its true gradient is 0, see assert_close
                np.testing.assert_allclose(leaf, free[2][name], rtol=1e-4, atol=2e-6, err_msg=name)


def test_no_backward_pass_is_computed_for_frozen_blocks() -> None:
    flops = {blocks: with_frozen(blocks)[0].step.lower(*with_frozen(blocks)[0].abstract).cost_analysis()["flops"]
             for blocks in (0, 1, -1)}
    n, width, mlp = 5, WIDTH, 32
    block = ROWS * (2 * n * (4 * width**2 + 3 * width * mlp) + 4 * n**2 * width)  # products of one forward pass
    assert flops[0] - flops[1] > 2 * block and flops[1] - flops[-1] > 1.5 * block  # its inputs' were gone already
    assert flops[-1] > 2 * block  # the forward pass is there


def test_the_whole_trunk_can_be_frozen_and_the_head_trains() -> None:
    _, config = with_frozen(-1)
    params = two_towers.vision_tower(config).abstract()
    frozen, trained = step_module.split_frozen(config, {"image": params, "logit_scale": 0})
    assert set(trained["image"]) == {"norm", "attn_pool"} and set(frozen["image"]["blocks"]) == {"0", "1"}
    assert tree.count(tree.merge(frozen, {"image": trained["image"]})) == tree.count(params)


def test_kept_patches_depend_on_step_and_row_only() -> None:
    config = config_of(vision__image_size=(64, 64), vision__patch_dropout=0.75)
    kept = np.array(forward.kept_patches(config, jnp.arange(8), jnp.int32(3)))
    assert kept.shape == (8, 16) and kept.min() >= 0 and kept.max() < 64
    assert all(len(set(row)) == 16 for row in kept) and len({tuple(row) for row in kept}) == 8
    some = forward.kept_patches(config, jnp.array([5, 2]), jnp.int32(3))  # whatever else is in the batch
    assert np.array_equal(kept[[5, 2]], some)
    assert not np.array_equal(kept, forward.kept_patches(config, jnp.arange(8), jnp.int32(4)))
    assert forward.kept_patches(config_of(), jnp.arange(8), jnp.int32(0)) is None
