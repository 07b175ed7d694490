"""Roof polygons in: read, selected by SQL, repaired where broken, and named where beyond repair.

A file is opened by the one driver that its suffix stands for, after a look at its first bytes: a virtual dataset or a
service description that wears the suffix of a vector file would make GDAL read other files, or the network.
"""

import contextlib
import difflib
import io
import json
import re
import struct
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import shapely
from numpy.typing import NDArray
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, GeometryError
from pyproj import CRS
from pyproj.exceptions import CRSError, ProjError

from roofkit.errors import BadInputError, MismatchError, MissingInputError, RoofError, SettingsError
from roofkit.paths import VECTOR_SUFFIXES
from roofkit.vectors import safe_names

DRIVERS = {
    ".gpkg": "GPKG", ".shp": "ESRI Shapefile", ".geojson": "GeoJSON", ".json": "GeoJSON", ".fgb": "FlatGeobuf",
}  # fmt: skip
FIRST_BYTES = {".gpkg": b"SQLite format 3\0", ".shp": b"\x00\x00\x27\x0a", ".fgb": b"fgb", ".parquet": b"PAR1"}
OGR_ERRORS = (DataLayerError, DataSourceError, FeatureError, GeometryError)
OGR_NAMES = ("fid", "ogr_geometry", "ogr_style", "ogr_geom_wkt", "ogr_geom_area")
SQL_WORDS = re.compile(
    "all|and|as|between|case|cast|collate|else|end|escape|exists|false|glob|ilike|in|is|like|match|not|null|or|regexp|"
    "similar|then|true|when",
    re.IGNORECASE,
)
POLYGONAL, COLLECTION = (3, 6), 7  # shapely's type numbers
MATERIAL = re.compile("material|roof_?(type|cover|mat)|cladding", re.IGNORECASE)
FARTHEST = 1e12  # a coordinate beyond this is no place on Earth in any unit
SHOWN = 8  # names or values that an error lists
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
class _Table:
    """One layer: a row for each feature."""

    path: Path
    source: str | None
    """What GDAL opens; None: `attributes` are searched in memory."""
    layer: str | None
    attributes: pd.DataFrame
    shapes: gpd.GeoDataFrame
    """id, fid, geometry (None: dropped), repaired, problem (why dropped)."""


def read_labels(path: Path, *, where: str | None = None, ignore: str | None = None, layer: str | None = None) -> Labels:
    """The roofs of a vector file, or of all vector files of a folder.

    Args:
        path: A .gpkg, .shp, .geojson, .json, .parquet or .fgb file, or a folder of them (reprojected to the CRS of
            the first; files without a feature are passed over).
        where: SQL as ogr2ogr -where takes it: which features are roofs. None: all that `ignore` does not select.
        ignore: SQL: which features are of unknown class. One that `where` selects too is a roof.
        layer: Which layer of a file of several.

    Raises:
        MissingInputError: No such file, or a folder without vector files.
        BadInputError: The file is of another kind, broken, without CRS, or holds no polygon.
        SettingsError: The SQL is wrong, names an unknown column or selects nothing; the layer is unknown or needed.
    """
    table = _read(path, layer)
    roof, unknown = _classes(table, where, ignore)
    counted = roof | unknown
    shapes = table.shapes
    whole = shapes.geometry.notna().to_numpy()
    lost = shapes[counted & ~whole]
    if not (roof & whole).any():
        found = f"none of {roof.sum():,} features holds a polygon (the first: {_dropped(lost)[0]})"
        raise BadInputError(path, found, "polygons with an area", "Repair the file, or choose another.")
    return Labels(
        path=path,
        roofs=_rows(shapes, roof & whole),
        ignored=_rows(shapes, unknown & whole),
        features=len(shapes),
        selected=int(roof.sum()),
        repaired=int((shapes["repaired"].to_numpy() & counted & whole).sum()),
        dropped=_dropped(lost),
        unused=_material(table) if where is None else None,
    )


