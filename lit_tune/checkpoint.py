"""Checkpoints that are either whole or do not count: Orbax writes them, our digests decide.

`directory/N/` is Orbax's step directory (items `state` and `meta`) plus `digests.json`, which process 0 writes last, by
rename: size and sha256 of every file. Orbax alone restores a flipped bit as a wrong weight without a word, reports a
failed save only at the next one, and may delete the older step before the new one has been read back.
"""

import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from lit_tune import tree
from lit_tune.distributed import barrier, library_versions, on_process_0
from lit_tune.errors import CheckpointError, NumbersError, explain
from lit_tune.files import is_remote
from lit_tune.finite import not_finite
from lit_tune.step_folders import StepFolders, say
from lit_tune.tree import Tree

SPARE = 1.2  # free space to ask for, in sizes of the last checkpoint


class Checkpointer:
    """Saves and restores the train state of one run.

        with Checkpointer(workdir / "checkpoints", keep=2) as checkpoints:
            restored = checkpoints.restore(None, abstract_state, shardings)   # None: nothing there, a new run
            ...
            checkpoints.save(step, state, meta)      # returns soon; the writing goes on in the background
            if checkpoints.poll():                   # after every step, microseconds
                checkpoints.save(step, state, meta)  # the last save failed: once more
            phases.saved_step = checkpoints.saved_step
            ...
            checkpoints.save_now(step, state, meta)  # before ending

    Attributes:
        saved_step: newest step that is committed and has its digests (0: none). Only then may it be called saved.
    """

    def __init__(self, directory: Path | str, *, keep: int, best_metric: str = "", read_only: bool = False,
                 before_digests: Callable[[int], None] = lambda step: None) -> None:
        """Opens the directory; process 0 clears away what an interrupted save has left there.

        Args:
            directory: `checkpoints` of a run directory; made if it is missing. May be gs://.
            keep: number of newest checkpoints to keep, at least 1.
            best_metric: name in `meta["metrics"]` whose best checkpoint is kept as well (the largest; the smallest if
                the name ends in "loss"); "": newest only.
            read_only: nothing is removed, renamed or written (evaluation, export).
            before_digests: called with the step when its arrays are written and nothing counts yet (debug_faults).
        """
        _quiet_libraries()
        self._folders = StepFolders(directory, read_only=read_only)
        self._directory = self._folders.directory
        self._keep = max(keep, 1)
        self._best_metric = best_metric
        self._before_digests = before_digests
        self._finishing: threading.Thread | None = None
        self._error: BaseException | None = None
        self._pending = 0  # step of the save under way
        self._failures = 0  # in a row
        if not read_only:
            on_process_0("clear", self._folders.clear_leftovers)
        # No preservation policy of Orbax's: it would delete when a save starts, we delete when its digests are there.
        options = ocp.CheckpointManagerOptions(
            read_only=read_only, create=not read_only, save_root_metadata=False, enable_async_checkpointing=True
        )
        self._manager = ocp.CheckpointManager(self._directory, options=options)
        if not read_only:  # it looks at every step's folder; only then may process 0 set a damaged one aside
            barrier("checkpoints are open")
        self.saved_step = self.latest() or 0

    def save(self, step: int, state: Tree, meta: Mapping[str, Any]) -> bool:
        """Start to save; all processes call it at the same step. Waits first for the save before it, if there is one.

        Args:
            step: steps trained so far.
            state: nested dict of arrays (optax states inside are fine).
            meta: what JSON can hold: config hash, data fingerprint, metrics (`{"metrics": {...}}`), tower description.
                Step, time, library versions and the arrays' shapes and dtypes are added here.

        Returns:
            True if a save was started, False if this step is saved already.

        Raises:
            CheckpointError: no space, or saving failed twice in a row.
            NumbersError: the state holds a value that is not finite; nothing is written, older steps stay.
        """
        self._join()
        if step == self.saved_step:
            return False
        if self._failures and jax.process_count() == 1:
            self._folders.clear_leftovers()  # the failed try may fill the disk
            self._manager.reload()
        if jax.process_index() == 0:
            self._check_space()
        self._check_finite(step, state)
        named = tree.flatten(state)
        meta = {
            **meta,
            "step": step,
            "time": time.time(),
            "versions": library_versions(),
            "arrays": {name: _shape_and_dtype(leaf) for name, leaf in named.items()},
        }
        args = ocp.args.Composite(state=ocp.args.StandardSave(named), meta=ocp.args.JsonSave(meta))
        self._pending = step
        try:
            if jax.process_index() == 0:
                self._folders.begin(step)
            started = self._manager.save(step, args=args, force=True)
        except (OSError, ValueError, RuntimeError) as error:
            self._failed(step, error)
            return True
        if not started:
            raise CheckpointError(f"{self._directory}: Orbax would not save step {step}")
        self._finishing = threading.Thread(
            target=self._finish, args=(step, meta.get("metrics", {})), name="checkpoint-digests", daemon=True
        )
        self._finishing.start()
        return True

    def save_now(self, step: int, state: Tree, meta: Mapping[str, Any]) -> None:
        """Save, wait until it counts on all processes, with a second try; for a run that is about to end.

        Raises:
            CheckpointError: no space, or saving failed twice in a row.
        """
        self.save(step, state, meta)
        try:
            self.wait()
        except CheckpointError:
            self.save(step, state, meta)
            self.wait()

    def rate(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add the scores of a step that was saved before it was evaluated; nothing where it is not the newest saved."""
        if step == self.saved_step and jax.process_index() == 0:
            self._folders.rate(step, metrics)

    def poll(self) -> bool:
        """Whether the loop should call `save` once more now, because the last save failed.

        Costs microseconds; to be called after every step. With several processes it is always False: they notice at
        different steps, so their second try is the next regular save.

        Raises:
            CheckpointError: two saves in a row have failed.
        """
        if self._finishing is not None and not self._finishing.is_alive():
            self._join()
        return self._failures > 0 and self._finishing is None and jax.process_count() == 1

    def wait(self) -> None:
        """Returns when the save under way has its digests, on all processes.

        Raises:
            CheckpointError: it failed.
        """
        if jax.process_index() != 0:
            self._join_or_raise()
        on_process_0("checkpoint saved", self._join_or_raise)

    def steps(self) -> list[int]:
        """Steps that count (have digests), oldest first; as this process sees them."""
        return self._folders.steps()

    def latest(self) -> int | None:
        """Newest step that counts, not verified; None if there is none."""
        return on_process_0("latest", lambda: max(self._folders.steps(), default=None))

    def meta(self, step: int) -> dict[str, Any]:
        """What was saved as `meta` with `step`, plus step, time, versions and the arrays' shapes and dtypes."""
        return self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta

    def restore(
        self, step: int | None, abstract_state: Tree, shardings: Tree
    ) -> tuple[int, Tree, dict[str, Any]] | None:
        """The state of `step`, or of the newest one that is whole; None if there is no checkpoint at all.

        Every file is compared with its digest first. Without a given step, a damaged checkpoint is renamed to
        `N.damaged` (with a line that names the file) and the one before it is tried. Process 0 chooses for all.

        Args:
            step: a step, or None for the newest.
            abstract_state: structure, shapes and dtypes to expect (`jax.eval_shape` of the init).
            shardings: same structure, or one sharding for all leaves; arrays are read straight into them.

        Returns:
            (step, state with the structure of `abstract_state`, meta).

        Raises:
            CheckpointError: there are checkpoints and none is whole, names, shapes or dtypes differ, or a value is
                not finite (the first arrays are named).
        """
        chosen = on_process_0("choose", lambda: self._folders.choose(step))
        if chosen is None:
            return None
        self._manager.reload()  # damaged steps were renamed; Orbax would refuse to save a step below one it remembers
        meta = self.meta(chosen)
        _compare(self._folders.folder(chosen), meta["arrays"], abstract_state)
        if isinstance(shardings, jax.sharding.Sharding):
            sharding = shardings
            shardings = jax.tree.map(lambda _: sharding, abstract_state)
        targets = tree.flatten(jax.tree.map(_target, abstract_state, shardings))
        args = ocp.args.Composite(state=ocp.args.StandardRestore(targets))
        try:
            named = self._manager.restore(chosen, args=args).state
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise CheckpointError(f"{self._folders.folder(chosen)}: {_first_line(error)}") from error
        if found := not_finite(named):
            raise CheckpointError(explain(str(self._folders.folder(chosen)), expected="finite numbers", found=found,
                                          do="remove this folder to go on from the checkpoint before it"))
        self.saved_step = chosen
        return chosen, tree.map_with_names(lambda name, _: named[name], abstract_state), meta

    def close(self) -> None:
        """Waits for Orbax and stops its threads; a failed save was told of before, so nothing is raised."""
        if self._finishing is not None:
            self._finishing.join()
        try:
            self._manager.close()
        except (OSError, ValueError, RuntimeError) as error:
            say(f"closing {self._directory}: {_first_line(error)}")

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _finish(self, step: int, metrics: Mapping[str, float]) -> None:
        """In a thread: wait for the commit, write the digests, only then remove older steps."""
        try:
            self._manager.wait_until_finished()
            self._before_digests(step)
            if jax.process_index() == 0:
                self._folders.commit(step, metrics)
                self._remove_old()
        except BaseException as error:  # handed to the main thread by _join
            self._error = error

    def _join(self) -> None:
        """Wait for the thread and book its result."""
        if self._finishing is None:
            return
        self._finishing.join()
        self._finishing = None
        error, self._error = self._error, None
        if error is None:
            self.saved_step, self._failures = self._pending, 0
            return
        try:
            self._manager.wait_until_finished()  # Orbax tells each thread once; else the next save would be told
        except Exception as again:
            error = again
        self._failed(self._pending, error)

    def _join_or_raise(self) -> None:
        """Wait for the thread; raise whatever went wrong."""
        self._join()
        if self._failures:
            raise CheckpointError(f"{self._directory}: the last save failed; newest whole step: {self.saved_step}")

    def _failed(self, step: int, error: BaseException) -> None:
        """Count a failed save; the second in a row ends the run."""
        self._failures += 1
        line = f"saving step {step} in {self._directory} failed: {_first_line(error)}"
        if self._failures > 1:
            raise CheckpointError(f"{line}; the newest whole step is {self.saved_step}") from error
        say(f"{line}; one more try")

    def _remove_old(self) -> None:
        """The save is good whatever happens to the old ones."""
        try:
            self._folders.remove_old(self._keep, self._best_metric)
        except OSError as error:
            say(f"older checkpoints in {self._directory} could not be removed: {_first_line(error)}")

    def _check_finite(self, step: int, state: Tree) -> None:
        """Refuse to save what no run could go on from."""
        if found := not_finite(state):
            raise NumbersError(explain(
                f"state of step {step}", expected="finite numbers", found=found,
                do=f"nothing was saved, the newest checkpoint is step {self.saved_step}: start a new --workdir from it "
                   "(config.vision.init_from) with a lower config.optim.lr, or go on from it with --skip_batches"))

    def _check_space(self) -> None:
        """Refuse to start a save that would fill a local disk."""
        last = self._folders.size(self.saved_step)
        if last == 0 or is_remote(self._directory):
            return
        free, needed = shutil.disk_usage(self._directory).free, int(SPARE * last)
        if free < needed:
            raise CheckpointError(
                f"{self._directory}: a checkpoint needs {needed:,} bytes, {free:,} are free; make room and restart"
            )


def _shape_and_dtype(leaf: Any) -> list[Any]:
    """[[sizes], dtype name], for JSON."""
    return [list(leaf.shape), str(leaf.dtype)]


def _target(abstract: Any, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    """What Orbax needs to know to read one array straight to its devices."""
    return jax.ShapeDtypeStruct(abstract.shape, abstract.dtype, sharding=sharding)


def _compare(folder: Any, saved: Mapping[str, list[Any]], abstract_state: Tree) -> None:
    """Refuse a checkpoint of another structure. Orbax would convert a dtype silently."""
    wanted = {name: _shape_and_dtype(leaf) for name, leaf in tree.flatten(abstract_state).items()}
    lines = [f"{name} is missing" for name in sorted(wanted.keys() - saved.keys())]
    lines += [f"{name} is not in this model" for name in sorted(saved.keys() - wanted.keys())]
    lines += [
        f"{name} is {saved[name][1]} {saved[name][0]}, expected {wanted[name][1]} {wanted[name][0]}"
        for name in sorted(wanted.keys() & saved.keys())
        if wanted[name] != saved[name]
    ]
    if lines:
        more = f" and {len(lines) - 5} more" if len(lines) > 5 else ""
        raise CheckpointError(f"{folder} does not fit this config: {'; '.join(lines[:5])}{more}")


def _quiet_libraries() -> None:
    """Orbax logs through absl, with tracebacks of errors that we report in one line."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)


def _first_line(error: BaseException) -> str:
    """What an error says, short enough for one line."""
    line = next(iter(str(error).splitlines()), "no text")
    line = line if len(line) <= 200 else f"{line[:200]}..."
    # tensorstore puts the reason of the operating system at the end of a long line
    code = re.search(r"os_error_code='(\d+)'", str(error))
    reason = f"{os.strerror(int(code[1]))}: " if code else ""
    return f"{reason}{type(error).__name__}: {line}"
