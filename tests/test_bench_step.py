"""`lit-tune bench step|embed`: the step that is timed is the real one, agreement is checked, the plan stands beside."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from test_bench import float64_softmax, out, refused

from lit_tune import config as config_lib, errors
from lit_tune.benching import embed, machine, ours, peer, settings, step
from lit_tune.models import two_towers
from lit_tune.planning.chips import CHIPS

TINY = {"vision.width": 32, "vision.depth": 1, "vision.num_heads": 2, "vision.mlp_dim": 48, "vision.pool_mlp_dim": 48,
        "vision.image_size": (32, 32)}  # fmt: skip
FLAGS = tuple(f"--config.{key}={value}" for key, value in TINY.items())


def tiny(**changes: Any) -> ConfigDict:
    """The config of `bench step` on a CPU, made tiny; changes as `optim__wd=0.1`."""
    given = TINY | {key.replace("__", "."): value for key, value in changes.items()}
    return settings.measured(settings.default("cpu", [(key, str(value)) for key, value in given.items()]), 8, None, 1)


def test_the_timed_step_has_the_loss_of_the_formula() -> None:
    config = tiny()
    run = ours.TrainingStep(config, jax.devices()[:1])
    params = jax.tree.map(jnp.array, run.params())  # a copy: the step gives its state away
    image, tower = jnp.asarray(run.batch["image"]), two_towers.vision_tower(config)
    zimg, pull = jax.vjp(
        lambda params: two_towers.embed_image(tower, params, image, config.data.mean, config.data.std), params)
    value, slopes = float64_softmax(np.asarray(zimg), run.batch["ztxt"], config.loss.logit_scale_init)
    loss, norm = step.first_step(run)
    assert loss == pytest.approx(value, rel=1e-5)
    of_tower = sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(pull(jnp.float32(slopes))[0]))
    assert norm**2 == pytest.approx(of_tower, rel=0.02)  # the scale's own gradient is the rest
    assert step.first_step(run)[0] != loss or step.first_step(run)[0] != loss  # it trains (the first rate is 0)


def test_step_prints_times_losses_and_the_plan(capsys: pytest.CaptureFixture) -> None:
    found = json.loads(out(capsys, "step", *FLAGS, "--notorch", "--batch=8", "--repeats=1", "--plan", "--json"))
    assert (found["global_batch"], found["dtype"], found["devices"]) == (8, "float32", 1)
    assert list(found["runs"]) == ["ours"] and found["no_torch"] == "--notorch"
    row = found["runs"]["ours"]
    assert row["over_ours"] == 1 and row["mfu"] is None and row["pairs_per_s"] == pytest.approx(8 / row["seconds"])
    assert found["plan"]["peak_gib"] > 0 and found["plan"]["ms_low"] is None and found["peak_gib"] is None
    lines = step.show(found)
    assert "PyTorch not measured: --notorch" in lines and any("rates of this device" in line for line in lines)


def test_a_published_config_runs_by_gradient_cache_with_the_loss_of_one_pass(capsys: pytest.CaptureFixture) -> None:
    argv = ("step", "--config=nomic_embed_vision_v1_5", *FLAGS, "--config.dtype=float32", "--batch=16", "--notorch",
            "--repeats=1")  # fmt: skip
    whole = json.loads(out(capsys, *argv, "--json"))["first"]["ours"]
    table = out(capsys, *argv, "--micro_batches=4", "--plan")
    assert "16 pairs in 4 parts, float32" in table and "planned peak memory" in table
    row = next(line.split() for line in table.splitlines() if line.startswith("  ours"))
    assert float(row[-2]) == pytest.approx(whole["loss"], rel=1e-5)
    assert float(row[-1]) == pytest.approx(whole["grad_norm"], rel=1e-4)


def test_a_known_chip_has_a_planned_time_and_measurement_beside_it() -> None:
    config = tiny()
    run = ours.TrainingStep(config, jax.devices()[:1])
    plan = ours.planned(config, run.compiled, CHIPS["h100"], 1)
    assert 0 < plan["ms_low"] <= plan["ms_high"]
    found = {"plan": {"peak_gib": 10.0, "ms_low": 100.0, "ms_high": 200.0}, "peak_gib": 10.5,
             "runs": {"ours": {"seconds": 0.15}}}  # fmt: skip
    memory, time = step._planned(found)
    assert "10.50, +5.0 %" in memory and "1.50 of the lower and 0.75 of the upper" in time


@pytest.mark.parametrize("name, chip", [
    ("TPU v5 lite", "v5e"), ("TPU v5", "v5p"), ("TPU v5p", "v5p"), ("TPU v6 lite", "v6e"), ("TPU v4", "v4"),
    ("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA H200", "h200"), ("cpu", None), ("NVIDIA GeForce RTX 3090", None)])
def test_chips_are_known_by_the_name_that_jax_gives_them(name: str, chip: str | None) -> None:
    found = machine.chip(name)
    assert (found and found.name) == chip


def test_mfu_counts_the_products_of_the_mathematics(monkeypatch: pytest.MonkeyPatch) -> None:
    config, devices = config_lib.load("nomic_embed_vision_v1_5:best"), jax.devices()[:2]
    assert ours.mfu(config, 1.0, devices, forward=True) is None
    monkeypatch.setattr(ours.metrics, "peak_flops", lambda kind: 1e15)
    # 35.60 GFLOP a picture forward, 106.6 a pair trained: arithmetic on paper
    assert ours.mfu(config, 2.0, devices, forward=True) == pytest.approx(35.60e9 * 65_536 / 2 / 2e15, rel=0.01)
    assert ours.mfu(config, 2.0, devices, forward=False) == pytest.approx(106.6e9 * 65_536 / 2 / 2e15, rel=0.01)


def test_first_steps_that_differ_are_an_error() -> None:
    mine = (2.5, 10.0)
    step.agree({"ours": mine, "torch": (2.501, 10.004)}, 1e-3)
    for theirs in ((2.51, 10.0), (2.5, 10.1), (np.nan, 10.0)):
        with pytest.raises(errors.NumbersError, match="of torch"):
            step.agree({"ours": mine, "torch": theirs}, 1e-3)


def test_embed_prints_times_and_vectors_that_differ_are_an_error(capsys: pytest.CaptureFixture) -> None:
    found = json.loads(out(capsys, "embed", *FLAGS, "--notorch", "--batch=8", "--repeats=1", "--json"))
    row = found["runs"]["ours"]
    assert row["difference"] == 0 and row["pictures_per_s"] == pytest.approx(8 / row["seconds"])
    assert "PyTorch not measured: --notorch" in embed.show(found)
    vectors = np.eye(3, dtype=np.float32)
    for wrong in (vectors + 0.01, np.full_like(vectors, np.nan)):
        with pytest.raises(errors.NumbersError, match="vectors of torch"):
            embed.agree({"ours": vectors, "torch": wrong}, 1e-3)


def test_without_pytorch_only_ours_is_measured_and_that_is_said(monkeypatch: pytest.MonkeyPatch,
                                                                capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(peer.peers, "absent", lambda peer: "not installed")
    assert "PyTorch not measured: timm: not installed" in out(capsys, "embed", *FLAGS, "--batch=2", "--repeats=1")


@pytest.mark.parametrize("key, value", [("loss.name", "sigmoid"), ("micro_batches", 2), ("optim.layer_decay", 0.5)])
def test_what_pytorchs_step_does_not_have_is_named(key: str, value: Any) -> None:
    assert peer.differs(tiny()) == ""
    assert f"{key}=" in peer.differs(tiny(**{key.replace(".", "__"): value}))


def test_a_step_that_is_too_large_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def large(*_: Any) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(ours.settings, "numbers", lambda *_: {})
    monkeypatch.setattr(ours, "facts", large)
    code, line = refused(capsys, "step", *FLAGS, "--batch=8", "--notorch")
    assert code == 2 and "raise --micro_batches" in line


def test_a_busy_machine_is_told() -> None:
    assert machine.busy({"load": 0.5, "cores": 2}) == []
    assert "--threads=1" in machine.busy({"load": 6.0, "cores": 2})[0]
