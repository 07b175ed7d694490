"""Vector files, read in batches: memory does not grow with the number of features, only GeoJSON is held whole by GDAL.

A file is opened by the one driver that its suffix stands for, after a look at its first bytes: a virtual dataset or a
service description that wears the suffix of a vector file would make GDAL read other files, or the network.
"""

import contextlib
import io
import json
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, GeometryError
from pyproj import CRS
from pyproj.exceptions import CRSError

from roofkit.errors import BadInputError, MissingInputError, SettingsError
from roofkit.geopackage import check_geopackage
from roofkit.hush import hushed
from roofkit.ogr import pyogrio
from roofkit.paths import VECTOR_SUFFIXES, check_name

DRIVERS = {
    ".gpkg": "GPKG", ".shp": "ESRI Shapefile", ".geojson": "GeoJSON", ".json": "GeoJSON", ".fgb": "FlatGeobuf",
}  # fmt: skip
FIRST_BYTES = {".gpkg": b"SQLite format 3\0", ".shp": b"\x00\x00\x27\x0a", ".fgb": b"fgb\3fgb", ".parquet": b"PAR1"}
OGR_ERRORS = (DataLayerError, DataSourceError, FeatureError, GeometryError)
STREAM_ERRORS = (*OGR_ERRORS, UnicodeDecodeError, OSError, pa.ArrowException)
PARQUET_ERRORS = (KeyError, TypeError, ValueError, OSError, pa.ArrowException)
ORDERS: tuple[Literal["little", "big"], ...] = ("little", "big")
BATCH = 65_536  # features read at once
HEADER_BYTES = 10 * 2**20  # of FlatGeobuf, as GDAL has it
MOST_COLUMNS = 5000  # attributes of a layer
CURVES = pa.array(  # WKB's numbers of shapes with arcs, which shapely does not read: 2-D, Z, M, ZM
    [(kind + more).to_bytes(4, order) for kind in range(8, 13) for more in (0, 1000, 2000, 3000) for order in ORDERS]
)


@dataclass(frozen=True)
class Rows:
    """Some features of a layer that follow each other in the file."""

    fids: NDArray[np.int64]
    wkb: NDArray[Any] | None
    """Bytes, or None where a feature has no geometry; None: geometry was not asked for."""
    columns: dict[str, Any]
    """The attributes asked for, as Arrow arrays."""


@dataclass(frozen=True)
class VectorFile(ABC):
    """A layer of a vector file, which is opened anew each time that it is read."""

    path: Path
    crs: CRS | None
    columns: tuple[str, ...]
    """The names of its attributes."""

    @abstractmethod
    def rows(self, columns: Sequence[str] = (), *, geometry: bool = True) -> Iterator[Rows]:
        """All features in the file's order, in batches.

        Raises:
            BadInputError: The file is broken or cut off.
        """

    @abstractmethod
    def types(self, columns: Sequence[str]) -> dict[str, Any]:
        """The Arrow type of each of those attributes that the file has."""

    def is_empty(self) -> bool:
        """Whether the file holds no feature."""
        return not any(len(rows.fids) for rows in self.rows(geometry=False))


