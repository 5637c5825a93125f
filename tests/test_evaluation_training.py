"""Benchmarks inside training: figures at chosen steps, in every file that has them, through a kill and afterwards."""

import io
import json
from pathlib import Path

import evaldata_folders as folders
import pytest
import tiny
from PIL import Image

from lit_tune import cli
from lit_tune.evals.results import FILE, read_results

pytestmark = pytest.mark.slow  # whole runs, each in a process of its own; .ci/run asks for them
LINES = ("zeroshot/top1", "zeroshot/top1_chance", "zeroshot/top1_low", "zeroshot/mean_per_class")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text tower, pictures to train on, the same as a benchmark of colours, and a finished run."""
    home = tmp_path_factory.mktemp("benchmarks")
    tiny.text_folder(home / "text")
    files = sorted(tiny.picture_folder(home / "pictures").glob("*.png"))
    labels = [list(tiny.COLORS).index(file.name.partition("-")[0]) for file in files]
    folder = home / "data" / "colours"
    folders.wds(folder, n=len(files), pictures=[encoded(file) for file in files], labels=labels, shards=3)
    (folder / "classnames.txt").write_text("\n".join(tiny.COLORS) + "\n")
    (folder / "zeroshot_classification_templates.txt").write_text("a {c} circle\na {c} square\n")
    code, output = tiny.finish(train(home, "run"))
    assert code == 0, output
    return home


def encoded(file: Path) -> bytes:
    """A picture of another size than the tower's, so that preparing it is part of the test."""
    data = io.BytesIO()
    Image.open(file).convert("RGB").resize((30, 22)).save(data, "PNG")
    return data.getvalue()


def train(home: Path, name: str) -> tiny.subprocess.Popen:
    """A started run that evaluates the benchmark at steps 8 and 16."""
    changes = {"eval__tasks": ("colours=colours",), "eval__tasks_every": 8, "eval__data_root": home / "data",
               "eval__best_metric": "val/colours/zeroshot/top1", "total_steps": 16, "checkpoint__every": 4}
    return tiny.start(tiny.arguments(home / "text", home / "pictures", home / name, **changes), home / "cache")


def val_lines(home: Path, name: str) -> dict[int, dict[str, float]]:
    """{step: figures of the benchmark} in metrics.jsonl."""
    lines = [line for line in tiny.lines(home / name) if line["kind"] == "val"]
    return {line["step"]: {key: line[f"val/colours/{key}"] for key in LINES if f"val/colours/{key}" in line}
            for line in lines}


def test_figures_stand_at_the_chosen_steps_in_every_file(home: Path) -> None:
    found = val_lines(home, "run")
    assert list(found) == [8, 16] and all(set(one) == set(LINES) for one in found.values())
    final = json.loads((home / "run" / "final.json").read_text())["eval"]
    for step, figures in found.items():
        page = json.loads((home / "run" / "eval" / f"{step}.json").read_text())
        result = read_results(home / "run" / "eval" / str(step) / FILE)["colours"]
        assert page["val/colours/zeroshot/top1"] == result.metrics["acc1"] == figures["zeroshot/top1"]
        assert page["settings"]["colours"]["samples"] == 24 and result.system["step"] == step
    assert final["val/colours/zeroshot/top1"] == found[16]["zeroshot/top1"] > final["val/colours/zeroshot/top1_chance"]
    assert "colours" in (home / "run" / "eval" / "report.html").read_text()


def test_a_killed_run_has_the_same_figures_each_once(home: Path) -> None:
    process = train(home, "killed")
    tiny.wait_for_step(home / "killed", 10, process)
    process.kill()
    process.communicate()
    code, output = tiny.finish(train(home, "killed"))
    assert code == 0, output
    assert val_lines(home, "killed") == val_lines(home, "run")
    assert [line["step"] for line in tiny.lines(home / "killed") if line["kind"] == "val"] == [8, 16]
    one, other = (json.loads((home / name / "final.json").read_text()) for name in ("run", "killed"))
    assert one == other


def test_eval_of_the_last_step_finds_it_done_and_other_questions_beside(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIT_TUNE_CACHE", str(home / "cache"))
    words = ["eval", f"--workdir={home / 'run'}", "--tasks=colours=colours", f"--data_root={home / 'data'}"]
    assert cli.main(words) == 0
    assert "colours: done before" in capsys.readouterr().err
    before = json.loads((home / "run" / "eval" / "16.json").read_text())
    assert cli.main([*words, "--prompts=none"]) == 0
    output = capsys.readouterr().out
    after = json.loads((home / "run" / "eval" / "16.json").read_text())
    assert after["val/colours/zeroshot/top1"] == pytest.approx(before["val/colours/zeroshot/top1"])
    assert "val/colours[prompt none]/zeroshot/top1" in after and "colours[prompt none]" in output


def test_a_benchmark_that_is_not_there_ends_the_run_before_its_first_step(home: Path) -> None:
    words = tiny.arguments(home / "text", home / "pictures", home / "lost", eval__tasks=("imagenet",),
                           eval__data_root=home / "data")
    code, output = tiny.finish(tiny.start(words, home / "cache"))
    assert code == 2 and "imagenet (wds_imagenet1k_test)" in output
    assert not (home / "lost" / "metrics.jsonl").exists()
