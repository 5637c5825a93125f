"""`lit-tune data index`: the index of every shard, made once, in parallel, and what is wrong with which of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from lit_tune.data import storage, subset as subsets
from lit_tune.data.parallel import Progress, each
from lit_tune.data.storage import Location
from lit_tune.data.subset import Subset
from lit_tune.data.tar_index import Index, expected_samples, index_file, load, save, scan
from lit_tune.data.tar_source import shard_problem
from lit_tune.errors import ConfigError, DataError, explain


@dataclass
class Indexed:
    """What one pass over shards found; of one shard, or the sum of many.

    Attributes:
        shards: looked at.
        read: of these, how many were read now; the others' indexes were there.
        pairs: of a picture and a caption.
        groups: samples of any kind.
        shard_bytes: of all shards.
        read_bytes: of those read now.
        index_bytes: of the index files.
        counts: how often each reason was met for leaving something out, or noting it.
        listed: with a uid list: `hits` pairs that it names, `misses` that it does not, `without_uid` of these,
            `samples` that the pairs count for, `list_rows` that they account for.
        problems: one line for each shard that is missing or damaged.
    """

    shards: int = 0
    read: int = 0
    pairs: int = 0
    groups: int = 0
    shard_bytes: int = 0
    read_bytes: int = 0
    index_bytes: int = 0
    counts: Counter = field(default_factory=Counter)
    listed: Counter = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def add(self, other: "Indexed") -> None:
        """Put another's numbers and lines to these."""
        for name, value in vars(other).items():
            if isinstance(value, Counter):
                getattr(self, name).update(value)  # a sum of counters would forget those at 0
            else:
                setattr(self, name, getattr(self, name) + value)


def index(paths: Sequence[Location], caption_member: str, workers: int, subset: Subset | None = None) -> Indexed:
    """Index shards that the cache does not know yet; a shard that is done is never read again.

    Args:
        paths: the shards.
        caption_member: "txt" or "json".
        workers: processes at most.
        subset: a uid list whose rows are found too, for each shard.

    Returns:
        The sum, its problems in the order of `paths`.

    Raises:
        ConfigError: the uid list is wrong, or the cache folder cannot be written.
        KeyboardInterrupt: after a line that says how far it came; what was finished stays.
    """
    if subset is not None:
        subsets.opened(subset)
    total, problems = Indexed(), {}
    todo: list[Location] = []
    size = 0
    for path in paths:
        found, bytes_to_read = _known(path, caption_member, subset)
        if found is None:
            todo.append(path)
            size += bytes_to_read
            continue
        total.add(found)
        problems[path] = found.problems
    progress = Progress("index", len(todo), size)
    try:
        for path, found in each(partial(_read, caption_member=caption_member, subset=subset), todo, workers):
            total.add(found)
            problems[path] = found.problems
            progress.add(found.pairs, found.shard_bytes)
    except KeyboardInterrupt:
        progress.interrupted()
        raise
    total.problems = [line for path in paths for line in problems[path]]
    return total


def as_dict(spec: str, found: Indexed, subset: Subset | None, seconds: float, fingerprint: str) -> dict[str, Any]:
    """The result for scripts; `fingerprint` is "" where shards are bad."""
    out = {name: value for name, value in vars(found).items() if name not in ("counts", "listed")}
    out = {"spec": spec, **out, "counts": {name: count for name, count in found.counts.items() if count}}
    out["index_bytes_a_pair"] = round(found.index_bytes / max(found.pairs, 1), 2)
    if subset is not None:
        list_rows = len(subsets.opened(subset))
        out["uid_list"] = {"path": subset.path, "repeats": subset.repeats, "rows": list_rows, **found.listed}
        # A pair that stands in two shards accounts for its row twice, so this is the least it can be.
        out["uid_list"]["rows_without_pair"] = max(0, list_rows - found.listed["list_rows"])
    return out | {"seconds": round(seconds, 3), "fingerprint": fingerprint}


def lines(result: dict[str, Any]) -> list[str]:
    """The result for people."""
    counts = ", ".join(f"{name} {count:,}" for name, count in result["counts"].items()) or "none"
    rate = result["read_bytes"] / 1e6 / max(result["seconds"], 1e-3)
    out = [
        f"{result['spec']}: {result['pairs']:,} pairs in {result['shards']:,} shards, "
        f"{result['shard_bytes'] / 1e6:,.1f} MB",
        f"  read now        {result['read']:,} shards, {result['read_bytes'] / 1e6:,.1f} MB in "
        f"{result['seconds']:.1f} s ({rate:,.0f} MB/s)",
        f"  left out, noted {counts}",
        f"  index           {result['index_bytes']:,} bytes, {result['index_bytes_a_pair']:.1f} a pair",
    ]  # fmt: skip
    if "uid_list" in result:
        listed = result["uid_list"]
        out += [
            f"  uid list        {listed['rows']:,} rows, at least {listed['rows_without_pair']:,} without a pair here",
            f"  pairs in it     {listed['hits']:,}, which count for {listed['samples']:,} samples",
            f"  pairs not in it {listed['misses']:,}, of which {listed['without_uid']:,} have no uid",
        ]
    if result["fingerprint"]:
        out.append(f"  fingerprint     {result['fingerprint']}")
    return out + [f"  bad: {problem}" for problem in result["problems"]]


def _known(path: Location, member: str, subset: Subset | None) -> tuple[Indexed | None, int]:
    """What is known of a shard without reading it (None if nothing), and its bytes."""
    try:
        file = index_file(path, member)
        size = storage.state(path).size
    except DataError as error:
        return Indexed(shards=1, problems=[str(error)]), 0
    except OSError:  # gone between two looks: reading it will tell
        return None, 0
    index = load(path, file)
    if index is None or (subset is not None and not subsets.has_rows(file, subset)):
        return None, size
    return _summary(index, path, member, subset, read=False), size


def _read(path: Location, caption_member: str, subset: Subset | None) -> Indexed:
    """Make the index of one shard where there is none, and put it into the cache."""
    try:
        file = index_file(path, caption_member)
        index = load(path, file)
        made = index is None
        if index is None:
            index = scan(path, caption_member)
            save(index, file)
        return _summary(index, path, caption_member, subset, read=made)
    except DataError as error:  # missing or unreadable: as bad as damaged, and named like it
        return Indexed(shards=1, problems=[str(error)])
    except OSError as error:
        raise ConfigError(
            explain(str(index_file(path, caption_member).parent), expected="a writable cache with room in it",
                    found=error, do="make room, or set LIT_TUNE_CACHE")
        ) from error  # fmt: skip


def _summary(index: Index, path: Location, member: str, subset: Subset | None, read: bool) -> Indexed:
    """The numbers of one shard."""
    file = index_file(path, member)
    try:
        problem = shard_problem(replace(index, expected=expected_samples(path)))
    except DataError as error:  # a sizes.json or _stats.json that holds no numbers
        problem = str(error)
    found = Indexed(
        1, int(read), len(index), index.groups, index.shard_size, index.shard_size * read, file.stat().st_size,
        Counter(index.counts), problems=[problem] if problem else [],
    )  # fmt: skip
    if subset is not None:
        rows = subsets.shard_rows(index, file, subset)
        found.listed = Counter(hits=rows.hits, misses=len(index) - rows.hits, without_uid=rows.without_uid,
                               samples=len(rows.rows), list_rows=rows.list_rows)  # fmt: skip
    return found