@dataclass(frozen=True)
class OgrFile(VectorFile):
    """A layer of a file that GDAL reads."""

    source: str
    """What GDAL opens."""
    layer: str | None
    features: int
    """How many the file says that it holds; 0 or less: it does not say."""

    def rows(self, columns: Sequence[str] = (), *, geometry: bool = True) -> Iterator[Rows]:
        """As `VectorFile` has it."""
        count = 0
        with readable(self.path):
            for rows in self._stream(columns, geometry=geometry):
                count += len(rows.fids)
                yield rows
        if self.path.suffix.lower() == ".fgb" and 0 < self.features != count:
            raise _cut_off(self.path, f"{count:,} of {self.features:,} features")

    def select(self, sql: str, columns: Sequence[str]) -> Iterator[NDArray[np.int64]]:
        """The ids of the features that a condition holds for, in batches.

        Args:
            sql: As ogr2ogr -where takes it.
            columns: The attributes that it names; it must not name anything else.

        Raises:
            ValueError, OSError, ArrowException: The condition is wrong, or the file is broken.
        """
        for rows in self._stream(columns, geometry=False, where=sql):
            yield rows.fids

    def select_at_once(self, sql: str, columns: Sequence[str], count: int | None = None) -> NDArray[np.int64]:
        """The ids of the features that a condition holds for, or of the first few; it may name the geometry, too.

        Raises:
            DataLayerError, DataSourceError, FeatureError, GeometryError, ValueError: The condition is wrong.
        """
        options: dict[str, Any] = dict(layer=self.layer, columns=self._own(columns), where=sql, max_features=count)
        with quiet():
            _, fids, _, _ = pyogrio.raw.read(self.source, force_2d=True, return_fids=True, **options)
        found: NDArray[np.int64] = fids
        return found

    def types(self, columns: Sequence[str]) -> dict[str, Any]:
        """As `VectorFile` has it."""
        options = dict(layer=self.layer, columns=self._own(columns), return_fids=True, use_pyarrow=True)
        with readable(self.path), quiet(), pyogrio.raw.open_arrow(self.source, **options) as (_, reader):
            return dict(zip(reader.schema.names[1:-1], reader.schema.types[1:-1]))  # without id and geometry

    def is_empty(self) -> bool:
        """As `VectorFile` has it."""
        return self.features <= 0 and super().is_empty()

    def _own(self, columns: Sequence[str]) -> list[str]:
        return [name for name in columns if name in self.columns]

    def _stream(self, columns: Sequence[str], *, geometry: bool, where: str | None = None) -> Iterator[Rows]:
        options = dict(
            layer=self.layer, columns=self._own(columns), read_geometry=geometry, where=where, return_fids=True,
            batch_size=BATCH, use_pyarrow=True,
        )  # fmt: skip
        with contextlib.ExitStack() as stack:
            with quiet():
                _, reader = stack.enter_context(pyogrio.raw.open_arrow(self.source, **options))
            while batch := _next(reader):
                fids, *values = batch.columns  # by place: an attribute may be called as the others are
                wkb = self._linear(_plain(values.pop()), fids.to_numpy()) if geometry else None
                yield Rows(fids.to_numpy(), wkb, dict(zip(batch.schema.names[1:], values)))

    def _linear(self, geometries: Any, fids: NDArray[np.int64]) -> NDArray[Any]:
        """A column of WKB as bytes, arcs as lines."""
        wkb, curved = _objects(geometries), _is_curved(geometries)
        if curved.any():
            wanted = fids[curved]
            with quiet():
                options: dict[str, Any] = dict(
                    layer=self.layer, columns=[], fids=wanted, return_fids=True, force_2d=True
                )
                _, found, straight, _ = pyogrio.raw.read(self.source, **options)
            by_fid = dict(zip(found.tolist(), straight))
            wkb[curved] = [by_fid[fid] for fid in wanted.tolist()]
        return wkb


