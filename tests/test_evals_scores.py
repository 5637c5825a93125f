"""Figures of whole tasks against brute force: classification, multilabel, retrieval, one index for both, widths."""

import itertools

import numpy as np
import pytest

from lit_tune.errors import ConfigError
from lit_tune.evaldata.dataset import EvalData
from lit_tune.evals import ceilings, classification, mixed, multilabel, nested, plane, recall, scoring
from lit_tune.evals.catalog import TASKS, Task
from lit_tune.evals.zero_shot import classify

WORDS = np.random.default_rng(5).normal(size=(64, 24)).astype(np.float32)
TASK = Task("mine", "", "mine", "classification", 40)


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of length one."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def embed_text(texts: list[str], prompt: str = "") -> np.ndarray:
    """A vector a text: a sum of a vector for each of its characters."""
    return unit(np.stack([WORDS[[ord(c) % 64 for c in prompt + text]].sum(0) for text in texts])).astype(np.float32)


def vectors(n: int, seed: int = 0, d: int = 24) -> np.ndarray:
    """Random unit rows."""
    return unit(np.random.default_rng(seed).normal(size=(n, d))).astype(np.float32)


class Closed(list):
    """Forty pictures that nobody opens."""

    def describe(self, i: int) -> str:
        """A name."""
        return str(i)


def data(**fields: object) -> EvalData:
    """Evaluation data with these fields; its pictures are never opened."""
    return EvalData(pictures=Closed([b""] * 40), sha256="0" * 64, where="here", **fields)


CLASSES, TEMPLATES = tuple("abcdefg"), ("a {}", "{}, drawn", "no {} here")
LABELS = np.array([i * i % 7 for i in range(40)])  # classes 3, 5 and 6 have no picture


def labelled() -> EvalData:
    """Forty pictures of seven classes."""
    return data(kind="classification", classnames=CLASSES, templates=TEMPLATES, labels=LABELS)


def class_vectors(dim: int = 24, prompt: str = "") -> np.ndarray:
    """The formula of CLIP's ensembling, a class at a time."""
    each = [unit(embed_text([t.format(name) for t in TEMPLATES], prompt)[:, :dim]).mean(0) for name in CLASSES]
    return unit(np.stack(each))


def test_classification_counts_what_stands_first_among_all_classes() -> None:
    zimg = vectors(40)
    figures = scoring.score(TASK, labelled(), zimg, embed_text).metrics
    order = np.argsort(-(zimg @ class_vectors().T), axis=1)
    hits = order[:, 0] == LABELS
    assert figures["acc1"] == hits.mean() and figures["acc5"] == (order[:, :5] == LABELS[:, None]).any(1).mean()
    recalls = [hits[LABELS == c].mean() for c in sorted(set(LABELS))]
    assert figures["mean_per_class_recall"] == pytest.approx(np.mean(recalls))
    assert figures["acc1_chance"] == pytest.approx(1 / 7) and figures["acc5_chance"] == pytest.approx(5 / 7)
    for name in ("acc1", "acc5", "mean_per_class_recall"):
        assert figures[f"{name}_low"] <= figures[name] <= figures[f"{name}_high"]


def test_fewer_than_five_classes_have_no_acc5_and_constant_vectors_score_0() -> None:
    zimg, classes = vectors(40), vectors(4, seed=1)
    assert "acc5" not in classification.metrics(classify(zimg, classes, LABELS % 4), LABELS % 4)
    same = np.repeat(zimg[:1], 40, 0)
    figures = scoring.score(TASK, labelled(), same, lambda texts: np.repeat(zimg[:1], len(texts), 0)).metrics
    assert figures["acc1"] == figures["acc5"] == figures["mean_per_class_recall"] == 0


def test_answers_say_which_class_and_by_how_much() -> None:
    zimg = vectors(40)
    answers = scoring.score(TASK, labelled(), zimg, embed_text).answers
    scores = zimg @ class_vectors().T
    np.testing.assert_array_equal(answers.predicted, scores.argmax(1))
    rest = np.where(np.eye(7, dtype=bool)[LABELS], -2, scores).max(1)
    np.testing.assert_allclose(answers.margin, scores[np.arange(40), LABELS] - rest, atol=1e-6)


