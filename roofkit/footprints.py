"""Roof pixels to polygons, strip by strip, so that a scene of any size goes through."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.windows import Window

from roofkit.raster import Valid

if TYPE_CHECKING:
    import geopandas as gpd

COLUMNS = ("scene", "area_m2", "mean_probability")


@dataclass(frozen=True)
class Piece:
    """A patch of roof pixels that share edges, in pixel coordinates of its scene."""

    polygon: shapely.Polygon
    pixels: int
    probability: float  # the sum over its pixels

    def merged(self, others: "Iterable[Piece]", polygon: shapely.Polygon) -> "Piece":
        """This piece and others as one."""
        parts = [self, *others]
        return Piece(polygon, sum(p.pixels for p in parts), sum(p.probability for p in parts))


class FootprintTracer:
    """Collects roof pixels window by window; windows must not overlap."""

    def __init__(self) -> None:
        self._whole: list[Piece] = []
        self._cut: list[Piece] = []

    def add(self, roof: Valid, probability: NDArray[np.float32], window: Window) -> None:
        """Trace one window: `roof` and `probability` (0 to 1) are (rows, cols)."""
        if not roof.any():
            return
        rows, cols = roof.shape
        for piece in trace(roof, probability):
            left, top, right, bottom = piece.polygon.bounds
            at_edge = left == 0 or top == 0 or right == cols or bottom == rows
            polygon = shapely.transform(piece.polygon, lambda xy: xy + (window.col_off, window.row_off))
            (self._cut if at_edge else self._whole).append(Piece(polygon, piece.pixels, piece.probability))

    def pieces(self) -> list[Piece]:
        """Every roof, those cut by window edges put together again; sorted by row, then column."""
        found = self._whole + join(self._cut)
        return sorted(found, key=lambda piece: (piece.polygon.bounds[1], piece.polygon.bounds[0], piece.pixels))


def trace(roof: Valid, probability: NDArray[np.float32]) -> list[Piece]:
    """Polygons along the pixel edges of the patches of `roof` (rows, cols); pixels that touch at a corner are apart."""
    from rasterio.features import shapes
    from scipy import ndimage

    labels, count = ndimage.label(roof)
    pixels = np.bincount(labels.ravel(), minlength=count + 1)
    total = np.bincount(labels.ravel(), weights=probability.ravel(), minlength=count + 1)
    traced = shapes(labels.astype(np.int32), mask=roof, connectivity=4)
    return [
        Piece(shapely.geometry.shape(geometry), int(pixels[int(label)]), float(total[int(label)]))
        for geometry, label in traced
    ]


def join(pieces: list[Piece]) -> list[Piece]:
    """Pieces that share an edge, as one."""
    if not pieces:
        return []
    merged = shapely.get_parts(shapely.unary_union([piece.polygon for piece in pieces]))
    tree = shapely.STRtree(merged)
    inner = [piece.polygon.representative_point() for piece in pieces]
    owner = dict(zip(*tree.query(inner, predicate="within").tolist()))
    groups: dict[int, list[Piece]] = {}
    for index, piece in enumerate(pieces):
        groups.setdefault(owner[index], []).append(piece)
    return [group[0].merged(group[1:], merged[index]) for index, group in groups.items()]


def to_features(pieces: list[Piece], *, scene: str, transform: Affine, crs: CRS, min_area: float) -> "gpd.GeoDataFrame":
    """Roofs of one scene as features: scene, area_m2 (geodesic), mean_probability (0 to 1), polygon in `crs`.

    Args:
        pieces: From `FootprintTracer.pieces`.
        scene: The scene's name.
        transform: Pixel to CRS.
        crs: The scene's CRS.
        min_area: Square metres; smaller roofs are left out.
    """
    import geopandas as gpd

    a, b, c, d, e, f = tuple(transform)[:6]
    matrix = np.array([[a, d], [b, e]])
    polygons = [shapely.transform(piece.polygon, lambda xy: xy @ matrix + (c, f)) for piece in pieces]
    features = gpd.GeoDataFrame(
        {
            "scene": np.full(len(pieces), scene, dtype=object),
            "area_m2": np.zeros(len(pieces)),
            "mean_probability": [piece.probability / piece.pixels for piece in pieces],
        },
        geometry=polygons,
        crs=crs,
    )
    features["area_m2"] = geodesic_areas(features)
    return features[features["area_m2"] >= min_area].reset_index(drop=True)


def geodesic_areas(features: "gpd.GeoDataFrame") -> list[float]:
    """Square metres on the WGS 84 ellipsoid (Karney 2013, by PROJ), whatever the CRS; two decimals."""
    from pyproj import Geod

    geod = Geod(ellps="WGS84")
    polygons: Any = features.geometry.to_crs("EPSG:4326")
    return [round(abs(geod.geometry_area_perimeter(polygon)[0]), 2) for polygon in polygons]


def gather(parts: "list[gpd.GeoDataFrame]") -> "gpd.GeoDataFrame":
    """Features of several scenes in one table: in their CRS where they share one, else in EPSG:4326."""
    import geopandas as gpd
    import pandas as pd

    shared = all(part.crs == parts[0].crs for part in parts)
    same = parts if shared else [part.to_crs("EPSG:4326") for part in parts]
    full = [part for part in same if len(part)] or same[:1]
    return gpd.GeoDataFrame(pd.concat(full, ignore_index=True), geometry="geometry", crs=same[0].crs)
