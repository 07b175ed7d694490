"""The inner loops of the data generator, compiled when first used (numba).

They let go of the interpreter's lock, so that threads work on frames side by side. Sums are in double precision and
in a fixed order: the same result in any thread, on any processor, for a part of a frame as for the whole.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def _compiled(kernel: Kernel) -> Kernel:
    """The kernel as machine code, made anew in each process: what numba keeps on disk it reads back by pickle."""
    return numba.njit(nogil=True, error_model="numpy")(kernel)  # type: ignore[no-any-return]


@_compiled
def resize(
    pixels: NDArray[Any],
    rows: NDArray[np.uint32],
    row_weights: NDArray[np.float64],
    cols: NDArray[np.uint32],
    col_weights: NDArray[np.float64],
    out: NDArray[np.float32],
) -> None:
    """Weighted sums of neighbouring pixels, down and then along, with the bands last.

    Args:
        pixels: (bands, height, width).
        rows: The first row that each row of `out` is made of. (rows,)
        row_weights: Of that row and those after it. (rows, taps)
        cols: The first column that each column of `out` is made of. (cols,)
        col_weights: Of that column and those after it. (cols, taps)
        out: (rows, cols, bands).
    """
    left = np.int64(cols.min())  # of the columns that are needed
    right = np.int64(cols.max()) + col_weights.shape[1]
    lines = np.empty((pixels.shape[0], right - left), np.float64)
    for row in range(out.shape[0]):
        for band in range(pixels.shape[0]):
            _down(pixels[band], rows[row], left, row_weights[row], lines[band])
        _along(lines, cols, np.uint32(left), col_weights, out[row])


@_compiled
def _down(
    source: NDArray[Any], row: np.uint32, left: int, weights: NDArray[np.float64], line: NDArray[np.float64]
) -> None:
    """Fill a line with the weighted sum of some rows from `row` on; of two, as where nothing shrinks, in one go."""
    part = slice(left, left + line.size)
    weight, above = weights[0], source[row, part]
    if weights.size == 2:
        other, below = weights[1], source[row + np.uint32(1), part]
        for col in range(line.size):
            line[col] = weight * above[col] + other * below[col]
        return
    for col in range(line.size):
        line[col] = weight * above[col]
    for tap in range(1, weights.size):
        weight, below = weights[tap], source[row + np.uint32(tap), part]
        for col in range(line.size):
            line[col] += weight * below[col]


@_compiled
def _along(
    lines: NDArray[np.float64],
    cols: NDArray[np.uint32],
    left: np.uint32,
    weights: NDArray[np.float64],
    out: NDArray[np.float32],
) -> None:
    """Fill a row (cols, bands) with weighted sums of neighbours in lines (bands, …) that start at column `left`."""
    for col in range(out.shape[0]):
        first, weight = cols[col] - left, weights[col, 0]
        if weights.shape[1] == 2:
            second, other = first + np.uint32(1), weights[col, 1]
            for band in range(out.shape[1]):
                out[col, band] = weight * lines[band, first] + other * lines[band, second]
            continue
        for band in range(out.shape[1]):
            value = weight * lines[band, first]
            for tap in range(1, weights.shape[1]):
                value += weights[col, tap] * lines[band, first + np.uint32(tap)]
            out[col, band] = value


@_compiled
def moments(
    image: NDArray[np.float32], valid: NDArray[np.bool_], total: NDArray[np.float64], squares: NDArray[np.float64]
) -> int:
    """Sums over the valid pixels of an image, and the sums of squares of what is left after their mean is taken off.

    Args:
        image: (rows, cols, bands).
        valid: (rows, cols).
        total: For each band; zeros, that are filled. (bands,)
        squares: For each band; zeros, that are filled. (bands,)

    Returns:
        How many pixels are valid.
    """
    count = 0
    for row in range(image.shape[0]):
        for col in range(image.shape[1]):
            if valid[row, col]:
                count += 1
                for band in range(image.shape[2]):
                    total[band] += image[row, col, band]
    for row in range(image.shape[0]):
        for col in range(image.shape[1]):
            if valid[row, col]:
                for band in range(image.shape[2]):
                    apart = image[row, col, band] - total[band] / count
                    squares[band] += apart * apart
    return count
