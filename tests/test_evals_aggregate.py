"""DataComp's averages: they come out of a public result table, and a group that is not whole has none."""

import csv
from pathlib import Path

import numpy as np
import pytest

from lit_tune.errors import ConfigError
from lit_tune.evals import aggregate as agg
from lit_tune.evals.catalog import SUITES, TASKS
from lit_tune.evals.published import names, published
from lit_tune.evals.results import Result, read_results, write_results

# Five rows of docs/openclip_results.csv of github.com/mlfoundations/open_clip, commit 0a1cc150 (MIT)
TABLE = list(csv.DictReader((Path(__file__).parent / "golden" / "openclip_results.csv").read_text().splitlines()))
AVERAGE = "Average perf. on 38 datasets"
# The members as aggregate_scores.py of mlfoundations/datacomp lists them
SHIFTS = ["ImageNet Sketch", "ImageNet v2", "ImageNet-A", "ImageNet-O", "ImageNet-R", "ObjectNet"]
VTAB = ["Caltech-101", "CIFAR-100", "CLEVR Counts", "CLEVR Distance", "Describable Textures", "EuroSAT",
        "KITTI Vehicle Distance", "Oxford Flowers-102", "Oxford-IIIT Pet", "PatchCamelyon", "RESISC45", "SVHN",
        "SUN397"]  # fmt: skip
RETRIEVAL = ["Flickr", "MSCOCO", "WinoGAViL"]


def results(row):
    by_title = {task.title: task for task in TASKS.values()}
    tasks = {by_title[title]: float(value) for title, value in row.items() if title in by_title}
    return {t.name: Result(t.name, t.key, t.title, {"main_metric": value}) for t, value in tasks.items()}


def row_name(row):
    return f"{row['name']}-{row['pretrained']}"


@pytest.mark.parametrize("row", TABLE, ids=row_name)
def test_average_of_a_public_table_comes_out_of_its_38_columns(row):
    found = agg.aggregate(results(row))
    assert len(results(row)) == 38
    assert found["Average"] == pytest.approx(float(row[AVERAGE]), abs=5e-5)  # the columns have 4 digits


@pytest.mark.parametrize("row", TABLE, ids=row_name)
def test_groups_are_the_means_of_the_tasks_that_datacomp_lists(row):
    found = agg.aggregate(results(row))
    assert list(found) == ["ImageNet", "ImageNet dist. shifts", "VTAB", "Retrieval", "Average"]
    assert found["ImageNet"] == float(row["ImageNet 1k"])
    for group, titles in [("ImageNet dist. shifts", SHIFTS), ("VTAB", VTAB), ("Retrieval", RETRIEVAL)]:
        assert found[group] == pytest.approx(np.mean([float(row[title]) for title in titles]), abs=1e-12)


def test_a_group_that_lacks_a_task_has_no_average_and_is_named():
    every = results(TABLE[0])
    fewer = {name: result for name, result in every.items() if name not in ("svhn", "coco")}
    assert set(agg.aggregate(fewer)) == {"ImageNet", "ImageNet dist. shifts"}
    assert agg.missing(fewer) == {"VTAB": ("svhn",), "Retrieval": ("coco",), "Average": ("svhn", "coco")}
    assert agg.missing(every) == {} and set(agg.missing({})) == set(agg.MEMBERS) and agg.aggregate({}) == {}


def test_a_main_metric_that_is_null_or_not_a_number_counts_as_missing():
    for value in (None, float("nan")):
        every = results(TABLE[0]) | {"svhn": Result("svhn", "vtab/svhn", "SVHN", {"main_metric": value})}
        assert "VTAB" not in agg.aggregate(every) and agg.missing(every)["VTAB"] == ("svhn",)


def test_tasks_that_are_not_among_the_38_change_no_average():
    every = results(TABLE[0])
    more = every | {"fairface": Result("fairface", "fairness/fairface", "FairFace", {"acc": 0.1, "main_metric": None}),
                    "mine": Result("mine", "mine", "mine", {"main_metric": 0.0})}  # fmt: skip
    assert agg.aggregate(more) == agg.aggregate(every)


