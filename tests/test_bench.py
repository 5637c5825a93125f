"""`lit-tune bench`: its parts run, agree with plain products, and refuse what they cannot measure."""

import dataclasses
import json

import numpy as np
import pytest
from small_models import small_config, write_run, write_text_tower

from lit_tune import bench, bench_towers, cli, tree
from lit_tune.benching import loss as loss_part
from lit_tune.evals import retrieval
from lit_tune.models.two_towers import tower_of, vision_tower


def out(capsys: pytest.CaptureFixture, *argv: str) -> str:
    """What `lit-tune bench ARGV` prints."""
    assert cli.main(["bench", *argv]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture, *argv: str) -> tuple[int, str]:
    """(exit code, the one line on stderr) of a command line that fails."""
    code = cli.main(["bench", *argv])
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return code, captured.err


def test_retrieval_prints_ratios_of_one_run_and_memory(capsys: pytest.CaptureFixture) -> None:
    argv = ("retrieval", "--images=50", "--texts=120", "--dim=16", "--repeats=2")
    found = json.loads(out(capsys, *argv, "--json"))
    assert (found["images"], found["texts"], found["dim"], found["repeats"]) == (50, 120, 16, 2)
    assert set(found["seconds"]) == {"exact", "float64", "products"} and found["peak_mb"] > 0
    hours = found["seconds"]["exact"] * 1e12 / (50 * 120) / 3600
    assert found["estimated_hours_large"] == pytest.approx(hours)
    table = out(capsys, *argv)
    assert "50 pictures x 120 captions x 16" in table and "plain float64" in table and "1,000,000 x 1,000,000" in table


def test_ratios_are_of_the_same_turn() -> None:
    assert bench.ratio([1, 10, 6], [2, 5, 2]) == 2  # of 0.5, 2 and 3
    told = []
    times = bench.in_turns({"a": lambda: told.append("a"), "b": lambda: told.append("b")}, 2)
    assert told == ["a", "b", "a", "b"] and [len(t) for t in times.values()] == [2, 2]


def test_plain_products_rank_as_the_definition_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.tiles, "TILE", (7, 5))
    zimg, ztxt, owner = bench.pairs(12, 31, 8)
    scores = (ztxt.astype(np.float64) @ zimg.T.astype(np.float64)).astype(np.float32)
    right = owner[:, None] == np.arange(12)
    to_image = [(s[~r] >= s[r].max()).sum() for s, r in zip(scores, right, strict=True)]
    to_text = [(s[~r] >= s[r].max()).sum() for s, r in zip(scores.T, right.T, strict=True)]
    got = bench.plain_float64(zimg, ztxt, owner)
    np.testing.assert_array_equal(got[0], to_image)
    np.testing.assert_array_equal(got[1], to_text)


