"""The step that resizes the pictures itself: the same loss as from resized ones, and nothing is sent for it."""

import re

import jax
import numpy as np
import pytest
from test_step import batch_of, config_of, initial, mesh_of, place
from tiny import arguments, lines, picture_folder, text_folder

from lit_tune import device_resize, step as step_module, train, watch
from lit_tune.benching import settings

CANVAS = 24


def sent(config) -> dict[str, np.ndarray]:
    """A batch of crops of many sizes."""
    rng = np.random.default_rng(3)
    rows = config.global_batch
    sizes, flips = rng.integers(1, CANVAS + 1, (rows, 2)), rng.integers(0, 2, (rows, 1))
    image = rng.integers(0, 256, (rows, CANVAS, CANVAS, 3), dtype=np.uint8)
    crop = np.concatenate([rng.integers(0, CANVAS - sizes + 1), sizes, flips], 1).astype(np.int32)
    return batch_of(0, config) | {"image": image, "crop": crop}


def losses_of(config, batch: dict[str, np.ndarray], devices: int) -> tuple[float, float, str]:
    """(loss, norm of the gradient, text of the compiled program) of one step."""
    built = step_module.build_step(config, mesh_of(devices))
    assert {name: leaf.shape for name, leaf in built.abstract[1].items()} == {
        name: array.shape for name, array in batch.items()}
    program = built.step.lower(*built.abstract).compile()
    _, metrics, _ = program(initial(built), place(batch, built.shardings[1]), {})
    return float(metrics["loss"]), float(metrics["grad_norm"]), program.as_text()


@pytest.mark.parametrize("devices, parts", [(4, 1), (2, 2)])
def test_the_loss_is_that_of_resized_pictures_and_nothing_more_is_sent(devices: int, parts: int) -> None:
    config = config_of(data__resize_on="device", data__canvas=CANVAS, micro_batches=parts)
    batch = sent(config)
    loss, norm, text = losses_of(config, batch, devices)
    image = jax.jit(device_resize.resize, static_argnums=2)(batch.pop("image"), batch.pop("crop"), (16, 16))
    plain = losses_of(config_of(micro_batches=parts), batch | {"image": np.asarray(image)}, devices)
    assert loss == pytest.approx(plain[0], rel=1e-6) and norm == pytest.approx(plain[1], rel=1e-5)
    moved = r"\b(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(-start)?\("
    assert len(re.findall(moved, text)) == len(re.findall(moved, plain[2]))
    assert f"u8[{config.global_batch // devices},{CANVAS},{CANVAS},3]" in text  # a device's own, and only those
    assert f"u8[{config.global_batch},{CANVAS},{CANVAS},3]" not in text


def test_block_statistics_are_of_the_resized_pictures() -> None:
    config = config_of(data__resize_on="device", data__canvas=CANVAS)
    built = step_module.build_step(config, mesh_of(1))
    batch = sent(config)
    image = jax.jit(device_resize.resize, static_argnums=2)(batch["image"], batch["crop"], (16, 16))
    params = initial(built)["params"]["image"]
    ours, plain = (watch.block_stats(built, params, jax.device_put(one), config)
                   for one in (batch, {"image": np.asarray(image)}))
    assert ours.keys() == plain.keys() and all(float(ours[name]) == float(plain[name]) for name in ours)


def test_a_random_batch_for_measurements_holds_crops_that_exist() -> None:
    config = config_of(data__resize_on="device", data__canvas=CANVAS)
    crop = settings.numbers(step_module.abstract_batch(config, mesh_of(1)))["crop"]
    assert crop.dtype == np.int32 and crop[:, 2:4].min() >= 1 and crop[:, :2].min() >= 0
    assert (crop[:, :2] + crop[:, 2:4]).max() <= CANVAS and set(crop[:, 4]) <= {0, 1}


@pytest.mark.slow
def test_a_run_that_resizes_on_the_device_trains_and_looks_at_its_blocks(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("LIT_TUNE_CACHE", str(tmp_path / "cache"))
    words = arguments(text_folder(tmp_path / "text"), picture_folder(tmp_path / "pictures"), tmp_path / "run",
                      total_steps=12, eval__sets=(), data__resize_on="device", data__canvas=18, data__rotate=0.0,
                      log__block_stats_steps=1, optim__warmup_steps=2)
    assert train.main(words) == 0
    found = [line for line in lines(tmp_path / "run") if line["kind"] == "train"]
    assert "train/block_00_rms" in found[0] and found[-1]["train/loss"] < found[0]["train/loss"]
