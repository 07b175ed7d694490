import json
import shutil
import struct
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pytest
import shapely
from imagery import real

from roofkit.errors import BadInputError, MismatchError, MissingInputError, SettingsError
from roofkit.label_files import label_files
from roofkit.label_sql import names_in
from roofkit.labels import open_labels, polygons_of, read_labels, reproject

METAL = "\"roof:material\" IN ('tin','metal')"
SQUARE = [[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]
MATERIALS = ["tin", "metal", "concrete", None]


def ring_wkb(*rings: Any) -> bytes:
    """A polygon in WKB whose rings may be open."""
    points = [struct.pack("<I", len(ring)) + b"".join(struct.pack("<dd", *point) for point in ring) for ring in rings]
    return struct.pack("<BII", 1, 3, len(rings)) + b"".join(points)


def write_geojson(path: Path, geometries: list[Any], **members: Any) -> Path:
    features = [{"type": "Feature", "properties": {"n": i}, "geometry": g} for i, g in enumerate(geometries)]
    path.write_text(json.dumps({"type": "FeatureCollection", **members, "features": features}), encoding="utf-8")
    return path


def polygon(ring: Any) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [ring]}


@pytest.fixture
def roofs() -> gpd.GeoDataFrame:
    """Four squares, one of each material, at x = 0, 2, 4, 6."""
    boxes = [shapely.box(x, 0, x + 1, 1) for x in (0, 2, 4, 6)]
    return gpd.GeoDataFrame({"roof:material": MATERIALS, "size": [1, 2, 3, 4]}, geometry=boxes, crs="EPSG:4326")


def write(roofs: gpd.GeoDataFrame, path: Path) -> Path:
    if path.suffix == ".parquet":
        roofs.to_parquet(path)
    elif path.suffix == ".shp":
        roofs.rename(columns={"roof:material": "material"}).to_file(path)
    else:
        roofs.to_file(path)
    return path


SUFFIXES = (".gpkg", ".geojson", ".json", ".fgb", ".parquet")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_where_and_ignore_select_in_every_format(roofs, tmp_path, suffix):
    labels = read_labels(write(roofs, tmp_path / f"r{suffix}"), where=METAL, ignore='"roof:material" IS NULL')
    assert sorted(labels.roofs.geometry.bounds.minx) == [0, 2]
    assert labels.ignored.geometry.bounds.minx.tolist() == [6]
    assert (labels.features, labels.selected, labels.repaired, labels.dropped) == (4, 2, 0, ())
    assert labels.crs == "EPSG:4326"
    assert labels.unused is None


def test_shapefile(roofs, tmp_path):
    labels = read_labels(write(roofs, tmp_path / "r.shp"), where="material = 'tin' OR size > 3")
    assert sorted(labels.roofs.geometry.bounds.minx) == [0, 6]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_without_where_all_are_roofs_but_those_ignored(roofs, tmp_path, suffix):
    path = write(roofs, tmp_path / f"r{suffix}")
    assert len(read_labels(path).roofs) == 4
    labels = read_labels(path, ignore='"roof:material" IS NULL')
    assert (len(labels.roofs), len(labels.ignored)) == (3, 1)


def test_a_roof_wins_over_ignore(roofs, tmp_path):
    labels = read_labels(write(roofs, tmp_path / "r.gpkg"), where=METAL, ignore="size < 4")
    assert sorted(labels.roofs.geometry.bounds.minx) == [0, 2]
    assert labels.ignored.geometry.bounds.minx.tolist() == [4]


