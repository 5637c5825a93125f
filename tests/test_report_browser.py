"""The report in a real browser: one panel at a time, every tab within a telephone's width, all of it on paper.

A page around the copies measures them: each copy lies in a frame of a telephone's width with another tab open.
"""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from test_report import embed_text, picture
from test_report_panels import details

from lit_tune.evals import evaluate_set, make_set
from lit_tune.evals.catalog import TASKS
from lit_tune.evals.results import Result
from lit_tune.report import page as report
from lit_tune.report.examples import choose
from lit_tune.report.tabs import NAMES

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTH = 400
LONG = "a_name_that_no_browser_may_break_anywhere_" * 3
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
MEASURE = """<!doctype html><body><pre id="found">not measured</pre><script>
window.onload = () => {
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, root = page.documentElement;
    const shown = () => [...page.querySelectorAll(".panel")].filter(p => p.getClientRects().length).map(p => p.id);
    const one = {shown: shown(), width: root.clientWidth, needed: root.scrollWidth};
    one.reached = [...page.querySelectorAll(".tabs > input")].filter(i => {
      i.focus(); return page.activeElement === i; }).map(i => i.id);
    one.height = page.querySelector(".panel:last-of-type").getBoundingClientRect().height;
    page.querySelector("label[for=tab-map]").click();
    one.clicked = shown();
    found[frame.id] = one;
  }
  document.getElementById("found").textContent = JSON.stringify(found);
};
</script>FRAMES</body>"""


def result(task, dataset, metric):
    figures = {metric: 0.7, f"{metric}_low": 0.6, f"{metric}_high": 0.8, f"{metric}_chance": 0.1, "main_metric": 0.7}
    settings = {"samples": TASKS[task].size if task in TASKS else 5, "data": f"/{LONG}/{LONG}", "prompt": LONG}
    return Result(task, task, dataset, figures, settings, {"prompt none": {metric: 0.5}, "dim 64": {metric: 0.4}},
                  {"pictures": 12.0, "waiting": 1.0, "texts": 2.0, "scoring": 0.5}, {"name": "x"})  # fmt: skip


def write_page(path):
    """A page with something behind every tab, and long names everywhere."""
    captions = [(LONG,), *[(f"thing {i}",) for i in range(1, 15)]]
    s = make_set("toys", captions, [{"group": str(i % 3)} for i in range(15)], embed_text)
    z = embed_text([text for (text,) in captions])
    lines = [{"step": i, "train/loss": 5 - i / 50, "val/imagenet/zeroshot/top1": i / 200} for i in range(0, 100, 10)]
    results = [result("imagenet", "ImageNet", "acc1"), result("flickr30k", "Flickr", "mean_recall@1"),
               result("mine", LONG, "mean_per_class_recall")]  # fmt: skip
    shown = [details("classification", 25) | {"task": "imagenet"}, details("retrieval") | {"task": "flickr30k"},
             details("classification") | {"task": "mine"}]  # fmt: skip
    report.write_report(
        path, f"Run {LONG}", {"data": LONG, "pairs": 1}, lines, evaluate_set(s, z), [choose(s, z, picture, seed=0)],
        results=results, details=shown, published={f"System {i} {LONG}": {"imagenet": 0.7} for i in range(7)},
        sources={f"System {i} {LONG}": f"https://example.org/{LONG}" for i in range(7)},
        aggregates={"Retrieval": 0.5, "Average": 0.6},
    )  # fmt: skip


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    write_page(folder / "report.html")
    page = (folder / "report.html").read_text("utf-8")
    plain = page.replace(' checked=""', "")
    copies = {name: plain.replace(f'id="tab-{name}"', f'id="tab-{name}" checked=""') for name in NAMES}
    copies |= {"first": page, "paper": page.replace("@media print", "@media all"),
               "bare": re.sub("<style>.*?</style>", "", page, flags=re.S)}  # fmt: skip
    for name, text in copies.items():
        (folder / f"{name}.html").write_text(text, "utf-8")
    return measure(folder, MEASURE, list(copies))


def measure(folder, around, names):
    """What the script of the page `around` finds in frames with NAME.html of the folder, and what the console said."""
    frames = "".join(f'<iframe id="{name}" src="{name}.html" width="{WIDTH}" height="800"></iframe>' for name in names)
    (folder / "around.html").write_text(around.replace("FRAMES", frames), "utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
             "--disable-background-networking", "--disable-component-update", "--allow-file-access-from-files",
             "--enable-logging=stderr",  # what the console says, refused loads among it
             f"--user-data-dir={folder / 'profile'}", "--dump-dom"]  # fmt: skip
    ran = subprocess.run([CHROMIUM, *flags, (folder / "around.html").as_uri()], capture_output=True, timeout=120)
    found = re.search(r'<pre id="found">(.*?)</pre>', ran.stdout.decode(), re.S)
    assert found and found[1].startswith("{"), f"{found and found[1]}\n{ran.stderr.decode()[-2000:]}"
    said = [line for line in ran.stderr.decode().splitlines() if ":CONSOLE:" in line]
    return json.loads(html.unescape(found[1])) | {"console": said}


@pytest.mark.parametrize("name", NAMES)
def test_a_tab_shows_its_panel_and_no_other(measured, name):
    assert measured[name]["shown"] == [name] and measured[name]["clicked"] == ["map"]


@pytest.mark.parametrize("name", NAMES)
def test_no_tab_is_wider_than_a_telephone(measured, name):
    assert measured[name]["needed"] <= measured[name]["width"] <= WIDTH


def test_the_first_tab_is_open_and_every_button_takes_the_focus(measured):
    assert measured["first"]["shown"] == ["overview"]
    assert measured["first"]["reached"] == [f"tab-{name}" for name in NAMES]


def test_the_console_stays_empty(measured):
    assert measured["console"] == []


def test_paper_and_browsers_without_style_show_every_panel(measured):
    assert measured["paper"]["shown"] == measured["bare"]["shown"] == list(NAMES)
    assert np.all([measured[name]["height"] > 100 for name in ("paper", "bare")])