def read_features(path: Path, *, layer: str | None = None) -> tuple[gpd.GeoDataFrame, tuple[str, ...]]:
    """Every feature with a polygon, as `read_labels` reads and repairs it, with all its attributes.

    Columns have names that GeoPackage can hold; lists and objects are JSON.

    Returns:
        The features, and name and reason of each that holds no polygon.

    Raises:
        MissingInputError, BadInputError, SettingsError: As for `read_labels`.
    """
    table = _read(path, layer)
    names = safe_names(str(name) for name in table.attributes.columns)
    columns = {safe: _plain(table.attributes[name]) for name, safe in names.items()}
    whole = table.shapes.geometry.notna()
    features = gpd.GeoDataFrame(columns, geometry=table.shapes.geometry.to_numpy(), crs=table.shapes.crs)
    return features[whole].reset_index(drop=True), _dropped(table.shapes[~whole])


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
    try:
        moved = shapes.to_crs(crs)
    except (ProjError, CRSError) as error:
        found = f"no way from {shapes.crs.name} to {crs.name} ({error})"
        raise MismatchError(path, found, "CRSs that lie on the Earth", "Correct the CRS of one of the two.") from None
    return moved[np.isfinite(moved.geometry.bounds.to_numpy()).all(axis=1)]


def polygons_of(wkb: Sequence[bytes | None] | NDArray[Any]) -> tuple[NDArray[Any], Mask, NDArray[Any]]:
    """Valid two-dimensional polygons out of whatever geometries there are.

    Returns:
        Polygons and MultiPolygons (None: there is none), whether each was broken, and why where there is none ("").
    """
    with _quiet(), np.errstate(invalid="ignore"):
        shapes, torn, problem = _parse(np.asarray(wkb, object))
        kinds = np.array([f"a {getattr(shape, 'geom_type', '')}" for shape in shapes], object)
        broken = torn | ~(shapely.is_valid(shapes) | shapely.is_missing(shapes))
        polygonal = np.isin(shapely.get_type_id(shapes), POLYGONAL)
        mend = polygonal & broken
        shapes[mend] = shapely.make_valid(shapes[mend], method="structure", keep_collapsed=False)
        for i in np.flatnonzero(shapely.get_type_id(shapes) == COLLECTION):
            shapes[i], broken[i] = _polygons_in(shapes[i]), True
        _drop(shapes, problem, ~np.isin(shapely.get_type_id(shapes), POLYGONAL) & ~polygonal, kinds)
        _drop(shapes, problem, ~(shapely.area(shapes) > 0), "a polygon without area")
    return shapes, broken & ~shapely.is_missing(shapes), problem


def _parse(raw: NDArray[Any]) -> tuple[NDArray[Any], Mask, NDArray[Any]]:
    """Two-dimensional shapes with real coordinates, which of them had open rings, and why the others are None."""
    shapes = shapely.from_wkb(raw, on_invalid="ignore")
    torn = shapely.is_missing(shapes) & np.fromiter((item is not None for item in raw), bool, len(raw))
    shapes[torn] = shapely.from_wkb(raw[torn], on_invalid="fix")  # closes rings
    shapes, problem = shapely.force_2d(shapes), np.full(len(raw), "", object)
    _drop(shapes, problem, shapely.is_missing(shapes) & ~torn, "no geometry")
    _drop(shapes, problem, shapely.is_missing(shapes), "a broken ring")
    _drop(shapes, problem, shapely.is_empty(shapes), "an empty geometry")
    _drop(shapes, problem, _numberless(shapes), "coordinates that are no numbers")
    return shapes, torn, problem


def names_in(sql: str) -> tuple[list[str], list[str]]:
    """Names in double quotes, and bare words that are neither SQL's own nor functions, of a condition."""
    rest = re.sub(r"'(?:[^']|'')*'", " ", sql)
    quoted = [name.replace('""', '"') for name in re.findall(r'"((?:[^"]|"")*)"', rest)]
    rest = re.sub(r'"(?:[^"]|"")*"', " ", rest)
    bare = [word for word in re.findall(r"\b[^\W\d]\w*\b(?!\s*\()", rest) if not SQL_WORDS.fullmatch(word)]
    return quoted, bare


