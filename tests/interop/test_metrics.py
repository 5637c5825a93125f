"""Metrics beside those of scikit-learn and clip_benchmark, on the same random vectors."""

import numpy as np
import pytest
import torch
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
from sklearn import linear_model, metrics as sk, neighbors

from lit_tune.evals import association, classification, frozen, groups, multilabel, recall
from lit_tune.evals.zero_shot import classify
from lit_tune.integrations import clip_benchmark

pytestmark = pytest.mark.interop


def unit_rows(n, d, seed):
    """Random directions: no two scores are equal."""
    x = np.random.default_rng(seed).normal(size=(n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def near(classes, labels, seed, spread=1.0):
    """Pictures around their class vectors."""
    x = classes[labels] + spread * unit_rows(len(labels), classes.shape[1], seed)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def asked():
    """(pictures, class vectors, labels): 8 of 11 classes occur, unevenly."""
    labels = np.minimum(*np.random.default_rng(0).integers(8, size=(2, 300)))
    classes = unit_rows(11, 16, 1)
    return near(classes, labels, 2, 2.5), classes, labels


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_accuracy_and_class_mean_are_those_of_clip_benchmark_and_scikit_learn(asked):
    clip_benchmark.register()  # which lets it run on numpy 2.4
    zimg, classes, labels = asked
    found, got = classification.classified(zimg, classes, labels)
    logits = torch.from_numpy(zimg) @ torch.from_numpy(classes).T
    acc1, acc5 = zeroshot_classification.accuracy(logits, torch.from_numpy(labels), topk=(1, 5))
    assert 0.2 < acc1 < 0.9
    assert got["acc1"] == pytest.approx(acc1, abs=1e-6) and got["acc5"] == pytest.approx(acc5, abs=1e-6)
    balanced = sk.balanced_accuracy_score(labels, logits.argmax(1))
    assert got["mean_per_class_recall"] == pytest.approx(balanced, abs=1e-6)


def test_average_precision_is_that_of_clip_benchmark_and_scikit_learn():
    zimg, classes = unit_rows(200, 16, 3), unit_rows(9, 16, 4)
    right = np.random.default_rng(5).random((200, 9)) < np.linspace(0.02, 0.6, 9)
    got = multilabel.metrics(zimg, classes, right)["mean_average_precision"]
    scores = zimg @ classes.T
    peer = zeroshot_classification.average_precision_per_class(torch.from_numpy(scores), torch.from_numpy(right))
    assert got == pytest.approx(float(peer.mean()), abs=1e-6)
    assert got == pytest.approx(sk.average_precision_score(right, scores, average="macro"), abs=1e-6)
    right[:, 2] = False  # scikit-learn has no such class; clip_benchmark counts 0
    got = multilabel.metrics(zimg, classes, right)["mean_average_precision"]
    peer = zeroshot_classification.average_precision_per_class(torch.from_numpy(scores), torch.from_numpy(right))
    assert got == pytest.approx(float(peer.mean()), abs=1e-6) and peer[2] == 0


@pytest.mark.parametrize("k", [1, 5, 10])
def test_retrieval_is_that_of_clip_benchmark(k):
    zimg = unit_rows(60, 16, 6)
    owner = np.sort(np.concatenate([np.arange(60), np.random.default_rng(7).integers(60, size=90)]))
    ztxt = near(zimg, owner, 8, 2.0)
    got = recall.metrics(zimg, ztxt, owner, np.arange(150))
    scores = torch.from_numpy(ztxt) @ torch.from_numpy(zimg).T
    right = torch.from_numpy(owner[:, None] == np.arange(60))
    to_image = (zeroshot_retrieval.recall_at_k(scores, right, k) > 0).float().mean().item()
    to_text = (zeroshot_retrieval.recall_at_k(scores.T, right.T, k) > 0).float().mean().item()
    assert got[f"image_retrieval_recall@{k}"] == pytest.approx(to_image, abs=1e-6)
    assert got[f"text_retrieval_recall@{k}"] == pytest.approx(to_text, abs=1e-6)
    assert got[f"mean_recall@{k}"] == pytest.approx((to_image + to_text) / 2, abs=1e-6)


def test_nearest_neighbours_are_those_of_scikit_learn(asked):
    zimg, classes, labels = asked
    train_labels = np.tile(np.arange(8), 50)
    ztrain = near(classes, train_labels, 9, 2.5)
    model = neighbors.KNeighborsClassifier(20, metric="cosine", weights=lambda far: np.exp((1 - far) / 0.07))
    peer = (model.fit(ztrain, train_labels).predict(zimg) == labels).mean()
    assert frozen.knn(ztrain, train_labels, zimg, labels)["knn_acc1"] == pytest.approx(peer, abs=1e-6)


@pytest.mark.parametrize("classes", [2, 8])
def test_linear_probe_is_scikit_learns_regression_at_the_strength_that_it_chose(classes):
    centres = unit_rows(classes, 16, 1)
    rng = np.random.default_rng(3)
    train_labels, labels = rng.integers(classes, size=240), np.minimum(*rng.integers(classes, size=(2, 150)))
    ztrain, ztest = near(centres, train_labels, 9, 2.5), near(centres, labels, 10, 2.5)
    got = frozen.probes(["linear"], ztrain, train_labels, ztest, labels)
    model = linear_model.LogisticRegression(C=got["linear_probe_C"], max_iter=1000).fit(ztrain, train_labels)
    predicted = model.predict(ztest)
    assert got["linear_probe_acc1"] == pytest.approx((predicted == labels).mean(), abs=1e-6)
    assert 1.5 / classes < got["linear_probe_acc1"] < 1
    balanced = sk.balanced_accuracy_score(labels, predicted)
    assert got["linear_probe_mean_per_class_recall"] == pytest.approx(balanced, abs=1e-6)
    assert got["linear_probe_converged"] == 1


def test_linear_probe_chooses_the_strength_that_holds_out_best():
    centres = unit_rows(8, 16, 1)
    labels = np.random.default_rng(3).integers(8, size=240)
    z = near(centres, labels, 9, 2.5)
    got = frozen.linear(z, labels, z, labels)
    held = frozen._held_out(labels, 0)

    def right(decade):
        model = linear_model.LogisticRegression(C=10.0**decade, max_iter=1000).fit(z[~held], labels[~held])
        return (model.predict(z[held]) == labels[held]).mean()

    coarse = max((-6, -4, -2, 0, 2, 4, 6), key=right)
    assert right(np.log10(got["linear_probe_C"])) >= right(coarse)
    assert got == frozen.linear(z, labels, z, labels)  # the same draws, the same figures


def test_ranks_of_a_probe_agree_with_those_of_classes(asked):
    zimg, classes, labels = asked
    scores = zimg.astype(np.float64) @ classes.T.astype(np.float64)
    got = frozen._figures("x_", scores, labels, labels)
    peer = classification.metrics(classify(zimg, classes, labels), labels)
    assert got["x_acc1"] == peer["acc1"] and got["x_acc5"] == peer["acc5"]


def test_macro_figures_are_scikit_learns_over_the_classes_that_occur(asked):
    zimg, classes, labels = asked
    predicted = (zimg @ classes.T).argmax(1)
    assert set(predicted) - set(labels)  # classes that are only predicted, which WILDS leaves out
    got, occur = groups.macro(labels, predicted), np.unique(labels)
    f1 = sk.f1_score(labels, predicted, average="macro", labels=occur)
    assert got["F1-macro_all"] == pytest.approx(f1, abs=1e-6)
    balanced = sk.recall_score(labels, predicted, average="macro", labels=occur)
    assert got["recall-macro_all"] == pytest.approx(balanced, abs=1e-6)
    assert got["acc_avg"] == pytest.approx(sk.accuracy_score(labels, predicted), abs=1e-6)


def test_jaccard_is_scikit_learns():
    rng = np.random.default_rng(0)
    for size in (5, 6, 10, 12):
        right = rng.permutation(np.arange(size) < size // 3 + 1)
        scores = rng.random(size).astype(np.float32)
        picked = np.isin(np.arange(size), np.argsort(scores)[-right.sum() :])  # as DataComp chooses them
        got = association.jaccard(scores, right)
        assert got == pytest.approx(sk.jaccard_score(right, picked), abs=1e-6)
