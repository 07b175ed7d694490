"""Vector files out: complete or not at all, the same bytes for the same features."""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from roofkit.artifacts import committed
from roofkit.errors import OutputError, SettingsError
from roofkit.ogr import pyogrio

if TYPE_CHECKING:
    import geopandas as gpd
    import pyarrow as pa

DRIVERS = {".gpkg": "GPKG", ".geojson": "GeoJSON", ".fgb": "FlatGeobuf", ".parquet": "Parquet"}
GROUP = 10_000  # rows of a Parquet file that are written together
RESERVED = ("fid", "geom", "geometry", "rowid")  # columns that GeoPackage has of its own
WRITING = {
    "OGR_CURRENT_DATE": "2000-01-01T00:00:00.000Z",  # GeoPackage stores the time of writing; a fixed one: equal bytes
    "OGR_GPKG_ALLOW_THREADED_RTREE": "NO",  # else GDAL leaves an empty database of its index beside a large file
}


def check_suffix(path: Path) -> None:
    """Raise SettingsError when features cannot be written to a file of that suffix."""
    if path.suffix.lower() not in DRIVERS:
        found = f"a {path.suffix or 'nameless'} file"
        raise SettingsError(path, found, f"one of {' '.join(DRIVERS)}", "Choose one of these suffixes.")
    if "!" in str(path.resolve()):  # where pyogrio would cut it, and write to another place
        raise SettingsError(path, "a path with '!'", "a path without", "Rename the file or folder.")


def safe_names(names: Iterable[str], reserved: Iterable[str] = RESERVED) -> dict[str, str]:
    """For each name a column name of its own, whatever the case of letters: GeoPackage and shapefiles know no case."""
    taken, safe = set(reserved), {}
    for name in names:
        found, number = name, 2
        while found.lower() in taken:
            found, number = f"{name}_{number}", number + 1
        taken.add(found.lower())
        safe[name] = found
    return safe


def write_features(path: Path, features: "gpd.GeoDataFrame") -> None:
    """Write a GeoDataFrame by its suffix; GeoJSON is written in EPSG:4326, as RFC 7946 asks.

    Args:
        path: The file. Its layer has its name.
        features: What to write.

    Raises:
        SettingsError: A suffix that is not in `DRIVERS`.
        OutputError: The disk is full, the folder not writable, or the file does not read back with all features.
    """
    with _written(path, lambda: len(features)) as (part, driver):
        if driver == "Parquet":
            _write_parquet(part, features)
            return
        if driver == "GeoJSON" and features.crs is not None:
            features = features.to_crs("EPSG:4326")
        several = bool((features.geom_type == "MultiPolygon").any())  # a layer holds one kind: all become it
        kind = {} if driver == "GeoJSON" else {"geometry_type": "MultiPolygon" if several else "Polygon"}
        pyogrio.write_dataframe(features, part, driver=driver, layer=path.stem, **kind, **_options(driver))


def write_batches(
    path: Path, batches: "Iterable[pa.RecordBatch]", schema: "pa.Schema", crs: Any, *, key: str, style: str
) -> None:
    """Write polygons that nobody holds all at once, as `write_features` does.

    Args:
        path: The file. Its layer has its name.
        batches: What to write; the column "geometry" holds polygons as WKB.
        schema: Their columns.
        crs: Theirs, in any form that pyproj knows.
        key: The column that tells features apart: in GeoJSON their id.
        style: How QGIS is to draw a GeoPackage of them, as QML.

    Raises:
        SettingsError, OutputError: As for `write_features`.
        BaseException: What taking the batches raises.
    """
    import pyarrow as pa
    import pyproj

    counted = _Counted(batches)
    with counted.errors(), _written(path, lambda: counted.count) as (part, driver):
        if driver == "Parquet":
            _write_parquet_batches(part, counted, schema, crs)
            return
        reader = pa.RecordBatchReader.from_batches(schema, counted)
        place = pyproj.CRS.from_user_input(crs)
        epsg = place.to_epsg()
        pyogrio.raw.write_arrow(
            reader, part, driver=driver, layer=path.stem, geometry_name="geometry", geometry_type="Polygon",
            crs=f"EPSG:{epsg}" if epsg else place.to_wkt("WKT1_GDAL"), **_options(driver, key),
        )  # fmt: skip
        if driver == "GPKG":
            _write_style(part, path.stem, style)


