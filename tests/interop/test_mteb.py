"""mteb, the real one, on models of ours and local tasks: numpy's scores, and the same text scores however we train."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import mteb
import mteb_tasks as tasks
import numpy as np
import pytest
import small_exports as small
import tiny
from datasets import Dataset
from mteb._create_dataloaders import _custom_collate_fn
from mteb.mocks import mock_tasks
from mteb.models.model_implementations.nomic_models import model_prompts
from mteb.types import PromptType
from outside_vectors import make_cache, picture_folder, stored_run
from torch.utils.data import DataLoader

import lit_tune
from lit_tune import cli, tree
from lit_tune.errors import ConfigError, DataError
from lit_tune.evals.results import FILE, read_results, write_results
from lit_tune.integrations import mteb as lit_mteb
from lit_tune.model import Model

pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("ignore")]  # mteb's own and scikit-learn's
ROLES = {"query": "query : ", "document": "the ", "STS": "big "}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Two towers with noise on all weights; the text side's own prefix is "query: "."""
    text = tiny_words(tmp_path_factory.mktemp("text"))
    return small.model(small.source(small.vision(), small.encoder(text, "a ")))


def tiny_words(folder: Path) -> Path:
    """A text tower that knows the words of the tasks."""
    return tiny.text_folder(folder / "tower")


def mteb_loader(columns: dict[str, list[Any]]) -> DataLoader:
    """A loader of batches of 5, as mteb makes them."""
    return DataLoader(Dataset.from_dict(columns), batch_size=5, collate_fn=_custom_collate_fn)


def one_score(model: Model, task: Any, **options: Any) -> dict[str, float]:
    """All of mteb's figures of one task."""
    (result,) = lit_mteb.run(model, [task], progress=False, **options).values()
    return result.metrics


def ranks(queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """How many documents come before query i's document i; no two are as near as 1e-6."""
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, documents)]
    scores = unit[0] @ unit[1].T
    own = np.diagonal(scores)[:, None]
    others = ~np.eye(len(scores), dtype=bool)
    assert np.abs(scores - own)[others].min() > 1e-6, "a near tie"
    return (scores > own).sum(1)


