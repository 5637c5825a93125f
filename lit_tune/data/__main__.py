"""`lit-tune data ACTION DATA`: index shards, show what a data set holds, reshard or convert it, measure."""

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

from lit_tune import cli, config
from lit_tune.data import convert, indexing, parallel, reshard, sources
from lit_tune.data.storage import Location
from lit_tune.data.subset import Subset
from lit_tune.data.tar_source import caption_member
from lit_tune.errors import ConfigError, DataError, explain
from lit_tune.flags import DataFlags
from lit_tune.redaction import redact

REPEATS = ("once", "multiplicity")
POLICIES = ("clean", "reference")
TAR_ONLY = {"size", "quality", "policy"}  # flags of convert --to=tar


def main(argv: Sequence[str]) -> int:
    """Exit code 0 for a sound data set.

    Raises:
        ConfigError: a wrong command line, or a folder's table is wrong (exit code 2).
        DataError: missing or damaged shards (exit code 4); what is known of the rest is shown first.
    """
    flags: DataFlags = config.parse(argv, "data")
    known = " | ".join(ACTIONS)
    if len(flags.args) != 2 and flags.args != ("bench",) or flags.args[0] not in ACTIONS:
        found = " ".join(flags.args) or "nothing"
        raise ConfigError(explain("data", expected=f"{known}, then DATA", found=found, do="give both words"))
    action, used = ACTIONS[flags.args[0]]
    _refuse_others(flags, used)
    return action(flags)


def _index(flags: DataFlags) -> int:
    """Make the index; say what is in it."""
    spec, subset, start = flags.args[1], _subset(flags), time.monotonic()
    paths = sources.shard_paths(spec)
    if paths is None:  # a folder is read at every start; this shows that it can be
        source = sources.open_source(spec, _settings(flags), subset=subset)
        counts = {name: count for name, count in source.counts.items() if count}
        known = {"spec": source.spec, "pairs": len(source), "counts": counts, "fingerprint": source.fingerprint}
        told = ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"
        print(json.dumps(known, indent=1) if flags.json else
              f"{source.spec}: {len(source):,} pairs; left out, noted: {told}; fingerprint {source.fingerprint}")
        return 0
    found = indexing.index(paths, caption_member(flags.caption_field), flags.workers or parallel.cores(), subset)
    fingerprint = ""
    if not found.problems and found.pairs:
        fingerprint = sources.open_source(spec, _settings(flags), subset=subset).fingerprint
    result = indexing.as_dict(redact(spec), found, subset, time.monotonic() - start, fingerprint)
    print(json.dumps(result, indent=1) if flags.json else "\n".join(indexing.lines(result)))
    return _told(found.problems, found.shards)


def _inspect(flags: DataFlags) -> int:
    """Show what a data set holds."""
    from lit_tune.data.inspecting import command  # only here: no other action draws or measures

    return command.inspect(flags)


def _reshard(flags: DataFlags) -> int:
    """Copy the pairs of a uid list into shards of their own."""
    subset, spec = _subset(flags), flags.args[1]
    if subset is None:
        raise ConfigError(explain("data reshard", expected="--uid_list=FILE", found="none", do="add it"))
    result = reshard.reshard(
        _shards(flags), spec, subset, _out(flags), per_shard=flags.per_shard, caption_field=flags.caption_field,
        workers=flags.workers or parallel.cores(), allow_missing=flags.allow_missing,
    )  # fmt: skip
    print(json.dumps(result, indent=1) if flags.json else "\n".join(reshard.lines(result)))
    return 0