def test_unused_material_is_told(roofs, tmp_path):
    path = write(roofs, tmp_path / "r.gpkg")
    assert read_labels(path).unused == '"roof:material" holds tin (1), metal (1), concrete (1), NULL (1)'
    roofs["roof:material"] = "tin"
    assert read_labels(write(roofs, tmp_path / "one.gpkg")).unused is None


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_unknown_column(roofs, tmp_path, suffix):
    path = write(roofs, tmp_path / f"r{suffix}")
    nearest = r'mask_args.where: .*no column "roof:mat".*"roof:material", "size".*nearest: "roof:material"'
    with pytest.raises(SettingsError, match=nearest):
        read_labels(path, where="\"roof:mat\" = 'tin'")
    with pytest.raises(SettingsError, match=r'mask_args.ignore: .*no column "sise".*nearest: "size"'):
        read_labels(path, ignore="sise = 3")
    with pytest.raises(SettingsError, match=r'nearest: "roof:material".*double quotes'):
        read_labels(path, where="roof:material = 'tin'")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("sql", ['"roof:material" IN (', "1=1); DROP TABLE r; --", "size = = 3"])
def test_wrong_sql(roofs, tmp_path, suffix, sql):
    with pytest.raises(SettingsError, match=r"mask_args.where: |no column"):
        read_labels(write(roofs, tmp_path / f"r{suffix}"), where=sql)


def test_nothing_selected_shows_the_values(roofs, tmp_path):
    held = r'selects none of 4 features.*"roof:material" holds tin \(1\), metal \(1\), concrete \(1\), NULL \(1\)'
    with pytest.raises(SettingsError, match=held):
        read_labels(write(roofs, tmp_path / "r.gpkg"), where="\"roof:material\" = 'gold'")


def test_at_most_eight_values_are_shown(tmp_path):
    many = gpd.GeoDataFrame({"m": [f"v{i}" for i in range(11)]}, geometry=[shapely.box(0, 0, 1, 1)] * 11, crs=4326)
    with pytest.raises(SettingsError, match=r"v7 \(1\), 3 more"):
        read_labels(write(many, tmp_path / "r.gpkg"), where="m = 'x'")


def test_layers(roofs, tmp_path):
    path = tmp_path / "two.gpkg"
    roofs.to_file(path, layer="old")
    roofs[:2].to_file(path, layer="new")
    pyogrio.write_dataframe(pd.DataFrame({"a": [1]}), path, layer="table")
    assert read_labels(path, layer="new").features == 2
    with pytest.raises(SettingsError, match=r"2 layers; expected one of the layers 'old', 'new'"):
        read_labels(path)
    with pytest.raises(SettingsError, match=r"no layer 'nwe'; expected one of the layers 'old', 'new'"):
        read_labels(path, layer="nwe")


def test_one_broken_ring_costs_one_named_feature(tmp_path):
    bowtie = [[0, 0], [1, 1], [1, 0], [0, 1], [0, 0]]
    shapes = [
        polygon(SQUARE), polygon([[0, 0], [1, 1]]), polygon([[0, 0]]), polygon([]), polygon(SQUARE[:-1]),
        polygon(bowtie), None, {"type": "Point", "coordinates": [0, 0]},
        {"type": "LineString", "coordinates": [[0, 0], [1, 1]]}, polygon([[0, 0], [float("nan"), 0], [1, 1], [0, 0]]),
        polygon([[0, 0], ["x", 0], [1, 1], [0, 0]]), "rubbish",
        {"type": "GeometryCollection", "geometries": [polygon(SQUARE), {"type": "Point", "coordinates": [0, 0]}]},
    ]  # fmt: skip
    labels = read_labels(write_geojson(tmp_path / "r.geojson", shapes))
    assert labels.roofs["id"].tolist() == [f"feature {i}" for i in (0, 4, 5, 12)]
    assert shapely.area(labels.roofs.geometry.to_numpy()).tolist() == [1, 1, 0.5, 1]
    assert labels.roofs.geometry.is_valid.all()
    assert (labels.features, labels.selected, labels.repaired) == (13, 13, 3)
    assert labels.dropped == (
        "feature 1 (a polygon without area)", "feature 2 (a broken ring)", "feature 3 (an empty geometry)",
        "feature 6 (no geometry)", "feature 7 (a Point)", "feature 8 (a LineString)",
        "feature 9 (coordinates that are no numbers)", "feature 10 (no geometry)", "feature 11 (no geometry)",
    )  # fmt: skip


