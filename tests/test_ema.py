"""A run with a running average of its weights: restored bit for bit, and what evaluations, embed and export take."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny

import lit_tune
from lit_tune import cli, config as config_lib, export, train, tree
from lit_tune.evaluation.sets import weights_to_evaluate
from lit_tune.models import two_towers
from lit_tune.tower import read_state

DECAY, STEPS, SAVED = 0.9, 8, 4


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a finished run that keeps an average, and the level of its gradient norms; 1, 2, ... are saved."""
    home = tmp_path_factory.mktemp("ema")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIT_TUNE_CACHE", str(home / "cache"))
        tiny.make_home(home)
        assert start(home, "straight") == 0
        yield home


def start(home: Path, name: str) -> int:
    """The exit code of a run, here."""
    return cli.run(train.main, tiny.arguments(
        home / "text", home / "pictures", home / name, total_steps=STEPS, checkpoint__every=1, checkpoint__keep=STEPS,
        optim__ema_decay=DECAY, optim__skip_spikes=20.0, optim__lr=3e-3, eval__every=SAVED))


def state_at(home: Path, name: str, step: int) -> dict[str, np.ndarray]:
    """The state of a checkpoint, by name."""
    return {key: np.asarray(leaf) for key, leaf in tree.flatten(read_state(home / name, step)[0]).items()}


def test_the_average_follows_its_formula_over_the_steps_of_a_run(home: Path) -> None:
    states = [state_at(home, "straight", step) for step in range(1, STEPS + 1)]
    averages = {key for key in states[0] if key.startswith("ema/")}
    assert {key.removeprefix("ema/") for key in averages} == {
        key.removeprefix("params/") for key in states[0] if key.startswith("params/")}
    for key in averages:
        mean = np.float64(states[0][key])
        for state in states[1:]:
            mean = DECAY * mean + (1 - DECAY) * state[key.replace("ema/", "params/")]
        np.testing.assert_allclose(states[-1][key], mean, rtol=2e-6, atol=1e-7, err_msg=key)
    assert not np.allclose(states[-1]["ema/image/pos_embed"], states[-1]["params/image/pos_embed"], atol=1e-4)


def test_a_resumed_run_has_the_average_and_the_level_of_norms_bit_for_bit(home: Path) -> None:
    shutil.copytree(home / "straight", home / "resumed")
    for step in range(SAVED + 1, STEPS + 1):
        shutil.rmtree(home / "resumed" / "checkpoints" / str(step))
    (home / "resumed" / "final.json").unlink()
    assert start(home, "resumed") == 0
    straight, resumed = (state_at(home, name, STEPS) for name in ("straight", "resumed"))
    assert straight.keys() == resumed.keys() and any(key.startswith("ema/") for key in straight)
    assert [key for key in straight if not np.array_equal(straight[key], resumed[key])] == []
    meta = [read_state(home / name, STEPS)[1]["bad_steps"] for name in ("straight", "resumed")]
    assert meta[0] == meta[1] and len(meta[0]["spikes"]["loss"]) == STEPS
    ends = [json.loads((home / name / "final.json").read_text()) for name in ("straight", "resumed")]
    assert ends[0] == ends[1] and any(key.startswith("val/") for key in ends[0]["eval"])


def vectors(params: tree.Tree, config: Any, pixels: np.ndarray) -> np.ndarray:
    """Unit vectors of pictures by the tower itself."""
    embed = jax.jit(two_towers.embed_image, static_argnames=("tower", "mean", "std"))
    return np.asarray(embed(two_towers.vision_tower(config), params, pixels, mean=tuple(config.data.mean),
                            std=tuple(config.data.std)))


def test_evaluation_embed_and_export_take_the_average(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state, _ = read_state(home / "straight")
    config = config_lib.from_json((home / "straight" / "config.json").read_text())
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    average, trained = (vectors(state[kind]["image"], config, pixels) for kind in ("ema", "params"))
    assert np.abs(average - trained).max() > 1e-3
    assert tree.digest(weights_to_evaluate(state)) == tree.digest(state["ema"]["image"])
    np.testing.assert_allclose(lit_tune.load(home / "straight").embed_images(list(pixels)), average, atol=1e-5)
    assert cli.run(export.main, [f"--workdir={home / 'straight'}", f"--out={home / 'export'}", "--format=timm"]) == 0
    np.testing.assert_allclose(lit_tune.load(home / "export").embed_images(list(pixels)), average, atol=1e-5)
    assert f"running average of the weights (decay {DECAY} a step)" in (home / "export" / "README.md").read_text()
    assert "the running average of the weights, decay 0.9" in (home / "straight" / "eval/report.html").read_text()


def test_a_run_s_own_evaluation_is_that_of_its_average(home: Path) -> None:
    from lit_tune import eval as eval_command

    first = json.loads((home / "straight" / "eval" / f"{STEPS}.json").read_text())
    assert cli.run(eval_command.main, [f"--workdir={home / 'straight'}", f"--step={STEPS}"]) == 0
    assert json.loads((home / "straight" / "eval" / f"{STEPS}.json").read_text()) == first
