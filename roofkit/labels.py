"""Roof polygons in: read, selected by SQL, repaired where broken, and named where beyond repair.

`read_labels` gives those of a file at once; `LabelStream` gives them in batches, for files of any size.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError, ProjError

from roofkit import label_sql
from roofkit.errors import BadInputError, MismatchError, SettingsError
from roofkit.label_files import OgrFile, Rows, VectorFile, open_label_files, quiet, readable, readable_parquet
from roofkit.ledger import check_input
from roofkit.ogr import pyogrio
from roofkit.vectors import safe_names

POLYGONAL, COLLECTION = (3, 6), 7  # shapely's type numbers
FARTHEST = 1e12  # a coordinate beyond this is no place on Earth in any unit
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Labels:
    """The polygons of a label file, in the file's CRS."""

    path: Path
    """The file or folder that they come from."""
    roofs: gpd.GeoDataFrame
    """`id` and `geometry` (Polygon or MultiPolygon, valid, 2-D) of each feature that counts as roof."""
    ignored: gpd.GeoDataFrame
    """The same of each feature of unknown class; a feature that is roof is not among them."""
    features: int
    """Features in the file."""
    selected: int
    """Features that count as roof, those dropped included."""
    repaired: int
    """Features, roof or ignored, that were broken and are now whole."""
    dropped: tuple[str, ...]
    """Features, roof or ignored, that hold no polygon: name and reason of each."""
    unused: str | None
    """Where every polygon counts as roof although a column tells materials apart: that column and its values."""

    @property
    def crs(self) -> CRS:
        """The CRS of `roofs` and `ignored`."""
        crs: CRS = self.roofs.crs
        return crs


@dataclass(frozen=True)
class LabelBatch:
    """Some polygons of a label file, in the CRS of its stream."""

    file: str
    """What the names of its features begin with."""
    fids: NDArray[np.int64]
    shapes: NDArray[Any]
    """Polygon or MultiPolygon, valid, 2-D."""
    roof: Mask
    """Which of them count as roof; the others are of unknown class."""

    @property
    def names(self) -> list[str]:
        """The name of each feature."""
        return _names(self.file, self.fids)


@dataclass
class LabelStream:
    """The polygons of label files in batches; what it counts is known once it was gone through."""

    path: Path
    crs: CRS
    unused: str | None
    """This, and what is counted, as in `Labels`."""
    files: Sequence[VectorFile] = field(repr=False)
    roof: label_sql.Fids | None = field(repr=False)
    """The ids of the features of each file that are roofs; None: all that are not unknown."""
    unknown: label_sql.Fids | None = field(repr=False)
    """The same of those of unknown class; None: none is."""
    features: int = 0
    selected: int = 0
    ignored: int = 0
    repaired: int = 0
    dropped: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[LabelBatch]:
        """The polygons in the order of the files.

        Raises:
            BadInputError: A file is broken, or none holds a polygon that is a roof.
            SettingsError: All features are of unknown class.
        """
        self.features = self.selected = self.ignored = self.repaired = roofs = 0
        self.dropped = []
        for number, file in enumerate(self.files):
            for rows in file.rows():
                batch = self._batch(number, rows)
                roofs += int(batch.roof.sum())
                yield batch
        if not self.selected:
            found = f"selects all {self.features:,} features of {self.path}"
            raise SettingsError("mask_args.ignore", found, "some left that are roofs", "Correct the condition.")
        if not roofs:
            found = f"none of {self.selected:,} features holds a polygon (the first: {self.dropped[0]})"
            raise BadInputError(self.path, found, "polygons with an area", "Repair the file, or choose another.")

    def _batch(self, number: int, rows: Rows) -> LabelBatch:
        file, (roof, counted) = self.files[number], self._classes(number, rows.fids)
        prefix = _prefix(file, self.path)
        shapes, repaired, problem = _polygons_in_crs(np.asarray(rows.wkb)[counted], file, self.crs)
        fids, whole = rows.fids[counted], ~shapely.is_missing(shapes)
        batch = LabelBatch(prefix, fids[whole], shapes[whole], roof[counted][whole])
        self.features += len(roof)
        self.selected += int(roof.sum())
        self.ignored += int((~batch.roof).sum())
        self.repaired += int((repaired & whole).sum())
        self.dropped += _dropped(prefix, fids[~whole], problem[~whole])
        return batch

    def _classes(self, number: int, fids: NDArray[np.int64]) -> tuple[Mask, Mask]:
        """Which features are roofs, and which count at all."""
        unknown = np.zeros(len(fids), bool) if self.unknown is None else _are_in(fids, self.unknown[number])
        roof = ~unknown if self.roof is None else _are_in(fids, self.roof[number])
        return roof, roof | unknown


