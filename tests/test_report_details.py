"""What the page stores of a task: mistakes, confusions, ranks and the map of hand-made vectors, in bounded size."""

import json

import numpy as np
from shown_tasks import AXES, SEEN, THINGS, TRUE, Drawn, captioned, classes, collected

from lit_tune.evaldata.dataset import EvalData
from lit_tune.report.details import collect


def test_worst_mistakes_come_by_margin_with_both_names_and_scores():
    data = classes(TRUE, ("cat", "dog", "cow"))
    mistakes = collected(data, SEEN, AXES)["mistakes"]
    assert mistakes["count"] == 3
    told = [(m["own"], m["predicted"], m["own_score"], m["predicted_score"]) for m in mistakes["worst"]]
    assert told[0] == (["dog"], "cow", 0.28, 0.96)
    assert sorted(told[1:]) == [(["cat"], "dog", 0.6, 0.8), (["cow"], "cat", 0.6, 0.8)]
    assert all(m["picture"].startswith("data:image/jpeg;base64,") for m in mistakes["worst"])
    assert sorted(set(data.pictures.opened)) == [1, 3, 5]  # no other picture is opened


def test_random_mistakes_depend_on_the_seed_alone():
    labels, zimg = [0] * 40, np.random.default_rng(0).normal(size=(40, 3))
    zimg[:, 0] = -9  # all of them wrong
    first, again, other = (collected(classes(labels, "abc"), zimg, AXES, s)["mistakes"] for s in (1, 1, 2))
    assert first == again and first["random"] != other["random"]
    assert first["worst"] == other["worst"] and (len(first["worst"]), len(first["random"])) == (24, 12)


def test_confusions_are_counted_with_their_share_and_recall():
    data = classes([0, 0, 0, 0, 1, 1, 2], ("cat", "dog", "cow"))
    found = collected(data, AXES[[0, 1, 1, 2, 1, 0, 2]], AXES)["confusion"]
    assert found["pairs"] == [["cat", "dog", 2, 0.5], ["cat", "cow", 1, 0.25], ["dog", "cat", 1, 0.5]]
    assert found["matrix"] == {"names": ["cat", "dog", "cow"], "counts": [[1, 2, 1], [1, 1, 0], [0, 0, 1]]}
    assert found["recall"] == [["cat", 0.25, 4], ["dog", 0.5, 2], ["cow", 1.0, 1]]


def test_a_class_without_pictures_has_no_recall():
    found = collected(classes([0, 1], ("cat", "dog", "cow")), AXES[[0, 1]], AXES)["confusion"]
    assert found["recall"] == [["cat", 1.0, 1], ["dog", 1.0, 1]] and found["pairs"] == []


def test_several_labels_are_right_if_any_of_them_comes_first():
    labels = np.array([[1, 1, 0], [0, 1, 1], [0, 0, 0]], bool)
    shown = collected(classes(labels, ("cat", "dog", "cow")), AXES[[1, 0, 2]], AXES)
    (mistake,) = shown["mistakes"]["worst"]
    assert (mistake["own"], mistake["predicted"]) == (["dog", "cow"], "cat")
    assert shown["mistakes"]["count"] == 1 and "confusion" not in shown  # a picture without a class asks nothing


def test_constant_vectors_are_all_mistakes_since_ties_count_against_the_model():
    one = np.tile(AXES[:1], (4, 1))
    shown = collected(classes([0, 1, 2, 0], ("cat", "dog", "cow")), one, one[:3])
    assert shown["mistakes"]["count"] == 4
    assert all(m["predicted"] not in m["own"] for m in shown["mistakes"]["worst"])
    assert shown["confusion"]["recall"][0] == ["cat", 0.0, 2]
    assert np.trace(shown["confusion"]["matrix"]["counts"]) == 0


def test_a_set_without_mistakes_opens_no_picture():
    data = classes([0, 1, 2], ("cat", "dog", "cow"))
    assert collected(data, AXES, AXES)["mistakes"] == {"count": 0, "worst": [], "random": []}
    assert data.pictures.opened == []


def test_vectors_that_are_not_numbers_stay_json():
    zimg = SEEN.copy()
    zimg[0] = np.nan
    shown = collected(classes(TRUE, ("cat", "dog", "cow")), zimg, AXES)
    assert shown["mistakes"]["worst"][0]["own_score"] is None and json.dumps(shown, allow_nan=False)


def test_a_large_set_of_busy_pictures_stays_within_its_size():
    rng = np.random.default_rng(0)
    zimg, ztxt = (rng.normal(size=(n, 64)).astype(np.float32) for n in (50_000, 1000))
    data = classes(rng.integers(0, 1000, 50_000), [f"class {i} " * 60 for i in range(1000)], side=200, noise=True)
    shown = collected(data, zimg, ztxt)
    assert len(json.dumps(shown)) < 1_500_000
    assert (len(shown["mistakes"]["worst"]), len(shown["mistakes"]["random"])) == (24, 12)
    assert (len(shown["confusion"]["pairs"]), len(shown["confusion"]["recall"])) == (30, 20)
    assert shown["confusion"]["matrix"] is None and len(set(data.pictures.opened)) <= 36


def test_a_kind_without_answers_stores_its_name_alone():
    data = EvalData("association", Drawn(3), "0" * 64, "here")
    assert collect("game", data, np.eye(3, dtype=np.float32), None, data.pictures.__getitem__, 0) == {
        "task": "game", "kind": "association", "samples": 3}