def _convert(flags: DataFlags) -> int:
    """Write the data set in another form."""
    if flags.to not in convert.FORMS:
        raise ConfigError(explain("data convert", expected=f"--to={' or '.join(convert.FORMS)}",
                                  found=flags.to or "none", do="say which form"))  # fmt: skip
    encoding = None
    if flags.to == "tar":
        if flags.quality > 100 or flags.policy not in POLICIES:
            raise ConfigError(explain("data convert", expected=f"--quality=1 to 100, --policy={' or '.join(POLICIES)}",
                                      found=f"{flags.quality}, {flags.policy}", do="correct it"))  # fmt: skip
        encoding = convert.Encoding(flags.size, flags.quality, flags.policy)
    else:
        _refuse_others(flags, ACTIONS["convert"][1] - TAR_ONLY)
    result = convert.convert(
        flags.args[1], _out(flags), encoding=encoding, per_shard=flags.per_shard, caption_field=flags.caption_field,
        workers=flags.workers or parallel.cores(), allow_missing=flags.allow_missing,
    )  # fmt: skip
    print(json.dumps(result, indent=1) if flags.json else "\n".join(convert.lines(result)))
    return 0


def _bench(flags: DataFlags) -> int:
    """Measure how fast pictures are decoded here: those of DATA, or some that are made."""
    from lit_tune.benching import data  # only here: it measures with much that no other action needs

    return data.run("".join(flags.args[1:]), caption_field=flags.caption_field, as_json=flags.json)


ACTIONS: dict[str, tuple[Callable[[DataFlags], int], set[str]]] = {  # what does it, and the flags that it looks at
    "index": (_index, {"json", "workers", "uid_list", "uid_repeats"}),
    "inspect": (_inspect, {"json", "html", "config", "sample", "decode", "seed"}),
    "convert": (_convert, {"json", "workers", "out", "to", "per_shard", "allow_missing"} | TAR_ONLY),
    "reshard": (_reshard, {"json", "workers", "uid_list", "uid_repeats", "out", "per_shard", "allow_missing"}),
    "bench": (_bench, {"json"}),
}


def _settings(flags: DataFlags) -> SimpleNamespace:
    """What a source needs of a run's config."""
    return SimpleNamespace(caption_field=flags.caption_field)


def _shards(flags: DataFlags) -> list[Location]:
    """The shards that the command line names."""
    paths = sources.shard_paths(flags.args[1])
    if paths is None:
        raise ConfigError(explain(flags.args[1], expected="tar shards", found="a folder of pictures",
                                  do="name shards"))  # fmt: skip
    return paths


def _out(flags: DataFlags) -> Path:
    """The folder to write."""
    if not flags.out:
        raise ConfigError(explain(f"data {flags.args[0]}", expected="--out=DIR", found="none", do="name the folder"))
    return Path(flags.out).expanduser()


def _subset(flags: DataFlags) -> Subset | None:
    """The pairs that the flags ask for, None for all."""
    if flags.uid_repeats not in REPEATS:
        raise ConfigError(
            explain("--uid_repeats", expected=" or ".join(REPEATS), found=flags.uid_repeats, do="use one of them")
        )
    if not flags.uid_list and flags.uid_repeats != REPEATS[1]:
        raise ConfigError(explain("--uid_repeats", expected="--uid_list=FILE beside it", found="no such flag",
                                  do="leave it out"))  # fmt: skip
    return Subset(flags.uid_list, flags.uid_repeats) if flags.uid_list else None


def _refuse_others(flags: DataFlags, used: set[str]) -> None:
    """Refuse flags that the action does not look at."""
    for field in dataclasses.fields(flags):
        known = field.name in used | {"args", "caption_field"}
        if not known and getattr(flags, field.name) != field.default:
            raise ConfigError(
                explain(f"--{field.name}", expected=f"flags of data {flags.args[0]}", found="one of another action",
                        do="leave it out")
            )  # fmt: skip


def _told(problems: Sequence[str], shards: int) -> int:
    """0 where no shard is bad; the others were shown.

    Raises:
        DataError: the first of the bad shards, and how many there are.
    """
    if not problems:
        return 0
    more = f" ({len(problems)} of {shards} shards are bad)" if len(problems) > 1 else ""
    raise DataError(problems[0] + more)


if __name__ == "__main__":
    cli.answer_help("data")
    sys.exit(cli.run(main))
