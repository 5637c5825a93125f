"""Class names and templates from files and from a package that is never imported, and cleaned texts."""

import json
import sys
from pathlib import Path

import pytest

from lit_tune.errors import ConfigError
from lit_tune.evaldata import names
from lit_tune.evaldata.clean import clean


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path that looks like clip-benchmark and must not be imported."""
    folder = tmp_path / "site" / "clip_benchmark"
    (folder / "datasets").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('it was imported')")
    classes = {"imagenet1k": ["tench", "goldfish"], "caltech101": ["a"], "caltech101_vtab": ["b"],
               "pets": ["cat", "dög"]}  # fmt: skip
    templates = {"imagenet1k": ["a {c}.", "the {c}."], "pets": ["{c}, a pet"], "broken": ["no place"]}
    (folder / "datasets" / "en_classnames.json").write_text(json.dumps(classes))
    (folder / "datasets" / "en_zeroshot_classification_templates.json").write_text(json.dumps(templates))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "clip_benchmark", raising=False)
    return folder


def test_the_package_s_entries_are_found_under_the_names_of_the_tasks(package: Path) -> None:
    assert names.named_classes("imagenet1k") == ("tench", "goldfish")
    assert names.named_classes("vtab/pets") == names.named_classes("pets") == ("cat", "dög")
    assert names.named_templates("vtab/pets") == ("{}, a pet",)
    assert names.named_templates("imagenet1k") == ("a {}.", "the {}.")
    assert "clip_benchmark" not in sys.modules


def test_relatives_of_imagenet_get_its_templates_and_only_those_of_the_same_classes_its_names(package: Path) -> None:
    for name in ("imagenetv2", "imagenet_sketch", "imagenet-a", "imagenet-o", "imagenet-r", "objectnet"):
        assert names.named_templates(name) == ("a {}.", "the {}.")
    assert names.named_classes("imagenetv2") == names.named_classes("imagenet_sketch") == ("tench", "goldfish")
    with pytest.raises(ConfigError, match="an entry imagenet-r"):
        names.named_classes("imagenet-r")


def test_vtab_s_caltech_has_its_own_order_of_classes(package: Path) -> None:
    assert names.named_classes("vtab/caltech101") == ("b",)
    assert names.named_classes("caltech101") == ("a",)


def test_what_the_package_does_not_hold_is_refused_in_one_line(package: Path) -> None:
    for what, name in ((names.named_classes, "wilds/fmow"), (names.named_templates, "fairness/geode")):
        with pytest.raises(ConfigError, match=r"an entry \w+, found none; give --classnames=FILE and --templates=FILE"):
            what(name)
    with pytest.raises(ConfigError, match="clip-benchmark's templates of broken line 1"):
        names.named_templates("broken")
    (package / "datasets" / "en_classnames.json").write_text("{")
    with pytest.raises(ConfigError, match="a JSON file of clip-benchmark"):
        names.named_classes("pets")


def test_without_the_package_the_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="it is not installed; pip install clip-benchmark, or give --classnames=FILE"):
        names.named_classes("imagenet1k")


def test_files_hold_a_name_or_a_template_a_line(tmp_path: Path) -> None:
    file = tmp_path / "x.txt"
    file.write_text("a cat\n  a dog \n\n")
    assert names.read_classnames(file) == ("a cat", "a dog")
    file.write_text("a photo of a {c}.\n{} {c} {other}\n")
    assert names.read_templates(file) == ("a photo of a {}.", "{} {} {other}")
    file.write_text("a photo\n")
    with pytest.raises(ConfigError, match="line 1: expected a template with {c}"):
        names.read_templates(file)
    with pytest.raises(ConfigError, match="expected a class name a line, found no such file"):
        names.read_classnames(tmp_path / "no.txt")
    with pytest.raises(ConfigError, match="expected a class name a line in UTF-8"):
        names.read_classnames(tmp_path)


@pytest.mark.parametrize("text, wanted", [
    ("  a \n b\t\tc ", "a b c"), ("AT&amp;T", "AT&T"), ("&amp;lt;b&amp;gt;", "<b>"), ("x&nbsp;y", "x y"),
    ("schÃ¶n", "schön"), ("“it’s”", "\"it's\""), ("a photo of a cat.", "a photo of a cat."), ("", ""), ("Ａ", "A"),
])
def test_texts_are_cleaned_of_mojibake_entities_and_white_space(text: str, wanted: str) -> None:
    assert clean(text) == wanted
    assert clean(clean(text)) == wanted