@dataclass(frozen=True)
class ParquetFile(VectorFile):
    """A GeoParquet file; its feature ids are row numbers."""

    geometry: str
    """The name of the geometry column."""
    is_wkb: bool

    def rows(self, columns: Sequence[str] = (), *, geometry: bool = True) -> Iterator[Rows]:
        """As `VectorFile` has it."""
        names, first = [name for name in columns if name in self.columns], 0
        with readable_parquet(self.path), pq.ParquetFile(self.path, pre_buffer=False) as file:
            wanted = [*names, self.geometry] if geometry else names
            batches = file.iter_batches(BATCH, columns=wanted) if wanted else _counted(file.metadata.num_rows)
            for batch in batches:
                wkb = self._wkb(batch) if geometry else None
                fids = np.arange(first, first := first + batch.num_rows)
                yield Rows(fids, wkb, {name: batch.column(name) for name in names})

    def types(self, columns: Sequence[str]) -> dict[str, Any]:
        """As `VectorFile` has it."""
        schema = pq.read_schema(self.path)
        return {name: schema.field(name).type for name in columns if name in self.columns}

    def _wkb(self, batch: Any) -> NDArray[Any]:
        if self.is_wkb:
            wkb, curved = _objects(batch.column(self.geometry)), _is_curved(_plain(batch.column(self.geometry)))
            wkb[curved] = None
            return wkb
        import geopandas as gpd  # which knows GeoParquet's other encodings, but reads files only whole

        with io.BytesIO() as buffer:
            pq.write_table(pa.Table.from_batches([batch]).select([self.geometry]), buffer)
            wkb = gpd.read_parquet(buffer).geometry.to_wkb()
        return np.asarray(wkb, object)


def open_label_files(path: Path, layer: str | None) -> tuple[list[VectorFile], CRS]:
    """The file itself, or the vector files of a folder, without those that hold no feature; the CRS of the first.

    Raises:
        MissingInputError: There is none.
        BadInputError: One is of another kind, broken, without CRS, or all are empty.
        SettingsError: The layer is unknown or needed.
    """
    full = [file for file in (open_label_file(one, layer) for one in label_files(path)) if not file.is_empty()]
    if not full:
        raise BadInputError(path, "no feature at all", "roof polygons", "Choose another file, or draw some.")
    known = [file.crs for file in full if file.crs is not None]
    if len(known) < len(full):
        bare = next(file.path for file in full if file.crs is None)
        advice = "Put its .prj beside it." if bare.suffix.lower() == ".shp" else "Assign it (ogr2ogr -a_srs)."
        raise BadInputError(bare, "no CRS", "labels that say where they lie", advice)
    return full, known[0]


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


def open_label_file(path: Path, layer: str | None) -> VectorFile:
    """One vector file, looked at but not read.

    Raises:
        BadInputError: It is of another kind, broken, or without geometry.
        SettingsError: The layer is unknown or needed.
    """
    check_name(path)
    _sniff(path)
    return _open_parquet(path) if path.suffix.lower() == ".parquet" else _open_ogr(path, layer)


def _open_ogr(path: Path, layer: str | None) -> OgrFile:
    driver = DRIVERS[path.suffix.lower()]
    if driver == "GPKG":
        check_geopackage(path)
    source = gdal_name(path) if driver != "GeoJSON" else f"GeoJSON:{gdal_name(path)}"
    with readable(path), quiet():
        layer = _layer(path, source, layer)
        try:
            info = pyogrio.read_info(source, layer=layer)
        except IndexError:  # of pyogrio, which looks for the first layer
            raise BadInputError(path, "no layer at all", f"{driver} polygons", "Replace or remove it.") from None
        except UnboundLocalError:  # of pyogrio, which then has no name for the CRS
            raise BadInputError(path, "a broken CRS", "a CRS that PROJ knows", "Assign it anew.") from None
    if info["driver"] != driver or info["geometry_type"] is None:
        found = f"a {info['driver']} file" if info["driver"] != driver else "a table without geometry"
        raise BadInputError(path, found, f"{driver} polygons", "Choose another file.")
    if len(info["fields"]) > MOST_COLUMNS:
        found = f"{len(info['fields']):,} attributes"
        raise BadInputError(path, found, f"at most {MOST_COLUMNS:,}", "Leave some out (ogr2ogr -select).")
    return OgrFile(path, _crs(info["crs"], path), tuple(info["fields"]), source, layer, info["features"])


def gdal_name(path: Path) -> str:
    """The absolute path as pyogrio takes it.

    Raises:
        BadInputError: It holds a `!`, where pyogrio would cut it: another file would be opened.
    """
    name = str(path.resolve())
    if "!" in name:
        raise BadInputError(path, "a path with '!'", "a path without", "Rename the file or folder.")
    return name


