"""Labels of a file: whatever people's files hold comes out whole, and what does not is said."""

import json

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from label_server import labels, square

from download.download import main
from roofkit.labels import read_features

pytestmark = pytest.mark.usefixtures("quick")

ONE, TWO = square(83.002, 26.002), square(83.004, 26.002)


def feature(ring, shape=None, properties=None, **more):
    shape = shape or {"type": "Polygon", "coordinates": [ring]}
    return {"type": "Feature", "properties": (properties or {}) | more, "geometry": shape}


def point(lon, lat):
    return {"type": "Point", "coordinates": [lon, lat]}


@pytest.fixture
def fetched(line, tmp_path):
    """What comes of a GeoJSON file of these features."""

    def run(*features, status=0, **options):
        (tmp_path / "mine.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        assert main([*line(labels="file", labels_file="mine.geojson", **options), "--overwrite"]) == status
        return labels(tmp_path) if status == 0 else None

    return run


@pytest.mark.parametrize(
    ("given", "columns"),
    [
        ([{"Name": "a", "name": "b"}], {"Name": ["a"], "name_2": ["b"]}),
        ([{"fid": 1, "m": "tin"}, {"fid": 1, "m": "tile"}], {"fid_2": [1, 1], "m": ["tin", "tile"]}),
        ([{"fid": "x1"}], {"fid_2": ["x1"]}),
        ([{"geom": "x", "geometry": "y"}], {"geom_2": ["x"], "geometry_2": ["y"]}),
        ([{"osm_id": 7, "roof:material": "tin"}], {"osm_id": [7], "roof:material": ["tin"]}),
        ([{"tags": ["a", "b"], "n": [1, 2]}], {"tags": ['["a", "b"]'], "n": ["[1, 2]"]}),
    ],
)
def test_no_attribute_is_lost(given, columns, fetched):
    rings = [ONE, TWO]
    found = fetched(*(feature(ring, properties=properties) for ring, properties in zip(rings, given)))
    assert {name: found[name].tolist() for name in found.columns if name != "geometry"} == columns


def test_broken_shapes_are_repaired_and_others_are_named(fetched, capsys):
    bowtie = [ONE[0], ONE[2], ONE[1], ONE[3], ONE[0]]
    mixed = {"type": "GeometryCollection", "geometries": [{"type": "Polygon", "coordinates": [TWO]}, point(*TWO[0])]}
    found = fetched(
        feature(ONE[:-1], n=1),
        feature(bowtie, n=2),
        feature(None, mixed, n=3),
        feature(None, point(83.002, 26.002), n=4),
        {"type": "Feature", "properties": {"n": 5}, "geometry": None},
        feature([[*place, 5.0] for place in ONE], n=6),
    )
    assert list(found["n"]) == [1, 2, 3, 6]
    assert found.is_valid.all()
    assert "2 features hold no polygon, left out (the first: feature 3 (a Point))" in capsys.readouterr().err


def test_only_points_is_an_error(fetched, capsys):
    fetched(feature(None, point(83.002, 26.002)), status=1)
    assert "no feature with a polygon" in capsys.readouterr().err


def test_an_edge_along_the_areas_edge_does_not_lose_the_roof(fetched):
    # A building beyond the eastern edge, 83.01, with one arm into the area: the rest touches the edge in a line.
    ring = [
        (83.0095, 26.001),
        (83.0105, 26.001),
        (83.0105, 26.003),
        (83.01, 26.003),
        (83.01, 26.002),
        (83.0095, 26.002),
    ]
    found = fetched(feature([*ring, ring[0]]))
    assert found.geometry[0].equals(shapely.box(83.0095, 26.001, 83.01, 26.002))


def test_parquet_with_several_geometries_and_nested_columns(line, tmp_path):
    shapes = [shapely.Polygon(ONE), shapely.Polygon(TWO)]
    table = gpd.GeoDataFrame(
        {
            "list": [["a"], ["b", "c"]], "object": [{"x": 1}, {"x": 2}], "kind": pd.Categorical(["a", "b"]),
            "day": pd.to_datetime(["2020-01-01", "2021-01-01"]),
        },
        geometry=shapes, crs="EPSG:4326",
    )  # fmt: skip
    table["centre"] = gpd.GeoSeries([shapely.Point(ONE[0]), shapely.Point(TWO[0])], crs="EPSG:4326")
    table.to_parquet(tmp_path / "mine.parquet")
    assert main(line(labels="file", labels_file="mine.parquet")) == 0
    found = labels(tmp_path)
    assert list(found["list"]) == ['["a"]', '["b", "c"]']
    assert json.loads(found["object"][1]) == {"x": 2}
    assert list(found["kind"]) == ["a", "b"]
    assert found["day"][1] == pd.Timestamp("2021-01-01")


def test_a_folder_of_files(line, drawn, tmp_path):
    (tmp_path / "mine").mkdir()
    for i in range(2):
        drawn[i : i + 1].to_file(tmp_path / "mine" / f"{i}.gpkg")
    assert main(line(labels="file", labels_file="mine")) == 0
    assert list(labels(tmp_path)["n"]) == [1, 2]


def test_features_by_hand(drawn, tmp_path):
    drawn.to_file(tmp_path / "a.gpkg")
    found, dropped = read_features(tmp_path / "a.gpkg")
    assert dropped == ()
    assert found.crs == drawn.crs
    assert list(found.columns) == ["material", "n", "geometry"]
    assert np.allclose(found.area, drawn.area)
