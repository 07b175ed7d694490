"""The study area: what the user wants imagery and labels of, and the pixel grids that cover it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import rasterio.features
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj import Geod, Transformer
from pyproj.exceptions import CRSError, ProjError
from rasterio.crs import CRS
from rasterio.windows import Window
from shapely.geometry import MultiPolygon, Polygon, box

from roofkit.errors import BadInputError, SettingsError
from roofkit.raster import Grid, Valid

LONLAT = "EPSG:4326"
EARTH = Geod(ellps="WGS84")


@dataclass(frozen=True)
class Area:
    """A study area (AOI).

    Args:
        shape: A polygon or several, in degrees east and north (EPSG:4326).
    """

    shape: Polygon | MultiPolygon

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east, north in degrees."""
        west, south, east, north = map(float, self.shape.bounds)
        return west, south, east, north

    @property
    def is_box(self) -> bool:
        """Whether it is all that lies within its bounds."""
        return bool(box(*self.shape.bounds).difference(self.shape).area < 1e-12)

    @cached_property
    def utm(self) -> CRS:
        """The UTM zone of its centre; beyond 84 N and 80 S, where there is none, the polar stereographic CRS."""
        west, south, east, north = self.bounds
        longitude, latitude = (west + east) / 2, (south + north) / 2
        if latitude > 84 or latitude < -80:
            return CRS.from_epsg(32661 if latitude > 0 else 32761)
        zone = min(int((longitude + 180) // 6) + 1, 60)
        return CRS.from_epsg((32600 if latitude >= 0 else 32700) + zone)

    def within(self, crs: CRS) -> Polygon | MultiPolygon:
        """The area in another CRS; long edges are followed closely, since straight ones become curves.

        Raises:
            SettingsError: It cannot be expressed there.
        """
        west, south, east, north = self.bounds
        step = max(east - west, north - south) / 64
        try:
            found = moved(shapely.segmentize(self.shape, step), LONLAT, crs)
        except (CRSError, ProjError) as error:
            raise SettingsError("download_args.crs", str(error), "a CRS of this area", "Choose another.") from None
        if not np.isfinite(found.bounds).all():
            raise SettingsError("download_args.crs", f"{crs} does not reach this area", "one that does", "Change it.")
        return found

    def grid(self, crs: CRS, size: tuple[float, float]) -> Grid:
        """The smallest grid over the area whose pixels of `size` (width, height in units of `crs`) start at multiples.

        So areas beside each other get grids that fit together.
        """
        left, bottom, right, top = self.within(crs).bounds
        width, height = size
        # A hair less, so that a bound which is a multiple but for rounding does not add a column.
        first, last = math.floor(left / width + 1e-6), math.ceil(right / width - 1e-6)
        lower, upper = math.floor(bottom / height + 1e-6), math.ceil(top / height - 1e-6)
        transform = Affine(width, 0, first * width, 0, -height, upper * height)
        return Grid(crs, transform, max(upper - lower, 1), max(last - first, 1))

    def window(self, grid: Grid) -> Window | None:
        """The pixels of a grid that the area's bounds touch; None where they touch none."""
        shape = self.within(grid.crs) if grid.crs is not None else None
        if shape is None:
            return None
        left, bottom, right, top = shape.bounds
        back = ~grid.transform
        corners = [back @ corner for corner in ((left, top), (right, top), (left, bottom), (right, bottom))]
        cols, rows = zip(*corners)
        col, row = max(math.floor(min(cols) + 1e-6), 0), max(math.floor(min(rows) + 1e-6), 0)
        last_col = min(math.ceil(max(cols) - 1e-6), grid.width)
        last_row = min(math.ceil(max(rows) - 1e-6), grid.height)
        return Window(col, row, last_col - col, last_row - row) if last_col > col and last_row > row else None

    def inside(self, grid: Grid) -> Valid:
        """Which pixels of a grid belong to the area (their centre, or any part of it where the area is small)."""
        if self.is_box:  # its edges may run slantwise in that CRS: the box is kept whole
            return np.ones((grid.height, grid.width), bool)
        shapes = [(self.within(grid.crs), 1)] if grid.crs is not None else []
        found: NDArray[np.uint8] = rasterio.features.rasterize(
            shapes, (grid.height, grid.width), transform=grid.transform, dtype="uint8", all_touched=True
        )
        return found.astype(bool)

    def touches(self, grid: Grid) -> bool:
        """Whether any pixel of a grid can belong to the area."""
        return self.is_box or bool(box(*grid.bounds).intersects(self.within(grid.crs)))


def area_of_box(bounds: Sequence[float]) -> Area:
    """The area between west, south, east and north in degrees.

    Raises:
        SettingsError: Not a box on the globe.
    """
    west, south, east, north = bounds
    given = f"[{west:g}, {south:g}, {east:g}, {north:g}]"
    if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
        advice = "An area across 180 degrees must be fetched in two parts." if west > east else "Mind the order."
        expected = "west, south, east, north in degrees, west below east and south below north"
        raise SettingsError("download_args.bbox", given, expected, advice)
    return Area(box(west, south, east, north))


def area_of_file(path: Path) -> Area:
    """The polygons of a vector file as one area.

    Raises:
        MissingInputError, BadInputError: There is no such file, it is broken, or holds no polygon or CRS.
    """
    import pyproj

    from roofkit.labels import read_labels, reproject, valid_shapes

    shapes = reproject(read_labels(path).roofs, pyproj.CRS(LONLAT), path).geometry.to_numpy()
    try:
        whole = shapely.unary_union(valid_shapes(shapes))
    except shapely.GEOSException as error:
        found = f"polygons that cannot be made into one area ({error})"
        raise BadInputError(path, found, "valid polygons", "Repair them (QGIS: Fix geometries).") from None
    west, south, east, north = whole.bounds
    if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
        raise BadInputError(path, f"bounds {whole.bounds}", "an area on the globe", "Check its CRS.")
    return Area(whole)


def moved(shape: Any, source: CRS | str, target: CRS | str) -> Any:
    """A geometry from one CRS to another, east before north in both.

    Raises:
        CRSError, ProjError: There is no way.
    """
    first, second = (crs if isinstance(crs, str) else crs.to_wkt() for crs in (source, target))
    transformer = Transformer.from_crs(first, second, always_xy=True)
    return shapely.transform(shape, transformer.transform, interleaved=False)


def gsd(grid: Grid) -> float:
    """Metres of ground a pixel, along the wider of its sides, at the middle of the grid; 0 where that is unknown."""
    rows, cols = grid.height / 2, grid.width / 2
    points = [grid.transform @ place for place in ((cols, rows), (cols + 1, rows), (cols, rows + 1))]
    if grid.crs is None:
        return 0.0
    try:
        (x0, y0), *others = moved(shapely.LineString(points), grid.crs, LONLAT).coords
    except (CRSError, ProjError):
        return 0.0
    found = max(float(EARTH.inv(x0, y0, x, y)[2]) for x, y in others)
    return found if math.isfinite(found) else 0.0


def named_crs(text: str) -> CRS:
    """A CRS by its name, as `EPSG:32644`.

    Raises:
        SettingsError: There is no such CRS.
    """
    try:
        return CRS.from_user_input(text)
    except rasterio.errors.CRSError:
        raise SettingsError("download_args.crs", repr(text), "a CRS such as EPSG:32644", "Correct it.") from None
