"""Recall at 1, 5 and 10 both ways, straight from the ranks that `find` gives; for tests of it."""

from typing import Any

from lit_tune.evals.retrieval import KS, find


def retrieval(*args: Any) -> dict[str, float]:
    """{"image_retrieval_recall@K", "text_retrieval_recall@K", each + "_chance"}; arguments as for `find`."""
    metrics = {}
    for name, direction in zip(("image_retrieval", "text_retrieval"), find(*args), strict=True):
        for k in KS:
            metrics[f"{name}_recall@{k}"] = float(direction.hits(k).mean())
            metrics[f"{name}_recall@{k}_chance"] = float(direction.chance(k).mean())
    return metrics