def test_average_precision_is_the_mean_precision_at_each_positive() -> None:
    zimg, classes = vectors(40), vectors(6, seed=2)
    labels = np.random.default_rng(1).random((40, 6)) < 0.3
    labels[:, 5] = False  # a class without positives counts 0
    expected = []
    for c in range(6):
        ranked = labels[np.argsort(-(zimg @ classes[c])), c]
        places = np.flatnonzero(ranked)
        expected.append(np.mean([(i + 1) / (place + 1) for i, place in enumerate(places)]) if len(places) else 0.0)
    figures = multilabel.metrics(zimg, classes, labels)
    assert figures["mean_average_precision"] == pytest.approx(np.mean(expected))
    assert figures["mean_average_precision_chance"] == pytest.approx(labels.mean())
    assert figures["mean_average_precision_low"] < np.mean(expected) < figures["mean_average_precision_high"]


def test_average_precision_counts_ties_against_the_model() -> None:
    same = np.repeat(vectors(1), 4, 0)
    labels = np.array([[True], [False], [False], [True]])
    assert multilabel.metrics(same, same[:1], labels)["mean_average_precision"] == pytest.approx((1 / 3 + 2 / 4) / 2)


CAPTIONS = tuple((f"{i} one", f"{i} two") if i % 2 else (f"{i} only",) for i in range(12))


def brute_recall(zimg: np.ndarray, ztxt: np.ndarray, right: np.ndarray, k: int) -> tuple[float, float]:
    """(text to image, image to text) by sorting everything; right (n, m)."""
    scores = zimg @ ztxt.T
    to_image = [right[np.argsort(-scores[:, j])[:k], j].any() for j in range(scores.shape[1])]
    to_text = [right[i, np.argsort(-scores[i])[:k]].any() for i in range(scores.shape[0])]
    return float(np.mean(to_image)), float(np.mean(to_text))


def test_retrieval_counts_any_own_caption_both_ways() -> None:
    owner, group = recall.owners(CAPTIONS)
    zimg, ztxt = vectors(12), embed_text([t for own in CAPTIONS for t in own])
    figures = recall.metrics(zimg, ztxt, owner, group)
    right = owner[None] == np.arange(12)[:, None]
    for k in (1, 5, 10):
        to_image, to_text = brute_recall(zimg, ztxt, right, k)
        assert figures[f"image_retrieval_recall@{k}"] == to_image
        assert figures[f"text_retrieval_recall@{k}"] == to_text
        assert figures[f"mean_recall@{k}"] == pytest.approx((to_image + to_text) / 2)
        assert figures[f"mean_recall@{k}_low"] <= figures[f"mean_recall@{k}"] <= figures[f"mean_recall@{k}_high"]
    assert "equal_captions" not in figures


def test_equal_captions_are_right_for_each_other_and_the_peers_rule_stands_beside() -> None:
    captions = (*CAPTIONS[:10], ("0 only",), ("1 one", "11 own"))
    owner, group = recall.owners(captions)
    texts = [t for own in captions for t in own]
    zimg, ztxt = vectors(12), embed_text(texts)
    figures = recall.metrics(zimg, ztxt, owner, group)
    merged = np.array([[text in own for text in texts] for own in captions])
    assert figures["equal_captions"] == 4
    for k in (1, 5, 10):
        assert figures[f"text_retrieval_recall@{k}"] == brute_recall(zimg, ztxt, merged, k)[1]
        assert figures[f"image_retrieval_recall@{k}"] == brute_recall(zimg, ztxt, merged, k)[0]
        # equal captions are tied in the peer's rule, and a tie counts against us
        apart = brute_recall(zimg, ztxt, owner[None] == np.arange(12)[:, None], k)
        assert figures[f"text_retrieval_recall@{k}_unmerged"] <= apart[1]
        assert figures[f"image_retrieval_recall@{k}_unmerged"] == apart[0]


