"""Vector files out: complete or not at all, the same bytes for the same features."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roofkit.artifacts import committed
from roofkit.errors import OutputError, SettingsError

if TYPE_CHECKING:
    import geopandas as gpd

DRIVERS = {".gpkg": "GPKG", ".geojson": "GeoJSON", ".fgb": "FlatGeobuf", ".parquet": "Parquet"}
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


def write_features(path: Path, features: "gpd.GeoDataFrame", *, key: str | None = None, style: str = "") -> None:
    """Write a GeoDataFrame by its suffix; GeoJSON is written in EPSG:4326, as RFC 7946 asks.

    Args:
        path: The file. Its layer has its name.
        features: What to write.
        key: The column that tells features apart: in GeoJSON their id.
        style: How QGIS is to draw a GeoPackage of them, as QML.

    Raises:
        SettingsError: A suffix that is not in `DRIVERS`.
        OutputError: The disk is full, the folder not writable, or the file does not read back with all features.
    """
    from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, FieldError, GeometryError

    from roofkit.ogr import pyogrio

    check_suffix(path)
    driver = DRIVERS[path.suffix.lower()]
    with committed(path) as part:
        try:
            if driver == "Parquet":
                features.to_parquet(part, compression="zstd", write_covering_bbox=True)
                return
            pyogrio.set_gdal_config_options(WRITING)
            pyogrio.write_dataframe(
                *_prepared(features, driver), part, driver=driver, layer=path.stem, **_options(features, driver, key)
            )
            if style and driver == "GPKG":
                _write_style(part, path.stem, style)
            found = pyogrio.read_info(part, layer=0, force_feature_count=True)["features"]
        except (DataLayerError, DataSourceError, FeatureError, FieldError, GeometryError) as error:
            raise _not_written(path, str(error)) from error
        finally:
            pyogrio.set_gdal_config_options(dict.fromkeys(WRITING))
        if found != len(features):
            raise _not_written(path, f"{found} of {len(features)} features came back")


def _prepared(features: "gpd.GeoDataFrame", driver: str) -> "tuple[gpd.GeoDataFrame]":
    return (features.to_crs("EPSG:4326") if driver == "GeoJSON" and features.crs is not None else features,)


def _options(features: "gpd.GeoDataFrame", driver: str, key: str | None) -> dict[str, Any]:
    if driver == "GeoJSON":
        return {"RFC7946": "YES"} | ({"ID_FIELD": key} if key else {})
    several = bool((features.geom_type == "MultiPolygon").any())
    return {"geometry_type": "MultiPolygon" if several else "Polygon"}  # a layer holds one kind: all become the former


def _write_style(path: Path, layer: str, style: str) -> None:
    """Add the table in which QGIS looks for the style of a layer of a GeoPackage."""
    import pandas as pd

    from roofkit.ogr import pyogrio

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
