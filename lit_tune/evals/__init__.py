"""Evaluations: how well picture vectors and caption vectors find each other. They get arrays, never models."""

from lit_tune.evals.sets import EvalSet, evaluate_set, make_set, set_floors
from lit_tune.evals.tables import table

__all__ = ["EvalSet", "evaluate_set", "make_set", "set_floors", "table"]
