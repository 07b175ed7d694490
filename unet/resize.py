"""Frames at another size as scikit-image's `resize` makes them (order 1, symmetric, anti-aliased), many times faster.

That operation is linear and works on rows and columns apart: a Gaussian where an axis shrinks, then a straight line
between neighbours. So each pixel of the result is a weighted sum of a few rows and columns next to each other (taps),
and taps are the same for all frames of a size. A part or a mirror image of the result takes part of the taps, or the
taps in reverse.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roofkit.raster import DTYPES, Pixels
from unet import kernels

Image = NDArray[np.float32]
TRUNCATE = 4.0  # deviations at which scipy.ndimage cuts its Gaussian off


@dataclass(frozen=True)
class Taps:
    """How the pixels of one axis are made of those of another.

    Args:
        first: The first pixel that each is made of. (new,) uint32
        weights: Of that pixel and those after it. (new, taps) float64
    """

    first: NDArray[np.uint32]
    weights: NDArray[np.float64]

    def __getitem__(self, part: slice) -> "Taps":
        """Those of a part of the pixels."""
        return Taps(np.ascontiguousarray(self.first[part]), np.ascontiguousarray(self.weights[part]))


@lru_cache(maxsize=64)
def taps(old: int, new: int) -> Taps:
    """How `new` pixels are made of `old` ones: pixel areas match at both ends, and edges mirror what lies inside."""
    smooth = gaussian(old / new)
    centre = (np.arange(new) + 0.5) * (old / new) - 0.5
    before = np.floor(centre).astype(np.int64)
    share = (centre - before)[:, None]
    beside, reach = np.zeros((new, 1)), len(smooth) // 2
    spread = np.hstack([(1 - share) * smooth, beside]) + np.hstack([beside, share * smooth])  # (new, len(smooth) + 1)
    count = min(spread.shape[1], old)
    first = np.clip(before - reach, 0, old - count)
    places = mirrored((before - reach)[:, None] + np.arange(spread.shape[1]), old) - first[:, None]
    weights = np.zeros((new, count))
    np.add.at(weights, (np.arange(new)[:, None], places), spread)
    return Taps(first.astype(np.uint32), weights)


def gaussian(factor: float) -> NDArray[np.float64]:
    """scikit-image's filter against aliasing, for an axis that shrinks by a factor; a single 1 where it does not."""
    deviation = max(0.0, (factor - 1) / 2)
    reach = int(TRUNCATE * deviation + 0.5)
    if not reach:
        return np.ones(1)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    return np.asarray(weights / weights.sum())


def mirrored(index: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Whole numbers folded into 0..count - 1 as in a mirror at the outer edge of the last pixel: 1 0 | 0 1 2 | 2 1."""
    there_and_back = np.concatenate([np.arange(count), np.arange(count)[::-1]])
    return there_and_back.take(index.astype(np.int64), mode="wrap")


def resized(pixels: Pixels, size: tuple[int, int]) -> "Resized":
    """Pixels (bands, rows, cols) of any dtype at another size."""
    known = pixels.dtype.name in DTYPES  # each dtype that comes up is compiled for
    pixels = np.ascontiguousarray(pixels if known else pixels.astype(np.float32))
    rows, cols = (taps(old, new) for old, new in zip(pixels.shape[1:], size))
    return Resized(pixels, rows, cols)


@dataclass(frozen=True)
class Resized:
    """An image (rows, cols, bands) in float32 that is worked out when it is asked for, whole or in part.

    It is sliced and flipped as an array would be, at no cost, and becomes one by `fill` or `numpy.asarray`.

    Args:
        pixels: What it is made of. (bands, height, width)
        rows: How its rows are made.
        cols: How its columns are made.
    """

    pixels: Pixels
    rows: Taps
    cols: Taps

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, columns, bands."""
        return len(self.rows.first), len(self.cols.first), len(self.pixels)

    @property
    def nbytes(self) -> int:
        """What it takes in memory, not what it would take as an array."""
        return self.pixels.nbytes

    def __getitem__(self, part: slice | tuple[slice, slice]) -> "Resized":
        """A part of the rows and columns, or of the rows."""
        rows, cols = part if isinstance(part, tuple) else (part, slice(None))
        return Resized(self.pixels, self.rows[rows], self.cols[cols])

    def fill(self, out: Image) -> None:
        """Write the image into an array of its shape.

        Raises:
            ValueError: The array has another shape: the kernel would read and write beyond the arrays' ends.
        """
        if out.shape != self.shape:
            raise ValueError(f"an array {out.shape} for an image {self.shape}")
        rows, cols = self.rows, self.cols
        kernels.resize(self.pixels, rows.first, rows.weights, cols.first, cols.weights, out)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The image as an array of its own."""
        out = np.empty(self.shape, np.float32)
        self.fill(out)
        return out if dtype is None else out.astype(dtype, copy=False)