def open_labels(
    path: Path, *, where: str | None = None, ignore: str | None = None, layer: str | None = None
) -> LabelStream:
    """The roofs of a vector file, or of all vector files of a folder, to be gone through.

    Args:
        path: A .gpkg, .shp, .geojson, .json, .parquet or .fgb file, or a folder of them (reprojected to the CRS of
            the first; files without a feature are passed over).
        where: SQL as ogr2ogr -where takes it: which features are roofs. None: all that `ignore` does not select.
        ignore: SQL: which features are of unknown class. One that `where` selects too is a roof.
        layer: Which layer of a file of several.

    Raises:
        MissingInputError: No such file, or a folder without vector files.
        BadInputError: The file is of another kind, broken or without CRS, or not as download wrote it.
        SettingsError: The SQL is wrong, names an unknown column or selects nothing; the layer is unknown or needed.
    """
    check_input(path)
    files, crs = open_label_files(path, layer)
    unknown = None if ignore is None else label_sql.select(files, path, ignore, "mask_args.ignore")
    roof = None if where is None else label_sql.select(files, path, where, "mask_args.where")
    if where is not None and roof is not None:
        label_sql.check_some(files, path, where, roof)
    unused = label_sql.material(files) if where is None else None
    return LabelStream(path, crs, unused, files, roof, unknown)


def read_labels(path: Path, *, where: str | None = None, ignore: str | None = None, layer: str | None = None) -> Labels:
    """The roofs of a vector file, or of all vector files of a folder, at once.

    Args and errors as for `open_labels`.

    Raises:
        BadInputError: No feature that counts as roof holds a polygon, too.
    """
    stream = open_labels(path, where=where, ignore=ignore, layer=layer)
    batches = list(stream)
    names = np.array([name for batch in batches for name in batch.names], object)
    shapes, roof = (np.concatenate([getattr(batch, name) for batch in batches]) for name in ("shapes", "roof"))
    roofs, ignored = (
        gpd.GeoDataFrame({"id": names[rows]}, geometry=list(shapes[rows]), crs=stream.crs) for rows in (roof, ~roof)
    )
    counts = stream.features, stream.selected, stream.repaired
    return Labels(path, roofs, ignored, *counts, tuple(stream.dropped), stream.unused)


def read_features(path: Path, *, layer: str | None = None) -> tuple[gpd.GeoDataFrame, tuple[str, ...]]:
    """Every feature with a polygon, as `read_labels` reads and repairs it, with all its attributes.

    Columns have names that GeoPackage can hold; lists and objects are JSON.

    Returns:
        The features, and name and reason of each that holds no polygon.

    Raises:
        MissingInputError, BadInputError, SettingsError: As for `open_labels`.
    """
    files, crs = open_label_files(path, layer)
    shapes, dropped = _every_polygon(files, crs, path)
    tables = [_attributes(file) for file in files]
    table = tables[0] if path.is_file() else _joined(tables)
    columns = {safe: _plain(table[name]) for name, safe in safe_names(map(str, table.columns)).items()}
    features = gpd.GeoDataFrame(columns, geometry=list(shapes), crs=crs)
    return features[~shapely.is_missing(shapes)].reset_index(drop=True), dropped


def _attributes(file: VectorFile) -> pd.DataFrame:
    """The attributes of every feature, as pandas has them."""
    if not isinstance(file, OgrFile):
        with readable_parquet(file.path):
            table: pd.DataFrame = pq.read_table(file.path, columns=list(file.columns)).to_pandas(ignore_metadata=True)
        return table
    with readable(file.path), quiet():
        meta, fids, _, columns = pyogrio.raw.read(file.source, layer=file.layer, read_geometry=False, return_fids=True)
    found: pd.DataFrame = pd.DataFrame(dict(zip(meta["fields"], columns)), index=range(len(fids)))
    return found


def _joined(tables: list[pd.DataFrame]) -> pd.DataFrame:
    joined: pd.DataFrame = pd.concat([table.astype(object) for table in tables], ignore_index=True).infer_objects()
    return joined


