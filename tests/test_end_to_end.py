"""What a user does after training: evaluate, export, embed, search, load, go on from weights; on several devices."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny

import lit_tune
from lit_tune import cli, tower, tree


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the text tower, the pictures and a finished run."""
    home = tiny.make_home(tmp_path_factory.mktemp("end"))
    code, output = tiny.finish(train(home, "run", total_steps=60, log__block_stats_steps=2))
    assert code == 0, output
    return home


def train(home: Path, name: str, *words: str, devices: int = 1, **changes: object) -> tiny.subprocess.Popen:
    """A started run of the module's pictures in a folder `name`."""
    settings = tiny.arguments(home / "text", home / "pictures", home / name, **changes)
    return tiny.start([*settings, *words], home / "cache", devices=devices)


@pytest.fixture
def lit_tune_command(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture):
    """A function that runs `lit-tune ...` in this process: (exit code, output, errors)."""
    monkeypatch.setenv("LIT_TUNE_CACHE", str(home / "cache"))

    def run(*words: object) -> tuple[int, str, str]:
        code = cli.main([str(word) for word in words])
        return code, *capfd.readouterr()

    return run


def weights(folder: Path) -> dict[str, np.ndarray]:
    """The trained parameters of a run by name."""
    named = tree.flatten(tower.read_state(folder)[0]["params"])
    return {name: np.asarray(leaf) for name, leaf in named.items()}


def test_the_first_steps_say_how_each_block_behaves(home: Path) -> None:
    lines = {line["step"]: line for line in tiny.lines(home / "run") if line["kind"] == "train"}
    assert lines[1]["train/block_00_rms"] > 0 and lines[2]["train/block_00_max_logit"] > 0
    assert "train/block_00_rms" not in lines[3]


def test_skipped_steps_are_counted_and_end_no_run(home: Path) -> None:
    words = ["--skip_batches=2:9", "--debug_fault=nan@12"]
    code, output = tiny.finish(train(home, "skipping", *words, total_steps=20, log__every=5))
    assert code == 0, output
    skipped = {line["step"]: line["train/skipped_steps"] for line in tiny.lines(home / "skipping")
               if line["kind"] == "train"}
    assert skipped == {1: 0, 5: 3, 10: 7, 15: 8, 20: 8}


def test_evaluating_a_saved_step_gives_the_numbers_of_training(home: Path, lit_tune_command) -> None:
    trained = json.loads((home / "run" / "final.json").read_text())["eval"]
    code, output, errors = lit_tune_command("eval", f"--workdir={home / 'run'}")
    assert code == 0 and "text to image R@1" in output, errors
    again = json.loads((home / "run" / "eval" / "60.json").read_text())
    for name, value in trained.items():
        assert again[name] == pytest.approx(value, abs=1e-6), name


def test_an_export_embeds_searches_and_scores_like_the_run(home: Path, lit_tune_command, tmp_path: Path) -> None:
    code, output, errors = lit_tune_command(
        "export", f"--workdir={home / 'run'}", "--format=timm", f"--out={tmp_path / 'e'}")
    assert code == 0, errors
    proof = json.loads((tmp_path / "e" / "proof.json").read_text())
    for check in proof["checks"]:
        assert check["checked_by"][0]["who"] == "own_reader" and check["checked_by"][0]["max_difference"] <= 1e-5
    assert proof["frozen_text"]["unchanged"] is True
    files = sorted((home / "pictures").glob("*.png"))
    run, export = lit_tune.load(home / "run"), lit_tune.load(tmp_path / "e")
    np.testing.assert_allclose(export.embed_images(files), run.embed_images(files), atol=1e-5)
    np.testing.assert_allclose(export.embed_texts(["a red dot"]), run.embed_texts(["a red dot"]), atol=1e-6)

    code, output, errors = lit_tune_command(
        "embed", f"--model={tmp_path / 'e'}", f"--images={home / 'pictures'}/*.png", f"--out={tmp_path / 'x.npz'}")
    assert code == 0, errors
    stored = np.load(tmp_path / "x.npz")
    assert stored["embeddings"].dtype == np.float32 and stored["embeddings"].shape == (24, tiny.WIDTH)
    np.testing.assert_allclose(np.linalg.norm(stored["embeddings"], axis=1), 1, atol=1e-6)
    code, output, errors = lit_tune_command(
        "search", f"--model={tmp_path / 'e'}", f"--index={tmp_path / 'x.npz'}", "a red dot", "--top=3")
    assert code == 0, errors
    best = int(np.argmax(stored["embeddings"] @ run.embed_texts(["a red dot"])[0]))
    assert str(stored["ids"][best]) in output

    code, output, errors = lit_tune_command(
        "eval", f"--model={tmp_path / 'e'}", f"--tasks=pictures={home / 'pictures'}")
    assert code == 0 and "text to image R@5" in output, errors
    score = json.loads((home / "run" / "final.json").read_text())["eval"]["val/pictures/image_retrieval_recall@5"]
    assert f"{100 * score:.1f}" in output


