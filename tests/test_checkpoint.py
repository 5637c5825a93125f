"""Checkpoints under damage, failing disks, kills and other topologies. Damage is done to real files, kills to real
processes."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import simulated
import tiny
from jax.sharding import NamedSharding, PartitionSpec as P, SingleDeviceSharding

from lit_tune import checkpoint, step_folders, tree, verify
from lit_tune.checkpoint import Checkpointer
from lit_tune.errors import CheckpointError, ConfigError


def make_state(seed: int, width: int = 32) -> dict:
    """A small train state with every kind of leaf: two dtypes, scalars, an optax state, blocks named by numbers."""
    rng = np.random.default_rng(seed)
    params = {
        "image": {
            "blocks": {"0": {"q": {"kernel": jnp.asarray(rng.normal(size=(width, width)), jnp.float32)}}},
            "half": jnp.asarray(rng.normal(size=(width,)), jnp.bfloat16),
        },
        "logit_scale": jnp.float32(seed),
    }
    opt_state = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)).init(params)
    return {"step": jnp.int32(seed), "params": params, "opt_state": opt_state, "skipped": jnp.int32(0)}


def abstract(state: dict) -> dict:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)


def one_device() -> SingleDeviceSharding:
    return SingleDeviceSharding(jax.devices()[0])


def same(one: dict, other: dict) -> bool:
    """Bitwise, structure included."""
    return jax.tree.structure(one) == jax.tree.structure(other) and tree.digest(one) == tree.digest(other)


def write(folder: Path, steps: list[int], keep: int = 10) -> None:
    """Checkpoints of `make_state(step)`."""
    with Checkpointer(folder, keep=keep) as checkpoints:
        for step in steps:
            checkpoints.save_now(step, make_state(step), {"config_hash": "abc"})


def restore(folder: Path, step: int | None = None, like: dict | None = None, read_only: bool = False):
    like = make_state(0) if like is None else like
    with Checkpointer(folder, keep=10, read_only=read_only) as checkpoints:
        return checkpoints.restore(step, abstract(like), one_device())


def test_empty_folder_is_a_new_run(tmp_path: Path) -> None:
    assert restore(tmp_path / "checkpoints") is None
    assert restore(tmp_path / "missing", read_only=True) is None
    assert not (tmp_path / "missing").exists()


def test_restored_state_is_bitwise_the_saved_one_with_its_meta(tmp_path: Path) -> None:
    write(tmp_path, [3, 5])
    step, state, meta = restore(tmp_path)
    assert step == 5
    assert same(state, make_state(5))
    assert meta["config_hash"] == "abc"
    assert meta["step"] == 5
    assert meta["versions"]["jax"] == jax.__version__
    assert meta["arrays"]["params/image/half"] == [[32], "bfloat16"]
    assert same(restore(tmp_path, step=3)[1], make_state(3))


def test_happy_path_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    write(tmp_path, [1, 2])
    restore(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_newest_and_best_are_kept(tmp_path: Path) -> None:
    with Checkpointer(tmp_path, keep=2, best_metric="recall") as checkpoints:
        for step, recall in enumerate((0.1, 0.9, 0.3, 0.2, 0.25), start=1):
            checkpoints.save_now(step, make_state(step), {"metrics": {"recall": recall}})
        assert checkpoints.steps() == [2, 4, 5]
    with Checkpointer(tmp_path, keep=1, best_metric="loss") as checkpoints:
        checkpoints.save_now(6, make_state(6), {"metrics": {"loss": 3.0}})
        checkpoints.save_now(7, make_state(7), {"metrics": {"loss": 4.0}})
        assert checkpoints.steps() == [6, 7]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["6", "7"]


def test_step_that_is_saved_is_not_saved_again(tmp_path: Path) -> None:
    with Checkpointer(tmp_path, keep=2) as checkpoints:
        assert checkpoints.save(4, make_state(4), {}) is True
        checkpoints.wait()
        assert checkpoints.saved_step == 4
        assert checkpoints.save(4, make_state(4), {}) is False


def test_steps_that_donate_the_state_do_not_reach_a_save_under_way(tmp_path: Path) -> None:
    add_one = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    state = add_one({str(i): jnp.zeros((512, 1024)) for i in range(16)})
    with Checkpointer(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, state, {})
        for _ in range(5):
            state = add_one(state)
        jax.block_until_ready(state)
        checkpoints.wait()
        _, restored, _ = checkpoints.restore(None, abstract(state), one_device())
    assert all(np.all(np.asarray(leaf) == 1) for leaf in jax.tree.leaves(restored))


def test_saved_is_said_only_after_the_digests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = step_folders.write_digests

    def slow(*args, **kwargs):
        time.sleep(0.5)
        assert sorted(p.name for p in tmp_path.iterdir() if p.name.isdecimal()) == ["1", "2"], "the older step went"
        return real(*args, **kwargs)

    with Checkpointer(tmp_path, keep=1) as checkpoints:
        checkpoints.save_now(1, make_state(1), {})
        monkeypatch.setattr(step_folders, "write_digests", slow)
        checkpoints.save(2, make_state(2), {})
        while (tmp_path / "2" / "digests.json").exists() is False:
            assert checkpoints.poll() is False
            assert checkpoints.saved_step == 1 or (tmp_path / "2" / "digests.json").exists()
            time.sleep(0.01)
        checkpoints.wait()
        assert checkpoints.saved_step == 2
        assert checkpoints.steps() == [2]


# Damage.


def data_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size > 0 and p.name != "digests.json")


def flip(path: Path, seed: int) -> None:
    """One bit."""
    rng, content = random.Random(seed), bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


DAMAGES = {
    "flip": lambda path: flip(path, 0),
    "truncate": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "delete": lambda path: path.unlink(),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_to_any_file_is_named_and_the_older_step_is_used(tmp_path: Path, kind: str, capsys) -> None:
    write(tmp_path / "good", [1, 2])
    names = [p.relative_to(tmp_path / "good" / "2") for p in data_files(tmp_path / "good" / "2")]
    assert any("/d/" in str(name) for name in names)
    for i, name in enumerate(names):
        folder = shutil.copytree(tmp_path / "good", tmp_path / f"bad{i}")
        DAMAGES[kind](folder / "2" / name)
        with pytest.raises(CheckpointError):
            verify.main([str(folder)])
        assert f"{folder}/2/{name}: " in capsys.readouterr().out
        step, state, _ = restore(folder)
        assert step == 1
        assert same(state, make_state(1))
        assert sorted(p.name for p in folder.iterdir()) == ["1", "2.damaged"]
        assert str(name) in capsys.readouterr().err
        assert verify.main([str(folder / "1")]) == 0


def test_a_step_that_was_set_aside_can_be_saved_again(tmp_path: Path) -> None:
    write(tmp_path, [1, 2])
    flip(data_files(tmp_path / "2")[0], 0)
    with Checkpointer(tmp_path, keep=2) as checkpoints:
        assert checkpoints.restore(None, abstract(make_state(0)), one_device())[0] == 1
        checkpoints.save_now(2, make_state(2), {})  # Orbax has seen a step 2 before
        assert checkpoints.steps() == [1, 2]


@pytest.mark.parametrize("seed", range(3))
def test_flipped_bits_in_the_largest_array_are_found(tmp_path: Path, seed: int) -> None:
    write(tmp_path, [1, 2])
    flip(max(data_files(tmp_path / "2"), key=lambda p: p.stat().st_size), seed)
    assert restore(tmp_path)[0] == 1


@pytest.mark.faults(row=14, fault="leftovers of killed saves", expected="cleared away; lost digests are damage")
def test_lost_digests_are_damage_and_an_interrupted_save_is_not(tmp_path: Path) -> None:
    write(tmp_path, [1, 2, 3])
    (tmp_path / "3" / "digests.json").unlink()
    (tmp_path / "3.changing").touch()  # what a kill between commit and digests leaves
    (tmp_path / "2" / "digests.json").write_text("{")
    (tmp_path / "9.orbax-checkpoint-tmp").mkdir()
    assert restore(tmp_path)[0] == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2.damaged"]


def test_no_whole_checkpoint_is_an_error_now_and_at_the_next_start(tmp_path: Path) -> None:
    write(tmp_path, [1, 2])
    for step in (1, 2):
        flip(data_files(tmp_path / str(step))[0], step)
    for _ in range(2):
        with pytest.raises(CheckpointError, match="no checkpoint is whole") as caught:
            restore(tmp_path)
        assert caught.value.exit_code == 5


def test_reader_leaves_damage_where_it_is(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write(tmp_path, [1, 2])
    flip(data_files(tmp_path / "2")[0], 0)
    assert restore(tmp_path, read_only=True)[0] == 1
    assert "skipped" in capsys.readouterr().err
    assert (tmp_path / "2").is_dir()
    with pytest.raises(CheckpointError, match=re.escape(f"{tmp_path}/2")):
        restore(tmp_path, step=2)
    with pytest.raises(CheckpointError, match="no such step"):
        restore(tmp_path, step=7)


def test_differences_of_structure_shape_and_dtype_are_named(tmp_path: Path) -> None:
    write(tmp_path, [1])

    def error(change) -> str:
        like = make_state(1)
        change(like["params"]["image"])
        with pytest.raises(CheckpointError) as caught:
            restore(tmp_path, like=like)
        return str(caught.value)

    assert "params/image/new is missing" in error(lambda image: image.update(new=jnp.zeros(3)))
    assert "params/image/half is not in this model" in error(lambda image: image.pop("half"))
    assert "half is bfloat16 [32], expected float32 [32]" in error(lambda image: image.update(half=jnp.zeros(32)))
    shape = error(lambda image: image.update(half=jnp.zeros(33, jnp.bfloat16)))
    assert "params/image/half is bfloat16 [32], expected bfloat16 [33]" in shape
    assert (tmp_path / "1").is_dir(), "a config that does not fit is no damage"


def test_verify_tells_what_is_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint"):
        verify.main([str(tmp_path)])
    with pytest.raises(ConfigError):
        verify.main([str(tmp_path / "missing")])
    with pytest.raises(ConfigError):
        verify.main([])
    write(tmp_path / "checkpoints", [1])
    assert verify.main([str(tmp_path)]) == 0
    assert "whole" in capsys.readouterr().out


# Failing disks and kills, in processes of their own.


def noise(step: int, rows: int) -> np.ndarray:
    """The weights that PRELUDE's `state(step, rows)` holds."""
    return np.random.default_rng(step).normal(size=(rows, 512)).astype(np.float32)


