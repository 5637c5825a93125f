"""The report's table of tasks: scores beside chance and published figures, and what does not compare says so."""

import re

import pytest
from test_report import EVIL, Nesting

from lit_tune.evals.catalog import SUITES, TASKS
from lit_tune.evals.results import Result
from lit_tune.report import page as report
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


def test_at_most_six_systems_those_with_the_most_figures_in_their_order():
    many = {f"S{i}": {"imagenet": 0.1 * i} | ({"cifar10": 0.5} if i > 2 else {}) for i in range(9)}
    heads = re.findall(r'<th class="other">(.*?)</th>', tasks_table([result(), result("cifar10")], many, {}))
    assert heads == ["S3", "S4", "S5", "S6", "S7", "S8"]


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
