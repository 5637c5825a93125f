"""Event files for TensorBoard, written by the calling thread. No jax.

tensorboardX's own writer hands everything to a thread through a queue of ten: when a full disk ends the thread, the
eleventh number waits for ever, and the training with it.
"""

import time
from collections.abc import Mapping
from typing import Any

from lit_tune.files import as_path, is_remote

FLUSH_SECONDS = 30.0  # between bringing what was written to the disk, or to the object store


class EventFile:
    """One run's numbers in its `tb` folder; a new file for each process that writes, made at the first number."""

    def __init__(self, folder: Any) -> None:
        """Nothing is made yet.

        Args:
            folder: made at the first write. May be gs://.
        """
        self._folder = as_path(folder)
        self._writer: Any = None
        self._opened = 0
        self._flushed = 0.0
        self._again = 0.0  # when to try once more after a failure

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add the numbers of a step.

        Raises:
            OSError: they could not be written. For FLUSH_SECONDS numbers are left out then, not a file begun for each.
        """
        if time.monotonic() < self._again:
            return
        from tensorboardX.proto.event_pb2 import Event  # takes half a second
        from tensorboardX.proto.summary_pb2 import Summary

        numbers = [Summary.Value(tag=name, simple_value=float(value)) for name, value in values.items()]
        try:
            writer = self._open(step)
            writer.write_event(Event(step=step, wall_time=time.time(), summary=Summary(value=numbers)))
            if time.monotonic() - self._flushed > FLUSH_SECONDS:
                writer.flush()
                self._flushed = time.monotonic()
        except OSError:
            self._give_up()
            raise

    def close(self) -> None:
        """Bring all to the disk.

        Raises:
            OSError: it could not be.
        """
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _open(self, step: int) -> Any:
        """The writer; a new file says first that later points of earlier files no longer hold."""
        if self._writer is None:
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event, SessionLog

            if not is_remote(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
            again = f".{self._opened}" if self._opened else ""  # names hold whole seconds
            self._writer = EventsWriter(f"{self._folder}/events", again)
            self._opened += 1
            start = SessionLog(status=SessionLog.START)
            self._writer.write_event(Event(step=step, wall_time=time.time(), session_log=start))
        return self._writer

    def _give_up(self) -> None:
        """Leave a file that cannot be written, whatever of it is still in memory."""
        self._again = time.monotonic() + FLUSH_SECONDS
        try:
            self.close()
        except OSError:
            return  # told of already
