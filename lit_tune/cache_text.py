"""`lit-tune cache-text`: the frozen text vectors of every caption of a config's training data, computed once.

With `--from` they are taken from a file that any other model's vectors were written to, and no text tower is loaded.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lit_tune import cli

if __name__ == "__main__":
    cli.answer_help("cache_text")  # before anything below imports jax

from ml_collections import ConfigDict  # noqa: E402

from lit_tune import config as config_lib  # noqa: E402
from lit_tune.data.mixture import open_train  # noqa: E402
from lit_tune.data.sources import Source  # noqa: E402
from lit_tune.errors import ConfigError, explain  # noqa: E402
from lit_tune.flags import CacheTextFlags  # noqa: E402
from lit_tune.text.cache import TextCache  # noqa: E402
from lit_tune.text.cache_outside import build_from  # noqa: E402
from lit_tune.text.vector_table import NAMED_BY, VectorTable  # noqa: E402


def main(argv: Sequence[str]) -> int:
    """Runs `lit-tune cache-text`; returns the exit code. Without --out the cache is the one that `train` looks for."""
    start = time.monotonic()
    flags: CacheTextFlags = config_lib.parse(argv, "cache_text")
    check_flags(flags)
    config_lib.check(flags.config)
    table = VectorTable(Path(flags.from_).expanduser(), flags.match) if flags.from_ else None
    source = open_train(flags.config.data, max_samples=flags.max_samples, allow_missing=flags.allow_missing)
    if table is None:
        cache = encoded(source, flags.config, flags)
        if cache is None:
            share, seconds = "{}/{}".format(*flags.part), time.monotonic() - start
            print(f"part {share} is done, {seconds:.1f} s; not all others are: the last one joins them in {flags.out}")
            return 0
    else:
        cache = build_from(source, table, Path(flags.out), flags.config.text.cache_dtype, flags.allow_missing)
    print(summary(cache, time.monotonic() - start))
    return 0


def check_flags(flags: CacheTextFlags) -> None:
    """Refuse flags that do not go together.

    Raises:
        ConfigError: with the flag at fault.
    """
    if flags.from_ and not flags.out:
        raise ConfigError(explain("--from", expected="--out=DIR beside it", found="no such flag", do="name a folder"))
    if flags.match not in ("", *NAMED_BY):
        raise ConfigError(explain("--match", expected=" | ".join(NAMED_BY), found=flags.match, do="choose one of them"))
    if flags.part and (flags.from_ or not flags.out):
        raise ConfigError(explain("--part", expected="--out=DIR on shared storage beside it, and no --from",
                                  found="--from" if flags.from_ else "no --out", do="change them"))
    if flags.match and not flags.from_:
        raise ConfigError(explain("--match", expected="--from=FILE beside it", found="no such flag", do="leave it out"))


def encoded(source: Source, config: ConfigDict, flags: CacheTextFlags) -> TextCache | None:
    """The cache made with the config's own text tower; None while other machines' parts are missing."""
    from lit_tune.text import weights  # only here: vectors from a file need neither jax nor weights
    from lit_tune.text.cache_build import build_share
    from lit_tune.text.encode import TextEncoder

    encoder = TextEncoder.from_files(weights.find(config.text), config.text)
    return build_share(source, encoder, flags.out, config.text.cache_dtype, flags.part_samples, flags.part or (1, 1))


def summary(cache: TextCache, seconds: float) -> str:
    """One line: captions, samples, distinct ones, width, bytes, time, place."""
    counts = cache.info["counts"]
    size = sum(facts["bytes"] for facts in cache.info["files"].values())
    missing = f" ({counts['missing']:,} without a vector)" if counts["missing"] else ""
    return (f"{counts['captions']:,} captions of {counts['samples']:,} samples{missing}, "
            f"{counts['unique']:,} distinct, {counts['dim']} numbers each ({cache.info['dtype']}), "
            f"{size:,} bytes, {seconds:.1f} s: {cache.folder}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
