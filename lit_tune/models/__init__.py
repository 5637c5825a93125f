"""The towers. Start at `two_towers.py`, then `eva02.py`; parameters outside are plain nested dicts of arrays."""
