"""The figures of `lit-tune data inspect` beside those of PIL, numpy, tarfile and counters."""

import hashlib
import io
import json
import os
import tarfile
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import tiny
from odd_pairs import captions_for, encoded, odd_pictures, write_tar
from PIL import Image
from tokenizers import Tokenizer

from lit_tune import config as config_lib
from lit_tune.data import sources
from lit_tune.data.__main__ import main
from lit_tune.data.inspecting import figures, look, statistics, text
from lit_tune.data.inspecting.lengths import ruler
from lit_tune.data.inspecting.statistics import Rules, inspect

SHARED = Path(os.environ.get("LIT_TUNE_DATA", "shared-data-is-not-here"))
needs_shared = pytest.mark.skipif(not (SHARED / "clipart").is_dir(), reason="LIT_TUNE_DATA does not lead to the data")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIT_TUNE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def odd(tmp_path):
    """A shard of good pictures of every kind."""
    images = odd_pictures()
    return write_tar(tmp_path / "odd.tar", list(zip(images, captions_for(len(images)), strict=True)))


def report_of(spec, *, field="txt", sample=20_000, decode=1_000, seed=0, config=None):
    source = sources.open_source(str(spec), None, caption_field=field)
    return inspect(source, look.draw(len(source), sample, decode, seed), ruler(config), Rules())


def pairs_in(paths, field="txt"):
    """(picture, captions) of every pair, by tarfile and json."""
    found = []
    for path in paths:
        with tarfile.open(path) as tar:
            members = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}
        for name, data in members.items():
            stem, _, suffix = name.rpartition(".")
            if suffix in ("jpg", "png", "webp"):
                if field == "txt":
                    texts = [members[f"{stem}.txt"].decode().strip()]
                else:
                    value = json.loads(members[f"{stem}.json"])[field]
                    texts = [text.strip() for text in (value if isinstance(value, list) else [value])]
                found.append((data, [text for text in texts if len(text.encode()) > 1]))
    return found


def agree(summary, values):
    """A summary and its histogram describe the same numbers as numpy's."""
    values = np.asarray(values)
    assert summary["count"] == len(values) and summary["mean"] == pytest.approx(values.mean())
    assert (summary["min"], summary["max"]) == (values.min(), values.max())
    for name, q in (("p5", 5), ("median", 50), ("p95", 95)):
        assert summary[name] == np.quantile(values, q / 100, method="lower")
    edges, counts = summary["histogram"]["edges"], summary["histogram"]["counts"]
    assert sum(counts) == len(values) and edges == sorted(set(edges)) and counts[0] and counts[-1]
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        assert count == sum(low <= v < high or (high == edges[-1] and v == high) for v in values.tolist())


def compare(report, pairs):
    """Every figure of a report against PIL, hashlib and counters; returns how many captions were compared."""
    images = [Image.open(io.BytesIO(data)) for data, _ in pairs]
    found, texts = report["pictures"], [text for _, captions in pairs for text in captions]
    agree(found["width"], [image.width for image in images])
    agree(found["height"], [image.height for image in images])
    agree(found["aspect_ratio"], [float(Fraction(*image.size)) for image in images])
    agree(report["image_bytes"], [len(data) for data, _ in pairs])
    assert report["pairs"] == len(pairs) == report["looked_at"]["count"] and report["looked_at"]["all"]
    assert report["bytes"] == sum(len(data) for data, _ in pairs)
    assert report["formats"] == Counter(image.format for image in images)
    assert found["modes"] == Counter(image.mode for image in images)
    assert found["cmyk"] == sum(image.mode == "CMYK" for image in images)
    assert found["transparent"] == sum(image.has_transparency_data for image in images)
    assert found["turned"] == sum(image.getexif().get(0x0112, 1) > 1 for image in images)
    equal = Counter(hashlib.sha256(data).digest() for data, _ in pairs)
    assert found["repeats"]["repeated"] == len(pairs) - len(equal) and found["repeats"]["distinct"] == len(equal)
    assert [one["times"] for one in found["repeats"]["most"]] == [n for _, n in equal.most_common(10) if n > 1]
    agree(report["captions"]["characters"], [len(text) for text in texts])
    agree(report["captions"]["length"], [len(text.split()) for text in texts])
    equal = Counter(texts)
    repeats = report["captions"]["repeats"]
    assert repeats["distinct"] == len(equal) and repeats["repeated"] == len(texts) - len(equal)
    assert repeats["share"] == pytest.approx(1 - len(equal) / len(texts))
    assert {one["caption"]: one["times"] for one in repeats["most"]} == \
        {text: n for text, n in sorted(equal.items(), key=lambda t: (-t[1], texts.index(t[0])))[:10] if n > 1}
    assert report["captions"]["most_of_one"] == max(len(captions) for _, captions in pairs)
    return len(texts)