def label_files(path: Path) -> list[Path]:
    """The file itself, or the vector files of a folder, sorted by name.

    Raises:
        MissingInputError: There is none.
        BadInputError: The file's suffix is not one of a vector file.
    """
    kinds = " ".join(VECTOR_SUFFIXES)
    if path.is_file():
        if path.suffix.lower() not in VECTOR_SUFFIXES:
            raise BadInputError(path, f"a {path.suffix or 'nameless'} file", f"one of {kinds}", "Convert it (ogr2ogr).")
        return [path]
    if not path.is_dir():
        raise MissingInputError(path, "no such file or folder", "roof polygons", "Check its name.")
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in VECTOR_SUFFIXES and not p.name.startswith("."))
    if not found:
        raise MissingInputError(path, "no roof polygons", f"files of {kinds}", "Put your polygons there.")
    return found


def _read(path: Path, layer: str | None) -> _Table:
    tables = [_read_file(file, layer) for file in label_files(path)]
    full = [table for table in tables if len(table.shapes)]
    if not full:
        raise BadInputError(path, "no feature at all", "roof polygons", "Choose another file, or draw some.")
    for table in full:
        if table.shapes.crs is None:
            advice = "Put its .prj beside it." if table.path.suffix.lower() == ".shp" else "Assign it (ogr2ogr -a_srs)."
            raise BadInputError(table.path, "no CRS", "labels that say where they lie", advice)
    return full[0] if len(full) == 1 and path.is_file() else _join(full, path)


def _join(tables: list[_Table], path: Path) -> _Table:
    """The tables as one, in the CRS of the first."""
    crs = tables[0].shapes.crs
    moved = [table if table.shapes.crs == crs else _moved(table, crs) for table in tables]
    shapes = [t.shapes.assign(id=[f"{t.path.name} {name}" for name in t.shapes["id"]]) for t in moved]
    attributes = pd.concat([t.attributes.astype(object) for t in moved], ignore_index=True).infer_objects()
    return _Table(path, None, None, attributes, gpd.GeoDataFrame(pd.concat(shapes, ignore_index=True), crs=crs))


def _moved(table: _Table, crs: CRS) -> _Table:
    moved = reproject(table.shapes, crs, table.path)
    geometry = moved.geometry.reindex(table.shapes.index)
    lost = geometry.isna().to_numpy() & table.shapes.geometry.notna().to_numpy()
    problem = np.where(lost, f"outside {crs.name}", table.shapes["problem"])
    shapes = gpd.GeoDataFrame(table.shapes.assign(problem=problem).drop(columns="geometry"), geometry=geometry, crs=crs)
    return replace(table, shapes=shapes)


def _read_file(path: Path, layer: str | None) -> _Table:
    _sniff(path)
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path)
    driver = DRIVERS[path.suffix.lower()]
    source = f"GeoJSON:{path.resolve()}" if driver == "GeoJSON" else str(path.resolve())
    try:
        with _quiet():
            layer = _layer(path, source, layer)
            meta, fids, wkb, columns = pyogrio.raw.read(source, layer=layer, force_2d=True, return_fids=True)
            info = pyogrio.read_info(source, layer=layer)
    except (*OGR_ERRORS, UnicodeDecodeError) as error:
        raise BadInputError(path, f"not readable ({error})", f"a {driver} file", "Replace or remove it.") from None
    if info["driver"] != driver or wkb is None:
        found = "a table without geometry" if wkb is None else f"a {info['driver']} file"
        raise BadInputError(path, found, f"{driver} polygons", "Choose another file.")
    if driver == "FlatGeobuf" and len(fids) != info["features"]:
        found = f"{len(fids):,} of {info['features']:,} features, cut off"
        raise BadInputError(path, found, "a whole file", "Fetch it again.")
    attributes = pd.DataFrame(dict(zip(meta["fields"], columns)), index=range(len(fids)))
    return _Table(path, source, layer, attributes, _shapes(wkb, fids, meta["crs"], path))


