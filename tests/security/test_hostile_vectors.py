"""The door for vectors: the driver is fixed by what the content is, and nothing in a file leads out of it."""

import json
import sqlite3
import zipfile

import geopandas as gpd
import numpy as np
import pytest
import shapely
from attacks import write_tiff

from roofkit.errors import BadInputError, SettingsError
from roofkit.geopackage import check_geopackage
from roofkit.labels import read_labels
from roofkit.vectors import check_suffix

SQUARE = shapely.box(735000, 2959970, 735030, 2960000)


def roofs(path):
    gpd.GeoDataFrame({"a": [1]}, geometry=[SQUARE], crs=32644).to_file(path, driver="GPKG", layer="roofs")
    return path


def with_sql(path, *statements):
    """A GeoPackage in which SQL was run."""
    with sqlite3.connect(roofs(path)) as file:
        file.execute("PRAGMA writable_schema = ON")
        for statement in statements:
            file.execute(statement)
    return path


def stored(kind, name, sql):
    """A statement that stores another one, which need not run here."""
    quoted = sql.replace("'", "''")
    columns = "type, name, tbl_name, rootpage, sql"
    return f"INSERT INTO sqlite_master ({columns}) VALUES ('{kind}', '{name}', '{name}', 0, '{quoted}')"


def replaced(select):
    """Statements that put a view in the place of the layer."""
    return "ALTER TABLE roofs RENAME TO old", f"CREATE VIEW roofs AS SELECT {select} FROM old"


def refused_ones(folder, secrets, listener):
    """Files to be refused, with words of the line that says so."""

    def vrt(source):
        layer = f'<OGRVRTLayer name="x"><SrcDataSource>{source}</SrcDataSource></OGRVRTLayer>'
        return f"<OGRVRTDataSource>{layer}</OGRVRTDataSource>"

    gml = '<?xml version="1.0"?><gml:FeatureCollection xmlns:gml="http://www.opengis.net/gml"/>'
    kml = f"<kml><Document><NetworkLink><Link><href>{listener}/x</href></Link></NetworkLink></Document></kml>"
    nested = (
        '{"type":"FeatureCollection","features":[{"type":"Feature","geometry":null,"properties":{"a":' + "[" * 99_999
    )
    many = json.dumps({"type": "Feature", "properties": {f"p{i}": i for i in range(6000)},
                       "geometry": shapely.geometry.mapping(SQUARE)})  # fmt: skip
    texts = {
        "a.fgb": (b"fgb " + vrt(secrets.vector).encode(), "begins with"),
        "b.fgb": (b"fgb\x03fgb\x01" + vrt(secrets.vector).encode(), "no header"),
        "c.fgb": (b"fgb\x03fgb\x01" + vrt(f"/vsicurl/{listener}/x.gpkg").encode(), "no header"),
        "d.geojson": (vrt(secrets.vector).encode(), "begins with"),
        "e.gpkg": (vrt(secrets.vector).encode(), "begins with"),
        "f.geojson": (gml.encode(), "begins with"),
        "g.json": (kml.encode(), "begins with"),
        "h.gml": (gml.encode(), "a .gml file"),
        "i.kml": (kml.encode(), "a .kml file"),
        "j.geojson": (nested.encode(), "not readable"),
        "k.geojson": (('{"type":"FeatureCollection","features":[' + many + "]}").encode(), "6,000 attributes"),
        "l.gpkg": (b"SQLite format 3\0" + bytes(200), "not readable"),
        "m.shp": (b"\x00\x00\x27\x0a" + bytes(20) + b"\x7f\xff\xff\xff" + bytes(72), "cut off"),
        "n.parquet": (b"PAR1" + b"\xff" * 40 + b"PAR1", "not readable"),
    }
    for name, (content, _) in texts.items():
        (folder / name).write_bytes(content)
    with zipfile.ZipFile(folder / "o.shp.zip", "w") as archive:
        archive.writestr("../../o.shp", "x")
    pixel = f"gdal_get_pixel_value('{secrets.raster}', 1, 'pixel', 0, 0)"
    other = folder / "p!"
    inner = other / str(secrets.vector).lstrip("/")
    inner.parent.mkdir(parents=True)
    inner.write_bytes(roofs(folder / "plain.gpkg").read_bytes())
    shape = f"CREATE VIRTUAL TABLE x USING VirtualShape('{secrets.vector}', UTF-8, 4326)"
    linked = f"CREATE VIRTUAL TABLE x USING VirtualOGR('{secrets.vector}')"
    return [
        *((folder / name, words) for name, (_, words) in texts.items()),
        (folder / "o.shp.zip", "a .zip file"),
        (inner, "a path with '!'"),
        (with_sql(folder / "q.gpkg", *replaced(f"fid, geom, {pixel} AS a")), "calls what SQLite does not know"),
        (with_sql(folder / "r.gpkg", *replaced("fid, geom, load_extension('/x.so') AS a")), "calls what SQLite"),
        (with_sql(folder / "s.gpkg", stored("table", "x", shape)), "a virtual table of VirtualShape"),
        (with_sql(folder / "t.gpkg", stored("table", "x", linked)), "a virtual table of VirtualOGR"),
        (f"{listener}/x.gpkg", "an address"),
        (f"/vsicurl/{listener}/x.gpkg", ""),
    ]


def test_hostile_vectors_are_refused(tmp_path, secrets, listener, run_cases):
    write_tiff(tmp_path / "frames.tif", np.ones((1, 64, 64), np.uint8))
    cases = refused_ones(tmp_path, secrets, listener)
    assert len(cases) >= 12
    ended = run_cases([("mask", [tmp_path / "frames.tif", path, tmp_path / "out"]) for path, _ in cases])
    for (_, words), how in zip(cases, ended):
        how.check_refused(words)
    assert not list((tmp_path / "out").glob("**/*.tif"))


def test_a_plain_view_is_no_harm(tmp_path):
    """As QGIS and others make them: a layer that selects from another."""
    path = with_sql(tmp_path / "view.gpkg", *replaced("fid, geom, a, upper('x') AS b"))
    check_geopackage(path)


def test_a_computed_column_may_not_call_out(tmp_path, secrets):
    path = tmp_path / "c.gpkg"
    create = "CREATE TABLE x (a INTEGER, b AS (ogr_geocode(a)))"
    with sqlite3.connect(roofs(path)) as file:
        file.execute("CREATE TABLE x (a INTEGER, b AS (upper(a)))")
        file.execute("PRAGMA writable_schema = ON")
        file.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'x'", [create])
    with pytest.raises(BadInputError, match=r"c\.gpkg: (a table that calls|not readable)"):
        read_labels(path)


def test_nothing_is_written_past_an_exclamation_mark(tmp_path):
    with pytest.raises(SettingsError, match="a path with '!'"):
        check_suffix(tmp_path / "a!" / "roofs.gpkg")
