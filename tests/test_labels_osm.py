"""Labels of OpenStreetMap: what a server or a mapper may say that OSMnx does not expect."""

import time

import geopandas as gpd
import osmnx
import pytest
from label_server import labels, osm_server, square, town, way
from test_cog import TOKEN
from web_server import web_server

from download.download import main

pytestmark = pytest.mark.usefixtures("quick")


def houses(**tags):
    """Two buildings; the first has these tags too."""
    nodes = []
    first = way(1, square(83.002, 26.002), nodes, building="yes")
    second = way(2, square(83.004, 26.002), nodes, building="yes")
    first["tags"] |= tags
    return [*nodes, first, second]


@pytest.mark.parametrize("tag", ["id", "element", "geometry", "nodes", "type", "lat", "osm_id", "fid"])
@pytest.mark.parametrize("value", ["B-12", "77"])
def test_no_tag_replaces_what_the_building_is(tag, value, osm, tmp_path):
    osm(houses(**{tag: value}))
    found = labels(tmp_path)
    assert list(found["osm_id"]) == ["way/1", "way/2"]
    assert value in found.drop(columns="geometry").iloc[0].tolist()


@pytest.mark.parametrize(
    "body",
    [b"[]", b"null", b"{}", b'{"elements": null}', b"<html>busy</html>", b"", b'{"elements": [{"type": "way"}]}',
     b'{"elements": [7]}'],
)  # fmt: skip
def test_an_answer_of_something_else_is_not_an_empty_place(body, line, capsys):
    with web_server(routes={"/api/interpreter": lambda h: h.answer(200, body, "text/html")}) as server:
        assert main(line(labels="osm", overpass_url=f"{server.url}/api")) == 1
    errors = [t for t in capsys.readouterr().err.splitlines() if t.startswith("error")]
    assert len(errors) == 1
    assert "no building" not in errors[0]


def test_a_server_that_drips_ends_at_the_deadline(line, capsys):
    def drip(handler):
        handler.close_connection = True
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        for _ in range(300):
            handler.wfile.write(b" ")
            time.sleep(0.1)

    started = time.monotonic()
    with web_server(routes={"/api/interpreter": drip}) as server:
        server.handle_error = lambda *_: None  # the client hangs up
        assert main(line(labels="osm", overpass_url=f"{server.url}/api", deadline=0.5)) == 1
        assert time.monotonic() - started < 10  # all drops take longer than that
    assert "not done in 0.5 s" in capsys.readouterr().err


def test_a_password_in_the_address_is_never_shown(line, capsys):
    empty = {"/api/interpreter": lambda h: h.answer(200, b'{"elements": []}')}
    with web_server(routes=empty) as server:
        address = f"{server.url}/api".replace("//", f"//me:{TOKEN}@")
        for fault in (None, "http://10.0.0.1/api", 400, 403):
            server.faults = [fault]
            assert main(line(labels="osm", overpass_url=address)) == 1
    out, err = capsys.readouterr()
    assert TOKEN not in out + err
    assert len([t for t in err.splitlines() if t.startswith("error")]) == 4


def test_overpass_is_asked_for_whole_seconds(osm):
    assert osm(town(), timeout=0.5).queries[0].startswith("[out:json][timeout:1];")
    assert osm(town(), timeout=7.9).queries[0].startswith("[out:json][timeout:7];")


def test_a_large_area_is_asked_for_in_parts_and_nothing_is_twice(osm, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(osmnx.settings, "max_query_area_size", 300.0**2)
    server = osm(town())
    assert len(server.queries) > 4
    assert list(labels(tmp_path)["osm_id"]) == ["relation/5", "way/3", "way/7"]
    assert "1 buildings are points" in capsys.readouterr().err


def test_the_deadline_is_that_of_one_request_not_of_all_parts(line, monkeypatch):
    monkeypatch.setattr(osmnx.settings, "max_query_area_size", 300.0**2)
    with osm_server(town()) as server:
        server.queries, server.slow = [], 0.1
        assert main(line(labels="osm", overpass_url=f"{server.url}/api", deadline=0.4, retries=0)) == 0
        assert len(server.queries) > 4


def test_settings_are_as_before_after_a_failure(osm):
    import socket

    names = [name for name in vars(osmnx.settings) if not name.startswith("_")]
    before = {name: getattr(osmnx.settings, name) for name in names}, socket.getaddrinfo
    osm(town(), faults=[400], status=1)
    osm(town(), faults=[503] * 9, status=1)
    assert ({name: getattr(osmnx.settings, name) for name in names}, socket.getaddrinfo) == before


def test_what_was_fetched_is_counted(osm, capsys):
    osm(town())
    assert '"fetched_bytes": 0' not in capsys.readouterr().out


def test_several_parts_and_columns_without_values(tmp_path, osm):
    nodes = []
    outers = [way(20 + i, square(x, 26.006), nodes) for i, x in enumerate((83.002, 83.004))]
    members = [{"type": "way", "ref": w["id"], "role": "outer"} for w in outers]
    for outer in outers:
        del outer["tags"]
    both = {"type": "relation", "id": 5, "members": members, "tags": {"type": "multipolygon", "building": "yes"}}
    osm([*nodes, *outers, both])
    found = gpd.read_file(tmp_path / "data/labels/roofs.gpkg")
    assert [len(shape.geoms) for shape in found.geometry] == [2]
