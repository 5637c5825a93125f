"""The towers. Start at `two_towers.py`, then `vision.py`; parameters outside are plain nested dicts of arrays."""
