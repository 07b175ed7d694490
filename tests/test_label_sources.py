"""Labels: OpenStreetMap, Open Buildings and files, by the real clients from servers on 127.0.0.1."""

import socket

import geopandas as gpd
import osmnx
import pytest
from earth_engine_server import earth_engine
from imagery import real
from label_server import labels, square, town, way
from test_cog import FAULTS, TOKEN
from web_server import web_server

from download.download import main
from roofkit.labels import read_labels
from sources.osm import safe_names

pytestmark = pytest.mark.usefixtures("quick")


def test_safe_names_by_hand():
    assert safe_names(["Name", "fid", "name"]) == {"Name": "Name", "fid": "fid_2", "name": "name_2"}


def test_buildings_with_all_their_tags(osm, tmp_path, capsys):
    lookup, cache = socket.getaddrinfo, osmnx.settings.use_cache
    server = osm(town())
    assert (socket.getaddrinfo, osmnx.settings.use_cache) == (lookup, cache)
    assert len(server.queries) == 1
    assert "building" in server.queries[0]
    assert server.paths == ["/api/interpreter"]
    found = labels(tmp_path)
    assert list(found["osm_id"]) == ["relation/5", "way/3", "way/7"]
    assert list(found["roof:material"].fillna("")) == ["metal", "", "tin"]
    assert found.iloc[2]["Name"] == "b"
    assert found.iloc[2]["name_2"] == "a"
    assert found.iloc[1]["fid_2"] == "9"
    assert (
        len(
            found.geometry[0].geoms[0].interiors
            if found.geom_type[0] == "MultiPolygon"
            else found.geometry[0].interiors
        )
        == 1
    )
    err = capsys.readouterr().err
    assert "1 buildings are points" in err
    assert "© OpenStreetMap contributors" in err
    chosen = read_labels(tmp_path / "data/labels/roofs.gpkg", where="\"roof:material\" IN ('tin','metal')")
    assert len(chosen.roofs) == 2


def test_run_again_asks_nothing_and_gives_the_same_bytes(osm, tmp_path):
    osm(town())
    before = (tmp_path / "data/labels/roofs.gpkg").read_bytes()
    (tmp_path / "data/labels/roofs.gpkg").unlink()
    elements = town()
    osm(elements[::-1])
    again = (tmp_path / "data/labels/roofs.gpkg").read_bytes()
    assert before == again


@pytest.mark.parametrize("fault", [*FAULTS, 504])
def test_faults_that_pass(fault, osm, tmp_path):
    osm(town(), faults=[fault, fault])
    assert len(labels(tmp_path)) == 3


@pytest.mark.parametrize("fault", [400, 401, 403, 404, "http://10.0.0.1/api"])
def test_faults_that_stay_end_at_once_with_one_line(fault, osm, tmp_path, capsys):
    server = osm(town(), faults=[fault] * 9, status=1)
    assert len(server.paths) == 1
    assert len([t for t in capsys.readouterr().err.splitlines() if t.startswith("error")]) == 1
    assert not (tmp_path / "data/labels/roofs.gpkg").exists()


def test_an_answer_in_part_is_an_error(osm, capsys):
    osm(town(), extra={"remark": "runtime error: Query timed out"}, status=1)
    assert "an answer in part (runtime error" in capsys.readouterr().err


def test_no_building(osm, capsys):
    osm([], status=1)
    assert "no building polygon" in capsys.readouterr().err


def test_no_area(line, capsys):
    assert main(line(labels="osm", bbox=None)) == 1
    assert "an area" in capsys.readouterr().err


