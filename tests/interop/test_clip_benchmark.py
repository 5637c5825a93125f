"""clip_benchmark, the real one, on an exported folder and local webdatasets: the figures of `lit-tune eval`.

torch's vectors and ours differ by some 1e-7. Each test first measures by how much scores differ, and how near right and
wrong candidates come to each other: where that is further than scores differ, no rank can differ, and the figures have
to be equal to rounding (clip_benchmark's are float32).
"""

import json
from collections.abc import Mapping
from itertools import permutations
from pathlib import Path
from typing import Any

import evaldata_folders
import numpy as np
import pytest
import small_exports as small
import torch
from jaxtyping import Bool, Float

import lit_tune
from lit_tune import cli, exports
from lit_tune.evals.results import read_results
from lit_tune.exports import hf
from lit_tune.integrations import clip_benchmark, open_clip as lit_open_clip

pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("ignore")]  # clip_benchmark's and webdataset's own
CLASSES, TEMPLATES = ["cat", "dog", "mat", "query", "red mat", "big dogs", "the"], ["a {}", "the big {}", "{} on a mat"]
CAPTIONS = [" ".join(words) for words in permutations(("cat", "dog", "red", "big", "mat", "cats"), 3)]
COUNT = 60
KINDS = ("classification", "multilabel", "retrieval")
TASKS = dict(zip(KINDS, ("zeroshot_classification", "zeroshot_classification", "zeroshot_retrieval"), strict=True))


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two towers with noise on all weights, as `lit-tune export` writes them."""
    folder = tmp_path_factory.mktemp("export")
    given = small.source(small.vision(), small.nomic_bert(folder / "text"))
    exports.describe(given, hf.write(given, folder / "out"), folder / "out")
    return folder / "out"


def labels_of(kind: str) -> list[Any]:
    """Uneven classes, rows of several classes, or one to three captions a picture."""
    rng = np.random.default_rng(5)
    if kind == "classification":
        return [int(min(i, j)) for i, j in rng.integers(0, len(CLASSES), (COUNT, 2))]
    if kind == "multilabel":
        return list((rng.random((COUNT, len(CLASSES))) < 0.3).astype(int))
    captions = iter(rng.permutation(CAPTIONS))
    return [[str(next(captions)) for _ in range(1 + i % 3 // 2)] for i in range(COUNT)]


def write(folder: Path, kind: str, pictures: list[bytes]) -> None:
    """A clip_benchmark folder of two shards."""
    evaldata_folders.wds(folder, kind, n=COUNT, classes=len(CLASSES), pictures=pictures, labels=labels_of(kind))
    if kind != "retrieval":
        (folder / "classnames.txt").write_text("\n".join(CLASSES))
        (folder / "zeroshot_classification_templates.txt").write_text("\n".join(TEMPLATES).replace("{}", "{c}"))


def their_figures(export: Path, folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What clip_benchmark's own command line writes; the folder is called wds_toy."""
    out = folder.parent / "theirs.json"
    monkeypatch.setattr("sys.argv", [
        "clip_benchmark", "eval", "--model", f"local-dir:{export}", "--pretrained", "", "--dataset", "wds/toy",
        "--dataset_root", f"{folder.parent}/wds_{{dataset_cleaned}}", "--task", TASKS[kind], "--no_amp",
        "--num_workers", "0", "--recall_k", "1", "5", "10", "--output", str(out)])  # fmt: skip
    clip_benchmark.main()
    return json.loads(out.read_text())["metrics"]


def our_figures(export: Path, folder: Path) -> Mapping[str, float | None]:
    """What `lit-tune eval` writes of the same folder."""
    out = folder.parent / "ours"
    assert cli.main(["eval", f"--model={export}", f"--tasks=toy={folder}", f"--out={out}"]) == 0
    return read_results(out / "eval_results.jsonl")["toy"].metrics