def test_every_figure_of_odd_pictures_is_pillows_and_numpys(odd):
    report = report_of(odd)
    assert compare(report, pairs_in([odd])) == 16
    assert report["looked_at"]["faults"] == report["decoded"]["faults"] == {} and report["decoded"]["count"] == 16
    assert report["sizes_from"] == "index" and report["equal_pairs"] == 1  # pictures 0 and 14, both "a dog"
    assert report["pictures"]["turned"] == 1 and report["pictures"]["grey"] == 4 and report["pictures"]["palette"] == 3
    assert report["pictures"]["repeats"]["most"][0]["samples"] == [["odd.tar", "0000"], ["odd.tar", "0014"]]


def test_a_folder_is_described_like_the_shard_of_the_same_pairs(odd, tmp_path):
    (tmp_path / "set").mkdir()
    rows = []
    for number, (image, captions) in enumerate(pairs_in([odd])):
        (tmp_path / "set" / f"{number}.jpg").write_bytes(image)
        rows.append(json.dumps({"image": f"{number}.jpg", "captions": captions}))
    (tmp_path / "set" / "captions.jsonl").write_text("\n".join(rows))
    report = report_of(tmp_path / "set")
    compare(report, pairs_in([odd]))
    assert report["sizes_from"] == "looked at" and report["equal_pairs"] is None and report["shards"] == 0


class Bare:
    """Nothing but what every source offers."""

    def __init__(self, source):
        self.spec, self.fingerprint, self.counts = source.spec, source.fingerprint, source.counts
        for name in ("pair", "captions", "caption_sets", "describe"):
            setattr(self, name, getattr(source, name))
        self._source = source

    def __len__(self):
        return len(self._source)

    def __getitem__(self, i):
        return self._source[i]


def test_any_source_will_do_and_a_huge_index_is_not_held(odd, monkeypatch):
    source = sources.open_source(str(odd), None, caption_field="txt")
    plan = look.draw(len(source), 10, 5, seed=1)
    bare, usual = (inspect(one, plan, ruler(None), Rules()) for one in (Bare(source), source))
    monkeypatch.setattr(statistics, "MOST_RECORDS", 15)
    huge = inspect(source, plan, ruler(None), Rules())
    images = [Image.open(io.BytesIO(pairs_in([odd])[i][0])) for i in plan.looked_at]
    for report in (bare, huge):
        assert report["sizes_from"] == "looked at" and report["equal_pairs"] is report["empty_captions"] is None
        assert report["formats"] == Counter(image.format for image in images)
        assert " MiB of pictures among those looked at" in text.lines(report)[0]
        for name in ("pictures", "captions", "decoded", "first", "fingerprint"):
            assert report[name] == usual[name]
    assert usual["sizes_from"] == "index" and usual["image_bytes"]["count"] == 16


def test_the_shipped_pairs_agree_with_a_plain_count():
    report = report_of("emoji:unseen_concept", field="captions")
    paths = sources.open_source("emoji:unseen_concept", None, caption_field="captions").shards
    assert compare(report, pairs_in(paths, "captions")) > 191


@needs_shared
def test_clip_art_agrees_with_a_plain_count():
    report = report_of(SHARED / "clipart" / "00000000.tar")
    assert compare(report, pairs_in([SHARED / "clipart" / "00000000.tar"])) == 400
    assert len(report["pictures"]["aspect_ratio"]["histogram"]["counts"]) > 10


def tiny_config(folder, **keys):
    text = {"model": folder, "prefix": "a red ", "max_length": 6, **keys}
    return config_lib.load("quickstart", [(f"text.{name}", str(value)) for name, value in text.items()])


def test_token_lengths_are_the_tokenizers_own(odd, tmp_path):
    config = tiny_config(tiny.text_folder(tmp_path / "text"))
    length = report_of(odd, config=config)["captions"]["length"]
    tokenizer = Tokenizer.from_file(str(tmp_path / "text" / "tokenizer.json"))
    lengths = [len(tokenizer.encode("a red " + text)) for _, captions in pairs_in([odd]) for text in captions]
    agree(length, lengths)
    assert length["unit"] == "tokens" and length["max_length"] == 6 and 6 in lengths and max(lengths) > 6
    assert length["cut"] == sum(n > 6 for n in lengths) and length["cut_share"] == length["cut"] / len(lengths)


