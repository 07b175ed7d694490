"""Patches of roof pixels: traced window by window into a file, then read and put together from north to south.

So a scene of any size goes through: in memory are the patches of a band of its rows, and those that reach below it.
"""

import contextlib
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.windows import Window

from roofkit.artifacts import committed, disk_errors
from roofkit.raster import Valid

if TYPE_CHECKING:
    import pyarrow as pa

BAND = 1024  # rows of a scene that are read at a time
EDGE = "****1****"  # DE-9IM: borders that share a line, not only a point
COLUMNS = dict(row="int64", polygon="binary", pixels="int64", probability="float64", cut="bool_")
Ints = NDArray[np.int_]
Boxes = NDArray[np.float64]  # (…, 4): first column and row, and those after the last


@dataclass(frozen=True)
class Piece:
    """A patch of roof pixels that share edges, or what a window shows of it, in pixel coordinates of its scene."""

    wkb: bytes  # a third of what GEOS needs for the polygon
    pixels: int
    probability: float  # the sum over its pixels

    @property
    def polygon(self) -> shapely.Polygon:
        """Its outline; decoded each time."""
        return shapely.from_wkb(self.wkb)


def trace(roof: Valid, probability: NDArray[np.float32]) -> list[Piece]:
    """Polygons along the pixel edges of the patches of `roof` (rows, cols); pixels that touch at a corner are apart."""
    from rasterio.features import shapes
    from scipy import ndimage

    labels, count = ndimage.label(roof)
    pixels = np.bincount(labels.ravel(), minlength=count + 1)
    total = np.bincount(labels.ravel(), weights=probability.ravel(), minlength=count + 1)
    traced = shapes(labels.astype(np.int32), mask=roof, connectivity=4)
    return [
        Piece(shapely.geometry.shape(geometry).wkb, int(pixels[int(label)]), float(total[int(label)]))
        for geometry, label in traced
    ]


class Tracer:
    """Writes the patches of one window after another; use `tracing`. Windows must not overlap."""

    def __init__(self, path: Path, writer: "pa.ipc.RecordBatchFileWriter") -> None:
        self._path, self._writer = path, writer

    def add(self, roof: Valid, probability: NDArray[np.float32], window: Window) -> None:
        """Trace one window: `roof` and `probability` (0 to 1) are (rows, cols).

        Raises:
            OutputError: The disk is full.
        """
        import pyarrow as pa

        pieces = trace(roof, probability) if roof.any() else []
        if not pieces:
            return
        polygons, (rows, cols) = shapely.from_wkb([piece.wkb for piece in pieces]), roof.shape
        left, top, right, bottom = shapely.bounds(polygons).T
        columns = {
            "row": np.full(len(pieces), int(window.row_off)),
            "polygon": shapely.to_wkb(shapely.transform(polygons, lambda xy: xy + (window.col_off, window.row_off))),
            "pixels": [piece.pixels for piece in pieces],
            "probability": [piece.probability for piece in pieces],
            "cut": (left == 0) | (top == 0) | (right == cols) | (bottom == rows),
        }
        with disk_errors(self._path):
            self._writer.write_batch(pa.record_batch(columns, arrow_schema(COLUMNS)))


def arrow_schema(columns: Mapping[str, str]) -> "pa.Schema":
    """Arrow's schema of columns, from the names of their types."""
    import pyarrow as pa

    return pa.schema([(name, getattr(pa, kind)()) for name, kind in columns.items()])


def groups(count: int, one: Ints, other: Ints) -> Ints:
    """A number from 0 for each of `count` things, the same for those that pairs of them connect."""
    from scipy.sparse import coo_array, csgraph

    graph = coo_array((np.ones(len(one)), (one, other)), (count, count))
    return np.asarray(csgraph.connected_components(graph, directed=False)[1])


@contextlib.contextmanager
def tracing(path: Path) -> Iterator[Tracer]:
    """A tracer whose file (Arrow: a batch for each window with roof) is there when the block ends well, else not.

    Raises:
        OutputError: The disk is full, or the folder cannot be written to.
    """
    import pyarrow as pa

    with (
        committed(path) as part,
        pa.OSFile(str(part), "wb") as file,
        pa.ipc.new_file(file, arrow_schema(COLUMNS)) as writer,
    ):
        yield Tracer(path, writer)


