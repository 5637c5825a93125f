"""Several processes as one run: start-up, agreement on facts, agreement on the step to stop at.

Everything here talks through jax's coordination service (host to host, a key-value store), never through the
devices: a question between hosts does not wait for the steps that are in flight.
"""

import importlib.metadata
import json
import os
import platform
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import jax

from lit_tune import cli, errors
from lit_tune.phases import Phases

# What a collective says whose peer has gone: gloo (CPU), NCCL (GPU), gRPC.
LOST = re.compile(r"(closed|reset) by peer|remote process exited|Broken pipe|UNAVAILABLE|heartbeat", re.IGNORECASE)
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "grain")


def initialize(
    coordinator: str = "",
    num_processes: int = 0,
    process_id: int = -1,
    *,
    initialization_timeout: int = 300,
    heartbeat_timeout: int = 30,
    shutdown_timeout: int = 60,
) -> None:
    """Join the processes of this run; to be called before anything touches a device.

    Empty values are filled from LIT_TUNE_COORDINATOR, LIT_TUNE_NUM_PROCESSES and LIT_TUNE_PROCESS_ID. Without those,
    jax's own detection is asked (Cloud TPU, GKE, Slurm); where it finds no cluster this is a run of one process.

    Args:
        coordinator: HOST:PORT of process 0.
        num_processes: how many processes there are.
        process_id: number of this one, from 0.
        initialization_timeout: seconds to wait for the others.
        heartbeat_timeout: seconds of silence after which a process counts as lost (jax's default is 100).
        shutdown_timeout: seconds that a process waits for the others at its end (jax's default is 300: what an
            exception on one host would cost all of them).

    Raises:
        ConfigError: some of the three are given and others not, or they contradict each other.
        HangError: the others could not be joined. If they just do not come within the time-out, the process ends with
            the same exit code, since jax leaves no way to return from there.
    """
    given = _given(coordinator, num_processes, process_id)
    if given == {"num_processes": 1} or (not given and _devices_awake()):
        return
    # jax's own preemption service would put its handler in the place of ours; StopAgreement does its work.
    jax.config.update("jax_enable_preemption_service", False)
    collectives = jax.config.jax_cpu_collectives_implementation
    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # read on the CPU only
    # When the others do not come, jax aborts with a C++ stack; a moment before that we end with a line and 75.
    late = threading.Timer(initialization_timeout, _end_late, [given, initialization_timeout])
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(
            **given,
            cluster_detection_method="deactivate" if given else None,
            initialization_timeout=initialization_timeout + 30,
            heartbeat_timeout_seconds=heartbeat_timeout,
            shutdown_timeout_seconds=shutdown_timeout,
        )
    except ValueError as error:
        if given or "coordinator_address should be defined" not in str(error):
            raise errors.ConfigError(f"jax.distributed.initialize: {error}") from error
        # No cluster announces itself: one process.
        jax.config.update("jax_cpu_collectives_implementation", collectives)
    except RuntimeError as error:
        raise errors.HangError(f"the processes did not find each other: {str(error).splitlines()[0]}") from error
    finally:
        late.cancel()


def _devices_awake() -> bool:
    """Whether this process has used its devices: a program that calls ours joined the others itself, or is alone."""
    from jax._src import xla_bridge  # jax has no public name for it

    return xla_bridge.backends_are_initialized()


def _end_late(given: Mapping[str, Any], seconds: int) -> None:
    """End a process whose peers did not come; it is blocked in C++, so nothing can be raised."""
    place = f"process {given.get('process_id', '?')} of {given.get('num_processes', '?')}"
    line = (
        f"lit-tune: {place}: a process is missing or two have the same number; not all had come to "
        f"{given.get('coordinator_address', 'the coordinator')} after {seconds} s\n"
    )
    os.write(2, line.encode())
    os._exit(errors.HangError.exit_code)


def _given(coordinator: str, num_processes: int, process_id: int) -> dict[str, Any]:
    """What flags, else variables, say; {} if nothing is said."""
    coordinator = coordinator or os.environ.get("LIT_TUNE_COORDINATOR", "")
    try:
        num_processes = num_processes or int(os.environ.get("LIT_TUNE_NUM_PROCESSES", "0"))
        process_id = process_id if process_id >= 0 else int(os.environ.get("LIT_TUNE_PROCESS_ID", "-1"))
    except ValueError as error:
        raise errors.ConfigError(f"LIT_TUNE_NUM_PROCESSES and LIT_TUNE_PROCESS_ID are integers: {error}") from error
    if num_processes == 1 and process_id <= 0:
        return {"num_processes": 1}
    found = f"coordinator {coordinator!r}, num_processes {num_processes}, process_id {process_id}"
    if not coordinator and num_processes == 0 and process_id < 0:
        return {}
    if ":" not in coordinator or not 0 <= process_id < num_processes:
        raise errors.ConfigError(
            errors.explain(
                "--coordinator, --num_processes, --process_id",
                expected="HOST:PORT, N and a number from 0 to N - 1, all three",
                found=found,
                do="give all three, or none of them on Cloud TPU, GKE and Slurm",
            )
        )
    return {"coordinator_address": coordinator, "num_processes": num_processes, "process_id": process_id}


