"""The page, the text and the exit code of `lit-tune data inspect`: nothing in a data set makes it stop or run."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from odd_pairs import captions_for, encoded, odd_pictures, write_tar
from PIL import Image
from test_report import Nesting

from lit_tune import cli
from lit_tune.data.__main__ import main
from lit_tune.data.inspecting import look, pictures
from lit_tune.errors import printable

BROKEN = Path(os.environ.get("LIT_TUNE_DATA", Path(__file__).parent / "golden")) / "broken"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIT_TUNE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def odd(tmp_path):
    """A shard of good pictures of every kind."""
    images = odd_pictures()
    return write_tar(tmp_path / "odd.tar", list(zip(images, captions_for(len(images)), strict=True)))


def page_of(shard, tmp_path, *words):
    assert main(["inspect", str(shard), f"--html={tmp_path / 'page.html'}", *words]) == 0
    return (tmp_path / "page.html").read_text("utf-8")


def test_the_page_is_well_formed_loads_nothing_and_shows_markup_as_text(odd, tmp_path, capsys):
    page = page_of(odd, tmp_path)
    parsed = Nesting(page)
    assert parsed.open == [] and parsed.tags.count("h1") == 1
    assert not {"script", "link", "iframe", "object"} & set(parsed.tags)
    held = [value for name, value in parsed.attributes if name in ("src", "href", "srcset", "xlink:href")]
    assert len(held) == 17 and all(value.startswith("data:image/jpeg;base64,") for value in held)  # 16 and one repeated
    assert "<script>" not in page and page.count("</style>") == 1
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; &lt;/style&gt;" in page
    assert parsed.tags.count("svg") == 6
    out = capsys.readouterr().out
    assert "16 pairs" in out and "6 times: a dog" in out


def test_the_page_of_a_data_set_without_a_good_sample_is_a_page(tmp_path):
    page = page_of(write_tar(tmp_path / "bad.tar", [(b"", "empty"), (b"<b>", "page"), (b"", "x")]), tmp_path)
    assert Nesting(page).open == [] and "empty_image" in page and "<img" not in page


def test_the_page_stays_small_whatever_the_pictures(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (150, 150, 3), np.uint8) for _ in range(20)]
    files = [io.BytesIO() for _ in noise]
    for array, file in zip(noise, files, strict=True):
        Image.fromarray(array).save(file, "PNG")
    shard = write_tar(tmp_path / "noise.tar", [(file.getvalue(), f"noise {i}") for i, file in enumerate(files)])
    monkeypatch.setattr(pictures, "MOST_BYTES", 60_000)
    page = page_of(shard, tmp_path)
    assert 1 <= page.count("<img") < 20 and len(page) < 60_000 + 40_000 and "noise 19" in page


def test_small_pictures_keep_their_shape():
    uri = pictures.data_uri(Image.new("RGB", (400, 100), (9, 200, 9)))
    assert uri.startswith("data:image/jpeg;base64,") and len(uri) < 2000
    assert pictures.drawn(look.draw(500, 200, 100, 3)) == pictures.drawn(look.draw(500, 200, 100, 3))


def test_a_page_that_cannot_be_written_is_a_config_error_after_the_text(odd, tmp_path, capsys):
    assert cli.run(main, ["inspect", str(odd), f"--html={tmp_path}"]) == 2
    out, err = capsys.readouterr()
    assert "16 pairs" in out and err.count("\n") == 1 and "--html" in err


def test_no_caption_steers_the_terminal(tmp_path, capsys):
    assert printable("a\x1b[2J\nb\u202ec") == "a\ufffd[2J\ufffdb\ufffdc"
    image = encoded("RGB", (8, 8), "PNG")
    assert main(["inspect", str(write_tar(tmp_path / "x.tar", [(image, "a \x1b]0;title\x07 b")]))]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_captions_that_a_terminal_cannot_show_do_not_stop_it(tmp_path, monkeypatch):
    shard = write_tar(tmp_path / "x.tar", [(encoded("RGB", (8, 8), "PNG"), "ein Hund läuft, 犬")])
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert main(["inspect", str(shard)]) == 0
    sys.stdout.seek(0)
    assert "ein Hund l?uft, ?" in sys.stdout.read()


def test_bad_shards_end_with_4_after_the_rest_is_shown(odd, tmp_path, capsys):
    (tmp_path / "z.tar").write_bytes(odd.read_bytes()[:9_000])
    (tmp_path / "zz.tar").write_bytes(b"")
    assert cli.run(main, ["inspect", str(tmp_path / "*.tar"), "--json", f"--html={tmp_path / 'p.html'}"]) == 4
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert len(report["problems"]) == 2 and report["counts"]["bad_shards"] == 2 and report["pairs"] > 16
    assert err.count("\n") == 1 and "z.tar" in err
    page = (tmp_path / "p.html").read_text()
    assert "Bad shards" in page and "0 bytes" in page


@pytest.mark.parametrize("word", ["--sample=0", "--decode=-1", "--decode=x", "--seed=-1", "--config=nope"])
def test_wrong_flags_are_one_line_and_2(odd, word, capsys):
    assert cli.run(main, ["inspect", str(odd), word]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_inspecting_with_a_tokenizer_loads_no_jax(odd, tmp_path):
    words = ["inspect", str(odd), "--config=quickstart", f"--config.text.model={tiny.text_folder(tmp_path / 'text')}",
             "--config.data.caption_field=txt", f"--html={tmp_path / 'p.html'}"]  # fmt: skip
    code = f"import sys; from lit_tune.data.__main__ import main; main({words!r}); assert 'jax' not in sys.modules"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0 and "cut at 128 tokens" in ran.stdout, ran.stderr


def honest(spec, capsys):
    """(exit code, text, error line) of `inspect`, which must be 0 or 4 and hold no more than one line of error."""
    code = cli.run(main, ["inspect", str(spec)])
    out, err = capsys.readouterr()
    assert code in (0, 4) and err.count("\n") == (code == 4), err
    return code, out, err


@pytest.mark.parametrize("shard", sorted(path.name for path in (BROKEN / "tars").glob("*.tar")))
def test_every_broken_shard_ends_with_0_or_4_and_one_line(shard, capsys):
    code, out, err = honest(BROKEN / "tars" / shard, capsys)
    assert shard in err if code else shard in out


@pytest.mark.parametrize("name", sorted({path.name for path in (BROKEN / "images").iterdir()} - {"manifest.json"}))
def test_every_broken_picture_is_counted_or_decoded(name, tmp_path, capsys):
    expect = json.loads((BROKEN / "images" / "manifest.json").read_text())[name]["expect"]
    shard = write_tar(tmp_path / "one.tar", [((BROKEN / "images" / name).read_bytes(), "a picture")])
    code, out, _ = honest(shard, capsys)
    main(["inspect", str(shard), "--json"])
    report = json.loads(capsys.readouterr().out)
    faults = {**report["looked_at"]["faults"], **report["decoded"]["faults"]}
    assert code == 0 and "1 pairs" in out
    if expect != "policy":
        assert bool(faults) == (expect == "skip"), (expect, faults)
