"""Steps that are skipped: counted, their samples written down, the end of a run that meets too many of them."""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lit_tune import errors
from lit_tune.bad_steps import BadSteps
from lit_tune.checkpoint import Checkpointer
from lit_tune.data.order import PlainOrder
from lit_tune.spikes import Spikes, limit_of
from lit_tune.tower import read_state
from lit_tune.tree import flatten
from lit_tune.watch import Temperature


def watcher(lines: list[dict[str, Any]], saved: dict[str, Any] | None = None, skipped: float = 0.0,
            by_hand: tuple[int, int] | None = None) -> BadSteps:
    """Of a run whose batches are named after their step."""
    return BadSteps(skipped=skipped, by_hand=by_hand, samples=lambda step: {"shard": [f"of-{step}"]},
                    write=lines.extend, saved=saved)


def feed(numbers: BadSteps, start: int, stop: int, bad: set[int], skipped: float = 0.0) -> float:
    """Steps start to stop - 1, those in `bad` skipped; the count of skipped steps after them. Stops at the error."""
    for step in range(start, stop):
        skipped += step in bad
        values = {"loss": np.nan if step in bad else 1, "grad_norm": 1, "skipped_steps": skipped, "logit_scale": 14.0}
        numbers.started(step, {name: jnp.float32(value) for name, value in values.items()})
        numbers.check()
    numbers.settle(stop)
    numbers.check()
    return skipped


def test_three_in_a_row_end_a_run_and_two_do_not() -> None:
    lines = []
    feed(watcher(lines), 0, 40, {5, 6, 8, 9, 20})
    assert [line["step"] for line in lines] == [5, 6, 8, 9, 20]
    with pytest.raises(errors.NumbersError, match=r"steps 5 to 7: .*3 in a row.*shard/of-7.*--skip_batches=5:8"):
        feed(watcher([]), 0, 40, {5, 6, 7})


def test_twenty_within_a_thousand_end_a_run_and_nineteen_do_not() -> None:
    feed(watcher([]), 0, 1200, set(range(0, 1200, 53)))  # 23 in all, 19 within any 1,000
    with pytest.raises(errors.NumbersError, match=r"steps 0 to 950: .*20 within 1,000 steps.*--skip_batches=0:951"):
        feed(watcher([]), 0, 1200, set(range(0, 1200, 50)))


@pytest.mark.parametrize("cut", [6, 7, 500])
def test_counts_go_on_after_a_restart(cut: int) -> None:
    bad = {6, 7, 8} if cut < 100 else set(range(0, 960, 50))
    first = watcher([])
    skipped = feed(first, 0, cut, bad)
    saved = json.loads(json.dumps(first.record()))  # as a checkpoint keeps it
    with pytest.raises(errors.NumbersError):
        feed(watcher([], saved, skipped), cut, 1000, bad, skipped)


def test_steps_skipped_by_hand_do_not_count_also_where_they_counted_before() -> None:
    lines = []
    feed(watcher(lines, by_hand=(5, 30)), 0, 40, set(range(5, 32)))
    assert [line["step"] for line in lines] == [30, 31]
    saved = watcher([]).record() | {"skipped": [5, 6], "in_a_row": 2}
    feed(watcher([], saved, 2.0, by_hand=(5, 8)), 7, 40, {7, 8, 9}, 2.0)


def level(steps: int) -> np.ndarray:
    """A loss that falls with noise, as training losses do."""
    return 3 * np.exp(-np.arange(steps) / 200) + 1 + np.random.default_rng(3).normal(0, 0.1, steps)


def spikes_of(values: np.ndarray, spikes: Spikes, name: str = "loss") -> list[int]:
    """The steps at which spikes of the loss or of the gradient norm begin; the other one stays."""
    return [step for step, value in enumerate(values)
            if spikes.look({"loss": 1.0, "grad_norm": 1.0, name: float(value)})]  # fmt: skip


def test_noise_is_no_spike_and_each_spike_is_told_of_once() -> None:
    values = level(600)
    assert spikes_of(values, Spikes(None)) == []
    values[[10, 300, 301, 302, 500]] = 40.0  # at 10 there is no level yet
    assert spikes_of(values, Spikes(None)) == [300, 500]
    values[400:] += 20  # stays: a spike that ends when it is the level
    assert spikes_of(values, spikes := Spikes(None)) == [300, 400, 500] and spikes.count == 3


