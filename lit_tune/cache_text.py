"""`lit-tune cache-text`: the frozen text vectors of every caption of a config's training data, computed once."""

import sys
from collections.abc import Sequence

from lit_tune import cli

if __name__ == "__main__":
    cli.answer_help("cache_text")  # before anything below imports jax

from lit_tune import config as config_lib  # noqa: E402
from lit_tune.data.sources import open_source  # noqa: E402
from lit_tune.flags import CacheTextFlags  # noqa: E402
from lit_tune.text import weights  # noqa: E402
from lit_tune.text.cache_build import open_or_build  # noqa: E402
from lit_tune.text.encode import TextEncoder  # noqa: E402


def main(argv: Sequence[str]) -> int:
    """Runs `lit-tune cache-text`; returns the exit code. Without --out the cache is the one that `train` looks for."""
    flags: CacheTextFlags = config_lib.parse(argv, "cache_text")
    config = flags.config
    config_lib.check(config)
    source = open_source(config.data.train, config.data)
    encoder = TextEncoder.from_files(weights.find(config.text), config.text)
    cache = open_or_build(source, encoder, flags.out, config.text.cache_dtype)
    counts = cache.info["counts"]
    print(f"{counts['captions']:,} captions of {counts['samples']:,} samples, {counts['unique']:,} distinct, "
          f"{counts['dim']} numbers each: {cache.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
