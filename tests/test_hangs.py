"""Runs that stand still, in one process or in one of several: they say so, end with 75, and go on where they were."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import several
import tiny

SOON = {"watchdog__step_s": 8.0}  # instead of two minutes; the machine that tests may be busy


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the text tower and the pictures."""
    return tiny.make_home(tmp_path_factory.mktemp("hangs"))


@pytest.fixture(scope="module")
def straight(home: Path) -> str:
    """The name of a run of one process that nobody disturbed."""
    return several.straight(home)


@pytest.fixture(scope="module")
def straight_2(home: Path) -> str:
    """The name of a run of two processes that nobody disturbed."""
    return several.straight(home, 2)


def goes_on(home: Path, name: str, straight: str, start: Callable[[], list[subprocess.Popen]]) -> float:
    """Start a run again, from its checkpoint, and hold its end against the straight run's; seconds to a new step."""
    kept, began = tiny.kept(home / name), time.monotonic()
    processes = start()
    seconds = several.seconds_to_step(home, name, several.newest(home, name) + 1, processes[0], began)
    codes, outputs = several.finish(processes)
    assert set(codes) == {0}, outputs
    tiny.check_kept(home / name, kept)
    several.same_end(home, name, straight)
    return seconds


@pytest.mark.slow
@pytest.mark.faults(row=21, fault="one process does not come, or two have one number",
                    expected="75 after `watchdog.join_s`, with a line; one of two that share a number may SIGABRT")
@pytest.mark.parametrize("numbers", [(0,), (1,), (1, 1), (0, 0)], ids=str)
def test_processes_that_do_not_find_each_other_end(
    numbers: tuple[int, ...], home: Path, recovery: Callable[[float], None]
) -> None:
    began = time.monotonic()
    codes, outputs = several.finish(several.run_several(
        home, f"alone-{len(numbers)}-{numbers[0]}", numbers=numbers, watchdog__join_s=8), timeout=90)
    seconds = time.monotonic() - began
    assert seconds < 8 + 40, "jax and the config have to be loaded first, then 8 s are waited"
    missing = f"process {numbers[0]} of 2: a process is missing or two have the same number"
    if len(numbers) == 1:
        assert codes == [75] and missing in outputs[0], (codes, outputs)
    else:  # jax itself ends one of them, by SIGABRT or by an error that we tell
        assert 75 in codes and set(codes) <= {75, -signal.SIGABRT}, (codes, outputs)
        for code, output in zip(codes, outputs, strict=True):
            assert code != 75 or missing in output or "the processes did not find each other" in output, output
    recovery(seconds)


@pytest.mark.slow
@pytest.mark.faults(row=22, fault="an exception on process 1 of two",
                    expected="its number and trace are printed, the other ends with 75, resumes bit for bit")
def test_exception_on_one_of_two_ends_both_and_resume_is_bitwise(
    home: Path, straight_2: str, recovery: Callable[[float], None]
) -> None:
    processes = several.run_several(home, "raised", "--debug_fault=raise@25:1")  # step 10 is saved, 20 may be
    codes, outputs = several.finish(processes, timeout=60)
    assert codes == [75, 1], outputs
    assert "lit-tune: process 1 of 2 ends after an error" in outputs[1]
    assert "in strike" in outputs[1] and "RuntimeError: --debug_fault=raise@25, on process 1" in outputs[1]
    assert "lit-tune: process 0 of 2: another process was lost" in outputs[0]
    recovery(goes_on(home, "raised", straight_2, lambda: several.run_several(home, "raised")))


@pytest.mark.slow
@pytest.mark.faults(row=23, fault="process 1 of two is alive and stands still",
                    expected="the watchdog ends all with stacks and 75, resumes bit for bit")
