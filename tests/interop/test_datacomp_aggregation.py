"""A results file of ours, read the way DataComp's aggregation reads one: pandas, 38 rows, means by name."""

import numpy as np
import pandas as pd
import pytest

from lit_tune.evals.aggregate import aggregate
from lit_tune.evals.catalog import DATACOMP
from lit_tune.evals.results import Result, write_results

pytestmark = pytest.mark.interop


@pytest.fixture
def every():
    """All 40 tasks with made-up figures, some of them with more metrics than the main one."""
    rng = np.random.default_rng(3)
    made = {}
    for task in DATACOMP:
        value = float(rng.uniform(0, 1))
        metrics = {task.main_metric or "acc": value, "acc5": 1.0, "main_metric": value if task.main_metric else None}
        made[task.name] = Result(task.name, task.key, task.title, metrics, {"prompt": "x: "}, {"dim 8": {"acc1": 0.5}})
    return made


def read_as_table(file):
    frame = pd.read_json(file, lines=True)
    metrics = pd.DataFrame(list(frame["metrics"]), index=frame.index)
    table = pd.concat([frame.drop(columns="metrics"), metrics], axis=1)
    return table[table["main_metric"].notna()].set_index("dataset")


def test_pandas_finds_38_main_metrics_and_the_same_averages(every, tmp_path):
    write_results(tmp_path / "eval_results.jsonl", every.values())
    table = read_as_table(tmp_path / "eval_results.jsonl")
    assert len(table) == 38 and table.index.is_unique
    ours, scores = aggregate(every), table["main_metric"]
    assert ours["Average"] == pytest.approx(scores.mean(), abs=1e-12)
    assert ours["ImageNet"] == pytest.approx(scores["ImageNet 1k"], abs=1e-12)
    assert ours["Retrieval"] == pytest.approx(scores[["Flickr", "MSCOCO", "WinoGAViL"]].mean(), abs=1e-12)
    shifts = scores[scores.index.str.match(r"ImageNet[ -](?!1k)") | (scores.index == "ObjectNet")]
    assert len(shifts) == 6 and ours["ImageNet dist. shifts"] == pytest.approx(shifts.mean(), abs=1e-12)
    vtab = scores[table["key"].str.startswith("vtab/") | (table.index == "SUN397")]  # whose key has no vtab/
    assert len(vtab) == 13 and ours["VTAB"] == pytest.approx(vtab.mean(), abs=1e-12)
