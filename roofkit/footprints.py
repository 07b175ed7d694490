"""Roof pixels to polygons, strip by strip, so that a scene of any size goes through."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.windows import Window

from roofkit.artifacts import committed
from roofkit.errors import BadInputError, MissingInputError
from roofkit.outlines import (
    LARGEST,
    Polygons,
    Roofs,
    filled,
    in_portions,
    portions,
    repaired,
    separated,
    simplified,
    squared,
    without_overlaps,
)
from roofkit.raster import Grid, Valid
from roofkit.settings import PredictArgs

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = dict(id="string", scene="string", area_m2="float64", mean_probability="float64", geometry="binary")


@dataclass(frozen=True)
class Piece:
    """A patch of roof pixels that share edges, in pixel coordinates of its scene."""

    wkb: bytes  # a third of what GEOS needs for the polygon
    pixels: int
    probability: float  # the sum over its pixels

    @property
    def polygon(self) -> shapely.Polygon:
        """Its outline; decoded each time."""
        return shapely.from_wkb(self.wkb)

    def merged(self, others: "Iterable[Piece]", polygon: shapely.Polygon) -> "Piece":
        """This piece and others as one."""
        parts = [self, *others]
        return Piece(polygon.wkb, sum(p.pixels for p in parts), sum(p.probability for p in parts))


class FootprintTracer:
    """Collects roof pixels window by window; windows must not overlap.

    `whole` are patches inside a window, `cut` those at its edge.
    """

    def __init__(self) -> None:
        self.whole: list[Piece] = []
        self.cut: list[Piece] = []

    def add(self, roof: Valid, probability: NDArray[np.float32], window: Window) -> None:
        """Trace one window: `roof` and `probability` (0 to 1) are (rows, cols)."""
        if not roof.any():
            return
        rows, cols = roof.shape
        for piece in trace(roof, probability):
            polygon = piece.polygon
            left, top, right, bottom = polygon.bounds
            at_edge = left == 0 or top == 0 or right == cols or bottom == rows
            placed = shapely.transform(polygon, lambda xy: xy + (window.col_off, window.row_off))
            (self.cut if at_edge else self.whole).append(replace(piece, wkb=placed.wkb))

    def pieces(self) -> Iterator[Piece]:
        """Every roof, those cut by window edges put together again; sorted by row, then column.

        The tracer lets go of them: whoever takes one is alone in holding it.
        """
        found = self.whole + join(self.cut)
        self.whole, self.cut = [], []
        found.sort(key=lambda piece: (*piece.polygon.bounds[1::-1], piece.pixels))
        found.reverse()
        while found:
            yield found.pop()


def save_pieces(tracer: FootprintTracer, path: Path) -> None:
    """Write what a tracer has collected, complete or not at all (Arrow: polygons as WKB, in pixel coordinates)."""
    import pyarrow as pa

    schema = pa.schema({"polygon": pa.binary(), "pixels": pa.int64(), "probability": pa.float64(), "cut": pa.bool_()})
    kinds = [(piece, False) for piece in tracer.whole] + [(piece, True) for piece in tracer.cut]
    with committed(path) as part, pa.OSFile(str(part), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for some in portions(len(kinds)):
            rows = [(piece.wkb, piece.pixels, piece.probability, cut) for piece, cut in kinds[some]]
            named = [dict(zip(schema.names, row)) for row in rows]
            writer.write_batch(pa.RecordBatch.from_pylist(named, schema))


def load_pieces(paths: Iterable[Path]) -> FootprintTracer:
    """A tracer that has collected what these files hold."""
    import pyarrow as pa

    tracer = FootprintTracer()
    for path in paths:
        with pa.OSFile(str(path)) as file:
            reader = pa.ipc.open_file(file)
            for number in range(reader.num_record_batches):
                for *values, cut in zip(*(column.to_pylist() for column in reader.get_batch(number).columns)):
                    (tracer.cut if cut else tracer.whole).append(Piece(*values))
    return tracer


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


def join(pieces: list[Piece]) -> list[Piece]:
    """Pieces that share an edge, as one."""
    if not pieces:
        return []
    polygons = [piece.polygon for piece in pieces]
    merged = shapely.get_parts(shapely.unary_union(polygons))
    merged = shapely.simplify(shapely.normalize(merged), 0)  # without the points where windows met
    tree = shapely.STRtree(merged)
    inner = [polygon.representative_point() for polygon in polygons]
    owner = dict(zip(*tree.query(inner, predicate="within").tolist()))
    groups: dict[int, list[Piece]] = {}
    for index, piece in enumerate(pieces):
        groups.setdefault(owner[index], []).append(piece)
    return [group[0].merged(group[1:], merged[index]) for index, group in groups.items()]


@dataclass(frozen=True)
class Footprints:
    """The roofs of one scene, and how they were found.

    Args:
        scene: Its name.
        crs: Its CRS, in which the roofs are.
        ids: See `footprint_ids`.
        roofs: WKB.
        areas: Square metres, geodesic.
        probabilities: The mean of each roof, 0 to 1; that of the whole patch for roofs that came apart.
        separated: Patches that came apart.
        specks: Patches and roofs that were left out for their size.
        unseparated: Patches that are too large to take apart.
    """

    scene: str
    crs: CRS
    ids: list[str]
    roofs: Roofs
    areas: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    separated: int
    specks: int
    unseparated: int

    def batches(self, crs: CRS) -> "Iterator[pa.RecordBatch]":
        """Rows of `COLUMNS` in that CRS, some at a time; at least one batch."""
        import geopandas as gpd
        import pyarrow as pa

        for some in portions(len(self.ids)):
            wkb = self.roofs[some]
            if crs != self.crs:
                wkb = gpd.GeoSeries.from_wkb(wkb, crs=self.crs).to_crs(crs).to_wkb()
            columns = {
                "id": self.ids[some],
                "scene": [self.scene] * len(wkb),
                "area_m2": self.areas[some],
                "mean_probability": self.probabilities[some].round(6),
                "geometry": wkb,
            }
            yield pa.record_batch(columns, pa.schema([(name, getattr(pa, kind)()) for name, kind in COLUMNS.items()]))


def to_footprints(pieces: Iterable[Piece], path: Path, grid: Grid, settings: PredictArgs) -> Footprints:
    """Roofs of one scene as features.

    Args:
        pieces: From `FootprintTracer.pieces`.
        path: The scene.
        grid: The scene's.
        settings: What comes apart, what is left out, and how outlines are drawn.

    Raises:
        MissingInputError, BadInputError: As for `pixel_metres`.
    """
    metres = pixel_metres(grid, path)
    parts = [_drawn(some, metres, settings) for some in in_portions(pieces)]
    probabilities = np.concatenate([part.probabilities for part in parts])
    came_apart, specks, too_large = np.sum([part.counts for part in parts], axis=0).tolist()
    roofs = without_overlaps(np.concatenate([part.roofs for part in parts]))
    del parts
    areas, points = np.zeros(len(roofs)), np.zeros((len(roofs), 2))
    for some in portions(len(roofs)):
        placed = repaired(_moved(shapely.from_wkb(roofs[some]), grid.transform @ ~metres))
        areas[some] = geodesic_areas(placed, grid.crs)
        points[some] = shapely.bounds(shapely.point_on_surface(placed))[:, :2]  # NaN where nothing is left of a roof
        roofs[some] = shapely.to_wkb(placed)
    kept = np.flatnonzero((areas >= settings.min_area) & ~np.isnan(points[:, 0]))
    ids, left_out = footprint_ids(path.stem, points[kept], grid), len(roofs) - len(kept)
    found = roofs[kept], areas[kept], probabilities[kept]
    return Footprints(path.stem, grid.crs, ids, *found, came_apart, specks + left_out, too_large)


class _Drawn(NamedTuple):
    """Some roofs of a scene, in metres, before overlaps are looked for."""

    roofs: Roofs
    probabilities: NDArray[np.float64]
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
    return _Drawn(shapely.to_wkb(roofs), probabilities, counts)


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
        shortest = max(2 * settings.simplify, 4 * math.sqrt(abs(metres.determinant)))
        drawn = np.array([squared(roof, shortest) or outline for roof, outline in zip(roofs, drawn)], dtype=object)
    return drawn


def _flat(groups: Iterable[Iterable[shapely.Polygon]]) -> Polygons:
    return np.array([roof for group in groups for roof in group], dtype=object)


def _moved(polygons: Polygons, transform: Affine) -> Polygons:
    """The polygons with `transform` applied; corners that they share stay the same to the last bit."""
    return np.asarray(shapely.transform(polygons, lambda x, y: transform @ (x, y), interleaved=False))


def footprint_ids(scene: str, points: NDArray[np.float64], grid: Grid) -> list[str]:
    """A name for each roof of a scene, by the pixel of a point inside it: `<scene>_r<row>_c<col>`.

    So a roof has the same name whoever traces it, and in whatever order. Where roofs share a pixel, which takes roofs
    as small as one, those after the first have a number behind it; they are in the order of their places.

    Args:
        scene: Its name.
        points: x, y in each roof: (roofs, 2).
        grid: The scene's.
    """
    cols, rows = ~grid.transform @ points.T
    pixels = np.floor(np.round([cols, rows], 6)).astype(int)  # the same on either side of what numbers can hold
    seen: dict[str, int] = {}
    names = []
    for col, row in pixels.T.tolist():
        name = f"{scene}_r{row}_c{col}"
        seen[name] = seen.get(name, 0) + 1
        names.append(f"{name}_{seen[name]}" if seen[name] > 1 else name)
    return names


def geodesic_areas(polygons: Polygons, crs: CRS) -> list[float]:
    """Square metres on the WGS 84 ellipsoid (Karney 2013, by PROJ), whatever the CRS; two decimals."""
    from pyproj import Geod, Transformer

    geod, transformer = Geod(ellps="WGS84"), Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    placed = shapely.transform(polygons, transformer.transform, interleaved=False)
    return [round(abs(geod.geometry_area_perimeter(polygon)[0]), 2) for polygon in placed]


def gather(found: list[Footprints]) -> "tuple[Iterator[pa.RecordBatch], CRS]":
    """The roofs of several scenes, as `Footprints.batches`, in their CRS where they share one, else in EPSG:4326."""
    shared = all(one.crs == found[0].crs for one in found)
    crs = found[0].crs if shared else CRS.from_epsg(4326)
    return chain.from_iterable(one.batches(crs) for one in found), crs
