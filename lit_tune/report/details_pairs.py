"""Mistakes and random queries of a task of captions and pictures, as JSON values."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from lit_tune.evals.retrieval import find, nearest
from lit_tune.evals.sets import EvalSet
from lit_tune.report.details_parts import number, short
from lit_tune.report.examples import Answer, Example, choose

WORST, QUERIES, FOUND = 16, 6, 5  # captions shown, random queries of each kind, answers of each


def numbered(captions: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    """(texts, picture of each, number of each one's text): captions in the order of their pictures."""
    texts = tuple(text for own in captions for text in own)
    group = np.unique(np.array(texts, dtype=object), return_inverse=True)[1].reshape(-1)
    return texts, np.repeat(np.arange(len(captions)), [len(own) for own in captions]), group


def mistakes(
    captions: Sequence[Sequence[str]], zimg: Float[np.ndarray, "n d"], ztxt: Float[np.ndarray, "m d"],
    thumbnail: Callable[[int], str],
) -> dict[str, Any]:  # fmt: skip
    """{"count", "worst"}: captions whose best right picture ranks worst, equal captions once.

    Each holds "caption", "picture" (its own), "rank" (1 would be right; ties count against the model), "of"
    (pictures in all) and "found": the first five as {"picture", "caption", "score", "right"}.
    """
    texts, owner, group = numbered(captions)
    ranks = find(zimg, ztxt, owner, group)[0].ranks
    order = np.argsort(-ranks, kind="stable")[: np.count_nonzero(ranks)]
    once = np.sort(np.unique(group[order], return_index=True)[1])[:WORST]  # the worst one of each text
    rows = order[once]
    found = zip(*nearest(ztxt[rows], zimg, FOUND), strict=True)
    worst = []
    for j, (items, scores) in zip(rows.tolist(), found, strict=True):
        right = set(owner[group == group[j]].tolist())
        answers = [{"picture": thumbnail(i), "caption": short(captions[i][0]), "score": number(score),
                    "right": i in right} for i, score in zip(items.tolist(), scores, strict=True)]  # fmt: skip
        worst.append({"caption": short(texts[j]), "picture": thumbnail(int(owner[j])), "rank": int(ranks[j]) + 1,
                      "of": len(zimg), "found": answers})  # fmt: skip
    return {"count": len(np.unique(group[order])), "texts": len(np.unique(group)), "worst": worst}


def grid(
    captions: Sequence[Sequence[str]], zimg: Float[np.ndarray, "n d"], ztxt: Float[np.ndarray, "m d"],
    picture: Callable[[int], bytes], thumbnail: Callable[[bytes], str], seed: int,
) -> dict[str, Any]:  # fmt: skip
    """{"texts", "pictures"}: random queries with their five best answers, drawn by seed and never by success."""
    texts, owner, group = numbered(captions)
    chosen = choose(EvalSet("", texts, ztxt, owner, group), zimg, picture, seed, QUERIES, FOUND)
    return {"texts": [_example(e, thumbnail) for e in chosen.texts],
            "pictures": [_example(e, thumbnail) for e in chosen.pictures]}  # fmt: skip


def _example(example: Example, thumbnail: Callable[[bytes], str]) -> dict[str, Any]:
    """One query with its answers."""
    answers = [_answer(answer, thumbnail) for answer in example.answers]
    shown = {"picture": thumbnail(example.picture)} if example.picture is not None else {}
    return {"text": short(example.text), "found": answers} | shown


def _answer(answer: Answer, thumbnail: Callable[[bytes], str]) -> dict[str, Any]:
    """One answer."""
    shown = {"picture": thumbnail(answer.picture)} if answer.picture is not None else {}
    return {"caption": short(answer.text), "right": answer.right, "score": number(answer.score)} | shown
