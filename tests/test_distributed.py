"""Several real processes on this machine: agreement on facts and on the step to stop at."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import simulated
import tiny
from several import finish

from lit_tune import distributed
from lit_tune.errors import ConfigError
from lit_tune.phases import Phases

PRELUDE = """
import json, os, sys, time
from lit_tune import distributed, errors
from lit_tune.phases import Phases
me = int(os.environ["LIT_TUNE_PROCESS_ID"])
distributed.initialize(initialization_timeout=60, heartbeat_timeout=10, shutdown_timeout=10)
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
"""


def start(body: str, number: int = 2) -> list[subprocess.Popen]:
    """`number` processes of one run, each running `body` after joining the others."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": simulated.flags(1),
        "LIT_TUNE_COORDINATOR": f"127.0.0.1:{tiny.free_port()}",
        "LIT_TUNE_NUM_PROCESSES": str(number),
    }
    code = PRELUDE + textwrap.dedent(body)
    return [
        subprocess.Popen([sys.executable, "-c", code], env=environment | {"LIT_TUNE_PROCESS_ID": str(i)},
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for i in range(number)
    ]


def wait_for_line(process: subprocess.Popen, start_of_line: str) -> None:
    """Read a process's output up to a line."""
    for line in process.stdout:
        if line.startswith(start_of_line):
            return
    raise AssertionError(f"the process ended before it printed {start_of_line!r}")


@pytest.mark.multiprocess
def test_facts_and_refusals_are_shared() -> None:
    processes = start("""
        distributed.agree({"config": "abc", "jax": "1"})
        say("value", json.dumps(distributed.on_process_0("value", lambda: [me, "x"])))
        say("again", distributed.on_process_0("value", lambda: 5))
        def refuse():
            raise errors.CheckpointError("no checkpoint is whole")
        try:
            distributed.on_process_0("refuse", refuse)
        except errors.CheckpointError as error:
            say("refused", error, error.exit_code)
        distributed.barrier("here")
        try:
            distributed.agree({"config": "abc" if me == 0 else "abd", "jax": "1"})
        except errors.ConfigError as error:
            say("differ", error)
        sys.stdout.flush()
        os._exit(2) if me else (time.sleep(0.5), os._exit(2))
    """)
    codes, outputs = finish(processes)
    assert codes == [2, 2], outputs
    for output in outputs:
        lines = dict(line.split(" ", 1) for line in output.splitlines())
        assert json.loads(lines["value"]) == [0, "x"]
        assert lines["again"] == "5"
        assert lines["refused"] == "no checkpoint is whole 5"
        assert "config is abc on process 0 and abd on process 1" in lines["differ"]
        assert "jax is" not in lines["differ"]


STOPPING = """
    import jax
    with Phases(preempted_exit_code=75) as phases, distributed.StopAgreement(phases) as stop:
        step = 0
        while True:
            with phases.enter("step"):
                time.sleep(0.01 if me == 0 else 0.03)   # one host runs far ahead of the other
            step += 1
            if step == 10:
                say("ready")
            if stop.agreed(step):
                phases.saved_step = step
                break
        code = phases.preempted()
    distributed.barrier("end")
    sys.exit(code)
"""


@pytest.mark.faults(row=5, fault="SIGTERM to one of two loops, or to both, one far ahead",
                    expected="both stop at one step")
@pytest.mark.multiprocess
@pytest.mark.parametrize("who", [[1], [0, 1]], ids=["one", "all"])
def test_all_processes_stop_at_one_step_when_one_or_all_get_a_signal(who: list[int]) -> None:
    processes = start(STOPPING)
    for process in processes:
        wait_for_line(process, "ready")
    for i in who:
        processes[i].send_signal(signal.SIGTERM)
    codes, outputs = finish(processes)
    assert codes == [75, 75], outputs
    steps = [output.split("preempted at step ")[1].split()[0] for output in outputs]
    assert steps[0] == steps[1]
    assert int(steps[0]) > 10


@pytest.mark.faults(row=7, fault="SIGTERM to one of two before the first step", expected="both end at once")
@pytest.mark.multiprocess
def test_signal_before_the_first_step_ends_all_processes() -> None:
    processes = start("""
        with Phases(preempted_exit_code=75) as phases, distributed.StopAgreement(phases) as stop:
            with phases.enter("compile"):
                say("ready")
                time.sleep(60)
    """)
    for process in processes:
        wait_for_line(process, "ready")
    began = time.monotonic()
    processes[0].send_signal(signal.SIGTERM)  # the coordinator: the hardest, the votes live in it
    codes, outputs = finish(processes)
    assert codes == [75, 75], outputs
    assert outputs == ["preempted at step 0\n"] * 2
    assert time.monotonic() - began < 10


@pytest.mark.multiprocess
@pytest.mark.parametrize("alone", [0, 1])
def test_process_whose_peers_do_not_come_ends_with_one_line_and_75(alone: int) -> None:
    code = ("from lit_tune import distributed\n"
            f"distributed.initialize('127.0.0.1:{tiny.free_port()}', 2, {alone}, initialization_timeout=2)")
    result = subprocess.run([sys.executable, "-c", code], env=os.environ | {"JAX_PLATFORMS": "cpu"},
                            capture_output=True, text=True, timeout=30)
    assert result.returncode == 75
    line = next(line for line in result.stderr.splitlines() if line.startswith("lit-tune:"))
    assert f"process {alone} of 2: a process is missing" in line


def test_one_process_needs_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COORDINATOR", "NUM_PROCESSES", "PROCESS_ID"):
        monkeypatch.delenv(f"LIT_TUNE_{name}", raising=False)
    distributed.initialize("", 1, 0)
    assert distributed.num_processes() == 1
    distributed.agree({"config": "abc"})
    assert distributed.on_process_0("value", lambda: 3) == 3
    with Phases() as phases, distributed.StopAgreement(phases) as stop:
        assert not stop.agreed(1)
        with phases.enter("step"):
            phases.request_stop()
        assert stop.agreed(2)


def test_without_flags_and_without_a_cluster_one_process_runs() -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LIT_TUNE_")} | {"JAX_PLATFORMS": "cpu"}
    code = "import jax; import lit_tune.distributed as d; d.initialize(); print(d.num_processes(), jax.device_count())"
    environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    command = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "1 2\n", "")


@pytest.mark.parametrize("given", [("host:1", 2, -1), ("", 2, 0), ("host", 2, 0), ("host:1", 2, 2), ("host:1", 0, 0)])
def test_incomplete_flags_are_refused_with_what_is_missing(
    given: tuple[str, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("COORDINATOR", "NUM_PROCESSES", "PROCESS_ID"):
        monkeypatch.delenv(f"LIT_TUNE_{name}", raising=False)
    with pytest.raises(ConfigError, match="expected HOST:PORT") as caught:
        distributed.initialize(*given)
    assert str(given[1]) in str(caught.value)


def test_versions_name_the_libraries_that_decide_what_a_step_computes() -> None:
    versions = distributed.library_versions()
    assert {"python", "lit_tune", "jax", "jaxlib", "flax", "optax", "numpy"} <= versions.keys()
    assert versions["jax"][0].isdigit()
