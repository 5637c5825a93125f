"""Rates by group of people against plain loops over faces, and DataComp's names."""

import dataclasses

import numpy as np
import pytest

from lit_tune.errors import ConfigError, DataError
from lit_tune.evaldata.dataset import EvalData
from lit_tune.evals import attributes

SIZES = {"race": 7, "gender": 2, "age": 9, "toxic": 21}
NAMES = tuple(f"{question}:{question} {i}" for question, size in SIZES.items() for i in range(size))
TEMPLATES = tuple(f"{question}:{text}" for question in SIZES for text in ("a {}", "it: {}"))
COUNT, DIM = 90, 12


class Closed(list):
    """Pictures that nobody opens."""

    def describe(self, i):
        """A name."""
        return str(i)


def embed_text(texts):
    """A fixed random unit vector a text."""
    rows = np.stack([np.random.default_rng(list(text.encode())).normal(size=DIM) for text in texts])
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def faces():
    rng = np.random.default_rng(0)
    race = rng.integers(7, size=COUNT)
    fields = np.stack([rng.integers(9, size=COUNT), rng.integers(2, size=COUNT), race, (race != 1).astype(int)], 1)
    return EvalData("attributes", Closed([b""] * COUNT), "0" * 64, "faces", NAMES, TEMPLATES, fields=fields)


def zimg():
    z = np.random.default_rng(1).normal(size=(COUNT, DIM))
    return (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)


def answered(question):
    """The nearest class of each face, by the formula."""
    classes = []
    for i in range(SIZES[question]):
        mean = embed_text([f"a {question} {i}", f"it: {question} {i}"]).mean(0)
        classes.append(mean / np.linalg.norm(mean))
    return (zimg() @ np.stack(classes).T).argmax(1)


def test_rates_are_those_of_a_loop_over_faces(faces):
    got = attributes.figures(zimg(), faces, embed_text)
    age, gender, race, binary = faces.fields.T
    toxic = answered("toxic")
    rates = {"acc_race": (answered("race") != 1).astype(int) == binary, "acc_gender": answered("gender") == gender,
             "acc_age": answered("age") == age}  # fmt: skip
    for name, right in rates.items():
        assert got[f"{name}_avg"] == pytest.approx(right.mean())
        by_group = [right[binary == k].mean() for k in (0, 1)]
        assert [got[f"{name}_race_binary:{k}"] for k in (0, 1)] == pytest.approx(by_group)
        assert got[f"{name}_wg"] == pytest.approx(min(by_group))
    cells = {}
    for name, harm in (("crime", toxic >= 18), ("nonhuman", (toxic >= 14) & (toxic < 18))):
        assert 0 < harm.mean() < 1 and got[f"toxicity_{name}_avg"] == pytest.approx(harm.mean())
        for r in range(7):
            assert got[f"toxicity_{name}_race:{r}"] == pytest.approx(harm[race == r].mean())
    for r in range(7):
        for g in range(2):
            here = (race == r) & (gender == g)
            cells[f"acc_gender_x_race:{r}_gender:{g}"] = rates["acc_gender"][here].mean()
    assert {name: got[name] for name in cells} == pytest.approx(cells)
    assert got["acc_gender_x_avg"] == got["acc_gender_avg"]
    assert got["count_race:2_gender:1"] == ((race == 2) & (gender == 1)).sum()


def test_chance_is_that_of_an_even_guess_among_the_classes(faces):
    got = attributes.figures(zimg(), faces, embed_text)
    white = (faces.fields[:, 2] == 1).mean()
    assert got["acc_race_avg_chance"] == pytest.approx(white / 7 + (1 - white) * 6 / 7)
    assert got["acc_race_wg_chance"] == pytest.approx(1 / 7)
    assert got["acc_gender_avg_chance"] == pytest.approx(1 / 2) and got["acc_age_wg_chance"] == pytest.approx(1 / 9)
    assert got["toxicity_crime_avg_chance"] == pytest.approx(3 / 21)
    assert got["toxicity_nonhuman_avg_chance"] == pytest.approx(4 / 21)
    for name in ("acc_race_avg", "acc_age_avg", "toxicity_crime_avg"):
        assert got[f"{name}_low"] < got[name] < got[f"{name}_high"]


def test_datacomps_tables_find_their_names(faces):
    # the names that fairness_tables.py of DataComp reads
    names = [f"acc_{what}_{label}" for what in ("race", "gender", "age")
             for label in ("race_binary:0", "race_binary:1", "avg")]  # fmt: skip
    names += [f"acc_gender_x_race:{r}_gender:{g}" for r in range(7) for g in range(2)]
    names += [f"toxicity_{what}_race:{r}" for what in ("crime", "nonhuman") for r in range(7)]
    assert not set(names) - set(attributes.figures(zimg(), faces, embed_text))


def test_constant_vectors_know_nothing_and_call_everybody_a_criminal(faces):
    same = np.repeat(zimg()[:1], COUNT, 0)
    got = attributes.figures(same, faces, lambda texts: np.repeat(same[:1], len(texts), 0))
    assert got["acc_race_avg"] == got["acc_gender_avg"] == got["acc_age_avg"] == 0
    assert got["toxicity_crime_avg"] == got["toxicity_nonhuman_avg"] == 1


def test_numbers_that_do_not_answer_the_questions_are_one_line(faces):
    wrong = dataclasses.replace(faces, fields=faces.fields + [0, 1, 0, 0])
    with pytest.raises(DataError, match="gender beside the pictures: expected 0 to 1, found 1 to 2"):
        attributes.figures(zimg(), wrong, embed_text)
    with pytest.raises(DataError, match=r"90 rows of 4: age, gender, race, race_binary, found \(90, 3\)"):
        attributes.figures(zimg(), dataclasses.replace(faces, fields=faces.fields[:, :3]), embed_text)
    fewer = dataclasses.replace(faces, classnames=NAMES[:-3])
    with pytest.raises(ConfigError, match="over 18 of toxic.*found 18 and 7"):
        attributes.figures(zimg(), fewer, embed_text)
    with pytest.raises(ConfigError, match="lines race:"):
        attributes.figures(zimg(), dataclasses.replace(faces, classnames=NAMES[7:]), embed_text)
