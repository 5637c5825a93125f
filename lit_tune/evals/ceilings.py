"""What the text model alone allows: how well its own vectors answer the question that pictures are asked."""

import numpy as np
from jaxtyping import Float, Integer

from lit_tune.evals.retrieval import KS, find_labels
from lit_tune.evals.zero_shot import unit

ASKED = 10  # templates that are classified by all the others, spread over the list: 80 would cost more than the score


def templates(prompts: Float[np.ndarray, "c t d"]) -> dict[str, float]:
    """{"text_ceiling_acc1"}: the prompts of a template, classified by class vectors made of all the others; the mean
    over (at most ten) templates.

    A picture tower that put every picture exactly where a prompt of its class lies would score about this. {} with one
    template.

    Args:
        prompts: unit rows of t prompts a class.
    """
    classes, count, _ = prompts.shape
    if count < 2:
        return {}
    total, hits = prompts.sum(1, dtype=np.float64), []
    for t in np.unique(np.linspace(0, count - 1, min(count, ASKED)).astype(int)):
        rest = unit((total - prompts[:, t]).astype(np.float32))
        hits.append(find_labels(np.ascontiguousarray(prompts[:, t]), rest, np.arange(classes)).hits(1).mean())
    return {"text_ceiling_acc1": float(np.mean(hits))}


def siblings(ztxt: Float[np.ndarray, "m d"], owner: Integer[np.ndarray, " m"]) -> dict[str, float]:
    """{"text_ceiling_recall@K"}: a caption looks among the first captions of all pictures for its picture's.

    Each picture is stood for by its first caption, the others are the queries: what retrieval scores if every picture
    lies where its first caption does. {} where no picture has a second caption.

    Args:
        ztxt: unit rows, in the order of their pictures.
        owner: (m,) picture of each caption.
    """
    first = np.unique(owner, return_index=True)[1]
    asked = np.setdiff1d(np.arange(len(owner)), first)
    if not len(asked):
        return {}
    found = find_labels(ztxt[asked], ztxt[first], owner[asked])
    return {f"text_ceiling_recall@{k}": float(found.hits(k).mean()) for k in KS}