PRELUDE = """
import os, resource, sys, time
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from lit_tune import checkpoint, distributed, step_folders
from lit_tune.errors import CheckpointError
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
root = Path(sys.argv[1])
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
def until_polled(checkpoints):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if checkpoints.poll():
            return True
        if checkpoints._finishing is None:
            return False
        time.sleep(0.01)
def state(step, rows=256):
    w = np.random.default_rng(step).normal(size=(rows, 512)).astype(np.float32)
    return {"step": jnp.int32(step), "params": {"w": jnp.asarray(w)}}
def sharded(step, spec):
    full = np.random.default_rng(step).normal(size=(16, 64)).astype(np.float32)
    mesh = Mesh(np.asarray(jax.devices()).reshape(-1), ("data",))
    put = lambda a, s: jax.make_array_from_callback(np.shape(a), NamedSharding(mesh, s), lambda i: np.asarray(a)[i])
    return {"step": put(np.int32(step), P()), "params": {"w": put(full, spec), "b": put(full[0], P())}}
"""


def start(body: str, folder: Path, devices: int = 1, **variables: str) -> subprocess.Popen:
    environment = os.environ | {"JAX_PLATFORMS": "cpu"} | variables
    environment["XLA_FLAGS"] = simulated.flags(devices)
    return subprocess.Popen([sys.executable, "-c", PRELUDE + textwrap.dedent(body), str(folder)], env=environment,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.faults(row=9, fault="a save fails part of the way, twice",
                    expected="one more try, then exit 5; the older step is whole")
def test_failed_saves_are_noticed_retried_once_and_then_fatal(tmp_path: Path) -> None:
    process = start("""
        with checkpoint.Checkpointer(root, keep=2) as checkpoints:
            checkpoints.save_now(1, state(1), {})
            limit(100_000)                                     # as a full disk: writes fail part of the way
            checkpoints.save(2, state(2), {})
            say("noticed", until_polled(checkpoints), checkpoints.saved_step)
            limit(resource.RLIM_INFINITY)
            checkpoints.save(3, state(3), {})
            say("again", until_polled(checkpoints), checkpoints.saved_step)
            limit(100_000)
            try:
                checkpoints.save(4, state(4), {})
                say("noticed", until_polled(checkpoints))
                checkpoints.save(4, state(4), {})
                until_polled(checkpoints)
            except CheckpointError as error:
                say("fatal", error.exit_code, error)
            limit(resource.RLIM_INFINITY)
    """, tmp_path)
    output, errors = process.communicate(timeout=60)
    lines = output.splitlines()
    assert lines[:3] == ["noticed True 1", "again False 3", "noticed True"], (output, errors)
    assert lines[3].startswith("fatal 5 saving step 4 in")
    assert "File too large" in lines[3]
    assert "the newest whole step is 3" in lines[3]
    with Checkpointer(tmp_path, keep=2) as checkpoints:
        assert checkpoints.steps() == [1, 3]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "3"]


