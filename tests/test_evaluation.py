"""`lit-tune eval` on benchmarks: figures, files, resuming, refusals; on one device, eight, and two processes."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import evaldata_folders as folders
import jax
import numpy as np
import pytest
import simulated
import tiny
from small_models import small_config, write_export, write_run, write_text_tower

import lit_tune
from lit_tune import cli, config as config_lib, rundir, sharding, tower
from lit_tune.evals.results import FILE, read_results
from lit_tune.evaluation import preparing, systems, tasks
from lit_tune.evaluation.embedding import Stopped
from lit_tune.evaluation.progress import Progress

NAMES = ("a cat", "dogs", "red", "the big mat")  # words of the small tokenizer
TEMPLATES = ("a {}", "{} on the mat")
TEXTS = ("a cat", "a dog", "red mat", "the big cat", "big dogs on the red mat", "a red dog", "cats", "the mat on a dog")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, its export, and a data root with three small benchmarks."""
    home = tmp_path_factory.mktemp("evaluation")
    config = small_config(write_text_tower(home / "text"), eval__sets=())
    state = write_run(home / "run", config)
    write_export(home / "model", config, state["params"]["image"])
    folders.wds(home / "data" / "wds_cifar10_test", n=21)
    folders.wds(home / "data" / "wds_cifar10_test", n=17, split="train")
    folders.wds(home / "data" / "wds_flickr30k_test", "retrieval", n=8, labels=[(t, f"{t} cat") for t in TEXTS])
    folders.wds(home / "data" / "voc", "multilabel", n=10)
    (home / "names.txt").write_text("\n".join(NAMES))
    (home / "prompts.txt").write_text("\n".join(TEMPLATES))
    return home


