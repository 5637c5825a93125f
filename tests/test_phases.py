"""Signals in every phase, sent to real processes; nothing here needs jax."""

import ctypes
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from lit_tune.phases import Phases

# Blocks in C and never comes back to Python, as a long XLA compile does: a mutex locked twice, which no signal ends.
STUCK_IN_C = """
    import ctypes
    def stuck():
        libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
        libc.pthread_mutex_lock(mutex)
        print("ready", flush=True)
        libc.pthread_mutex_lock(mutex)
"""


def start(body: str) -> subprocess.Popen:
    """A Python process that runs `body` after the imports, once it has printed "ready"."""
    prelude = "import sys, time\nfrom lit_tune.phases import Phases\n"
    code = prelude + textwrap.dedent(STUCK_IN_C) + textwrap.dedent(body)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n", "the process did not come up"
    return process


def finish(process: subprocess.Popen, seconds: float = 10.0) -> tuple[int, str, float]:
    """Exit code, the rest of the output, seconds until the end."""
    began = time.monotonic()
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, output, time.monotonic() - began


@pytest.mark.faults(row=7, fault="SIGTERM while stuck in C: start, compile, restore", expected="ends within 3 s")
@pytest.mark.parametrize("phase", ["start", "compile", "restore"])
def test_signal_where_nothing_can_be_saved_ends_a_process_that_is_stuck_in_c(phase: str) -> None:
    process = start(f"""
        with Phases(preempted_exit_code=75) as phases:
            phases.saved_step = 7
            with phases.enter("{phase}"):
                stuck()
    """)
    process.send_signal(signal.SIGTERM)
    code, output, seconds = finish(process)
    assert (code, output) == (75, "preempted at step 7\n")
    assert seconds < 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_in_the_loop_lets_it_save_and_return(number: signal.Signals) -> None:
    process = start("""
        with Phases(preempted_exit_code=75) as phases:
            for step in range(10_000):
                with phases.enter("step"):
                    if step == 3:
                        print("ready", flush=True)
                    time.sleep(0.01)
                if phases.stop_requested():
                    with phases.enter("save"):
                        print("saving", flush=True)
                        phases.saved_step = 42
                    sys.exit(phases.preempted())
    """)
    process.send_signal(number)
    code, output, _ = finish(process)
    assert (code, output) == (75, "saving\npreempted at step 42\n")


def test_compile_after_the_first_step_waits_for_the_loop() -> None:
    process = start("""
        with Phases() as phases:
            with phases.enter("step"):
                pass
            with phases.enter("compile"):
                print("ready", flush=True)
                time.sleep(1.0)
            print("compiled", phases.stop_requested(), flush=True)
            sys.exit(phases.preempted())
    """)
    process.send_signal(signal.SIGTERM)
    code, output, _ = finish(process)
    assert (code, output) == (0, "compiled True\npreempted at step 0\n")


def test_second_signal_ends_at_once_even_in_a_save() -> None:
    process = start("""
        with Phases(preempted_exit_code=75) as phases:
            phases.saved_step = 20
            with phases.enter("step"):
                pass
            with phases.enter("save"):
                stuck()
    """)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert process.poll() is None, "the first signal must leave the save alone"
    process.send_signal(signal.SIGTERM)
    code, output, seconds = finish(process)
    assert (code, output) == (75, "preempted at step 20\n")
    assert seconds < 3


@pytest.mark.faults(row=7, fault="SIGTERM while stuck in a data wait", expected="ends after the grace time")
def test_stop_that_is_not_obeyed_ends_after_the_grace_time() -> None:
    process = start("""
        with Phases(preempted_exit_code=75, grace_seconds=0.5) as phases:
            with phases.enter("step"):
                pass
            with phases.enter("data wait"):
                stuck()
    """)
    process.send_signal(signal.SIGTERM)
    code, output, seconds = finish(process)
    assert (code, output) == (75, "preempted at step 0\n")
    assert 0.3 < seconds < 4


def test_a_save_may_take_longer_than_the_grace_time() -> None:
    process = start("""
        with Phases(preempted_exit_code=75, grace_seconds=0.3) as phases:
            with phases.enter("step"):
                pass
            with phases.enter("save"):
                print("ready", flush=True)
                time.sleep(1.2)
                phases.saved_step = 9
            sys.exit(phases.preempted())
    """)
    process.send_signal(signal.SIGTERM)
    assert finish(process)[:2] == (75, "preempted at step 9\n")


def test_exit_does_not_wait_for_a_full_pipe() -> None:
    process = start("""
        with Phases(preempted_exit_code=75) as phases:
            with phases.enter("compile"):
                print("ready", flush=True)
                while True:
                    print("x" * 100_000, flush=True)
    """)
    time.sleep(0.3)  # nobody reads: the pipe is full, the main thread holds the lock of stdout
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    while process.poll() is None and time.monotonic() - began < 8:
        time.sleep(0.05)
    process.stdout.close()
    if process.poll() is None:
        process.kill()
        process.wait()
    assert process.returncode == 75


def test_children_get_default_signals_and_no_mask() -> None:
    with Phases():
        child = subprocess.Popen([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"],
                                 stdout=subprocess.PIPE, text=True)
        assert child.stdout.readline() == "up\n"
        proc = Path(f"/proc/{child.pid}/status")
        status = proc.read_text() if proc.exists() else "SigBlk: 0\n"
        child.terminate()
        assert child.wait(timeout=10) == -signal.SIGTERM
        child.stdout.close()
    blocked = next(line for line in status.splitlines() if line.startswith("SigBlk"))
    assert int(blocked.split()[1], 16) == 0


def test_handlers_are_as_before_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with Phases() as phases:
        assert signal.getsignal(signal.SIGTERM) != before[0]
        assert not phases.stop_requested()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert signal.set_wakeup_fd(-1) == -1


def test_seconds_count_each_moment_once_for_the_innermost_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    phases = Phases()

    def pass_time(seconds: float) -> None:
        now[0] += seconds

    pass_time(1)
    with phases.enter("step"):
        pass_time(6)
        with phases.enter("eval"):
            assert phases.name == "eval"
            pass_time(2)
        assert phases.name == "step"
        pass_time(1)
    assert phases.booked() == {"start": 1, "step": 7, "eval": 2}


def test_clock_of_the_day_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    phases = Phases()
    monkeypatch.setattr(time, "time", lambda: -3600.0)  # the clock jumps back
    with phases.enter("step"):
        ctypes.CDLL(None).usleep(1000)
    assert phases.seconds["step"] > 0
