"""The account of a run's time: phases of all its starts, steps done again, time without a process."""

import time
from collections.abc import Callable

import pytest

from lit_tune.goodput import Goodput, causes, told
from lit_tune.phases import Phases


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Both clocks, standing still but for calls of this."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "time", lambda: now[0] + 5e8)

    def forward(seconds: float) -> None:
        now[0] += seconds

    return forward


def phase(phases: Phases, name: str, seconds: float, clock: Callable[[float], None]) -> None:
    """Spend seconds in a phase."""
    with phases.enter(name):
        clock(seconds)


def line() -> dict[str, float]:
    """A line of the log, now."""
    return {"time": time.time()}


def test_a_killed_run_accounts_for_every_second_of_its_life(clock: Callable[[float], None]) -> None:
    phases, lines = Phases(), []
    first = Goodput(phases, None, lines, ended=False)
    phase(phases, "compile", 10, clock)
    phase(phases, "step", 30, clock)
    lines.append(line())
    saved = first.record()
    phase(phases, "step", 7, clock)  # after the checkpoint: to be done again
    lines.append(line())
    clock(3)  # never logged: killed in here
    clock(20)  # nothing runs

    phases = Phases()
    clock(2)
    second = Goodput(phases, saved, lines, ended=False)
    phase(phases, "restore", 4, clock)
    phase(phases, "step", 24, clock)
    assert second.seconds() == {"start": 2, "compile": 10, "step": 54, "redone": 7, "down": 23, "restore": 4}
    shares = second.shares()
    assert shares["perf/goodput"] == 0.54 and shares["perf/lost_down"] == 0.23 and sum(shares.values()) == 1
    assert told(shares) == "54.0 % of the time trained; lost: down 23.0 %, compile 10.0 %, redone 7.0 %, " \
                           "restore 4.0 %, start 2.0 %"  # fmt: skip
    assert list(causes({"train/loss": 3.0} | shares)) == ["down", "compile", "redone", "restore", "start"]


def test_a_run_killed_before_its_first_checkpoint_does_all_of_it_again(clock: Callable[[float], None]) -> None:
    lines = [line()]
    clock(12)
    lines.append(line())
    clock(8)
    goodput = Goodput(Phases(), None, lines, ended=False)
    assert goodput.seconds() == {"redone": 12, "down": 8, "start": 0}


def test_a_clock_that_jumps_back_costs_nothing(clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch) -> None:
    phases = Phases()
    saved = Goodput(phases, None, [], ended=False).record()
    monkeypatch.setattr(time, "time", lambda: saved["time"] - 3600.0)
    goodput = Goodput(Phases(), saved, [{"time": saved["time"]}], ended=False)
    assert goodput.seconds() == {"start": 0, "redone": 0, "down": 0}


def test_an_extended_run_was_not_down_after_its_end(clock: Callable[[float], None]) -> None:
    saved = Goodput(Phases(), None, [], ended=False).record()
    clock(86_400)
    assert "down" not in Goodput(Phases(), saved, [{"time": saved["time"]}], ended=True).seconds()


def test_a_run_in_its_first_start_lost_nothing_to_stops(clock: Callable[[float], None]) -> None:
    phases = Phases()
    goodput = Goodput(phases, None, [], ended=False)
    phase(phases, "step", 5, clock)
    assert goodput.shares() == {"perf/lost_start": 0, "perf/goodput": 1}