@pytest.fixture
def evaluate(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """A function that runs `lit-tune eval` here on the data root: (exit code, output, errors)."""
    monkeypatch.setenv("LIT_TUNE_CACHE", str(tmp_path / "cache"))

    def run(*words: object) -> tuple[int, str, str]:
        code = cli.main(["eval", f"--data_root={home / 'data'}", *map(str, words)])
        return code, *capsys.readouterr()

    return run


def files(home: Path) -> list[str]:
    """The flags with class names and prompts that the small tokenizer can tell apart."""
    return [f"--classnames={home / 'names.txt'}", f"--templates={home / 'prompts.txt'}"]


def pictures(home: Path, name: str) -> list[bytes]:
    """The pictures of a benchmark in order."""
    return [data.pictures[i] for data in [prepared(home, name).data] for i in range(len(data))]


def prepared(home: Path, name: str, **asked: object) -> tasks.Prepared:
    """One task with its data."""
    data = config_lib.load("finetune").data
    return preparing.prepare([name], preparing.Asked(home / "data", data, **asked))[0]


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of length one."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_figures_are_those_of_the_formula_and_stand_in_both_files(home: Path, tmp_path: Path, evaluate) -> None:
    code, output, errors = evaluate(f"--model={home / 'model'}", "--tasks=cifar10,flickr30k", f"--out={tmp_path}",
                                    *files(home))
    assert code == 0, errors
    model = lit_tune.load(home / "model")
    zimg, labels = model.embed_images(pictures(home, "cifar10")), np.arange(21) % 4
    classes = unit(np.stack([model.embed_texts([t.format(n) for t in TEMPLATES]).mean(0) for n in NAMES]))
    expected = np.mean((zimg @ classes.T).argmax(1) == labels)
    lines = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    assert [line["key"] for line in lines] == ["cifar10", "retrieval/flickr_1k_test_image_text_retrieval"]
    assert [line["dataset"] for line in lines] == ["CIFAR-10", "Flickr"]
    assert lines[0]["metrics"]["acc1"] == lines[0]["metrics"]["main_metric"] == pytest.approx(expected)
    assert lines[1]["metrics"]["main_metric"] == lines[1]["metrics"]["mean_recall@1"]
    settings = lines[0]["settings"]
    assert settings["prompt"] == settings["own_prompt"] == "query: " and settings["samples"] == 21
    assert settings["templates"] == 2 and settings["classes"] == 4 and settings["resize"] == "shortest"
    assert len(settings["data_sha256"]) == 64 and settings["versions"]["jax"] == jax.__version__
    assert "cifar10 (21 pictures" in output and "flickr30k (8 pictures, 16 captions)" in output
    assert (tmp_path / "report.html").is_file() and not list(tmp_path.glob("*.partial"))


def test_a_run_keeps_its_figures_in_eval_n_json_beside_those_of_its_sets(home: Path, evaluate) -> None:
    rundir.write_eval(home / "run", 3, {"val/own/image_retrieval_recall@1": 0.5})
    code, _, errors = evaluate(f"--workdir={home / 'run'}", "--tasks=cifar10", *files(home))
    assert code == 0, errors
    page = json.loads((home / "run" / "eval" / "3.json").read_text())
    result = read_results(home / "run" / "eval" / "3" / FILE)["cifar10"]
    assert page["val/own/image_retrieval_recall@1"] == 0.5
    assert page["val/cifar10/zeroshot/top1"] == result.metrics["acc1"] and page["step"] == result.system["step"] == 3
    assert page["settings"]["cifar10"] == result.settings
    assert "cifar10" in (home / "run" / "eval" / "report.html").read_text().lower()


def test_what_is_done_is_not_done_again_unless_the_question_changes(home: Path, tmp_path: Path, evaluate) -> None:
    words = [f"--model={home / 'model'}", "--tasks=cifar10", f"--out={tmp_path}", *files(home)]
    assert evaluate(*words)[0] == 0
    first = (tmp_path / FILE).read_bytes()
    assert "done before" in evaluate(*words)[2] and (tmp_path / FILE).read_bytes() == first
    assert "done before" not in evaluate(*words, "--prompt=")[2]
    assert read_results(tmp_path / FILE)["cifar10"].settings["prompt"] == ""
    assert "done before" not in evaluate(*words, "--prompt=", "--restart")[2]


def test_other_prompts_and_widths_and_probes_are_reported_beside(home: Path, tmp_path: Path, evaluate) -> None:
    code, output, errors = evaluate(f"--model={home / 'model'}", "--tasks=cifar10", f"--out={tmp_path}", *files(home),
                                    "--prompts=none,the", "--dims=8", "--probes=knn")
    assert code == 0, errors
    result = read_results(tmp_path / FILE)["cifar10"]
    assert {"prompt none", "prompt the", "dim 8"} <= set(result.variants)
    model = lit_tune.load(home / "model")
    zimg, labels = model.embed_images(pictures(home, "cifar10")), np.arange(21) % 4
    for name, prompt, dim in (("prompt none", "", 16), ("prompt the", "the: ", 16), ("dim 8", "query: ", 8)):
        texts = [model.embed_texts([t.format(n) for t in TEMPLATES], prompt) for n in NAMES]
        classes = unit(np.stack([unit(one[:, :dim]).mean(0) for one in texts]))
        expected = np.mean((unit(zimg[:, :dim]) @ classes.T).argmax(1) == labels)
        assert result.variants[name]["acc1"] == pytest.approx(expected), name
    assert 0 <= result.metrics["knn_acc1"] <= 1
    assert "cifar10[dim 8]" in output


def small_system(home: Path, devices: int) -> systems.System:
    """The export on so many of the simulated devices, a few pictures a batch."""
    mesh = sharding.make_mesh(config_lib.load("finetune").mesh, jax.devices()[:devices])
    return systems.of_model(tower.load(home / "model"), mesh, 8 // devices, "m")


def test_one_device_and_eight_give_the_same_vectors_of_an_uneven_set(home: Path) -> None:
    data = prepared(home, "cifar10").data
    found = {}
    for devices in (1, 8):
        system = small_system(home, devices)
        parts = list(system.embedder.vectors(system.params, 21, lambda i, s=system: s.picture(data.pictures[i])))
        assert [len(part) for part in parts] == [8, 8, 5]
        found[devices] = np.concatenate(parts)
    np.testing.assert_allclose(found[1], found[8], atol=1e-6)
    wanted = lit_tune.load(home / "model").embed_images(pictures(home, "cifar10"))
    np.testing.assert_allclose(found[8], wanted, atol=1e-6)


def test_a_stopped_evaluation_goes_on_and_ends_bitwise_like_one_that_was_not(home: Path, tmp_path: Path) -> None:
    task, system = prepared(home, "cifar10"), small_system(home, 1)
    whole = tasks.run([task], system, tasks.Options(), tmp_path / "whole")
    looks = iter([False, True])
    with pytest.raises(Stopped):
        tasks.run([task], system, tasks.Options(), tmp_path / "cut", should_stop=lambda: next(looks))
    assert not (tmp_path / "cut" / FILE).exists() and len(list((tmp_path / "cut").glob("cifar10-*.partial"))) == 1
    embedded = []

    def counting(i: int) -> np.ndarray:
        embedded.append(i)
        return system.picture(task.data.pictures[i])

    original = tasks._pixels
    try:
        tasks._pixels = lambda data, system: counting
        again = tasks.run([task], system, tasks.Options(), tmp_path / "cut")
    finally:
        tasks._pixels = original
    assert sorted(embedded) == list(range(16, 21)), "the first two batches were kept"
    assert again[0].metrics == whole[0].metrics and not list((tmp_path / "cut").glob("*.partial"))


def test_a_model_of_no_numbers_scores_nothing_and_its_line_is_json(home: Path, tmp_path: Path) -> None:
    system = small_system(home, 1)
    broken = dataclasses.replace(system, params=jax.tree.map(lambda x: x * np.float32("nan"), system.params))
    result = tasks.run([prepared(home, "cifar10")], broken, tasks.Options(), tmp_path)[0]
    assert result.metrics["acc1"] == 0 and result.metrics["modality_gap"] is None
    assert read_results(tmp_path / FILE)["cifar10"].metrics == result.metrics


def refused(code: int, wanted: int, errors: str, *words: str) -> None:
    """The exit code, one line, and what it names."""
    line = errors.strip().splitlines()[-1]
    assert code == wanted and line.startswith("lit-tune: ") and all(word in line for word in words), errors


def test_wrong_folders_and_files_end_with_2_and_leave_nothing(home: Path, tmp_path: Path, evaluate) -> None:
    out = tmp_path / "out"
    words = [f"--model={home / 'model'}", f"--out={out}"]
    code, _, errors = evaluate(*words, "--tasks=datacomp38")
    refused(code, 2, errors, "imagenet (wds_imagenet1k_test)", "--data_root")
    code, _, errors = evaluate(*words, "--tasks=cifra10")
    refused(code, 2, errors, "cifra10")
    (tmp_path / "three.txt").write_text("a\nb\nc\n")
    code, _, errors = evaluate(*words, "--tasks=cifar10", f"--classnames={tmp_path / 'three.txt'}")
    refused(code, 2, errors, "3")
    (home / "data" / "empty" / "test").mkdir(parents=True, exist_ok=True)
    (home / "data" / "empty" / "test" / "nshards.txt").write_text("0\n")
    code, _, errors = evaluate(*words, "--tasks=mine=empty")
    refused(code, 2, errors, "empty")
    code, _, errors = evaluate(*words, "--tasks=voc2007=voc")
    refused(code, 2, errors, "multilabel")
    code, _, errors = evaluate(*words, "--tasks=flickr30k", "--probes=linear")
    refused(code, 2, errors, "one class a picture")
    code, _, errors = evaluate(*words, "--tasks=cifar10", "--probes=nearest")
    refused(code, 2, errors, "knn or linear", "'nearest'")
    folders.wds(tmp_path / "alone", n=4)
    code, _, errors = evaluate(*words, f"--tasks=alone={tmp_path / 'alone'}", "--probes=knn")
    refused(code, 2, errors, "train")
    code, _, errors = evaluate(*words, "--tasks=cifar10", *files(home), "--dims=99")
    refused(code, 2, errors, "1 to 15", "99")
    assert not out.exists()
    (tmp_path / "file").write_text("")
    code, _, errors = evaluate(f"--model={home / 'model'}", "--tasks=cifar10", f"--out={tmp_path / 'file' / 'out'}")
    refused(code, 2, errors, "--out")


def test_a_picture_that_does_not_decode_ends_with_4_and_names_it(home: Path, tmp_path: Path, evaluate) -> None:
    drawn = [folders.picture(i) for i in range(6)]
    drawn[4] = drawn[4][:60]
    folders.wds(tmp_path / "bad", n=6, pictures=drawn)
    words = [f"--model={home / 'model'}", f"--out={tmp_path / 'out'}", *files(home)]
    code, _, errors = evaluate(*words, f"--tasks=cifar10,bad={tmp_path / 'bad'}")
    refused(code, 4, errors, "s0000004.png", "undecodable")
    assert list(read_results(tmp_path / "out" / FILE)) == ["cifar10"], "the task before it is kept"
    assert not list((tmp_path / "out").glob("*.partial"))


def start(words: list[str], process: int, of: int, port: int, cache: Path) -> subprocess.Popen:
    """`python -m lit_tune.eval` as one of several processes with two devices each."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": simulated.flags(2),
                                "LIT_TUNE_CACHE": str(cache)}  # fmt: skip
    place = [f"--coordinator=127.0.0.1:{port}", f"--num_processes={of}", f"--process_id={process}"] if of > 1 else []
    return subprocess.Popen([sys.executable, "-m", "lit_tune.eval", *words, *place], env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=Path(__file__).parents[1])


@pytest.mark.multiprocess
def test_two_processes_give_the_figures_of_one_and_one_line_each(home: Path, tmp_path: Path) -> None:
    found = {}
    for of in (1, 2):
        words = [f"--model={home / 'model'}", "--tasks=cifar10,flickr30k", f"--data_root={home / 'data'}",
                 f"--out={tmp_path / str(of)}", "--batch=2", *files(home)]
        port = tiny.free_port()
        processes = [start(words, i, of, port, tmp_path) for i in range(of)]
        outputs = [process.communicate(timeout=240)[0] for process in processes]
        assert [process.returncode for process in processes] == [0] * of, outputs
        found[of] = {name: one.metrics for name, one in read_results(tmp_path / str(of) / FILE).items()}
        assert len((tmp_path / str(of) / FILE).read_text().splitlines()) == 2
    assert found[1].keys() == found[2].keys()
    for name in found[1]:
        assert found[1][name] == pytest.approx(found[2][name], abs=1e-6), name


def test_progress_says_how_far_and_how_long() -> None:
    seconds = iter([0.0, 0.0, 10.0])
    progress = Progress([("a", 100), ("b", 300)], clock=lambda: next(seconds))
    progress.skip("a")
    progress.begin("b", 100)
    progress.add(100)
    assert progress.line() == "b (2 of 2): 200 of 300 pictures, 10 a second, 10 s to go"
