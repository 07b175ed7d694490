"""Outlines as a person would draw them: no pinholes, touching roofs apart, walls straight and at right angles.

Polygons lie on a plane in metres; only those of `separated` lie in pixel coordinates.
"""

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import LinearRing, Polygon

LARGEST = 2**23  # pixels around a patch that comes apart: the flood takes about 0.7 GiB for it
WIDE = 1.25  # a roof is at least so many times as wide as the neck that it is cut off at
ALIKE = 0.8  # IoU with the outline before, from which on a square one is taken
RIGHT = 0.5  # how far the walls agree on two directions, 0 (a circle) to 1, from which on an outline is made square
MOST = 500  # corners of a building; a patch of more is none, and would take long
PORTION = 200  # polygons that are looked at together: GEOS takes up to ten times their memory
TOUCHING = 1e-6  # square metres of overlap that come from rounding
Item = TypeVar("Item")
Polygons = NDArray[Any]
Roofs = NDArray[Any]  # polygons as WKB: a third of what GEOS needs for them


def portions(count: int) -> Iterator[slice]:
    """Slices of `count` polygons, each small enough for copies of it in memory."""
    return (slice(start, start + PORTION) for start in range(0, count, PORTION))


def in_portions(items: Iterable[Item]) -> Iterator[list[Item]]:
    """The items in lists as long as the slices of `portions`."""
    rest = iter(items)
    while some := list(islice(rest, PORTION)):
        yield some


def filled(polygons: Polygons, area: float) -> Polygons:
    """The polygons without holes smaller than `area`."""
    return np.array([_filled(p, area) if len(p.interiors) else p for p in polygons], dtype=object)


def _filled(polygon: Polygon, area: float) -> Polygon:
    return Polygon(polygon.exterior, [ring for ring in polygon.interiors if Polygon(ring).area >= area])


def separated(patch: Polygon, width: float, pixel: tuple[float, float]) -> list[Polygon]:
    """The roofs of a patch that hang together over less than about twice `width`; the patch where it is one roof.

    Pixels farther than `width` from the outline are the cores of roofs. The others go to the core that a flood over
    the distance to the outline comes from (watershed; Beucher and Meyer 1993): roofs meet at the narrowest place.

    Args:
        patch: Along pixel edges, in pixel coordinates, at most `LARGEST` pixels around it.
        width: Metres.
        pixel: Height and width of a pixel in metres.
    """
    from affine import Affine
    from rasterio.features import shapes
    from scipy import ndimage
    from skimage.segmentation import watershed

    inside = _pixels(patch)
    distance = ndimage.distance_transform_edt(inside, sampling=pixel) - min(pixel) / 2
    cores, _ = ndimage.label(distance >= width)
    roofs = np.unique(cores[distance >= WIDE * width])
    if len(roofs) < 2:
        return [patch]
    shares = watershed(-distance, np.where(np.isin(cores, roofs), cores, 0), mask=inside).astype(np.int32)
    place = Affine.translation(patch.bounds[0] - 1, patch.bounds[1] - 1)
    return [shapely.geometry.shape(outline) for outline, _ in shapes(shares, inside, connectivity=4, transform=place)]


def _pixels(patch: Polygon) -> NDArray[np.bool_]:
    """The pixels inside a patch, with a margin of one pixel: an odd number of walls stands to their left."""
    left, top, right, bottom = (int(side) for side in patch.bounds)
    walls = np.zeros((bottom - top + 2, right - left + 2), bool)
    for ring in (patch.exterior, *patch.interiors):
        corners = np.rint(shapely.get_coordinates(shapely.segmentize(ring, 1))).astype(int) - (left - 1, top - 1)
        (cols, rows), (next_cols, next_rows) = corners[:-1].T, corners[1:].T
        upright = cols == next_cols
        walls[np.minimum(rows, next_rows)[upright], cols[upright]] = True
    return np.logical_xor.accumulate(walls, axis=1)


