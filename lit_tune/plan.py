"""`lit-tune plan`: the training step compiled for chips that are not there; memory, exchanges, time, cost."""

import os
import sys
from collections.abc import Sequence

from lit_tune import cli, config as config_lib, flag_reading
from lit_tune.errors import ConfigError, explain
from lit_tune.flags import PlanFlags
from lit_tune.planning import chips, libtpu, prices


def main(argv: Sequence[str]) -> int:
    """Runs `lit-tune plan`: prints a page, or JSON; returns the exit code."""
    flags: PlanFlags = config_lib.parse(argv, "plan")
    slices = tuple(chips.parse(name, flags.slices) for name in flags.topology)
    _check(flags, slices)
    table = prices.load(flags.prices)
    _prepare(slices)
    from lit_tune.planning import command  # only here: jax reads the variables when it is imported

    values, changes = flag_reading.read(argv, "plan")
    name = " ".join([values["config"], *(f"{key}={text}" for key, text in changes)])
    return command.run(flags, name, slices, table)


def _check(flags: PlanFlags, slices: Sequence[chips.Slice]) -> None:
    """Refuse what does not go together, before anything is compiled."""
    if len(slices) != 1 and not flags.sweep:
        raise ConfigError(explain("--topology", expected="one slice without --sweep", found=",".join(flags.topology),
                                  do="add --sweep to compare slices"))
    if flags.part not in ("step", "loss"):
        raise ConfigError(explain("--part", expected="step or loss", found=repr(flags.part), do="choose one of them"))
    if flags.part == "loss" and (flags.sweep or flags.assert_):
        raise ConfigError(explain("--part loss", expected="neither --sweep nor --assert", found="one of them",
                                  do="leave it out"))
    if flags.sweep and flags.assert_:
        raise ConfigError(explain("--sweep", expected="no --assert", found="both", do="leave one of them out"))
    config_lib.check(flags.config, files=False)
    for slice_ in slices:
        if flags.part == "step":
            config_lib.check_devices(flags.config, slice_.devices)


def _prepare(slices: Sequence[chips.Slice]) -> None:
    """Set what jax and libtpu have to find when they are imported."""
    if any(slice_.chip.maker == "tpu" for slice_ in slices):
        libtpu.require()
        libtpu.prepare()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    cards = max((slice_.chips for slice_ in slices if slice_.chip.maker == "nvidia"), default=1)
    if cards > 1 and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = (os.environ.get("XLA_FLAGS", "")
                                   + f" --xla_force_host_platform_device_count={cards}").strip()


if __name__ == "__main__":
    sys.exit(cli.run(main))