@pytest.mark.faults(row=9, fault="less free space than 1.2 checkpoints", expected="exit 5 before anything is written")
def test_full_disk_is_refused_before_the_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Checkpointer(tmp_path, keep=2) as checkpoints:
        checkpoints.save_now(1, make_state(1), {})
        size = json.loads((tmp_path / "1" / "digests.json").read_text())["bytes"]
        free = [int(1.19 * size)]
        monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: SimpleNamespace(free=free[0]))
        with pytest.raises(CheckpointError, match="are free; make room"):
            checkpoints.save(2, make_state(2), {})
        free[0] = int(1.21 * size)
        checkpoints.save_now(2, make_state(2), {})
        assert checkpoints.steps() == [1, 2]


@pytest.mark.faults(row=2, fault="kill -9 before the commit, and between commit and digests",
                    expected="the older step is restored, the rest cleared away")
@pytest.mark.parametrize("moment", ["orbax", "digests"])
def test_kill_in_a_save_leaves_the_older_step(tmp_path: Path, moment: str) -> None:
    process = start(f"""
        from orbax.checkpoint import checkpoint_manager
        def forever(*args, **kwargs):
            say("stuck")
            time.sleep(60)
        with checkpoint.Checkpointer(root, keep=1) as checkpoints:
            checkpoints.save_now(1, state(1), {{}})
            if "{moment}" == "digests":
                step_folders.write_digests = forever
            else:   # before Orbax renames the temporary folder
                checkpoint_manager.CheckpointManager._finalize_checkpoint = forever
                from orbax.checkpoint._src.path import atomicity
                atomicity.AtomicRenameTemporaryPath.finalize = forever
            checkpoints.save(2, state(2), {{}})
            time.sleep(60)
    """, tmp_path)
    assert process.stdout.readline() == "stuck\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    names = {p.name for p in tmp_path.iterdir()}
    assert "1" in names
    assert "2.changing" in names
    like = {"step": jnp.int32(0), "params": {"w": jnp.zeros((256, 512))}}
    step, state, _ = restore(tmp_path, like=like)
    assert step == 1
    np.testing.assert_array_equal(state["params"]["w"], noise(1, 256))
    assert [p.name for p in tmp_path.iterdir()] == ["1"]


