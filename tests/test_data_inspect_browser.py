"""The page of `data inspect` in a real browser: within a telephone's width, pictures drawn, nothing run or loaded."""

import re

import pytest
from odd_pairs import SCRIPT, captions_for, odd_pictures, write_tar
from test_report_browser import CHROMIUM, LONG, WIDTH, measure

from lit_tune.data.__main__ import main

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
MEASURE = """<!doctype html><body><pre id="found">not measured</pre><script>
window.onload = () => {
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, root = page.documentElement;
    const images = [...page.images];
    found[frame.id] = {
      width: root.clientWidth, needed: root.scrollWidth, images: images.length,
      drawn: images.filter(image => image.naturalWidth > 0).length,
      bars: [...page.querySelectorAll(".histogram .bar")].filter(bar => bar.getBBox().height > 0).length,
      scripts: page.scripts.length, text: page.body.innerText, paper: getComputedStyle(page.body).backgroundColor,
      loaded: frame.contentWindow.performance.getEntriesByType("resource").map(r => r.name)
        .filter(name => !name.startsWith("data:")).length
    };
  }
  document.getElementById("found").textContent = JSON.stringify(found);
};
</script>FRAMES</body>"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    images = odd_pictures() + [b"<html>"]
    captions = [LONG, *captions_for(len(images) - 2), "no picture"]
    shard = write_tar(folder / f"{LONG[:90]}.tar", list(zip(images, captions, strict=True)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIT_TUNE_CACHE", str(folder / "cache"))
        assert main(["inspect", str(shard), f"--html={folder / 'light.html'}"]) == 0
    page = (folder / "light.html").read_text("utf-8")
    dark = page.replace("@media (prefers-color-scheme: dark)", "@media all")
    assert dark != page
    (folder / "dark.html").write_text(dark, "utf-8")
    return measure(folder, MEASURE, ["light", "dark"])


@pytest.mark.parametrize("name", ["light", "dark"])
def test_the_page_fits_a_telephone_and_draws_everything(measured, name):
    found = measured[name]
    assert found["needed"] <= found["width"] <= WIDTH
    assert found["drawn"] == found["images"] == 17 and found["bars"] > 20


def test_markup_in_captions_is_text_and_nothing_is_loaded(measured):
    assert SCRIPT in measured["light"]["text"]
    assert measured["light"]["scripts"] == 0 and measured["light"]["loaded"] == 0 and measured["console"] == []


def test_the_dark_page_is_dark(measured):
    light, dark = (sum(map(int, re.findall(r"\d+", measured[name]["paper"])[:3])) for name in ("light", "dark"))
    assert light > 600 and dark < 150
