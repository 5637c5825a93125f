"""`lit-tune bench step|embed` beside PyTorch: the same tower, loss and optimizer, and an error where they are not."""

import json
from typing import Any

import jax
import numpy as np
import pytest
from test_bench import out, refused
from test_bench_step import FLAGS, tiny

from lit_tune.benching import ours, peer, step

pytestmark = pytest.mark.interop
ARGV = (*FLAGS, "--batch=8", "--repeats=1")


@pytest.fixture(autouse=True)
def eager(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile takes half a minute: only the tests that are marked slow have it."""
    if "slow" not in request.keywords:
        monkeypatch.setattr(peer, "WAYS", {"torch eager": False})


@pytest.mark.parametrize("part", ["step", "embed"])
def test_both_are_measured_with_the_same_numbers(part: str, capsys: pytest.CaptureFixture) -> None:
    found = json.loads(out(capsys, part, *ARGV, "--json"))
    assert list(found["runs"]) == ["ours", "torch eager"] and not found["no_torch"] and not found["failed"]
    assert set(found["versions"]) == {"torch", "timm", "torch threads"}
    if part == "step":
        mine, theirs = (found["first"][name] for name in found["runs"])
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=1e-5)
        assert theirs["grad_norm"] == pytest.approx(mine["grad_norm"], rel=1e-4)
    else:
        assert found["runs"]["torch eager"]["difference"] < 1e-5


@pytest.mark.parametrize("part", ["step", "embed"])
def test_other_weights_are_an_error(part: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    true = peer.mapping.to_peer

    def other(*args: Any) -> dict[str, np.ndarray]:
        named = true(*args)
        return named | {"attn_pool.q.weight": 3 * named["attn_pool.q.weight"],
                        "patch_embed.proj.weight": named["patch_embed.proj.weight"][:, :, ::-1]}  # fmt: skip

    monkeypatch.setattr(peer.mapping, "to_peer", other)
    code, line = refused(capsys, part, *ARGV)
    assert code == 3 and "torch eager" in line and "ours" in line


@pytest.mark.parametrize("changes", [{}, {"optim__wd": 0.1, "optim__clip_norm": 0.0}])
def test_both_train_alike(changes: dict[str, float]) -> None:
    config = tiny(optim__warmup_steps=0, optim__lr=1e-4, **changes)
    mine = ours.TrainingStep(config, jax.devices()[:1])
    theirs = peer.TrainingStep(config, mine.params(), mine.batch, "cpu", compile=False)
    found = np.array([[step.first_step(run) for run in (mine, theirs)] for _ in range(4)])  # (step, side, loss | norm)
    assert found[-1, 0, 0] < found[0, 0, 0] - 0.01  # it learns
    np.testing.assert_allclose(found[:, 1], found[:, 0], rtol=1e-3)


def test_the_published_tower_is_measured_too(capsys: pytest.CaptureFixture) -> None:
    table = out(capsys, "step", "--config=nomic_embed_vision_v1_5", "--config.dtype=float32", *ARGV)
    assert "torch eager" in table and "not measured" not in table


def test_bfloat16_agrees_within_its_own_bounds(capsys: pytest.CaptureFixture) -> None:
    for part in ("step", "embed"):
        assert "torch eager" in out(capsys, part, "--config.dtype=bfloat16", *ARGV)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch.compile's own
@pytest.mark.parametrize("part", ["step", "embed"])
def test_torch_compile_agrees(part: str, capsys: pytest.CaptureFixture) -> None:
    found = json.loads(out(capsys, part, *ARGV, "--json"))
    assert list(found["runs"]) == ["ours", "torch eager", "torch.compile"] and not found["failed"]