@pytest.mark.faults(row=2, fault="kill -9 at random moments of saving",
                    expected="the last step that was called saved, or the next, is whole")
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_kill_at_any_time_leaves_a_whole_step(tmp_path: Path, seed: int) -> None:
    process = start("""
        with checkpoint.Checkpointer(root, keep=1) as checkpoints:
            for step in range(1, 1000):
                checkpoints.save(step, state(step, 4096), {})
                checkpoints.wait()
                say(step)
    """, tmp_path)
    assert process.stdout.readline() == "1\n"
    time.sleep(random.Random(seed).uniform(0.0, 1.0))
    process.kill()
    output, _ = process.communicate()
    said = int(output.split()[-1]) if output.split() else 1
    like = {"step": jnp.int32(0), "params": {"w": jnp.zeros((4096, 512))}}
    step, state, _ = restore(tmp_path, like=like)
    assert step in (said, said + 1)
    np.testing.assert_array_equal(state["params"]["w"], noise(step, 4096))


# Topologies.


def expected(step: int) -> np.ndarray:
    return np.random.default_rng(step).normal(size=(16, 64)).astype(np.float32)


SHARDED = {"step": np.int32(0), "params": {"w": np.zeros((16, 64), np.float32), "b": np.zeros(64, np.float32)}}