def test_a_gradient_norm_alone_is_a_spike_above_four_medians() -> None:
    values = np.full(100, 2.0)
    values[[50, 60]] = 7.9, 8.1
    assert spikes_of(values, Spikes(None), "grad_norm") == [60]
    assert spikes_of(values, Spikes(None)) == [50, 60], "of a loss a quarter more is enough"


def test_the_limit_is_ten_deviations_above_the_median_and_a_share_of_it_at_least() -> None:
    recent = level(128)
    median = statistics.median(recent)
    deviation = 1.4826 * statistics.median(abs(value - median) for value in recent)
    assert limit_of(recent, 1.25) == pytest.approx(median + 10 * deviation)
    assert limit_of(np.full(128, 2.0), 1.25) == 2.5


def test_spikes_go_on_after_a_restart_as_if_there_had_been_none() -> None:
    values = level(600)
    values[[300, 301, 302, 500]] = 40.0
    first = Spikes(None)
    found = spikes_of(values[:301], first)
    second = Spikes(json.loads(json.dumps(first.record())))
    assert found + [301 + step for step in spikes_of(values[301:], second)] == [300, 500] and second.count == 2


def told(scales: list[float], temperature: Temperature) -> list[int]:
    """The steps at which something is said about the temperature."""
    return [step for step, scale in enumerate(scales) if temperature.look(scale)]