def _read_parquet(path: Path) -> _Table:
    try:
        table = pq.read_table(path)
        geo = json.loads((table.schema.metadata or {})[b"geo"])
        name = geo["primary_column"]
        facts = geo["columns"][name]
        if facts["encoding"] == "WKB":
            wkb = table[name].to_pylist()
        else:
            wkb = gpd.read_parquet(path, columns=[name]).geometry.to_wkb().tolist()
    except (KeyError, TypeError, ValueError, OSError, pa.ArrowException) as error:
        found = f"not readable as GeoParquet ({type(error).__name__}: {error})"
        raise BadInputError(path, found, "a GeoParquet file", "Replace or convert it.") from None
    attributes = table.drop_columns([column for column in geo["columns"] if column in table.column_names])
    crs = facts.get("crs", "OGC:CRS84")
    rows = _shapes(wkb, np.arange(len(wkb)), crs, path)
    return _Table(path, None, None, attributes.to_pandas(ignore_metadata=True), rows)


def _shapes(wkb: Any, fids: NDArray[Any], crs: Any, path: Path) -> gpd.GeoDataFrame:
    shapes, repaired, problem = polygons_of(wkb)
    rows = dict(id=[f"feature {fid}" for fid in fids], fid=fids, repaired=repaired, problem=problem)
    try:
        known = None if crs is None else CRS.from_user_input(crs).to_2d()
    except CRSError as error:
        raise BadInputError(path, f"an unknown CRS ({error})", "a CRS that PROJ knows", "Assign it anew.") from None
    return gpd.GeoDataFrame(rows, geometry=list(shapes), crs=known)


