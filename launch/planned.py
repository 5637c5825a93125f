"""What `lit-tune plan` says of the run on the slice, as a person decides by it: does it fit, dollars, hours, end."""

import json
from datetime import datetime, timedelta
from typing import Any

from commands import Commands, Stop, last
from settings import Settings

SPOT = "; that is the list price on demand, spot is cheaper and may run longer"


def approve(settings: Settings, commands: Commands) -> None:
    """Show the plan and ask; returns when the machines may be created.

    Raises:
        Stop: the plan says no and nobody said --force, or the person says no.
    """
    insist(settings, commands)
    what = f"{settings.slices} x {settings.tpu} ({settings.tier}) in {settings.zone}"
    commands.confirm(f"Create {what}?", yes=settings.yes)


def insist(settings: Settings, commands: Commands) -> None:
    """Show the plan; returns if it fits, or if --force was said.

    Raises:
        Stop: it does not fit, or cannot be made.
    """
    told = tell(settings, commands)
    if not told and not settings.force:
        raise Stop(2, "nothing was created: the plan is not a yes; change the slice or the config, or add --force")


def plan(settings: Settings, commands: Commands) -> int:
    """The exit code of the verb `plan`."""
    insist(settings, commands)
    return 0


def tell(settings: Settings, commands: Commands) -> bool:
    """Whether the plan fits; it is printed."""
    configs = [word for word in settings.words if word.startswith(("--config=", "--config."))]
    slice_ = settings.topology or settings.tpu
    if not configs or not slice_:
        lacking = "--topology=GPUS such as h200x8" if configs else "`-- train --config=...`"
        commands.say(f"plan: no {lacking} was given, so nothing can be planned")
        return commands.dry_run
    words = ["lit-tune", "plan", *configs, f"--topology={slice_}", f"--slices={settings.slices}", "--noplain",
             "--json"]
    commands.say("plan: compiling the step for that slice takes one to three minutes")
    answer = commands.ask(words, assumed="")
    if commands.dry_run:
        return True
    if answer.code != 0:
        commands.say(f"plan: no plan could be made: {last(answer)}")
        return False
    found = json.loads(answer.out)
    for line in shown(found, datetime.now()):
        commands.say(line + (SPOT if settings.tier == "spot" and line.startswith("cost") else ""))
    return bool(found["fits"])


def shown(found: dict[str, Any], now: datetime) -> list[str]:
    """The lines about a plan; the end is counted from `now`."""
    unit = "chip" if found["devices"] == found["chips"] else "device"  # of TPU7x a chip has two
    memory = f"{found['hbm_peak_gib']} of {found['hbm_limit_gib']} GiB a {unit}"
    slice_ = f"{found['topology']} x {found['slices']}, {found['chips']} chips on {found['hosts']} hosts"
    if not found["fits"]:
        changes = "; ".join(f"{one['change']} ({one['hbm_peak_gib']} GiB)" for one in found["would_fit"])
        bound = ", by an upper bound (no such GPU is here to compile for)" if found.get("memory_is_bound") else ""
        return [f"plan: {slice_}", f"memory: {memory}: does NOT fit{bound}; what would: {changes or 'nothing found'}"]
    low, high = found["run_hours_low"], found["run_hours_high"]
    first, last = (f"{now + timedelta(hours=hours):%Y-%m-%d %H:%M}" for hours in (low, high))
    dollars = (f"${found['cost_usd_low']:,.0f} to ${found['cost_usd_high']:,.0f} (prices of {found['price_date']})"
               if found["cost_usd_low"] is not None else "unknown: no price for this chip in planning/prices.json")
    return [f"plan: {slice_}", f"memory: {memory}: fits", f"time: {low:,.1f} to {high:,.1f} hours of training",
            f"cost: {dollars}, machines only", f"end: between {first} and {last} if it starts now and nothing stops it"]