def test_banepa_as_openstreetmap_has_it(osm, tmp_path):
    table = gpd.read_file(real("banepa/labels/roofs.geojson"))
    nodes, ways = [], []
    table = table.explode()
    for number, (shape, material) in enumerate(zip(table.geometry, table["roof:material"])):
        tags = {"building": "yes"} | ({"roof:material": material} if material else {})
        ways.append(way(number + 1, list(shape.exterior.coords), nodes, **tags))
    osm([*nodes, *ways], bbox=[float(b) for b in table.total_bounds])
    chosen = read_labels(tmp_path / "data/labels/roofs.gpkg", where="\"roof:material\" IN ('tin','metal')")
    assert len(chosen.roofs) == table["roof:material"].isin(["tin", "metal"]).sum() == 384


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".shp", ".parquet", ".fgb"])
def test_a_file_is_clipped(suffix, drawn, line, tmp_path):
    path = tmp_path / f"mine{suffix}"
    if suffix == ".parquet":
        drawn.to_parquet(path)
    else:
        (drawn.to_crs("EPSG:4326") if suffix == ".geojson" else drawn).to_file(path)
    assert main(line(labels="file", labels_file=path.name)) == 0
    found = labels(tmp_path)
    assert list(found["n"]) == [1, 2]
    assert list(found["material"]) == ["tin", "tile"]
    areas = found.to_crs("EPSG:32644").area
    assert areas[1] == pytest.approx(0.4 * areas[0], rel=0.01)
    assert found.to_crs("EPSG:4326").total_bounds[2] <= 83.01 + 1e-6


def test_a_file_by_address(drawn, line, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LABEL_KEY", TOKEN)
    drawn.to_file(tmp_path / "mine.gpkg")
    with web_server({"/x/mine.gpkg": (tmp_path / "mine.gpkg").read_bytes()}, faults=[503, "truncated"]) as server:
        assert main(line(labels="file", labels_file=f"{server.url}/x/mine.gpkg?key=${{LABEL_KEY}}")) == 0
        assert len(labels(tmp_path)) == 2
        server.faults = [403]
        assert main([*line(labels="file", labels_file=f"{server.url}/y.gpkg?key=${{LABEL_KEY}}"), "--overwrite"]) == 1
        server.files["/z.gpkg"] = b"nothing"
        assert main([*line(labels="file", labels_file=f"{server.url}/z.gpkg?key={TOKEN}"), "--overwrite"]) == 1
    out, err = capsys.readouterr()
    assert TOKEN not in out + err
    assert "403" in err
    assert f"{server.url}/z.gpkg" in err


@pytest.mark.parametrize(
    ("name", "words"), [(None, "--labels-file"), ("none.gpkg", "no such file"), ("far.geojson", "no polygon inside")]
)
def test_problems_with_a_file(name, words, drawn, line, tmp_path, capsys):
    drawn[2:].to_crs("EPSG:4326").to_file(tmp_path / "far.geojson")
    assert main(line(labels="file", labels_file=name)) == 1
    err = [t for t in capsys.readouterr().err.splitlines() if t.startswith("error")]
    assert len(err) == 1
    assert words in err[0]


def test_open_buildings(line, tmp_path, make_raster, monkeypatch, capsys):
    import numpy as np

    monkeypatch.setenv("EARTHENGINE_TOKEN", TOKEN)
    features = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [square(x, 26.004)]},
         "properties": {"confidence": 0.8, "area_in_meters": 30.0, "full_plus_code": code}}
        for x, code in ((83.004, "B"), (83.002, "A"), (84.0, "C"))
    ]  # fmt: skip
    raster = make_raster(np.zeros((1, 8, 8), np.uint8))
    with earth_engine(raster, ["b"], features=features) as server:
        assert main(line(labels="open-buildings", ee_url=server.url, project="p")) == 0
        assert list(labels(tmp_path)["full_plus_code"]) == ["A", "B"]
        server.features = []
        assert main([*line(labels="open-buildings", ee_url=server.url, project="p"), "--overwrite"]) == 1
    out, err = capsys.readouterr()
    assert "no building in the area" in err
    assert TOKEN not in out + err


def test_a_file_that_was_edited_is_read_again(drawn, line, tmp_path):
    drawn[:1].to_file(tmp_path / "mine.gpkg")
    assert main(line(labels="file", labels_file="mine.gpkg")) == 0
    assert len(labels(tmp_path)) == 1
    (tmp_path / "mine.gpkg").unlink()
    drawn.to_file(tmp_path / "mine.gpkg")
    assert main(line(labels="file", labels_file="mine.gpkg")) == 0
    assert len(labels(tmp_path)) == 2


def test_what_is_no_building_any_more_is_no_roof(osm, tmp_path):
    nodes = []
    ways = [way(1, square(83.002, 26.002), nodes, building="yes"), way(2, square(83.004, 26.002), nodes, building="no")]
    osm([*nodes, *ways])
    assert list(labels(tmp_path)["osm_id"]) == ["way/1"]