class _Counted:
    """Batches, the number of rows that were asked for, and the error that ended them, which GDAL would replace."""

    def __init__(self, batches: "Iterable[pa.RecordBatch]") -> None:
        self.count = 0
        self._batches = batches
        self._error: BaseException | None = None

    def __iter__(self) -> "Iterator[pa.RecordBatch]":
        try:
            for batch in self._batches:
                self.count += len(batch)
                yield batch
        except BaseException as error:
            self._error = error
            raise

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Raise what ended the batches, if anything did, instead of what came of it."""
        try:
            yield
        except BaseException:
            if self._error is None:
                raise
            raise self._error from None


@contextlib.contextmanager
def _written(path: Path, count: Callable[[], int]) -> Iterator[tuple[Path, str]]:
    """A path at which a driver is to write that many features, and the driver; what fails becomes an OutputError."""
    from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, FieldError, GeometryError

    check_suffix(path)
    driver = DRIVERS[path.suffix.lower()]
    with committed(path) as part:
        try:
            pyogrio.set_gdal_config_options(WRITING)
            yield part, driver
            if driver == "Parquet":
                return
            found = pyogrio.read_info(part, layer=0, force_feature_count=True)["features"]
        except (DataLayerError, DataSourceError, FeatureError, FieldError, GeometryError) as error:
            raise _not_written(path, str(error)) from error
        finally:
            pyogrio.set_gdal_config_options(dict.fromkeys(WRITING))
        if found != count():
            raise _not_written(path, f"{found} of {count()} features came back")


def _write_parquet(path: Path, features: "gpd.GeoDataFrame") -> None:
    features.to_parquet(path, compression="zstd", write_covering_bbox=True)


def _write_parquet_batches(path: Path, batches: "Iterable[pa.RecordBatch]", schema: "pa.Schema", crs: Any) -> None:
    """GeoParquet 1.1 with a box for each polygon, as geopandas writes it."""
    import pyarrow as pa
    import pyarrow.parquet
    import pyproj

    sides = ("xmin", "ymin", "xmax", "ymax")
    boxed = schema.append(pa.field("bbox", pa.struct([(side, pa.float64()) for side in sides])))
    lowest, highest = np.full(2, np.inf), np.full(2, -np.inf)
    with pa.parquet.ParquetWriter(path, boxed, compression="zstd", store_schema=False) as writer:
        for some in _in_groups(batches):
            boxes = shapely.bounds(shapely.from_wkb(some["geometry"].to_numpy()))
            lowest, highest = (
                np.minimum(lowest, boxes[:, :2].min(axis=0)),
                np.maximum(highest, boxes[:, 2:].max(axis=0)),
            )
            struct = pa.StructArray.from_arrays([*boxes.T], sides)
            writer.write_table(pa.table([*some.columns, struct], boxed))
        column = {
            "encoding": "WKB", "geometry_types": ["Polygon"],
            "crs": pyproj.CRS.from_user_input(crs).to_json_dict(),
            "covering": {"bbox": {side: ["bbox", side] for side in sides}},
        }  # fmt: skip
        if np.isfinite(lowest).all():
            column["bbox"] = [*lowest.tolist(), *highest.tolist()]
        geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
        writer.add_key_value_metadata({"geo": json.dumps(geo)})


def _in_groups(batches: "Iterable[pa.RecordBatch]") -> "Iterator[pa.Table]":
    """Tables of about as many rows as a reader is to take at a time."""
    import pyarrow as pa

    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(map(len, waiting)) >= GROUP:
            yield pa.Table.from_batches(waiting)
            waiting = []
    if waiting:
        yield pa.Table.from_batches(waiting)


def _options(driver: str, key: str | None = None) -> dict[str, str]:
    if driver == "GeoJSON":
        return {"RFC7946": "YES"} | ({"ID_FIELD": key} if key else {})
    return {}


def _write_style(path: Path, layer: str, style: str) -> None:
    """Add the table in which QGIS looks for the style of a layer of a GeoPackage."""
    import pandas as pd

    columns = {
        "f_table_catalog": "", "f_table_schema": "", "f_table_name": layer, "f_geometry_column": "geom",
        "styleName": layer, "styleQML": style, "styleSLD": "", "useAsDefault": True, "description": "", "owner": "",
        "ui": "", "update_time": pd.Timestamp(WRITING["OGR_CURRENT_DATE"]),
    }  # fmt: skip
    table = pd.DataFrame({name: [value] for name, value in columns.items()})
    pyogrio.write_dataframe(table, path, driver="GPKG", layer="layer_styles", append=True, layer_options={"FID": "id"})


def _not_written(path: Path, reason: str) -> OutputError:
    advice = "Free space or choose another folder, then run again."
    return OutputError(path, f"not written ({reason})", "a writable folder with space left", advice)
