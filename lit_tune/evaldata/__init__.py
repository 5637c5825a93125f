"""Evaluation data as it lies on disk, read into one form. No jax: pictures stay encoded, texts stay texts."""