def test_ranks_that_are_not_those_of_plain_products_are_an_error(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = retrieval.find

    def wrong(*args: object) -> tuple:
        to_image, to_text = true(*args)
        return dataclasses.replace(to_image, above=to_image.above + 1), to_text

    monkeypatch.setattr(retrieval, "find", wrong)
    code, line = refused(capsys, "retrieval", "--images=20", "--texts=30", "--dim=8")
    assert code == bench.NumbersError.exit_code and "30 others" in line


def float64_softmax(zimg: np.ndarray, ztxt: np.ndarray, log_scale: float) -> tuple[float, np.ndarray]:
    """(the CLIP loss, its gradient to zimg), by the formula."""
    scale, n = np.exp(log_scale), len(zimg)
    logits = scale * zimg.astype(np.float64) @ ztxt.T.astype(np.float64)
    parts = [np.exp(logits) / np.exp(logits).sum(axis, keepdims=True) for axis in (0, 1)]
    value = -np.mean([np.log(np.diagonal(part)) for part in parts])
    return value, scale / (2 * n) * (sum(parts) - 2 * np.eye(n)) @ ztxt.astype(np.float64)


def test_loss_compares_every_form_with_the_formula(capsys: pytest.CaptureFixture) -> None:
    argv = ("loss", "--n=16,40", "--dim=24", "--repeats=1")
    found = json.loads(out(capsys, *argv, "--json"))
    assert (found["devices"], found["dtype"], found["width"]) == (8, "float32", 24)
    assert [(row["n"], row["loss"], row["form"]) for row in found["rows"]] == [
        (n, name, form) for n in (16, 40) for name, forms in loss_part.COMPARED.items() for form in forms]
    for row in found["rows"]:
        assert row["loss_difference"] < 1e-5 and row["gradient_difference"] < 1e-4 and row["temporaries_mib"] > 0
        if row["loss"] == "softmax":
            value = float64_softmax(*loss_part.rows_of(row["n"], 24), np.log(1 / 0.07))[0]
            assert row["value"] == pytest.approx(value, rel=1e-6)
    table = out(capsys, *argv)
    assert "softmax, open_clip" in table and "temporaries MiB a device" in table and "8 devices" in table


def test_a_form_with_another_loss_or_gradient_is_an_error() -> None:
    zimg, ztxt = loss_part.rows_of(6, 8)
    value, slopes = float64_softmax(zimg, ztxt, 1.0)
    for wrong in ((1.01 * value, (slopes,)), (value, (slopes + 0.01 * np.abs(slopes).max(),)), (np.nan, (slopes,))):
        with pytest.raises(bench.NumbersError, match="softmax, ours"):
            loss_part.agree("softmax", {"ours": wrong, "plain": (value, (slopes,))}, 1e-3)
    assert loss_part.agree("softmax", {"plain": (value, (slopes,))}, 0.0)["plain"]["gradient_difference"] == 0


def test_eval_shares_add_up_and_towers_are_scaled(capsys: pytest.CaptureFixture, tmp_path) -> None:
    write_run(tmp_path / "run", small_config(write_text_tower(tmp_path / "text")))
    argv = ("eval", f"--model={tmp_path / 'run'}", "--images=40", "--classes=5", "--templates=2", "--sample=2",
            "--prompts=4", "--repeats=1")  # fmt: skip
    found = json.loads(out(capsys, *argv, "--json"))
    seconds = found["seconds"]
    assert found["prompts"] == 10 and found["sample"] == [2, 4]
    assert seconds["image tower"] == pytest.approx(40 * found["ms_a_picture"] / 1e3)
    assert seconds["text tower"] == pytest.approx(10 * found["ms_a_prompt"] / 1e3)
    rest = seconds["scoring"]
    assert found["outside_seconds"] == pytest.approx(rest)
    assert found["outside_percent"] == pytest.approx(100 * rest / sum(seconds.values()))
    table = out(capsys, *argv)
    assert "image tower" in table and "ms a prompt" in table and "outside the towers" in table


def test_the_pair_without_a_model_has_the_published_sizes() -> None:
    config = bench_towers.configs.load(bench_towers.CONFIG)
    image, text = vision_tower(config), tower_of(bench_towers.NOMIC_TEXT)
    # nomic-embed-text-v1.5: 137 M parameters (its model card); nomic-embed-vision-v1.5: 93 M with its head
    assert tree.count(text.abstract()) == pytest.approx(137e6, rel=0.005)
    assert tree.count(image.abstract()) == pytest.approx(93e6, rel=0.01)


@pytest.mark.slow
def test_a_random_pair_runs_without_files(monkeypatch: pytest.MonkeyPatch) -> None:
    small = dataclasses.replace(bench_towers.NOMIC_TEXT, vocab_size=50, width=32, depth=1, num_heads=2, mlp_dim=48)
    config = small_config("unused")
    monkeypatch.setattr(bench_towers, "NOMIC_TEXT", small)
    monkeypatch.setattr(bench_towers.configs, "load", lambda name: config)
    towers = bench_towers.load(None)
    assert towers.pictures(np.zeros((3, *towers.image_size, 3), np.uint8)).shape == (3, towers.dim)
    assert len(towers.prompts(33)()) == 2  # blocks of 32
    assert towers.seconds_a_picture(1, 1) > 0 and towers.seconds_a_prompt(2, 1) > 0


@pytest.mark.parametrize("argv, says", [
    (["data", "a", "b"], "name one part"), ([], "retrieval or eval"), (["loss", "--n=12"], "multiples of 8 devices"),
    (["loss", "--n=16", "--dtype=float16"], "float32 or bfloat16"), (["loss", "--devices=9"], "at most 8"),
    (["retrieval", "--config=quickstart"], "measures none"), (["eval", "--config.seed=1"], "measures none"),
    (["step", "--config=quickstrat"], "did you mean quickstart"), (["step", "--devices=9"], "at most 8"),
    (["step", "--batch=10", "--micro_batches=4"], "a divisor of 10"), (["embed", "--batch=0"], "--batch"),
    (["embed", "--config.vision.width=50"], "vision.num_heads"), (["embed", "--sizes=3"], "--sizes"),
    (["loss", "--threads=4096"], "the cores of this process"),
    (["retrieval", "eval"], "name one part"), (["retrieval", "--images=30", "--texts=20"], "at least 30"),
    (["eval", "--model=nowhere"], "nowhere"), (["eval", "--repeats=0"], "--repeats"),
])
def test_what_cannot_be_measured_is_refused_in_one_line(argv: list[str], says: str,
                                                        capsys: pytest.CaptureFixture) -> None:
    code, line = refused(capsys, *argv)
    assert code == 2 and says in line