def test_one_index_counts_both_modalities_against_the_query() -> None:
    owner, group = recall.owners(CAPTIONS)
    zimg, ztxt = vectors(12, 3), unit(embed_text([t for own in CAPTIONS for t in own]) + 0.5).astype(np.float32)
    figures = mixed.metrics(zimg, ztxt, owner, group)
    assert figures["mixed_text_retrieval_recall@1_chance"] == pytest.approx(1.5 / (12 + 18 - 1))
    for suffix, z, t in (("", zimg, ztxt), ("_centred", unit(zimg - zimg.mean(0)), unit(ztxt - ztxt.mean(0)))):
        found, back = [], []
        for j in range(len(t)):  # a caption among pictures and captions of other pictures
            index = np.concatenate([z, t[owner != owner[j]]])
            best = t[j] @ z[owner[j]]
            found.append((index @ t[j] >= best).sum() - 1)
        for i in range(len(z)):  # a picture among captions and the other pictures
            own = t[owner == i] @ z[i]
            others = np.concatenate([t[owner != i] @ z[i], np.delete(z, i, 0) @ z[i]])
            back.append((others >= own.max()).sum())
        for k in (1, 5, 10):
            assert figures[f"mixed_image_retrieval_recall@{k}{suffix}"] == np.mean(np.array(found) < k)
            assert figures[f"mixed_text_retrieval_recall@{k}{suffix}"] == np.mean(np.array(back) < k)
        gap = np.linalg.norm(z.mean(0) - t.mean(0))
        assert figures[f"modality_gap{suffix}"] == pytest.approx(gap, abs=1e-5)


def test_two_modalities_apart_find_only_their_own_until_they_are_centred() -> None:
    rng = np.random.default_rng(0)
    things = rng.normal(size=(30, 24))
    shift = 8 * unit(rng.normal(size=24))
    zimg, ztxt = (unit(things + sign * shift).astype(np.float32) for sign in (1, -1))
    owner = group = np.arange(30)
    figures = mixed.metrics(zimg, ztxt, owner, group)
    assert figures["mixed_image_retrieval_recall@5"] == 0 and figures["mixed_same_modality@10"] == 1
    assert figures["mixed_image_retrieval_recall@1_centred"] > 0.9 and figures["modality_gap"] > 1
    assert figures["modality_gap_chance"] == mixed.gap_chance(zimg, ztxt) < 0.4


def test_constant_vectors_find_nothing_in_one_index() -> None:
    same = np.repeat(vectors(1), 30, 0)
    figures = mixed.metrics(same, same, np.arange(30), np.arange(30))
    assert figures["mixed_image_retrieval_recall@10"] == figures["mixed_text_retrieval_recall@10"] == 0
    assert figures["mixed_same_modality@10"] == 1


def test_widths_cut_both_towers_and_prompts_change_texts_only() -> None:
    zimg = vectors(40)
    found = nested.variants(TASK, labelled(), zimg, embed_text, {"": "q: ", "none": ""}, [8, 16])
    assert list(found) == ["prompt none", "dim 8", "dim 16"]
    for name, prompt, dim in (("prompt none", "", 24), ("dim 8", "q: ", 8), ("dim 16", "q: ", 16)):
        order = (unit(zimg[:, :dim]) @ class_vectors(dim, prompt).T).argmax(1)
        assert found[name]["acc1"] == np.mean(order == LABELS), name
    with pytest.raises(ConfigError, match="--dims.*1 to 23.*24"):
        nested.variants(TASK, labelled(), zimg, embed_text, {"": ""}, [24])


def test_the_text_ceiling_asks_each_prompt_among_classes_of_the_others() -> None:
    prompts = np.stack([embed_text([t.format(name) for t in TEMPLATES]) for name in CLASSES])  # (c, t, d)
    hits = []
    for t in range(3):
        rest = unit(np.delete(prompts, t, 1).mean(1))
        hits.append(np.mean((prompts[:, t] @ rest.T).argmax(1) == np.arange(7)))
    assert ceilings.templates(prompts)["text_ceiling_acc1"] == pytest.approx(np.mean(hits))
    assert ceilings.templates(prompts[:, :1]) == {}


