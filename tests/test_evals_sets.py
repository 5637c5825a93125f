"""Evaluation sets: key names, the strict reading, floors beside scores, and the console table."""

import numpy as np
import pytest
from recall_of_ranks import retrieval

from lit_tune.errors import ConfigError
from lit_tune.evals import evaluate_set, make_set, set_floors, table

N = 24


def embed_text(texts):
    rows = [np.random.default_rng(list(text.encode())).normal(size=16) for text in texts]
    return np.stack([row / np.linalg.norm(row) for row in rows]).astype(np.float32)


def samples():
    captions = [(f"thing {i}", f"a thing numbered {i}") if i % 3 else (f"thing {i}",) for i in range(N)]
    meta = [
        {"group": f"g{i % 4}", "strict": i % 2 == 0, "label": f"thing {i}", "captions": [captions[i][0], f"no. {i}"]}
        for i in range(N)
    ]
    return captions, meta


def full_set():
    pixels = embed_text([f"pixels {i}" for i in range(N)])
    return make_set("toys", *samples(), embed_text, class_field="label", templates=("a {}",), pixels=pixels)


def vectors(noise=0.5):
    rng = np.random.default_rng(3)
    z = embed_text([f"thing {i}" for i in range(N)]) + noise * rng.normal(size=(N, 16)) / 4
    return (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)


def test_metrics_have_the_documented_names_and_are_fractions():
    metrics = evaluate_set(full_set(), vectors())
    for direction in ("image_retrieval", "text_retrieval"):
        for k in (1, 5, 10):
            for end in ("", "_chance", "_low", "_high", "_floor_pixels", "_floor_group_oracle", "_ceiling_text"):
                for name in ("toys", "toys_strict"):
                    assert 0 <= metrics.pop(f"val/{name}/{direction}_recall@{k}{end}") <= 1
    for name in ("toys", "toys_strict"):
        for key in ("top1", "top5"):
            for end in ("", "_chance", "_low", "_high", "_floor_pixels"):
                assert 0 <= metrics.pop(f"val/{name}/zeroshot/{key}{end}") <= 1
        for key in ("top1_floor_majority", *(f"mean_per_class{end}" for end in ("", "_chance", "_low", "_high"))):
            assert 0 <= metrics.pop(f"val/{name}/zeroshot/{key}") <= 1
    assert metrics == {
        "val/toys/images": N, "val/toys/captions": 40, "val/toys_strict/images": 12, "val/toys_strict/captions": 20,
    }  # fmt: skip


def test_scores_are_those_of_retrieval_and_lie_in_their_interval():
    s, z = full_set(), vectors(1.5)
    metrics = evaluate_set(s, z)
    for key, value in retrieval(z, s.ztxt, s.owner, s.caption_group).items():
        assert metrics[f"val/toys/{key}"] == value
        if not key.endswith("chance"):
            assert metrics[f"val/toys/{key}_low"] <= value <= metrics[f"val/toys/{key}_high"]


def test_strict_reading_asks_for_strict_pictures_among_all_candidates():
    s, z = full_set(), vectors(1.5)
    metrics = evaluate_set(s, z)
    scores = z[::2] @ s.ztxt.T  # (strict pictures, all captions)
    own = s.owner[None] == np.arange(0, N, 2)[:, None]
    best = np.where(own, scores, -2).max(1)
    rank = (~own & (scores >= best[:, None])).sum(1)
    assert metrics["val/toys_strict/text_retrieval_recall@5"] == np.mean(rank < 5)
    assert metrics["val/toys_strict/image_retrieval_recall@5_chance"] == pytest.approx(5 / N)


def test_floors_given_are_the_ones_reported():
    s = full_set()
    assert evaluate_set(s, vectors(), set_floors(s)) == evaluate_set(s, vectors())


def test_equal_captions_share_a_group_and_are_embedded_once():
    asked = []
    s = make_set("x", [("a", "b"), ("a",), ("c",)], [{}] * 3, lambda t: (asked.append(list(t)), embed_text(t))[1])
    assert asked == [["a", "b", "c"]]
    assert s.caption_group[0] == s.caption_group[2] != s.caption_group[1]
    assert s.owner.tolist() == [0, 0, 1, 2]
    assert s.strict is None and s.picture_group is None and s.other_wording is None and s.labels is None


def test_set_without_extras_has_scores_and_chance_only():
    s = make_set("x", [(f"{i}",) for i in range(12)], [{}] * 12, embed_text)
    metrics = evaluate_set(s, embed_text([f"{i}" for i in range(12)]))
    assert metrics["val/x/image_retrieval_recall@1"] == 1
    assert not any("floor" in key or "strict" in key or "zeroshot" in key for key in metrics)


def test_missing_class_field_is_refused_by_name():
    with pytest.raises(ConfigError, match="eval.class_field.*'label'.*sample 1"):
        make_set("x", [("a",), ("b",)], [{"label": "a"}, {"other": 1}], embed_text, class_field="label")


def test_table_is_plain_aligned_and_narrow():
    metrics = {"step": 3.0} | evaluate_set(full_set(), vectors(1.5)) | {"val/loss": 1.0}
    lines = table(metrics).split("\n")
    assert lines[0] == "toys (24 pictures, 40 captions)"
    assert lines[1].split() == "per cent score [95 % interval] chance pixels group majority text".split()
    body = [line for line in lines if " R@" in line]
    assert len(body) == 12 and len({len(line) for line in body}) == 1
    assert max(map(len, lines)) < 100 and all(line.isascii() for line in lines)
    row = next(line for line in lines if line.strip().startswith("text to image R@5"))
    assert f"{100 * metrics['val/toys/image_retrieval_recall@5']:.1f} [" in row


def test_table_of_metrics_without_rates_is_empty():
    assert table({"train/loss": 1.0}) == ""
