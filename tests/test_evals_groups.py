"""Figures by group of pictures against hand-worked numbers and plain loops."""

import numpy as np
import pytest

from lit_tune.errors import DataError
from lit_tune.evals import groups
from lit_tune.evals.catalog import TASKS


def ask(name, labels, predicted, fields, top5=None):
    labels, predicted = np.array(labels), np.array(predicted)
    top5 = labels == predicted if top5 is None else np.array(top5)
    return groups.figures(name, labels, predicted, top5, np.array(fields), TASKS[name].fields)


def test_camelyon_counts_the_slides_that_occur():
    #            slide 20: 2 of 3            slide 21: 1 of 1  slide 23: 0 of 2
    got = ask("camelyon17", [0, 1, 1, 0, 1, 0], [0, 1, 0, 0, 0, 1],
              [[2, 20, 0], [2, 20, 1], [2, 20, 1], [2, 21, 0], [2, 23, 1], [2, 23, 0]])  # fmt: skip
    assert got.pop("acc_wg_low") == 0 and got.pop("acc_wg_high") == pytest.approx(1 - 0.025 ** (1 / 2))
    assert got == pytest.approx({"acc_avg": 0.5, "acc_slide:20": 2 / 3, "count_slide:20": 3, "acc_slide:21": 1,
                                 "count_slide:21": 1, "acc_slide:23": 0, "count_slide:23": 2, "acc_wg": 0})  # fmt: skip


def test_fmow_has_the_worst_year_and_the_worst_region_with_the_last_region_counted():
    # regions 0 (1 of 2), 3 (2 of 2), 5 (1 of 3); years 14 (2 of 3), 15 (2 of 4)
    got = ask("fmow", [4, 4, 4, 4, 4, 4, 4], [4, 0, 4, 4, 4, 0, 0],
              [[0, 14, 4], [0, 14, 4], [3, 14, 4], [3, 15, 4], [5, 15, 4], [5, 15, 4], [5, 15, 4]])  # fmt: skip
    low, high = got.pop("acc_worst_region_low"), got.pop("acc_worst_region_high")
    assert 0 <= low < 1 / 3 < high <= 1
    assert got == pytest.approx({
        "acc_avg": 4 / 7, "acc_year:14": 2 / 3, "count_year:14": 3, "acc_year:15": 2 / 4, "count_year:15": 4,
        "acc_worst_year": 0.5, "acc_region:0": 0.5, "count_region:0": 2, "acc_region:3": 1, "count_region:3": 2,
        "acc_region:5": 1 / 3, "count_region:5": 3, "acc_worst_region": 1 / 3,
    })  # fmt: skip


def test_dollar_street_looks_at_the_best_five_and_geode_at_the_best():
    fields = [[1, 900, 0], [1, 900, 0], [4, 90, 1]]
    got = ask("dollar_street", [0, 1, 2], [0, 0, 0], fields, top5=[True, False, True])
    expected = {"acc_top5_avg": 2 / 3, "acc_top5_income_ds:1": 0.5, "count_income_ds:1": 2,
                "acc_top5_income_ds:4": 1, "count_income_ds:4": 1, "acc_top5_wg": 0.5}  # fmt: skip
    assert {name: got[name] for name in expected} == pytest.approx(expected)
    assert set(got) == {*expected, "acc_top5_wg_low", "acc_top5_wg_high"}
    got = ask("geode", [0, 1, 2], [0, 0, 2], [[1, 5], [0, 6], [0, 7]], top5=[True, True, True])
    expected = {"acc_avg": 2 / 3, "acc_region:0": 0.5, "count_region:0": 2, "acc_region:1": 1, "count_region:1": 1,
                "acc_wg": 0.5}  # fmt: skip
    assert {name: got[name] for name in expected} == pytest.approx(expected)


