"""From shards or folders to batches: index, order, sources, transforms, loader (only `loader` imports jax)."""
