"""`lit-tune data index|inspect DATA`: make the index of shards, or show what a data set holds."""

import sys
from collections.abc import Sequence
from types import SimpleNamespace

from lit_tune import cli, config
from lit_tune.data import sources
from lit_tune.data.inspecting import command
from lit_tune.errors import ConfigError, explain

ACTIONS = ("index", "inspect")


def main(argv: Sequence[str]) -> int:
    """Exit code 0 for a sound data set.

    Raises:
        ConfigError: a wrong command line, or a folder's table is wrong (exit code 2).
        DataError: missing or damaged shards (exit code 4); `inspect` shows the rest of the data set first.
    """
    flags = config.parse(argv, "data")
    if len(flags.args) != 2 or flags.args[0] not in ACTIONS:
        found = " ".join(flags.args) or "nothing"
        raise ConfigError(explain("data", expected="index DATA or inspect DATA", found=found, do="give both words"))
    action, spec = flags.args
    if action == "index":
        source = _open(spec, flags.caption_field, allow_missing=0.0)
        print(f"{spec}: {len(source)} pairs, fingerprint {source.fingerprint}")
        return 0
    return command.inspect(flags)


def _open(spec: str, caption_field: str, allow_missing: float) -> sources.Source:
    """The source without a run's config around it."""
    return sources.open_source(spec, SimpleNamespace(caption_field=caption_field), allow_missing=allow_missing)


if __name__ == "__main__":
    cli.answer_help("data")
    sys.exit(cli.run(main))
