"""The panels of a task: well-formed, escaped, in words, and the same from stored details."""

import json

import numpy as np
import pytest
from shown_tasks import AXES, EVIL, SEEN, THINGS, TRUE, captioned, classes, collected
from test_report import Nesting

from lit_tune.report import confusion, embedding_map, grids, mistakes
from lit_tune.report.details_style import CSS

PANELS = (mistakes, confusion, grids, embedding_map)


def details(kind, many=3):
    if kind == "retrieval":
        data = captioned([(EVIL, "tom"), ("a dog",), ("a cow",), ("a hen",)])
        return collected(data, THINGS, THINGS[[1, 2, 0, 3, 3]])
    return collected(classes(TRUE, [EVIL, "dog", *(f"cow {i}" for i in range(many - 2))]), SEEN, np.eye(3)[
        np.minimum(np.arange(many), 2)])


def whole(stored):
    return "".join(one.panel(stored) for one in PANELS)


@pytest.mark.parametrize("kind", ["classification", "retrieval"])
def test_panels_are_well_formed_load_nothing_and_escape_names(kind):
    page = whole(details(kind))
    parsed = Nesting(page)
    assert parsed.open == [] and "script" not in parsed.tags
    sources = [value for name, value in parsed.attributes if name in ("src", "href", "srcset")]
    assert sources and all(value.startswith("data:image/jpeg;base64,") for value in sources)
    assert EVIL not in page and "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; &lt;/td&gt;" in page
    assert "<" not in CSS and "url(" not in CSS


@pytest.mark.parametrize("kind", ["classification", "retrieval"])
def test_panels_from_stored_details_are_the_same(kind):
    stored = details(kind)
    assert whole(json.loads(json.dumps(stored, allow_nan=False))) == whole(stored)


def test_an_address_that_was_written_into_the_details_is_not_loaded():
    stored = details("classification")
    stored["mistakes"]["worst"][0]["picture"] = "https://example.org/x.jpg"
    assert "example.org" not in mistakes.panel(stored)


def test_mistakes_say_how_they_were_chosen():
    page = mistakes.panel(details("classification"))
    assert "Chosen as the worst" in page and "Drawn at random" in page and "3 of 6 pictures" in page
    assert "place 4 of 4" in mistakes.panel(details("retrieval"))


def test_a_set_without_mistakes_says_so():
    page = mistakes.panel(collected(classes([0, 1, 2], ("cat", "dog", "cow")), AXES, AXES))
    assert "No mistakes among 3 pictures" in page and "<img" not in page
    right = collected(captioned([(f"thing {i}",) for i in range(4)]), THINGS, THINGS)
    assert "Each of the 4 captions finds its picture first" in mistakes.panel(right)


def test_heat_map_prints_each_count_and_stands_only_for_few_classes():
    page = confusion.panel(details("classification"))
    assert page.count("<td") == 9 + 4 * 3 + 3 * 3 and 'class="heat"' in page  # three confusions, three classes
    assert page.count("--share:34%") == 6  # every row: one of two right, one of two wrong
    large = confusion.panel(details("classification", many=31))
    assert 'class="heat"' not in large and "Most frequent confusions" in large


def test_map_names_the_gap_and_has_words_beside_the_picture():
    page = embedding_map.panel(details("classification"))
    gap = np.linalg.norm(SEEN.mean(0) - AXES.mean(0))
    assert f"gap {gap:.3f}" in page and f"lie {gap:.3f} apart" in page
    assert page.count('role="img"') == 2 and "6 pictures as circles, 3 texts as squares" in page


def test_map_of_constant_vectors_is_drawn_without_a_gap():
    same = np.tile(AXES[:1], (3, 1))
    page = embedding_map.panel(collected(classes([0, 1, 2], "abc"), same, same))
    assert "nan" not in page and "gap 0" not in page and page.count("<svg") == 2


def test_a_task_that_stores_nothing_has_no_panels():
    assert whole({"task": "game", "kind": "association", "samples": 3}) == ""