def library_versions() -> dict[str, str]:
    """Version by name of Python, lit_tune and the libraries that decide what a step computes."""
    versions = {"python": platform.python_version()}
    for name in ("lit_tune", *LIBRARIES):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def agree(facts: Mapping[str, Any], timeout: float = 300.0) -> None:
    """Make sure that every process would run the same thing. Different configs could train together silently.

    Args:
        facts: JSON values that have to be equal, by name: config keys, data fingerprint, `library_versions()`.
        timeout: seconds that the processes wait for each other.

    Raises:
        ConfigError: on all processes, naming the fact and which process has what.
        HangError: a process did not answer.
    """
    if num_processes() == 1:
        return
    prefix = _unique("agree")
    _client().key_value_set(f"{prefix}/{process_index()}", json.dumps(dict(facts)))

    def compare() -> None:
        told = [json.loads(_get(f"{prefix}/{i}", timeout)) for i in range(num_processes())]
        names = dict.fromkeys(name for one in told for name in one)
        different = [_difference(name, [one.get(name, "nothing") for one in told]) for name in names]
        if any(different):
            raise errors.ConfigError(
                "processes differ: " + "; ".join(filter(None, different)) + "; start all with the same code and config"
            )

    on_process_0("compare", compare, timeout)


def _difference(name: str, values: list[Any]) -> str:
    """Who has what, where a process differs from process 0; "" if none does."""
    other = next((i for i, value in enumerate(values) if value != values[0]), None)
    return "" if other is None else f"{name} is {values[0]} on process 0 and {values[other]} on process {other}"


def on_process_0(name: str, function: Callable[[], Any], timeout: float = 600.0) -> Any:
    """What `function` returned on process 0, on every process; a LitTuneError it raised is raised on every process.

    Args:
        name: what is being done; the calls have to come in the same order everywhere.
        function: called on process 0 only; returns something that JSON can hold.
        timeout: seconds that the others wait.

    Raises:
        LitTuneError: of the same kind and with the same line as on process 0; anything else that process 0 raised is
            a plain LitTuneError on the others.
        HangError: no answer came in time.
    """
    if num_processes() == 1:
        return function()
    key = _unique(name)
    if process_index() != 0:
        answer = json.loads(_get(key, timeout))
        if "error" in answer:
            raise getattr(errors, answer["kind"])(answer["error"])
        return answer["value"]
    try:
        value = function()
    except Exception as error:
        kind = type(error).__name__ if isinstance(error, errors.LitTuneError) else "LitTuneError"
        _client().key_value_set(key, json.dumps({"error": str(error), "kind": kind}))
        time.sleep(1.0)  # the store is in this process: let the others read before it ends
        raise
    _client().key_value_set(key, json.dumps({"value": value}))
    return value


def barrier(name: str, timeout: float = 600.0) -> None:
    """Returns when every process has come here.

    Raises:
        HangError: one did not within `timeout` seconds.
    """
    if num_processes() == 1:
        return
    try:
        _client().wait_at_barrier(_unique(name), int(timeout * 1000))
    except RuntimeError as error:
        raise errors.HangError(f"waiting for the other processes ({name}): {str(error).splitlines()[0]}") from error


def _client() -> Any:
    """jax's client of the coordination service. jax has no public name for it; Orbax reaches it the same way."""
    from jax._src import distributed as jax_distributed

    return jax_distributed.global_state.client


def num_processes() -> int:
    """Number of processes, without waking the devices."""
    from jax._src import distributed as jax_distributed

    return jax_distributed.global_state.num_processes if jax.distributed.is_initialized() else 1


def process_index() -> int:
    """Number of this process, without waking the devices."""
    from jax._src import distributed as jax_distributed

    return jax_distributed.global_state.process_id if jax.distributed.is_initialized() else 0


def _unique(name: str) -> str:
    """A key for this call of `name`, the same on all processes: the n-th call anywhere is the n-th everywhere."""
    count = _client().key_value_increment(f"lit_tune/count/{name}/{process_index()}", 1)
    return f"lit_tune/{name}/{count}"


def _get(key: str, timeout: float) -> str:
    """The value, waited for."""
    try:
        return _client().blocking_key_value_get(key, int(timeout * 1000))
    except RuntimeError as error:
        raise errors.HangError(f"no answer from another process within {timeout:.0f} s ({key})") from error


