"""The report: one well-formed page that loads nothing, escapes what it shows and does not choose its examples."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from lit_tune.evals import evaluate_set, make_set
from lit_tune.report import chart, page as report
from lit_tune.report.examples import choose, data_uri

VOID = {"meta", "img", "br", "link", "input"}
EVIL = '<script>alert("x")</script> & </style>'


def embed_text(texts):
    rows = [np.random.default_rng(list(text.encode())).normal(size=16) for text in texts]
    return np.stack([row / np.linalg.norm(row) for row in rows]).astype(np.float32)


def picture(i):
    return np.full((40, 60, 3), i * 7 % 256, np.uint8)


@pytest.fixture
def page(tmp_path):
    captions = [(EVIL,), *[(f"thing {i}",) for i in range(1, 15)]]
    s = make_set("toys", captions, [{"group": str(i % 3)} for i in range(15)], embed_text)
    z = embed_text([text for (text,) in captions])
    z[::2] = z[::2][::-1]  # half of the pictures answer to a wrong caption
    lines = [{"step": i, "kind": "train", "train/loss": 5 - i / 50} for i in range(0, 100, 10)]
    lines += [{"step": i, "kind": "val", "val/toys/image_retrieval_recall@5": i / 100} for i in (0, 50, 99)]
    lines += [{"step": 100, "kind": "train", "train/loss": float("nan")}]
    examples = [choose(s, z, picture, seed=0, count=15)]
    path = tmp_path / "eval" / "report.html"
    report.write_report(path, f"Run {EVIL}", {"pairs": 1234567, "data": EVIL}, lines, evaluate_set(s, z), examples)
    return path.read_text(encoding="utf-8")


class Nesting(HTMLParser):
    """Collects tags and attributes and fails on a tag that is closed out of turn."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.attributes = [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another tag"


def test_page_is_well_formed(page):
    parsed = Nesting(page)
    assert parsed.open == [] and parsed.tags.count("html") == parsed.tags.count("h1") == 1


def test_page_loads_nothing(page):
    parsed = Nesting(page)
    assert "script" not in parsed.tags and "link" not in parsed.tags and "iframe" not in parsed.tags
    sources = [value for name, value in parsed.attributes if name in ("src", "href", "srcset", "xlink:href")]
    assert sources and all(value.startswith("data:image/jpeg;base64,") for value in sources)
    assert not re.search(r"https?:|url\(|@import", page)


def test_captions_titles_and_facts_are_escaped(page):
    assert "<script>" not in page and page.count("</style>") == 1
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; &lt;/style&gt;" in page


def test_page_shows_wrong_answers_and_marks_right_ones(page):
    assert page.count('<li class="right"') > 0 and page.count('<li class="wrong"') > 0
    assert page.count("&#10003;") == page.count('<li class="right"')
    assert "1,234,567" in page


def test_loss_that_is_not_a_number_is_left_out_of_the_chart(page):
    assert "nan" not in re.sub(r"base64,[^\"]*", "", page).lower()


def test_page_without_evaluations_is_still_a_page(tmp_path):
    report.write_report(tmp_path / "r.html", "empty", {}, [], {})
    assert Nesting((tmp_path / "r.html").read_text()).open == []


def test_examples_are_drawn_by_seed_whatever_the_model_answers():
    s = make_set("toys", [(f"thing {i}",) for i in range(40)], [{}] * 40, embed_text)
    good, bad = embed_text([f"thing {i}" for i in range(40)]), embed_text([f"else {i}" for i in range(40)])
    first, second = (choose(s, z, picture, seed=4, count=6) for z in (good, bad))
    assert [e.text for e in first.texts] == [e.text for e in second.texts]
    assert [e.text for e in first.pictures] == [e.text for e in second.pictures]
    assert [e.text for e in first.texts] != [e.text for e in choose(s, good, picture, seed=5, count=6).texts]
    assert all(e.answers[0].right and e.answers[0].text == e.text for e in first.texts + first.pictures)


def test_pictures_become_small_jpegs_on_white():
    clear = Image.new("RGBA", (400, 200), (255, 0, 0, 0))
    file = io.BytesIO()
    clear.save(file, "PNG")
    uri = data_uri(file.getvalue())
    image = Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1])))
    assert image.size == (144, 72) and np.asarray(image).min() > 250


def test_ticks_are_round_and_enclose_the_values():
    for low, high in [(0, 1), (3.27, 5.55), (-2, 70_848), (0.00031, 0.00042), (5, 5), (0, 0)]:
        found = chart.ticks(low, high)
        steps = np.diff(found)
        assert 2 <= len(found) <= 8 and np.allclose(steps, steps[0])
        assert found[0] <= low + 1e-9 and found[-1] >= high - 1e-9
        assert round(steps[0] / 10 ** np.floor(np.log10(steps[0]) + 1e-9), 6) in (1, 2, 5)


def test_long_lines_are_averaged_down_and_short_ones_kept():
    svg = chart.line_chart([chart.Line("loss", [(i, 1 / (i + 1)) for i in range(5000)])], "step", "loss")
    assert svg.count("L") <= chart.MAX_POINTS + 2
    assert chart.line_chart([chart.Line("loss", [(0, 1.0)])], "step", "loss") == ""
