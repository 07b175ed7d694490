"""Writing features: formats, equal bytes, nothing half-written."""

import geopandas as gpd
import pyogrio
import pytest
import shapely

from roofkit.errors import OutputError, SettingsError
from roofkit.vectors import safe_names, write_features


@pytest.fixture
def features():
    boxes = [shapely.box(735000 + x, 2960000, 735005 + x, 2960010) for x in (0, 20)]
    return gpd.GeoDataFrame({"material": ["metal", "tile"]}, geometry=boxes, crs="EPSG:32644")


@pytest.mark.parametrize("name", ["a.gpkg", "a.geojson", "a.fgb", "a.parquet"])
def test_round_trip_and_equal_bytes(features, tmp_path, name):
    for folder in ("one", "two"):
        write_features(tmp_path / folder / name, features)
    path = tmp_path / "one" / name
    assert path.read_bytes() == (tmp_path / "two" / name).read_bytes()
    found = gpd.read_parquet(path) if name.endswith("parquet") else gpd.read_file(path)
    assert sorted(found["material"]) == ["metal", "tile"]
    assert found.to_crs("EPSG:32644").area.sum() == pytest.approx(100, rel=1e-3)  # GeoJSON keeps centimetres
    assert [p.name for p in path.parent.iterdir()] == [name]


def test_gdal_makes_no_index_beside_the_file(features, tmp_path, monkeypatch):
    seen, option = [], "OGR_GPKG_ALLOW_THREADED_RTREE"
    write = pyogrio.write_dataframe

    def watched(*args, **options):
        seen.append(pyogrio.get_gdal_config_option(option))
        write(*args, **options)

    monkeypatch.setattr(pyogrio, "write_dataframe", watched)
    write_features(tmp_path / "a.gpkg", features)
    assert seen == ["NO"]
    assert pyogrio.get_gdal_config_option(option) is None


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


@pytest.mark.parametrize("error", ["FieldError", "FeatureError", "DataLayerError", "GeometryError"])
def test_any_failure_of_the_driver_is_one_line(error, features, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise getattr(pyogrio.errors, error)("database or disk is full")

    monkeypatch.setattr(pyogrio, "write_dataframe", fail)
    with pytest.raises(OutputError, match="disk is full"):
        write_features(tmp_path / "a.gpkg", features)
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


def test_a_failing_driver_is_one_line(features, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise pyogrio.errors.DataSourceError("disk I/O error")

    monkeypatch.setattr(pyogrio, "write_dataframe", fail)
    with pytest.raises(OutputError, match=r"a\.gpkg: not written \(disk I/O error\)"):
        write_features(tmp_path / "a.gpkg", features)
