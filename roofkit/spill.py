"""Shapes in a file on their way to where they are drawn, so that memory does not grow with their number.

Who reads a label file adds its shapes batch by batch, each under the number of every place that it touches; whoever
draws a place then reads those of that place alone. In memory are three numbers for each place and batch.

The file lies beside what is made from it, not in the system's folder for such files: there, workers on other machines
see it, and the disk has room for it. Its name is hidden; it is removed at the end, and one that a killed run left by
the next run.
"""

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from roofkit.errors import OutputError

LENGTH = np.dtype("<u4")  # of a shape, which it precedes


@dataclass(frozen=True)
class Pieces:
    """Where in a file the shapes of one place are."""

    path: Path
    spans: NDArray[np.int64]
    """Offset and number of bytes of each piece: (pieces, 2)."""

    def read(self) -> list[bytes]:
        """The shapes, sorted: their order does not depend on that of the label file."""
        if not len(self.spans):
            return []
        with self.path.open("rb") as file:
            return sorted(shape for start, size in self.spans.tolist() for shape in _read_piece(file, start, size))


class Spill:
    """A file of shapes in the making; use `spilled`."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self._file = file
        self._places: list[NDArray[np.int64]] = []
        self._spans: list[NDArray[np.int64]] = []
        self._end = 0

    def add(self, places: NDArray[np.int64], shapes: NDArray[Any]) -> None:
        """Add shapes.

        Args:
            places: The place that each belongs to; a shape of several places is given once for each.
            shapes: Their WKB.

        Raises:
            OutputError: The disk is full.
        """
        order = np.argsort(places, kind="stable")
        found, first = np.unique(places[order], return_index=True)
        ordered = shapes[order].tolist()
        lengths = np.fromiter(map(len, ordered), LENGTH, len(ordered))
        ends = np.concatenate([[0], np.cumsum(lengths + np.int64(LENGTH.itemsize))]) + self._end
        self._write(chain.from_iterable(zip(lengths.view("V4").tolist(), ordered)))
        starts = ends[first]
        self._places.append(found)
        self._spans.append(np.column_stack([starts, np.diff(starts, append=ends[-1])]))
        self._end = int(ends[-1])

    def pieces(self, count: int) -> list[Pieces]:
        """The pieces of places 0 to `count` - 1; nothing can be added any more."""
        self._write([])
        self._file.close()  # so that workers on other machines see all of it
        places = np.concatenate([np.empty(0, np.int64), *self._places])
        spans = np.concatenate([np.empty((0, 2), np.int64), *self._spans])
        order = np.argsort(places, kind="stable")
        ends = np.searchsorted(places[order], np.arange(1, count))
        self._places, self._spans = [], []
        return [Pieces(self.path, part) for part in np.split(spans[order], ends)[:count]]

    def _write(self, pieces: Iterable[bytes]) -> None:
        try:
            self._file.writelines(pieces)
            self._file.flush()
        except OSError as error:
            advice = "Free space or choose another folder, then run again."
            found = f"not written ({error.strerror})"
            raise OutputError(self.path, found, "a writable folder with space left", advice) from error


@contextlib.contextmanager
def spilled(path: Path, *, leftovers: str = "") -> Iterator[Spill]:
    """A new file of shapes, which is gone when the block ends.

    Args:
        path: Its path, which nobody else uses at the time.
        leftovers: A pattern of names in its folder that runs which were killed may have left, and nobody uses.

    Raises:
        OutputError: The folder cannot be written to.
    """
    for old in path.parent.glob(leftovers) if leftovers else ():
        old.unlink(missing_ok=True)
    try:
        path.unlink(missing_ok=True)
        with path.open("xb") as file:  # not through a link
            yield Spill(path, file)
    finally:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def spilled_elsewhere() -> Iterator[Spill]:
    """A new file of shapes in the system's folder for such files: for a dry run, which draws nothing of them."""
    with tempfile.TemporaryDirectory() as folder, spilled(Path(folder) / "polygons") as spill:
        yield spill


def _read_piece(file: BinaryIO, start: int, size: int) -> Iterator[bytes]:
    file.seek(start)
    data, place = file.read(size), LENGTH.itemsize
    while place < size:
        end = place + int.from_bytes(data[place - LENGTH.itemsize : place], "little")
        yield data[place:end]
        place = end + LENGTH.itemsize
