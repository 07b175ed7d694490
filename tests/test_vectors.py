"""Writing features: formats, equal bytes, nothing half-written."""

import contextlib
import json
import sqlite3
import subprocess
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import geopandas as gpd
import pyarrow as pa
import pyarrow.parquet
import pyogrio
import pyproj
import pytest
import shapely

from roofkit.display import footprint_style
from roofkit.errors import OutputError, SettingsError
from roofkit.label_files import open_label_file
from roofkit.vectors import safe_names, write_batches, write_features

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def features():
    boxes = [shapely.box(735000 + x, 2960000, 735005 + x, 2960010) for x in (0, 20)]
    return gpd.GeoDataFrame({"material": ["metal", "tile"]}, geometry=boxes, crs="EPSG:32644")


def write_in_batches(path, features):
    columns = {name: pa.array(features[name].tolist(), pa.string()) for name in features.columns.drop("geometry")}
    table = pa.table({**columns, "geometry": pa.array(features.geometry.to_wkb(), pa.binary())})
    batches = (table.slice(row, 1).to_batches()[0] for row in range(len(table)))
    write_batches(path, batches, table.schema, features.crs, key="material", style=footprint_style())


@pytest.mark.parametrize("write", [write_features, write_in_batches])
@pytest.mark.parametrize("name", ["a.gpkg", "a.geojson", "a.fgb", "a.parquet"])
def test_round_trip_and_equal_bytes(features, tmp_path, name, write):
    for folder in ("one", "two"):
        write(tmp_path / folder / name, features)
    path = tmp_path / "one" / name
    assert path.read_bytes() == (tmp_path / "two" / name).read_bytes()
    found = gpd.read_parquet(path) if name.endswith("parquet") else gpd.read_file(path, layer="a")
    materials = found["id" if write == write_in_batches and name == "a.geojson" else "material"]
    assert sorted(materials) == ["metal", "tile"]
    assert found.to_crs("EPSG:32644").area.sum() == pytest.approx(100, rel=1e-3)  # GeoJSON keeps centimetres
    assert [p.name for p in path.parent.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.gpkg", "a.geojson", "a.fgb", "a.parquet"])
def test_both_ways_write_the_same_features(features, tmp_path, name):
    for folder, write in (("a", write_features), ("b", write_in_batches)):
        write(tmp_path / folder / name, features)
    if name == "a.geojson":
        one, other = (json.loads((tmp_path / folder / name).read_text()) for folder in "ab")
        assert [f["geometry"] for f in one["features"]] == [f["geometry"] for f in other["features"]]
        return
    read = gpd.read_parquet if name == "a.parquet" else partial(gpd.read_file, layer="a")
    one, other = (read(tmp_path / folder / name) for folder in "ab")
    assert one.equals(other)
    assert one.crs == other.crs


WRITERS = [(write_features, pyogrio, "write_dataframe"), (write_in_batches, pyogrio.raw, "write_arrow")]


@pytest.mark.parametrize(("write", "module", "name"), WRITERS)
def test_gdal_makes_no_index_beside_the_file(write, module, name, features, tmp_path, monkeypatch):
    seen, option = [], "OGR_GPKG_ALLOW_THREADED_RTREE"
    driver = getattr(module, name)

    def watched(*args, **options):
        seen.append(pyogrio.get_gdal_config_option(option))
        driver(*args, **options)

    monkeypatch.setattr(module, name, watched)
    write(tmp_path / "a.gpkg", features)
    assert seen == ["NO"]
    assert pyogrio.get_gdal_config_option(option) is None


def test_qgis_finds_its_style_in_a_geopackage(features, tmp_path):
    for folder in ("one", "two"):
        write_in_batches(tmp_path / folder / "roofs.gpkg", features)
    path = tmp_path / "one" / "roofs.gpkg"
    assert path.read_bytes() == (tmp_path / "two" / "roofs.gpkg").read_bytes()
    assert pyogrio.list_layers(path).tolist() == [["roofs", "Polygon"], ["layer_styles", None]]
    with contextlib.closing(sqlite3.connect(path)) as file:
        columns = "f_table_catalog, f_table_schema, f_table_name, f_geometry_column, useAsDefault, styleQML"
        [row] = file.execute(f"SELECT {columns} FROM layer_styles").fetchall()
        [geometry] = file.execute("SELECT table_name, column_name FROM gpkg_geometry_columns").fetchall()
        [kind] = file.execute("SELECT data_type FROM gpkg_contents WHERE table_name = 'layer_styles'").fetchall()
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert row[:5] == ("", "", *geometry, 1)
    assert kind == ("attributes",)
    renderer = ElementTree.fromstring(row[5].partition("\n")[2]).find("renderer-v2")
    ranges = [(float(r.get("lower")), float(r.get("upper")), r.get("symbol")) for r in renderer.iter("range")]
    assert (ranges[0][0], ranges[-1][1]) == (0, 1)
    assert all(before[1] == after[0] for before, after in pairwise(ranges))
    assert [r[2] for r in ranges] == [symbol.get("name") for symbol in renderer.iter("symbol")]
    assert open_label_file(path, None).features == 2  # the other table is none of polygons


def test_a_geopackage_has_its_index_beside_tensorflow(features, tmp_path):
    """TensorFlow's SQLite has none, and GDAL says nothing; so what reads and writes polygons is loaded first."""
    features.to_file(tmp_path / "in.geojson")
    script = (
        "import sys\n"
        "from unet.backend import start_keras; start_keras()\n"
        "import geopandas; from pathlib import Path; from roofkit.vectors import write_features\n"
        "write_features(Path(sys.argv[2]), geopandas.read_file(sys.argv[1]))\n"
    )
    line = [sys.executable, "-c", script, str(tmp_path / "in.geojson"), str(tmp_path / "a.gpkg")]
    subprocess.run(line, check=True, cwd=ROOT)
    with contextlib.closing(sqlite3.connect(tmp_path / "a.gpkg")) as file:
        assert file.execute("SELECT count(*) FROM rtree_a_geom").fetchall() == [(2,)]


def test_geojson_as_rfc_7946_has_it(features, tmp_path):
    clockwise = features.set_geometry(features.geometry.reverse())
    for folder, table in (("a", features), ("b", clockwise)):
        write_in_batches(tmp_path / folder / "x.geojson", table)
        document = json.loads((tmp_path / folder / "x.geojson").read_text())
        assert "crs" not in document
        assert [feature["id"] for feature in document["features"]] == ["metal", "tile"]
        for feature in document["features"]:
            [ring] = feature["geometry"]["coordinates"]
            assert shapely.LinearRing(ring).is_ccw
            assert all(len(str(number).partition(".")[2]) <= 7 for point in ring for number in point)
    assert gpd.read_file(tmp_path / "a" / "x.geojson")["id"].tolist() == ["metal", "tile"]


@pytest.mark.parametrize("write", [write_features, write_in_batches])
def test_geoparquet_has_the_metadata_that_it_should(write, features, tmp_path, monkeypatch):
    monkeypatch.setattr("roofkit.vectors.GROUP", 1)
    write(tmp_path / "a.parquet", features)
    schema = pyarrow.parquet.read_schema(tmp_path / "a.parquet")
    geo = json.loads(schema.metadata[b"geo"])
    assert geo["version"] in ("1.0.0", "1.1.0")
    column = geo["columns"][geo["primary_column"]]
    assert (column["encoding"], column["geometry_types"]) == ("WKB", ["Polygon"])
    assert pyproj.CRS.from_json_dict(column["crs"]).to_epsg() == 32644
    assert column["bbox"] == features.total_bounds.tolist()
    assert column.get("edges", "planar") == "planar"
    assert {name for name, _ in column["covering"]["bbox"].values()} <= set(schema.names)
    assert geo["version"] == "1.1.0"  # of which the covering is
    back = gpd.read_parquet(tmp_path / "a.parquet")
    assert back.drop(columns="bbox", errors="ignore").equals(features)


@pytest.mark.parametrize("name", ["a.gpkg", "a.geojson", "a.fgb", "a.parquet"])
def test_nothing_is_a_layer_of_polygons_without_one(features, tmp_path, name):
    write_in_batches(tmp_path / name, features[:0])
    found = gpd.read_parquet(tmp_path / name) if name == "a.parquet" else gpd.read_file(tmp_path / name, layer="a")
    assert len(found) == 0
    assert found.crs.to_epsg() == (4326 if name == "a.geojson" else 32644)


@pytest.mark.parametrize("name", ["a.gpkg", "a.geojson", "a.fgb", "a.parquet"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OutputError("b", "not written", "space", "Free some.")])
def test_what_ends_the_batches_is_raised_as_it_is(features, tmp_path, name, error):
    table = pa.table({"material": ["metal"], "geometry": pa.array(features.geometry[:1].to_wkb(), pa.binary())})

    def batches():
        yield from table.to_batches()
        raise error

    with pytest.raises(type(error)) as found:
        write_batches(tmp_path / name, batches(), table.schema, features.crs, key="material", style="")
    assert found.value is error
    assert list(tmp_path.iterdir()) == []


def test_geojson_is_longitude_latitude(features, tmp_path):
    write_features(tmp_path / "a.geojson", features)
    left, bottom, _, _ = gpd.read_file(tmp_path / "a.geojson").total_bounds
    assert (round(left), round(bottom)) == (83, 27)


def test_the_layer_has_the_files_name(features, tmp_path):
    write_features(tmp_path / "roofs.gpkg", features)
    assert pyogrio.list_layers(tmp_path / "roofs.gpkg")[0].tolist() == ["roofs", "Polygon"]


def test_several_parts_survive_in_a_layer_that_allows_them(features, tmp_path):
    both = shapely.MultiPolygon(features.geometry.tolist())
    table = gpd.GeoDataFrame({"m": ["x", None], "none": [None, None]}, geometry=[both, both.geoms[0]], crs=features.crs)
    write_features(tmp_path / "a.gpkg", table)
    assert pyogrio.list_layers(tmp_path / "a.gpkg")[0].tolist() == ["a", "MultiPolygon"]
    found = gpd.read_file(tmp_path / "a.gpkg")
    assert found.area.tolist() == pytest.approx([100, 50])
    assert set(found.columns) == {"m", "none", "geometry"}


def test_names_that_geopackage_cannot_hold_are_changed():
    assert safe_names(["Name", "name", "fid", "NAME_2"]) == {
        "Name": "Name", "name": "name_2", "fid": "fid_2", "NAME_2": "NAME_2_2"
    }  # fmt: skip


ERRORS = ["FieldError", "FeatureError", "DataLayerError", "DataSourceError", "GeometryError"]


@pytest.mark.parametrize(("write", "module", "name"), WRITERS)
@pytest.mark.parametrize("error", ERRORS)
def test_any_failure_of_the_driver_is_one_line(error, write, module, name, features, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise getattr(pyogrio.errors, error)("database or disk is full")

    monkeypatch.setattr(module, name, fail)
    with pytest.raises(OutputError, match=r"a\.gpkg: not written \(database or disk is full\)"):
        write(tmp_path / "a.gpkg", features)
    assert list(tmp_path.iterdir()) == []


def test_another_suffix_is_refused(features, tmp_path):
    with pytest.raises(SettingsError, match=r"a \.txt file; expected one of \.gpkg"):
        write_features(tmp_path / "a.txt", features)


def test_lost_features_are_noticed_and_the_old_file_stays(features, tmp_path, monkeypatch):
    path = tmp_path / "a.gpkg"
    write_features(path, features)
    before = path.read_bytes()
    monkeypatch.setattr(pyogrio, "read_info", lambda *_, **__: {"features": 1})
    with pytest.raises(OutputError, match="1 of 2 features came back"):
        write_features(path, features)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.gpkg"]