def check_retrieval(scores: dict[str, float], queries: np.ndarray, documents: np.ndarray) -> None:
    """mteb's figures are those of the ranks; one right document a query."""
    rank = ranks(queries, documents)
    for k in (1, 3, 5, 10, 20):
        assert scores[f"recall_at_{k}"] == pytest.approx((rank < k).mean(), abs=1e-5)
        ndcg = np.where(rank < k, 1 / np.log2(rank + 2), 0).mean()
        assert scores[f"ndcg_at_{k}"] == pytest.approx(ndcg, abs=1e-5)
    assert 0 < scores["main_metric"] < 1, "a score that could differ"


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation of ranks, equal values sharing the mean rank."""
    def mean_ranks(values: np.ndarray) -> np.ndarray:
        return np.array([(values < v).sum() + (values == v).sum() / 2 for v in values])
    return float(np.corrcoef(mean_ranks(one), mean_ranks(other))[0, 1])


@pytest.mark.parametrize("prompt", [None, "", "big ", ROLES], ids=["own", "none", "one", "roles"])
def test_text_scores_are_those_of_numpy_under_every_prompt(model: Model, prompt: Any) -> None:
    task = tasks.Sts()
    task.load_data()
    rows = task.dataset["test"]
    said = ROLES["STS"] if prompt == ROLES else prompt
    left, right = (model.embed_texts(list(rows[f"sentence{i}"]), said) for i in (1, 2))
    wanted = spearman(np.round((left * right).sum(1), 6), np.array(rows["score"]))
    assert one_score(model, tasks.Sts(), prompt=prompt)["main_metric"] == pytest.approx(wanted, abs=1e-3)

    query, document = (ROLES["query"], ROLES["document"]) if prompt == ROLES else (prompt, prompt)
    queries = model.embed_texts(tasks.TextRetrieval.queries["text"], query)
    documents = model.embed_texts([f"dot {name}" for name in tasks.NAMES], document)  # the title comes first
    check_retrieval(one_score(model, tasks.TextRetrieval(), prompt=prompt), queries, documents)


def test_image_text_scores_are_those_of_numpy(model: Model) -> None:
    zimg, ztxt = model.embed_images(tasks.DRAWINGS), model.embed_texts(tasks.NAMES)
    check_retrieval(one_score(model, tasks.TextToImage()), ztxt, zimg)
    check_retrieval(one_score(model, tasks.ImageToText()), zimg, ztxt)
    check_retrieval(one_score(model, tasks.BothToImage()), zimg + np.roll(ztxt, -1, 0), np.roll(zimg, -1, 0))
    classes = model.embed_texts(tasks.Colors().get_candidate_labels())
    accuracy = ((zimg @ classes.T).argmax(1) == tasks.COLOR_OF).mean()
    assert one_score(model, tasks.Colors())["main_metric"] == pytest.approx(accuracy, abs=1e-6)
    assert 0 < accuracy < 1


def test_vectors_are_those_of_the_model_bit_for_bit(model: Model) -> None:
    adapter = lit_mteb.MtebModel(model, ROLES)
    texts = mteb_loader({"text": tasks.NAMES})
    for kind, prompt in ((PromptType.query, ROLES["query"]), (PromptType.document, ROLES["document"]), (None, None)):
        found = adapter.encode(texts, task_metadata=tasks.TextToImage.metadata, prompt_type=kind)
        assert found.dtype == np.float32
        assert np.array_equal(found, model.embed_texts(tasks.NAMES, prompt))
    pictures = adapter.encode(mteb_loader({"image": tasks.DRAWINGS}), task_metadata=tasks.TextToImage.metadata)
    assert np.array_equal(pictures, model.embed_images(tasks.DRAWINGS))
    assert np.allclose(np.linalg.norm(pictures, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("task", [
    mock_tasks.MockClassificationTask, mock_tasks.LegacyMockClusteringFastTask, mock_tasks.MockPairClassificationTask,
    mock_tasks.MockSummarizationTask, mock_tasks.MockMultilingualSTSTask, mock_tasks.MockInstructionReranking,
    mock_tasks.MockImageClassificationTask, mock_tasks.MockImageClusteringFastTask, mock_tasks.MockVisualSTSTask,
    mock_tasks.MockMultiChoiceTask, mock_tasks.MockImageTextPairClassificationTask,
], ids=lambda task: task.metadata.name)  # fmt: skip
def test_every_kind_of_mtebs_own_mock_tasks_runs(model: Model, task: Any) -> None:
    scores = one_score(model, task())
    assert "main_metric" in scores and len(scores) >= 3


def test_a_model_of_one_tower_runs_its_own_tasks_and_refuses_others(model: Model, tmp_path: Path) -> None:
    only_text = Model(None, lambda: model.text, model.prompt)
    only_image = Model(model.vision, None, "")
    assert one_score(only_text, tasks.Sts()) == one_score(model, tasks.Sts())
    assert one_score(only_image, mock_tasks.MockImageClassificationTask())
    for one, task, lacking in ((only_text, tasks.TextToImage(), "image"), (only_image, tasks.Sts(), "text"),
                               (only_image, tasks.Colors(), "text")):
        with pytest.raises(ConfigError, match=f"needs {lacking}"):
            lit_mteb.run(one, [task], tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="an image tower"):  # asked by mteb itself, without `run`
        lit_mteb.MtebModel(only_text).encode(mteb_loader({"image": tasks.DRAWINGS}),
                                             task_metadata=tasks.TextToImage.metadata)
    assert lit_mteb.MtebModel(only_text).mteb_model_meta.modalities == ["text"]


def test_a_missing_picture_is_named_and_other_columns_are_refused(model: Model) -> None:
    adapter = lit_mteb.MtebModel(model)
    with pytest.raises(DataError, match="OurT2IRetrieval: expected a picture in every row"):
        adapter.encode(mteb_loader({"image": [tasks.DRAWINGS[0], None]}), task_metadata=tasks.TextToImage.metadata)
    with pytest.raises(ConfigError, match="expected texts or pictures, found audio"):
        adapter.encode(mteb_loader({"audio": ["x"]}), task_metadata=tasks.TextToImage.metadata)


def test_kept_figures_are_read_again_for_the_same_model_and_prompt_only(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = lit_mteb.run(model, [tasks.Sts()], tmp_path, progress=False)
    calls: list[int] = []
    encode = lit_mteb.MtebModel.encode
    monkeypatch.setattr(lit_mteb.MtebModel, "encode",
                        lambda self, *given, **named: calls.append(1) or encode(self, *given, **named))
    assert lit_mteb.run(model, [tasks.Sts()], tmp_path, progress=False) == first and not calls
    others = [lit_mteb.run(model, [tasks.Sts()], tmp_path, prompt=prompt, progress=False) for prompt in ("", ROLES)]
    other_prefix = Model(model.vision, lambda: small.encoder(model.text.folder, "big "), "big ")
    others.append(lit_mteb.run(other_prefix, [tasks.Sts()], tmp_path, progress=False))
    assert len(calls) == 6  # two columns each
    key = "mteb:OurSTS"
    assert [one[key].settings["prompt"] for one in (first, *others)] == ["a ", "", "big ", "big "]
    assert len({one[key].metrics["main_metric"] for one in (first, *others)}) == 3
    kept = [path for path in tmp_path.rglob("OurSTS.json")]
    assert len(kept) == 4
    page = json.loads(next(path for path in kept if "experiments" not in str(path)).with_name("model_meta.json")
                      .read_text())
    assert page["framework"] == ["JAX"] and page["embed_dim"] == model.dim and page["max_tokens"] == 16
    assert page["n_parameters"] == sum(array.size for side in (model.vision, model.text)
                                       for array in tree.flatten(side.params).values())


def test_results_are_our_records(model: Model, tmp_path: Path) -> None:
    results = lit_mteb.run(model, [tasks.Sts(), mock_tasks.MockMultilingualSTSTask()], prompt=ROLES, progress=False)
    one, several = results.values()
    assert one.task == "mteb:OurSTS" and one.metrics["main_metric"] == one.metrics["cosine_spearman"]
    assert one.settings["mteb"] == mteb.__version__ and one.settings["data"]["revision"] == "1"
    assert one.settings["prompt"] == "big " and set(one.system) == {"name", "vision_sha256", "text_sha256"}
    assert {"test/eng/pearson", "test/fra/pearson", "main_metric"} <= set(several.metrics)
    write_results(tmp_path / "eval_results.jsonl", results.values())
    assert read_results(tmp_path / "eval_results.jsonl") == results


def test_what_is_not_there_is_one_line(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="found 'STSBenchmrk'; did you mean STSBenchmark"):
        lit_mteb.run(model, [tasks.Sts(), "STSBenchmrk"])
    assert len(lit_mteb.find_tasks(["MTEB(eng, v1)"])) == 56
    with pytest.raises(ConfigError, match="found 'Clasification'; did you mean .*Classification"):
        lit_mteb.MtebModel(model, {"Clasification": "a "})
    assert lit_mteb.MtebModel(model, lit_mteb.NOMIC_PROMPTS | {"SICK-R": "a ", "SICK-R-query": "the "}).prompt
    with pytest.raises(DataError, match="mteb/stsbenchmark-sts on the hub or in the hub's cache"):  # tests are offline
        lit_mteb.run(model, ["STSBenchmark"], progress=False)
    monkeypatch.setitem(sys.modules, "mteb", None)
    monkeypatch.delitem(sys.modules, "lit_tune.integrations.mteb")
    with pytest.raises(ConfigError, match=r"the package mteb, found no mteb; pip install 'lit_tune\[eval\]'"):
        importlib.import_module("lit_tune.integrations.mteb")


def test_prompts_are_looked_up_as_mteb_does_for_nomic(model: Model) -> None:
    assert lit_mteb.NOMIC_PROMPTS == model_prompts


def test_text_vectors_and_scores_are_equal_bit_for_bit_before_and_after_training(tmp_path: Path) -> None:
    text, pictures = tiny.text_folder(tmp_path / "text"), tiny.picture_folder(tmp_path / "pictures")
    words = tiny.arguments(text, pictures, tmp_path / "run", total_steps=20, optim__lr=0.01)
    code, output = tiny.finish(tiny.start(words, tmp_path / "cache"))
    assert code == 0, output
    assert cli.main(["import", "--from=hf", f"--weights={text}", "--max_length=16", f"--out={tmp_path / 'alone'}"]) == 0
    alone = lit_tune.load(tmp_path / "alone")
    early, late = (lit_tune.load(tmp_path / "run", step) for step in (10, 20))
    vectors = [one.embed_texts(tasks.NAMES) for one in (alone, early, late)]
    assert all(np.array_equal(vectors[0], other) for other in vectors[1:])
    assert np.unique(vectors[0], axis=0).shape[0] == len(tasks.NAMES)
    for task in tasks.TEXT_TASKS:
        runs = [mteb.evaluate(lit_mteb.MtebModel(one), task(), cache=None, co2_tracker=False)
                for one in (alone, early, late)]  # fmt: skip
        scores = [run.task_results[0].scores for run in runs]  # with all their digits
        assert scores[0] == scores[1] == scores[2]
        assert 0 < scores[0]["test"][0]["main_score"] < 1
    names = [lit_mteb.MtebModel(one).mteb_model_meta.revision for one in (alone, early, late)]
    assert len({name.partition("text-")[2] for name in names}) == 1 and len(set(names)) == 3
    zimg = [one.embed_images(tasks.DRAWINGS) for one in (early, late)]
    assert np.abs(zimg[0] - zimg[1]).max() > 1e-3
    seen = [one_score(one, tasks.TextToImage()) for one in (early, late)]
    assert seen[0] != seen[1]


def test_a_run_on_text_vectors_from_outside_runs_tasks_of_pictures_as_its_export_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {one.metadata.name: one for one in (mock_tasks.MockImageClassificationTask(), tasks.Sts())}
    of_pictures, of_texts = known
    monkeypatch.setattr(lit_mteb, "find_tasks", lambda names: [known[name] for name in names])
    cache = make_cache(picture_folder(tmp_path / "pictures"), tmp_path / "cache")
    run, out = stored_run(tmp_path / "run", cache), tmp_path / "export"
    assert cli.main(["export", f"--workdir={run}", "--format=timm", f"--out={out}"]) == 0
    found = []
    for model in (f"--workdir={run}", f"--model={out}"):
        results = tmp_path / f"results{len(found)}"
        assert cli.main(["eval", model, f"--tasks=mteb:{of_pictures}", f"--out={results}"]) == 0
        found.append(read_results(results / FILE)[f"mteb:{of_pictures}"].metrics)
        capsys.readouterr()
        assert cli.main(["eval", model, f"--tasks=mteb:{of_texts}", f"--out={results}"]) == 2
        assert "expected a task of image, found one that needs text too" in capsys.readouterr().err
    assert found[0] == found[1] and found[0]["main_metric"] > 0
