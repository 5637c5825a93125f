"""Zero-shot classification against the definition."""

import numpy as np
import pytest

from lit_tune.errors import ConfigError
from lit_tune.evals import classification, zero_shot


def word_vectors(texts):
    """A made-up text model: every text gets a fixed random unit vector of its own."""
    rows = [np.random.default_rng(list(text.encode())).normal(size=12) for text in texts]
    return np.stack([row / np.linalg.norm(row) for row in rows]).astype(np.float32)


def test_class_vector_is_the_renormalised_mean_over_templates():
    templates = ("a {} here", "{}", "the {}: {}")
    got = zero_shot.class_vectors(word_vectors, ["cat", "dog"], templates)
    for row, name in zip(got, ["cat", "dog"], strict=True):
        mean = word_vectors([f"a {name} here", name, f"the {name}: {name}"]).mean(0)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), rtol=1e-5)


def test_class_names_with_braces_and_percent_signs_are_kept():
    seen = []
    zero_shot.class_vectors(lambda texts: (seen.extend(texts), word_vectors(texts))[1], ["{x} 100%"], ("a {}",))
    assert seen == ["a {x} 100%"]


def test_template_without_a_place_for_the_name_is_refused():
    with pytest.raises(ConfigError, match="eval.templates"):
        zero_shot.class_vectors(word_vectors, ["cat"], ("a photo",))


def test_top1_top5_and_class_mean_equal_the_definition():
    rng = np.random.default_rng(0)
    classes = word_vectors([f"class {i}" for i in range(9)])
    labels = rng.choice([0, 1, 2, 4, 8], size=80, p=[0.5, 0.2, 0.1, 0.1, 0.1])  # some classes have no picture
    zimg = classes[labels] + rng.normal(size=(80, 12)).astype(np.float32) * 0.4
    zimg = (zimg / np.linalg.norm(zimg, axis=1, keepdims=True)).astype(np.float32)
    scores = zimg.astype(np.float64) @ classes.T.astype(np.float64)
    rank = (scores > scores[np.arange(80), labels][:, None]).sum(1)
    got = classification.metrics(zero_shot.classify(zimg, classes, labels), labels)
    assert got["acc1"] == np.mean(rank < 1)
    assert got["acc5"] == np.mean(rank < 5)
    recalls = [np.mean(rank[labels == c] < 1) for c in np.unique(labels)]
    assert got["mean_per_class_recall"] == pytest.approx(np.mean(recalls))
    assert got["acc1_chance"] == pytest.approx(1 / 9)
    assert got["acc5_chance"] == pytest.approx(5 / 9)
    assert got["acc1_floor_majority"] == np.bincount(labels).max() / 80


def test_constant_pictures_and_classes_score_zero():
    same = np.ones((20, 4), np.float32) / 2
    labels = np.arange(20) % 7
    got = classification.metrics(zero_shot.classify(same, same[:7], labels), labels)
    assert got["acc1"] == got["acc5"] == got["mean_per_class_recall"] == 0


def test_label_out_of_range_is_refused():
    eye = np.eye(3, dtype=np.float32)
    with pytest.raises(ValueError, match="labels"):
        zero_shot.classify(eye, eye, np.array([0, 1, 3]))
