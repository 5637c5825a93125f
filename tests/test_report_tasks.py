"""The report's table of tasks: scores beside chance and published figures, and what does not compare says so."""

import json
import re
from html import unescape

import pytest
from test_report import EVIL, Nesting

from lit_tune.evals.catalog import SUITES, TASKS
from lit_tune.evals.results import Result
from lit_tune.evals.tables import rows as rates
from lit_tune.report import curves, page as report
from lit_tune.report.scores import scores
from lit_tune.report.tabs import blocks
from lit_tune.report.task_settings import seconds_table, settings, variants_table
from lit_tune.report.tasks_table import OTHER_SPLIT, tasks_table

PUBLISHED = {"One": {"imagenet": 0.71, "datacomp38": 0.568}, "Two": {"imagenet": 0.6834, "cifar10": 0.9},
             "Nobody here": {"mteb": 0.6}}  # fmt: skip
SOURCES = {"One": "A blog (https://example.org/a?b=1&c=2), table 1", "Two": "A card", "Nobody here": "x"}


def result(task="imagenet", samples=None, **more):
    samples = TASKS[task].size if samples is None and task in TASKS else samples
    metrics = {"acc1": 0.705, "acc1_chance": 0.001, "acc1_low": 0.7, "acc1_high": 0.71, "main_metric": 0.705}
    return Result(task, task, TASKS[task].title if task in TASKS else task, metrics, {"samples": samples}, **more)


def rows(html):
    """{title: its cells as text} of the first table."""
    table = re.search(r'<table class="tasks">.*?</table>', html, re.S)[0]
    lines = [re.findall(r"<td[^>]*>(.*?)</td>", line) for line in re.findall(r"<tr[^>]*>(.*?)</tr>", table)]
    return {cells[0]: [re.sub(r"<svg.*?</svg>", "", cell) for cell in cells[1:]] for cells in lines if cells}


def test_a_task_stands_beside_chance_and_published_figures_with_their_mark():
    html = tasks_table([result()], PUBLISHED, SOURCES)
    mark = '<sup title="settings unknown">?</sup>'
    assert rows(html) == {"ImageNet 1k": ["acc1", "70.5 <small>[70.0, 71.0]</small>", "", "0.1", f"71.0{mark}",
                                          f"68.3{mark}"]}  # fmt: skip
    assert "settings unknown" in re.sub("<sup.*?</sup>", "", html) and "Nobody here" not in html


def test_sources_are_links_that_only_a_reader_follows():
    html = tasks_table([result()], PUBLISHED, SOURCES)
    assert '<a href="https://example.org/a?b=1&amp;c=2" rel="noreferrer">https://example.org/a?b=1&amp;c=2</a>' in html
    assert "<b>Two</b>: A card" in html


def test_another_split_shows_no_published_figure():
    found = rows(tasks_table([result(samples=200), result("cifar10")], PUBLISHED, SOURCES))
    assert found["ImageNet 1k"][-1] == OTHER_SPLIT and found["CIFAR-10"][-1].startswith("90.0")
    assert "71.0" not in "".join(found["ImageNet 1k"][2:])


def test_averages_stand_first_and_compare_only_when_every_task_is_the_published_split():
    every = [result(name) for name in SUITES["datacomp38"]]
    found = rows(tasks_table(every, PUBLISHED, SOURCES, {"VTAB": 0.5, "Average": 0.55}))
    assert list(found)[:2] == ["VTAB (13 tasks)", "Average (38 tasks)"]
    assert found["Average (38 tasks)"][-2].startswith("56.8") and found["Average (38 tasks)"][1] == "55.0"
    every[0] = result(every[0].task, samples=3)
    assert rows(tasks_table(every, PUBLISHED, SOURCES, {"Average": 0.5}))["Average (38 tasks)"][-1] == OTHER_SPLIT


def test_at_most_six_systems_in_their_order_and_only_those_with_a_figure():
    many = {f"S{i}": {"imagenet" if i else "mnist": 0.1 * i} for i in range(9)}
    heads = re.findall(r'<th class="other">(.*?)</th>', tasks_table([result(), result("cifar10")], many, {}))
    assert heads == ["S1", "S2", "S3", "S4", "S5", "S6"]


def test_a_task_without_main_metric_says_so():
    metrics = {"acc_race": 0.5, "main_metric": None}
    one = Result("fairface", "fairness/fairface", "FairFace", metrics, {"samples": 10954})
    assert rows(tasks_table([one]))["FairFace"] == ["no main metric", "-", "", "-"]


@pytest.mark.parametrize("other", [{"One": {EVIL: 0.5}}, {EVIL: {EVIL: 0.5}}])
def test_names_and_sources_are_escaped_on_a_well_formed_page(tmp_path, other):
    report.write_report(tmp_path / "r.html", "t", {}, [], {}, results=[result(EVIL, samples=3)], published=other,
                        sources={EVIL: EVIL})  # fmt: skip
    page = (tmp_path / "r.html").read_text("utf-8")
    assert Nesting(page).open == [] and "<script>" not in page and page.count("</style>") == 1
    assert "&lt;script&gt;" in page


def page_of(tmp_path, *args, **more):
    report.write_report(tmp_path / "r.html", "t", {"a": 1}, *args, **more)
    return (tmp_path / "r.html").read_text("utf-8")