def _sniff(path: Path) -> None:
    """Raise unless the file begins as its suffix says, and a shapefile is as long as it says."""
    with path.open("rb") as file:
        head = file.read(64)
    kind = path.suffix.lower()
    start = FIRST_BYTES.get(kind)
    fits = head.startswith(start) if start else head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{")
    if not fits:
        found = f"begins with {head[:16]!r}" if head else "0 bytes"
        raise BadInputError(path, found, f"the content of a {kind} file", "Replace or remove it.")
    if kind == ".shp":
        length = 2 * struct.unpack(">i", head[24:28])[0] if len(head) >= 28 else 100
        if path.stat().st_size < length:
            found = f"{path.stat().st_size:,} of {length:,} bytes, cut off"
            raise BadInputError(path, found, "a whole file", "Fetch it again.")


def _layer(path: Path, source: str, layer: str | None) -> str | None:
    """The layer to read: the one asked for, or the only one."""
    if layer is None and path.suffix.lower() != ".gpkg":
        return None
    names = [str(name) for name, kind in pyogrio.list_layers(source) if kind is not None]
    if layer in names or (layer is None and len(names) == 1):
        return layer or names[0]
    if not names:
        raise BadInputError(path, "no layer with geometry", "a layer of polygons", "Choose another file.")
    found = f"no layer {layer!r}" if layer else f"{len(names)} layers"
    advice = "Name it with --layer, or in mask_args.layer."
    raise SettingsError(path, found, f"one of the layers {', '.join(map(repr, names[:50]))}", advice)


def _classes(table: _Table, where: str | None, ignore: str | None) -> tuple[Mask, Mask]:
    """Which rows are roofs, and which are of unknown class."""
    unknown = np.zeros(len(table.shapes), bool) if ignore is None else _select(table, ignore, "mask_args.ignore")
    if where is None:
        return ~unknown, unknown
    roof = _select(table, where, "mask_args.where")
    if not roof.any():
        columns = [_column(table, name) for part in names_in(where) for name in part]
        held = "; ".join(_values(table, column) for column in dict.fromkeys(columns) if column)
        found = f"{where} selects none of {len(roof):,} features of {table.path}"
        expected = "a condition that holds for some" + (f" ({held})" if held else "")
        raise SettingsError("mask_args.where", found, expected, "Correct the condition.")
    return roof, unknown & ~roof


def _select(table: _Table, sql: str, setting: str) -> Mask:
    """Which rows a condition holds for."""
    quoted, bare = names_in(sql)
    for name in quoted:
        if _column(table, name) is None:  # a GeoPackage would take it for a text and select nothing
            raise _unknown_column(table, sql, name, setting)
    named = [column for column in (_column(table, name) for name in quoted + bare) if column]
    columns = [column for column in dict.fromkeys(named) if column in table.attributes.columns]
    source = _in_memory(table, columns) if table.source is None else table.source
    try:
        with _quiet():
            _, fids, _, _ = pyogrio.raw.read(
                source, layer=table.layer, where=sql, columns=columns, force_2d=True, return_fids=True
            )
    except (*OGR_ERRORS, ValueError) as error:
        unknown = next((name for name in bare if _column(table, name) is None), None)
        raise _unknown_column(table, sql, unknown, setting) if unknown else _wrong_sql(sql, error, setting) from None
    rows = np.arange(len(table.shapes)) if table.source is None else table.shapes["fid"].to_numpy()
    return np.isin(rows, fids)


def _in_memory(table: _Table, columns: list[str]) -> bytes:
    """The named columns as a file without geometry, so that GDAL's SQL can search them; feature ids count rows."""
    plain = table.attributes[columns].copy()
    for name in columns:
        if plain[name].dtype == object:
            plain[name] = [None if _is_missing(value) else str(value) for value in plain[name]]
    buffer = io.BytesIO()
    with _quiet():
        rows = plain if columns else plain.assign(row=range(len(plain)))
        pyogrio.write_dataframe(rows, buffer, driver="FlatGeobuf", layer="labels", SPATIAL_INDEX="NO")
    return buffer.getvalue()


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or value != value


def _column(table: _Table, name: str) -> str | None:
    """The column that a name in SQL means: case does not count."""
    known = {column.lower(): column for column in (*OGR_NAMES, "geom", "geometry", *table.attributes.columns)}
    return known.get(name.lower())


def _unknown_column(table: _Table, sql: str, name: str, setting: str) -> RoofError:
    columns = [str(column) for column in table.attributes.columns]
    if not columns:
        return SettingsError(setting, f"{sql} names {name}", f"no name: {table.path} has no column", "Use null.")
    meant = [column for column in columns if column.lower() in sql.lower()]  # a:b without quotes reads as a
    nearest = difflib.get_close_matches(name, meant or columns, n=1, cutoff=0.0)[0]
    listed = ", ".join(f'"{column}"' for column in columns[:40]) + (", …" if len(columns) > 40 else "")
    advice = "Write names in double quotes and values in single quotes."
    return SettingsError(
        setting, f'{sql}: no column "{name}" in {table.path}', f'one of {listed} (the nearest: "{nearest}")', advice
    )


def _wrong_sql(sql: str, error: Exception, setting: str) -> RoofError:
    advice = "Write names in double quotes and values in single quotes."
    expected = "a condition as in \"roof:material\" IN ('tin','metal')"
    return SettingsError(setting, f"{sql} is not SQL that GDAL knows ({error})", expected, advice)


def _values(table: _Table, column: str) -> str:
    """A column's most frequent values, with how often each occurs."""
    if column not in table.attributes.columns:
        return ""
    counts = table.attributes[column].astype(str).where(table.attributes[column].notna(), "NULL").value_counts()
    shown = ", ".join(f"{value} ({count:,})" for value, count in counts.head(SHOWN).items())
    more = f", {len(counts) - SHOWN} more" if len(counts) > SHOWN else ""
    return f'"{column}" holds {shown}{more}'


def _material(table: _Table) -> str | None:
    """The first text column that tells materials apart, with its values."""
    for name, column in table.attributes.items():
        is_text = any(isinstance(value, str) for value in column)
        if MATERIAL.search(str(name)) and is_text and column.astype(str).nunique() > 1:
            return _values(table, str(name))
    return None


def _rows(shapes: gpd.GeoDataFrame, which: Mask) -> gpd.GeoDataFrame:
    return shapes.loc[which, ["id", "geometry"]].reset_index(drop=True)


def _dropped(shapes: gpd.GeoDataFrame) -> tuple[str, ...]:
    return tuple(f"{name} ({problem})" for name, problem in zip(shapes["id"], shapes["problem"]))


def _drop(shapes: NDArray[Any], problem: NDArray[Any], which: Mask, reason: Any) -> None:
    """Take shapes away, with a reason (or one for each) where none is known yet."""
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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without GDAL's remarks on what this module repairs and names itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
