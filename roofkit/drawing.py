"""Polygons drawn on a grid: the pixels whose centres they hold, as GDAL draws them, all at once in NumPy."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Coordinates = NDArray[np.float64]
PIXELS = 2**22  # that are marked at once, at most


def fill(polygons: Sequence[Any] | NDArray[Any], transform: Affine, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which pixels (rows, cols) have their centre in any of some polygons.

    The rule, and the arithmetic, are those of GDAL's rasterizer (GDALdllImageFilledPolygon): along the middle of each
    row of pixels, a polygon reaches from one crossing of its outline to the next, both rounded to whole columns, and
    covers horizontal edges that lie there. Polygons are drawn one by one, rings of one polygon by even and odd.

    Args:
        polygons: Polygons and MultiPolygons in the CRS of the grid.
        transform: Pixel to CRS.
        size: Rows and columns.
    """
    parts = shapely.get_parts(np.asarray(polygons, object))
    if not len(parts):
        return np.zeros(size, bool)
    _, points, (rings, owners) = shapely.to_ragged_array(parts)
    x, y = to_pixels(points[:, 0], points[:, 1], transform)
    owner = np.repeat(np.repeat(np.arange(len(parts)), np.diff(owners)), np.diff(rings))
    inside = np.ones(len(x), bool)
    inside[rings[:-1][np.diff(rings) > 0]] = False  # no edge leads to the next ring; a hole may be empty
    ends = np.flatnonzero(inside)
    edges = (x[ends - 1], y[ends - 1], x[ends], y[ends])
    starts, stops = zip(_spans(edges, owner[ends], size), _level_spans(edges, size))
    return between(np.concatenate(starts), np.concatenate(stops), size)


def to_pixels(x: Coordinates, y: Coordinates, transform: Affine) -> tuple[Coordinates, Coordinates]:
    """Columns and rows of points, computed as GDALInvGeoTransform and GDALApplyGeoTransform do."""
    a, b, c, d, e, f = tuple(transform)[:6]
    if b == d == 0:
        return -c / a + x * (1 / a), -f / e + y * (1 / e)
    over = 1 / (a * e - b * d)
    col = (b * f - c * e) * over + x * (e * over) + y * (-b * over)
    row = (-a * f + c * d) * over + x * (-d * over) + y * (a * over)
    return col, row


def _spans(
    edges: tuple[Coordinates, Coordinates, Coordinates, Coordinates], owner: Rows, size: tuple[int, int]
) -> tuple[Rows, Rows]:
    """Where polygons begin and end along the middles of rows, as places in rows of one column more than the grid."""
    x1, y1, x2, y2 = edges
    height, width = size
    first, stop = (np.clip(np.ceil(end(y1, y2) - 0.5), 0, height).astype(np.int64) for end in (np.minimum, np.maximum))
    crossed = np.flatnonzero(stop > first)
    count = (stop - first)[crossed]
    edge = np.repeat(crossed, count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    up = y1[edge] > y2[edge]
    low_x, high_x = np.where(up, x2[edge], x1[edge]), np.where(up, x1[edge], x2[edge])
    low_y, high_y = np.where(up, y2[edge], y1[edge]), np.where(up, y1[edge], y2[edge])
    crossing = (row + 0.5 - low_y) * (high_x - low_x) / (high_y - low_y) + low_x
    place = (owner[edge] * height + row) * (width + 1) + _columns(crossing, width)
    place.sort()  # by polygon, row and column: an even number in each row of a polygon
    place %= height * (width + 1)
    return place[::2], place[1::2]


def _level_spans(
    edges: tuple[Coordinates, Coordinates, Coordinates, Coordinates], size: tuple[int, int]
) -> tuple[Rows, Rows]:
    """The same of horizontal edges that lie in the middle of a row and go backwards."""
    x1, y1, x2, y2 = edges
    height, width = size
    level = np.flatnonzero((y1 == y2) & (x1 > x2))
    level = level[(np.floor(y1[level]) + 0.5 == y1[level]) & (y1[level] > 0) & (y1[level] < height)]
    row = np.floor(y1[level]).astype(np.int64) * (width + 1)
    return row + _columns(x2[level], width), row + _columns(x1[level], width)


def _columns(x: Coordinates, width: int) -> Rows:
    """Columns to whose left edge a place along a row rounds, within the grid."""
    return np.clip(np.floor(x + 0.5), 0, width).astype(np.int64)


def between(starts: Rows, ends: Rows, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels (rows, cols) that lie in any span; both are places in rows of one column more."""
    height, width = size
    covered = np.zeros(height * width, bool)
    at_once = max(PIXELS // width, 1)
    for first in range(0, len(starts), at_once):
        start, end = starts[first : first + at_once], ends[first : first + at_once]
        length = end - start
        shift = start - start // (width + 1) - (np.cumsum(length) - length)  # a row is one column shorter here
        covered[np.repeat(shift, length) + np.arange(length.sum())] = True
    return covered.reshape(size)