def test_captions_whose_picture_ranks_worst_come_first():
    data = captioned([("a cat", "tom"), ("a dog",), ("a cow",), ("a hen",)])
    ztxt = np.array([[1, 0, 0, 0], [0.1, 0.5, 0.4, 0.3], [0, 1, 0, 0], [0.1, 0.3, 0.2, 0.9], [0, 0, 0, 1]])
    mistakes = collected(data, THINGS, ztxt)["mistakes"]
    told = [(m["caption"], m["rank"], m["of"]) for m in mistakes["worst"]]
    assert told == [("tom", 4, 4), ("a cow", 3, 4)] and (mistakes["count"], mistakes["texts"]) == (2, 5)
    answers = [(a["caption"], a["score"], a["right"]) for a in mistakes["worst"][1]["found"]]
    assert answers == [("a hen", 0.9, False), ("a dog", 0.3, False), ("a cow", 0.2, True), ("a cat", 0.1, False)]


def test_equal_captions_are_right_for_each_others_pictures_and_shown_once():
    data = captioned([("a cat",), ("a cat",), ("a dog",), ("a hen",)])
    right = collected(data, THINGS, THINGS[[1, 0, 2, 3]])
    assert right["mistakes"]["count"] == 0
    wrong = collected(data, THINGS, THINGS[[2, 3, 2, 3]])["mistakes"]
    assert [m["caption"] for m in wrong["worst"]] == ["a cat"] and wrong["count"] == 1


def test_queries_of_the_grid_do_not_depend_on_what_is_found():
    data = captioned([(f"thing {i}",) for i in range(30)])
    z = np.random.default_rng(0).normal(size=(30, 8))
    one, two = (collected(data, vectors, z)["grid"] for vectors in (z, z[::-1].copy()))
    for direction in ("texts", "pictures"):
        assert [e["text"] for e in one[direction]] == [e["text"] for e in two[direction]]
        assert len(one[direction]) == 6 and all(len(e["found"]) == 5 for e in one[direction])
    unit = z / np.linalg.norm(z, axis=1)[:, None]
    assert all(e["found"][0]["right"] for e in collected(data, unit, unit)["grid"]["texts"])


def test_map_finds_the_two_directions_of_largest_spread_and_the_gap():
    zimg = np.array([[3, 1, 0.5], [-3, 1, 0.5], [3, -1, 0.5], [-3, -1, 0.5]])
    ztxt = zimg - [0, 0, 1]
    shown = collected(captioned([(f"thing {i}",) for i in range(4)]), zimg, ztxt)["map"]
    # by hand: squares sum to 72, 8 and 2 along the axes
    assert shown["raw"]["gap"] == 1.0 and shown["raw"]["explained"] == [round(72 / 82, 6), round(8 / 82, 6)]
    assert shown["raw"]["pictures"] == shown["raw"]["texts"] == [[3, 1], [-3, 1], [3, -1], [-3, -1]]
    assert shown["centred"]["explained"] == [0.9, 0.1] and shown["centred"]["gap"] == 0
    assert sorted((i, j, text) for i, j, text in shown["pairs"]) == [(i, i, f"thing {i}") for i in range(4)]


def test_map_agrees_with_singular_values_and_centring_brings_the_centroids_together():
    rng = np.random.default_rng(0)
    zimg, ztxt = rng.normal(size=(50, 6)) + [1, 0, 0, 0, 0, 0], rng.normal(size=(20, 6))
    shown = collected(classes(rng.integers(0, 20, 50), map(str, range(20))), zimg, ztxt)["map"]
    both = np.concatenate([zimg, ztxt])
    squares = np.linalg.svd(both - both.mean(0), compute_uv=False) ** 2
    np.testing.assert_allclose(shown["raw"]["explained"], squares[:2] / squares.sum(), atol=1e-4)
    np.testing.assert_allclose(shown["raw"]["gap"], np.linalg.norm(zimg.mean(0) - ztxt.mean(0)), atol=1e-4)
    assert np.abs(shown["centred"]["centres"]).max() < 1e-4 < np.abs(shown["raw"]["centres"]).max()


def test_a_vector_that_is_no_number_leaves_the_other_points_of_the_map_where_they_are():
    zimg = np.random.default_rng(0).normal(size=(30, 6))
    zimg[-1] = np.nan
    names = list(map(str, range(6)))
    broken = collected(classes(np.arange(30) % 6, names), zimg, np.eye(6))["map"]["centred"]
    parts = [zimg[:-1] - zimg[:-1].mean(0), np.zeros((1, 6)), np.eye(6) - np.eye(6).mean(0)]
    squares = np.linalg.svd(np.concatenate(parts), compute_uv=False) ** 2
    np.testing.assert_allclose(broken["explained"], squares[:2] / squares.sum(), atol=1e-4)
    assert np.all(np.any(broken["pictures"][:-1], axis=1)) and broken["pictures"][-1] == [0, 0]


def test_map_of_constant_vectors_explains_nothing():
    shown = collected(classes([0, 1, 2], "abc"), np.tile(AXES[:1], (3, 1)), np.tile(AXES[:1], (3, 1)))["map"]
    assert shown["raw"]["explained"] == [0, 0] and not np.any(shown["raw"]["pictures"]) and shown["raw"]["gap"] == 0


def test_a_large_set_of_captions_stays_within_its_size_and_its_map_keeps_pairs():
    rng = np.random.default_rng(0)
    zimg, ztxt = (rng.normal(size=(n, 16)).astype(np.float32) for n in (3000, 9000))
    data = captioned([tuple(f"thing {i} {j} " * 40 for j in range(3)) for i in range(3000)], side=200, noise=True)
    shown = collected(data, zimg, ztxt)
    assert len(json.dumps(shown)) < 1_500_000 and len(shown["mistakes"]["worst"]) == 16
    points = shown["map"]["raw"]
    assert len(points["pictures"]) == len(points["texts"]) == 1500 and len(shown["map"]["pairs"]) == 40
    assert len(set(data.pictures.opened)) <= 132
