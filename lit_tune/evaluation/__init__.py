"""Evaluation of a model: decode and embed on all devices of all hosts, score, write results and the page."""