def test_one_of_two_alive_but_stuck_ends_both_with_stacks_and_resume_is_bitwise(
    home: Path, straight_2: str, recovery: Callable[[float], None]
) -> None:
    codes, outputs = several.finish(several.run_several(home, "stuck", "--debug_fault=stuck@15:1", **SOON))
    assert codes == [75, 75], (codes, outputs)
    for number, output in enumerate(outputs):
        assert f"lit_tune: warning: process {number} of 2: waiting for a step for" in output
        assert f"lit-tune: process {number} of 2: waiting for a step for" in output and "this is a hang" in output
        assert 'train.py", line' in output and "in loop" in output and "in _watch" in output, "stacks of all threads"
    assert "debug_faults.py" in outputs[1] and "debug_faults.py" not in outputs[0]
    recovery(goes_on(home, "stuck", straight_2, lambda: several.run_several(home, "stuck")))


@pytest.mark.slow
@pytest.mark.faults(row=24, fault="SIGSTOP of the data worker",
                    expected="a warning that names the shard, then 75; resumes bit for bit")
def test_a_stopped_data_worker_is_warned_of_then_ends_the_run_and_resume_is_bitwise(
    home: Path, straight: str, recovery: Callable[[float], None]
) -> None:
    process = several.run(home, "stopped", data__workers=1, **SOON)
    tiny.wait_for_step(home / "stopped", 12, process, saved=10)
    (worker,) = several.workers(process)
    with several.stopped(worker):
        code, output = tiny.finish(process)
        assert code == 75, output
        assert "warning: waiting for data for" in output and ", reading pictures; at" in output
        assert "lit-tune: waiting for data for" in output and ", reading pictures: this is a hang" in output
        assert several.gone(worker), "a stopped worker stays behind"
    recovery(goes_on(home, "stopped", straight, lambda: [several.run(home, "stopped", data__workers=1)]))


@pytest.mark.slow
@pytest.mark.faults(row=24, fault="a data worker that is slow: stopped for a while",
                    expected="a warning that names the shard, then it goes on; same bits")
def test_a_slow_data_worker_is_warned_of_and_changes_nothing(
    home: Path, straight: str, recovery: Callable[[float], None]
) -> None:
    process = several.run(home, "slow", data__workers=1, watchdog__step_s=30.0)
    tiny.wait_for_step(home / "slow", 12, process)
    (worker,) = several.workers(process)
    with several.stopped(worker):
        assert ", reading pictures; at" in several.read_until(process, "warning: waiting for data for")
        reached, began = several.newest(home, "slow"), time.monotonic()
    recovery(several.seconds_to_step(home, "slow", reached + 1, process, began))
    code, output = tiny.finish(process)
    assert code == 0, output
    several.same_end(home, "slow", straight)


@pytest.mark.slow
@pytest.mark.faults(row=25, fault="kill -9 of a data worker, as for want of memory",
                    expected="one line and 75, resumes bit for bit")
def test_kill_9_of_a_data_worker_ends_the_run_and_resume_is_bitwise(
    home: Path, straight: str, recovery: Callable[[float], None]
) -> None:
    process = several.run(home, "worker", data__workers=2)
    tiny.wait_for_step(home / "worker", 12, process, saved=10)
    os.kill(several.workers(process)[0], signal.SIGKILL)
    code, output = tiny.finish(process)
    assert code == 75 and "lit-tune: config.data.workers: a worker process" in output, output
    assert "unexpectedly with exit code -9" in output and "Traceback" not in output
    recovery(goes_on(home, "worker", straight, lambda: [several.run(home, "worker", data__workers=2)]))


@pytest.mark.slow
def test_kill_9_of_a_run_leaves_no_data_worker_behind(home: Path) -> None:
    process = several.run(home, "killed", data__workers=2)
    tiny.wait_for_step(home / "killed", 5, process)
    workers = several.workers(process)
    assert len(workers) == 2
    process.kill()
    assert all(several.gone(worker) for worker in workers), "workers live on without their run"
    process.communicate()


