"""What the picture vectors alone allow: nearest neighbours and a logistic regression over frozen training vectors.

Both learn from the training split and are asked about the test split; the picture tower is not touched.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Integer

from lit_tune.errors import ConfigError, explain
from lit_tune.evals import classification
from lit_tune.evals.retrieval import Found

NEIGHBOURS, TEMPERATURE = 20, 0.07  # k and T of DINO's evaluation (arXiv 2104.14294; eval_knn.py of its repository)
ROWS, COLUMNS = 1024, 8192  # test and training pictures compared at a time: 64 MiB of float64 scores
# CLIP (arXiv 2103.00020, A.3): 7 values of the L2 strength, then the step halved four times around the best one, which
# ends at 8 values a decade; at most 1,000 iterations
DECADES, HALVINGS, ITERATIONS = (-6, -4, -2, 0, 2, 4, 6), 4, 1000
HELD_OUT = 5  # one training picture in so many chooses the strength
NUDGE = 2.0**-40  # below the spacing of float32 cosines above 2e-5: it orders equal ones and no others


def probes(
    names: Sequence[str], ztrain: Float[np.ndarray, "t d"], train_labels: np.ndarray | None,
    ztest: Float[np.ndarray, "n d"], labels: np.ndarray | None,
) -> dict[str, float]:  # fmt: skip
    """The figures of each probe: `knn_acc1`, `linear_probe_acc1`, ..., with _chance, _low, _high.

    Args:
        names: "knn", "linear".
        ztrain: (t, d) float32 unit rows of the training split.
        train_labels: (t,) class of each training picture.
        ztest: (n, d) float32 unit rows.
        labels: (n,) class of each picture.

    Raises:
        ConfigError: the data has not one class a picture, or scikit-learn is missing.
    """
    for split in (train_labels, labels):
        check(names, "classification" if split is not None and split.ndim == 1 else "none or several")
    figures: dict[str, float] = {}
    for name in names:
        figures |= PROBES[name](ztrain, train_labels, ztest, labels)
    return figures


def check(names: Sequence[str], kind: str) -> None:
    """Refuse what cannot be probed; to be asked before anything is embedded.

    Args:
        names: of the probes.
        kind: of the data, one of `evaldata.dataset.KINDS`.

    Raises:
        ConfigError: no such probe, the data has not one class a picture, or scikit-learn is missing.
    """
    unknown = [name for name in names if name not in PROBES]
    if unknown:
        raise ConfigError(explain("--probes", expected=" or ".join(PROBES), found=repr(unknown[0]),
                                  do="choose among them"))  # fmt: skip
    if names and kind != "classification":
        raise ConfigError(explain("--probes", expected="data with one class a picture", found=kind, do="leave it out"))
    if "linear" in names:
        _regression()


def knn(
    ztrain: Float[np.ndarray, "t d"], train_labels: Integer[np.ndarray, " t"], ztest: Float[np.ndarray, "n d"],
    labels: Integer[np.ndarray, " n"],
) -> dict[str, float]:  # fmt: skip
    """{"knn_acc1", "knn_acc5", "knn_mean_per_class_recall"}: the 20 nearest vote, weighted with exp(cosine / 0.07).

    Of equally near training pictures those of a wrong class count first, and so do classes with equal votes. A class
    without a vote is never first.
    """
    size = int(max(train_labels.max(), labels.max())) + 1
    votes = np.zeros((len(ztest), size))
    for start in range(0, len(ztest), ROWS):
        here = slice(start, start + ROWS)
        near, cosine = _nearest(ztest[here], labels[here], ztrain, train_labels)
        rows = np.broadcast_to(np.arange(len(near))[:, None], near.shape)
        np.add.at(votes[here], (rows, train_labels[near]), np.exp(cosine / TEMPERATURE))
    return _figures("knn_", votes, labels, train_labels)


def _nearest(
    ztest: np.ndarray, labels: np.ndarray, ztrain: np.ndarray, train_labels: np.ndarray
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """(numbers, cosines) of the nearest training pictures, in no order."""
    wide = ztest.astype(np.float64)
    near, best = np.zeros((len(ztest), 0), np.int64), np.zeros((len(ztest), 0))
    for start in range(0, len(ztrain), COLUMNS):
        here = slice(start, start + COLUMNS)
        # rounded once from float64, so that equal vectors are equally near
        cosine = (wide @ ztrain[here].astype(np.float64).T).astype(np.float32).astype(np.float64)
        cosine -= NUDGE * (train_labels[here] == labels[:, None])
        best = np.concatenate([best, cosine], 1)
        own = np.broadcast_to(np.arange(start, start + cosine.shape[1]), cosine.shape)
        near = np.concatenate([near, own], 1)
        k = min(NEIGHBOURS, best.shape[1])
        top = np.argpartition(-best, k - 1, axis=1)[:, :k]
        near, best = np.take_along_axis(near, top, 1), np.take_along_axis(best, top, 1)
    return near, best


def linear(
    ztrain: Float[np.ndarray, "t d"], train_labels: Integer[np.ndarray, " t"], ztest: Float[np.ndarray, "n d"],
    labels: Integer[np.ndarray, " n"], seed: int = 0,
) -> dict[str, float]:  # fmt: skip
    """{"linear_probe_acc1", "linear_probe_acc5", "linear_probe_mean_per_class_recall"} of a logistic regression
    (scikit-learn, L-BFGS), with the strength that was chosen: `linear_probe_C`, and whether the last fit ended by
    itself: `linear_probe_converged`.

    C is chosen on a fifth of the training pictures, held out by seed from every class; then all of them are fitted.

    Raises:
        ConfigError: scikit-learn is missing, or there is only one class to learn.
    """
    if len(np.unique(train_labels)) < 2:
        raise ConfigError(explain("--probes=linear", expected="a training split of two or more classes", found="one",
                                  do="leave it out"))  # fmt: skip
    held = _held_out(train_labels, seed)
    kept = ~held
    tried: dict[float, float] = {}

    def right(decade: float) -> float:
        """Share of held-out pictures that are right with C = 10 ** decade."""
        if decade not in tried:
            model, _ = _fit(ztrain[kept], train_labels[kept], decade)
            tried[decade] = float((model.predict(ztrain[held]) == train_labels[held]).mean())
        return tried[decade]

    # the first of equal ones: the strongest regularisation; scikit-learn's C = 1 where no class has two pictures
    best, step = max(DECADES, key=right) if held.any() else 0.0, 2.0
    for _ in range(HALVINGS if held.any() else 0):
        step /= 2
        best = max((d for d in (best - step, best, best + step) if DECADES[0] <= d <= DECADES[-1]), key=right)
    model, converged = _fit(ztrain, train_labels, best)
    scores = np.full((len(ztest), int(max(train_labels.max(), labels.max())) + 1), -np.inf)
    logits = model.decision_function(ztest)
    # two classes have one number between them
    scores[:, model.classes_] = np.stack([-logits, logits], 1) if logits.ndim == 1 else logits
    return _figures("linear_probe_", scores, labels, train_labels) | {
        "linear_probe_C": float(10.0**best), "linear_probe_converged": float(converged)}  # fmt: skip


def _held_out(labels: Integer[np.ndarray, " t"], seed: int) -> np.ndarray:
    """Which training pictures choose the strength: a fifth of every class, none of a class with one picture."""
    held, rng = np.zeros(len(labels), bool), np.random.default_rng(seed)
    for one in np.unique(labels):
        own = np.flatnonzero(labels == one)
        count = max(len(own) // HELD_OUT, 1) if len(own) > 1 else 0
        held[rng.permutation(own)[:count]] = True
    return held


def _fit(z: np.ndarray, labels: np.ndarray, decade: float) -> tuple[Any, bool]:
    """(the fitted model, whether it ended before the last iteration)."""
    model = _regression()(C=10.0**decade, max_iter=ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it stopped at the last iteration: told beside the figures
        model.fit(np.asarray(z, np.float32), labels)
    return model, int(np.max(model.n_iter_)) < ITERATIONS


def _regression() -> Any:
    """scikit-learn's LogisticRegression.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ConfigError(explain("--probes=linear", expected="scikit-learn", found=error,
                                  do="pip install 'lit_tune[eval]'")) from error  # fmt: skip
    return LogisticRegression


def _figures(
    prefix: str, scores: Float[np.ndarray, "n c"], labels: Integer[np.ndarray, " n"],
    train_labels: Integer[np.ndarray, " t"],
) -> dict[str, float]:  # fmt: skip
    """The figures of a classification from the scores of all classes; chance guesses among the trained ones."""
    own = scores[np.arange(len(labels)), labels][:, None]
    # "not lower": a class without a score ties with the others that have none, and loses
    level = (~(scores < own)).sum(1) - 1
    above = (scores > own).sum(1)
    one = np.ones(len(labels), np.int64)
    found = Found(above, level - above, one, one, scores.shape[1])
    figures = classification.metrics(found, labels)
    share, trained = float(np.isin(labels, train_labels).mean()), len(np.unique(train_labels))
    guess = share / trained
    del figures["acc1_floor_majority"]  # stands beside the zero-shot figure
    figures |= {"acc1_chance": guess, "mean_per_class_recall_chance": guess}
    if "acc5" in figures:
        figures["acc5_chance"] = share * min(5, trained) / trained
    return {prefix + name: value for name, value in figures.items()}


PROBES: dict[str, Callable[..., dict[str, float]]] = {"knn": knn, "linear": linear}
