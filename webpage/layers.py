"""Rasters of any size as small pictures: averages over square cells, and the bytes that a page holds of them.

A `Piece` is a raster that lies somewhere on a grid; a `Canvas` collects pieces. A cell is the mean of its valid
pixels; of large rasters only some pixels are looked at, evenly spread (overviews, where a file has them).
"""

import base64
import io
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.windows import Window

from roofkit.pairs import read_mask
from roofkit.raster import Pixels, Valid, data_bands, finite, open_raster, read_pixels, windows

SIDE = 2048  # pixels a side of one read, about
LOOKS = 4  # pixels along the side of a cell that are looked at, at least
UNKNOWN = 65535  # instead of a level: no probability
KNOWN_LABEL, LABEL, KNOWN_MAP, MAP, MEASURED = 1, 2, 4, 8, 16
"""Bits of a cell: whether it is labelled, and roof; whether it is mapped, and roof; whether there is imagery."""
Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Reader = Callable[[DatasetReader, Window, tuple[int, int]], tuple[Pixels, Valid]]


@dataclass(frozen=True)
class Piece:
    """A raster whose upper left pixel lies at a row and column of a grid."""

    path: Path
    row: int = 0
    col: int = 0


@dataclass(frozen=True)
class Cells:
    """A grid of `rows` x `cols` cells, each of `factor` x `factor` pixels."""

    rows: int
    cols: int
    factor: int

    @classmethod
    def over(cls, height: int, width: int, factor: int) -> "Cells":
        """Those that cover so many pixels."""
        return cls(-(-height // factor), -(-width // factor), factor)


class Canvas:
    """Means of bands over cells; pieces are added one after the other, in small windows."""

    def __init__(self, cells: Cells, bands: int) -> None:
        self.cells = cells
        self._sum = np.zeros((bands, cells.rows, cells.cols))
        self._count = np.zeros((cells.rows, cells.cols), np.int64)

    def add(self, pixels: Pixels, valid: Valid, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> None:
        """Add pixels (bands, rows, cols), given the row and column of the cell of each; both ascend."""
        inside_rows, inside_cols = ((at >= 0) & (at < end) for at, end in zip((rows, cols), self._count.shape))
        if not (inside_rows.any() and inside_cols.any()):
            return
        pixels, valid = pixels[:, inside_rows][:, :, inside_cols], valid[inside_rows][:, inside_cols]
        rows, cols = rows[inside_rows], cols[inside_cols]
        values = np.where(valid, pixels, 0).astype(np.float64)
        place = slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1)
        self._sum[:, place[0], place[1]] += _summed(values, rows, cols)
        self._count[place] += _summed(valid.astype(np.int64), rows, cols)

    @property
    def mean(self) -> Floats:
        """The means (bands, rows, cols); 0 where nothing is known."""
        return np.asarray(self._sum / np.maximum(self._count, 1), np.float32)

    @property
    def known(self) -> Bools:
        """Where there was a valid pixel (rows, cols)."""
        return self._count > 0


def _summed(values: NDArray[Any], rows: NDArray[np.int64], cols: NDArray[np.int64]) -> NDArray[Any]:
    """Sums over the pixels (…, rows, cols) of each cell."""
    down, across = (np.flatnonzero(np.diff(at, prepend=at[0] - 1)) for at in (rows, cols))
    return np.add.reduceat(np.add.reduceat(values, across, axis=-1), down, axis=-2)


def averaged(pieces: Iterable[Piece], cells: Cells, read: Reader, bands: int = 1) -> Canvas:
    """The canvas that holds these pieces.

    Raises:
        MissingInputError, BadInputError: One of them cannot be read.
    """
    canvas = Canvas(cells, bands)
    step = max(1, cells.factor // LOOKS)
    side = max(SIDE // step, 1) * step
    for piece in pieces:
        with open_raster(piece.path) as src:
            for window in windows(src.height, src.width, side):
                size = -(-int(window.height) // step), -(-int(window.width) // step)
                pixels, valid = read(src, window, size)
                rows, cols = (
                    ((np.arange(n) + 0.5) * length / n + start + offset) // cells.factor
                    for n, length, start, offset in zip(
                        size, (window.height, window.width), (window.row_off, window.col_off), (piece.row, piece.col)
                    )
                )
                canvas.add(pixels, valid, rows.astype(np.int64), cols.astype(np.int64))
    return canvas


def read_colours(bands: Sequence[int]) -> Reader:
    """A reader of these bands (from 1); those that a raster lacks are its last one."""

    def read(src: DatasetReader, window: Window, size: tuple[int, int]) -> tuple[Pixels, Valid]:
        there = data_bands(src)
        pixels, valid = read_pixels(src, window, bands=[there[min(b, len(there)) - 1] for b in bands], size=size)
        valid = finite(pixels, valid)
        return np.where(valid, pixels, 0), valid

    return read


def read_share(src: DatasetReader, window: Window, size: tuple[int, int]) -> tuple[Pixels, Valid]:
    """A reader of masks: 1 where there is roof."""
    roof, valid = read_mask(src, window, size)
    return roof[None].astype(np.float32), valid


def read_values(src: DatasetReader, window: Window, size: tuple[int, int]) -> tuple[Pixels, Valid]:
    """A reader of one band: probabilities."""
    return read_pixels(src, window, bands=data_bands(src)[:1], size=size)


def stretched(means: Floats, known: Bools, percentiles: tuple[float, float]) -> NDArray[np.uint8]:
    """RGBA (rows, cols, 4) of one or three bands (bands, rows, cols): each band's percentiles from 0 to 255.

    Where nothing is known it is transparent.
    """
    bands = []
    for band in means:
        low, high = np.percentile(band[known], percentiles) if known.any() else (0.0, 0.0)
        bands.append(np.clip((band - low) / ((high - low) or 1.0), 0, 1) * 255)
    red, green, blue = bands * 3 if len(bands) == 1 else bands
    rgba = np.stack([red, green, blue, np.full(known.shape, 255)], axis=-1)
    return np.asarray(np.where(known[..., None], rgba.round(), 0), np.uint8)


def webp(rgba: NDArray[np.uint8]) -> str:
    """A picture as the address of an image in a page."""
    from PIL import Image

    memory = io.BytesIO()
    Image.fromarray(rgba).save(memory, "WEBP", quality=82, method=4)
    return "data:image/webp;base64," + base64.b64encode(memory.getvalue()).decode()


def packed(values: NDArray[np.uint8]) -> str:
    """Bytes, compressed (zlib) and as base64."""
    return base64.b64encode(zlib.compress(values.tobytes(), 9)).decode()


@dataclass(frozen=True)
class Overlay:
    """What lies over imagery: canvases of one band, or None, and the thresholds that probabilities are held against."""

    levels: NDArray[np.float32]
    label: Canvas | None = None
    mapped: Canvas | None = None
    probability: Canvas | None = None

    def reached(self, shape: tuple[int, int]) -> NDArray[np.uint16]:
        """How many thresholds each cell's probability reaches, or UNKNOWN."""
        if self.probability is None:
            return np.full(shape, UNKNOWN, np.uint16)
        reached = np.searchsorted(self.levels, self.probability.mean[0], side="right")
        return np.where(self.probability.known, reached, UNKNOWN).astype(np.uint16)

    def flags(self, measured: Bools) -> NDArray[np.uint8]:
        """The bits of each cell."""
        bits = np.where(measured, MEASURED, 0)
        for canvas, known, roof in ((self.label, KNOWN_LABEL, LABEL), (self.mapped, KNOWN_MAP, MAP)):
            if canvas is not None:
                bits |= np.where(canvas.known, known, 0) | np.where(canvas.known & (canvas.mean[0] >= 0.5), roof, 0)
        return bits.astype(np.uint8)


def picture(colours: Canvas, overlay: Overlay, percentiles: tuple[float, float]) -> dict[str, Any]:
    """What the page holds of a map or frame: its size, the imagery, and two bytes of level and one of bits a cell."""
    reached = overlay.reached((colours.cells.rows, colours.cells.cols))
    return {
        "rows": colours.cells.rows,
        "cols": colours.cells.cols,
        "factor": colours.cells.factor,
        "image": webp(stretched(colours.mean, colours.known, percentiles)),
        "low": packed((reached & 255).astype(np.uint8)),
        "high": packed((reached >> 8).astype(np.uint8)),
        "flags": packed(overlay.flags(colours.known)),
    }