def test_macro_figures_leave_out_classes_that_were_only_predicted():
    # class 7: 2 of 3 found, called 3 times; class 9: 0 of 1, called 0 times; class 8 only called
    got = groups.figures("iwildcam", np.array([7, 7, 7, 9]), np.array([7, 7, 8, 7]), np.ones(4, bool),
                         np.zeros((4, 9), np.int64), TASKS["iwildcam"].fields)  # fmt: skip
    assert got["acc_avg"] == 0.5
    assert got["recall-macro_all"] == pytest.approx((2 / 3 + 0) / 2)
    assert got["F1-macro_all"] == pytest.approx((2 * (2 / 3) * (2 / 3) / (4 / 3) + 0) / 2)


def test_f1_interval_equals_drawing_pictures_one_by_one():
    rng = np.random.default_rng(0)
    labels = rng.integers(5, size=200)
    predicted = np.where(rng.random(200) < 0.6, labels, rng.integers(5, size=200))
    got = groups.macro(labels, predicted)
    drawn = []
    for _ in range(1500):
        pick = rng.integers(200, size=200)
        drawn.append(plain_f1(labels[pick], predicted[pick]))
    assert got["F1-macro_all"] == pytest.approx(plain_f1(labels, predicted))
    ends = [got["F1-macro_all_low"], got["F1-macro_all_high"]]
    np.testing.assert_allclose(ends, np.quantile(drawn, (0.025, 0.975)), atol=0.012)  # three errors of such quantiles


def plain_f1(labels, predicted):
    scores = []
    for one in set(labels.tolist()):
        both = ((labels == one) & (predicted == one)).sum()
        scores.append(2 * both / ((labels == one).sum() + (predicted == one).sum()))
    return np.mean(scores)


def test_interval_of_the_worst_group_equals_drawing_pictures_within_the_groups():
    rng = np.random.default_rng(1)
    group = np.repeat([0, 1, 2], [40, 70, 25])
    hits = rng.random(135) < np.array([0.5, 0.6, 0.55])[group]
    got = groups.by_group("acc", hits, {"region": group}, "acc_wg")
    drawn = [min(rng.choice(hits[group == g], (group == g).sum()).mean() for g in range(3)) for _ in range(1500)]
    np.testing.assert_allclose([got["acc_wg_low"], got["acc_wg_high"]], np.quantile(drawn, (0.025, 0.975)), atol=0.04)


def test_interval_holds_the_figure_itself():
    group = np.repeat(np.arange(40), 10)  # the lowest of 40 equal rates lies lower in every resample
    hits = np.tile([True, False], 200)
    got = groups.by_group("acc", hits, {"region": group}, "acc_wg")
    assert got["acc_wg_low"] < 0.5 and got["acc_wg_high"] == got["acc_wg"] == 0.5
    got = groups.by_group("acc", np.ones(400, bool), {"region": group}, "acc_wg")
    assert got["acc_wg_low"] == pytest.approx(0.025 ** (1 / 10)) and got["acc_wg_high"] == 1


def test_two_fields_form_one_group_a_pair():
    fields = {"race": np.array([0, 0, 2, 2]), "gender": np.array([0, 1, 1, 1])}
    got = groups.by_group("acc_x", np.array([True, False, True, False]), fields, "acc_x_wg")
    expected = {"acc_x_avg": 0.5, "acc_x_race:0_gender:0": 1, "count_race:0_gender:0": 1, "acc_x_race:0_gender:1": 0,
                "count_race:0_gender:1": 1, "acc_x_race:2_gender:1": 0.5, "count_race:2_gender:1": 2, "acc_x_wg": 0}
    assert {name: got[name] for name in expected} == expected
    assert set(got) == {*expected, "acc_x_wg_low", "acc_x_wg_high"}


def test_tasks_without_groups_have_no_such_figures():
    none = np.zeros((2, 0), np.int64)
    assert groups.figures("cifar10", np.zeros(2, int), np.zeros(2, int), np.ones(2, bool), none, ()) == {}


@pytest.mark.parametrize("shape", [(2, 1), (3, 2)])
def test_fields_of_another_shape_are_refused(shape):
    found = rf"2 rows of 2 numbers \(region, country\), found {shape[0]} rows of {shape[1]}"
    with pytest.raises(DataError, match=found):
        groups.figures("geode", np.zeros(2, int), np.zeros(2, int), np.ones(2, bool), np.zeros(shape, int),
                       TASKS["geode"].fields)  # fmt: skip