def _open_parquet(path: Path) -> ParquetFile:
    with readable_parquet(path):
        schema = pq.read_schema(path)
        geo = json.loads((schema.metadata or {})[b"geo"])
        name = geo["primary_column"]
        facts, encoding = geo["columns"][name], geo["columns"][name]["encoding"]
        if name not in schema.names:
            raise KeyError(name)
    columns = tuple(column for column in schema.names if column not in geo["columns"])
    return ParquetFile(path, _crs(facts.get("crs", "OGC:CRS84"), path), columns, name, encoding == "WKB")


def _crs(crs: Any, path: Path) -> CRS | None:
    try:
        return None if crs is None else CRS.from_user_input(crs).to_2d()
    except CRSError as error:
        raise BadInputError(path, f"an unknown CRS ({error})", "a CRS that PROJ knows", "Assign it anew.") from None


def _sniff(path: Path) -> None:
    """Raise unless the file begins as its suffix says; its header, too, where a driver of text could be taken in."""
    with path.open("rb") as file:
        head = file.read(64)
    kind = path.suffix.lower()
    start = FIRST_BYTES.get(kind)
    fits = head.startswith(start) if start else head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{")
    if not fits:
        found = f"begins with {head[:16]!r}" if head else "0 bytes"
        raise BadInputError(path, found, f"the content of a {kind} file", "Replace or remove it.")
    if kind == ".fgb" and (len(head) < 12 or struct.unpack("<I", head[8:12])[0] > HEADER_BYTES):
        raise BadInputError(path, "no header", "the content of a .fgb file", "Replace or remove it.")
    if kind == ".shp":
        length = 2 * struct.unpack(">i", head[24:28])[0] if len(head) >= 28 else 100
        if path.stat().st_size < length:
            raise _cut_off(path, f"{path.stat().st_size:,} of {length:,} bytes")


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


def _cut_off(path: Path, found: str) -> BadInputError:
    return BadInputError(path, f"{found}, cut off", "a whole file", "Fetch it again.")


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what GDAL says of a broken file into a BadInputError."""
    try:
        yield
    except STREAM_ERRORS as error:
        driver = DRIVERS[path.suffix.lower()]
        raise BadInputError(path, f"not readable ({error})", f"a {driver} file", "Replace or remove it.") from None


@contextlib.contextmanager
def readable_parquet(path: Path) -> Iterator[None]:
    """Turn what pyarrow says of a broken file into a BadInputError."""
    try:
        yield
    except PARQUET_ERRORS as error:
        found = f"not readable as GeoParquet ({type(error).__name__}: {error})"
        raise BadInputError(path, found, "a GeoParquet file", "Replace or convert it.") from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without GDAL's remarks on what the reader of labels repairs and names itself."""
    with hushed(Warning):
        yield


def _is_curved(geometries: Any) -> NDArray[np.bool_]:
    """Which geometries of a column of WKB have arcs, to go by their first bytes."""
    curved: NDArray[np.bool_] = pc.is_in(pc.binary_slice(geometries, 1, 5), CURVES).to_numpy(zero_copy_only=False)
    return curved


def _next(reader: Any) -> Any:
    """The next batch that is not empty; None: there is none."""
    with quiet():
        return next((batch for batch in reader if batch.num_rows), None)


def _counted(rows: int) -> Iterator[Any]:
    """Batches without a column."""
    for first in range(0, rows, BATCH):
        yield pa.RecordBatch.from_struct_array(pa.nulls(min(BATCH, rows - first), pa.struct([])))


def _plain(column: Any) -> Any:
    """A column without GeoArrow's types, where somebody registered them."""
    return getattr(column, "storage", column)


def _objects(column: Any) -> NDArray[Any]:
    """A column of WKB as an array of bytes."""
    return np.asarray(_plain(column).to_numpy(zero_copy_only=False), object)
