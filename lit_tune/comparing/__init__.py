"""Systems side by side: read their results, line them up, mark what was not measured alike, print. No models."""