def vote(topic: str, word: str) -> None:
    """Say a word on a topic, in the place of an earlier one of this process; with several processes only."""
    _client().key_value_set(f"lit_tune/{topic}/{process_index()}", word, allow_overwrite=True)


def votes(topic: str) -> list[str]:
    """The words that processes have said on a topic so far; [] while the coordinator does not answer."""
    with suppress(RuntimeError):
        return [word for _, word in _client().key_value_dir_get(f"lit_tune/{topic}")]
    return []


@contextmanager
def leaving_together() -> Iterator[None]:
    """An error inside ends this process at once where there are several.

    The others wait for it in a collective; an orderly exit would wait for them in turn.
    """
    try:
        yield
    except BaseException as error:
        if num_processes() == 1:
            raise
        code = _tell(error)
        sys.stderr.flush()
        os._exit(code)


def _tell(error: BaseException) -> int:
    """Say on stderr which process ends and why; its exit code."""
    who = f"process {process_index()} of {num_processes()}"
    if isinstance(error, jax.errors.JaxRuntimeError) and LOST.search(str(error)):
        error = errors.HangError(f"{who}: another process was lost: {str(error).splitlines()[0]}")
    if isinstance(error, errors.LitTuneError):
        return cli.report(error)
    print(f"lit-tune: {who} ends after an error:", file=sys.stderr)
    traceback.print_exception(error)
    return 1


class StopAgreement:
    """All processes stop at one step when any of them has been asked to.

        with StopAgreement(phases) as stop:
            ...
            if stop.agreed(step): ...

    With one process it is `phases.stop_requested()`. With several, a thread looks every half second whether anybody
    has voted. If so, each process votes the last step it was asked about and holds the loop inside `agreed` until all
    votes are in; the largest vote + 1 is the step that none of them has passed. Processes may run ahead of each other
    by as many steps as they like, and the devices are never waited for.
    """

    TOPIC = "stop"

    def __init__(self, phases: Phases, *, poll_seconds: float = 0.5, timeout: float = 60.0) -> None:
        """Nothing happens before the `with` statement.

        Args:
            phases: where signals arrive.
            poll_seconds: how often the thread looks for votes.
            timeout: seconds to wait for all votes; then a peer is lost and the process ends with 75.
        """
        self._phases = phases
        self._poll_seconds = poll_seconds
        self._timeout = timeout
        self._lock = threading.Lock()
        self._asked = threading.Event()
        self._closed = threading.Event()
        self._last = -1  # last step for which `agreed` said no
        self._stop_at: int | None = None
        self._leaving = False

    def agreed(self, step: int) -> bool:
        """Whether every process is to save and end now, after `step` trained steps. To be asked after each step."""
        if num_processes() == 1:
            return self._phases.stop_requested()
        with self._lock:
            if self._stop_at is None:
                self._last = step
                return False
            return step >= self._stop_at

    def __enter__(self) -> "StopAgreement":
        """Listens from here on."""
        if num_processes() > 1:
            self._phases.announce = self._announce
            self._thread = threading.Thread(target=self._watch, name="stop-agreement", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stops listening."""
        self._closed.set()
        self._asked.set()
        if num_processes() > 1:
            self._thread.join(timeout=2 * self._poll_seconds)

    def _announce(self, word: str) -> None:
        """A signal was caught here. `exit`: this process ends at once, so the others must not count on its vote."""
        if word == "exit":
            self._leaving = True
            vote(self.TOPIC, "exit")
            if process_index() == 0:
                time.sleep(3 * self._poll_seconds)  # the votes live in this process: let the others see them
        self._asked.set()

    def _watch(self) -> None:
        """The thread: wait for a signal here or a vote from elsewhere, then settle the step."""
        while not self._asked.wait(self._poll_seconds) and not votes(self.TOPIC):
            continue
        if self._closed.is_set() or self._leaving:
            return
        self._phases.request_stop()
        with self._lock:  # the loop waits in `agreed`, so the vote stays true until all are in
            vote(self.TOPIC, str(self._last))
            found = self._all_votes()
            if "exit" in found:
                self._phases.exit_now()
            self._stop_at = max(map(int, found)) + 1

    def _all_votes(self) -> list[str]:
        """One vote of each process (or fewer, if one of them says exit)."""
        deadline = time.monotonic() + self._timeout
        while time.monotonic() < deadline:
            found = votes(self.TOPIC)
            if len(found) == num_processes() or "exit" in found:
                return found
            time.sleep(0.05)
        os.write(2, f"a process did not answer within {self._timeout:.0f} s of a signal; ending\n".encode())
        os._exit(errors.HangError.exit_code)
