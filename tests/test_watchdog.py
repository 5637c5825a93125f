"""A watchdog in real processes that stand still in one way or another; whole runs that hang are in test_hangs.py."""

import signal
import subprocess
import sys
import textwrap
import time

import pytest
from ml_collections import ConfigDict

from lit_tune.phases import Phases
from lit_tune.watchdog import START_S, Watchdog, cpu_seconds

PRELUDE = """
import ctypes, sys, threading, time
from ml_collections import ConfigDict
from lit_tune.phases import Phases
from lit_tune.watchdog import Watchdog

def stuck():  # in C, for ever, as a collective is whose peer does not come: a mutex locked twice
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)

def train(phases, steps):
    for _ in range(steps):
        with phases.enter("data wait"):
            time.sleep(0.01)
        with phases.enter("step"):
            time.sleep(0.01)
        phases.step += 1

def limits(step_s, phase_s):
    return ConfigDict({"step_s": step_s, "phase_s": phase_s})
"""


def run(body: str, timeout: float = 60) -> tuple[int, str, float]:
    """(exit code, output, seconds) of a process that runs `body` after the prelude."""
    process, began = start(body), time.monotonic()
    output, _ = process.communicate(timeout=timeout)
    return process.returncode, output, time.monotonic() - began


def start(body: str) -> subprocess.Popen:
    """A process that runs `body`, its output in one stream."""
    return subprocess.Popen([sys.executable, "-u", "-c", PRELUDE + textwrap.dedent(body)], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_a_thread_stuck_in_c_in_a_step_is_warned_of_and_ended_with_all_stacks_and_75() -> None:
    code, output, _ = run("""
        with Phases() as phases, Watchdog(phases, limits(1.0, 60.0)):
            phases.reading = lambda: "00007.tar"
            train(phases, 40)
            with phases.enter("data wait"):
                stuck()
    """)
    assert code == 75, output
    warning, line = (one for one in output.splitlines() if "waiting for data" in one)
    assert warning.startswith("lit_tune: warning: waiting for data for")
    assert "after step 40, reading 00007.tar" in warning and "at 1 s the process ends" in warning
    assert line.startswith("lit-tune: waiting for data for 1 s after step 40, reading 00007.tar: this is a hang")
    assert 'in stuck' in output and "in _watch" in output, "stacks of all threads"


def test_a_long_phase_that_shows_signs_of_life_is_left_alone_and_one_that_does_not_is_ended() -> None:
    code, output, _ = run("""
        with Phases() as phases, Watchdog(phases, limits(2.0, 2.0)):
            end = time.monotonic() + 2.5      # a start that computes
            while time.monotonic() < end:
                sum(range(10_000))
            train(phases, 40)
            with phases.enter("eval"):
                for batch in range(7):         # batches of an evaluation
                    time.sleep(0.4)
                    phases.alive()
                print("evaluated", flush=True)
                time.sleep(60)
    """)
    assert code == 75 and "evaluated" in output, output
    assert output.split("evaluated")[0].strip() == "", "no warning while there is life"
    assert "lit-tune: evaluating for" in output


def test_a_pipe_that_nobody_reads_does_not_hold_the_end_up() -> None:
    process = start("""
        import os
        from lit_tune import watchdog
        watchdog.LAST_S = 3
        with Phases() as phases, Watchdog(phases, limits(0.5, 1.0)):
            train(phases, 40)
            threading.Thread(target=lambda: os.write(1, b"x" * 10_000_000), daemon=True).start()
            with phases.enter("step"):
                stuck()
    """)
    process.wait(timeout=40)
    process.stdout.close()
    assert process.returncode == -signal.SIGALRM


def test_time_in_which_the_whole_process_was_stopped_does_not_count() -> None:
    process = start("""
        with Phases() as phases, Watchdog(phases, limits(1.5, 1.5)):
            train(phases, 40)
            with phases.enter("eval"):
                print("ready", flush=True)
                for _ in range(4):
                    time.sleep(0.5)
                    phases.alive()
        print("done", flush=True)
    """)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(3)
    process.send_signal(signal.SIGCONT)
    output, _ = process.communicate(timeout=30)
    assert (process.returncode, output) == (0, "done\n")


@pytest.mark.parametrize("step_seconds, expected", [(2.0, 120.0), (30.0, 300.0)])
def test_a_step_may_take_ten_medians_and_at_least_step_s(step_seconds: float, expected: float) -> None:
    phases = Phases()
    watchdog = Watchdog(phases, ConfigDict({"step_s": 120.0, "phase_s": 3600.0}))
    assert watchdog.limit("start") == START_S and watchdog.limit("compile") == 3600
    assert watchdog.limit("step") == 600, "nothing is known yet of the first steps"
    phases.step = 1_000  # a resumed run: these steps were other starts'
    for step in range(8):
        watchdog._measure()
        phases.seconds |= {"data wait": step * step_seconds / 2 + 1, "step": step * step_seconds / 2}
        phases.step += 1
    assert watchdog.limit("step") == watchdog.limit("data wait") == pytest.approx(expected)
    assert watchdog.limit("start") == watchdog.limit("save") == 3600, "between the loop's phases hours are no more due"


def test_processor_time_counts_workers() -> None:
    before = cpu_seconds()
    burn = "import time; end = time.process_time() + 0.5\nwhile time.process_time() < end: pass\nprint()\ninput()"
    worker = subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    worker.stdout.readline()
    assert cpu_seconds() - before > 0.4
    worker.communicate("\n")
