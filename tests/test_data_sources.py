"""Specs, folders with caption tables, caption ids and the `data` command."""

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from lit_tune.data import captions, sources
from lit_tune.data.__main__ import main
from lit_tune.data.sample import BadSample
from lit_tune.errors import ConfigError, DataError

TXT = SimpleNamespace(caption_field="txt")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three pictures, two of them under images/."""
    monkeypatch.setenv("LIT_TUNE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set" / "images").mkdir(parents=True)
    for place in ("set/a.jpg", "set/images/b.png", "set/images/c.jpg"):
        Image.new("RGB", (20, 10), (9, 99, 199)).save(tmp_path / place)
    return tmp_path / "set"


def test_braces_globs_and_commas_expand_in_order(tmp_path):
    assert sources.expand("x/{008..011}.tar") == [f"x/{n:03d}.tar" for n in range(8, 12)]
    assert sources.expand("{b,a}/{1..2}.tar") == ["b/1.tar", "b/2.tar", "a/1.tar", "a/2.tar"]
    for name in ("2.tar", "10.tar", "1.tar"):
        (tmp_path / name).touch()
    assert sources.expand(str(tmp_path / "*.tar")) == [str(tmp_path / n) for n in ("1.tar", "10.tar", "2.tar")]
    for wrong in ("{5..3}.tar", "{a..c}.tar", "{}.tar", ""):
        with pytest.raises(ConfigError):
            sources.expand(wrong)
    with pytest.raises(DataError, match="found none"):
        sources.expand(str(tmp_path / "x*.tar"))


def test_csv_rows_and_columns_become_captions(folder):
    (folder / "captions.csv").write_text('image,caption,caption_2,label\na.jpg,"one, two",more,red\nb.png,tree,,blue\n'
                                         "a.jpg,three,,red\n", "utf-8-sig")  # fmt: skip
    source = sources.open_source(str(folder), TXT)
    assert list(source.caption_sets()) == [("one, two", "more", "three"), ("tree",)]
    assert source[1].key == "b.png" and source[1].meta == {"label": "blue"}
    assert source.pair(0, 1 << 20)[0] == (folder / "a.jpg").read_bytes()
    assert sources.open_source(str(folder), TXT, caption_field="label").captions(1) == ("blue",)
    with pytest.raises(BadSample, match="too_many_bytes"):
        source.pair(0, 10)


def test_tsv_is_split_at_tabs_alone_and_quotes_are_text(folder):
    (folder / "captions.tsv").write_text('image\tcaption\tcaption_2\tlabel\na.jpg\ta "red, dog\tmore\tred\n'
                                         'b.png\t"tree"\t\tblue\na.jpg\tthree\t\tred\n', "utf-8")  # fmt: skip
    source = sources.open_source(str(folder), TXT)
    assert list(source.caption_sets()) == [('a "red, dog', "more", "three"), ('"tree"',)]
    assert source[1].key == "b.png" and source[1].meta == {"label": "blue"}


def test_jsonl_takes_caption_or_captions(folder):
    rows = [{"image": "a.jpg", "caption": "one"}, {"image": "c.jpg", "captions": ["two", "x", " three "], "split": "t"}]
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    source = sources.open_source(str(folder), TXT)
    assert list(source.caption_sets()) == [("one",), ("two", "three")] and source[1].meta == {"split": "t"}
    before = source.fingerprint
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows[::-1])))
    assert sources.open_source(str(folder), TXT).fingerprint != before


def test_a_picture_without_a_usable_caption_is_bad_not_fatal(folder):
    (folder / "captions.csv").write_text("image,caption\na.jpg,x\nb.png,tree\n")
    source = sources.open_source(str(folder), TXT)
    assert source.counts["short_caption"] == 1 and list(source.caption_sets()) == [(), ("tree",)]
    with pytest.raises(BadSample, match="short_caption"):
        source[0]


@pytest.mark.parametrize("name, text, wanted", [
    ("captions.csv", "picture,caption\na.jpg,one\n", "columns image and caption, found picture, caption"),
    ("captions.csv", "image,text\na.jpg,one\n", "columns image and caption"),
    ("captions.csv", "image,caption\na.jpg,one\nnope.jpg,two\n", "line 3: expected the picture nope.jpg"),
    ("captions.csv", "image,caption\na.jpg,one,extra\n", "line 2: expected as many values"),
    ("captions.csv", "image,caption\n../../x.jpg,one\n", "line 2: expected a picture inside the folder"),
    ("captions.csv", "image,caption\n", "found no rows"),
    ("captions.csv", "", "found no header"),
    ("captions.jsonl", '{"image": "a.jpg", "caption": "one"}\n{"image": "a.jpg"}\n', "line 2"),
    ("captions.jsonl", '{"image": "a.jpg", "caption": 3}\n', "line 1: expected text"),
    ("captions.jsonl", "[]\n", "line 1"),
    ("captions.tsv", "image\tcaption\na.jpg\tone\textra\n", "line 2: expected as many values"),
    ("captions.tsv", "image,caption\na.jpg,one\n", "columns image and caption, found image,caption"),
])  # fmt: skip
def test_a_wrong_table_is_one_clear_line(folder, name, text, wanted):
    (folder / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        sources.open_source(str(folder), TXT)
    assert wanted in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_without_or_with_two_tables_is_refused(folder):
    with pytest.raises(ConfigError, match="found none of them"):
        sources.open_source(str(folder), TXT)
    for name in ("captions.csv", "captions.jsonl"):
        (folder / name).touch()
    with pytest.raises(ConfigError, match=r"found captions\.csv and captions\.jsonl"):
        sources.open_source(str(folder), TXT)
    (folder / "captions.jsonl").unlink()
    (folder / "captions.csv").write_bytes(b"image,caption\na.jpg,caf\xe9\n")
    with pytest.raises(ConfigError, match="UTF-8"):
        sources.open_source(str(folder), TXT)


def test_an_unknown_emoji_set_names_the_known_ones():
    with pytest.raises(ConfigError, match="emoji:unseen_concept.*emoji:dev/train"):
        sources.open_source("emoji:test", TXT)


def test_clean_captions():
    assert captions.clean(b"\xef\xbb\xbf hi \n") == "hi" and captions.clean(b"caf\xe9") == "caf\ufffd"
    assert len(captions.clean(b"word " * 20_000)) <= 65_536
    assert captions.clean("\u00e9".encode() * 40_000).endswith("\u00e9")  # 65,536 bytes are whole characters here
    assert not captions.usable("a") and captions.usable("\u72ac") and captions.usable("ab") and not captions.usable("")


def test_caption_ids_stand_for_sets():
    one = captions.caption_id(["a dog", "a cat"])
    assert one.dtype == np.uint32 and one.shape == (2,)
    assert np.array_equal(one, captions.caption_id(("a cat", "a dog", "a cat")))
    others = [["a dog"], ["a dog a cat"], ["a do", "ga cat"], [], ["A dog", "a cat"]]
    assert len({tuple(captions.caption_id(o).tolist()) for o in [*others, ["a dog", "a cat"]]}) == 6
    tokens = captions.token_caption_id([[1, 2], np.array([3], np.int32)])
    assert np.array_equal(tokens, captions.token_caption_id([np.array([3], np.int64), [1, 2], [1, 2]]))
    assert not np.array_equal(tokens, captions.token_caption_id([[1, 2, 3]]))
    many = {tuple(captions.caption_id([f"caption {i}"]).tolist()) for i in range(20_000)}
    assert len(many) == 20_000 and abs(np.mean([low >> 31 for low, _ in many]) - 0.5) < 0.02


def test_caption_ids_never_change():
    assert captions.caption_id(["a dog"]).tolist() == captions.caption_id(["a dog"]).tolist()
    import hashlib

    digest = hashlib.blake2b((5).to_bytes(8, "little") + b"a dog", digest_size=8).digest()
    assert captions.caption_id(["a dog"]).tolist() == np.frombuffer(digest, "<u4").tolist()


def test_inspect_and_index_tell_and_exit_by_the_rules(folder, capsys):
    (folder / "captions.csv").write_text("image,caption\na.jpg,one\nb.png,tree\n")
    assert main(["inspect", str(folder), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["pairs"] == 2 and report["formats"] == {"JPEG": 1, "PNG": 1}
    assert report["first"][0]["size"] == [20, 10]
    assert main(["inspect", str(folder)]) == 0 and "2 pairs" in capsys.readouterr().out
    assert main(["index", str(folder)]) == 0
    with pytest.raises(ConfigError):
        main(["look", str(folder)])
    (folder / "x.tar").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"x\.tar"):
        main(["inspect", str(folder / "x.tar")])


def test_a_damaged_shard_exits_with_4_and_one_line(tmp_path):
    (tmp_path / "x.tar").write_bytes(b"")
    command = [sys.executable, "-m", "lit_tune.data", "index", str(tmp_path / "x.tar")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 4 and result.stderr.count("\n") == 1 and "0 bytes" in result.stderr
