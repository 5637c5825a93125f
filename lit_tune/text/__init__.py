"""The frozen text encoder: its files, tokens, vectors, and their cache on disk."""