def simplified(roofs: list[Polygon], tolerance: float) -> list[Polygon]:
    """The roofs of one patch with fewer corners, moved by at most `tolerance` (Douglas and Peucker 1973).

    Borders that roofs share stay shared, unless a roof is too narrow for it.
    """
    if len(roofs) > 1:
        borders = shapely.line_merge(shapely.union_all(shapely.boundary(roofs)))
        faces = shapely.get_parts(shapely.polygonize([shapely.simplify(borders, tolerance)]))
        largest = [max(faces, key=lambda face: face.intersection(roof).area, default=None) for roof in roofs]
        if len(set(largest) - {None}) == len(roofs):
            return largest
    return [shapely.simplify(roof, tolerance) for roof in roofs]


def squared(roof: Polygon, shortest: float, farthest: float) -> Polygon | None:
    """The roof with right angles alone; None where its shape does not allow it.

    Walls run along the main direction of the outline or across it, at the mean place of the stretch of outline that
    each stands for. Walls shorter than `shortest` go, the shortest first, and their neighbours become one (in the
    manner of Sester 2005, Optimization approaches for generalization and data abstraction). No part lies more than
    `farthest` beyond the outline.
    """
    plain = shapely.simplify(roof, shortest / 2)
    direction, agreement = _main_direction(plain)
    if agreement < RIGHT or shapely.get_num_coordinates(plain) > MOST:
        return None
    rings = (roof.exterior, *roof.interiors)
    turned = [_corners(_walls(_points(ring, shortest / 8) / direction), shortest) * direction for ring in rings]
    outline, *holes = [np.column_stack([corners.real, corners.imag]) for corners in turned]
    square = Polygon(outline, [hole for hole in holes if len(hole)])
    return square if square.is_valid and _iou(plain, square) >= ALIKE and _near(square, plain, farthest) else None


def _near(square: Polygon, roof: Polygon, farthest: float) -> bool:
    """Whether all of a square outline is near its roof; it does not go beyond a box around it, however turned."""
    left, top, right, bottom = roof.bounds
    return math.hypot(right - left, bottom - top) <= farthest or bool(roof.buffer(farthest).covers(square))


def _iou(a: Polygon, b: Polygon) -> float:
    common = a.intersection(b).area
    return float(common / (a.area + b.area - common))


def _main_direction(roof: Polygon) -> tuple[complex, float]:
    """The unit vector along or across which long walls run, and how far walls agree on it (0 to 1)."""
    steps = np.concatenate([np.diff(_complex(ring)) for ring in (roof.exterior, *roof.interiors)])
    squares = np.abs(steps) ** 2
    total = complex(np.sum(steps**4 / squares))  # angles times four: those that differ by a right angle agree
    return complex(np.exp(0.25j * np.angle(total))), abs(total) / float(np.sum(squares))


def _complex(ring: LinearRing) -> NDArray[np.complex128]:
    return np.asarray(shapely.get_coordinates(ring) @ np.array([1, 1j]))


def _points(ring: LinearRing, step: float) -> NDArray[np.complex128]:
    """Points (x + iy) along a closed outline, at most `step` apart."""
    corners = _complex(shapely.segmentize(ring, step))
    return (corners[1:] + corners[:-1]) / 2


class Wall(NamedTuple):
    """A stretch of an outline along the x axis or the y axis."""

    level: bool  # along the x axis
    place: float  # y of a level wall, x of another
    points: int


def _walls(points: NDArray[np.complex128]) -> list[Wall]:
    """The stretches of a closed outline, level ones and others in turn.

    A point belongs to one or the other by the line from the fourth point before it to the fourth after it.
    """
    trends = np.roll(points, -4) - np.roll(points, 4)
    level = np.abs(trends.real) >= np.abs(trends.imag)
    first = int(np.argmax(level != np.roll(level, 1)))
    points, level = np.roll(points, -first), np.roll(level, -first)
    starts = np.flatnonzero(np.concatenate([[True], level[1:] != level[:-1]]))
    counts = np.diff(np.append(starts, len(points)))
    places = np.where(level[starts], np.add.reduceat(points.imag, starts), np.add.reduceat(points.real, starts))
    return [Wall(*wall) for wall in zip(level[starts].tolist(), (places / counts).tolist(), counts.tolist())]


