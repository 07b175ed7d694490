"""Warnings that say nothing to the people who run a stage, left out in all threads at once."""

import contextlib
import threading
import warnings
from collections.abc import Iterator

_lock = threading.Lock()
_inside = 0
_before = warnings.catch_warnings()


@contextlib.contextmanager
def ignoring(category: type[Warning]) -> Iterator[None]:
    """Without warnings of that category.

    Python keeps what to warn of for the whole process: two threads that each change it and put it back would leave it
    changed. So the first one that comes here keeps it, and the last one that leaves puts it back.
    """
    global _inside, _before
    with _lock:
        if not _inside:
            _before = warnings.catch_warnings()
            _before.__enter__()
        _inside += 1
        warnings.simplefilter("ignore", category)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _before.__exit__(None, None, None)
