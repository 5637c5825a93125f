"""Worker processes that do not outlive the process that made them, even where that one was killed. No jax."""

import multiprocessing
import os
import threading

THREAD = "parent-watch"


def end_with_parent() -> None:
    """In a worker process: end when its parent has ended, however it did. Nothing in a process that is no worker.

    A worker that waits for room in a queue would else wait for ever, with its memory, once nobody reads.
    """
    parent = multiprocessing.parent_process()
    if parent is None or any(thread.name == THREAD for thread in threading.enumerate()):
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name=THREAD, daemon=True).start()
