"""`lit-tune verify WORKDIR_OR_CHECKPOINT`: are all files of a checkpoint as they were written? Imports no jax."""

import sys
from collections.abc import Sequence
from typing import Any

from lit_tune import cli, config, errors
from lit_tune.digests import NAME, find_damage, read_digests
from lit_tune.files import as_path


def main(argv: Sequence[str]) -> int:
    """The exit code: 0 if every checkpoint that was looked at is whole, 5 if one is not (its files are named).

    Args:
        argv: folders, each a run directory, its `checkpoints`, one checkpoint, or any folder with a digests.json.
    """
    places = config.parse(argv, "verify").args
    if not places:
        raise errors.ConfigError(errors.explain(
            "lit-tune verify", expected="a run's folder or a checkpoint", found="nothing", do="name one"))
    damaged = [folder for place in places for folder in _folders(as_path(place)) if not _is_whole(folder)]
    if damaged:
        raise errors.CheckpointError(f"damaged: {', '.join(map(str, damaged))}; a restart uses the newest whole one")
    return 0


def _folders(place: Any) -> list[Any]:
    """The checkpoints at a place, oldest first."""
    if not place.is_dir():
        raise errors.ConfigError(errors.explain(
            str(place), expected="a folder", found="none", do="name a run's folder or a checkpoint"))
    parent = place / "checkpoints" if (place / "checkpoints").is_dir() else place
    steps = sorted((p for p in parent.iterdir() if p.name.isdecimal() and p.is_dir()), key=lambda p: int(p.name))
    if (place / NAME).exists() or _is_step(place):
        return [place]
    if not steps:
        raise errors.CheckpointError(f"{place}: no checkpoint here")
    return steps


def _is_step(place: Any) -> bool:
    """Whether a folder without digests.json is one checkpoint all the same (it has lost them)."""
    return place.name.split(".")[0].isdecimal() and (place / "state").exists()


def _is_whole(folder: Any) -> bool:
    """Print what was found; a checkpoint that is just being written or removed does not count and is no damage."""
    if (folder.parent / f"{folder.name}.changing").exists() and read_digests(folder) is None:
        print(f"{folder}: not finished, does not count")
        return True
    damage = find_damage(folder)
    for line in damage:
        print(f"{folder}/{line}")
    if not damage:
        digests = read_digests(folder) or {"files": {}, "bytes": 0}
        print(f"{folder}: whole, {len(digests['files'])} files, {digests['bytes']:,} bytes")
    return not damage


if __name__ == "__main__":
    sys.exit(cli.run(main))
