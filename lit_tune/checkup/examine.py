"""All checks, one after the other, and what they say."""

import textwrap
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from lit_tune import errors
from lit_tune.checkup import devices, packages, places, planned, probe
from lit_tune.checkup.finding import Finding
from lit_tune.checkup.probe import Seen
from lit_tune.checkup.system import System

WIDTH = 110  # of the page
BLOCKED = errors.ConfigError.exit_code


@dataclass(frozen=True)
class Report:
    """What `lit-tune doctor` says.

    Attributes:
        versions: by package.
        accelerators: {"tpu" or "gpu": what shows that it is there}.
        seen: what jax has found.
        findings: problems first.
        device_memory: the command that says whether the step fits; "" without a config.
    """

    versions: dict[str, str]
    accelerators: dict[str, str]
    seen: Seen
    findings: tuple[Finding, ...]
    device_memory: str

    @property
    def exit_code(self) -> int:
        """0 where nothing stands in the way (warnings do not), else 2."""
        return BLOCKED if any(one.blocks for one in self.findings) else 0

    def as_json(self) -> dict[str, Any]:
        """The page as plain values."""
        return {"ok": self.exit_code == 0, "versions": self.versions, "accelerators": self.accelerators,
                "devices": list(self.seen.devices), "processes": self.seen.processes,
                "findings": [one.as_json() for one in self.findings], "device_memory": self.device_memory}

    def lines(self) -> list[str]:
        """The page for people: facts, a line for each finding, the sum."""
        kinds = [device["kind"] for device in self.seen.devices]
        counted = ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds)) or "none"
        listed = [f"{name} {version}" for name, version in self.versions.items()]
        lines = [*textwrap.wrap(", ".join(listed), WIDTH, initial_indent="versions  ", subsequent_indent=" " * 10,
                                break_on_hyphens=False), f"devices   {counted}"]
        lines += [f"here      {evidence}" for evidence in self.accelerators.values()]
        lines += [f"{one.level:<9} {one.line}" for one in self.findings]
        lines += [f"memory    of the devices: {self.device_memory}"] if self.device_memory else []
        problems = sum(one.blocks for one in self.findings)
        return [*lines, f"{problems} in the way" if problems else "nothing stands in the way"]


def examine(config: ConfigDict | None, name: str, system: System | None = None) -> Report:
    """The report on this machine, and on a run that is planned.

    Args:
        config: of the run; None for the machine alone.
        name: of the config, with the changes of the command line.
        system: the machine, this one if None.
    """
    system = System() if system is None else system
    present = {kind: evidence for kind, evidence in (("tpu", system.tpu()), ("gpu", system.gpu())) if evidence}
    seen = probe.look(system.environ)
    found = [*packages.check_python(), *packages.check_required(), *packages.check_pinned(set(present)),
             *devices.check(system, seen, present), *places.check_cache(), *packages.check_copies(),
             *packages.check_clock()]
    if config is not None:
        found += planned.check(config, seen, system)
    command = planned.plan_command(name, config.global_batch, seen) if config is not None else ""
    return Report(packages.versions(), present, seen, tuple(sorted(found, key=lambda one: not one.blocks)), command)