def test_the_text_ceiling_of_retrieval_looks_among_first_captions() -> None:
    owner, _ = recall.owners(CAPTIONS)
    ztxt = embed_text([t for own in CAPTIONS for t in own])
    first = [int(np.flatnonzero(owner == i)[0]) for i in range(12)]
    asked = [j for j in range(len(owner)) if j not in first]
    ranks = [np.argsort(-(ztxt[first] @ ztxt[j])).tolist().index(owner[j]) for j in asked]
    assert ceilings.siblings(ztxt, owner)["text_ceiling_recall@5"] == np.mean(np.array(ranks) < 5)
    assert ceilings.siblings(ztxt[first], np.arange(12)) == {}


def test_the_predicted_class_is_a_wrong_one_where_classes_tie() -> None:
    same = np.repeat(vectors(1), 40, 0)
    answers = scoring.score(TASK, labelled(), same, lambda texts: np.repeat(same[:1], len(texts), 0)).answers
    assert (answers.predicted != LABELS).all() and (answers.margin <= 0).all()
    slides = np.stack([np.zeros(40, int), np.arange(40) % 3, LABELS], 1)
    question = data(kind="classification", classnames=CLASSES, templates=TEMPLATES, labels=LABELS, fields=slides)
    task = TASKS["camelyon17"]
    figures = scoring.score(task, question, same, lambda texts: np.repeat(same[:1], len(texts), 0)).metrics
    assert figures["acc_avg"] == figures["acc_wg"] == 0 and figures["acc_wg_chance"] == pytest.approx(1 / 7)


def test_interval_of_the_class_mean_equals_drawing_pictures_one_by_one() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(6, size=120)
    hits = rng.random(120) < np.array([0.2, 0.5, 0.9, 0.4, 0.7, 0.6])[labels]
    drawn = []
    for _ in range(2000):
        pick = rng.integers(120, size=120)
        drawn.append(np.mean([hits[pick][labels[pick] == c].mean() for c in np.unique(labels[pick])]))
    got = classification._recall_interval(hits, labels)
    np.testing.assert_allclose(got, np.quantile(drawn, (0.025, 0.975)), atol=0.015)  # three errors of such quantiles
    one_each = np.arange(50)  # one picture a class: drawn within the classes nothing would ever change
    low, high = classification._recall_interval(one_each % 2 == 0, one_each)
    assert low < 0.45 and high > 0.55
    assert classification._recall_interval(np.ones(40, bool), LABELS) == (pytest.approx(0.025 ** (1 / 40)), 1)


def test_average_precision_of_scores_that_are_not_numbers_counts_against_the_model() -> None:
    right = np.array([True, False, False, True])
    assert multilabel.ranking(np.float32([np.nan, 1, np.nan, 2]), right).tolist() == [2, 3, 1, 0]


def test_a_picture_without_a_right_class_has_a_margin_of_0() -> None:
    zimg, classes = vectors(4), vectors(3, seed=1)
    _, margin = classification.answers(zimg, classes, np.array([[True, False, False], [False] * 3] * 2))
    assert margin[1] == margin[3] == 0 != margin[0]


def test_the_gap_of_no_modalities_is_that_of_all_ways_to_cut_the_vectors() -> None:
    both = vectors(8, d=3)
    cuts = [np.isin(np.arange(8), chosen) for chosen in itertools.combinations(range(8), 3)]
    gaps = [mixed.gap(both[cut], both[~cut]) for cut in cuts]
    assert mixed.gap_chance(both[:3], both[3:]) == pytest.approx(np.sqrt(np.mean(np.square(gaps))), rel=1e-6)


def test_the_plane_is_that_of_the_singular_vectors_whatever_their_sign() -> None:
    groups = [vectors(30, 1) + 0.5, vectors(20, 2)]
    both = np.concatenate(groups).astype(np.float64)
    left, sizes, _ = np.linalg.svd(both - both.mean(0), full_matrices=False)
    found = plane.principal(groups)
    np.testing.assert_allclose(np.abs(np.concatenate(found.points)), np.abs(left[:, :2] * sizes[:2]), atol=1e-6)
    np.testing.assert_allclose(found.explained, sizes[:2] ** 2 / np.sum(sizes**2), atol=1e-9)
    assert [len(points) for points in found.points] == [30, 20]
