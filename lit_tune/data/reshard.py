"""`lit-tune data reshard`: the pairs of a uid list, copied byte for byte into shards of their own.

Names are those of DataComp's resharder: the key is UID-J, J counting the copies of a uid that the list holds several
times. Which pairs go where is known from the indexes before a byte is copied, so shards are written in any order and by
any count of workers, and are the same bytes each time.

Source: mlfoundations/datacomp, resharder.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lit_tune.data import indexing, parallel, storage
from lit_tune.data.sample import BadSample
from lit_tune.data.shard_folder import Loss, ShardFolder
from lit_tune.data.storage import Location
from lit_tune.data.subset import Subset
from lit_tune.data.tar_source import Piece, TarSource, caption_member, open_shards
from lit_tune.data.tar_write import TarShard
from lit_tune.errors import DataError, explain


@dataclass(frozen=True)
class _Job:
    """What every worker is told, beside its own shard."""

    out: ShardFolder
    subset: Subset
    caption_field: str


def reshard(
    paths: Sequence[Location], spec: str, subset: Subset, out: Path, *, per_shard: int, caption_field: str,
    workers: int, allow_missing: float,
) -> dict[str, Any]:
    """Write the subset; a second call goes on where a first one was ended.

    Args:
        paths: the shards, in order.
        spec: what the user wrote.
        subset: the pairs to keep.
        out: the folder to write.
        per_shard: samples a shard.
        caption_field: see TarSource.
        workers: processes at most.
        allow_missing: share of the shards that may be missing or damaged.

    Returns:
        Counts, see `account`; also in out/reshard.json.

    Raises:
        ConfigError: the list is wrong, names no pair, or `out` holds something else.
        DataError: too many bad shards.
    """  # fmt: skip
    found = indexing.index(paths, caption_member(caption_field), workers, subset)
    source = open_shards(paths, spec, caption_field, allow_missing, subset=subset)
    folder = ShardFolder(out, "reshard", "tar")
    # Every sample counts in the fingerprint, so the list itself does not have to be compared.
    plan = {"pairs": source.fingerprint, "per_shard": per_shard}
    starts = range(0, len(source), per_shard)
    with folder.opened(plan):
        todo = [number for number in range(len(starts)) if not folder.is_done(number)]
        items = [(number, source.pieces(starts[number], min(starts[number] + per_shard, len(source))))
                 for number in todo]
        sizes = {path: storage.state(path).size / max(count, 1) for path, count in source.shard_pairs()}
        weights = {number: int(sum(sizes[piece.path] * (piece.stop - piece.start) for piece in pieces))
                   for number, pieces in items}
        progress = parallel.Progress("reshard", len(todo), sum(weights.values()))
        write = partial(_write, job=_Job(folder, subset, caption_field))
        try:
            for (number, pieces), _ in parallel.each(write, items, workers):
                progress.add(sum(piece.stop - piece.start for piece in pieces), weights[number])
        except KeyboardInterrupt:
            progress.interrupted()
            raise
        return folder.finish(plan, len(starts), account(source, found))


def account(source: TarSource, found: indexing.Indexed) -> dict[str, Any]:
    """What came in and why it was left out; `groups_in` = the sum of `left_out` + `pairs_in_list`.

    Returns:
        `spec`, `groups_in` samples of any kind, `left_out` {no_image, no_caption, not_in_list, without_uid}: number,
        `pairs_in_list`, `samples_in` that these count for, `bad_shards`.
    """
    counts, listed = found.counts, found.listed
    left_out = {"no_image": counts["no_image"], "no_caption": counts["no_caption"],
                "not_in_list": listed["misses"] - listed["without_uid"], "without_uid": listed["without_uid"]}
    return {"spec": source.spec, "groups_in": found.groups, "left_out": left_out, "pairs_in_list": listed["hits"],
            "samples_in": len(source), "bad_shards": source.problems}


def lines(result: dict[str, Any]) -> list[str]:
    """The counts for people."""
    left_out = ", ".join(f"{name} {count:,}" for name, count in result["left_out"].items() if count) or "none"
    lost = ", ".join(f"{kind} {count:,}" for kind, count in result["lost"].items()) or "none"
    return [
        f"{result['spec']}: {result['groups_in']:,} samples in, {result['samples_out']:,} out in "
        f"{result['shards_out']:,} shards",
        f"  left out        {left_out}",
        f"  in the list     {result['pairs_in_list']:,} pairs, which count for {result['samples_in']:,} samples",
        f"  lost            {lost}",
        *(f"  bad: {problem}" for problem in result["bad_shards"]),
    ]


def _write(item: tuple[int, list[Piece]], job: _Job) -> None:
    """Write one shard of the subset."""
    number, pieces = item
    job.out.put(number, partial(_fill, pieces=pieces, job=job))


def _fill(path: Path, pieces: list[Piece], job: _Job) -> tuple[int, list[Loss]]:
    """Copy the samples of some pieces; (how many were written, those that could not be read)."""
    written, lost = 0, []
    with TarShard(path) as shard:
        for piece in pieces:
            # One shard at a time, and of a damaged one what lies before the damage: the parent allowed it.
            source = open_shards([piece.path], str(piece.path), job.caption_field, 1.0, subset=job.subset)
            if len(source) != piece.pairs:
                raise DataError(explain(str(piece.path), expected=f"{piece.pairs} pairs, as at the start",
                                        found=len(source), do="never change shards while they are read"))  # fmt: skip
            for i in range(piece.start, piece.stop):
                try:
                    members = source.members(i)
                except BadSample as bad:
                    name, key = source.describe(i)
                    lost.append({"shard": name, "key": key, "kind": bad.kind})
                    continue
                uid, copy = source.copy(i)
                shard.add(f"{uid}-{copy}", members)
                written += 1
    return written, lost