def _every_polygon(files: Sequence[VectorFile], crs: CRS, path: Path) -> tuple[NDArray[Any], tuple[str, ...]]:
    """The polygon of each feature (None: there is none), and name and reason of each without."""
    parts: list[NDArray[Any]] = []
    dropped: list[str] = []
    for file in files:
        for rows in file.rows():
            shapes, _, problem = _polygons_in_crs(np.asarray(rows.wkb), file, crs)
            lost = shapely.is_missing(shapes)
            dropped += _dropped(_prefix(file, path), rows.fids[lost], problem[lost])
            parts.append(shapes)
    if not parts:
        raise BadInputError(path, "no feature at all", "roof polygons", "Choose another file, or draw some.")
    return np.concatenate(parts), tuple(dropped)


def _plain(column: Any) -> Any:
    """A column in which lists and objects are JSON text, which every format holds."""
    if column.dtype != object:
        return column
    nested = (np.ndarray, list, tuple, dict)
    values = [json.dumps(v, default=_listed, ensure_ascii=False) if isinstance(v, nested) else v for v in column]
    return pd.Series(values, column.index, dtype=object)


def _listed(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


def reproject(shapes: gpd.GeoDataFrame, crs: CRS, path: Path) -> gpd.GeoDataFrame:
    """The same shapes in another CRS; what does not exist there is left out.

    Raises:
        MismatchError: No transformation leads from one CRS to the other.
    """
    if shapes.crs == crs:
        return shapes
    there = move(shapes.geometry.to_numpy(), shapes.crs, crs, path)
    return shapes.set_geometry(gpd.GeoSeries(there, index=shapes.index, crs=crs))[~shapely.is_missing(there)]


def move(shapes: NDArray[Any], source: CRS, target: CRS, path: Path) -> NDArray[Any]:
    """The same shapes in another CRS; None where one does not exist there.

    Args:
        shapes: Two-dimensional ones.
        source: Their CRS.
        target: The other.
        path: Where they come from, for the error.

    Raises:
        MismatchError: No transformation leads from one CRS to the other.
    """
    if source == target:
        return shapes
    x, y = shapely.get_coordinates(shapes).T
    try:
        there = np.column_stack(_transformer(source, target).transform(x, y))
    except (ProjError, CRSError) as error:
        found = f"no way from {source.name} to {target.name} ({error})"
        raise MismatchError(path, found, "CRSs that lie on the Earth", "Correct the CRS of one of the two.") from None
    moved: NDArray[Any] = shapely.set_coordinates(shapes.copy(), there)
    moved[~np.isfinite(shapely.bounds(moved)).all(axis=1)] = None
    return moved


@cache
def _transformer(source: CRS, target: CRS) -> Transformer:
    return Transformer.from_crs(source, target, always_xy=True)


def polygons_of(wkb: Sequence[bytes | None] | NDArray[Any]) -> tuple[NDArray[Any], Mask, NDArray[Any]]:
    """Valid two-dimensional polygons out of whatever geometries there are.

    Returns:
        Polygons and MultiPolygons (None: there is none), whether each was broken, and why where there is none ("").
    """
    with quiet(), np.errstate(invalid="ignore"):
        shapes, torn, problem = _parse(np.asarray(wkb, object))
        broken = torn | ~(_each(shapely.is_valid, shapes, False) | shapely.is_missing(shapes))
        polygonal = np.isin(shapely.get_type_id(shapes), POLYGONAL)
        kinds = _kinds(shapes, ~polygonal)
        mend = polygonal & broken
        shapes[mend] = _each(valid_shapes, shapes[mend], None)
        _drop(shapes, problem, mend & shapely.is_missing(shapes), "a polygon that cannot be repaired")
        for i in np.flatnonzero(shapely.get_type_id(shapes) == COLLECTION):
            shapes[i], broken[i] = _polygons_in(shapes[i]), True
        _drop(shapes, problem, ~np.isin(shapely.get_type_id(shapes), POLYGONAL) & ~polygonal, kinds)
        _drop(shapes, problem, ~(shapely.area(shapes) > 0), "a polygon without area")
    return shapes, broken & ~shapely.is_missing(shapes), problem


def valid_shapes(shapes: NDArray[Any]) -> NDArray[Any]:
    """Polygons without the ways in which they cross themselves; what has no area is left out."""
    repaired: NDArray[Any] = shapely.make_valid(shapes, method="structure", keep_collapsed=False)
    return repaired


def _each(work: Callable[[NDArray[Any]], NDArray[Any]], shapes: NDArray[Any], otherwise: Any) -> NDArray[Any]:
    """What a function of arrays makes of shapes; `otherwise` of those with which GEOS cannot deal."""
    try:
        return work(shapes)
    except shapely.GEOSException:
        if len(shapes) < 2:
            return np.full(len(shapes), otherwise)
        halves = np.array_split(shapes, 2)
        return np.concatenate([_each(work, half, otherwise) for half in halves])


def _parse(raw: NDArray[Any]) -> tuple[NDArray[Any], Mask, NDArray[Any]]:
    """Two-dimensional shapes with real coordinates, which of them had open rings, and why the others are None."""
    shapes = shapely.from_wkb(raw, on_invalid="ignore")
    torn = shapely.is_missing(shapes) & np.fromiter((item is not None for item in raw), bool, len(raw))
    shapes[torn] = shapely.from_wkb(raw[torn], on_invalid="fix")  # closes rings
    problem = np.full(len(raw), "", object)
    odd = (shapely.get_coordinate_dimension(shapes) > 2) | (shapely.get_type_id(shapes) == COLLECTION)
    shapes[odd] = shapely.force_2d(shapes[odd])  # which also does away with collections of shapes with arcs
    _drop(shapes, problem, shapely.is_missing(shapes) & ~torn, "no geometry")
    _drop(shapes, problem, shapely.is_missing(shapes), "a broken ring")
    _drop(shapes, problem, shapely.is_empty(shapes), "an empty geometry")
    _drop(shapes, problem, _numberless(shapes), "coordinates that are no numbers")
    return shapes, torn, problem


def _kinds(shapes: NDArray[Any], which: Mask) -> NDArray[Any]:
    """What those shapes are, as in `a Point`."""
    kinds = np.full(len(shapes), "", object)
    kinds[which] = [f"a {getattr(shape, 'geom_type', '')}" for shape in shapes[which]]
    return kinds


def _polygons_in_crs(wkb: NDArray[Any], file: VectorFile, crs: CRS) -> tuple[NDArray[Any], Mask, NDArray[Any]]:
    """What `polygons_of` makes of the geometries of a file, in a CRS."""
    shapes, repaired, problem = polygons_of(wkb)
    moved = shapes if file.crs is None else move(shapes, file.crs, crs, file.path)
    _drop(moved, problem, shapely.is_missing(moved), f"outside {crs.name}")
    return moved, repaired, problem


def _are_in(fids: NDArray[np.int64], chosen: NDArray[np.int64]) -> Mask:
    """Which ids are among those that were chosen, which are sorted and may be many."""
    place = np.searchsorted(chosen, fids)
    found: Mask = np.zeros(len(fids), bool)
    inside = place < len(chosen)
    found[inside] = chosen[place[inside]] == fids[inside]
    return found


def _prefix(file: VectorFile, path: Path) -> str:
    """What the names of a file's features begin with."""
    return "" if path.is_file() else f"{file.path.name} "


def _names(prefix: str, fids: NDArray[np.int64]) -> list[str]:
    return [f"{prefix}feature {fid}" for fid in fids.tolist()]


def _dropped(prefix: str, fids: NDArray[np.int64], problem: NDArray[Any]) -> list[str]:
    return [f"{name} ({reason})" for name, reason in zip(_names(prefix, fids), problem)]


def _drop(shapes: NDArray[Any], problem: NDArray[Any], which: Mask, reason: Any) -> None:
    """Take shapes away, with a reason (or one for each) where none is known yet."""
    if not which.any():
        return
    new = which & (problem == "")
    problem[new] = reason[new] if isinstance(reason, np.ndarray) else reason
    shapes[which] = None


def _numberless(shapes: NDArray[Any]) -> Mask:
    """Which shapes have a coordinate that is NaN, infinite or beyond any unit on Earth."""
    coordinates, index = shapely.get_coordinates(shapes, return_index=True)
    wrong = np.zeros(len(shapes), bool)
    wrong[index[~(np.abs(coordinates) < FARTHEST).all(axis=1)]] = True
    return wrong


def _polygons_in(collection: Any) -> Any:
    """The polygons of a collection, as one valid shape; None when it has none."""
    parts = [part for part in shapely.get_parts(collection) if part.geom_type in ("Polygon", "MultiPolygon")]
    return shapely.unary_union([shapely.make_valid(part, method="structure") for part in parts]) if parts else None