def test_polygons_of_closes_rings_and_keeps_holes():
    hole = [(1, 1), (2, 1), (2, 2)]
    wkb = [ring_wkb([(0, 0), (4, 0), (4, 4), (0, 4)], hole), None, b"junk", shapely.to_wkb(shapely.Point(1, 2))]
    shapes, repaired, problem = polygons_of(wkb)
    assert shapes[0].area == 15.5
    assert shapes[1:].tolist() == [None, None, None]
    assert repaired.tolist() == [True, False, False, False]
    assert problem.tolist() == ["", "no geometry", "a broken ring", "a Point"]


def test_polygons_of_drops_height_and_far_coordinates():
    high = shapely.Polygon([(0, 0, 5), (1, 0, 5), (1, 1, 5)])
    shapes, repaired, problem = polygons_of([shapely.to_wkb(high), shapely.to_wkb(shapely.box(0, 0, 1e300, 1e300))])
    assert not shapes[0].has_z
    assert not repaired.any()
    assert problem[1] == "coordinates that are no numbers"


def test_nothing_but_broken_features(tmp_path):
    with pytest.raises(BadInputError, match=r"none of 1 features holds a polygon .*feature 0 \(no geometry\)"):
        read_labels(write_geojson(tmp_path / "r.geojson", [None]))


@pytest.mark.filterwarnings("ignore:'crs' was not provided")
def test_crs(roofs, tmp_path):
    assert read_labels(write_geojson(tmp_path / "null.geojson", [polygon(SQUARE)], crs=None)).crs == "EPSG:4326"
    bare = roofs.set_crs(None, allow_override=True)
    for name in ("r.gpkg", "r.fgb", "r.parquet"):
        with pytest.raises(BadInputError, match="no CRS; expected labels that say where they lie"):
            read_labels(write(bare, tmp_path / name))
    shape = write(roofs, tmp_path / "r.shp")
    shape.with_suffix(".prj").unlink()
    with pytest.raises(BadInputError, match=r"no CRS.*Put its \.prj beside it"):
        read_labels(shape)


def test_reproject_leaves_out_what_has_no_place(roofs, tmp_path):
    far = gpd.GeoDataFrame(
        {"id": ["a", "b"]}, geometry=[shapely.box(84, 26, 85, 27), shapely.box(0, 89, 1, 90)], crs=4326
    )
    moved = reproject(far, gpd.GeoSeries(crs="EPSG:32644").crs, tmp_path)
    assert "a" in moved["id"].tolist()
    assert np.isfinite(moved.geometry.bounds.to_numpy()).all()
    local = gpd.GeoSeries(crs='LOCAL_CS["somewhere",UNIT["metre",1]]').crs
    with pytest.raises(MismatchError, match="no way from WGS 84 to somewhere"):
        reproject(far, local, tmp_path)


VRT = '<OGRVRTDataSource><OGRVRTLayer name="r"><SrcDataSource>{}</SrcDataSource></OGRVRTLayer></OGRVRTDataSource>'


@pytest.mark.parametrize("suffix", [".shp", ".geojson", ".json", ".gpkg", ".fgb", ".parquet"])
def test_disguised_files_are_not_opened(roofs, tmp_path, suffix):
    secret = write(roofs, tmp_path / "secret.gpkg")
    pipeline = json.dumps({"type": "gdal_streamed_alg", "command_line": f"gdal vector pipeline ! read {secret}"})
    for content in (VRT.format(secret), "WFS:http://localhost:1/", pipeline, "", "[1, 2]"):
        path = tmp_path / f"r{suffix}"
        path.write_text(content, encoding="utf-8")
        with pytest.raises(BadInputError, match=r"r\.\w+: (begins with|0 bytes|not readable)"):
            read_labels(path)


