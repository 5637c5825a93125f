"""What the training step needs on chips that are not there: compiled ahead of time, read, priced. See docs/plan.md."""
