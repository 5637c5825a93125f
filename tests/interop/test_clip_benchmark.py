"""clip_benchmark, the real one, on an exported folder and a local webdataset: our scores."""

import json
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import small_exports as small

from lit_tune.evals import retrieval, zero_shot
from lit_tune.exports import hf
from lit_tune.integrations import clip_benchmark

pytestmark = pytest.mark.interop
CAPTIONS = ["a cat", "a dog", "red cats", "red dogs", "big cats", "big dogs", "the red mat", "the big mat",
            "a cat on the mat", "a dog on the mat", "big red cats", "big red dogs on a mat"]  # fmt: skip
CLASSES, TEMPLATES = ["cat", "dog", "mat", "query", "red mat"], ["a {c}", "the big {c}"]


def write_webdataset(root: Path, task: str) -> list[bytes]:
    """clip_benchmark's layout with 48 pictures; their bytes in order."""
    pictures = [small.saved(small.photo(33 + i, 61 - i, seed=i), "PNG") for i in range(48)]
    (root / "test").mkdir(parents=True)
    with tarfile.open(root / "test" / "0.tar", "w") as tar:
        for i, picture in enumerate(pictures):
            label = ("cls", str(i % 5)) if task == "zeroshot_classification" else (
                "txt", f"{CAPTIONS[i % 12]} {CAPTIONS[(i // 12) * 3]}")
            for suffix, data in (("png", picture), (label[0], label[1].encode())):
                info = tarfile.TarInfo(f"{i:03}.{suffix}")
                info.size = len(data)
                tar.addfile(info, BytesIO(data))
    (root / "test" / "nshards.txt").write_text("1")
    (root / "classnames.txt").write_text("\n".join(CLASSES))
    (root / "zeroshot_classification_templates.txt").write_text("\n".join(TEMPLATES))
    if task == "zeroshot_retrieval":
        (root / "dataset_type.txt").write_text("retrieval")
    return pictures


@pytest.mark.filterwarnings("ignore")  # clip_benchmark's and webdataset's own
@pytest.mark.parametrize("task", ["zeroshot_classification", "zeroshot_retrieval"])
def test_clip_benchmark_gives_our_scores(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = small.source(small.vision(), small.nomic_bert(tmp_path / "text"))
    hf.write(given, tmp_path / "out")
    pictures = write_webdataset(tmp_path / "data" / "wds_toy", task)
    words = ["clip_benchmark", "eval", "--model", f"local-dir:{tmp_path / 'out'}", "--pretrained", "", "--dataset",
             "wds/toy", "--dataset_root", f"{tmp_path}/data/wds_{{dataset_cleaned}}", "--task", task, "--no_amp",
             "--num_workers", "0", "--recall_k", "1", "5", "10", "--output", str(tmp_path / "scores.json")]  # fmt: skip
    monkeypatch.setattr("sys.argv", words)
    clip_benchmark.main()
    theirs = json.loads((tmp_path / "scores.json").read_text())["metrics"]
    ours = small.model(given)
    zimg = ours.embed_images(pictures)
    if task == "zeroshot_classification":
        classes = zero_shot.class_vectors(ours.embed_texts, CLASSES, [t.replace("{c}", "{}") for t in TEMPLATES])
        scores = zero_shot.zero_shot(zimg, classes, np.arange(48) % 5)
        wanted = {"acc1": scores["top1"], "acc5": scores["top5"], "mean_per_class_recall": scores["mean_per_class"]}
    else:
        texts = [f"{CAPTIONS[i % 12]} {CAPTIONS[(i // 12) * 3]}" for i in range(48)]
        assert len(set(texts)) == 48
        scores = retrieval.retrieval(zimg, ours.embed_texts(texts), np.arange(48), np.arange(48))
        wanted = {name: scores[name] for name in theirs}
        assert len(wanted) == 6
    assert theirs == pytest.approx(wanted, abs=1e-3)
    assert sum(0 < score < 1 for score in wanted.values()) > len(wanted) // 2, "scores that could differ"