def test_a_second_export_into_the_same_folder_is_refused(home: Path, lit_tune_command, tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("mine")
    code, _, errors = lit_tune_command(
        "export", f"--workdir={home / 'run'}", "--format=timm", f"--out={tmp_path / 'used'}")
    assert code == 2 and errors.count("\n") == 1 and "another folder" in errors


def test_training_goes_on_from_a_run_an_export_or_a_timm_folder(home: Path, lit_tune_command, tmp_path: Path) -> None:
    lit_tune_command("export", f"--workdir={home / 'run'}", "--format=timm", f"--out={tmp_path / 'e'}")
    code, output = tiny.finish(train(home, "warm", total_steps=1, optim__warmup_steps=0, optim__lr=1e-30,
                                     vision__init_from=tmp_path / "e"))
    assert code == 0, output
    before, after = weights(home / "run"), weights(home / "warm")
    for name, value in before.items():  # a step that is too small to move a bit: what was started from is what ends
        if name.startswith("image/"):
            np.testing.assert_array_equal(after[name], value, err_msg=name)


def test_one_and_eight_devices_end_with_the_same_weights(home: Path) -> None:
    code, output = tiny.finish(train(home, "eight", total_steps=8, devices=8))
    assert code == 0, output
    code, output = tiny.finish(train(home, "one", total_steps=8))
    assert code == 0, output
    one, eight = weights(home / "one"), weights(home / "eight")
    for name in one:  # Adam divides by the root of a noisy second moment: k's bias-like directions differ most
        np.testing.assert_allclose(eight[name], one[name], atol=2e-4, err_msg=name)
    digests = [[line["data/batch_digest"] for line in tiny.lines(home / name) if line["kind"] == "train"]
               for name in ("one", "eight")]
    assert digests[0] == digests[1]


def test_an_absurd_learning_rate_after_a_warm_start_is_told_once_for_each_block_and_kind(home: Path) -> None:
    code, output = tiny.finish(train(home, "wild", total_steps=12, optim__warmup_steps=2, optim__lr=1.0,
                                     eval__sets=(), log__block_stats_steps=12, vision__init_from=home / "run"))
    assert code == 0, output
    found = [line.split(": ")[3] for line in output.splitlines() if line.startswith("lit_tune: warning: step ")]
    assert sorted(found) == ["block_00_max_logit", "block_00_rms", "loss"], output


@pytest.mark.multiprocess
def test_two_processes_start_from_weights_train_save_and_agree_with_one(home: Path) -> None:
    port = tiny.free_port()
    words = [f"--coordinator=127.0.0.1:{port}", "--num_processes=2"]
    start = dict(total_steps=20, optim__warmup_steps=10, vision__init_from=home / "run", log__block_stats_steps=20,
                 optim__ema_decay=0.9)
    both = [train(home, "two", *words, f"--process_id={i}", **start) for i in range(2)]
    ends = [tiny.finish(process) for process in both]
    assert [code for code, _ in ends] == [0, 0], ends
    code, output = tiny.finish(train(home, "alone", devices=2, **start))
    assert code == 0, output
    two, alone = weights(home / "two"), weights(home / "alone")
    for name in alone:
        np.testing.assert_allclose(two[name], alone[name], atol=2e-4, err_msg=name)
    lines = [[line for line in tiny.lines(home / name) if line["kind"] == "train"] for name in ("two", "alone")]
    for name, tolerance in (("loss", 1e-5), ("block_00_rms", 1e-5), ("block_00_max_logit", 1e-5)):
        np.testing.assert_allclose(*[[line[f"train/{name}"] for line in run] for run in lines], atol=tolerance)
    # No spike: nothing to warn of, and no loss above the first one but for how much batches of 8 differ.
    assert "warning" not in output + "".join(text for _, text in ends)
    assert max(line["train/loss"] for line in lines[1]) <= lines[1][0]["train/loss"] + 0.5