@pytest.mark.faults(row=15, fault="a state cut over 8 devices",
                    expected="restored on one device and on other axes, bit for bit")
def test_state_sharded_over_eight_devices_is_restored_on_one_and_on_other_axes(tmp_path: Path) -> None:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, columns, everywhere = (NamedSharding(mesh, spec) for spec in (P("data"), P(None, "data"), P()))
    place = {"step": everywhere, "params": {"w": rows, "b": everywhere}}
    state = jax.device_put({"step": np.int32(2), "params": {"w": expected(2), "b": expected(2)[0]}}, place)
    with Checkpointer(tmp_path, keep=2) as checkpoints:
        checkpoints.save_now(2, state, {})
        _, on_one, _ = checkpoints.restore(None, abstract(SHARDED), one_device())
        place["params"]["w"] = columns
        _, on_columns, _ = checkpoints.restore(None, abstract(SHARDED), place)
    assert on_one["params"]["w"].sharding == one_device()
    assert on_columns["params"]["w"].sharding == columns
    for restored in (on_one, on_columns):
        np.testing.assert_array_equal(restored["params"]["w"], expected(2))
        np.testing.assert_array_equal(restored["params"]["b"], expected(2)[0])


@pytest.mark.multiprocess
def test_two_processes_save_set_damage_aside_and_restore_and_one_process_reads_it(tmp_path: Path) -> None:
    port = tiny.free_port()
    processes = [start("""
        distributed.initialize(initialization_timeout=60, heartbeat_timeout=10, shutdown_timeout=10)
        with checkpoint.Checkpointer(root, keep=2) as checkpoints:
            for step in (1, 2, 3):
                checkpoints.save_now(step, sharded(step, P("data")), {"note": "two"})
            say("saved", checkpoints.saved_step)
        if jax.process_index() == 0:
            largest = max((p for p in (root / "3").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
            largest.write_bytes(b"x" + largest.read_bytes()[1:])
        distributed.barrier("damaged")
        like = sharded(0, P("data"))
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), like)
        with checkpoint.Checkpointer(root, keep=2) as checkpoints:
            step, restored, meta = checkpoints.restore(None, abstract, jax.tree.map(lambda x: x.sharding, like))
            right = sharded(2, P("data"))
            equal = all(np.array_equal(a.addressable_data(0), b.addressable_data(0))
                        for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(right)))
            say("restored", step, equal, meta["note"])
            checkpoints.save_now(3, sharded(3, P("data")), {})
            say("saved", checkpoints.saved_step)
        distributed.barrier("end")
    """, tmp_path, LIT_TUNE_COORDINATOR=f"127.0.0.1:{port}", LIT_TUNE_NUM_PROCESSES="2", LIT_TUNE_PROCESS_ID=str(i))
        for i in range(2)]
    ends = [process.communicate(timeout=90) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], [errors for _, errors in ends]
    for output, _ in ends:
        lines = [line for line in output.splitlines() if "Gloo" not in line]
        assert lines == ["saved 3", "restored 2 True two", "saved 3"]
    assert "3.damaged" in ends[0][1]
    step, state, _ = restore(tmp_path, like=jax.tree.map(jnp.asarray, SHARDED))
    assert step == 3
    np.testing.assert_array_equal(state["params"]["w"], expected(3))