@pytest.mark.parametrize("suffix", [".geojson", ".gpkg", ".fgb", ".parquet", ".shp"])
def test_files_cut_off(roofs, tmp_path, suffix):
    path = write(pd.concat([roofs] * 200, ignore_index=True), tmp_path / f"r{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    with pytest.raises(BadInputError, match=r"not readable|cut off"):
        read_labels(path)


def test_other_bad_files(roofs, tmp_path):
    with pytest.raises(MissingInputError, match="no such file or folder"):
        read_labels(tmp_path / "none.gpkg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingInputError, match="no roof polygons"):
        read_labels(tmp_path / "empty")
    text = tmp_path / "r.txt"
    text.write_text("x")
    with pytest.raises(BadInputError, match=r"a \.txt file; expected one of \.gpkg"):
        label_files(text)
    with pytest.raises(BadInputError, match="no feature at all"):
        read_labels(write_geojson(tmp_path / "none.geojson", []))
    pyogrio.write_dataframe(pd.DataFrame({"a": [1]}), tmp_path / "table.gpkg")
    with pytest.raises(BadInputError, match="no layer with geometry"):
        read_labels(tmp_path / "table.gpkg")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "plain.parquet")
    with pytest.raises(BadInputError, match="not readable as GeoParquet"):
        read_labels(tmp_path / "plain.parquet")
    sqlite = tmp_path / "r.gpkg"
    pyogrio.write_dataframe(roofs, tmp_path / "r.sqlite", driver="SQLite")
    shutil.move(tmp_path / "r.sqlite", sqlite)
    with pytest.raises(BadInputError, match=r"expected a GPKG file|a SQLite file"):
        read_labels(sqlite)


def test_a_folder_is_read_as_one(roofs, tmp_path):
    folder = tmp_path / "labels"
    folder.mkdir()
    write(roofs[:2], folder / "a.geojson")
    write(roofs[2:].to_crs("EPSG:3857").drop(columns="size"), folder / "b.gpkg")
    write_geojson(folder / "c.geojson", [])
    write_geojson(folder / "d.geojson", [polygon(SQUARE), None])
    labels = read_labels(folder, where="\"roof:material\" = 'concrete' OR size = 1 OR n = 1")
    assert labels.roofs["id"].tolist() == ["a.geojson feature 0", "b.gpkg feature 1"]
    assert labels.dropped == ("d.geojson feature 1 (no geometry)",)
    assert labels.features == 6
    np.testing.assert_allclose(labels.roofs.geometry.bounds.minx, [0, 4], atol=1e-9)


def test_parquet_with_nested_columns(roofs, tmp_path):
    roofs["tags"] = [{"a": 1}, None, {"a": 2}, None]
    path = write(roofs, tmp_path / "r.parquet")
    assert len(read_labels(path, where="tags IS NOT NULL").roofs) == 2


def test_names_in():
    assert names_in("\"a:b\" IN ('x \"y\"', 'it''s') AND lower(c) LIKE 'd%' OR e IS NOT NULL") == (["a:b"], ["c", "e"])


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("sql", ["size IN (1, 4)", METAL, "fid = 2", "size > 1 AND fid < 7"])
def test_batches_change_nothing(monkeypatch, roofs, tmp_path, suffix, sql):
    path = write(pd.concat([roofs] * 3, ignore_index=True).assign(size=range(12)), tmp_path / f"r{suffix}")
    found = []
    for batch in (100, 5):
        monkeypatch.setattr("roofkit.label_files.BATCH", batch)
        labels = read_labels(path, where=sql, ignore="size < 9")
        found.append((labels.roofs["id"].tolist(), labels.ignored["id"].tolist(), labels.features, labels.selected))
    assert found[0] == found[1]
    assert found[0][2] == 12


def test_a_stream_counts_while_it_is_gone_through(monkeypatch, roofs, tmp_path):
    monkeypatch.setattr("roofkit.label_files.BATCH", 3)
    roofs.loc[1, "geometry"] = None
    stream = open_labels(write(roofs, tmp_path / "r.gpkg"), ignore="size = 4")
    for _ in range(2):
        batches = list(stream)
        assert [batch.names for batch in batches] == [["feature 1", "feature 3"], ["feature 4"]]
        assert [batch.roof.tolist() for batch in batches] == [[True, True], [False]]
        assert (stream.features, stream.selected, stream.ignored, stream.repaired) == (4, 3, 1, 0)
        assert stream.dropped == ["feature 2 (no geometry)"]


def test_all_ignored(roofs, tmp_path):
    with pytest.raises(SettingsError, match=r"mask_args.ignore: selects all 4 features of .*; expected some left"):
        read_labels(write(roofs, tmp_path / "r.gpkg"), ignore="1 = 1")


@pytest.mark.parametrize("suffix", [".geojson", ".fgb", ".json"])
def test_conditions_on_the_geometry(roofs, tmp_path, suffix):
    roofs.loc[2, "geometry"] = shapely.box(4, 0, 6, 1)
    labels = read_labels(write(roofs, tmp_path / f"r{suffix}"), where="OGR_GEOM_AREA > 1.5")
    assert shapely.area(labels.roofs.geometry.to_numpy()).tolist() == [2]


def test_arcs_become_lines(tmp_path):
    circle = struct.pack("<BIIBII", 1, 10, 1, 1, 8, 5)  # a CURVEPOLYGON of one CIRCULARSTRING
    circle += struct.pack("<10d", 0, 0, 1, 1, 2, 0, 1, -1, 0, 0)
    table = pa.table({"geometry": [shapely.to_wkb(shapely.box(0, 0, 1, 1)), circle], "n": [1, 2]})
    options = dict(driver="GPKG", geometry_name="geometry", geometry_type="Unknown", crs="EPSG:4326")
    pyogrio.raw.write_arrow(table, tmp_path / "r.gpkg", **options)
    areas = shapely.area(read_labels(tmp_path / "r.gpkg").roofs.geometry.to_numpy())
    assert areas.tolist() == pytest.approx([1, np.pi], rel=1e-3)
    geo = {"primary_column": "geometry", "columns": {"geometry": {"encoding": "WKB"}}}
    pq.write_table(table.replace_schema_metadata({"geo": json.dumps(geo)}), tmp_path / "r.parquet")
    assert read_labels(tmp_path / "r.parquet").dropped == ("feature 1 (no geometry)",)


def test_parquet_of_another_encoding(roofs, tmp_path):
    roofs.to_parquet(tmp_path / "r.parquet", geometry_encoding="geoarrow")
    assert read_labels(tmp_path / "r.parquet", where="size = 3").roofs.geometry.bounds.minx.tolist() == [4]


def test_columns_of_several_files(roofs, tmp_path):
    folder = tmp_path / "labels"
    folder.mkdir()
    write(roofs.assign(flag=[True, False, True, False], code=[1, 2, 3, 4]), folder / "a.parquet")
    write(roofs.assign(code=["1", "x", "y", "z"]), folder / "b.gpkg")
    write(roofs.assign(size=[1.5, 2.5, 3.5, 4.5]), folder / "c.fgb")
    ids = {sql: read_labels(folder, where=sql).roofs["id"].tolist() for sql in (
        "flag = 'True'", "code = '1'", "size > 3 AND size < 4", "code IS NULL AND size < 2", "fid = 4",
    )}  # fmt: skip
    assert list(ids.values()) == [
        ["a.parquet feature 0", "a.parquet feature 2"], ["a.parquet feature 0", "b.gpkg feature 1"],
        [name for name in ids["size > 3 AND size < 4"] if name.startswith("c.fgb")],
        ids["code IS NULL AND size < 2"], ["b.gpkg feature 1"],
    ]  # fmt: skip
    assert len(ids["size > 3 AND size < 4"]) == len(ids["code IS NULL AND size < 2"]) == 1
    whole = write(roofs.assign(flag=[True, False, True, False]), tmp_path / "r.parquet")
    assert read_labels(whole, where="flag = 1").roofs["id"].tolist() == ["feature 0", "feature 2"]


def test_real_roofs():
    labels = read_labels(real("banepa/labels/roofs.geojson"), where=METAL, ignore='"roof:material" IS NULL')
    assert (labels.features, labels.selected, len(labels.ignored), labels.dropped) == (1070, 384, 119, ())


def test_real_folder_with_empty_files():
    folder = real("spacenet1_rio/vectorData/geoJson")
    labels = read_labels(folder, where="building = 'yes'")
    assert labels.features == labels.selected == 119
    assert len(label_files(folder)) == 10
