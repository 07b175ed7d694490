"""Items worked out ahead of use, for a consumer that asks for them by number, as Keras does."""

import threading
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class LookAhead(Generic[Item]):
    """Items by number; where they are asked for in their order, a generator may work on those to come.

    One thread may ask and another one close it: an epoch can end while Keras' own thread waits for a batch.

    Args:
        items: Yields the items from a number on; what it does in threads ends when it is closed.
    """

    def __init__(self, items: Callable[[int], Generator[Item, None, None]]) -> None:
        self._items = items
        self._coming: Generator[Item, None, None] | None = None
        self._next = 0
        self._open = False
        self._lock = threading.Lock()

    def open(self) -> None:
        """Look ahead from now on; what was worked out before is forgotten."""
        with self._lock:
            self._stop()
            self._open = True

    def close(self) -> None:
        """Look ahead no more; no thread is left."""
        with self._lock:
            self._open = False
            self._stop()

    def get(self, number: int) -> Item | None:
        """The item of that number; None while closed, and beyond the last. Raises what the generator raises."""
        with self._lock:
            if not self._open:
                return None
            if number != self._next:
                self._stop()
            coming, self._coming = self._coming or self._items(number), None  # one that raises is of no more use
            item = next(coming, None)
            self._coming, self._next = coming, number + 1
            return item

    def _stop(self) -> None:
        coming, self._coming = self._coming, None
        if coming is not None:
            coming.close()
