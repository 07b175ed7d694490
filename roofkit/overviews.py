"""What the overviews of a raster are made of: each level from the one before, block by block, at any size of the whole.

Blocks may come in any order. Each is halved at once, and its half waits, compressed, in a file without a name until
the level above is made; so memory holds a few blocks, and blocks that are not there cost nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

AT_ONCE = 16  # blocks
SMALLEST = 512  # pixels: the last level is at most so large
Pixels = NDArray[Any]
Bools = NDArray[np.bool_]


def level_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """Rows and columns of a raster and of its overviews, each half of the one before."""
    sizes = [(height, width)]
    while max(sizes[-1]) > SMALLEST:
        rows, cols = sizes[-1]
        sizes.append((-(-rows // 2), -(-cols // 2)))
    return sizes


def halved(pixels: Pixels, valid: Bools | None, *, classes: bool) -> tuple[Pixels, Bools]:
    """Pixels (bands, rows, cols) and validity (rows, cols), of each 2 x 2 of them one.

    It is valid where one of the four is. Invalid pixels are 0.

    Args:
        pixels: Where there is an odd number of rows or columns, the last ones stand alone.
        valid: Which of them count; None: all.
        classes: Pixels are 0 or one other value: what most have, and with a tie the first; else they are float32, and
            averaged.
    """
    four = _corners(pixels, mode="edge")
    if valid is None:
        count, some = np.int8(4), np.ones(four[0].shape[1:], bool)
    else:
        known = _corners(valid, mode="constant")
        four = [np.where(there, values, values.dtype.type(0)) for there, values in zip(known, four)]
        count = sum((there.astype(np.int8) for there in known), np.int8(0))
        some = count > 0
    if not classes:
        total = (four[0] + four[1]) + (four[2] + four[3])
        return (total / np.maximum(count, np.int8(1))).astype(pixels.dtype), some
    lead = 2 * sum(((values != 0).view(np.int8) for values in four), np.int8(0)) - count
    won = (lead > 0) | ((lead == 0) & (four[0] != 0))
    other = np.maximum(np.maximum(four[0], four[1]), np.maximum(four[2], four[3]))
    return np.where(won, other, other.dtype.type(0)), some


def _corners(array: NDArray[Any], mode: Literal["edge", "constant"]) -> list[NDArray[Any]]:
    """Of each 2 x 2 pixels of (…, rows, cols) the upper left, upper right, lower left and lower right one."""
    odd = [side % 2 for side in array.shape[-2:]]
    if any(odd):
        array = np.pad(array, [(0, 0)] * (array.ndim - 2) + [(0, n) for n in odd], mode=mode)
    return [array[..., row::2, col::2] for row in range(2) for col in range(2)]


@dataclass(frozen=True)
class OverviewBlock:
    """A block of an overview, cut off at the right and lower edge."""

    row: int
    col: int
    pixels: Pixels
    valid: Bools


class Pyramid:
    """Halves of blocks, and the blocks of the level above that they make.

    Args:
        file: Where halves wait; at its start.
        size: Rows and columns of the raster.
        side: Of a block, an even number of pixels.
        bands: Number of bands.
        dtype: Of its pixels.
    """

    def __init__(self, file: BinaryIO, size: tuple[int, int], side: int, *, bands: int, dtype: np.dtype[Any]) -> None:
        self.sizes = level_sizes(*size)
        self._file, self._side, self._bands, self._dtype = file, side, bands, dtype
        self._places: dict[int, NDArray[np.int64]] = {}
        self._end = 0

    def shape(self, level: int) -> tuple[int, int]:
        """Rows and columns of blocks of a level; 0 is the raster itself."""
        return -(-self.sizes[level][0] // self._side), -(-self.sizes[level][1] // self._side)

    def add(self, level: int, row: int, col: int, half: bytes) -> None:
        """Keep the half (see `packed_halves`) of a block of a level, unless there is no level above."""
        if level + 1 == len(self.sizes):
            return
        if level not in self._places:
            self._places[level] = np.zeros((2, *self.shape(level)), np.int64)
        self._places[level][:, row, col] = self._end, len(half)
        self._file.seek(self._end)
        self._end += self._file.write(half)

    def blocks(self, level: int) -> Iterator[list[OverviewBlock]]:
        """The blocks of a level from 1 on, a few at a time, those of which anything was added below."""
        below = self._places.pop(level - 1, None)
        if below is None:
            return
        down, across = self.shape(level)
        padded = np.pad(below[1] > 0, [(0, 2 * n - have) for n, have in zip((down, across), below.shape[1:])])
        there = np.argwhere(np.any(padded.reshape(down, 2, across, 2), axis=(1, 3))).tolist()
        for first in range(0, len(there), AT_ONCE):
            yield [self._block(level, below, row, col) for row, col in there[first : first + AT_ONCE]]

    def _block(self, level: int, below: NDArray[np.int64], row: int, col: int) -> OverviewBlock:
        rows, cols = (
            min(self._side, length - at * self._side) for at, length in zip((row, col), self.sizes[level], strict=True)
        )
        half = self._side // 2
        pixels, valid = np.zeros((self._bands, rows, cols), self._dtype), np.zeros((rows, cols), bool)
        for down, across in np.ndindex(2, 2):
            inside = 2 * row + down < below.shape[1] and 2 * col + across < below.shape[2]
            start, count = below[:, 2 * row + down, 2 * col + across].tolist() if inside else (0, 0)
            if count:
                part = np.s_[down * half : (down + 1) * half, across * half : (across + 1) * half]
                self._file.seek(start)
                shape = valid[part].shape
                pixels[:, part[0], part[1]], valid[part] = _unpacked(
                    self._file.read(count), self._bands, shape, self._dtype
                )
        return OverviewBlock(row, col, pixels, valid)


def packed_halves(pixels: Pixels, valid: Bools | None, side: int, *, classes: bool) -> list[bytes]:
    """The halves of the blocks of (bands, rows, cols), row by row, for `Pyramid.add`."""
    values, known = halved(pixels, valid, classes=classes)
    step = side // 2
    return [
        isal_zlib.compress(values[:, part[0], part[1]].tobytes() + np.packbits(known[part]).tobytes(), 0)
        for row in range(0, known.shape[0], step)
        for col in range(0, known.shape[1], step)
        for part in [np.s_[row : row + step, col : col + step]]
    ]


def _unpacked(data: bytes, bands: int, shape: tuple[int, int], dtype: np.dtype[Any]) -> tuple[Pixels, Bools]:
    count = shape[0] * shape[1]
    raw = isal_zlib.decompress(data)
    pixels = np.frombuffer(raw, dtype, bands * count).reshape(bands, *shape)
    bits = np.frombuffer(raw, np.uint8, offset=pixels.nbytes)
    return pixels, np.unpackbits(bits, count=count).astype(bool).reshape(shape)