@contextmanager
def two_hosts() -> Iterator[tuple[list[str], list[list[str]]]]:
    """Two network namespaces with a cable between them: (their addresses, the words that run a command in each)."""
    names, links = [f"lt{os.getpid()}-{i}" for i in (0, 1)], [f"lt{os.getpid() % 10**6}v{i}" for i in (0, 1)]
    addresses = ["10.213.7.1", "10.213.7.2"]
    made = subprocess.run(["ip", "netns", "add", names[0]], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no network namespaces here: {made.stderr.strip()}")
    try:
        subprocess.run(["ip", "netns", "add", names[1]], check=True)
        subprocess.run(["ip", "link", "add", links[0], "type", "veth", "peer", "name", links[1]], check=True)
        for name, link, address in zip(names, links, addresses, strict=True):
            subprocess.run(["ip", "link", "set", link, "netns", name], check=True)
            inside = ["ip", "-n", name]
            for words in (["addr", "add", f"{address}/24", "dev", link], ["link", "set", link, "up"],
                          ["link", "set", "lo", "up"]):
                subprocess.run([*inside, *words], check=True)
            # gloo offers the address that the host's name stands for; `ip netns exec` puts this file over /etc/hosts.
            (Path("/etc/netns") / name).mkdir(parents=True)
            (Path("/etc/netns") / name / "hosts").write_text(f"127.0.0.1 localhost\n{address} {socket.gethostname()}\n")
        yield addresses, [["ip", "netns", "exec", name] for name in names]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
            shutil.rmtree(Path("/etc/netns") / name, ignore_errors=True)


def start_on_two_hosts(home: Path, name: str, addresses: list[str], inside: list[list[str]], **changes: object,
                       ) -> list[subprocess.Popen]:
    """A run of two processes, one in each namespace."""
    words = tiny.arguments(home / "text", home / "pictures", home / name, **changes)
    words += [f"--coordinator={addresses[0]}:{tiny.free_port()}", "--num_processes=2"]
    return [tiny.start([*words, f"--process_id={i}"], home / "cache", inside=inside[i]) for i in (0, 1)]


@pytest.mark.slow
@pytest.mark.faults(row=26, fault="the link between two hosts is down for 3 s, then for good",
                    expected="goes on with the same bits; both end within the heartbeat and 10 s, by 75 or SIGABRT")
def test_a_link_that_comes_back_changes_nothing_and_one_that_does_not_ends_both(
    home: Path, straight_2: str, recovery: Callable[[float], None]
) -> None:
    with two_hosts() as (addresses, inside):
        link = [*inside[1], "ip", "link", "set", "dev", f"lt{os.getpid() % 10**6}v1"]
        processes = start_on_two_hosts(home, "link", addresses, inside, total_steps=several.STEPS)
        tiny.wait_for_step(home / "link", 12, processes[0])
        subprocess.run([*link, "down"], check=True)
        time.sleep(3)
        subprocess.run([*link, "up"], check=True)
        began = time.monotonic()
        codes, outputs = several.finish(processes)
        assert codes == [0, 0], outputs
        several.same_end(home, "link", straight_2)
        recovery(time.monotonic() - began)

        processes = start_on_two_hosts(home, "cut", addresses, inside, total_steps=5000)
        tiny.wait_for_step(home / "cut", 12, processes[0])
        subprocess.run([*link, "down"], check=True)
        began = time.monotonic()
        codes, outputs = several.finish(processes, timeout=60)  # heartbeats are missed after 30 s
        assert time.monotonic() - began < 40 and set(codes) <= {75, -signal.SIGABRT}, (codes, outputs)


@pytest.mark.faults(row=47, fault="the clock jumps back by one hour",
                    expected="no effect: same bits, rates and shares of time stay sane")
def test_a_clock_that_jumps_back_changes_nothing(home: Path, straight: str) -> None:
    code, output = tiny.finish(several.run(home, "clock", "--debug_fault=clock@10"))
    assert code == 0, output
    several.same_end(home, "clock", straight)
    lines = [line for line in tiny.lines(home / "clock") if line["kind"] == "train"]
    jumps = [after["time"] - before["time"] for before, after in zip(lines, lines[1:], strict=False)]
    assert min(jumps) < -3000, "the clock did jump"
    for line in lines:
        assert 0 <= line["perf/goodput"] <= 1
        assert all(0 <= value < 1e6 for name, value in line.items() if name.startswith("perf/"))
