"""`lit-tune data inspect DATA [--html=FILE] [--json]`."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from lit_tune.config_check import check
from lit_tune.data.decoding import Limits
from lit_tune.data.inspecting import lengths, page, pictures, statistics, text
from lit_tune.data.inspecting.look import draw
from lit_tune.data.inspecting.statistics import Rules
from lit_tune.data.sources import open_source
from lit_tune.errors import DataError
from lit_tune.flags import DataFlags


def inspect(flags: DataFlags) -> int:
    """Show what `flags.args[1]` holds; exit code 0 for a sound data set.

    Raises:
        ConfigError: the data set's table, the config or the page's place is wrong (exit code 2).
        DataError: shards are bad (exit code 4); the rest of the data set is shown first.
    """
    rules = _rules(flags)
    data = SimpleNamespace(caption_field=_caption_field(flags))
    with _no_warnings():
        source = open_source(flags.args[1], data, allow_missing=1.0)
    plan = draw(len(source), flags.sample, flags.decode, flags.seed)
    report = statistics.inspect(source, plan, lengths.ruler(flags.config), rules)
    print(json.dumps(report, indent=1) if flags.json else _shown("\n".join(text.lines(report))))
    if flags.html:
        shelf = pictures.Shelf(source, rules)
        grid = shelf.show_all(pictures.drawn(plan))
        repeated = shelf.show_all(one["index"] for one in report["pictures"]["repeats"]["most"])
        page.write_page(Path(flags.html).expanduser(), report, grid, repeated)
    if report["problems"]:
        raise DataError(report["problems"][0])
    return 0


def _shown(said: str) -> str:
    """What this terminal can show of a text; captions are in any script."""
    encoding = sys.stdout.encoding or "utf-8"
    return said.encode(encoding, "replace").decode(encoding)


@contextmanager
def _no_warnings() -> Iterator[None]:
    """The log of `lit_tune.data` is still: the report names the same shards."""
    log = logging.getLogger("lit_tune.data")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _rules(flags: DataFlags) -> Rules:
    """Policy and limits of the config, where one is named."""
    if flags.config is None:
        return Rules()
    check(flags.config, files=False)
    data = flags.config.data
    return Rules(data.policy, Limits.of(data))


def _caption_field(flags: DataFlags) -> str:
    """The config's, where one is named and the command line names no other."""
    if flags.config is None or flags.caption_field != "txt":
        return flags.caption_field
    return flags.config.data.caption_field