def _corners(walls: list[Wall], shortest: float) -> NDArray[np.complex128]:
    """The corners of an outline of walls that are not shorter than `shortest`; none where it shrinks to nothing."""
    while len(walls) >= 4:
        lengths = [abs(after.place - before.place) for before, after in zip(walls[-1:] + walls, walls[1:] + walls[:1])]
        least = int(np.argmin(lengths))
        if lengths[least] >= shortest:
            corners = zip(walls, walls[1:] + walls[:1])
            return np.array([complex(b.place, a.place) if a.level else complex(a.place, b.place) for a, b in corners])
        before, _, after, *others = walls[least - 1 :] + walls[: least - 1]
        walls = [_joined(before, after), *others]
    return np.array([], complex)


def _joined(wall: Wall, other: Wall) -> Wall:
    points = wall.points + other.points
    return Wall(wall.level, (wall.place * wall.points + other.place * other.points) / points, points)


def overlapping(roofs: Roofs, boxes: NDArray[np.float64], old: int) -> NDArray[np.int_]:
    """Pairs of roofs whose insides meet, (pairs, 2), but none of the first `old` roofs alone.

    Args:
        roofs: WKB.
        boxes: Around each roof, in any coordinates: (roofs, 4).
        old: How many of them this was asked for before.
    """
    boxed = shapely.box(*boxes.T)
    one, other = shapely.STRtree(boxed).query(boxed[old:]) + np.array([[old], [0]])
    pairs = np.column_stack([one, other])[one > other]
    sizes = np.array([*map(len, roofs)])[pairs]
    one, other = np.take_along_axis(pairs, np.argsort(sizes, axis=1), axis=1).T[::-1]  # GEOS looks things up in `one`
    meet = np.zeros(len(pairs), bool)
    for some in portions(len(one)):
        ones, others = _decoded(roofs, one[some]), _decoded(roofs, other[some])
        shapely.prepare(ones)
        meet[some] = shapely.intersects(ones, others) & ~shapely.touches(ones, others)
    return np.asarray(pairs[meet])


def without_overlaps(roofs: Roofs, pairs: NDArray[np.int_]) -> Roofs:
    """The roofs; of two that overlap, the smaller without what they share, empty where nothing of it is left.

    Args:
        roofs: WKB.
        pairs: Which overlap: (pairs, 2).
    """
    roofs, areas = roofs.copy(), np.zeros(len(roofs))
    for some in portions(len(roofs)):
        areas[some] = shapely.area(shapely.from_wkb(roofs[some]))
    rank = np.argsort(np.argsort(-areas, kind="stable"))
    ranked = np.sort(rank[pairs], axis=1)
    place = np.argsort(rank)
    for i, j in place[ranked[np.lexsort(ranked.T[::-1])]].tolist():
        one, other = shapely.from_wkb(roofs[[i, j]])
        if other.intersection(one).area > TOUCHING:
            roofs[j] = _largest(other.difference(one)).wkb
    return roofs


def _decoded(roofs: Roofs, numbers: NDArray[np.int_]) -> Polygons:
    """The roofs of these numbers; one that is asked for again is the same object."""
    unique, places = np.unique(numbers, return_inverse=True)
    return np.asarray(shapely.from_wkb(roofs[unique])[places])


def repaired(roofs: Polygons) -> Polygons:
    """The roofs, of those that rounding made touch themselves only the largest part."""
    return np.array([r if r.is_valid else _largest(shapely.make_valid(r)) for r in roofs], dtype=object)


def _largest(parts: Any) -> Polygon:
    """The largest polygon in what GEOS made of one; empty where there is none."""
    polygons = [part for part in shapely.get_parts(shapely.get_parts(parts)) if part.geom_type == "Polygon"]
    return max(polygons, key=shapely.area, default=Polygon())
