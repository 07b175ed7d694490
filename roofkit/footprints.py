"""Patches of roof pixels to polygons on the ground, from north to south, so that a scene of any size goes through."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS

from roofkit.errors import BadInputError, MissingInputError
from roofkit.outlines import (
    LARGEST,
    Polygons,
    Roofs,
    filled,
    in_portions,
    overlapping,
    portions,
    repaired,
    separated,
    simplified,
    squared,
    without_overlaps,
)
from roofkit.patches import Boxes, Front, Piece, arrow_schema, groups
from roofkit.raster import Grid
from roofkit.settings import PredictArgs

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = dict(id="string", scene="string", area_m2="float64", mean_probability="float64", geometry="binary")
FARTHEST = 128  # pixels that a square outline may lie beyond what it stands for


def footprint_schema() -> "pa.Schema":
    """The columns of `Footprints.batches`."""
    return arrow_schema(COLUMNS)


class Footprints:
    """The roofs of one scene as features, and how they were found.

    In memory are those whose outline may still change, as a roof that overlaps it may come.

    Attributes:
        count: Features.
        separated: Patches that came apart.
        specks: Patches and roofs that were left out for their size.
        unseparated: Patches that are too large to take apart.
    """

    def __init__(self, path: Path, grid: Grid, settings: PredictArgs) -> None:
        """Start with none.

        Args:
            path: The scene.
            grid: The scene's.
            settings: What comes apart, what is left out, and how outlines are drawn.

        Raises:
            MissingInputError, BadInputError: As for `pixel_metres`.
        """
        self.count = self.separated = self.specks = self.unseparated = 0
        self._scene, self._grid, self._settings = path.stem, grid, settings
        self._metres = pixel_metres(grid, path)
        self._reach = _reach(self._metres, settings)
        self._waiting = _Waiting()
        self._named: dict[tuple[int, int], int] = {}

    def batches(self, fronts: Iterable[Front], crs: CRS) -> "Iterator[pa.RecordBatch]":
        """Rows of `COLUMNS` in that CRS, some at a time, of the whole scene.

        Each has the mean probability (0 to 1) of its patch, and its geodesic area in square metres.
        """
        for front in fronts:
            self._waiting.add([self._drawn(some) for some in in_portions(front.patches)])
            roofs, probabilities = self._waiting.take(self._free(front))
            for some in portions(len(roofs)):
                yield self._batch(roofs[some], probabilities[some], crs)
            self._forget_names(front)

    def _drawn(self, pieces: list[Piece]) -> "_Drawn":
        drawn = _drawn(pieces, self._metres, self._settings)
        came_apart, specks, too_large = drawn.counts
        self.separated += came_apart
        self.specks += specks
        self.unseparated += too_large
        return drawn

    def _free(self, front: Front) -> NDArray[np.bool_]:
        """Which of the roofs that wait no other may overlap that is still to come, nor those that they overlap."""
        group = groups(len(self._waiting.boxes), *self._waiting.pairs.T)
        return ~np.isin(group, group[self._in_reach(self._waiting.boxes, front)])

    def _in_reach(self, boxes: Boxes, front: Front) -> NDArray[np.bool_]:
        """Which boxes a roof may touch that was not drawn yet."""
        found = boxes[:, 3] + self._reach >= front.row
        grown = front.rest + self._reach * np.array([-1, -1, 1, 1])
        found[shapely.STRtree(shapely.box(*boxes.T)).query(shapely.box(*grown.T))[1]] = True
        return found

    def _batch(self, roofs: Roofs, probabilities: NDArray[np.float64], crs: CRS) -> "pa.RecordBatch":
        """Roofs in metres as features; those that are too small are left out."""
        import geopandas as gpd
        import pyarrow as pa

        placed = repaired(_moved(shapely.from_wkb(roofs), self._grid.transform @ ~self._metres))
        areas = np.array(geodesic_areas(placed, self._grid.crs))
        points = shapely.bounds(shapely.point_on_surface(placed))[:, :2]  # NaN where nothing is left of a roof
        kept = (areas >= self._settings.min_area) & ~np.isnan(points[:, 0])
        ids = footprint_ids(self._scene, points[kept], self._grid, self._named)
        self.count += len(ids)
        self.specks += len(roofs) - len(ids)
        geometry = shapely.to_wkb(placed[kept])
        if crs != self._grid.crs:
            geometry = gpd.GeoSeries.from_wkb(geometry, crs=self._grid.crs).to_crs(crs).to_wkb()
        columns = {
            "id": ids, "scene": [self._scene] * len(ids), "area_m2": areas[kept],
            "mean_probability": probabilities[kept].round(6), "geometry": geometry,
        }  # fmt: skip
        return pa.record_batch(columns, footprint_schema())

    def _forget_names(self, front: Front) -> None:
        """Forget the pixels that no roof will be named by any more."""
        corners = np.array([*self._named], float).reshape(-1, 2)[:, ::-1]
        cells = np.concatenate([corners, corners + 1], axis=1)
        kept = self._in_reach(cells, front)
        kept[shapely.STRtree(shapely.box(*cells.T)).query(shapely.box(*self._waiting.boxes.T))[1]] = True
        self._named = {place: count for (place, count), keep in zip(self._named.items(), kept) if keep}


def _reach(metres: Affine, settings: PredictArgs) -> float:
    """Pixels from a patch beyond which no roof of it lies, small holes being filled and outlines drawn anew."""
    moved = 2 * max(settings.simplify, _shortest(metres, settings)) + math.sqrt(settings.min_hole)
    return FARTHEST + 1 + moved / _narrowest(metres)


def _narrowest(metres: Affine) -> float:
    """Metres that a way of one pixel is long, in the direction in which it is shortest."""
    return float(np.linalg.svd([[metres.a, metres.b], [metres.d, metres.e]], compute_uv=False)[-1])


def _shortest(metres: Affine, settings: PredictArgs) -> float:
    """The shortest wall of a square outline, in metres."""
    return max(2 * settings.simplify, 4 * math.sqrt(abs(metres.determinant)))


class _Waiting:
    """Roofs that others may still overlap, in metres; which of them overlap, and their boxes in pixels."""

    def __init__(self) -> None:
        self.boxes: Boxes = np.zeros((0, 4))
        self.pairs: NDArray[np.int_] = np.zeros((0, 2), int)
        self._roofs: Roofs = np.zeros(0, object)
        self._probabilities: NDArray[np.float64] = np.zeros(0)

    def add(self, drawn: "list[_Drawn]") -> None:
        """Add roofs."""
        old = len(self._roofs)
        self._roofs = np.concatenate([self._roofs, *(some.roofs for some in drawn)])
        self._probabilities = np.concatenate([self._probabilities, *(some.probabilities for some in drawn)])
        self.boxes = np.concatenate([self.boxes, *(some.boxes for some in drawn)])
        self.pairs = np.concatenate([self.pairs, overlapping(self._roofs, self.boxes, old)])

    def take(self, free: NDArray[np.bool_]) -> tuple[Roofs, NDArray[np.float64]]:
        """Let go of some, which overlap none of the others; the smaller of two without what they share."""
        place = np.where(free, np.cumsum(free), np.cumsum(~free)) - 1
        chosen = free[self.pairs[:, 0]]
        found = without_overlaps(self._roofs[free], place[self.pairs[chosen]]), self._probabilities[free]
        self.pairs = place[self.pairs[~chosen]]
        self._roofs, self._probabilities, self.boxes = (
            values[~free] for values in (self._roofs, self._probabilities, self.boxes)
        )
        return found


class _Drawn(NamedTuple):
    """Some roofs of a scene, in metres, before overlaps are looked for."""

    roofs: Roofs
    probabilities: NDArray[np.float64]
    boxes: Boxes  # in pixels
    counts: tuple[int, int, int]  # patches that came apart, specks, patches too large to take apart


def _drawn(pieces: list[Piece], metres: Affine, settings: PredictArgs) -> _Drawn:
    """The roofs of some pieces, apart and with the outlines that `settings` ask for."""
    pixel_area = abs(metres.determinant)
    patches = filled(
        shapely.normalize(shapely.from_wkb([piece.wkb for piece in pieces])), settings.min_hole / pixel_area
    )
    large = np.flatnonzero(shapely.area(patches) * pixel_area >= settings.min_area)
    groups, unseparated = _apart(patches[large], settings.separate, metres)
    sizes = np.array([len(group) for group in groups], int)
    roofs = _straight(_moved(_flat(groups), metres), sizes, metres, settings)
    probabilities = np.array([piece.probability / piece.pixels for piece in pieces])[large].repeat(sizes)
    counts = (int(np.count_nonzero(sizes > 1)), len(patches) - len(large), unseparated)
    boxes = shapely.bounds(_moved(roofs, ~metres)).reshape(-1, 4)
    return _Drawn(shapely.to_wkb(roofs), probabilities, boxes, counts)


def pixel_metres(grid: Grid, path: Path) -> Affine:
    """Pixel coordinates to metres east and north, true at the scene's centre (geodesic, WGS 84) in any CRS.

    Raises:
        MissingInputError: The scene has no CRS.
        BadInputError: Its CRS does not say where on Earth it lies.
    """
    from pyproj import Geod, Transformer
    from pyproj.exceptions import ProjError

    advice = "Georeference it (gdal_translate -a_srs -a_ullr), or leave out --vectors."
    if grid.crs is None:
        raise MissingInputError(path, "no CRS", "a georeferenced raster for polygons", advice)
    col, row = grid.width / 2, grid.height / 2
    points = [grid.transform @ point for point in ((col, row), (col + 1, row), (col, row + 1))]
    try:
        lon, lat = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True).transform(*np.transpose(points))
    except ProjError:  # a CRS of its own, tied to no place
        lon = lat = np.full(3, np.nan)
    azimuth, _, length = Geod(ellps="WGS84").inv(lon[[0, 0]], lat[[0, 0]], lon[1:], lat[1:])
    east, north = length * np.sin(np.radians(azimuth)), length * np.cos(np.radians(azimuth))
    metres = Affine(east[0], east[1], 0.0, north[0], north[1], 0.0)
    if not abs(metres.determinant) > 0:
        found = "a CRS and transform that lie nowhere on Earth"
        raise BadInputError(path, found, "a georeferenced raster for polygons", advice)
    return metres


def _apart(patches: Polygons, width: float, metres: Affine) -> tuple[list[list[shapely.Polygon]], int]:
    """The roofs of each patch, in pixel coordinates, and the number of patches that were too large to take apart."""
    if not width:
        return [[patch] for patch in patches], 0
    pixel = math.hypot(metres.b, metres.e), math.hypot(metres.a, metres.d)
    left, top, right, bottom = shapely.bounds(patches).T
    fits = (right - left) * (bottom - top) <= LARGEST
    groups = [separated(patch, width, pixel) if small else [patch] for patch, small in zip(patches, fits)]
    return groups, int(np.count_nonzero(~fits))


def _straight(roofs: Polygons, sizes: NDArray[np.int_], metres: Affine, settings: PredictArgs) -> Polygons:
    """The roofs (in metres; `sizes` of them in each patch) with straight and square outlines, as `settings` say."""
    drawn = roofs
    if settings.simplify:
        groups = np.split(roofs, np.cumsum(sizes)[:-1])
        drawn = _flat(simplified(list(group), settings.simplify) for group in groups)
    if settings.square:
        limits = _shortest(metres, settings), FARTHEST * _narrowest(metres)
        drawn = np.array([squared(roof, *limits) or outline for roof, outline in zip(roofs, drawn)], dtype=object)
    return drawn


def _flat(groups: Iterable[Iterable[shapely.Polygon]]) -> Polygons:
    return np.array([roof for group in groups for roof in group], dtype=object)


def _moved(polygons: Polygons, transform: Affine) -> Polygons:
    """The polygons with `transform` applied; corners that they share stay the same to the last bit."""
    return np.asarray(shapely.transform(polygons, lambda x, y: transform @ (x, y), interleaved=False))


def footprint_ids(scene: str, points: NDArray[np.float64], grid: Grid, named: dict[tuple[int, int], int]) -> list[str]:
    """A name for each roof of a scene, by the pixel of a point inside it: `<scene>_r<row>_c<col>`.

    So a roof has the same name whoever traces it, and in whatever order. Where roofs share a pixel, which takes roofs
    as small as one, those after the first have a number behind it; they are in the order of their places.

    Args:
        scene: Its name.
        points: x, y in each roof: (roofs, 2).
        grid: The scene's.
        named: How many have each pixel (row, col) already; grows here.
    """
    cols, rows = ~grid.transform @ points.T
    pixels = np.floor(np.round([rows, cols], 6)).astype(int)  # the same on either side of what numbers can hold
    names = []
    for row, col in pixels.T.tolist():
        number = named[row, col] = named.get((row, col), 0) + 1
        names.append(f"{scene}_r{row}_c{col}" + (f"_{number}" if number > 1 else ""))
    return names


def geodesic_areas(polygons: Polygons, crs: CRS) -> list[float]:
    """Square metres on the WGS 84 ellipsoid (Karney 2013, by PROJ), whatever the CRS; two decimals."""
    from pyproj import Geod, Transformer

    geod, transformer = Geod(ellps="WGS84"), Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    placed = shapely.transform(polygons, transformer.transform, interleaved=False)
    return [round(abs(geod.geometry_area_perimeter(polygon)[0]), 2) for polygon in placed]


def common_crs(grids: Iterable[Grid]) -> CRS:
    """The CRS that grids share, else EPSG:4326."""
    found = [grid.crs for grid in grids]
    return found[0] if all(crs == found[0] for crs in found) else CRS.from_epsg(4326)
