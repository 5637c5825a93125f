"""Numbers that are none enter no run and reach no checkpoint: weights, checkpoints read, checkpoints written."""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import NamedSharding, PartitionSpec as P
from safetensors.numpy import load_file, save_file
from small_models import small_config, write_export, write_run, write_text_tower

from lit_tune import cli, errors, finite, train, tree
from lit_tune.checkpoint import Checkpointer
from lit_tune.models import two_towers
from lit_tune.tower import read_state

NAME = "encoder.layer.0.output.dense.weight"  # an array of the text tower


def truncated(file: Path) -> None:
    """The file without its last bytes."""
    file.write_bytes(file.read_bytes()[:-5])


def flipped(file: Path) -> None:
    """The file with one bit of its last array turned."""
    content = bytearray(file.read_bytes())
    content[-3] ^= 4
    file.write_bytes(bytes(content))


def with_nan(file: Path) -> None:
    """The file with a NaN in its last array."""
    named = load_file(file)
    last = NAME if NAME in named else sorted(named)[-1]
    named[last].reshape(-1)[1] = np.nan
    save_file(named, file)


DAMAGES = {truncated: "expected a whole safetensors file", flipped: "sha256",
           with_nan: "expected finite numbers, found 1 inf or nan"}  # fmt: skip


@pytest.mark.faults(row=43, fault="weights that are truncated, have a flipped bit (and a known digest), or hold a NaN",
                    expected="exit code 2 and one line that names the file or the array; nothing trained")
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_text_weights_are_refused_at_the_start(
    damage: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    recovery: Callable[[float], None],
) -> None:
    monkeypatch.setenv("LIT_TUNE_CACHE", str(tmp_path / "cache"))
    text = tiny.text_folder(tmp_path / "text")
    digest = tiny_sha256(text / "model.safetensors")
    damage(text / "model.safetensors")
    known = {"text__sha256": digest} if damage is flipped else {}
    words = tiny.arguments(text, tiny.picture_folder(tmp_path / "pictures"), tmp_path / "run", **known)
    started = time.monotonic()
    assert cli.run(train.main, words) == 2
    recovery(time.monotonic() - started)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lit-tune: ")]
    assert DAMAGES[damage] in line and ("model.safetensors" in line or NAME in line), line
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_weights_to_start_from_are_refused(damage: Callable[[Path], None], tmp_path: Path) -> None:
    from lit_tune.warm_start import load_vision_params

    config = small_config(write_text_tower(tmp_path / "text"))
    tower = two_towers.vision_tower(config)
    folder = write_export(tmp_path / "export", config, tower.init(jax.random.key(0)))
    file = next(folder.glob("*.safetensors"))
    damage(file)
    with pytest.raises(errors.ConfigError, match="sha256"):  # an export knows its digest
        load_vision_params(str(folder), tower)
    for page in folder.glob("*_tower.json"):  # without our descriptions it is a timm folder, which knows none
        page.unlink()
    if damage is not flipped:
        with pytest.raises(errors.ConfigError, match=DAMAGES[damage]):
            load_vision_params(str(folder), tower)


def tiny_sha256(file: Path) -> str:
    """sha256 (hex) of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def state_of(step: int, **values: float) -> dict[str, Any]:
    """A state whose array `w`, and what else is named, holds one of the given numbers."""
    params = {"w": jnp.ones(4), **{name: jnp.ones((2, 3)).at[1, 2].set(value) for name, value in values.items()}}
    return {"step": jnp.int32(step), "params": params, "half": jnp.ones(3, jnp.bfloat16)}


def test_what_is_not_finite_is_named_and_counted_wherever_it_lies() -> None:
    assert finite.not_finite(state_of(1, a=3.0)) == ""
    assert finite.not_finite(state_of(1, a=np.nan, b=-np.inf)) == "params/a (1 inf or nan), params/b (1 inf or nan)"
    many = {f"p{i}": np.full(3, np.inf, np.float32) for i in range(5)} | {"half": jnp.full(2, jnp.nan, jnp.bfloat16)}
    assert finite.not_finite(many) == "half (2 inf or nan), p0 (3 inf or nan), p1 (3 inf or nan) and 3 more"
    cut = NamedSharding(jax.make_mesh((8,), ("data",)), P("data"))
    spread = jax.device_put(jnp.arange(16.0).at[9].set(jnp.nan), cut)
    assert int(finite._count(spread)) == int(finite._count_on_devices(spread)) == 1


def test_a_state_that_is_not_finite_is_not_saved_and_the_older_checkpoint_stays(tmp_path: Path) -> None:
    with Checkpointer(tmp_path, keep=1) as checkpoints:
        checkpoints.save_now(1, state_of(1, a=3.0), {})
        with pytest.raises(errors.NumbersError, match=r"state of step 2: .*params/a \(1 inf or nan\).*step 1"):
            checkpoints.save(2, state_of(2, a=np.nan), {})
        assert checkpoints.saved_step == 1
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_a_checkpoint_that_is_not_finite_is_refused_or_gives_way_where_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_config(write_text_tower(tmp_path / "text"))
    state = write_run(tmp_path / "run", config, steps=(3,))
    bad = jax.tree.map(lambda leaf: leaf, state)
    bad["params"]["image"]["pos_embed"] = bad["params"]["image"]["pos_embed"].at[0].set(jnp.inf)
    folder = tmp_path / "run" / "checkpoints"
    with monkeypatch.context() as patch, Checkpointer(folder, keep=2) as checkpoints:
        patch.setattr(Checkpointer, "_check_finite", lambda *_: None)  # as another program might write it
        checkpoints.save_now(5, bad | {"step": jnp.int32(5)}, checkpoints.meta(3))
    abstract = jax.eval_shape(lambda: state)
    message = r"checkpoints/5: expected finite numbers, found params/image/pos_embed \(.* inf or nan\)"
    with Checkpointer(folder, keep=2) as checkpoints, pytest.raises(errors.CheckpointError, match=message):
        checkpoints.restore(None, abstract, jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    restored, meta = read_state(tmp_path / "run")
    assert meta["step"] == 3 and tree.digest(restored["params"]) == tree.digest(state["params"])
    assert "step 3 is taken: " in capsys.readouterr().err
    with pytest.raises(errors.CheckpointError, match="expected finite numbers"):
        read_state(tmp_path / "run", 5)


def test_a_run_whose_weights_overflow_ends_with_exit_code_3_and_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The gradient of the first step is finite, and so is its loss: only the weights after it are not."""
    monkeypatch.setenv("LIT_TUNE_CACHE", str(tmp_path / "cache"))
    words = tiny.arguments(tiny.text_folder(tmp_path / "text"), tiny.picture_folder(tmp_path / "pictures"),
                           tmp_path / "run", optim__lr=3e38, optim__wd=1e3, optim__warmup_steps=0,
                           checkpoint__every=1, eval__sets=())
    assert cli.run(train.main, words) == 3
    line = capsys.readouterr().err.splitlines()[-1]
    assert "state of step 1: expected finite numbers, found params/image/" in line, line
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []
