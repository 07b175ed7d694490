"""SIGTERM and Ctrl-C: exceptions, so that files and locks are tidied up; and an end soon, whatever a library does."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

INTERRUPTED, TERMINATED = 130, 143
PATIENCE = 3.0  # seconds to tidy up in; then the process ends, and the next run tidies up, as after kill -9
_asked_to_stop: list[type[BaseException]] = []
_deferred = 0  # blocks of `deferring` that the main thread is in


class Terminated(BaseException):
    """SIGTERM arrived."""


KINDS: dict[signal.Signals, type[BaseException]] = {signal.SIGTERM: Terminated, signal.SIGINT: KeyboardInterrupt}


def raise_if_stopped() -> None:
    """Raise what a signal asked for, in case a library swallowed it where it was raised first (a destructor, say)."""
    if _asked_to_stop:
        raise _asked_to_stop[0]


@contextlib.contextmanager
def deferring() -> Iterator[None]:
    """Inside, which should be short, signals wait; what they ask for is raised at its end. In the main thread only.

    Blocking them in this thread is not enough: the system then hands them to another one, and Python to this.
    """
    global _deferred
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _deferred, before = _deferred + 1, bool(_asked_to_stop)
    try:
        yield
    finally:
        _deferred -= 1
    if not (_deferred or before):
        raise_if_stopped()


@contextlib.contextmanager
def stopping(patience: float = PATIENCE) -> Iterator[None]:
    """Inside, SIGTERM raises Terminated and Ctrl-C KeyboardInterrupt; the first one counts.

    Where the block has not ended `patience` seconds later, the process does, with exit status 143 or 130: Python itself
    hears of a signal only when the call that it is in returns, and a step of a large network takes half a minute.
    """
    _asked_to_stop.clear()
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are somebody else's
        return
    before = {number: signal.signal(number, _stop) for number in KINDS}
    try:
        with _watched(patience):
            yield
    except Exception as error:
        if _asked_to_stop:  # a library in whose middle the signal came may raise what it likes: TensorFlow, SystemError
            raise _asked_to_stop[0] from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: Any) -> None:
    if not _asked_to_stop:
        _asked_to_stop.append(KINDS[signal.Signals(number)])
        if not _deferred:
            raise_if_stopped()


@contextlib.contextmanager
def _watched(patience: float) -> Iterator[None]:
    """Inside, a thread learns of signals from the system itself, by a pipe."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    ended = threading.Event()
    threading.Thread(target=_watch, args=(read, ended, patience), daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(before)
        os.close(write)


def _watch(read: int, ended: threading.Event, patience: float) -> None:
    with os.fdopen(read, "rb", buffering=0) as pipe:
        while number := pipe.read(1):
            if number[0] in KINDS:
                if not ended.wait(patience):
                    os._exit(128 + number[0])
                return
