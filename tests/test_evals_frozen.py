"""Nearest neighbours against the formula, a vote at a time; what cannot be probed is one line."""

import sys

import numpy as np
import pytest

from lit_tune.errors import ConfigError
from lit_tune.evals import frozen


def clusters(n, seed, classes=6, d=10, spread=0.9):
    """(unit rows, labels) around one direction a class."""
    centres = np.random.default_rng(0).normal(size=(classes, d))
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(classes, size=n - classes)])
    z = centres[labels] + spread * rng.normal(size=(n, d))
    return (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32), labels


def plain_votes(ztrain, train_labels, z, classes):
    """Votes of the 20 nearest for one picture."""
    cosine = ztrain.astype(np.float64) @ z.astype(np.float64)
    votes = np.zeros(classes)
    for i in np.argsort(-cosine)[:20]:
        votes[train_labels[i]] += np.exp(cosine[i] / 0.07)
    return votes


@pytest.mark.parametrize("tile", [(1024, 8192), (7, 11)])
def test_nearest_neighbours_vote_with_the_weights_of_dino(tile, monkeypatch):
    monkeypatch.setattr(frozen, "ROWS", tile[0])
    monkeypatch.setattr(frozen, "COLUMNS", tile[1])
    ztrain, train_labels = clusters(150, 1)
    ztest, labels = clusters(60, 2)
    got = frozen.probes(["knn"], ztrain, train_labels, ztest, labels)
    votes = np.stack([plain_votes(ztrain, train_labels, z, 6) for z in ztest])
    order = np.argsort(-votes, axis=1)
    hits = order[:, 0] == labels
    assert 0.3 < hits.mean() < 0.95
    assert got["knn_acc1"] == hits.mean()
    # a class without a vote is not right, wherever it stands
    five = (order[:, :5] == labels[:, None]).any(1) & (votes[np.arange(60), labels] > 0)
    assert got["knn_acc5"] == five.mean()
    assert got["knn_mean_per_class_recall"] == pytest.approx(np.mean([hits[labels == c].mean() for c in range(6)]))
    assert got["knn_acc1_chance"] == pytest.approx(1 / 6) and got["knn_acc1_low"] < got["knn_acc1"]


def test_constant_vectors_score_0():
    same = np.ones((100, 4), np.float32) / 2
    labels = np.arange(100) % 4
    assert frozen.probes(["knn"], same, labels, same[:20], labels[:20])["knn_acc1"] == 0


def test_classes_that_were_not_trained_are_never_right():
    ztrain, train_labels = clusters(60, 1, classes=3)
    got = frozen.probes(["knn"], ztrain, train_labels, ztrain, np.where(train_labels == 2, 3, train_labels))
    kept = np.mean(train_labels < 2)
    assert 0 < got["knn_acc1"] <= kept
    assert got["knn_acc1_chance"] == pytest.approx(kept / 3)


def test_held_out_pictures_are_a_fifth_of_every_class_and_the_same_for_a_seed():
    labels = np.repeat([0, 1, 2, 3], [25, 10, 2, 1])
    held = frozen._held_out(labels, 0)
    assert np.bincount(labels[held], minlength=4).tolist() == [5, 2, 1, 0]
    np.testing.assert_array_equal(held, frozen._held_out(labels, 0))
    assert (held != frozen._held_out(labels, 1)).any()


@pytest.mark.parametrize("labels", [None, np.zeros((4, 2), bool)])
def test_data_without_one_class_a_picture_is_refused(labels):
    z = np.eye(4, dtype=np.float32)
    with pytest.raises(ConfigError, match="--probes: expected data with one class a picture"):
        frozen.probes(["knn"], z, labels, z, labels)
    with pytest.raises(ConfigError, match="found retrieval"):
        frozen.check(["knn"], "retrieval")
    frozen.check([], "retrieval")


def test_a_missing_scikit_learn_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(ConfigError, match=r"pip install 'lit_tune\[eval\]'"):
        frozen.check(["linear"], "classification")
