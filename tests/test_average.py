"""A model between two: its weights by numpy, its ends bit for bit, what is refused."""

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from small_models import picture, small_config, write_run, write_text_tower

import lit_tune
from lit_tune import cli, tree
from lit_tune.averaging import between

pytestmark = pytest.mark.usefixtures("no_peers")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Two runs of one config, of steps 2 and 3, and of 5 with a running average; their last states."""
    root = tmp_path_factory.mktemp("runs")
    config = small_config(write_text_tower(root / "text"))
    a = write_run(root / "a", config, steps=(2, 3))
    b = write_run(root / "b", config, steps=(5,), ema=True)
    return SimpleNamespace(root=root, config=config, a=a["params"]["image"], b=b["ema"]["image"])


def average(*words: object) -> int:
    """Exit code of the command."""
    return cli.main(["average", *map(str, words)])


def test_the_weights_lie_between_by_the_formula(runs: SimpleNamespace, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert average(runs.root / "a", runs.root / "b", "--alpha=0.3", f"--out={out}") == 0
    got, a, b = load_file(out / "vision.safetensors"), tree.flatten(runs.a), tree.flatten(runs.b)
    assert got.keys() == a.keys()
    for name, value in got.items():
        wanted = 0.7 * np.float64(a[name]) + 0.3 * np.float64(b[name])
        np.testing.assert_array_equal(value, wanted.astype(np.float32), err_msg=name)
    model, own = lit_tune.load(out), lit_tune.load(runs.root / "a")
    assert model.embed_images([picture(0)]).shape == (1, own.dim)
    np.testing.assert_array_equal(model.embed_texts(["a cat"]), own.embed_texts(["a cat"]))
    proof = json.loads((out / "proof.json").read_text())
    assert proof["source"]["alpha"] == 0.3 and proof["frozen_text"]["unchanged"]
    assert [one["params_sha256"] for one in proof["source"]["of"]] == [tree.digest(runs.a), tree.digest(runs.b)]
    assert "0.7 x a@3 + 0.3 x b@5" in (out / "README.md").read_text()


@pytest.mark.parametrize("alpha", [0, 1])
def test_the_ends_are_the_very_bits(runs: SimpleNamespace, tmp_path: Path, alpha: int) -> None:
    assert average(runs.root / "a@3", runs.root / "b@5", f"--alpha={alpha}", f"--out={tmp_path / 'out'}") == 0
    got, wanted = load_file(tmp_path / "out" / "vision.safetensors"), tree.flatten((runs.a, runs.b)[alpha])
    assert {name: value.tobytes() for name, value in got.items()} == {
        name: np.asarray(value).tobytes() for name, value in wanted.items()}  # fmt: skip


def test_negative_zeros_of_an_end_stay_negative() -> None:
    a, b = np.array([-0.0, 1.0], np.float32), np.array([0.0, -1.0], np.float32)
    assert between({"x": a}, {"x": b}, 0.0)["x"].tobytes() == a.tobytes()
    assert between(2.0, 4.0, 0.25) == 2.5


def test_averages_of_averages_and_exports_of_them(
    runs: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, timm = (tmp_path / name for name in ("first", "second", "timm"))
    assert average(runs.root / "a", runs.root / "b", f"--out={first}") == 0
    assert average(first, runs.root / "a@2", "--alpha=0.5", f"--out={second}") == 0
    assert "average   0.5 x first + 0.5 x a@2\n" in capsys.readouterr().out
    assert cli.main(["export", f"--model={second}", "--format=timm", f"--out={timm}"]) == 0
    images = [picture(i) for i in range(3)]
    np.testing.assert_allclose(lit_tune.load(timm).embed_images(images), lit_tune.load(second).embed_images(images),
                               atol=1e-6)  # fmt: skip
    assert "Image tower: an average; source: from lit-tune average" in (timm / "README.md").read_text()


def test_the_temperature_lies_between_too(runs: SimpleNamespace, tmp_path: Path) -> None:
    from lit_tune import averaging

    a, b = averaging.find(str(runs.root / "a")), averaging.find(str(runs.root / "b"))
    a.facts["logit_scale"], b.facts["logit_scale"] = 1.0, 3.0
    assert averaging.average(a, b, 0.25, "x").facts["logit_scale"] == 1.5


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"vision__depth": 2}, "spec.depth 1, 2"), ({"data__resize": "squash"}, 'preprocess.resize "shortest", "squash"'),
     ({"text__prefix": "title: "}, 'prefix "query: ", "title: "'),
     ({"vision__family": "vit"}, 'family "eva02", "vit"')],
)  # fmt: skip
def test_what_differs_is_named(
    runs: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object], said: str
) -> None:
    write_run(tmp_path / "other", small_config(runs.root / "text", **changes))
    assert average(runs.root / "a", tmp_path / "other", f"--out={tmp_path / 'out'}") == 2
    line = capsys.readouterr().err
    assert said in line and line.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [(["a"], "two models, A and B"), (["a", "a", "--alpha=1.5"], "--alpha"), (["a", "nowhere"], "nowhere"),
     (["a", "a@7"], "step 7")],
)  # fmt: skip
def test_mistakes_get_one_line(
    runs: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    words = [word if word.startswith("-") else str(runs.root / word) for word in words]
    code = average(*words, f"--out={tmp_path / 'out'}")
    line = capsys.readouterr().err
    assert code == (5 if "a@7" in words[-1] else 2) and said in line and line.count("\n") == 1, line


def test_the_average_is_taken_in_a_precision_above_the_weights() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 1000)).astype(np.float32)
    alpha = 1 / np.pi  # of a simple fraction many results lie in the middle of two float32
    got = between({"w": a}, {"w": b}, alpha)["w"]
    wanted = ((1 - np.longdouble(alpha)) * a + np.longdouble(alpha) * b).astype(np.float32)
    assert got.dtype == np.float32 and np.array_equal(got, wanted)
    assert not np.array_equal(np.float32(1 - alpha) * a + np.float32(alpha) * b, wanted), "float32 alone would differ"
    assert jax.tree.leaves(between({"w": a}, {"w": a}, 0.5))[0].tobytes() == a.tobytes()
