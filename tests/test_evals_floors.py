"""Floors: what pixels, groups and other wordings reach without a model."""

import numpy as np
import pytest

from lit_tune.evals import floors


def unit_rows(rng, n, d):
    x = rng.normal(size=(n, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_thumbnail_is_the_mean_of_each_area():
    picture = np.random.default_rng(0).integers(256, size=(32, 48, 3), dtype=np.uint8)
    means = picture.reshape(8, 4, 8, 6, 3).mean((1, 3)) / 255  # areas of 4 x 6 pixels
    got = floors.thumbnails([picture])[0].reshape(8, 8, 3)
    np.testing.assert_allclose(got, means, atol=1 / 255)  # the file's pixels are whole numbers


@pytest.mark.parametrize("neighbours", [1, 4])
def test_pixel_vectors_weigh_the_nearest_by_rank(neighbours):
    rng = np.random.default_rng(1)
    thumbs, train = rng.random((300, 12), np.float32), rng.random((83, 12), np.float32)
    ztxt = unit_rows(rng, 83, 6)
    distance = ((thumbs[:, None] - train[None]) ** 2).sum(-1)
    nearest = np.argsort(distance, 1)[:, :neighbours]
    mean = sum(ztxt[nearest[:, r]] / (r + 1) for r in range(neighbours))
    got = floors.pixel_vectors(thumbs, train, ztxt, neighbours)
    np.testing.assert_allclose(got, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-6)


def test_pixel_floor_without_enough_training_pictures_is_refused():
    few = np.ones((3, 12), np.float32)
    with pytest.raises(ValueError, match="pixel floor"):
        floors.pixel_vectors(few, few, np.ones((3, 6), np.float32), 20)


def test_group_oracle_equals_guessing_within_the_group():
    rng = np.random.default_rng(0)
    group = np.repeat([4, 9, 2], [3, 12, 25])
    names = np.arange(40)
    to_image, to_text = floors.group_oracle(group, names, names)
    for k in (1, 5, 10):
        exact = np.minimum(k / np.repeat([3, 12, 25], [3, 12, 25]), 1)
        np.testing.assert_allclose(to_image.expected(k), exact)
        np.testing.assert_allclose(to_text.expected(k), exact)
    shuffled = np.argsort(rng.random((4000, 40)) - 10 * (group == 9), axis=1)  # the group of picture 5 first
    assert (shuffled[:, :5] == 5).any(1).mean() == pytest.approx(to_image.expected(5)[5], abs=0.03)


def test_group_oracle_counts_equal_captions_as_right():
    group = np.zeros(6, int)
    names = np.array([0, 0, 0, 1, 2, 3])  # three of six pictures share one caption
    to_image, _ = floors.group_oracle(group, np.arange(6), names)
    np.testing.assert_allclose(to_image.expected(1), [0.5, 0.5, 0.5, 1 / 6, 1 / 6, 1 / 6])


def test_text_ceiling_is_one_for_wordings_that_say_the_same():
    rng = np.random.default_rng(0)
    ztxt = unit_rows(rng, 30, 16)
    owner = rng.permutation(30)
    other = np.empty_like(ztxt)
    other[owner] = ztxt + 0.01 * unit_rows(rng, 30, 16)
    to_image, to_text = floors.text_ceiling(other, ztxt, owner, np.arange(30))
    assert to_image.expected(1).mean() == to_text.expected(1).mean() == 1


def test_floors_take_ties_in_random_order_and_not_against_themselves():
    ztxt = unit_rows(np.random.default_rng(0), 10, 4)
    same = np.repeat(ztxt[:1], 10, 0)  # all ten pictures have one nearest training picture
    to_image, _ = floors.pixels(same, ztxt, np.arange(10), np.arange(10))
    np.testing.assert_allclose(to_image.expected(1), 0.1)
    assert to_image.hits(1).sum() == 0


def test_nearest_scores_order_captions_by_the_likest_thumbnail_that_carries_them() -> None:
    rng = np.random.default_rng(3)
    train, test = rng.random((40, 192), np.float32), rng.random((7, 192), np.float32)
    words = [f"word {i % 9}" for i in range(40)]
    captions = sorted({*words[:7], "never drawn"})
    scores = floors.nearest_scores(test, train, words, captions)
    for i, j in np.ndindex(scores.shape):
        near = [((train[k] - test[i]) ** 2).sum() for k in range(40) if words[k] == captions[j]]
        assert scores[i, j] == pytest.approx(-min(near) if near else floors.UNSEEN, rel=1e-5)
    owner, group = np.arange(7), np.array([0, 1, 2, 3, 4, 5, 6])
    _, to_text = floors.by_scores(scores[:, :7], owner, group)
    ranks = [(scores[i, :7] > scores[i, i]).sum() for i in range(7)]
    np.testing.assert_array_equal(to_text.hits(3), np.array(ranks) < 3)
