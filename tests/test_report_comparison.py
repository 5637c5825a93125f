"""The page of a comparison: well formed, loads nothing, escapes what it shows, marks what was not measured alike."""

import re

import pytest
from compared_systems import ours, result, write_model, write_run
from test_report import EVIL, Nesting

from lit_tune.evals.compare import compare, read_systems
from lit_tune.evals.results import Result
from lit_tune.evals.systems import System
from lit_tune.report import bars
from lit_tune.report.comparison import write_comparison

PUBLISHED = ["published:nomic-embed-vision-v1.5", "published:openai-clip-b16"]


def page_of(tmp_path, systems):
    path = tmp_path / "new" / "comparison.html"
    write_comparison(path, compare(systems))
    return path.read_text(encoding="utf-8")


@pytest.fixture
def page(tmp_path):
    run, model = write_run(tmp_path / "run"), write_model(tmp_path / "model", ours(0.02, templates_sha256="7" * 64))
    return page_of(tmp_path, read_systems([str(run), str(model), *PUBLISHED]))


def system(name, *results):
    return System(name, {one.task: one for one in results})


def cells(page, title):
    """The cells of a row of the big table, after title and metric."""
    table = page[page.index('<table class="compare">'):]
    line = next(line for line in re.findall(r"<tr>.*?</tr>", table) if f"<td>{title}</td>" in line)
    return re.findall(r"<td[^>]*>(.*?)</td>", line)[2:]


def test_page_is_well_formed(page):
    parsed = Nesting(page)
    assert parsed.open == [] and parsed.tags.count("html") == parsed.tags.count("h1") == 1


def test_page_loads_nothing(page):
    parsed = Nesting(page)
    assert not {"script", "link", "iframe", "img", "object"} & set(parsed.tags)
    assert not [value for name, value in parsed.attributes if name in ("src", "srcset", "xlink:href", "data")]
    links = [value for name, value in parsed.attributes if name == "href"]
    assert all(link.startswith(("#note-", "https://")) for link in links)  # to be clicked, never fetched by itself
    assert "default-src 'none'" in page and not re.search(r"url\(|@import", page)


def test_names_and_settings_are_escaped(tmp_path):
    own = Result(EVIL, EVIL, EVIL, {"acc1": 0.5, "main_metric": 0.5}, {"samples": 3, "prompt": EVIL})
    page = page_of(tmp_path, [system(EVIL, own), system("b", result("imagenet", 0.5))])
    assert "<script>" not in page and page.count("</style>") == 1 and page.count("&lt;script&gt;") >= 4


def test_marks_are_there_where_settings_differ_and_lead_to_their_footnote(page):
    marked = cells(page, "ImageNet Sketch")
    assert "<sup>" not in marked[0] and '<a href="#note-a">a</a>' in marked[1]
    notes = re.findall(r'<li id="note-(\w+)">', page)
    assert set(re.findall(r'href="#note-(\w+)"', page)) == set(notes) and len(notes) == len(set(notes))
    assert "templates: sha256 differ" in page and "settings unknown (published figure)" in page


def test_no_mark_and_no_note_where_everything_was_measured_alike(tmp_path):
    every = [one for one in ours() if one.task != "flickr30k"]
    page = page_of(tmp_path, [system("a", *every), system("b", *every)])
    assert "<sup>" not in page and "note-" not in page and "tspan" not in page


def test_a_system_that_lacks_a_task_shows_a_dash(page):
    assert cells(page, "WinoGAViL") == ["-", "-", "-", '43.2<sup><a href="#note-b">b</a></sup>']
    assert "not measured" in page


def test_bold_is_what_is_certain(tmp_path):
    page = page_of(tmp_path, [system("a", result("imagenet", 0.5, 0.01)), system("b", result("imagenet", 0.52, 0.01))])
    assert cells(page, "ImageNet zero-shot") == ["50.0 <small>[49.0, 51.0]</small>",
                                                 "<b>52.0</b> <small>[51.0, 53.0]</small>"]  # fmt: skip
    assert "Nothing is bold" not in page
    page = page_of(tmp_path, [system("a", result("imagenet", 0.5)), system("b", result("imagenet", 0.52))])
    assert "<b>52" not in page and "Nothing is bold" in page


def test_the_chart_says_its_figures_in_words_and_in_lengths(page):
    chart = re.search(r'<svg class="chart bars".*?</svg>', page, re.S)[0]
    words = re.search(r"<desc>(.*?)</desc>", chart)[1]
    assert "ImageNet zero-shot: run@200 70.2 per cent, model 72.2 per cent (note a)" in words
    assert "MTEB (text only): run@200 not measured" in words and "<title>The main figures" in chart
    widths = [float(w) for w in re.findall(r'class="bar s\d" [^>]*? width="([\d.]+)"', chart)]
    full = float(re.search(r'class="rest" [^>]*? width="([\d.]+)"', chart)[1])
    assert widths[:4] == pytest.approx([full * v for v in (0.702, 0.722, 0.71, 0.6834)], abs=0.06)


def test_a_chart_without_figures_is_no_chart(tmp_path):
    assert bars.bar_chart([bars.Group("x", [bars.Bar(None)])], ["a"], "t") == ""
    page = page_of(tmp_path, [system("a", result("mnist", 0.5))])
    assert "<svg" not in page and Nesting(page).open == []
