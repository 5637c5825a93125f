"""A folder of shards that is written shard by shard: each appears whole, and a second run writes only what is missing.

Layout, as DataComp's resharder writes it: NNNNNNNN.tar, NNNNNNNN_stats.json with `successes`, sizes.json {tar: count}
when all is there. Ours besides: ACTION.json (what was asked, and the counts at the end) and quarantine.jsonl.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from lit_tune import files
from lit_tune.errors import ConfigError, explain

Loss = dict[str, str]  # shard, key and kind of a sample that could not be written


@dataclass(frozen=True)
class ShardFolder:
    """Where the shards go.

    Attributes:
        folder: made if absent.
        action: "reshard" or "convert": names the file that says what was asked.
        suffix: of a shard, such as "tar".
    """

    folder: Path
    action: str
    suffix: str

    @property
    def record(self) -> Path:
        """The file that says what was asked and what came of it."""
        return self.folder / f"{self.action}.json"

    def name(self, number: int) -> str:
        """File name of a shard."""
        return f"{number:08d}.{self.suffix}"

    @contextmanager
    def opened(self, plan: dict[str, Any]) -> Iterator[None]:
        """The folder, for one process at a time and one plan for ever.

        Args:
            plan: everything that decides what the shards hold.

        Raises:
            ConfigError: it is in use, or holds other things or shards of another plan.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._refused("a folder that can be made", error.strerror, "name another one") from error
        lock = filelock.FileLock(self.folder / ".lock")
        with self._writing():
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout as error:  # an OSError too
                raise self._refused("an unused folder", "another process writing there", "wait for it") from error
        try:
            with self._writing():
                self._begin(plan)
            yield
        finally:
            self._remove_halves()  # of workers that were ended
            lock.release()

    def _begin(self, plan: dict[str, Any]) -> None:
        """Write the plan down, or see that it is the one that was."""
        if self.record.exists():
            before = self._read_plan()
            changed = [name for name in plan if before.get(name) != plan[name]]
            if changed:
                raise self._refused(f"shards of the same {', '.join(changed)}",
                                    ", ".join(str(before.get(name)) for name in changed), "name another folder")
        elif any(not path.name.startswith(".") for path in self.folder.iterdir()):
            raise self._refused("an empty folder, or one of the same command", "other files", "name another folder")
        else:
            self._write_record(plan, None)
        self._remove_halves()

    def _remove_halves(self) -> None:
        """Remove what was not written to its end: it would keep a full disk full."""
        for half in self.folder.glob(".*.tmp"):
            half.unlink(missing_ok=True)

    def _read_plan(self) -> dict[str, Any]:
        """What the shards in the folder were to be."""
        try:
            plan = json.loads(self.record.read_text())["plan"]
            if not isinstance(plan, dict):
                raise TypeError(type(plan).__name__)
        except (ValueError, TypeError, KeyError) as error:
            raise self._refused(f"a whole {self.record.name}", f"a damaged one ({error})",
                                "delete the folder, or name another one") from error
        return plan

    def is_done(self, number: int) -> bool:
        """Whether a shard and its counts are there: it is renamed into place last."""
        return (self.folder / self.name(number)).exists() and self._stats(number).exists()

    def put(self, number: int, write: Callable[[Path], tuple[int, list[Loss]]]) -> None:
        """Write one shard, all or nothing.

        Args:
            number: of the shard.
            write: writes a file; returns how many samples it holds, and which were lost.

        Raises:
            ConfigError: there is no room, or no right to write.
        """
        temporary = self.folder / f".{self.name(number)}.{os.getpid()}.tmp"
        with self._writing():
            successes, lost = write(temporary)
            files.sync(temporary)
            stats = {"successes": successes} | ({"lost": lost} if lost else {})
            files.write_atomically(self._stats(number), json.dumps(stats))
            os.replace(temporary, self.folder / self.name(number))

    def finish(self, plan: dict[str, Any], shards: int, result: dict[str, Any]) -> dict[str, Any]:
        """Write sizes.json, quarantine.jsonl and the counts.

        Args:
            plan: as for `opened`.
            shards: how many there are.
            result: counts to be written too, `samples_in` among them.

        Returns:
            `result` with `samples_out`, `lost` by kind and `shards_out`.
        """
        stats = [json.loads(self._stats(number).read_text()) for number in range(shards)]
        lost = [loss for one in stats for loss in one.get("lost", [])]
        sizes = {self.name(number): one["successes"] for number, one in enumerate(stats)}
        result = result | {"samples_out": sum(sizes.values()), "shards_out": shards,
                           "lost": dict(sorted(Counter(loss["kind"] for loss in lost).items()))}
        assert result["samples_in"] == result["samples_out"] + len(lost), f"samples went missing: {result}"
        with self._writing():
            files.write_atomically(self.folder / "sizes.json", json.dumps(sizes, indent=0))
            files.write_atomically(self.folder / "quarantine.jsonl", "".join(json.dumps(loss) + "\n" for loss in lost))
            self._write_record(plan, result)
        return result

    def _stats(self, number: int) -> Path:
        return self.folder / f"{number:08d}_stats.json"

    def _write_record(self, plan: dict[str, Any], result: dict[str, Any] | None) -> None:
        files.write_atomically(self.record, json.dumps({"plan": plan, "result": result}, indent=1) + "\n")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """What the system refuses here is one line, and the same command can go on."""
        try:
            yield
        except OSError as error:
            raise self._refused("room and the right to write", error.strerror or str(error),
                                "make room, or change its permissions; the same command goes on") from error

    def _refused(self, expected: str, found: str, do: str) -> ConfigError:
        return ConfigError(explain(str(self.folder), expected=expected, found=found, do=do))