def test_names_in_metrics_files():
    every = results(TABLE[0])
    found = agg.val_aggregates(every)
    assert set(found) == {f"val/datacomp38/{key}" for key in
                          ("imagenet", "imagenet_dist_shifts", "vtab", "retrieval", "average")}  # fmt: skip
    assert found["val/datacomp38/average"] == agg.aggregate(every)["Average"]


def test_the_main_metric_comes_with_its_interval_under_its_own_name():
    known = Result("caltech101", "vtab/caltech101", "Caltech-101", {
        "acc1": 0.5, "acc1_low": 0.4, "mean_per_class_recall": 0.6, "mean_per_class_recall_low": 0.55,
        "mean_per_class_recall_high": 0.65, "main_metric": 0.6})  # fmt: skip
    assert agg.main(known) == agg.Main("mean_per_class_recall", 0.6, 0.55, 0.65)
    own = Result("mine", "mine", "mine", {"acc5": 0.9, "acc1": 0.5, "acc1_low": 0.4, "acc1_high": 0.6,
                                          "main_metric": 0.5})  # fmt: skip
    assert agg.main(own) == agg.Main("acc1", 0.5, 0.4, 0.6)
    assert agg.main(Result("mine", "mine", "mine", {"acc1": 0.5})) is None


def test_averages_survive_the_results_file(tmp_path):
    every = results(TABLE[1])
    write_results(tmp_path / "eval_results.jsonl", every.values())
    assert agg.aggregate(read_results(tmp_path / "eval_results.jsonl")) == agg.aggregate(every)


@pytest.mark.parametrize("name", names())
def test_published_figures_are_fractions_of_known_tasks_with_a_source(name):
    system = published(name)
    assert system.name == name and set(system.figures) <= {*TASKS, "datacomp38", "mteb"}
    for figure in system.figures.values():
        assert 0 <= figure.value <= 1 and figure.source.address.startswith("https://") and figure.source.table
    if set(SUITES["datacomp38"]) <= set(system.figures):
        mean = np.mean([system.figures[task].value for task in SUITES["datacomp38"]])
        assert system.figures["datacomp38"].value == pytest.approx(mean, abs=1e-4)


def test_published_figures_are_those_of_the_paper_and_the_table():
    for name, expected in {"nomic-embed-vision-v1": (0.707, 0.567, 0.6239),
                           "nomic-embed-vision-v1.5": (0.710, 0.568, 0.6228),
                           "jina-clip-v1": (0.5908, 0.522, 0.6012),
                           "openai-clip-b16": (0.6834, 0.5626, 0.4382)}.items():  # fmt: skip
        figures = published(name).figures
        found = [figures[task].value for task in ("imagenet", "datacomp38", "mteb")]
        assert found == pytest.approx(expected, abs=5e-5)
    row = next(row for row in TABLE if row_name(row) == "EVA02-B-16-merged2b_s8b_b131k")
    figures = published("eva02-clip-b16").figures
    assert {name: figures[name].value for name in SUITES["datacomp38"]} == {
        name: float(row[TASKS[name].title]) for name in SUITES["datacomp38"]}  # fmt: skip


def test_the_table_and_the_card_of_jina_clip_measure_retrieval_alike():
    # ViT-B-16 in the card: image R@1 0.6216 and 0.3309, text R@1 0.822 and 0.5242
    figures = published("openai-clip-b16").figures
    assert figures["flickr30k"].value == pytest.approx((0.6216 + 0.822) / 2, abs=5.1e-5)
    assert figures["coco"].value == pytest.approx((0.3309 + 0.5242) / 2, abs=5.1e-5)


def test_a_name_without_recorded_figures_is_refused_with_those_that_have():
    with pytest.raises(ConfigError, match="openai-clip-b16.*'clip'"):
        published("clip")