def test_words_are_counted_and_said_so_where_the_tokenizer_is_not_at_hand(odd, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert main(["inspect", str(odd), "--config=quickstart", "--config.data.caption_field=txt", "--json"]) == 0
    length = json.loads(capsys.readouterr().out)["captions"]["length"]
    assert length["unit"] == "words" and length["cut"] is None and "all-MiniLM-L6-v2 is not at hand" in length["note"]
    assert main(["inspect", str(odd), "--config=quickstart", "--config.data.caption_field=txt"]) == 0
    assert "words, not tokens: the tokenizer of all-MiniLM-L6-v2 is not at hand" in capsys.readouterr().out


def test_limits_and_policy_are_the_configs(odd, capsys):
    command = ["inspect", str(odd), "--json", "--config=quickstart", "--config.data.policy=reference",
               "--config.data.max_pixels=3000", "--config.data.caption_field=txt"]  # fmt: skip
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out)
    sizes = [Image.open(io.BytesIO(data)).size for data in odd_pictures()]
    large, flat = (sum(map(test, sizes)) for test in (lambda size: size[0] * size[1] > 3000,
                                                      lambda size: min(size) < 2 or max(size) > 20 * min(size)))
    faults = {kind: found["count"] for kind, found in report["looked_at"]["faults"].items()}
    assert faults["too_many_pixels"] == large > 0
    assert sum(faults.get(kind, 0) for kind in ("extreme_aspect", "too_small")) == flat > 0
    assert report["decoded"]["policy"] == "reference" and report["decoded"]["count"] == 16 - large - flat


def test_faults_are_counted_by_kind_with_the_first_keys(tmp_path):
    good = encoded("RGB", (64, 64), "JPEG", (200, 30, 30))
    rough = odd_pictures()[-1]
    samples = [(good, "fine"), (b"", "empty"), (b"<html>", "page"), (rough[: len(rough) // 2], "cut"), (good, "x"),
               (good, ""), (good, b"caf\xe9 noir"), (b"noise" * 9, "noise"), (good[:30], "header")]  # fmt: skip
    report = report_of(write_tar(tmp_path / "bad.tar", samples))
    faults = report["looked_at"]["faults"]
    assert {kind: found["count"] for kind, found in faults.items()} == \
        {"short_caption": 2, "empty_image": 1, "unknown_format": 2, "undecodable": 1}
    assert faults["unknown_format"]["first"] == [["bad.tar", "0002"], ["bad.tar", "0007"]]
    assert report["decoded"]["faults"] == {"undecodable": {"count": 1, "first": [["bad.tar", "0003"]]}}
    assert report["decoded"]["count"] == 3 and report["empty_captions"] == 1
    assert report["captions"]["replacement_characters"] == report["counts"]["not_utf8"] == 1


def test_a_large_set_is_sampled_by_seed_and_says_so(tmp_path, capsys):
    image = encoded("RGB", (8, 8), "PNG")
    shard = write_tar(tmp_path / "many.tar", [(image, f"caption {i}") for i in range(300)])
    plans = [look.draw(300, 100, 20, seed) for seed in (0, 0, 1)]
    assert np.array_equal(plans[0].looked_at, plans[1].looked_at) and len(set(plans[0].looked_at.tolist())) == 100
    assert not np.array_equal(plans[0].looked_at, plans[2].looked_at)
    assert set(plans[0].decoded.tolist()) < set(plans[0].looked_at.tolist()) and len(plans[0].decoded) == 20
    assert main(["inspect", str(shard), "--sample=100", "--decode=20", "--seed=5", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["looked_at"]["count"] == 100 and not report["looked_at"]["all"] and report["looked_at"]["seed"] == 5
    assert report["pairs"] == report["image_bytes"]["count"] == 300 and report["decoded"]["count"] == 20
    assert report["pictures"]["width"]["count"] == 100 and report["pictures"]["repeats"]["repeated"] == 99
    main(["inspect", str(shard), "--sample=100"])
    assert "100 of 300, drawn by seed 0" in capsys.readouterr().out


def test_every_block_is_looked_at_once_and_in_order(odd, monkeypatch):
    monkeypatch.setattr(look, "BLOCK", 5)
    report = report_of(odd)
    assert compare(report, pairs_in([odd])) == 16


@pytest.mark.parametrize("values", [[5], [0, 0], [1, 2, 3], [1] * 100 + [1000], [2] * 999 + [10**7], range(1000),
                                    [1, 65_535, 2, 9, 40]])  # fmt: skip
def test_histograms_count_everything_once(values):
    agree(figures.summary(values) | {"histogram": figures.histogram(values)}, list(values))
    assert len(figures.histogram(values)["counts"]) <= figures.BINS + 2
    assert figures.histogram([1, 2, 3]) == {"edges": [1, 2, 3, 4], "counts": [1, 1, 1]}


@pytest.mark.parametrize("values", [[1.0], [0.001], [900.0], [0.001, 1000], [1, 4 / 3, 0.75], [2 ** (12.5 / 4)]])
def test_aspect_ratios_beyond_the_edges_are_counted(values):
    agree(figures.summary(values) | {"histogram": figures.histogram(values, figures.SHAPES)}, values)


def test_repeats_are_named_by_how_often_then_by_place():
    found = figures.repeats([7, 2**64 - 1, 7, 3, 2**64 - 1, 9, 9, 7], 2)
    assert found["most"] == [(3, 0), (2, 1)] and (found["distinct"], found["repeated"]) == (4, 4)
    assert figures.repeats([], 2) == {"count": 0, "distinct": 0, "repeated": 0, "share": 0.0, "most": []}