def test_a_temperature_at_its_clamp_or_running_away_is_told_of_once() -> None:
    top = float(np.exp(np.log(np.float32(100))))  # as the step's clamp leaves it
    assert told([90.0, top, 99.0, *[top] * 30, 90.0, *[top] * 30], Temperature(100.0, None)) == [12]
    assert told([90.0, 101.0, 90.0, 150.0], Temperature(0.0, None)) == [1]
    first = Temperature(100.0, None)
    assert told([top] * 6, first) == []
    second = Temperature(100.0, json.loads(json.dumps(first.record())))
    assert told([top] * 6, second) == [3]
    assert told([top] * 20, Temperature(100.0, json.loads(json.dumps(second.record())))) == []


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the text tower and the pictures."""
    return tiny.make_home(tmp_path_factory.mktemp("numbers"))


def run(home: Path, name: str, *words: str, **changes: object) -> tuple[int, str]:
    """(exit code, output) of a run in a folder `name`."""
    settings = {"eval__sets": (), "checkpoint__every": 10, "total_steps": 30} | changes
    return tiny.finish(tiny.start(
        tiny.arguments(home / "text", home / "pictures", home / name, **settings) + list(words), home / "cache"))


def weights(folder: Path, step: int) -> dict[str, np.ndarray]:
    """The whole state of a checkpoint, by name."""
    return {name: np.asarray(leaf) for name, leaf in flatten(read_state(folder, step)[0]).items()}


def samples(line: dict[str, Any]) -> set[str]:
    """The keys of a line of bad_batches.jsonl."""
    return {key for keys in line["samples"].values() for key in keys}


def read(file: Path) -> list[dict[str, Any]]:
    """The objects of a file of lines."""
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.faults(row=27, fault="a batch whose loss is NaN", expected="that step changes no weight, no moment and no "
                    "count of Adam's; counted, its samples in bad_batches.jsonl; the run goes on")
def test_one_nan_is_skipped_and_the_run_goes_on(home: Path, recovery: Callable[[float], None]) -> None:
    code, output = run(home, "one", "--debug_fault=nan@10", total_steps=13, checkpoint__every=1, checkpoint__keep=9)
    assert code == 0, output
    before, after = weights(home / "one", 10), weights(home / "one", 11)
    assert {name for name in after if not np.array_equal(before[name], after[name])} == {"step", "skipped"}
    assert after["opt_state/0/count"] == 10 and after["skipped"] == 1
    assert all(np.isfinite(leaf).all() for leaf in after.values())
    good, bad, *later = [line for line in tiny.lines(home / "one") if line["kind"] == "train"][-4:]
    assert (bad["step"], bad["train/loss"], bad["train/skipped_steps"]) == (11, "nan", 1)
    assert [line["step"] for line in later] == [12, 13] and weights(home / "one", 13)["opt_state/0/count"] == 12
    assert all(np.isfinite(line["train/loss"]) and line["train/skipped_steps"] == 1 for line in later)
    (line,) = read(home / "one" / "bad_batches.jsonl")
    assert (line["step"], line["kind"], line["loss"]) == (10, "skipped", "nan")
    names = [row.split(",")[0] for row in (home / "pictures" / "captions.csv").read_text().splitlines()[1:]]
    planned = PlainOrder(n=24, seed=0, global_batch=8).planned_ids(10)
    assert samples(line) == {names[index] for index in planned} and len(samples(line)) == 8
    recovery(later[0]["time"] - bad["time"])


@pytest.mark.faults(row=28, fault="NaN for ever", expected="exit code 3 after three or four such steps, whatever "
                    "log.every: steps, samples and --skip_batches named; the last checkpoint is finite")
def test_nan_for_ever_ends_the_run_after_three_steps(home: Path, recovery: Callable[[float], None]) -> None:
    code, output = run(home, "ever", optim__lr=1e37, loss__logit_scale_max=0.0, log__every=1000, checkpoint__every=1)
    recovery(time.time() - (home / "ever" / "bad_batches.jsonl").stat().st_mtime)  # the last of them, to the end
    assert code == 3 and "--skip_batches" in output, output
    bad = read(home / "ever" / "bad_batches.jsonl")
    steps = [line["step"] for line in bad]
    assert steps == list(range(steps[0], steps[0] + len(steps))) and 3 <= len(steps) <= 4, steps
    assert f"steps {steps[0]} to {steps[-1]}: " in output and f"--skip_batches={steps[0]}:{steps[-1] + 1}" in output
    assert any(name in output for name in samples(bad[-1])), output
    with Checkpointer(home / "ever" / "checkpoints", keep=1, read_only=True) as checkpoints:
        saved = checkpoints.steps()
    assert saved
    assert all(np.isfinite(leaf).all() for step in saved for leaf in weights(home / "ever", step).values())


@pytest.mark.slow
@pytest.mark.faults(row=29, fault="a batch whose loss and gradient are 1,000 times too large", expected="told of once, "
                    "counted, its samples in bad_batches.jsonl; clipped, or with optim.skip_spikes no weight changes")
def test_a_spike_is_told_of_and_skipped_where_asked_for(home: Path, recovery: Callable[[float], None]) -> None:
    code, output = run(home, "spike", "--debug_fault=spike@40", total_steps=42, checkpoint__every=1,
                       checkpoint__keep=3, optim__skip_spikes=10.0, loss__logit_scale_init=1.0,
                       loss__logit_scale_max=2.0)
    assert code == 0 and output.count("a spike") == 1 and "--skip_batches=40:41" in output, output
    assert output.count("at the clamp for 10 steps") == 1, output
    log = {line["step"]: line for line in tiny.lines(home / "spike") if line["kind"] == "train"}
    recovery(log[42]["time"] - log[41]["time"])
    assert [log[step]["train/loss_spikes"] for step in (40, 41, 42)] == [0, 1, 1]
    assert [log[step]["train/skipped_steps"] for step in (40, 41, 42)] == [0, 1, 1]
    kinds = [(line["step"], line["kind"]) for line in read(home / "spike" / "bad_batches.jsonl")]
    assert kinds == [(40, "spike"), (40, "skipped")]
    before, state = weights(home / "spike", 40), weights(home / "spike", 41)
    assert {name for name in state if not np.array_equal(before[name], state[name])} == {"step", "skipped"}
    assert state["opt_state/0/count"] == 40 and log[41]["train/grad_norm"] not in state["norms"].tolist()
    assert state["norms"][-1] == np.float32(log[40]["train/grad_norm"])


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_processes_end_together_and_write_each_batch_once(home: Path) -> None:
    address = f"127.0.0.1:{tiny.free_port()}"
    words = tiny.arguments(home / "text", home / "pictures", home / "two", optim__lr=1e37, loss__logit_scale_max=0.0,
                           log__every=1000, checkpoint__every=1, eval__sets=())
    both = [tiny.start([*words, f"--coordinator={address}", "--num_processes=2", f"--process_id={i}"], home / "cache")
            for i in range(2)]
    ends = [tiny.finish(process) for process in both]
    assert [code for code, _ in ends] == [3, 3], ends
    bad = read(home / "two" / "bad_batches.jsonl")
    steps = [line["step"] for line in bad]
    assert steps == sorted(set(steps)) and 3 <= len(steps) <= 4 and all(len(samples(line)) == 8 for line in bad)
    assert list((home / "two" / "checkpoints").glob("*/digests.json"))
