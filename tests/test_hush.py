"""hush: what is left out, in all threads, and put back by the last one."""

import sys
import threading
import warnings

import pytest

from roofkit.hush import hushed


def test_what_is_left_out_and_put_back():
    before, hooks = list(warnings.filters), (sys.excepthook, sys.unraisablehook)
    with hushed(DeprecationWarning):
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        with pytest.raises(UserWarning, match="other"):  # warnings are errors in tests
            warnings.warn("other", UserWarning, stacklevel=1)
    assert warnings.filters == before
    assert (sys.excepthook, sys.unraisablehook) == hooks


def test_threads_that_overlap_leave_nothing_changed():
    before = list(warnings.filters)
    inside, leave = threading.Event(), threading.Event()

    def other():
        with hushed(DeprecationWarning):
            inside.set()
            leave.wait(10)
            warnings.warn("old", DeprecationWarning, stacklevel=1)

    thread = threading.Thread(target=other)
    with hushed(UserWarning):
        thread.start()
        assert inside.wait(10)
    warnings.warn("still left out", UserWarning, stacklevel=1)
    leave.set()
    thread.join()
    assert warnings.filters == before


QUOTED = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")


@pytest.mark.parametrize(("error", "shown"), [(QUOTED, 0), (ValueError("x"), 1)])
def test_quotes_of_bytes_are_not_printed(error, shown, monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "excepthook", lambda *told: seen.append(told))
    with hushed(UserWarning):
        sys.excepthook(type(error), error, None)
    assert len(seen) == shown
