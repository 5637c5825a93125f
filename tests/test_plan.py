"""`lit-tune plan` as it is typed: what it refuses, and (with libtpu) a step compiled for TPUs that are not there."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lit_tune import cli

ROOT = Path(__file__).parents[1]
SMALL = ["--config=nomic_embed_vision_v1_5:best", "--config.text.source=cached", "--config.vision.depth=1",
         "--config.vision.width=128", "--config.vision.num_heads=2", "--config.vision.mlp_dim=256",
         "--config.vision.pool_mlp_dim=256", "--config.vision.image_size=(64, 64)"]
needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")


@pytest.mark.parametrize("words, said", [
    (["--topology=v5e:16x16x2"], "--topology v5e:16x16x2"), (["--topology=v7e-8"], "did you mean v6e-8?"),
    (["--topology=v5e:4x4", "--config.global_batch=1000"], "use 992 or 1008"),
    (["--topology=v5e:4x4", "--slices=0"], "--slices"), (["--topology=h200", "--slices=2"], "one slice"),
    (["--topology=v5e:4x4,v6e:2x4"], "add --sweep"), (["--topology=v5e:4x4", "--part=model"], "step or loss"),
    (["--topology=v5e:4x4", "--part=loss", "--sweep"], "leave it out"),
    (["--topology=v5e:4x4", "--sweep", "--assert"], "leave one of them out"),
    (["--topology=v5e:4x4", "--prices=nowhere.json"], "--prices"),
    (["--topology=v5e:4x4", "--config.vision.remat=some"], "none | save | dots | full"),
    (["--topology=v5e:4x4", "--config.micro_batches=3"], "config.micro_batches"),
])
def test_what_cannot_be_planned_is_one_line_and_exit_code_2(
        words: list[str], said: str, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["plan", "--config=nomic_embed_vision_v1_5", *words]) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1


def test_without_libtpu_it_says_what_to_install(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main(["plan", *SMALL, "--config.global_batch=64", "--topology=v5e:2x2"]) == 2
    told = capsys.readouterr().err
    assert "pip install 'lit_tune[tpu]'" in told and "pins" in told and told.count("\n") == 1


def planned(*words: str) -> subprocess.CompletedProcess:
    """`lit-tune plan WORDS` in a process of its own, with the variables of a user's shell."""
    kept = {name: value for name, value in os.environ.items() if name not in ("JAX_PLATFORMS", "XLA_FLAGS")}
    return subprocess.run([sys.executable, "-m", "lit_tune.plan", *words], capture_output=True, text=True, env=kept,
                          cwd=ROOT, timeout=900)


@pytest.mark.slow
@needs_libtpu
def test_a_small_step_is_compiled_for_a_slice_and_keeps_its_promises() -> None:
    result = planned(*SMALL, "--config.global_batch=16384", "--topology=v5e:2x2", "--json", "--noplain", "--assert")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["fits"] and found["chips"] == 4 and found["would_fit"] == []
    gathers = [one for one in found["collectives"] if one["kind"] == "all-gather"]
    assert [(one["shape"], one["dtype"], one["axis"]) for one in gathers] == [([16384, 128], "bf16", "data")]
    assert 0 < found["est_ms_low"] <= found["est_ms_high"] and found["hbm_peak_gib"] < found["hbm_limit_gib"]


@pytest.mark.slow
@needs_libtpu
def test_two_slices_exchange_over_the_network_only_what_they_must() -> None:
    n, width = 2048, 768
    result = planned("--config=nomic_embed_vision_v1_5", "--part=loss", f"--n={n}", "--topology=v5e:2x2", "--slices=2",
                     "--json", "--noplain")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert {one["axis"] for one in found["collectives"]} == {"data"}
    far = [one for one in found["collectives"] if one["crosses_slices"]]
    gathered = [one["bytes"] for one in far if one["kind"] == "all-gather"]
    assert gathered == [n // 4 * width * 2]  # a chip's rows and those of the chip in its place
    assert all(one["group"] == 2 for one in far) and {one["kind"] for one in far} == {"all-gather", "all-reduce"}
    assert n // 4 * width <= found["network_bytes"] < n // 4 * width + 16 * n
    assert 0 < found["network_ms_high"] < found["collective_ms_high"]


@pytest.mark.slow
def test_a_gpu_is_planned_by_roofline_without_one() -> None:
    result = planned(*SMALL, "--config.global_batch=64", "--topology=h200", "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["roofline"] and found["fits"] and 0 < found["est_ms_low"] < found["est_ms_high"]
    assert "CPU" in found["notes"][0] or "GPU" in found["notes"][0]
