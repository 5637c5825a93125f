"""Self-attention kernels for accelerators, and the rule that chooses one; plain attention is in `models/layers.py`."""
