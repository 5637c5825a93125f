"""Accuracy by group of pictures, and the worst group: WILDS (iWildCam, Camelyon17, FMoW), Dollar Street, GeoDE.

Names are those of WILDS' evaluator with DataComp's fields: `acc_avg`, `acc_region:3`, `count_region:3`, `acc_wg`.
Groups without pictures are left out; WILDS lists them with a figure of 0 and leaves them out of the worst only.

Source: eval_utils/wilds_eval.py and fairness_eval.py of github.com/mlfoundations/datacomp, and
wilds/common/{grouper.py,metrics/all_metrics.py} of github.com/p-lambda/wilds (both MIT), read for the definitions.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from lit_tune.errors import DataError, explain
from lit_tune.evals.intervals import LEVEL, REPEATS

TAIL = (1 - LEVEL) / 2
GROUPED = {"camelyon17": ("acc", {"slide": "acc_wg"}),
           # DataComp sets no names of the regions, so its "leave out Other" never applies: every region counts
           "fmow": ("acc", {"year": "acc_worst_year", "region": "acc_worst_region"}),
           "dollar_street": ("acc_top5", {"income_ds": "acc_top5_wg"}),
           "geode": ("acc", {"region": "acc_wg"})}  # task -> (metric, column -> name of the worst)  # fmt: skip


def figures(
    name: str, labels: Integer[np.ndarray, " n"], predicted: Integer[np.ndarray, " n"], top5: Bool[np.ndarray, " n"],
    fields: Integer[np.ndarray, "rows f"], columns: Sequence[str],
) -> dict[str, float]:  # fmt: skip
    """The figures by group of a task, {} for a task without groups; its main metric with `_low` and `_high`.

    Args:
        name: of the task, as in the catalog.
        labels: (n,) class of each picture.
        predicted: (n,) best class of each picture.
        top5: (n,) whether the right class is among the best five.
        fields: (n, f) the numbers beside the pictures.
        columns: f names of those numbers.

    Raises:
        DataError: `fields` has not one row a picture and one column a name.
    """
    if name not in GROUPED and name != "iwildcam":
        return {}
    if fields.shape != (len(labels), len(columns)):
        expected = f"{len(labels)} rows of {len(columns)} numbers ({', '.join(columns)})"
        found = f"{fields.shape[0]} rows of {fields.shape[1]}"
        raise DataError(explain(f"{name}, the numbers beside the pictures", expected=expected, found=found,
                                do="fetch the data again"))  # fmt: skip
    if name == "iwildcam":
        return macro(labels, predicted)
    metric, worst = GROUPED[name]
    hits = top5 if metric == "acc_top5" else predicted == labels
    result: dict[str, float] = {}
    for column, lowest in worst.items():
        result |= by_group(metric, hits, {column: fields[:, list(columns).index(column)]}, lowest)
    if name == "fmow":  # only its main metric has an interval
        del result["acc_worst_year_low"], result["acc_worst_year_high"]
    return result


def chances(name: str, labels: Integer[np.ndarray, " n"], classes: int) -> dict[str, float]:
    """The `_chance` of what `figures` tells of a task: answers drawn evenly from all classes.

    Of the lowest group: what every group tends to, the same for all; the lowest of small groups lies below it by luck.
    Of F1: its formula with the expected counts, which is what it tends to with many pictures.
    """
    if name == "iwildcam":
        counts = np.bincount(labels)
        counts = counts[counts > 0]
        f1 = (2 * counts / classes / (counts + len(labels) / classes)).mean()
        guess = {name: 1 / classes for name in ("acc_avg", "recall-macro_all")} | {"F1-macro_all": float(f1)}
    elif name in GROUPED:
        metric, worst = GROUPED[name]
        rate = min(5 if metric == "acc_top5" else 1, classes) / classes
        guess = {key: rate for key in (f"{metric}_avg", *worst.values())}
    else:
        guess = {}
    return {f"{key}_chance": rate for key, rate in guess.items()}


def by_group(
    metric: str, hits: Bool[np.ndarray, " n"], fields: Mapping[str, Integer[np.ndarray, " n"]], worst: str
) -> dict[str, float]:
    """{metric_avg, metric_FIELD:K, count_FIELD:K for the groups that occur, worst, its _low and _high}.

    Args:
        metric: what the names begin with.
        hits: (n,) whether each picture counts.
        fields: what forms the groups; two fields form one group for each pair that occurs: "race:2_gender:0".
        worst: name of the lowest rate.
    """
    values, index = np.unique(np.stack(list(fields.values()), 1), axis=0, return_inverse=True)
    counts = np.bincount(index.reshape(-1))
    rates = np.bincount(index.reshape(-1), weights=hits) / counts
    result = {f"{metric}_avg": float(hits.mean())}
    for value, rate, count in zip(values, rates, counts, strict=True):
        group = "_".join(f"{field}:{number}" for field, number in zip(fields, value, strict=True))
        result |= {f"{metric}_{group}": float(rate), f"count_{group}": float(count)}
    low, high = _worst_interval(rates, counts)
    return result | {worst: float(rates.min()), f"{worst}_low": low, f"{worst}_high": high}


def macro(labels: Integer[np.ndarray, " n"], predicted: Integer[np.ndarray, " n"]) -> dict[str, float]:
    """{"acc_avg", "recall-macro_all", "F1-macro_all" with its _low and _high}.

    Both means run over the classes that occur among the right answers, as in WILDS; scikit-learn's own default for
    F1 adds the classes that were only predicted, each with a 0.
    """
    pairs, counts = np.unique(np.stack([labels, predicted], 1), axis=0, return_counts=True)
    index = np.unique(pairs, return_inverse=True)[1].reshape(pairs.shape)  # classes numbered from 0
    recall, f1 = _macro(index, counts)
    low, high = _f1_interval(index, counts)
    return {"acc_avg": float((labels == predicted).mean()), "recall-macro_all": recall,
            "F1-macro_all": f1, "F1-macro_all_low": low, "F1-macro_all_high": high}  # fmt: skip


def _macro(pairs: Int[np.ndarray, "p 2"], counts: Integer[np.ndarray, " p"]) -> tuple[float, float]:
    """(mean recall, mean F1) of `counts[i]` pictures each of class pairs[i, 0] that were called pairs[i, 1]."""
    size = int(pairs.max()) + 1
    right, called = (np.bincount(pairs[:, side], weights=counts, minlength=size) for side in (0, 1))
    same = pairs[:, 0] == pairs[:, 1]
    both = np.bincount(pairs[same, 0], weights=counts[same], minlength=size)
    occurs = right > 0
    # F1 = 2 precision recall / (precision + recall) = 2 both / (right + called)
    both, right, called = both[occurs], right[occurs], called[occurs]
    return float((both / right).mean()), float((2 * both / (right + called)).mean())


def _f1_interval(
    pairs: Int[np.ndarray, "p 2"], counts: Integer[np.ndarray, " p"], seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval of the mean F1: drawing pictures is a multinomial draw over (right, called) pairs."""
    rng, total = np.random.default_rng(seed), int(counts.sum())
    drawn = [_macro(pairs, rng.multinomial(total, counts / total))[1] for _ in range(REPEATS)]
    low, high = np.quantile(drawn, (TAIL, 1 - TAIL))
    return float(low), float(high)


def _worst_interval(
    rates: Float[np.ndarray, " g"], counts: Integer[np.ndarray, " g"], seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval of the lowest rate: pictures are drawn anew within each group.

    The lowest of several rates tends to lie lower still in a resample, so the ends are stretched where they would not
    hold the figure itself. Figures of exactly 0 or 1 get the exact binomial end, as in `intervals`.
    """
    drawn = np.random.default_rng(seed).binomial(counts, rates, size=(REPEATS, len(rates))) / counts
    low, high = np.quantile(drawn.min(1), (TAIL, 1 - TAIL))
    worst = rates.min()
    reach = 1 - TAIL ** (1 / counts)  # Clopper and Pearson 1934
    if worst == 0:
        high = max(high, reach[rates == 0].min())
    if worst == 1:
        low = min(low, (1 - reach).min())
    return float(min(low, worst)), float(max(high, worst))
