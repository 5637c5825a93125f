"""Worker processes end with the process that started them, however that one ends."""

import multiprocessing
import os
import threading

NAME = "parent-watch"


def end_with_parent() -> None:
    """In a worker process: end it as soon as its parent is gone; elsewhere nothing.

    A parent that is killed tells nobody. Its workers would wait for it for ever, with gigabytes of decoded pictures,
    beside those of the run that was started again.
    """
    parent = multiprocessing.parent_process()
    if parent is None or any(thread.name == NAME for thread in threading.enumerate()):
        return

    def watch() -> None:
        parent.join()  # its end of a pipe closes with it
        os._exit(1)

    threading.Thread(target=watch, name=NAME, daemon=True).start()