def test_a_tab_is_there_only_if_it_has_content(tmp_path):
    assert re.findall(r'id="tab-(\w+)"', page_of(tmp_path, [], {})) == ["overview"]
    lines = [{"step": i, "val/imagenet/zeroshot/top1": 0.1 * i} for i in (1, 2)]
    page = page_of(tmp_path, lines, {}, results=[result()])
    assert re.findall(r'id="tab-(\w+)"', page) == ["overview", "training", "tasks", "notes"]
    assert re.findall(r'<section class="panel" id="(\w+)"', page) == ["overview", "training", "tasks", "notes"]
    assert page.count('checked=""') == 1


def test_variants_show_the_main_metric_and_the_text_ceiling():
    one = result(variants={"prompt none": {"acc1": 0.6, "acc1_low": 0.59, "acc1_high": 0.61},
                           "dim 64": {"acc1": 0.25, "text_ceiling_acc1": 0.9}})  # fmt: skip
    found = re.findall(r"<tr><td>(.*?)</td>(.*?)</tr>", variants_table([one, result("cifar10")]))
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", rest) for _, rest in found]
    assert cells == [["as in the table above", "acc1", "70.5 <small>[70.0, 71.0]</small>", "-"],
                     ["prompt none", "acc1", "60.0 <small>[59.0, 61.0]</small>", "-"],
                     ["dim 64", "acc1", "25.0", "90.0 <small>acc1</small>"]]  # fmt: skip
    assert variants_table([result()]) == ""


def test_all_settings_and_figures_of_a_task_are_there_and_escaped():
    metrics = {"acc1": 0.5, "main_metric": 0.5, "chance_of": 0.25, "lost": float("nan")}
    one = Result("mine", "mine", EVIL, metrics, {"prompt": EVIL, "samples": 7, "data_sha256": "0a1b"},
                 {EVIL: {"acc1": 1.0}})  # fmt: skip
    page = settings([one]) + variants_table([one])
    assert "<script>" not in page and "0a1b" in page and "nan" not in page.lower()
    assert "<td>chance_of</td><td>25.0</td><td>-</td>" in page
    said = json.loads(unescape(re.search(r"<pre[^>]*>(.*?)</pre>", page, re.S)[1]))
    assert said == {"settings": one.settings}


def test_distances_and_counts_are_no_per_cent() -> None:
    metrics = {"acc1": 0.5, "acc1_chance": 0.1, "modality_gap": 0.4351, "modality_gap_chance": 0.01,
               "mixed_queries": 5000.0}  # fmt: skip
    html = settings([Result("own", "own", "own", metrics, {})])
    cells = [re.findall(r"<td>(.*?)</td>", line) for line in re.findall(r"<tr>(.*?)</tr>", html)]
    assert cells[1:] == [["acc1", "50.0", "10.0"], ["modality_gap", "0.4351", "0.01"], ["mixed_queries", "5000", "-"]]
    assert [row.metric for row in rates({f"val/own/{name}": value for name, value in metrics.items()})] == ["acc1"]


def test_seconds_stand_in_columns_by_what_took_them():
    page = seconds_table([result(seconds={"pictures": 1234.56, "texts": 2.0}), result("cifar10")])
    assert "<td>1,234.6</td><td>2.0</td>" in page and "CIFAR-10" not in page and "scoring" not in page


def test_small_charts_leave_out_variants_and_stop_at_twenty_four():
    names = ("imagenet", "imagenet[dim 64]", "toys_strict", *(f"t{i}" for i in range(30)))
    lines = [{"step": s} | {f"val/{name}/zeroshot/top1": s / 10 for name in names} for s in (1, 2, 3)]
    page = curves.small_multiples(lines, {})
    assert page.count("<figure>") == curves.MOST and "7 more" in page
    assert "ImageNet 1k" in page and "dim 64" not in page and "strict" not in page
    assert curves.small_multiples(lines[:1], {}) == ""


def test_main_metrics_come_before_other_curves():
    lines = [{"step": s, "val/a/zeroshot/top1": 0.5, "val/a/F1": 0.1, "val/b/zeroshot/top1": 0.1,
              "val/datacomp38/average": 0.3} for s in (1, 2)]  # fmt: skip
    titles = re.findall(r"<figcaption>(\w+) .*?>(.*?):", curves.small_multiples(lines, {"a": "F1"}))
    assert titles == [("datacomp38", "average"), ("a", "F1"), ("b", "zero-shot top1"), ("a", "zero-shot top1")]


def test_links_lead_to_each_block_where_there_are_many():
    page = blocks("map", {"a": "<p>1</p>", EVIL: "<p>2</p>", "c": "<p>3</p>", "none": ""})
    assert re.findall(r'href="#([\w-]+)"', page) == re.findall(r'class="block" id="([\w-]+)"', page)
    assert "<script>" not in page and "none" not in page and page.count("<h3>") == 3
    assert "<ul" not in blocks("map", {"a": "<p>1</p>"}) and blocks("map", {}) == ""


def test_the_overview_keeps_its_own_sets_and_a_few_tasks():
    metrics = {f"val/t{i}/zeroshot/top1": 0.5 for i in range(9)}
    metrics |= {f"{key}_chance": 0.1 for key in metrics}
    assert scores(metrics).count("<h4>") == 9 and "more under" not in scores(metrics)
    page = scores(metrics, tasks=[f"t{i}" for i in range(1, 9)])
    assert page.count("<h4>") == 6 and '3 more under <label class="link" for="tab-tasks">' in page