class _Traced:
    """A file of a tracer, of which only the first row of each window is in memory."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self._path = path
        with pa.OSFile(str(path)) as file:
            reader = pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=[0]))
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
            self.left = {number: batch.column(0)[0].as_py() for number, batch in enumerate(batches)}

    def take(self, limit: float) -> Iterator[tuple[Piece, bool]]:
        """What begins above a row and was not taken yet: pieces, and whether a window cuts them."""
        import pyarrow as pa

        numbers = [number for number, row in self.left.items() if row < limit]
        if not numbers:
            return
        with pa.OSFile(str(self._path)) as file:
            reader = pa.ipc.open_file(file)
            for number in numbers:
                del self.left[number]
                _, *columns = (column.to_pylist() for column in reader.get_batch(number).columns)
                for *values, cut in zip(*columns):
                    yield Piece(*values), cut


def _bands(files: Iterable[tuple[int, Path]]) -> Iterator[tuple[float, list[tuple[Piece, bool]]]]:
    """Pieces of one band of rows after another, and the row at which the next begins."""
    reading: list[_Traced] = []
    waiting, row = deque(sorted(files)), 0
    while waiting or any(one.left for one in reading):
        row += BAND
        while waiting and waiting[0][0] < row:
            reading.append(_Traced(waiting.popleft()[1]))
        yield row, [found for one in reading for found in one.take(row)]
        reading = [one for one in reading if one.left]


class Front(NamedTuple):
    """How far a scene was gone through from north to south.

    Attributes:
        patches: Those that are complete, and were not before; sorted by row, then column.
        row: Of what was not read yet, nothing lies above it.
        rest: Around each piece that was read, of patches which may go on below.
    """

    patches: list[Piece]
    row: float
    rest: Boxes


def fronts(files: Iterable[tuple[int, Path]]) -> Iterator[Front]:
    """The patches of a scene, those cut by windows put together again.

    Which patches each front holds depends on these alone, not on the windows or files that they were traced in. The
    last one holds none: all was read.

    Args:
        files: What `tracing` wrote, of blocks that do not overlap, and the first row of each block.
    """
    rest, row = _Rest(), 0.0
    for row, found in _bands(files):
        rest.add(found)
        yield Front(rest.complete(row), row, rest.boxes)
    while len(rest.boxes):
        row += BAND
        yield Front(rest.complete(row), row, rest.boxes)
    yield Front([], math.inf, rest.boxes)


class _Rest:
    """Pieces of patches that may go on below; pieces of the same number are of the same patch."""

    def __init__(self) -> None:
        self.boxes: Boxes = np.zeros((0, 4))
        self._pieces: list[Piece] = []
        self._cut = np.zeros(0, bool)
        self._patches = np.zeros(0, int)

    def add(self, found: Sequence[tuple[Piece, bool]]) -> None:
        """Add pieces that lie below those before, as far as windows do."""
        if not found:
            return
        old = len(self._pieces)
        pieces, cut = zip(*found)
        self._pieces += pieces
        self._cut = np.append(self._cut, cut)
        self.boxes = np.concatenate([self.boxes, _boxes(pieces)])
        self._patches = np.append(self._patches, np.arange(old, old + len(pieces)) + self._patches.max(initial=-1) + 1)
        self._connect(old)

    def _connect(self, old: int) -> None:
        """Give patches that share an edge one number; `old` pieces have been connected before."""
        near = np.flatnonzero(self._cut & (self.boxes[:, 3] >= self.boxes[old:, 1].min()))
        polygons = shapely.from_wkb([self._pieces[place].wkb for place in near])
        new = np.flatnonzero(near >= old)
        one, other = shapely.STRtree(polygons).query(polygons[new], predicate="intersects")
        one = new[one]
        shared = shapely.relate_pattern(polygons[one], polygons[other], EDGE)
        ends = self._patches[near[one[shared]]], self._patches[near[other[shared]]]
        self._patches = groups(self._patches.max() + 1, *ends)[self._patches]

    def complete(self, row: float) -> list[Piece]:
        """Take the patches that end above a row."""
        bottoms = np.zeros(self._patches.max(initial=-1) + 1)
        np.maximum.at(bottoms, self._patches, self.boxes[:, 3])
        done = bottoms[self._patches] < row
        groups: dict[int, list[Piece]] = {}
        for place in np.flatnonzero(done):
            groups.setdefault(int(self._patches[place]), []).append(self._pieces[place])
        self._pieces = [self._pieces[place] for place in np.flatnonzero(~done)]
        self.boxes, self._cut, self._patches = self.boxes[~done], self._cut[~done], self._patches[~done]
        patches = [_joined(groups.popitem()[1]) for _ in range(len(groups))]
        places = zip(_boxes(patches)[:, 1::-1].tolist(), patches)
        return [patch for _, patch in sorted(places, key=lambda found: (found[0], found[1].pixels))]


def _boxes(pieces: Sequence[Piece]) -> Boxes:
    return np.asarray(shapely.bounds(shapely.from_wkb([piece.wkb for piece in pieces])), float).reshape(-1, 4)


def _joined(pieces: list[Piece]) -> Piece:
    """The pieces of a patch as one."""
    if len(pieces) == 1:
        return pieces[0]
    whole = shapely.simplify(shapely.normalize(shapely.union_all([piece.polygon for piece in pieces])), 0)
    return Piece(whole.wkb, sum(piece.pixels for piece in pieces), sum(piece.probability for piece in pieces))