class Theirs:
    """open_clip's vectors of the export, as clip_benchmark gets them."""

    def __init__(self, export: Path) -> None:
        self.model, self.transform, self.tokenizer = lit_open_clip.load(export)

    def embed_images(self, pictures: list[bytes]) -> Float[np.ndarray, "n d"]:
        """float32 unit rows."""
        pixels = torch.stack([self.transform(small.opened(picture)) for picture in pictures])
        return self.unit(self.model.encode_image(pixels))

    def embed_texts(self, texts: list[str]) -> Float[np.ndarray, "n d"]:
        """float32 unit rows."""
        return self.unit(self.model.encode_text(self.tokenizer(texts)))

    def unit(self, vectors: torch.Tensor) -> Float[np.ndarray, "n d"]:
        """Rows of length 1."""
        return torch.nn.functional.normalize(vectors.detach(), dim=-1).numpy()


def scores_of(model: Any, kind: str, pictures: list[bytes]) -> Float[np.ndarray, "n m"]:
    """Cosines of pictures with classes (means over the templates) or with captions."""
    if kind == "retrieval":
        ztxt = model.embed_texts([caption for captions in labels_of(kind) for caption in captions])
    else:
        means = [model.embed_texts([t.format(name) for t in TEMPLATES]).mean(0) for name in CLASSES]
        ztxt = np.stack([mean / np.linalg.norm(mean) for mean in means])
    return model.embed_images(pictures) @ ztxt.T


def right_of(kind: str) -> Bool[np.ndarray, "n m"]:
    """Which classes or captions are a picture's."""
    labels = labels_of(kind)
    if kind == "classification":
        return np.arange(len(CLASSES)) == np.array(labels)[:, None]
    if kind == "multilabel":
        return np.array(labels) > 0
    owners = np.repeat(np.arange(COUNT), [len(captions) for captions in labels])
    return owners == np.arange(COUNT)[:, None]


def gaps(scores: Float[np.ndarray, "n m"], kind: str, right: Bool[np.ndarray, "n m"]) -> Float[np.ndarray, " k"]:
    """How far right candidates are from wrong ones, wherever a figure compares the two."""
    def of_rows(scores: np.ndarray, right: np.ndarray) -> list[np.ndarray]:
        return [np.abs(row[mine][:, None] - row[~mine]).ravel() for row, mine in zip(scores, right, strict=True)]

    within = {"classification": of_rows(scores, right), "multilabel": of_rows(scores.T, right.T),
              "retrieval": of_rows(scores, right) + of_rows(scores.T, right.T)}  # fmt: skip
    return np.concatenate(within[kind])


PICTURES = {
    "PNG of the tower's size": lambda: [small.saved(small.photo(32, 32, seed=i), "PNG") for i in range(COUNT)],
    "JPEG of other sizes": lambda: [small.saved(small.photo(33 + i, 70 - i // 2, seed=100 + i), "JPEG", quality=90)
                                    for i in range(COUNT)],
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sort", PICTURES)
def test_figures_are_equal(
    export: Path, sort: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = PICTURES[sort]()
    write(tmp_path / "wds_toy", kind, pictures)
    ours, theirs = (scores_of(model, kind, pictures) for model in (lit_tune.load(export), Theirs(export)))
    difference = np.abs(ours - theirs).max()
    assert difference < 2e-6, "resizing, if any, and towers agree"
    assert gaps(ours, kind, right_of(kind)).min() > 2 * difference, "no rank can differ"
    figures = their_figures(export, tmp_path / "wds_toy", kind, monkeypatch)
    assert len(figures) == {"classification": 3, "multilabel": 1, "retrieval": 6}[kind]
    assert sum(0 < figure < 1 for figure in figures.values()) > len(figures) / 2, "figures that could differ"
    own = our_figures(export, tmp_path / "wds_toy")
    assert figures == pytest.approx({name: own[name] for name in figures}, abs=1e-6)
