"""Remarks that say nothing to the people who run a stage, left out in all threads at once."""

import contextlib
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

_lock = threading.Lock()
_inside = 0
_before = contextlib.ExitStack()


@contextlib.contextmanager
def hushed(category: type[Warning]) -> Iterator[None]:
    """Without warnings of that category, and where GDAL quotes bytes of a file or its name that are no UTF-8.

    Python keeps what to warn of for the whole process: two threads that each change it and put it back would leave it
    changed. So the first one that comes here keeps it, and the last one that leaves puts it back.
    """
    global _inside
    with _lock:
        if not _inside:
            _before.enter_context(warnings.catch_warnings())
            _before.enter_context(_without_quotes())
        _inside += 1
        warnings.simplefilter("ignore", category)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _before.close()


@contextlib.contextmanager
def _without_quotes() -> Iterator[None]:
    """Rasterio's handler of errors fails at such bytes; Python prints that twice, as an error and as an ignored one."""
    show, show_ignored = sys.excepthook, sys.unraisablehook

    def unless_quoted(kind: Any, error: Any, trace: Any) -> None:
        if trace is not None or not isinstance(error, UnicodeDecodeError):
            show(kind, error, trace)

    def ignored_unless_quoted(problem: Any) -> None:
        if problem.object != "rasterio._env.log_error" or not isinstance(problem.exc_value, UnicodeDecodeError):
            show_ignored(problem)

    sys.excepthook, sys.unraisablehook = unless_quoted, ignored_unless_quoted
    try:
        yield
    finally:
        sys.excepthook, sys.unraisablehook = show, show_ignored
