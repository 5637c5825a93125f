"""The run directory: who writes here, with which config and data, and what is done with half-written lines."""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_tune import __version__, errors, shard_listing
from lit_tune.distributed import on_process_0, process_index
from lit_tune.errors import ConfigError
from lit_tune.files import Tolerated, append_lines, as_path, is_remote, read_lines, sync, write_atomically
from lit_tune.runlock import RunLock

# What may change in a run that goes on: keys that decide when something is written, or how the same samples are made.
MAY_CHANGE = ("log.", "checkpoint.every", "checkpoint.keep", "watchdog.")
SAME_SAMPLES = ("data.workers", "data.threads", "data.prefetch", "data.cache_decoded_mib")

NEW_KEY = "absent in the record"
ABSENT = object()  # in the place of a value that is not there


class RunDir:
    """A run directory, opened by one process of the run.

        with RunDir.open(workdir, config_json, data={"train": source.fingerprint}, extend=extend) as run:
            if run.finished:
                return 0
            ...restore...
            run.resume_at(step)
            ...
            run.quarantine([{"shard": ..., "key": ..., "kind": ...}])
            run.sync()                     # after each checkpoint
            run.write_final(step, params_sha256, evals)

    Attributes:
        path: the directory.
        config_hash: sha256 of the resolved config, hex.
        checkpoints: the folder of the checkpoints.
    """

    def __init__(self, path: Any, page: dict[str, Any], lock: RunLock | None) -> None:
        """Use `RunDir.open`."""
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.config_hash = page["hash"]
        self._total_steps = page["config"]["total_steps"]
        self._lock = lock
        self._held: dict[str, set[str]] = {}  # lines that are in a file of lines, by its name
        self._waiting: dict[str, dict[str, None]] = {}  # those that could not be written yet, in order
        self._tolerated = Tolerated(path)

    @classmethod
    def open(
        cls,
        workdir: Path | str,
        config_json: str,
        *,
        data: Mapping[str, str] | None = None,
        shards: Sequence[tuple[str, str]] = (),
        extend: bool = False,
    ) -> "RunDir":
        """The directory, locked by process 0 and checked by it against what was recorded at the first start.

        All processes call it; what process 0 refuses is refused on all.

        Args:
            workdir: made if it is missing. May be gs:// (then there is no lock).
            config_json: the resolved config (`config.to_json`), or an object {"config": it, "hash": its hash, ...}.
            data: fingerprints by name.
            shards: (name, digest) of each, kept beside; with them a refusal says which one changed.
            extend: whether `total_steps` may have grown.

        Raises:
            ConfigError: not writable; another config or other data in the same directory (with the differences); a
                live run is writing here.
        """
        path = as_path(workdir)
        page = _page(json.loads(config_json))
        lock = RunLock(path / "run.lock") if process_index() == 0 and not is_remote(path) else None
        on_process_0("run directory", lambda: _claim(path, lock, page, dict(data or {}), shards, extend))
        return cls(path, page, lock)

    @property
    def finished(self) -> bool:
        """Whether `final.json` is there and has reached `total_steps` (which --extend may have moved on)."""
        final = on_process_0("final", self.final)
        return final is not None and final["step"] >= self._total_steps

    def final(self) -> dict[str, Any] | None:
        """The content of `final.json`; None before the end."""
        file = self.path / "final.json"
        return json.loads(file.read_text()) if file.exists() else None

    def resume_at(self, step: int) -> None:
        """Make metrics.jsonl what it was at `step`: no later steps, no half-written lines, no repetitions.

        All processes call it; none goes on before it is done.
        """
        on_process_0("resume", lambda: _cut(self.path / "metrics.jsonl", step))

    def quarantine(self, rejected: Iterable[Mapping[str, Any]]) -> None:
        """Append rejected samples (shard, key, kind, ...) to quarantine.jsonl, each one once by each process.

        In an object store nobody can append: there processes other than 0 write quarantine-I.jsonl.
        """
        own = f"-{process_index()}" if is_remote(self.path) and process_index() else ""
        self._append_once(f"quarantine{own}.jsonl", rejected)

    def bad_batches(self, batches: Iterable[Mapping[str, Any]]) -> None:
        """Append batches (step, kind, loss, samples, ...) to bad_batches.jsonl, on process 0, each one once."""
        if process_index() == 0:
            self._append_once("bad_batches.jsonl", batches)

    def _append_once(self, name: str, objects: Iterable[Mapping[str, Any]]) -> None:
        """Append objects to a file of lines, those apart that it holds already: steps may be done again.

        Lines that cannot be written wait for the next call.
        """
        waiting = self._waiting.setdefault(name, {})
        waiting.update(dict.fromkeys(map(_line, objects)))

        def write() -> None:
            file = self.path / name
            if name not in self._held:
                self._held[name] = set(map(_line, read_lines(file)))
            new = [line for line in waiting if line not in self._held[name]]
            append_lines(file, new)
            self._held[name].update(new)
            waiting.clear()

        self._tolerated.attempt(name, write)

    def write_eval(self, step: int, evals: Mapping[str, Any]) -> None:
        """Write eval/N.json, on process 0."""
        if process_index() == 0:
            write_eval(self.path, step, evals)

    def write_final(self, step: int, params_sha256: str, evals: Mapping[str, Any]) -> None:
        """Write final.json: the run is finished.

        Args:
            step: steps trained.
            params_sha256: `tree.digest` of the trained parameters.
            evals: the last evaluations, flat names.
        """
        if process_index() != 0:
            return
        content = {"step": step, "params_sha256": params_sha256, "eval": dict(evals)}
        write_atomically(self.path / "final.json", json.dumps(content, indent=1) + "\n")

    def sync(self) -> None:
        """Force the line files to disk; after a checkpoint, so that they are never behind it."""
        for name in ("metrics.jsonl", "quarantine.jsonl", "bad_batches.jsonl") if process_index() == 0 else ():
            self._tolerated.attempt(name, lambda file=self.path / name: sync(file))

    def close(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> "RunDir":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _cut(file: Any, step: int) -> None:
    """Rewrite a .jsonl file without what came after `step`; of lines with the same step and kind the last stays."""
    if file.exists():
        kept = {(one["step"], one["kind"]): one for one in read_lines(file) if "kind" in one and one["step"] <= step}
        write_atomically(file, "".join(json.dumps(one) + "\n" for one in kept.values()))


def write_eval(workdir: Any, step: int, evals: Mapping[str, Any]) -> None:
    """Write eval/N.json of a run directory: the evaluations of step N, flat names."""
    (workdir / "eval").mkdir(parents=True, exist_ok=True)
    content = json.dumps({"step": step, **evals}, indent=1, sort_keys=True) + "\n"
    write_atomically(workdir / "eval" / f"{step}.json", content)


def read_metrics(workdir: Any) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, a half-written last one left out; [] before the first."""
    return read_lines(workdir / "metrics.jsonl")


def read_eval(workdir: Any, step: int) -> dict[str, float]:
    """The metrics in eval/N.json; {} where nothing was evaluated."""
    return {name: value for name, value in read_eval_page(workdir, step).items() if name.startswith("val/")}


def read_eval_page(workdir: Any, step: int) -> dict[str, Any]:
    """All of eval/N.json, settings included; {} where there is none."""
    file = workdir / "eval" / f"{step}.json"
    return json.loads(file.read_text()) if file.exists() else {}


def differences(recorded: Any, wanted: Any) -> dict[str, str]:
    """{"optim.lr": "0.001 recorded, 0.002 given"} for every key that differs between two nested dicts."""
    return {name: f"{NEW_KEY if old is ABSENT else f'{short(old)} recorded'}, "
                  f"{'absent now' if new is ABSENT else f'{short(new)} given'}"
            for name, (old, new) in changed(recorded, wanted).items()}  # fmt: skip


def changed(before: Any, after: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """{"optim.lr": (0.001, 0.002)} for every key that differs between two nested dicts; ABSENT for one that lacks."""
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return {} if before == after else {prefix: (before, after)}
    found: dict[str, tuple[Any, Any]] = {}
    for key in dict.fromkeys((*before, *after)):
        name = f"{prefix}.{key}" if prefix else key
        both = key in before and key in after
        found |= changed(before[key], after[key], name) if both else {
            name: (before[key] if key in before else ABSENT, after[key] if key in after else ABSENT)}
    return found


def _page(given: dict[str, Any]) -> dict[str, Any]:
    """What config.json holds of the config: it and its hash (as `config.config_hash` makes it)."""
    if "config" in given and "hash" in given:
        return given
    digest = hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()
    return {"version": __version__, "hash": digest, "config": given}


def _claim(
    path: Any, lock: RunLock | None, page: dict[str, Any], data: dict[str, str], shards: Sequence[tuple[str, str]],
    extend: bool
) -> None:  # fmt: skip
    """Take the directory, or refuse."""
    _check_writable(path)
    if lock is not None:
        lock.acquire()
    try:
        _record(path / "config.json", page, data, shards, extend)
    except BaseException:
        if lock is not None:
            lock.release()
        raise


def _check_writable(path: Any) -> None:
    """Refuse a directory that cannot be made or written, before anything else takes time."""
    probe = path / f".write-test-{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            errors.explain(
                f"--workdir={path}",
                expected="a folder that can be written",
                found=f"{type(error).__name__} ({error.strerror})",
                do="name another folder or change its permissions",
            )
        ) from error


def _record(
    file: Any, page: dict[str, Any], data: dict[str, str], shards: Sequence[tuple[str, str]], extend: bool
) -> None:
    """Write config.json at the first start; later compare with it, and note the changes that are allowed."""
    listing = file.parent / "shards.json"
    content = {**page, "data": data, "changes": []}
    if file.exists() and _has_trained(file.parent):
        recorded = _read_record(file)
        changes = differences(recorded["config"], page["config"])
        configs = recorded["config"], page["config"]
        refused = {name: text for name, text in changes.items() if not _may_change(name, text, *configs, extend)}
        _refuse("another config", refused, file, "use a new --workdir, or the recorded values")
        other = differences(recorded["data"], data)
        _refuse("other data", other and shard_listing.differences(listing, shards) | other, file,
                "use a new --workdir, or the same data")
        if not changes:
            return
        content["changes"] = [*recorded["changes"], {"time": time.time(), "changed": changes}]
    else:
        shard_listing.write(listing, shards)
    write_atomically(file, json.dumps(content, indent=2) + "\n")


def _has_trained(path: Any) -> bool:
    """Whether anything there depends on the config: a first start that failed must not bind the next."""
    checkpoints, metrics = path / "checkpoints", path / "metrics.jsonl"
    return metrics.exists() or (checkpoints.exists() and any(one.name[0].isdigit() for one in checkpoints.iterdir()))


def _read_record(file: Any) -> dict[str, Any]:
    """What config.json holds."""
    try:
        recorded = json.loads(file.read_text())
        return {"changes": [], "data": {}, **recorded, "config": recorded["config"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file}: not a config that a run has written ({error}); use a new --workdir") from error


def _may_change(name: str, change: str, recorded: dict[str, Any], config: dict[str, Any], extend: bool) -> bool:
    """Whether a run may go on with another value of this key.

    A key that is younger than the record is made so that its default changes nothing.
    """
    if name == "total_steps":
        return extend and config["total_steps"] > recorded["total_steps"]
    return name.startswith(MAY_CHANGE) or name in SAME_SAMPLES or change.startswith(NEW_KEY)


def _refuse(what: str, changes: dict[str, str], file: Any, do: str) -> None:
    """One line with the differences, if there are any."""
    if changes:
        listed = [f"{name} is {change}" for name, change in changes.items()]
        more = f" (and {len(listed) - 8} more)" if len(listed) > 8 else ""
        extend = "; --extend allows more total_steps" if "total_steps" in changes else ""
        raise ConfigError(f"{file} records {what}: {'; '.join(listed[:8])}{more}; {do}{extend}")


def short(value: Any) -> str:
    """A value for a message, ABSENT among them."""
    text = "absent" if value is ABSENT else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _line(one: Mapping[str, Any]) -> str:
    """One object as one line."""
    return json.dumps(dict(one))
